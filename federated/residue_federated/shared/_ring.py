"""Additive shares: integers modulo ``2**bits``, as numpy arrays of Python integers.

Two parties share a number v when they hold s and t with ``s + t = v`` modulo ``2**bits``; a signed
v is far below half the modulus. Sums and multiples by public integers are computed on each share
alone. Memory and messages hold shares as 32-bit words, little-endian.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["WORD_BITS", "Integers", "Ring", "integers", "shifted_right"]

WORD_BITS = 32

Integers = NDArray[np.object_]
"""Python integers."""


def integers(values: Any) -> Integers:
    """An object array of Python integers."""
    return np.array(values, dtype=object)


def shifted_right(shares: Integers, bits: int, *, lead: bool) -> Integers:
    """Shares over the integers of ``v / 2**bits``, off by less than 1, from such shares of v.

    lead: whether these are the shares of the party whose numbers are not negative.
    """
    return np.asarray(shares >> bits if lead else -(-shares >> bits))


@dataclass(frozen=True)
class Ring:
    """Integers modulo ``2**bits``, bits a multiple of `WORD_BITS`."""

    bits: int

    def reduced(self, values: Integers) -> Integers:
        """Representatives from 0 to below the modulus."""
        return np.asarray(values & ((1 << self.bits) - 1))

    def centred(self, values: Integers) -> Integers:
        """Representatives from minus half the modulus to below half of it."""
        half = 1 << (self.bits - 1)
        return np.asarray(self.reduced(values + half) - half)

    def over_integers(self, shares: Integers, *, lead: bool) -> Integers:
        """Shares without a modulus: the lead's as they are, the other's less the modulus.

        Their sum is v itself if the shares wrap, which uniform ones do but with a probability of
        ``abs(v) / 2**bits`` (P. Mohassel and Y. Zhang, "SecureML", IEEE S&P 2017, theorem 1).
        """
        return shares if lead else shares - (1 << self.bits)

    def truncated(self, shares: Integers, bits: int, *, lead: bool) -> Integers:
        """Shares over the integers of ``v / 2**bits``, off by at most 1; see `over_integers`."""
        return shifted_right(self.over_integers(shares, lead=lead), bits, lead=lead)

    def words(self, values: Integers) -> NDArray[np.uint32]:
        """``(..., bits / 32)`` words of ``(...)`` reduced integers."""
        width = self.bits // 8
        raw = b"".join([v.to_bytes(width, "little") for v in values.ravel().tolist()])
        return np.frombuffer(raw, "<u4").reshape(*values.shape, self.bits // WORD_BITS)

    def of_words(self, words: NDArray[np.uint32]) -> Integers:
        """The integers that `words` made these of."""
        places = [1 << k for k in range(0, self.bits, WORD_BITS)]
        return np.asarray(integers(words) @ integers(places))

    def product(self, matrix: NDArray[np.int64], shares: Integers) -> Integers:
        """``matrix @ s`` of every ``(k,)`` row s of ``(..., k)`` shares: ``(..., n)``, reduced.

        matrix: ``(n, k) int64``, below ``2**24`` in magnitude, k below ``2**23``: with digits of 16
        bits its sums stay below ``2**63``.
        """
        digits = self.words(shares).view("<u2").astype(np.int64)
        sums = integers(matrix @ digits)
        return self.reduced(sums @ integers([1 << k for k in range(0, self.bits, 16)]))
