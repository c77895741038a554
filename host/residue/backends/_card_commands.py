"""Operations of the narrow waist as sequences of card commands."""

from __future__ import annotations

import weakref
from dataclasses import dataclass

import gmpy2
import numpy as np
from gmpy2 import mpz
from numpy.typing import NDArray

from residue._limbs import from_limbs, to_limbs
from residue.backends._card_arrays import CardArray, CardArrays, Index
from residue.backends._cpu_kernels import inverse_var
from residue.backends._protocol import Limbs, Modulus
from residue.backends._validate import broadcast_length
from residue.card._abi import CommandFlag, Opcode
from residue.card._device import Card
from residue.card._digits import exponent_strings, pack_digits
from residue.card._memory import Block, DeviceMemoryError
from residue.card._plan import Machine
from residue.card._queue import Task
from residue.errors import BackendError

__all__ = ["CardCommands"]

# Where the product tree of an inversion goes to the host.
_TREE_TOP = 32
# Most bytes of bases' power tables that one multi_pow holds at a time.
_TABLE_BYTES = 8 << 20


@dataclass(frozen=True)
class _Comb:
    """A comb table: the powers ``base ** (digit << (window * row))``."""

    block: Block
    window: int
    rows: int
    task: Task


class CardCommands(CardArrays):
    """Each operation on arrays that are, or fit, in the card's memory."""

    def __init__(self, card: Card, check_rate: float) -> None:
        super().__init__(card, check_rate)
        self._combs: weakref.WeakKeyDictionary[CardArray, _Comb] = weakref.WeakKeyDictionary()
        self._comb_results: weakref.WeakKeyDictionary[CardArray, int] = weakref.WeakKeyDictionary()

    def _drop_tables(self, pinned: set[int]) -> None:
        for base in list(self._combs):
            if id(base.storage) not in pinned:
                del self._combs[base]

    def _machine(self, modulus: Modulus) -> Machine:
        card = self._card
        layout = self._modulus(modulus).layout
        c = card.capabilities
        return Machine(layout, c.rings, card.contexts(layout), c.axi_bytes, c.table_entries)

    def _concat(self, task: Task, parts: list[CardArray]) -> CardArray:
        modulus = parts[0].modulus
        total = sum(map(len, parts))
        if all(part.storage is None for part in parts):
            return self._on_host(modulus, np.concatenate([self._fetch(task, p) for p in parts]))
        result = self._new(task, modulus, total)
        row = 0
        for part in parts:
            if len(part):
                source = self._rows(task, part, 0, len(part))
                self._copy(task, source, self._view(result, row, 1, len(part)))
            row += len(part)
        return result

    def _mul(self, task: Task, x: CardArray, y: CardArray) -> CardArray:
        n = broadcast_length(len(x), len(y))
        result = self._new(task, x.modulus, n)
        self._multiply(task, x, y.address, y.stride if len(y) == n else 0, result)
        return result

    def _square(self, task: Task, x: CardArray, times: int) -> CardArray:
        result = self._new(task, x.modulus, len(x))
        self._issue(
            task, Opcode.SQR, x.modulus, count=len(x), length=times,
            src_a=x.address, stride_a=x.stride, dst=result.address, stride_dst=result.stride,
        )  # fmt: skip
        return result

    def _pow(self, task: Task, x: CardArray, exponents: Limbs, bits: int) -> CardArray:
        """Powers; exponents longer than the card takes are cut, and joined by Horner's rule."""
        longest = self._card.capabilities.max_exponent_bits // 64 * 64
        result: CardArray | None = None
        for lo in reversed(range(0, bits, longest)):
            width = min(longest, bits - lo)
            part = self._new(task, x.modulus, len(x))
            chosen = exponents[:, lo // 64 : -(-(lo + width) // 64)]
            step = self._staged_rows(-(-width // 128) * 16)
            for row in range(0, len(x), step):
                n = min(step, len(x) - row)
                strings = exponent_strings(chosen[row : row + n], width)
                self._issue(
                    task, Opcode.POW, x.modulus, strings, window=4, length=width, count=n,
                    src_a=x.address + row * x.stride, stride_a=x.stride,
                    stride_e=strings.shape[1],
                    dst=part.address + row * part.stride, stride_dst=part.stride,
                )  # fmt: skip
            result = (
                part if result is None
                else self._mul(task, self._square(task, result, longest), part)
            )  # fmt: skip
        assert result is not None
        return result

    # -------------------------------------------------------------------------------- comb tables

    def _comb(self, task: Task, base: CardArray, bits: int, results: int) -> _Comb:
        """The comb table of `base`, rebuilt with wider digits when its use has grown.

        The rows' bases are squared on the host: a chain of single squarings would leave the ring
        empty for longer than everything else takes.
        """
        expected = self._comb_results.get(base, 0) + results
        self._comb_results[base] = expected
        comb = self._combs.get(base)
        if comb is not None and (comb.rows * comb.window < bits or comb.task.error is not None):
            comb = None
        machine = self._machine(base.modulus)
        window = machine.comb_window(bits, expected, comb.window if comb is not None else None)
        if comb is not None and window <= comb.window:
            task.inputs.append(comb.task)
            return comb
        modulus = base.modulus
        n = mpz(modulus.value)
        size = self._modulus(modulus).layout.residue_bytes
        while True:
            rows = -(-bits // window)
            try:
                block = self._allocate((rows << window) * size)
                break
            except DeviceMemoryError:
                if window == 1:
                    raise
            window //= 2
        (power,) = from_limbs(self._fetch(task, base))
        powers = []
        for _ in range(rows):
            powers.append(power)
            for _ in range(window):
                power = power * power % n
        bases = self._upload(task, modulus, to_limbs(powers, modulus.limbs))
        self._issue(
            task, Opcode.TABLE, modulus, window=window, count=rows,
            src_a=bases.address, stride_a=bases.stride, dst=block.address, stride_dst=size,
        )  # fmt: skip
        comb = self._combs[base] = _Comb(block, window, rows, task)
        return comb

    def _pow_fixed(
        self, task: Task, base: CardArray, comb: _Comb | None, exponents: Limbs, bits: int
    ) -> CardArray:
        modulus = base.modulus
        if comb is None:  # no memory for a table
            same = self._view(self._rows(task, base, 0, 1), 0, 0, len(exponents))
            return self._pow(task, same, exponents, bits)
        longest = self._card.capabilities.max_exponent_bits // 64 * 64
        result: CardArray | None = None
        for lo in range(0, bits, longest):
            rows = -(-min(longest, bits - lo) // comb.window)
            limbs = exponents[:, lo // 64 : (lo + longest) // 64]
            strings = exponent_strings(limbs, rows * comb.window)
            size = self._modulus(modulus).layout.residue_bytes
            table = comb.block.address + (lo // comb.window << comb.window) * size
            result = self._lookup(
                task, Opcode.POW_FIXED, modulus, table, comb.window, rows, strings, result
            )
        assert result is not None
        return result

    def _lookup(
        self, task: Task, opcode: Opcode, modulus: Modulus, table: int, window: int, rows: int,
        strings: NDArray[np.uint8], start: CardArray | None,
    ) -> CardArray:  # fmt: skip
        """Products of one entry of each of `rows` table rows, times `start` where given."""
        result = self._new(task, modulus, len(strings))
        step = self._staged_rows(strings.shape[1])
        for row in range(0, len(strings), step):
            part = strings[row : row + step]
            fields = {} if start is None else {
                "flags": CommandFlag.INIT_FROM_A,
                "src_a": start.address + row * start.stride, "stride_a": start.stride,
            }  # fmt: skip
            self._issue(
                task, opcode, modulus, part, window=window, length=rows,
                count=len(part), src_b=table, stride_b=result.stride, stride_e=part.shape[1],
                dst=result.address + row * result.stride, stride_dst=result.stride, **fields,
            )  # fmt: skip
        return result

    # ----------------------------------------------------------------------------------- products

    def _prod_parts(self, task: Task, x: CardArray, index: Index, offsets: Index) -> CardArray:
        """Segmented product; when memory is short, of half the segments or factors at a time."""
        try:
            with self._pins():
                return self._prod(task, x, index, offsets)
        except DeviceMemoryError:
            if len(offsets) == 2 and len(index) < 2:
                raise
        segments = len(offsets) - 1
        if segments > 1:
            cut = segments // 2
            first = self._prod_parts(task, x, index[: offsets[cut]], offsets[: cut + 1])
            values = [self._spill(first)]
            rest = offsets[cut:] - offsets[cut]
            second = self._prod_parts(task, x, index[offsets[cut] :], rest)
            values.append(self._spill(second))
            return self._on_host(x.modulus, np.concatenate(values))
        cut = len(index) // 2
        factors = [
            self._prod_parts(task, x, part, np.array([0, len(part)]))
            for part in (index[:cut], index[cut:])
        ]
        return self._mul(task, *(self._rows(task, factor, 0, 1) for factor in factors))

    def _prod(self, task: Task, x: CardArray, index: Index, offsets: Index) -> CardArray:
        if x.storage is None:
            # Bring only what is multiplied.
            used, index = np.unique(index, return_inverse=True)
            assert x.host is not None
            host = x.host[used] if len(used) else to_limbs([mpz(1)], x.modulus.limbs)
            x = self._on_host(x.modulus, host)
            self._make_resident(task, x)
        lengths = np.diff(offsets)
        longest = max(2, self._card.staging_bytes // 4)
        for chunk in self._machine(x.modulus).chunks(lengths, longest):
            counts = np.maximum(1, -(-lengths // chunk))
            starts = np.concatenate([[0], np.cumsum(counts)])
            segment = np.repeat(np.arange(len(lengths)), lengths)
            position = np.arange(len(index)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
            matrix = np.full((chunk, int(starts[-1])), -1, np.int64)
            matrix[position % chunk, starts[segment] + position // chunk] = index
            result = self._new(task, x.modulus, matrix.shape[1])
            self._gather(task, x, matrix, result)
            x, lengths = result, counts
            index = np.arange(len(result), dtype=np.int64)
        return x

    # ------------------------------------------------------------------------- products of powers

    def _multi_pow_parts(self, task: Task, x: CardArray, e: Index, bits: int) -> CardArray:
        """Simultaneous powers; when memory is short, of half the bases at a time."""
        try:
            with self._pins():
                return self._multi_pow(task, self._rows(task, x, 0, len(x)), e, bits)
        except DeviceMemoryError:
            if len(x) < 2:
                raise
        cut = len(x) // 2
        halves = []
        for lo, hi in ((0, cut), (cut, len(x))):
            part = self._part(x, lo, hi)
            halves.append(self._spill(self._multi_pow_parts(task, part, e[lo:hi], bits)))
        first, second = (self._upload(task, x.modulus, half) for half in halves)
        return self._mul(task, first, second)

    def _multi_pow(self, task: Task, x: CardArray, e: Index, bits: int) -> CardArray:
        """All exponents made non-negative by ``2**bits``, the excess divided out at the end."""
        m = e.shape[1]
        if len(x) == 0:
            one = to_limbs([mpz(1)] * m, x.modulus.limbs)
            return self._upload(task, x.modulus, one)
        shifted = np.ones(len(x), bool)
        result, excess = self._powers(task, x, e, bits, shifted)
        inverse = self._excess_inverse(task, excess, bits)
        if inverse is None:
            shifted = (e < 0).any(axis=1)
            result, excess = self._powers(task, x, e, bits, shifted)
            inverse = self._excess_inverse(task, excess, bits)
            if inverse is None:
                raise BackendError("a base with a negative exponent has no inverse")
        return self._mul(task, result, inverse)

    def _excess_inverse(self, task: Task, excess: CardArray, bits: int) -> CardArray | None:
        """``excess ** -(2**bits)``, computed on the host; None if it does not exist."""
        modulus = excess.modulus
        n = mpz(modulus.value)
        (value,) = from_limbs(self._fetch(task, excess))
        try:
            inverse = gmpy2.powmod(gmpy2.invert(value, n), 1 << bits, n)
        except ZeroDivisionError:
            return None
        return self._upload(task, modulus, to_limbs([inverse], modulus.limbs))

    def _powers(
        self, task: Task, x: CardArray, e: Index, bits: int, shifted: NDArray[np.bool_]
    ) -> tuple[CardArray, CardArray]:
        """``prod_i x[i] ** (e[i, j] + (shifted[i] << bits))`` for all j; product of the shifted.

        Output j and digit position t make one context, t-major; the last context multiplies the
        shifted bases. Horner's rule joins the positions.
        """
        n, m = e.shape
        modulus = x.modulus
        raised = (e + (shifted.astype(np.int64) << bits)[:, np.newaxis]).astype(np.uint64)
        window = self._machine(modulus).multi_pow_window(n, m, bits + 1)
        positions = -(-(bits + 1) // window)
        mask = np.uint64((1 << window) - 1)
        row_bytes = self._modulus(modulus).layout.residue_bytes << window
        rows = min(
            self._card.capabilities.max_exponent_bits // window,
            max(1, _TABLE_BYTES // row_bytes),
        )
        contexts: CardArray | None = None
        for lo in range(0, n, rows):
            hi = min(lo + rows, n)
            digits = np.empty((positions * m + 1, hi - lo), np.uint8)
            for t in range(positions):
                digits[t * m : (t + 1) * m] = (raised[lo:hi].T >> np.uint64(t * window)) & mask
            digits[-1] = shifted[lo:hi]
            table = self._allocate((hi - lo) * row_bytes)
            self._issue(
                task, Opcode.TABLE, modulus, window=window, count=hi - lo,
                src_a=x.address + lo * x.stride, stride_a=x.stride,
                dst=table.address, stride_dst=row_bytes >> window,
            )  # fmt: skip
            contexts = self._lookup(
                task, Opcode.MULTI_POW, modulus, table.address, window, hi - lo,
                pack_digits(digits, window), contexts,
            )  # fmt: skip
        assert contexts is not None
        result = self._view(contexts, (positions - 1) * m, 1, m)
        for position in reversed(range(positions - 1)):
            squared = self._square(task, result, window)
            result = self._mul(task, squared, self._view(contexts, position * m, 1, m))
        return result, self._view(contexts, positions * m, 1, 1)

    # ----------------------------------------------------------------------------------- inverses

    def _inverse(self, task: Task, x: CardArray) -> CardArray:
        """Products of pairs up to a short top, inverted on the host, and back down."""
        modulus = x.modulus
        if len(x) <= _TREE_TOP:
            top = from_limbs(self._fetch(task, x))
            try:
                inverted = inverse_var(mpz(modulus.value), top)
            except ZeroDivisionError as error:
                raise BackendError("a residue has no inverse modulo its modulus") from error
            return self._upload(task, modulus, to_limbs(inverted, modulus.limbs))
        n = len(x)
        half = n // 2
        even, odd = self._view(x, 0, 2, half), self._view(x, 1, 2, half)
        above = self._new(task, modulus, half + n % 2)
        self._multiply(task, even, odd.address, odd.stride, self._view(above, 0, 1, half))
        if n % 2:
            self._copy(task, self._view(x, n - 1, 1, 1), self._view(above, half, 1, 1))
        inverses = self._inverse(task, above)
        pairs = self._view(inverses, 0, 1, half)
        result = self._new(task, modulus, n)
        for source, target in ((odd, 0), (even, 1)):
            self._multiply(
                task, pairs, source.address, source.stride, self._view(result, target, 2, half)
            )
        if n % 2:
            self._copy(task, self._view(inverses, half, 1, 1), self._view(result, n - 1, 1, 1))
        return result
