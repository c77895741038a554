"""Inner loops of the CPU backend on gmpy2 integers.

Names end in `_var` where running time or memory addresses depend on the digits of an exponent:
table and bucket look-ups are indexed by them, and GMP's products are faster for short operands.
The number of products never depends on anything but public sizes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import gmpy2
import numpy as np
from gmpy2 import mpz
from numpy.typing import NDArray

from residue._limbs import from_limbs
from residue.backends._protocol import Limbs

__all__ = [
    "KERNELS",
    "MAX_COMB_WINDOW",
    "CombCache",
    "comb_products",
    "comb_window",
    "inverse_var",
    "multi_pow_plan",
    "multi_pow_var",
    "pow_fixed_var",
    "pow_sec",
    "pow_var",
    "prod",
    "window_digits",
]

Ints = list[mpz]

MAX_COMB_WINDOW = 10  # 52 rows of 1024 residues of 2048 bits: 16 MB, still faster than w = 9
_BASES_PER_TABLE = 1024  # tables of one pass of Straus' method stay within the last-level cache


def window_digits(exponents: Limbs, rows: int, window: int) -> NDArray[np.uint16]:
    """``(n, rows)`` digits of `window` bits, least significant first."""
    at = np.arange(rows, dtype=np.uint64) * np.uint64(window)
    limb, shift = (at >> np.uint64(6)).astype(np.int64), at & np.uint64(63)
    padding = max(0, int(limb[-1]) + 2 - exponents.shape[1])
    limbs = np.pad(exponents, ((0, 0), (0, padding)))
    low = limbs[:, limb] >> shift
    high = limbs[:, limb + 1] << np.uint64(1) << (np.uint64(63) - shift)
    return ((low | high) & np.uint64((1 << window) - 1)).astype(np.uint16)


# --- powers -------------------------------------------------------------------------------------


def pow_sec(modulus: mpz, bases: Ints, exponents: Ints) -> Ints:
    """Element-wise powers by GMP's constant-time power; one exponent serves all bases.

    Time depends on the number of limbs of the modulus and of the exponent alone; a zero exponent
    costs as much as a one-limb exponent.
    """
    with gmpy2.context(gmpy2.get_context(), allow_release_gil=True):
        power = gmpy2.powmod_sec
        if len(exponents) == 1:
            exponents = exponents * len(bases)
        results = [power(a, e or 1, modulus) for a, e in zip(bases, exponents, strict=True)]
    return [r if e else mpz(1) for r, e in zip(results, exponents, strict=True)]


def pow_var(modulus: mpz, bases: Ints, exponents: Ints) -> Ints:
    """Element-wise powers by GMP's sliding window; for exponents that need no protection."""
    with gmpy2.context(gmpy2.get_context(), allow_release_gil=True):
        if len(exponents) == 1:
            result: Ints = gmpy2.powmod_base_list(bases, exponents[0], modulus)
            return result
        return [gmpy2.powmod(a, e, modulus) for a, e in zip(bases, exponents, strict=True)]


# --- powers of a fixed base ---------------------------------------------------------------------


