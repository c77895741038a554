"""Facts about the simulated board, from `hw/boards/virtual/board.yaml`."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from residue_sim.boards import find_board

__all__ = ["CARD_VLNV", "Platform", "platform"]

CARD_VLNV = "residue:residue:residue_card:1.0"
"""Vendor, library, name and version of the card as an IP."""


@dataclass(frozen=True)
class Platform:
    """One board: addresses in bytes, as the processor and the card see them.

    Attributes:
        name: board name that PYNQ reports.
        part, package, speed_grade: the device.
        clock_mhz: clock of the card, PL clock 0.
        card_base, card_bytes: window of the card's registers.
        memory_base, memory_bytes: memory shared by processor and card.
    """

    name: str
    part: str
    package: str
    speed_grade: str
    clock_mhz: float
    card_base: int
    card_bytes: int
    memory_base: int
    memory_bytes: int


@functools.cache
def platform() -> Platform:
    """The virtual board."""
    facts = find_board("virtual")
    assert facts.addresses is not None
    part, package, grade, _ = facts.part.split("-")
    return Platform(
        name=facts.title,
        part=part,
        package=package,
        speed_grade=f"-{grade}",
        clock_mhz=facts.clock_mhz,
        card_base=facts.addresses.card_base,
        card_bytes=facts.addresses.card_bytes,
        memory_base=facts.addresses.memory_base,
        memory_bytes=facts.addresses.memory_bytes,
    )
