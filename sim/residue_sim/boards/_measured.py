"""What the projections rest on: `docs/boards/measured.json`, and how it is measured anew."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from residue_sim.boards._facts import BoardError, board_names, find_board
from residue_sim.manifest import Configuration, configurations, hw_root

__all__ = ["MODULUS_BITS", "Measured", "docs_root", "measure", "measured", "ring_name"]

MODULUS_BITS = (1024, 2048, 3072, 4096, 6144)
"""Moduli of 1024-, 2048- and 3072-bit keys: n^2, and p^2 and q^2."""

_EXPONENT_BITS = 64
_BATCH = 2
"""Turns of all contexts that a measurement of utilisation takes."""


@dataclass(frozen=True)
class Measured:
    """Measurements in simulation.

    Attributes:
        ring_cycles: cycles per product of a full ring, by `ring_name` and bits of the modulus.
        utilisation: fraction of an operation's cycles in which the rings were full.
        utilisation_of: the configuration whose whole card was simulated for it.
    """

    ring_cycles: Mapping[str, Mapping[str, float]]
    utilisation: Mapping[str, float]
    utilisation_of: str

    def cycles(self, config: Configuration, modulus_bits: int) -> float:
        """Ring cycles per product.

        Raises:
            BoardError: this ring was not measured.
        """
        try:
            return self.ring_cycles[ring_name(config)][str(modulus_bits)]
        except KeyError as error:
            raise BoardError(
                f"no measured cycles of ring {ring_name(config)} at {modulus_bits} bits: run "
                "residue board measure"
            ) from error


def docs_root() -> Path:
    """`docs/boards` of this checkout."""
    return hw_root().parent / "docs" / "boards"


def ring_name(config: Configuration) -> str:
    """What a ring's cycles depend on: kind of element, digit width, number of elements."""
    return f"{config.element}-{config.word_bits}-{config.elements}"


@functools.cache
def measured() -> Measured:
    """The committed measurements."""
    return Measured(**json.loads((docs_root() / "measured.json").read_text(encoding="utf-8")))


def measure(utilisation_of: str | None = None) -> Measured:
    """Measure every board's ring; and utilisation on a simulated card, if one is named.

    Takes minutes: builds each ring in Verilator, and the whole card.
    """
    from residue_sim._report import ring_cycles

    rings: dict[str, dict[str, float]] = {}
    for name in board_names():
        config = find_board(name).config
        sizes = [bits for bits in MODULUS_BITS if bits <= config.max_modulus_bits]
        rings[ring_name(config)] = {str(bits): ring_cycles(config, bits) for bits in sizes}
    if utilisation_of is None:
        return replace(measured(), ring_cycles=rings)
    return Measured(rings, _utilisation(configurations()[utilisation_of]), utilisation_of)


def _utilisation(config: Configuration) -> dict[str, float]:
    """Busy share of the rings in operations of two turns of all contexts."""
    from residue.backends._card import CardBackend
    from residue_sim.board import Board, InProcess

    bits = config.max_modulus_bits // 2
    count = _BATCH * config.rings * config.contexts
    backend = CardBackend(InProcess(Board(config.name)), check_rate=0.0, timeout=600)
    try:
        modulus = backend.register((1 << bits) - 1)
        rng = np.random.default_rng(1)
        a = backend.upload(modulus, rng.integers(1, 2**63, (count, modulus.limbs), np.uint64))
        base = backend.take(a, np.zeros(1, np.int64))
        e = rng.integers(0, 2**63, (count, _EXPONENT_BITS // 64), np.uint64)
        backend.pow_fixed(base, e, _EXPONENT_BITS).wait()  # builds the table
        backend.reset_stats()
        numbers = rng.integers(1, 2**63, (count, modulus.limbs), np.uint64)
        backend.mul(a, backend.upload(modulus, numbers)).wait()
        backend.pow(a, e, _EXPONENT_BITS).wait()
        backend.pow_fixed(base, e, _EXPONENT_BITS).wait()
        stats = backend.stats()
    finally:
        backend.close()
    return {
        name: round(stats[name].busy_slots / stats[name].device_cycles / config.rings, 4)
        for name in ("mul", "pow", "pow_fixed", "upload")
    }
