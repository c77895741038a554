"""Facts about the simulated board, from `hw/boards/virtual/board.yaml`."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import yaml

from residue_sim.manifest import hw_root

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
    text = (hw_root() / "boards" / "virtual" / "board.yaml").read_text()
    return Platform(**yaml.safe_load(text))
