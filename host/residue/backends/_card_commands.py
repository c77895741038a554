"""Operations of the narrow waist as sequences of card commands."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import NoReturn

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
from residue.card._digits import (
    digits_from_limbs,
    exponent_strings,
    limbs_from_digits,
    pack_digits,
)
from residue.card._memory import Block, DeviceMemoryError
from residue.card._plan import Machine
from residue.card._queue import Task
from residue.errors import BackendError, CorruptResult

__all__ = ["CardCommands"]

# Where the product tree of an inversion goes to the host.
_TREE_TOP = 32
# Clock that boards are built for: weighs the card against the host, nothing else.
_NOMINAL_HZ = 300e6
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
    """Each operation on arrays that are, or fit, in the card's memory.

    Attributes:
        host_squares: who makes the rows' bases of comb tables; None: whoever is faster.
    """

    host_squares: bool | None = None

    def __init__(self, card: Card, check_rate: float) -> None:
        super().__init__(card, check_rate)
        self._combs: weakref.WeakKeyDictionary[CardArray, _Comb] = weakref.WeakKeyDictionary()
        self._comb_results: weakref.WeakKeyDictionary[CardArray, int] = weakref.WeakKeyDictionary()

    def _drop_tables(self, pinned: set[int]) -> None:
        for base in list(self._combs):
            if id(base.storage) not in pinned:
                del self._combs[base]

    def machine(self, modulus: Modulus) -> Machine:
        """The card at work on a modulus, as plans see it. `BackendError` if that is too large."""
        return self._card.capabilities.machine(self._card.checked_layout(modulus.value))

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
        """The comb table of `base`, rebuilt with wider digits when its use has grown."""
        expected = self._comb_results.get(base, 0) + results
        self._comb_results[base] = expected
        comb = self._combs.get(base)
        if comb is not None and (comb.rows * comb.window < bits or comb.task.error is not None):
            comb = None
        machine = self.machine(base.modulus)
        window = machine.comb_window(bits, expected, comb.window if comb is not None else None)
        if comb is not None and window <= comb.window:
            task.inputs.append(comb.task)
            return comb
        modulus = base.modulus
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
        if rows > 1 and self._host_squares(modulus, machine):
            bases = self._row_bases_of_host(task, base, window, rows)
        else:
            bases = self._row_bases(task, base, window, rows, machine.fill)
        self._issue(
            task, Opcode.TABLE, modulus, window=window, count=rows,
            src_a=bases.address, stride_a=bases.stride, dst=block.address, stride_dst=size,
        )  # fmt: skip
        comb = self._combs[base] = _Comb(block, window, rows, task)
        return comb

    def _host_squares(self, modulus: Modulus, machine: Machine) -> bool:
        """Whether the host makes a chain of squarings sooner than the card, where it is a chain.

        The card takes the latency of a product for each; the host is timed, unless `host_squares`
        says.
        """
        if self.host_squares is not None:
            return self.host_squares
        n = mpz(modulus.value)
        x, tries = n - 2, 16
        start = time.perf_counter()
        for _ in range(tries):
            x = x * x % n
        host = (time.perf_counter() - start) / tries
        return host < machine.product_latency / _NOMINAL_HZ

    def _row_bases_of_host(self, task: Task, base: CardArray, window: int, rows: int) -> CardArray:
        """``base ** (2 ** (window * row))`` of all rows, squared on the host."""
        n = mpz(base.modulus.value)
        (power,) = from_limbs(self._fetch(task, base))
        powers = [power]
        for _ in range(rows - 1):
            for _ in range(window):
                power = power * power % n
            powers.append(power)
        return self._upload(task, base.modulus, to_limbs(powers, base.modulus.limbs))

    def _row_bases(
        self, task: Task, base: CardArray, window: int, rows: int, fill: int
    ) -> CardArray:
        """The same on the card: up to `fill` chains side by side cost no more than one."""
        bases = self._new(task, base.modulus, rows)
        self._copy(task, self._rows(task, base, 0, 1), self._view(bases, 0, 1, 1))
        known = 1
        while known < rows:
            ahead = min(known, fill)
            self._issue(
                task, Opcode.SQR, base.modulus, count=min(ahead, rows - known),
                length=window * ahead, src_a=bases.address + (known - ahead) * bases.stride,
                stride_a=bases.stride, dst=bases.address + known * bases.stride,
                stride_dst=bases.stride,
            )  # fmt: skip
            known += ahead
        return bases

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
        begin, lengths = offsets[:-1], np.diff(offsets)
        machine = self.machine(x.modulus)
        longest = max(2, self._card.staging_bytes // 4)
        for chunk in machine.chunks(lengths, longest):
            counts = np.maximum(1, -(-lengths // chunk))
            starts = np.cumsum(counts) - counts
            segment = np.repeat(np.arange(len(lengths)), counts)
            done = (np.arange(len(segment)) - starts[segment]) * chunk
            sizes = np.minimum(lengths[segment] - done, chunk)
            x, index = self._products(task, machine, x, index, begin[segment] + done, sizes)
            begin, lengths = starts, counts
        every = np.arange(len(x))
        if (index == every).all():
            return x
        result = self._new(task, x.modulus, len(x))
        self._gather(task, x, index, every, np.ones_like(every), result)
        return result

    def _products(
        self, task: Task, machine: Machine, x: CardArray, index: Index, begin: Index, sizes: Index
    ) -> tuple[CardArray, Index]:
        """``prod(x[index[begin[j] : begin[j] + sizes[j]]])`` for all j, and where each one is.

        Products of about as many factors share a command.
        """
        result = self._new(task, x.modulus, len(sizes))
        cuts = machine.batches(np.maximum(sizes, 1))
        order = np.arange(len(sizes))
        if len(cuts) > 2:
            order = np.argsort(-sizes, kind="stable")
        for lo, hi in pairwise(cuts):
            rows = order[lo:hi]
            target = self._view(result, lo, 1, hi - lo)
            self._gather(task, x, index, begin[rows], sizes[rows], target)
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        return result, place

    # ------------------------------------------------------------------------- products of powers

    def _multi_pow_parts(
        self, task: Task, x: CardArray, e: Index, bits: int, *, buckets: bool
    ) -> CardArray:
        """Simultaneous powers; when memory is short, of half the bases at a time."""
        try:
            with self._pins():
                return self._multi_pow(task, self._rows(task, x, 0, len(x)), e, bits, buckets)
        except DeviceMemoryError:
            if len(x) < 2:
                raise
        cut = len(x) // 2
        halves = []
        for lo, hi in ((0, cut), (cut, len(x))):
            part = self._part(x, lo, hi)
            made = self._multi_pow_parts(task, part, e[lo:hi], bits, buckets=buckets)
            halves.append(self._spill(made))
        first, second = (self._upload(task, x.modulus, half) for half in halves)
        return self._mul(task, first, second)

    def _multi_pow(self, task: Task, x: CardArray, e: Index, bits: int, buckets: bool) -> CardArray:
        """All exponents made non-negative by ``2**bits``, the excess divided out at the end."""
        m = e.shape[1]
        if len(x) == 0:
            one = to_limbs([mpz(1)] * m, x.modulus.limbs)
            return self._upload(task, x.modulus, one)
        shifted = np.ones(len(x), bool)
        result, excess = self._powers(task, x, e, bits, shifted, buckets)
        inverse = self._excess_inverse(task, excess, bits)
        if inverse is None:
            shifted = (e < 0).any(axis=1)
            result, excess = self._powers(task, x, e, bits, shifted, buckets)
            inverse = self._excess_inverse(task, excess, bits)
            if inverse is None:
                self._refuse_inverses(
                    task, self._take(task, x, np.flatnonzero(shifted)),
                    "a base with a negative exponent has no inverse",
                )  # fmt: skip
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
        self, task: Task, x: CardArray, e: Index, bits: int, shifted: NDArray[np.bool_],
        buckets: bool,
    ) -> tuple[CardArray, CardArray]:  # fmt: skip
        """``prod_i x[i] ** (e[i, j] + (shifted[i] << bits))`` for all j; product of the shifted.

        Output j and digit position t make one group, t-major. Horner's rule joins the positions.
        """
        n, m = e.shape
        raised = (e + (shifted.astype(np.int64) << bits)[:, np.newaxis]).astype(np.uint64)
        chosen, window = self.machine(x.modulus).multi_pow_plan(n, m, bits + 1, buckets=buckets)
        positions = -(-(bits + 1) // window)
        shifts = np.arange(positions, dtype=np.uint64) * np.uint64(window)
        mask = np.uint64((1 << window) - 1)

        def digits(lo: int, hi: int) -> NDArray[np.uint8]:
            """``(positions * m, hi - lo)`` digits of these bases' exponents."""
            cut = raised[lo:hi].T >> shifts[:, np.newaxis, np.newaxis] & mask
            return cut.astype(np.uint8).reshape(positions * m, hi - lo)

        if chosen:
            groups, excess = self._collect_buckets(task, x, digits(0, n), shifted, window)
        else:
            groups, excess = self._look_up_powers(task, x, digits, positions * m, shifted, window)
        result = self._view(groups, (positions - 1) * m, 1, m)
        for position in reversed(range(positions - 1)):
            squared = self._square(task, result, window)
            result = self._mul(task, squared, self._view(groups, position * m, 1, m))
        return result, excess

    def _look_up_powers(
        self, task: Task, x: CardArray, digits: Callable[[int, int], NDArray[np.uint8]],
        groups: int, shifted: NDArray[np.bool_], window: int,
    ) -> tuple[CardArray, CardArray]:  # fmt: skip
        """Straus: products of entries of the bases' power tables, one context a group.

        A last context multiplies the shifted bases.
        """
        n, modulus = len(x), x.modulus
        row_bytes = self._modulus(modulus).layout.residue_bytes << window
        rows = min(
            self._card.capabilities.max_exponent_bits // window,
            max(1, _TABLE_BYTES // row_bytes),
        )
        contexts: CardArray | None = None
        for lo in range(0, n, rows):
            hi = min(lo + rows, n)
            table = self._allocate((hi - lo) * row_bytes)
            self._issue(
                task, Opcode.TABLE, modulus, window=window, count=hi - lo,
                src_a=x.address + lo * x.stride, stride_a=x.stride,
                dst=table.address, stride_dst=row_bytes >> window,
            )  # fmt: skip
            strings = pack_digits(np.vstack([digits(lo, hi), shifted[lo:hi]]), window)
            contexts = self._lookup(
                task, Opcode.MULTI_POW, modulus, table.address, window, hi - lo, strings, contexts
            )
        assert contexts is not None
        return self._view(contexts, 0, 1, groups), self._view(contexts, groups, 1, 1)

    def _collect_buckets(
        self, task: Task, x: CardArray, digits: NDArray[np.uint8], shifted: NDArray[np.bool_],
        window: int,
    ) -> tuple[CardArray, CardArray]:  # fmt: skip
        """Pippenger: bucket d of a group is the product of the bases with digit d there.

        ``prod_d bucket_d ** d`` is the product of all the products of buckets from the last one
        down.
        """
        groups = len(digits)
        buckets = (1 << window) - 1
        group, base = np.nonzero(digits)
        segment = (digits[group, base].astype(np.int64) - 1) * groups + group
        order = np.argsort(segment, kind="stable")
        lengths = np.bincount(segment, minlength=buckets * groups)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        collected = self._prod(task, x, base[order], offsets)
        raised = np.flatnonzero(shifted)
        excess = self._prod(task, x, raised, np.array([0, len(raised)]))
        running = result = self._view(collected, (buckets - 1) * groups, 1, groups)
        for bucket in reversed(range(buckets - 1)):
            view = self._view(collected, bucket * groups, 1, groups)
            running = self._mul(task, running, view)
            result = self._mul(task, result, running)
        return result, excess

    # ------------------------------------------------------------------------ a modulus an element

    def _pow_moduli(
        self, task: Task, moduli: list[int], bases: Limbs, exponents: Limbs, bits: int
    ) -> Limbs:
        """Powers modulo odd numbers of one k, equal ones side by side; in one transfer."""
        card = self._card
        layouts = [card.capabilities.layout(value) for value in moduli]
        first, n = layouts[0], len(moduli)
        size = first.residue_bytes
        starts = [0, *(i for i in range(1, n) if moduli[i] != moduli[i - 1])]
        runs = list(zip(starts, [*starts[1:], n], strict=True))
        blocks = [layouts[lo].block() for lo, _ in runs]
        x, y = self._allocate(n * size), self._allocate(n * size)
        digits = digits_from_limbs(bases, first.digits, first.word_bits)
        strings = exponent_strings(exponents, bits)
        for (lo, hi), block in zip(runs, blocks, strict=True):
            card.issue_beside(
                task, Opcode.TO_MONT, first, block, digits[lo:hi].view(np.uint8), count=hi - lo,
                stride_a=size, dst=x.address + lo * size, stride_dst=size,
            )  # fmt: skip
        each = np.repeat(np.stack(blocks), [hi - lo for lo, hi in runs], axis=0)
        card.issue_beside(
            task, Opcode.POW, first, each, strings, window=4, length=bits, count=n,
            flags=CommandFlag.MODULUS_PER_ELEMENT, src_a=x.address, stride_a=size,
            stride_b=first.block_bytes, stride_e=strings.shape[1], dst=y.address, stride_dst=size,
        )  # fmt: skip
        receiver = card.take_receiver(n * size)
        try:
            for (lo, hi), block in zip(runs, blocks, strict=True):
                card.issue_beside(
                    task, Opcode.FROM_MONT, first, block, block[:0], count=hi - lo,
                    src_a=y.address + lo * size, stride_a=size,
                    dst=receiver.physical_address + lo * size, stride_dst=size,
                )  # fmt: skip
            card.wait(task)
            words = receiver.read(0, n * size).view("<u8").reshape(n, first.digits)
        finally:
            card.give_receiver(receiver)
        return limbs_from_digits(words, bases.shape[1], first.word_bits)

    def _moduli_rows(self, modulus: int, bits: int) -> int:
        """How many such powers one transfer carries."""
        layout = self._card.capabilities.layout(modulus)
        string = -(-bits // 128) * 16
        return self._card.staging_bytes // (layout.block_bytes + max(string, layout.residue_bytes))

    # ----------------------------------------------------------------------------------- inverses

    def _refuse_inverses(self, task: Task, x: CardArray, reason: str) -> NoReturn:
        """Raise that a residue of `x` has no inverse, unless it was the card that spoiled them."""
        self._verify()
        modulus = mpz(x.modulus.value)
        if all(gmpy2.gcd(value, modulus) == 1 for value in from_limbs(self._fetch(task, x))):
            self._retire(CorruptResult(f"the card computed a wrong product in {task.name}"))
        raise BackendError(reason)

    def _inverse(self, task: Task, x: CardArray) -> CardArray:
        """Products of pairs up to a short top, inverted on the host, and back down.

        Raises ZeroDivisionError if one of those at the top has no inverse.
        """
        modulus = x.modulus
        if len(x) <= _TREE_TOP:
            inverted = inverse_var(mpz(modulus.value), from_limbs(self._fetch(task, x)))
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
