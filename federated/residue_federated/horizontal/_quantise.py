"""Updates and statistics as integers that a secure sum can carry.

A secure sum adds vectors of signed integers of `bits` bits, one vector a client. A coordinate of an
update takes one integer. A number whose range is not known beforehand (a row count, a loss, the sum
of a column) is wide: a fixed-point number of 128 bits, cut into as many integers as it takes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["WIDE_LIMIT", "FixedPoint", "decode_wide", "encode_wide", "wide_integers"]

_WIDE_BITS = 128
_WIDE_FRACTION = 64
WIDE_LIMIT = 2.0 ** (_WIDE_BITS - _WIDE_FRACTION - 1)
"""Wide numbers are below it in magnitude; their step is ``2**-64``."""


@dataclass(frozen=True)
class FixedPoint:
    """Symmetric fixed-point numbers: ``x ~ q * clip / limit`` with ``|q| <= limit``.

    bits: size of q, sign included. clip: largest magnitude of x.
    """

    bits: int
    clip: float

    @property
    def limit(self) -> int:
        """Largest q."""
        return int(2 ** (self.bits - 1) - 1)

    def encode(self, x: NDArray[np.float64]) -> tuple[NDArray[np.int64], int]:
        """Integers of finite numbers, and how many numbers had to be cut to ``[-clip, clip]``."""
        cut = np.clip(x, -self.clip, self.clip)
        q = np.rint(cut * (self.limit / self.clip)).astype(np.int64)
        return q, int(np.count_nonzero(cut != x))

    def decode(self, q: NDArray[np.int64]) -> NDArray[np.float64]:
        """The numbers that a sum of integers stands for."""
        return np.asarray(q * (self.clip / self.limit))


def wide_integers(bits: int) -> int:
    """How many integers of `bits` bits a wide number takes."""
    return -(-_WIDE_BITS // (bits - 1))


def encode_wide(x: NDArray[np.float64], bits: int) -> NDArray[np.int64]:
    """Wide numbers as integers of `bits` bits, digits of base ``2**(bits - 1)``.

    Args:
        x: ``(n,) float64``, finite and below `WIDE_LIMIT` in magnitude.
        bits: size of an integer, sign included.

    Returns:
        ``(n * wide_integers(bits),) int64``: digits not negative but for each number's highest.
    """
    if not bool(np.all(np.abs(x) < WIDE_LIMIT)):  # NaN is not
        raise OverflowError(f"a number is not below {WIDE_LIMIT:g} in magnitude")
    count, width = wide_integers(bits), bits - 1
    digits = np.empty((len(x), count), dtype=np.int64)
    for i, value in enumerate(x.tolist()):
        fixed = round(math.ldexp(value, _WIDE_FRACTION))
        for j in range(count - 1):
            digits[i, j] = fixed & ((1 << width) - 1)
            fixed >>= width
        digits[i, -1] = fixed
    return digits.ravel()


def decode_wide(sums: NDArray[np.int64], bits: int) -> NDArray[np.float64]:
    """The sums of wide numbers, from the sums of their digits: exact, then rounded to float64."""
    digits = sums.reshape(-1, wide_integers(bits)).tolist()
    return np.array(
        [
            sum(digit << j * (bits - 1) for j, digit in enumerate(row)) / 2**_WIDE_FRACTION
            for row in digits
        ]
    )