def comb_products(bits: int, window: int, elements: int) -> int:
    """Products to build a comb table and to compute `elements` powers with it."""
    rows = -(-bits // window)
    return rows * ((1 << window) - 1) + elements * (rows - 1)


def comb_window(bits: int, elements: int, largest: int = MAX_COMB_WINDOW) -> int:
    """Window with the fewest products for `elements` powers with exponents of `bits` bits."""
    return min(range(2, largest + 1), key=lambda w: comb_products(bits, w, elements))


@dataclass(frozen=True)
class CombTable:
    """``rows[i][d] = base ** (d << (i * window))`` modulo `modulus`."""

    modulus: mpz
    window: int
    rows: list[Ints]

    @classmethod
    def build(cls, modulus: mpz, base: mpz, bits: int, window: int) -> CombTable:
        """Table for exponents below ``2**bits``."""
        rows = []
        step = base
        for _ in range(-(-bits // window)):
            row = [mpz(1), step]
            for _ in range((1 << window) - 1):
                row.append(row[-1] * step % modulus)
            step = row.pop()
            rows.append(row)
        return cls(modulus, window, rows)


class CombCache:
    """The most recently used comb tables."""

    def __init__(self, capacity: int = 8) -> None:
        self._tables: OrderedDict[tuple[mpz, mpz, int], CombTable] = OrderedDict()
        self._capacity = capacity

    def get(self, modulus: mpz, base: mpz, bits: int, window: int) -> CombTable:
        """The table; a cached one of another window is replaced."""
        key = (modulus, base, bits)
        table = self._tables.pop(key, None)
        if table is None or table.window != window:
            table = CombTable.build(modulus, base, bits, window)
        self._tables[key] = table
        if len(self._tables) > self._capacity:
            self._tables.popitem(last=False)
        return table

    def clear(self) -> None:
        """Forget all tables."""
        self._tables.clear()


def pow_fixed_var(table: CombTable, exponents: Limbs) -> Ints:
    """``base ** exponents[i]``: rows - 1 products each; look-ups indexed by exponent digits."""
    modulus, rows = table.modulus, table.rows
    first, rest = rows[0], rows[1:]
    results = []
    for digits in window_digits(exponents, len(rows), table.window).tolist():
        acc = first[digits[0]]
        for row, digit in zip(rest, digits[1:], strict=True):
            acc = acc * row[digit] % modulus
        results.append(acc)
    return results


# --- simultaneous powers ------------------------------------------------------------------------


def _straus_products(n: int, m: int, bits: int, window: int) -> int:
    rows = -(-bits // window)
    return n * ((1 << window) - 2) + m * rows * (n + window)


def _bucket_products(n: int, m: int, bits: int, window: int) -> int:
    rows = -(-bits // window)
    return m * rows * (n + (2 << window) + window)


def multi_pow_plan(n: int, m: int, bits: int) -> tuple[bool, int, int]:
    """(use buckets, window, products) with the fewest products for n bases and m outputs."""
    plans = [
        (cost(n, m, bits, w), buckets, w)
        for buckets, cost in ((False, _straus_products), (True, _bucket_products))
        for w in range(1, 11 if buckets else 8)
    ]
    products, use_buckets, window = min(plans)
    return use_buckets, window, products


def _straus_var(modulus: mpz, bases: Ints, digits: list[list[list[int]]], window: int) -> Ints:
    tables = []
    for a in bases:
        table = [mpz(1), a]
        for _ in range((1 << window) - 2):
            table.append(table[-1] * a % modulus)
        tables.append(table)
    results = []
    for rows in digits:
        acc = mpz(1)
        for row in rows:
            for _ in range(window):
                acc = acc * acc % modulus
            for table, digit in zip(tables, row, strict=True):
                acc = acc * table[digit] % modulus
        results.append(acc)
    return results


def _buckets_var(modulus: mpz, bases: Ints, digits: list[list[list[int]]], window: int) -> Ints:
    results = []
    for rows in digits:
        acc = mpz(1)
        for row in rows:
            for _ in range(window):
                acc = acc * acc % modulus
            buckets = [mpz(1)] * (1 << window)
            for a, digit in zip(bases, row, strict=True):
                buckets[digit] = buckets[digit] * a % modulus
            running = mpz(1)
            for bucket in reversed(buckets[1:]):
                running = running * bucket % modulus
                acc = acc * running % modulus
        results.append(acc)
    return results


def multi_pow_var(modulus: mpz, bases: Ints, exponents: NDArray[np.int64], bits: int) -> Ints:
    """``out[j] = prod_i bases[i] ** exponents[i, j]`` with ``|e| < 2**bits``, bits <= 62.

    Straus' method or buckets, whichever needs fewer products. Signs are hidden by a public
    offset: e + 2**bits is positive, and one factor common to all outputs takes it out again.
    Look-ups are indexed by exponent digits.

    Raises:
        ZeroDivisionError: a base with a negative exponent has no inverse.
    """
    results = [mpz(1)] * exponents.shape[1]
    product = prod(modulus, bases, [range(len(bases))])[0]
    for _ in range(bits):
        product = product * product % modulus
    try:
        correction = gmpy2.invert(product, modulus)
        shifted = exponents + np.int64(1 << bits)
    except ZeroDivisionError:  # some base shares a factor with the modulus: invert what must be
        correction = mpz(1)
        negative = np.flatnonzero((exponents < 0).any(axis=1))
        bases = bases + inverse_var(modulus, [bases[i] for i in negative.tolist()])
        shifted = np.vstack([exponents, -exponents[negative]]).clip(min=0)
    for start in range(0, len(bases), _BASES_PER_TABLE):
        chunk = bases[start : start + _BASES_PER_TABLE]
        e = shifted[start : start + _BASES_PER_TABLE].astype(np.uint64)
        use_buckets, window, _ = multi_pow_plan(len(chunk), e.shape[1], bits + 1)
        rows = -(-(bits + 1) // window)
        shifts = np.arange(rows - 1, -1, -1, dtype=np.uint64) * np.uint64(window)
        digits = (e.T[:, None, :] >> shifts[None, :, None]) & np.uint64((1 << window) - 1)
        method = _buckets_var if use_buckets else _straus_var
        partial = method(modulus, chunk, digits.tolist(), window)
        results = [r * s % modulus for r, s in zip(results, partial, strict=True)]
    return [r * correction % modulus for r in results]


# --- products and inverses ----------------------------------------------------------------------


def prod(modulus: mpz, values: Ints, segments: Sequence[Sequence[int]]) -> Ints:
    """Products of the elements each segment names."""
    results = []
    for segment in segments:
        acc = mpz(1)
        for i in segment:
            acc = acc * values[i] % modulus
        results.append(acc)
    return results


def inverse_var(modulus: mpz, values: Ints) -> Ints:
    """Inverses by Montgomery's trick: three products an element and one inversion.

    Raises:
        ZeroDivisionError: an element has no inverse.
    """
    prefix = [mpz(1)]
    for v in values:
        prefix.append(prefix[-1] * v % modulus)
    inverse = gmpy2.invert(prefix.pop(), modulus)
    results = []
    for v, before in zip(reversed(values), reversed(prefix), strict=True):
        results.append(inverse * before % modulus)
        inverse = inverse * v % modulus
    results.reverse()
    return results


# --- what a worker process can be asked for -----------------------------------------------------

_tables = CombCache()  # of this process, when it is a worker


def _pow_fixed_task(modulus: int, base: int, bits: int, window: int, exponents: Limbs) -> Ints:
    return pow_fixed_var(_tables.get(mpz(modulus), mpz(base), bits, window), exponents)


def _multi_pow_task(modulus: int, values: Limbs, exponents: NDArray[np.int64], bits: int) -> Ints:
    return multi_pow_var(mpz(modulus), from_limbs(values), exponents, bits)


def _prod_task(
    modulus: int, values: Limbs, index: NDArray[np.int64], offsets: NDArray[np.int64]
) -> Ints:
    flat, cuts = index.tolist(), offsets.tolist()
    segments = [flat[a:b] for a, b in pairwise(cuts)]
    return prod(mpz(modulus), from_limbs(values), segments)


KERNELS: dict[str, Callable[..., Ints]] = {
    "pow_fixed": _pow_fixed_task,
    "multi_pow": _multi_pow_task,
    "prod": _prod_task,
}
"""Kernel name -> function of (modulus, ...) that takes arrays and gives integers."""
