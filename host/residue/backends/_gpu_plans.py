"""What the host works out for the kernels: windows, moduli, pieces of products."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from residue.backends._gpu_build import Shape

__all__ = [
    "WIDEST",
    "GpuMachine",
    "PowerPlan",
    "StrausPlan",
    "block_words",
    "comb_window",
    "cut",
    "modulus_block",
    "one_at",
    "power_plan",
    "square_cost",
    "straus_plan",
]

WIDEST = 7
_PIECE = 16  # factors that one group multiplies in a row


# --- moduli: N, R^2 mod N, R mod N, and -1/N mod 2^32 for each thread -----------------------------


def block_words(shape: Shape) -> int:
    """32-bit words of a modulus as the kernels read it."""
    return 3 * shape.words + shape.threads


def one_at(shape: Shape) -> int:
    """Byte offset of R mod N, which stands for 1, in there."""
    return 2 * shape.words * 4


def modulus_block(shape: Shape, modulus: int) -> NDArray[np.uint32]:
    """``(block_words,) uint32``: an odd modulus below R = ``2 ** (32 * words)``."""
    r = 1 << (32 * shape.words)
    numbers = shape.spread([modulus, r * r % modulus, r % modulus]).ravel()
    inverse = np.full(shape.threads, -pow(modulus, -1, 1 << 32) % (1 << 32), np.uint32)
    return np.concatenate([numbers, inverse])


# --- windows: the fewest products, a table read as a whole being 2^window / 2L of one -------------


def _reading(window: int, words: int) -> float:
    """A product takes 4 L multiplications a limb, a table's entry two operations a limb."""
    return (1 << window) / (2 * words)


def square_cost(shape: Shape) -> float:
    """Multiply-adds of a squaring, as a fraction of a product's 2 T K^2 a thread.

    Blocks of K limbs in T threads: each pair once, the squares of blocks by halves, the reduction.
    """
    threads, limbs = shape.threads, shape.limbs
    if limbs not in (6, 8):
        return 1.0
    return (1.5 * threads + 0.5 + 0.5 / limbs) / (2 * threads)


@dataclass(frozen=True)
class PowerPlan:
    """A window, and the products that a power with it takes."""

    bits: int
    window: int
    products: int


def power_plan(bits: int, shape: Shape) -> PowerPlan:
    """The plan of a power with exponents of `bits` bits."""

    squaring = square_cost(shape)

    def products(window: int, square: float = 1) -> float:
        rows = -(-bits // window)
        return (1 << window) - 2 + (rows - 1) * (window * square + 1)

    def cost(window: int) -> float:
        return products(window, squaring) + -(-bits // window) * _reading(window, shape.words)

    window = min(range(1, WIDEST + 1), key=cost)
    return PowerPlan(bits, window, int(products(window)))


def comb_window(words: int) -> int:
    """Window of comb tables: the least work for a bit of the exponent, whatever their number.

    A table is built by as many groups as it has rows, once.
    """
    return min(range(1, WIDEST + 1), key=lambda w: (1 + _reading(w, words)) / w)


@dataclass(frozen=True)
class StrausPlan:
    """Simultaneous powers of some bases.

    Attributes:
        window: bits of a digit.
        share: bases that one group multiplies for one output.
        shares: groups an output.
        products: modular products of all, those that join the shares left out.
    """

    window: int
    share: int
    shares: int
    products: int


def straus_plan(bases: int, outputs: int, bits: int, shape: Shape, slots: int) -> StrausPlan:
    """As many shares as keep `slots` groups busy, and the window with the fewest products."""
    share = -(-bases // min(bases, max(1, slots // outputs)))
    shares = -(-bases // share)

    squaring = square_cost(shape)

    def products(window: int, square: float = 1) -> float:
        rows = -(-bits // window)
        tables = bases * ((1 << window) - 2)
        return tables + outputs * shares * rows * (window * square + share)

    def cost(window: int) -> float:
        reads = outputs * bases * -(-bits // window)
        return products(window, squaring) + reads * _reading(window, shape.words)

    window = min(range(1, WIDEST + 1), key=cost)
    return StrausPlan(window, share, shares, int(products(window)))


@dataclass(frozen=True)
class GpuMachine:
    """A GPU at work on a modulus, as `residue.backends._cards` plans with it.

    Attributes:
        shape: of the numbers.
        rings: multiprocessors.
        fill: groups that one of those holds at once.
    """

    shape: Shape
    rings: int
    fill: int

    def multi_pow_plan(
        self, bases: int, outputs: int, bits: int, *, buckets: bool
    ) -> tuple[bool, int]:
        """Never by buckets; and the window."""
        plan = straus_plan(bases, outputs, bits, self.shape, self.rings * self.fill)
        return False, plan.window


# --- products -------------------------------------------------------------------------------------


def cut(offsets: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Segments in pieces of at most 16 factors, at least one piece each.

    Returns:
        pieces of every segment ``(segments,)``, and where they begin ``(pieces + 1,)``.
    """
    pieces = np.maximum(1, -(-np.diff(offsets) // _PIECE))
    segment = np.repeat(np.arange(len(pieces)), pieces)
    within = np.arange(len(segment)) - (np.cumsum(pieces) - pieces)[segment]
    starts = offsets[segment] + _PIECE * within
    return pieces, np.append(starts, offsets[-1]).astype(np.int64)
