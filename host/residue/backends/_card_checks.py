"""Checking a device's results on the host: by computing some again, or all of them at once.

*Product identities.* For random weights r, results c_i that ought to be f_i satisfy
``prod c_i**r_i = prod f_i**r_i``, and the right-hand side often is cheap: one power for a whole
batch of powers of one base. A wrong c_i differs from f_i by a factor d != 1; it passes only if
``d**r_i`` is what the other factors make up for: for a random odd r_i of 16 bits one time in 2**15
if d has a large order, and never if it is the only wrong one and of order 2. An identity proves
nothing where a product is not invertible (a residue is 0, or shares a factor with the modulus);
results are computed again instead.

Running times depend on residues (GMP's products) and weights; secret exponents meet `pow_sec`, and
sums of products with public weights, alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import gmpy2
import numpy as np
from gmpy2 import mpz
from numpy.typing import NDArray

from residue._limbs import from_limbs
from residue.backends._cpu_kernels import pow_sec
from residue.backends._protocol import Limbs

if TYPE_CHECKING:
    from residue.backends._card_arrays import CardArray

__all__ = [
    "Identity",
    "Proof",
    "multi_pow_identity",
    "multi_pow_sec",
    "pow_fixed_identity",
    "pow_identity",
    "pow_products",
    "prod_identity",
    "product",
]

Ints = list[mpz]
Index = NDArray[np.int64]

_WEIGHT_BITS = 16
_WIDEST = 10


@dataclass(frozen=True)
class Proof:
    """A way to check results.

    Attributes:
        rows: the results it looks at.
        operands: arrays, and the rows of them that it needs.
        holds: whether results, operands, ... are right; None: it cannot tell.
        products: what it costs, in products on the host; a transferred residue counts as one.
    """

    rows: Index
    operands: list[tuple[CardArray, Index]]
    holds: Callable[..., bool | None]
    products: int


@dataclass(frozen=True)
class Identity:
    """A proof of all results at once that is made only when it is the cheapest one."""

    products: int
    make: Callable[[], Proof]


def pow_products(bits: int) -> int:
    """Products of one power with an exponent of `bits` bits, about."""
    return bits + bits // 4


def product(factors: Sequence[mpz], modulus: mpz) -> mpz:
    """Product of residues."""
    result = mpz(1)
    for factor in factors:
        result = result * factor % modulus
    return result


def multi_pow_sec(modulus: mpz, bases: Ints, exponents: Sequence[int], bits: int) -> mpz:
    """``prod_i bases[i] ** exponents[i]`` for ``|e| < 2**bits``; needed inverses exist.

    Exponents are made positive by ``2**bits``, so that GMP's constant-time power takes them; if a
    base has no inverse, signs of exponents are not hidden.
    """
    whole = product(bases, modulus)
    if gmpy2.gcd(whole, modulus) != 1:
        powers = pow_sec(modulus, bases, [mpz(abs(e)) for e in exponents])
        signed = zip(powers, exponents, strict=True)
        return product([gmpy2.invert(y, modulus) if e < 0 else y for y, e in signed], modulus)
    raised = pow_sec(modulus, bases, [mpz(e + (1 << bits)) for e in exponents])
    excess = gmpy2.powmod(whole, 1 << bits, modulus)
    return product([*raised, gmpy2.invert(excess, modulus)], modulus)


def pow_fixed_identity(base: CardArray, exponents: Limbs, bits: int, modulus: mpz) -> Identity:
    """``prod c_i**r_i = base ** (sum r_i e_i)``."""
    n = len(exponents)

    def make() -> Proof:
        weights = _weights(n)
        total = _weighted_sum(from_limbs(exponents), weights)

        def holds(results: Ints, bases: Ints) -> bool | None:
            left = _weighted_product(results, weights, _WEIGHT_BITS, modulus)
            return _equal(left, pow_sec(modulus, bases, [total])[0], modulus)

        return Proof(np.arange(n), [(base, np.zeros(1, np.int64))], holds, cost)

    cost = n + _weighted_cost(n, _WEIGHT_BITS) + pow_products(bits + _WEIGHT_BITS)
    return Identity(cost, make)


def pow_identity(a: CardArray, exponent: mpz, bits: int, modulus: mpz) -> Identity:
    """``prod c_i**r_i = (prod a_i**r_i) ** e`` for an exponent that all share."""
    n = len(a)

    def make() -> Proof:
        weights = _weights(n)

        def holds(results: Ints, bases: Ints) -> bool | None:
            left = _weighted_product(results, weights, _WEIGHT_BITS, modulus)
            right = _weighted_product(bases, weights, _WEIGHT_BITS, modulus)
            return _equal(left, pow_sec(modulus, [right], [exponent])[0], modulus)

        return Proof(np.arange(n), [(a, np.arange(n))], holds, cost)

    cost = 2 * (n + _weighted_cost(n, _WEIGHT_BITS)) + pow_products(bits)
    return Identity(cost, make)


def prod_identity(a: CardArray, index: Index, offsets: Index, modulus: mpz) -> Identity:
    """``prod_s c_s**r_s = prod_i a_i ** (sum of r_s over the segments s that use i)``."""
    n = len(offsets) - 1
    bits = _WEIGHT_BITS + len(index).bit_length()

    def make() -> Proof:
        weights = _weights(n)
        # Sums below 2**53 are exact: an index that long does not fit a memory.
        uses = np.bincount(index, np.repeat(weights, np.diff(offsets)), len(a))
        used = np.flatnonzero(uses)
        sums = uses[used].astype(np.int64)

        def holds(results: Ints, factors: Ints) -> bool | None:
            left = _weighted_product(results, weights, _WEIGHT_BITS, modulus)
            right = _weighted_product(factors, sums, int(sums.max(initial=1)).bit_length(), modulus)
            return _equal(left, right, modulus)

        return Proof(np.arange(n), [(a, used)], holds, cost)

    cost = n + len(a) + _weighted_cost(n, _WEIGHT_BITS) + _weighted_cost(len(a), bits)
    return Identity(cost, make)


def multi_pow_identity(a: CardArray, exponents: Index, bits: int, modulus: mpz) -> Identity:
    """``prod_j c_j**r_j = prod_i a_i ** (sum_j r_j E_ij)``."""
    n, m = exponents.shape
    widest = bits + _WEIGHT_BITS + m.bit_length()

    def make() -> Proof:
        weights = _weights(m)
        sums = (exponents.astype(object) @ weights.astype(object)).tolist()

        def holds(results: Ints, bases: Ints) -> bool | None:
            left = _weighted_product(results, weights, _WEIGHT_BITS, modulus)
            right = multi_pow_sec(modulus, bases, sums, widest)
            return _equal(left, right, modulus)

        return Proof(np.arange(m), [(a, np.arange(n))], holds, cost)

    cost = n + m + n * pow_products(widest) + _weighted_cost(m, _WEIGHT_BITS)
    return Identity(cost, make)


def _weights(n: int) -> Index:
    """Odd numbers below ``2**_WEIGHT_BITS`` that no device can foresee."""
    return np.frombuffer(os.urandom(2 * n), "<u2").astype(np.int64) | 1


def _weighted_sum(values: Ints, weights: Index) -> mpz:
    return sum((v * w for v, w in zip(values, weights.tolist(), strict=True)), mpz(0))


def _equal(left: mpz, right: mpz, modulus: mpz) -> bool | None:
    if left != right:
        return False
    return True if gmpy2.gcd(left, modulus) == 1 else None


def _window(n: int, bits: int) -> int:
    return min(range(1, _WIDEST + 1), key=lambda w: -(-bits // w) * (n + (2 << w)))


def _weighted_cost(n: int, bits: int) -> int:
    w = _window(n, bits)
    return -(-bits // w) * (n + (2 << w) + w)


def _weighted_product(values: Ints, weights: Index, bits: int, modulus: mpz) -> mpz:
    """``prod values[i] ** weights[i]`` for public weights below ``2**bits``, by buckets."""
    w = _window(len(values), bits)
    result = mpz(1)
    for position in reversed(range(-(-bits // w))):
        for _ in range(w):
            result = result * result % modulus
        buckets = [mpz(1)] * (1 << w)
        digits = weights >> (position * w) & ((1 << w) - 1)
        for value, digit in zip(values, digits.tolist(), strict=True):
            buckets[digit] = buckets[digit] * value % modulus
        running = mpz(1)
        for bucket in reversed(buckets[1:]):
            running = running * bucket % modulus
            result = result * running % modulus
    return result
