"""The CPU backend on native kernels: rows of digits, several residues a vector."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import gmpy2
import numpy as np
from gmpy2 import mpz
from numpy.typing import NDArray

from residue._limbs import from_limbs, to_limbs
from residue.backends import _cpu_kernels as kernels
from residue.backends._cpu import CpuArray, CpuBackend
from residue.backends._protocol import Limbs, Modulus, ResidueArray
from residue.backends._rows import row_by_row
from residue.backends._squares import (
    binomial_limbs,
    logarithm_limbs,
    require_logarithms,
    uploaded,
)
from residue.backends._validate import (
    broadcast_length,
    check_exponents,
    check_index,
    check_limbs,
    check_numbers,
    check_offsets,
    check_pow_moduli,
    check_residues,
    check_short_exponents,
)
from residue.errors import BackendError, CorruptResult

try:
    from residue.backends import _native
except ImportError:  # a package built without a compiler
    _native = None  # type: ignore[assignment]

__all__ = ["GMPY2", "NativeArray", "NativeBackend", "available_kernels", "open_cpu"]

GMPY2 = "gmpy2"

Rows = NDArray[np.uint64]
"""``(n, row) uint64``: digits of n residues below twice the modulus, in Montgomery form."""

Index = NDArray[np.int64]

_MAX_WINDOW = 6
_CONSTANTS = 128  # moduli, and weights of their parts, that are kept
_MAX_PARTS = 3  # of a number that is reduced
_MAX_COMB_WINDOW = 11  # 12 costs as many cache misses as it saves products
_TABLE_BYTES = 160 << 20  # of one comb table; of all together twice as many
_BASES_PER_TABLE = 1024


def available_kernels() -> list[str]:
    """Kernels of the CPU backend that can run here, the fastest first; the last is ``gmpy2``."""
    return [*(_native.kernels() if _native else []), GMPY2]


def open_cpu(*, workers: int | None = None, kernel: str | None = None) -> CpuBackend:
    """The CPU backend with a kernel.

    Args:
        workers: cores to use; by default ``RESIDUE_CPU_WORKERS``, else all that this process may
            run on.
        kernel: ``avx512ifma``, ``avx2``, ``portable`` or ``gmpy2``; by default
            ``RESIDUE_CPU_KERNEL``, else the fastest that this processor can run.

    Raises:
        BackendError: the kernel is unknown, or cannot run here.
    """
    available = available_kernels()
    name = kernel or os.environ.get("RESIDUE_CPU_KERNEL") or available[0]
    if name not in available:
        reason = "" if _native else "; the package was built without the native kernels"
        raise BackendError(
            f"no CPU kernel {name!r} can run here: there are {', '.join(available)}{reason}"
        )
    return CpuBackend(workers=workers) if name == GMPY2 else NativeBackend(name, workers=workers)


class NativeArray:
    """Residues as rows of digits; immutable, always complete."""

    __slots__ = ("_modulus", "rows")

    def __init__(self, modulus: Modulus, rows: Rows) -> None:
        self._modulus = modulus
        self.rows = rows

    @property
    def modulus(self) -> Modulus:
        """The modulus of all elements."""
        return self._modulus

    def __len__(self) -> int:
        return len(self.rows)

    def wait(self) -> None:
        """Return at once: operations of this backend are synchronous."""


@dataclass(frozen=True)
class _Erased:
    """Rows that are overwritten when nobody uses them any more."""

    rows: Rows

    def __del__(self) -> None:
        self.rows.fill(0)


@dataclass(frozen=True)
class _Table(_Erased):
    """Row ``i << window | d`` is ``base ** (d << i * window)``."""

    window: int


@dataclass(frozen=True)
class _Segments:
    """A gathered segmented product as the kernels take it, and one of its results, if there is.

    With `squarings`, products are squared so many times before each further factor; with
    `prefixes`, those of all prefixes of a segment are multiplied. order: segments of about one
    length are side by side.
    """

    index: Index
    offsets: Index
    order: Index
    squarings: int = 0
    prefixes: bool = False
    then: _Segments | None = None


@dataclass(frozen=True)
class _Sums:
    """Products of bases with one digit of each exponent, for any bases.

    With a window they are products of Straus' tables, else of the bases.
    """

    window: int | None
    products: tuple[_Segments, ...]


class NativeBackend(CpuBackend):
    """`Backend` on native kernels; moduli too large for them are those of gmpy2.

    Residues stay in Montgomery form between operations. `pow` and `pow_moduli` take time, and use
    addresses, that depend on sizes alone: windows are fixed, and table entries are selected by
    masks from the whole table. `pow_fixed` and `multi_pow` make as many products as public sizes
    tell, but index their tables by exponent digits, which a cache-observing process on the same
    machine can see; `inverse` is variable-time in its operand. docs/algorithms/cpu.md.

    Batches are spread over `workers` threads; the kernels do not hold the interpreter lock.

    Args:
        kernel: name of the kernel.
        workers: as `CpuBackend`.
        native: the extension module; tests have others.
    """

    def __init__(self, kernel: str, *, workers: int | None = None, native: Any = None) -> None:
        super().__init__(workers=workers)
        self._native = native or _native
        self._kernel = kernel
        self._lanes: int = self._native.lanes(kernel)
        self._constants: OrderedDict[tuple[int, int], Any] = OrderedDict()
        self._combs: OrderedDict[tuple[int, int, int], _Table] = OrderedDict()
        self._pool = self._native.Pool(self._workers)

    def describe(self) -> dict[str, str | int | float | bool]:
        """As `CpuBackend.describe`, and the kernel."""
        return super().describe() | {"kernel": self._kernel}

    # --- arrays ---------------------------------------------------------------------------------

    def upload(self, modulus: Modulus, values: Limbs) -> Any:
        """Take ``(n, modulus.limbs) uint64`` canonical residues."""
        if not self._fits(modulus):
            return super().upload(modulus, values)
        check_residues(modulus, values)
        self._check_open()
        return NativeArray(modulus, self._enter(modulus, values))

    def download(self, a: ResidueArray) -> Limbs:
        """Canonical residues ``(n, modulus.limbs) uint64``."""
        if not isinstance(a, NativeArray):
            return super().download(a)
        self._check_open()
        return self._leave(a.modulus, a.rows)

    def take(self, a: ResidueArray, index: Index) -> Any:
        """Gather ``a[index[j]]``."""
        if not isinstance(a, NativeArray):
            return super().take(a, index)
        self._check_open()
        check_index(index, len(a))
        return NativeArray(a.modulus, a.rows[index])

    def concat(self, parts: list[ResidueArray]) -> Any:
        """Join arrays of one modulus."""
        if not parts or not isinstance(parts[0], NativeArray):
            return super().concat(parts)
        modulus = parts[0].modulus
        return NativeArray(modulus, np.concatenate([self._rows(p, modulus) for p in parts]))

    # --- arithmetic -----------------------------------------------------------------------------

    def mul(self, a: ResidueArray, b: ResidueArray) -> Any:
        """Element-wise product; a length of one broadcasts."""
        if not isinstance(a, NativeArray):
            return super().mul(a, b)
        x, y = self._rows(a), self._rows(b, a.modulus)
        length = broadcast_length(len(x), len(y))
        with self._count("mul", a.modulus, length, length):
            return NativeArray(a.modulus, self._multiply(a.modulus, x, y))

    def pow(self, a: ResidueArray, exponents: Limbs, bits: int) -> Any:
        """Element-wise powers, constant time in base and exponent."""
        if not isinstance(a, NativeArray):
            return super().pow(a, exponents, bits)
        return self._power("pow", a, exponents, bits)

    def pow_var(self, a: ResidueArray, exponents: Limbs, bits: int) -> Any:
        """`pow` with no more bits than the longest of these exponents has; shifts by squaring."""
        if not isinstance(a, NativeArray):
            return super().pow_var(a, exponents, bits)
        check_exponents(exponents, bits, len(a))
        used = np.flatnonzero(exponents.any(axis=0))
        top = int(used[-1]) if len(used) else 0
        most = int(exponents[:, top].max(initial=0))
        if len(exponents) == 1 and most & (most - 1) == 0 < most and len(used) == 1:
            times = 64 * top + most.bit_length() - 1
            with self._count("pow_var", a.modulus, len(a), len(a) * times):
                return NativeArray(a.modulus, self._square(a.modulus, self._rows(a), times))
        return self._power("pow_var", a, exponents, max(1, 64 * top + most.bit_length()))

    def pow_fixed(self, base: ResidueArray, exponents: Limbs, bits: int) -> Any:
        """Powers of one base by a comb table that grows with its use."""
        if not isinstance(base, NativeArray):
            return super().pow_fixed(base, exponents, bits)
        if len(base) != 1:
            raise BackendError(f"pow_fixed takes one base, not {len(base)}")
        self._check_open()
        check_exponents(exponents, bits)
        modulus, n = base.modulus, len(exponents)
        value = int(from_limbs(self._leave(modulus, base.rows))[0])
        largest = max(
            w for w in range(2, _MAX_COMB_WINDOW + 1)
            if w == 2 or -(-bits // w) * base.rows.nbytes << w <= _TABLE_BYTES
        )  # fmt: skip
        window = self._comb_window(modulus.value, value, bits, n, largest)
        positions = -(-bits // window)
        with self._count("pow_fixed", modulus, n, n * (positions - 1)):
            table = self._comb(modulus, value, base.rows, bits, window)
            out = np.empty((n, table.rows.shape[1]), np.uint64)
            e = np.ascontiguousarray(exponents)
            self._field(modulus).comb(table.rows, e, bits, window, out)
            return NativeArray(modulus, out)

    def prod(self, a: ResidueArray, index: Index, offsets: Index) -> Any:
        """Gathered segmented product."""
        if not isinstance(a, NativeArray):
            return super().prod(a, index, offsets)
        rows = self._rows(a)
        check_index(index, len(rows))
        check_offsets(offsets, len(index))
        with self._count("prod", a.modulus, len(offsets) - 1, len(index)):
            segments = self._segments(index, offsets)
            return NativeArray(a.modulus, self._product(a.modulus, rows, segments))

    def pow_moduli(
        self, moduli: Sequence[Modulus], bases: Limbs, exponents: Limbs, bits: int
    ) -> Limbs:
        """Powers that have a modulus each, constant time in base and exponent."""
        self._check_open()
        check_pow_moduli(moduli, bases, exponents, bits)
        largest = max(moduli, key=lambda m: m.bits, default=None)
        if largest is None or not self._fits(largest):
            return super().pow_moduli(moduli, bases, exponents, bits)
        n, window = len(moduli), _pow_window(bits)
        with self._count("pow_moduli", largest, n, n * _pow_products(bits, window)):
            field = self._new_field(moduli, largest.bits)
            rows = np.empty((n, field.row), np.uint64)
            field.enter(np.ascontiguousarray(bases), rows)
            field.power(rows, np.ascontiguousarray(exponents), bits, window, rows)
            result = np.empty_like(bases)
            field.leave(rows, result)
        return result

    def multi_pow(self, a: ResidueArray, exponents: Index, bits: int) -> Any:
        """Simultaneous powers with short signed exponents."""
        if not isinstance(a, NativeArray):
            return super().multi_pow(a, exponents, bits)
        return self.multi_pow_rows(a, np.arange(len(a))[None], exponents, bits)

    def multi_pow_rows(self, a: ResidueArray, index: Index, exponents: Index, bits: int) -> Any:
        """`multi_pow` of each row of bases.

        As `residue.backends._cpu_kernels.multi_pow_var`, but that all products of all rows' digits
        are one gathered segmented product.
        """
        if not isinstance(a, NativeArray):
            return row_by_row(self, a, index, exponents, bits)
        modulus, (r, n) = a.modulus, index.shape
        check_index(index.ravel(), len(a))
        rows = self._rows(a)[index.ravel()]
        check_short_exponents(exponents, bits, n)
        m = exponents.shape[1]
        _, _, products = kernels.multi_pow_plan(min(n, _BASES_PER_TABLE), m, bits + 1)
        products *= r * -(-n // _BASES_PER_TABLE)
        try:
            with self._count("multi_pow", modulus, r * m, products):
                # e + 2**bits is not negative; one factor of all results takes it out again.
                segments = self._segments(np.arange(r * n), np.arange(r + 1) * n)
                whole = self._product(modulus, rows, segments)
                correction = self._invert_all(modulus, self._square(modulus, whole, bits))
                result = np.repeat(correction, m, axis=0)
                shifted = (exponents + np.int64(1 << bits)).astype(np.uint64)
                bases = rows.reshape(r, n, rows.shape[1])
                at_once = max(1, _BASES_PER_TABLE // max(1, n))
                for start in range(0, n, _BASES_PER_TABLE):
                    part = slice(start, start + _BASES_PER_TABLE)
                    groups = np.split(bases[:, part], range(at_once, r, at_once))
                    digits, window, buckets = self._digits(shifted[part], bits + 1)
                    method = self._by_buckets if buckets else self._by_tables
                    plans = {k: method(k, digits, window) for k in {len(g) for g in groups}}
                    sums = [self._digit_sums(modulus, g, plans[len(g)]) for g in groups]
                    # The highest digit first.
                    order = np.arange(r * len(digits)).reshape(r * m, -(-(bits + 1) // window))
                    horner = _side_by_side(order[:, ::-1], squarings=window)
                    powers = self._product(modulus, np.concatenate(sums), horner)
                    result = self._multiply(modulus, result, powers)
                return NativeArray(modulus, result)
        except ZeroDivisionError:  # some base has no inverse; perhaps none is needed
            values = CpuArray(modulus, from_limbs(self._leave(modulus, rows)))
            every = np.arange(r * n).reshape(r, n)
            limbs = super().download(row_by_row(self, values, every, exponents, bits))
            return NativeArray(modulus, self._enter(modulus, limbs))

    def inverse(self, a: ResidueArray) -> Any:
        """Element-wise inverses by a tree of products: three an element and one inversion."""
        if not isinstance(a, NativeArray):
            return super().inverse(a)
        rows = self._rows(a)
        with self._count("inverse", a.modulus, len(rows), 3 * len(rows)):
            try:
                return NativeArray(a.modulus, self._invert_all(a.modulus, rows))
            except ZeroDivisionError as error:
                raise BackendError("a residue has no inverse modulo its modulus") from error

    # --- squares --------------------------------------------------------------------------------

    def binomials(self, modulus: Modulus, m: Index) -> Any:
        """``1 + m[i] n`` modulo ``n n``."""
        self._check_open()
        check_numbers(m)
        if not self._squared(modulus):
            return self.upload(modulus, binomial_limbs(modulus, m))
        with self._count("binomials", modulus, len(m), 2 * len(m)):
            field = self._field(modulus)
            rows = np.empty((len(m), field.row), np.uint64)
            field.binomials(np.ascontiguousarray(m), rows)
            return NativeArray(modulus, rows)

    def reduce(self, moduli: Sequence[Modulus], values: Limbs) -> list[Any]:
        """Residues of integers of any size: sums of parts, cut in two ways that must agree."""
        self._check_open()
        check_limbs(values, "integers")
        return [self._reduce(modulus, values) for modulus in moduli]

    def logarithms(self, a: ResidueArray) -> Limbs:
        """``m`` for each ``1 + m n`` modulo ``n n``."""
        modulus = a.modulus
        if not isinstance(a, NativeArray) or not self._squared(modulus):
            return logarithm_limbs(modulus, self.download(a))
        rows = np.ascontiguousarray(self._rows(a))
        with self._count("logarithms", modulus, len(rows), len(rows)):
            result = np.empty((len(rows), -(-modulus.bits // 128)), np.uint64)
            require_logarithms(self._field(modulus).logarithms(rows, result))
            return result

    # --- housekeeping ---------------------------------------------------------------------------

    def clear_secrets(self) -> None:
        """Forget comb tables and constants of moduli, which are overwritten.

        The kernels erase tables of powers themselves. Arrays are freed without being erased, as
        those of NumPy are.
        """
        with self._lock:
            self._combs.clear()
            self._constants.clear()
        super().clear_secrets()

    def close(self) -> None:
        """End the threads; operations raise `BackendError` from now on."""
        super().close()
        self._pool.close()

    # --- private --------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._closed:
            raise BackendError("this CPU backend is closed")

    def _rows(self, a: ResidueArray, modulus: Modulus | None = None) -> Rows:
        self._check_open()
        if not isinstance(a, NativeArray):
            raise BackendError("the array lives on another backend; download and upload it")
        if modulus is not None and a.modulus != modulus:
            raise BackendError("the arrays have different moduli")
        return a.rows

    def _fits(self, modulus: Modulus) -> bool:
        return bool(self._native.layout(self._kernel, modulus.bits)[0])

    def _squared(self, modulus: Modulus) -> bool:
        """Whether residues are pairs modulo the root of a modulus of at least 2**128."""
        return modulus.bits > 128 and self._fits(modulus) and bool(self._field(modulus).squared)

    def _field(self, modulus: Modulus) -> Any:
        return self._constant(modulus, 0, lambda: self._new_field([modulus], modulus.bits))

    def _constant(self, modulus: Modulus, words: int, make: Callable[[], Any]) -> Any:
        """The field of a modulus, or weights of parts of so many words, made once."""
        with self._lock:
            constant = self._constants.pop((modulus.value, words), None)
            if constant is None:
                constant = make()
            self._constants[modulus.value, words] = constant
            if len(self._constants) > _CONSTANTS:
                self._constants.popitem(last=False)
            return constant

    def _reduce(self, modulus: Modulus, values: Limbs) -> Any:
        words = (modulus.bits - 1) // 64  # numbers of so many are below the modulus
        n, width = values.shape
        if not self._squared(modulus) or width > _MAX_PARTS * (words - 1):
            return uploaded(self, [modulus], values)[0]
        with self._count("reduce", modulus, n, 2 * (2 * _MAX_PARTS + 1) * n):
            rows, again = (self._sum_of_parts(modulus, values, w) for w in (words, words - 1))
            if not np.array_equal(self._leave(modulus, rows), self._leave(modulus, again)):
                raise CorruptResult("a reduction failed its check; nothing was released")
            return NativeArray(modulus, rows)

    def _sum_of_parts(self, modulus: Modulus, values: Limbs, words: int) -> Rows:
        """Residues of numbers of at most three parts of `words` words, each below the modulus."""
        parts = -(-values.shape[1] // words)

        def make() -> _Erased:
            shifted = [mpz(1) << 64 * words * i for i in range(_MAX_PARTS)]
            limbs = to_limbs([w % modulus.value for w in shifted], modulus.limbs)
            return _Erased(self._enter(modulus, limbs))

        weights = self._constant(modulus, words, make)
        rows = weights.rows[:parts]
        out = np.empty((len(values), rows.shape[1]), np.uint64)
        self._field(modulus).weighted_sum(np.ascontiguousarray(values), words, rows, out)
        return out

    def _new_field(self, moduli: Sequence[Modulus], bits: int) -> Any:
        """Constants of moduli of at most `bits` bits; those of squares are of their roots."""
        values = [mpz(m.value) for m in moduli]
        half = -(-bits // 2)
        squared = self._native.layout(self._kernel, half, True)[0] > 0
        squared = squared and all(map(gmpy2.is_square, values))
        if squared:
            bits, values = half, [gmpy2.isqrt(n) for n in values]
        digits, radix = self._native.layout(self._kernel, bits, squared)
        word = mpz(1) << radix
        if squared:  # pairs x_0 + x_1 n
            r = word ** (digits // 2)
            parts: list[tuple[mpz, ...]] = [(n, (1 - r) % n) for n in values]
            one, scale = ([divmod(r**k % n**2, n)[::-1] for n in values] for k in (1, 3))
        else:
            r = word**digits
            parts = [(n,) for n in values]
            one, scale = ([(r**k % n,) for n in values] for k in (1, 2))

        def pack(numbers: Sequence[tuple[mpz, ...]]) -> Limbs:
            limbs = to_limbs(list(chain.from_iterable(numbers)), -(-bits // 64))
            return limbs.reshape(len(values), -1, limbs.shape[1])

        inverse = [int(word - gmpy2.invert(n, word)) for n in values]
        return self._native.Field(
            self._kernel,
            bits,
            pack(parts),
            pack(one),
            pack(scale),
            np.array(inverse, np.uint64),
            self._pool,
        )

    def _enter(self, modulus: Modulus, limbs: Limbs) -> Rows:
        field = self._field(modulus)
        out = np.empty((len(limbs), field.row), np.uint64)
        field.enter(np.ascontiguousarray(limbs), out)
        return out

    def _leave(self, modulus: Modulus, rows: Rows) -> Limbs:
        field = self._field(modulus)
        out = np.empty((len(rows), modulus.limbs), np.uint64)
        field.leave(np.ascontiguousarray(rows), out)
        return out

    def _multiply(self, modulus: Modulus, a: Rows, b: Rows) -> Rows:
        """Products of rows, or of each row and the only one of the other."""
        field = self._field(modulus)
        a, b = np.ascontiguousarray(a), np.ascontiguousarray(b)
        out = np.empty_like(b if len(a) == 1 else a)
        field.multiply(a, b, out)
        return out

    def _square(self, modulus: Modulus, a: Rows, times: int) -> Rows:
        """``a ** (2 ** times)``."""
        field = self._field(modulus)
        a = np.ascontiguousarray(a)
        out = np.empty_like(a)
        field.square(a, times, out)
        return out

    def _power(self, operation: str, a: NativeArray, exponents: Limbs, bits: int) -> NativeArray:
        rows, modulus = self._rows(a), a.modulus
        check_exponents(exponents, bits, len(rows))
        field = self._field(modulus)
        window = _pow_window(bits)
        products = _pow_products(bits, window)
        out = np.empty_like(rows)
        e = np.ascontiguousarray(exponents)
        with self._count(operation, modulus, len(rows), len(rows) * products):
            field.power(np.ascontiguousarray(rows), e, bits, window, out)
        return NativeArray(modulus, out)

    def _product(self, modulus: Modulus, rows: Rows, segments: _Segments) -> Rows:
        """Gathered segmented product."""
        out = np.empty((len(segments.offsets) - 1, rows.shape[1]), np.uint64)
        self._field(modulus).product(
            np.ascontiguousarray(rows), segments.index, segments.offsets, segments.order,
            segments.squarings, segments.prefixes, out,
        )  # fmt: skip
        return out if segments.then is None else self._product(modulus, out, segments.then)

    def _segments(self, index: Index, offsets: Index) -> _Segments:
        """Segments of any lengths; long ones of a few are cut into pieces first."""
        lengths = np.diff(offsets)
        total = int(lengths.sum())
        # Pieces enough for all lanes of all cores, of eight factors at least.
        piece = max(8, -(-total // (4 * self._lanes * self._workers)))
        pieces = -(-lengths // piece)
        then = None
        if len(lengths) and pieces.max() > 1:
            ends = np.concatenate([[0], np.cumsum(pieces)])
            then = self._segments(np.arange(ends[-1]), ends)
            # A piece ends where the next one of its segment begins, or its segment does.
            cuts = np.repeat(offsets[:-1], pieces) + piece * _ranks(pieces)
            offsets = np.append(cuts, offsets[-1])
            lengths = np.diff(offsets)
        order = np.argsort(-lengths, kind="stable")
        index, offsets = (np.ascontiguousarray(x, np.int64) for x in (index, offsets))
        return _Segments(index, offsets, order, then=then)

    def _digits(self, exponents: Any, bits: int) -> tuple[Index, int, bool]:
        """``(m * positions, n)`` digits of ``(n, m)`` exponents, their bits, whether by buckets."""
        n, m = exponents.shape
        buckets, window, _ = kernels.multi_pow_plan(n, m, bits)
        shifts = np.arange(0, bits, window, dtype=np.uint64)
        digits = exponents.T[:, None, :] >> shifts[None, :, None] & np.uint64((1 << window) - 1)
        return digits.astype(np.int64).reshape(m * len(shifts), n), window, buckets

    def _by_tables(self, r: int, digits: Index, window: int) -> _Sums:
        """``out[g, s] = prod_i bases[g, i] ** digits[s, i]`` for r rows g, flat: Straus' tables."""
        sums, n = digits.shape
        index = (np.arange(r * n) << window).reshape(r, 1, n) + digits
        return _Sums(window, (self._segments(index.ravel(), np.arange(r * sums + 1) * n),))

    def _by_buckets(self, r: int, digits: Index, window: int) -> _Sums:
        """As `_by_tables`, by the products of the rows that have one digit in common."""
        sums, n = digits.shape
        index = (np.arange(r) * n)[:, None, None] + np.argsort(digits, axis=1, kind="stable")
        cells = digits + (np.arange(sums)[:, None] << window)
        counts = np.tile(np.bincount(cells.ravel(), minlength=sums << window), r)
        filled = self._segments(index.ravel(), np.concatenate([[0], np.cumsum(counts)]))
        # The largest digit first, and no zero: prefixes raise each bucket to its digit.
        index = np.arange(r * sums << window).reshape(r * sums, -1)[:, :0:-1]
        return _Sums(None, (filled, _side_by_side(index, prefixes=True)))

    def _digit_sums(self, modulus: Modulus, bases: Rows, plan: _Sums) -> Rows:
        rows = bases.reshape(-1, bases.shape[2])
        if plan.window is not None:
            rows = self._powers(modulus, rows, plan.window)
        for segments in plan.products:
            rows = self._product(modulus, rows, segments)
        return rows

    def _powers(self, modulus: Modulus, rows: Rows, window: int) -> Rows:
        """``(n << window, row)``: row ``i << window | d`` is ``rows[i] ** d``."""
        field = self._field(modulus)
        n, row = rows.shape
        rows = np.ascontiguousarray(rows)
        table = np.empty((n << window, row), np.uint64)
        field.powers(rows, window, table)
        return table

    def _comb(self, modulus: Modulus, value: int, base: Rows, bits: int, window: int) -> _Table:
        key = (modulus.value, value, bits)
        with self._lock:
            table = self._combs.get(key)
        if table is None or table.window != window:
            steps = [base]
            for _ in range(-(-bits // window) - 1):
                steps.append(self._square(modulus, steps[-1], window))
            rows = self._powers(modulus, np.concatenate(steps), window)
            table = _Table(rows, window)
        with self._lock:
            self._combs[key] = table
            self._combs.move_to_end(key)
            while sum(t.rows.nbytes for t in self._combs.values()) > 2 * _TABLE_BYTES:
                self._combs.popitem(last=False)
        return table

    def _invert_all(self, modulus: Modulus, rows: Rows) -> Rows:
        """Inverses of rows. Raises `ZeroDivisionError` if one has none."""
        if not len(rows):
            return rows
        levels = [rows]
        while len(rows) > 1:
            even = len(rows) & ~1
            pairs = self._multiply(modulus, rows[0:even:2], rows[1:even:2])
            rows = np.concatenate([pairs, rows[even:]])
            levels.append(rows)
        (value,) = from_limbs(self._leave(modulus, levels.pop()))
        inverse = gmpy2.invert(value, mpz(modulus.value))
        result = self._enter(modulus, to_limbs([inverse], modulus.limbs))
        for below in reversed(levels):
            even = len(below) & ~1
            inverses = np.empty_like(below)
            pairs = result[: even // 2]
            inverses[0:even:2] = self._multiply(modulus, pairs, below[1:even:2])
            inverses[1:even:2] = self._multiply(modulus, pairs, below[0:even:2])
            inverses[even:] = result[even // 2 :]
            result = inverses
        return result


def _side_by_side(index: Index, *, squarings: int = 0, prefixes: bool = False) -> _Segments:
    """Segments of one length: the rows of an index."""
    rows, length = index.shape
    index = np.ascontiguousarray(index.ravel())
    order, offsets = np.arange(rows), np.arange(rows + 1) * length
    return _Segments(index, offsets, order, squarings, prefixes)


def _pow_products(bits: int, window: int) -> int:
    """Products of one power by a fixed window."""
    return (1 << window) - 2 + bits + -(-bits // window)


def _pow_window(bits: int) -> int:
    return min(range(1, _MAX_WINDOW + 1), key=lambda w: _pow_products(bits, w))


def _ranks(counts: Index) -> Index:
    """0 .. count - 1 for each count, one after the other."""
    ends = np.cumsum(counts)
    return np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - counts, counts)
