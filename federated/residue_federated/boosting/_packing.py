"""Gradients and curvatures as integers, two in a plaintext, and sums of them, many in a plaintext.

A row's gradient is ``q_g = round(g * 2**g_shift)``, ``|q_g| <= 2**bits``, its curvature
``q_h = round(h * 2**h_shift)``, ``1 <= q_h <= 2**bits``; the shifts fit the round's largest. The
row's plaintext is ``(q_g + 2**bits) << h_width | q_h``: both parts are non-negative, and wide
enough for the sum over all rows of the round, so that a sum of plaintexts is the plaintext of the
sums. Sums of whole plaintexts are packed in turn, `slots` of them side by side.

After "SecureBoost+" (Chen et al., 2021). Row counts of sums are not packed along: the guest learns
them either way, so a host sends them in the clear, and empty sums not at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import residue
from residue.paillier import BOUND_STEP, side_by_side

__all__ = ["MAX_SUM_BITS", "Format", "Quantised", "quantise"]

MAX_SUM_BITS = 53
"""Sums stay below ``2**53``: exact as float64."""

_HEADROOM = BOUND_STEP + 12
"""Bits left free: bounds of packed sums are coarser than these are, by at most so much."""

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Quantised:
    """g, h: ``(outputs, rows) int64``; the numbers times ``2**g_shift`` and ``2**h_shift``."""

    g: Ints
    h: Ints
    g_shift: int
    h_shift: int


def quantise(g: NDArray[np.float64], h: NDArray[np.float64], bits: int) -> Quantised:
    """Gradients and curvatures, both ``(outputs, rows)``, as integers of `bits` bits."""
    g_shift, h_shift = (
        bits - int(np.frexp(np.abs(values).max(initial=0.0))[1]) for values in (g, h)
    )
    q_g = np.rint(np.ldexp(g, g_shift)).astype(np.int64)
    q_h = np.maximum(np.rint(np.ldexp(h, h_shift)).astype(np.int64), 1)
    return Quantised(q_g, q_h, g_shift, h_shift)


@dataclass(frozen=True)
class Format:
    """bits: of a row's numbers. rows: how many a sum has at most. slots: sums a plaintext."""

    bits: int
    rows: int
    slots: int

    @classmethod
    def plan(cls, bits: int, rows: int, key: residue.PublicKey) -> Format:
        """As many slots as the key has room for, at least one."""
        one = cls(bits, rows, 1)
        return cls(bits, rows, max(1, (key.max_mantissa.bit_length() - _HEADROOM) // one.width))

    @property
    def h_width(self) -> int:
        """Bits of a sum of curvatures."""
        return (self.rows << self.bits).bit_length()

    @property
    def width(self) -> int:
        """Bits of a sum of plaintexts."""
        return self.h_width + (self.rows << (self.bits + 1)).bit_length()

    @property
    def row_bits(self) -> int:
        """Bits of a row's plaintext."""
        return self.bits + 2 + self.h_width

    def groups(self, sums: int) -> int:
        """Ciphertexts that so many sums are packed into."""
        return -(-sums // self.slots)

    def plaintexts(self, g: Ints, h: Ints) -> NDArray[Any]:
        """The plaintexts of rows' integers, any shape, as Python integers."""
        shifted = (g + (1 << self.bits)).astype(object) << self.h_width
        return np.asarray(shifted + h.astype(object))

    def pack(self, sums: residue.CiphertextArray) -> residue.CiphertextArray:
        """``(n,)`` sums, n at least 1, in ``(groups(n),)`` ciphertexts.

        Laid out as `residue.paillier.side_by_side` says.
        """
        return side_by_side(sums, self.width, self.slots)

    def unpack(self, plaintexts: NDArray[Any], counts: Ints) -> tuple[Ints, Ints]:
        """Sums of gradients and of curvatures, ``(n,) int64`` each, over `counts` rows each.

        Args:
            plaintexts: ``(groups(n),)`` Python integers.
            counts: ``(n,)``, 1 or more.

        Raises `ValueError` where a plaintext is no packed sum over so many rows.
        """
        used = -(-len(counts) // len(plaintexts))
        if (plaintexts >> used * self.width).any():  # of a negative one, -1 is left
            raise ValueError("a plaintext is out of range")
        shifts = (np.arange(used) * self.width).astype(object)
        slots = (plaintexts[None] >> shifts[:, None]) & ((1 << self.width) - 1)
        flat = slots.ravel()[: len(counts)]
        g = (flat >> self.h_width).astype(np.int64) - (counts << self.bits)
        h = (flat & ((1 << self.h_width) - 1)).astype(np.int64)
        if (np.abs(g) > counts << self.bits).any() or (h < counts).any():
            raise ValueError("a sum of gradients or curvatures is out of range")
        if (h > counts << self.bits).any():
            raise ValueError("a sum of curvatures is out of range")
        return g, h
