"""Golden model of the card's arithmetic, in Python integers.

Montgomery multiplication in radix ``2^V`` modulo ``N~ = N * (-N^-1 mod 2^V)``. As
``N~ = -1 mod 2^V`` a quotient digit is the low word itself, and with ``M = (N~ + 1) / 2^V`` one
step is ``u = t + a*b_i``, ``q = u mod 2^V``, ``t' = (u >> V) + q*M``. With ``a, b < 2*N~``
and ``4*N~ < 2^(V*words)`` every ``t`` stays below ``3*N~`` and the result below ``2*N~``.

Memory holds digits of W bits; a ring takes words of ``V = g*W`` bits, g digits each (g = 1 with
schoolbook elements, 2 with Karatsuba elements).

>>> ctx = Montgomery.of(modulus=(1 << 127) - 1, word_bits=51, elements=2)
>>> (ctx.k, ctx.passes, ctx.steps)
(4, 2, 4)
>>> product = ctx.multiply(ctx.enter(12345), ctx.enter(67890))
>>> ctx.leave(product) == 12345 * 67890
True
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["Montgomery", "digit_count", "from_words", "to_words"]


def digit_count(modulus_bits: int, word_bits: int, digits_per_word: int = 1) -> int:
    """Digits ``k`` of a residue: the least even number of whole ring words of ``V`` bits with
    ``W*k >= bits + V + 2``.
    """
    ring_bits = word_bits * digits_per_word
    k = -(-(modulus_bits + ring_bits + 2) // ring_bits) * digits_per_word
    return k + k % 2


def to_words(value: int, word_bits: int, count: int) -> list[int]:
    """Split ``0 <= value < 2^(word_bits*count)`` into words, least significant first."""
    if value < 0 or value >> (word_bits * count):
        raise ValueError(f"a value of {value.bit_length()} bits does not fit {count} words")
    mask = (1 << word_bits) - 1
    return [(value >> (word_bits * j)) & mask for j in range(count)]


def from_words(words: Iterable[int], word_bits: int) -> int:
    """Join words (or redundant digits of any size), least significant first."""
    return sum(word << (word_bits * j) for j, word in enumerate(words))


@dataclass(frozen=True)
class Montgomery:
    """One modulus on a ring of `elements` processing elements.

    Attributes:
        modulus: ``N``, odd, at least 3.
        word_bits: ``W``, bits of a digit in memory.
        elements: ``P``.
        k: digits of a residue, even.
        n0inv: ``-N^-1 mod 2^V``.
        n_tilde: ``N~ = N * n0inv``.
        m: ``M = (N~ + 1) / 2^V``.
        digits_per_word: ``g``; ``V = g*W``.
    """

    modulus: int
    word_bits: int
    elements: int
    k: int
    n0inv: int
    n_tilde: int
    m: int
    digits_per_word: int = 1

    @classmethod
    def of(
        cls,
        modulus: int,
        word_bits: int = 51,
        elements: int = 21,
        k: int | None = None,
        digits_per_word: int = 1,
    ) -> Montgomery:
        """Constants of an odd modulus; a larger (even) `k` than needed may be given.

        Raises:
            ValueError: modulus even or below 3, or `k` too small for it.
        """
        if modulus < 3 or modulus % 2 == 0:
            raise ValueError("the modulus must be odd and at least 3")
        least = digit_count(modulus.bit_length(), word_bits, digits_per_word)
        k = least if k is None else k
        if k < least or k % 2:
            raise ValueError(f"k must be even and at least {least}, not {k}")
        ring_bits = word_bits * digits_per_word
        base = 1 << ring_bits
        n0inv = -pow(modulus, -1, base) % base
        n_tilde = modulus * n0inv
        m = (n_tilde + 1) >> ring_bits
        return cls(modulus, word_bits, elements, k, n0inv, n_tilde, m, digits_per_word)

    @property
    def ring_bits(self) -> int:
        """``V = g*W``, bits of a ring word."""
        return self.word_bits * self.digits_per_word

    @property
    def ring_words(self) -> int:
        """Ring words of a residue: ``k / g``."""
        return self.k // self.digits_per_word

    @property
    def passes(self) -> int:
        """Passes of one product through the ring: ceil(ring words / P)."""
        return -(-self.ring_words // self.elements)

    @property
    def steps(self) -> int:
        """Steps ``D = passes * P`` of one product; those past the words of b use a zero word."""
        return self.passes * self.elements

    @property
    def slots(self) -> int:
        """Cycles ``S = max(ring words, P) + 1`` that one pass occupies the ring of the card.

        The ring itself needs ``max(words + 1, P)``; reading b takes one more where P > words.
        """
        return max(self.ring_words, self.elements) + 1

    @property
    def r(self) -> int:
        """``R = 2^(V*D)``."""
        return 1 << (self.ring_bits * self.steps)

    @property
    def r_squared(self) -> int:
        """``R^2 mod N~``, the factor that takes a residue into Montgomery form."""
        return pow(self.r, 2, self.n_tilde)

    @property
    def one(self) -> int:
        """``R mod N~``, one in Montgomery form."""
        return self.r % self.n_tilde

    def step(self, t: int, a: int, word: int) -> int:
        """One processing element: ``(t + a*word + q*N~) / 2^V``."""
        u = t + a * word
        q = u & ((1 << self.ring_bits) - 1)
        return (u >> self.ring_bits) + q * self.m

    def multiply(self, a: int, b: int) -> int:
        """``a*b/R mod N~`` as the ring computes it, below ``2*N~`` for ``a, b < 2*N~``."""
        t = 0
        for word in to_words(b, self.ring_bits, self.steps):
            t = self.step(t, a, word)
        return t

    def enter(self, x: int) -> int:
        """``x*R`` modulo N~, in ``[0, 2*N~)``, for ``0 <= x < 2*N~``."""
        return self.multiply(x, self.r_squared)

    def canonical(self, v: int) -> int:
        """The exit unit: ``v / 2^V mod N`` in ``[0, N)``, for ``0 <= v <= 2^V * N``."""
        q = v * self.n0inv % (1 << self.ring_bits)
        y = (v + q * self.modulus) >> self.ring_bits
        return y - self.modulus if y >= self.modulus else y

    def leave(self, x: int) -> int:
        """Canonical ``x/R mod N``: the product with the integer ``2^V``, then the exit unit."""
        return self.canonical(self.multiply(x, 1 << self.ring_bits))

    def block(self) -> list[int]:
        """The modulus block of docs/card-abi.md: ``4 + 5*k`` 64-bit words."""
        rows = (self.m, self.modulus, self.r_squared, self.one, 1 << self.ring_bits)
        words = [word for row in rows for word in to_words(row, self.word_bits, self.k)]
        inverse = to_words(self.n0inv, self.word_bits, 2)
        return [self.k, *inverse, 0, *words]
