"""The GPU backend: residues in Montgomery form on a CUDA device, a group of threads a number."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import gmpy2
import numpy as np
from gmpy2 import mpz
from numpy.typing import NDArray

from residue._limbs import from_limbs, to_limbs
from residue.backends._counted import Counted
from residue.backends._gpu_build import GROUPS, Shape, largest_bits, shape_for
from residue.backends._gpu_device import Buffer, GpuDevice
from residue.backends._gpu_plans import (
    WIDEST,
    GpuMachine,
    PowerPlan,
    block_words,
    comb_window,
    cut,
    modulus_block,
    one_at,
    power_plan,
    straus_plan,
)
from residue.backends._protocol import Limbs, Modulus, OperationStats, ResidueArray
from residue.backends._validate import (
    broadcast_length,
    check_exponents,
    check_index,
    check_modulus,
    check_offsets,
    check_pow_moduli,
    check_residues,
    check_short_exponents,
)
from residue.errors import BackendError, CorruptResult, DeviceError

__all__ = ["GpuArray", "GpuBackend"]

Index = NDArray[np.int64]

_TABLE_BYTES = 256 << 20  # of the tables that multi_pow makes at a time


class GpuArray:
    """Residues in a GPU's memory, in Montgomery form; immutable."""

    __slots__ = ("__weakref__", "_backend", "_event", "_length", "_modulus", "buffer", "combs")

    def __init__(self, backend: GpuBackend, modulus: Modulus, buffer: Buffer, length: int) -> None:
        self._backend = backend
        self._modulus = modulus
        self._length = length
        self._event = backend.device.record()
        self.buffer = buffer
        self.combs: dict[int, Buffer] = {}  # of an array of one: exponent bits -> comb table
        backend.arrays.add(self)

    @property
    def backend(self) -> GpuBackend:
        """The backend that holds the array."""
        return self._backend

    @property
    def modulus(self) -> Modulus:
        """The modulus of all elements."""
        return self._modulus

    def __len__(self) -> int:
        return self._length

    def wait(self) -> None:
        """Return when the array is computed; raise the `DeviceError` of a device that failed."""
        self._backend.wait(self._event)


class GpuBackend(Counted):
    """`Backend` on one CUDA device.

    Operations are queued and return at once; arrays stay on the device. Rows are copied in pieces
    on a stream of their own. The host waits in `download`, `inverse`, `multi_pow`, `pow_moduli`.

    `pow`, `pow_moduli`, `pow_fixed` and `multi_pow` read their tables as a whole: the kernels'
    branches and addresses depend on public sizes, indices and offsets alone. `pow_var` and
    `multi_pow_var` look tables up by exponent digits. One product is inverted on the host in
    `inverse`, `multi_pow` and `multi_pow_var`, in variable time.

    Args:
        device: the device.
        threads: threads a number, 4, 8, 16 or 32; None: by the size of the modulus.
    """

    def __init__(self, device: GpuDevice, *, threads: int | None = None) -> None:
        if threads not in (None, *GROUPS):
            raise BackendError(f"a number takes 4, 8, 16 or 32 threads, not {threads}")
        super().__init__()
        self.device = device
        self._threads = threads
        self._blocks: dict[tuple[int, Shape], Buffer] = {}  # moduli, as the kernels read them
        self.arrays: weakref.WeakSet[GpuArray] = weakref.WeakSet()
        self._process = os.getpid()
        self._failed = False
        self._closed = False

    @property
    def name(self) -> str:
        """``gpu``."""
        return "gpu"

    def describe(self) -> dict[str, str | int | float | bool]:
        """The device, its processors, clock and memory, whether it is healthy."""
        device = self.device
        major, minor = device.capability
        return {
            "name": "gpu",
            "device": device.name,
            "ordinal": device.ordinal,
            "compute_capability": f"{major}.{minor}",
            "multiprocessors": device.processors,
            "clock_hz": device.clock_hz,
            "memory_bytes": device.memory_bytes,
            "max_modulus_bits": largest_bits(self._threads),
            "healthy": not self._closed and not self._failed,
        }

    # ------------------------------------------------------------------------------------- arrays

    def register(self, modulus: int) -> Modulus:
        """Make a modulus known. Raises `BackendError` if even, < 2**64 or too large."""
        check_modulus(modulus)
        known = Modulus(int(modulus))
        self._shape(known)
        return known

    def upload(self, modulus: Modulus, values: Limbs) -> GpuArray:
        """Copy ``(n, modulus.limbs) uint64`` canonical residues to the device."""
        check_residues(modulus, values)
        with self._guard():
            return self._enter(modulus, values)

    def download(self, a: ResidueArray) -> Limbs:
        """Canonical residues ``(n, modulus.limbs) uint64``; waits for the array."""
        with self._guard():
            x = self._own(a)
            shape, block = self._shape(x.modulus), self._block(x.modulus)
            return self._leave(shape, x.buffer, block, len(x), x.modulus.limbs)

    def take(self, a: ResidueArray, index: Index) -> GpuArray:
        """Gather ``a[index[j]]``."""
        with self._guard():
            x = self._own(a)
            check_index(index, len(x))
            places = self.device.upload(index.astype(np.int64))
            out = self._numbers(x.modulus, len(index))
            self._launch(x.modulus, "take", len(index), out, x.buffer, places)
            return GpuArray(self, x.modulus, out, len(index))

    def concat(self, parts: list[ResidueArray]) -> GpuArray:
        """Join arrays of one modulus."""
        if not parts:
            raise BackendError("nothing to concatenate")
        with self._guard():
            modulus = parts[0].modulus
            own = [self._own(part, modulus) for part in parts]
            return self._joined(modulus, [(part.buffer, len(part)) for part in own])

    # --------------------------------------------------------------------------------- arithmetic

    def mul(self, a: ResidueArray, b: ResidueArray) -> GpuArray:
        """Element-wise product; a length of one broadcasts. Constant time."""
        with self._guard():
            x = self._own(a)
            y = self._own(b, x.modulus)
            n = broadcast_length(len(x), len(y))
            with self._count("mul", x.modulus, n, n):
                out = self._mul(x.modulus, x.buffer, len(x), y.buffer, len(y), n)
                return GpuArray(self, x.modulus, out, n)

    def pow(self, a: ResidueArray, exponents: Limbs, bits: int) -> GpuArray:
        """Element-wise powers, constant time in residues and exponents."""
        return self._pow("pow", "pow_sec", a, exponents, bits)

    def pow_var(self, a: ResidueArray, exponents: Limbs, bits: int) -> GpuArray:
        """`pow` with tables that are looked up by exponent digits."""
        return self._pow("pow_var", "pow_var", a, exponents, bits)

    def pow_fixed(self, base: ResidueArray, exponents: Limbs, bits: int) -> GpuArray:
        """Powers of one base by a comb table, which is kept with `base`. Constant time."""
        with self._guard():
            x = self._own(base)
            if len(x) != 1:
                raise BackendError(f"pow_fixed takes one base, not {len(x)}")
            check_exponents(exponents, bits)
            n, words = len(exponents), self._shape(x.modulus).words
            window = comb_window(words)
            rows = -(-bits // window)
            products = n * (rows - 1)
            if bits not in x.combs:
                products += rows * ((1 << window) - 2 + window)
            with self._count("pow_fixed", x.modulus, n, products):
                table = self._comb(x, bits, rows, window)
                e = self.device.upload(exponents)
                out = self._numbers(x.modulus, n)
                self._launch(
                    x.modulus, "comb", n,
                    out, table, e, 2 * exponents.shape[1], rows, window, self._block(x.modulus),
                )  # fmt: skip
                return GpuArray(self, x.modulus, out, n)

    def prod(self, a: ResidueArray, index: Index, offsets: Index) -> GpuArray:
        """Gathered segmented product. Constant time in residues; index and offsets are public."""
        with self._guard():
            x = self._own(a)
            check_index(index, len(x))
            check_offsets(offsets, len(index))
            n = len(offsets) - 1
            with self._count("prod", x.modulus, n, len(index)):
                out = self._prod(x.modulus, x.buffer, index.astype(np.int64), offsets)
                return GpuArray(self, x.modulus, out, n)

    def multi_pow(self, a: ResidueArray, exponents: Index, bits: int) -> GpuArray:
        """Simultaneous powers with short signed exponents, whose values steer no kernel."""
        return self._multi_pow("multi_pow", "straus_sec", a, exponents, bits)

    def multi_pow_var(self, a: ResidueArray, exponents: Index, bits: int) -> GpuArray:
        """`multi_pow` with tables that are looked up by exponent digits."""
        return self._multi_pow("multi_pow_var", "straus_var", a, exponents, bits)

    def pow_moduli(
        self, moduli: Sequence[Modulus], bases: Limbs, exponents: Limbs, bits: int
    ) -> Limbs:
        """Powers that have a modulus each, constant time in residues and exponents."""
        check_pow_moduli(moduli, bases, exponents, bits)
        n = len(moduli)
        with self._guard():
            if not n:
                return np.zeros_like(bases)
            largest = max(moduli, key=lambda modulus: modulus.bits)
            shape = self._shape(largest)
            plan = power_plan(bits, shape)
            with self._count("pow_moduli", largest, n, n * plan.products):
                rows = {value: modulus_block(shape, value) for value in {m.value for m in moduli}}
                block = self.device.upload(np.stack([rows[m.value] for m in moduli]))
                stride = block_words(shape)
                # Limbs beyond the shape's words are zero: each base is below its modulus.
                limbs = min(bases.shape[1], shape.words // 2)
                powers = np.zeros_like(bases)
                with self.device.receiving(powers[:, :limbs]) as receive:
                    # A piece is computed with while the next comes in and the last goes out.
                    for start, k in self.device.pieces(n, 8 * limbs, self.device.slots(shape)):
                        at = block.address + 4 * stride * start
                        x = self._enter_plain(shape, bases[start : start + k, :limbs], at, stride)
                        e = exponents[start : start + k] if len(exponents) > 1 else exponents
                        out = self._powers(shape, "pow_sec", x, k, e, plan, at, stride)
                        self._leave_to(receive, shape, out, at, stride, start, k, limbs)
                return powers

    def inverse(self, a: ResidueArray) -> GpuArray:
        """Element-wise inverses by a tree of products; the host inverts its root."""
        with self._guard():
            x = self._own(a)
            with self._count("inverse", x.modulus, len(x), 3 * max(0, len(x) - 1)):
                out = self._inverse(x.modulus, x.buffer, len(x))
                return GpuArray(self, x.modulus, out, len(x))

    def machine(self, modulus: Modulus) -> GpuMachine:
        """The device at work on a modulus. `BackendError` if that is too large."""
        shape, processors = self._shape(modulus), self.device.processors
        return GpuMachine(shape, processors, self.device.slots(shape) // processors)

    # ------------------------------------------------------------------------------- housekeeping

    def wait(self, event: Any) -> None:
        """Return when the work before `event` is done."""
        if self._closed:
            raise BackendError("this GPU backend is closed")
        try:
            self.device.wait(event)
        except DeviceError:
            self._failed = True
            raise

    def synchronize(self) -> None:
        """Return when everything queued is done."""
        with self._guard():
            self.device.synchronize()

    def self_test(self) -> None:
        """Raise `CorruptResult` if powers and products modulo 2**521 - 1 are wrong here."""
        modulus = self.register((1 << 521) - 1)
        values = [mpz(3) ** (50 * i) % modulus.value for i in range(1, 100)]
        a = self.upload(modulus, to_limbs(values, modulus.limbs))
        e = np.arange(1 << 16, (1 << 16) + len(values), dtype=np.uint64).reshape(-1, 1)
        powers = self.mul(self.pow(a, e, 17), a)
        expected = [
            gmpy2.powmod(value, int(exponent) + 1, modulus.value)
            for value, exponent in zip(values, e[:, 0], strict=True)
        ]
        if from_limbs(self.download(powers)) != expected:
            raise CorruptResult(f"GPU {self.device.ordinal} computes wrong powers")

    def stats(self) -> dict[str, OperationStats]:
        """What each operation has cost since the last `reset_stats`; the host's time to queue it.

        Products are those that the plans count, conversions left out.
        """
        return super().stats()

    def clear_secrets(self) -> None:
        """Zero moduli, tables, operands and freed arrays in device memory; staging on the host.

        Arrays in use stay; what they need is made again.
        """
        with self._guard():
            self._erase()

    def close(self) -> None:
        """Erase arrays too; operations raise `BackendError` from now on."""
        if not self._closed:
            try:
                with self._guard():
                    for array in list(self.arrays):
                        self.device.erase(array.buffer)
                    self._erase()
            finally:
                self._closed = True

    def _erase(self) -> None:
        for array in list(self.arrays):
            array.combs.clear()
        self._blocks.clear()
        self.device.erase_free()

    # ------------------------------------------------------------------------------------ private

    @contextmanager
    def _guard(self) -> Iterator[None]:
        with self._lock:
            if self._closed:
                raise BackendError("this GPU backend is closed")
            if os.getpid() != self._process:
                raise BackendError("a GPU does not follow into a forked process: open it there")
            try:
                with self.device.active():
                    yield
            except DeviceError:
                self._failed = True
                raise

    def _own(self, a: ResidueArray, modulus: Modulus | None = None) -> GpuArray:
        if not isinstance(a, GpuArray) or a.backend is not self:
            raise BackendError("the array lives on another backend; download and upload it")
        if modulus is not None and a.modulus != modulus:
            raise BackendError("the arrays have different moduli")
        return a

    def _shape(self, modulus: Modulus) -> Shape:
        return shape_for(modulus.bits, self._threads)

    def _block(self, modulus: Modulus) -> Buffer:
        """What the kernels need of a modulus, on the device."""
        key = (modulus.value, self._shape(modulus))
        if key not in self._blocks:
            self._blocks[key] = self.device.upload(modulus_block(key[1], modulus.value))
        return self._blocks[key]

    def _numbers(self, modulus: Modulus, count: int) -> Buffer:
        return self.device.allocate(max(1, count) * 4 * self._shape(modulus).words)

    def _launch(self, modulus: Modulus, kernel: str, count: int, *arguments: Buffer | int) -> None:
        self.device.launch(self._shape(modulus), kernel, count, *arguments)

    def _enter(self, modulus: Modulus, values: Limbs) -> GpuArray:
        shape = self._shape(modulus)
        out = self._enter_plain(shape, values, self._block(modulus), 0)
        return GpuArray(self, modulus, out, len(values))

    def _enter_plain(self, shape: Shape, values: Limbs, block: Buffer | int, stride: int) -> Buffer:
        """Montgomery form of rows on the host; `stride` words from one's modulus to the next's."""
        n, limbs = values.shape
        size, row = 4 * shape.words, 8 * limbs
        out = self.device.allocate(max(1, n) * size)
        with self.device.sending(n * row) as send:
            for start, k in self.device.pieces(n, row):
                plain = send(start * row, values[start : start + k])
                self.device.launch(
                    shape, "enter", k,
                    out.address + start * size, plain, 2 * limbs,
                    _address(block) + 4 * stride * start, stride,
                )  # fmt: skip
        return out

    def _leave(self, shape: Shape, x: Buffer, block: Buffer, n: int, limbs: int) -> Limbs:
        values = np.empty((n, limbs), np.uint64)
        with self.device.receiving(values) as receive:
            self._leave_to(receive, shape, x, block, 0, 0, n, limbs)
        return values

    def _leave_to(
        self, receive: Callable[[Buffer, int, int], None], shape: Shape, x: Buffer,
        block: Buffer | int, stride: int, first: int, n: int, limbs: int,
    ) -> None:  # fmt: skip
        """Send numbers to rows `first` and so on of the host."""
        for start, k in self.device.pieces(n, 8 * limbs):
            plain = self.device.allocate(k * 8 * limbs)
            self.device.launch(
                shape, "leave", k,
                plain, x.address + 4 * shape.words * start, 2 * limbs,
                _address(block) + 4 * stride * start, stride,
            )  # fmt: skip
            receive(plain, first + start, k)

    def _joined(self, modulus: Modulus, parts: Sequence[tuple[Buffer, int]]) -> GpuArray:
        size = 4 * self._shape(modulus).words
        total = sum(length for _, length in parts)
        out, at = self._numbers(modulus, total), 0
        for buffer, length in parts:
            self.device.copy(out, at, buffer, 0, length * size)
            at += length * size
        return GpuArray(self, modulus, out, total)

    def _mul(self, modulus: Modulus, x: Buffer, xs: int, y: Buffer, ys: int, n: int) -> Buffer:
        out = self._numbers(modulus, n)
        self._launch(
            modulus, "mul", n, out, 1, x, int(xs > 1), y, int(ys > 1), self._block(modulus)
        )
        return out

    def _pow(
        self, operation: str, kernel: str, a: ResidueArray, exponents: Limbs, bits: int
    ) -> GpuArray:
        with self._guard():
            x = self._own(a)
            check_exponents(exponents, bits, len(x))
            shape = self._shape(x.modulus)
            plan = power_plan(bits, shape)
            with self._count(operation, x.modulus, len(x), len(x) * plan.products):
                block = self._block(x.modulus)
                out = self._powers(shape, kernel, x.buffer, len(x), exponents, plan, block, 0)
                return GpuArray(self, x.modulus, out, len(x))

    def _powers(
        self, shape: Shape, kernel: str, x: Buffer, n: int, exponents: Limbs, plan: PowerPlan,
        block: Buffer | int, stride: int,
    ) -> Buffer:  # fmt: skip
        e, words = self.device.upload(exponents), 2 * exponents.shape[1]
        size = 4 * shape.words
        tables = self.device.allocate((self.device.slots(shape, max(1, n)) << plan.window) * size)
        out = self.device.allocate(max(1, n) * size)
        self.device.launch(
            shape, kernel, n,
            out, x, e, words if len(exponents) > 1 else 0, words, plan.bits, plan.window,
            tables, block, stride,
        )  # fmt: skip
        return out

    def _comb(self, base: GpuArray, bits: int, rows: int, window: int) -> Buffer:
        """``[row][d]`` is ``base ** (d << (row * window))``; kept with the base."""
        if bits not in base.combs:
            modulus, size = base.modulus, 4 * self._shape(base.modulus).words
            block = self._block(modulus)
            table = self.device.allocate((rows << window) * size)
            self._launch(modulus, "comb_steps", 1, table, base.buffer, rows, window, block)
            steps = table.address + size
            self._launch(modulus, "fill", rows, table, steps, 1 << window, window, block)
            base.combs[bits] = table
        return base.combs[bits]

    def _prod(self, modulus: Modulus, x: Buffer, index: Index, offsets: Index) -> Buffer:
        """Products of pieces of the segments, then of those, until each segment is one."""
        while True:
            pieces, cuts = cut(offsets)
            count = len(cuts) - 1
            places, bounds = self.device.upload(index), self.device.upload(cuts)
            out = self._numbers(modulus, count)
            self._launch(modulus, "prod", count, out, x, places, bounds, self._block(modulus))
            if count == len(pieces):
                return out
            x, index = out, np.arange(count, dtype=np.int64)
            offsets = np.concatenate([[0], np.cumsum(pieces)])

    def _multi_pow(
        self, operation: str, kernel: str, a: ResidueArray, exponents: Index, bits: int
    ) -> GpuArray:
        """Signs are hidden by an offset: e + 2**bits is positive, and one factor corrects all."""
        with self._guard():
            x = self._own(a)
            check_short_exponents(exponents, bits, len(x))
            modulus, (n, m) = x.modulus, exponents.shape
            if not n or not m:
                none = np.zeros(0, np.int64)
                ones = self._prod(modulus, x.buffer, none, np.zeros(m + 1, np.int64))
                return GpuArray(self, modulus, ones, m)
            with self._count(operation, modulus, m, 0) as cost:
                bases, parts = x.buffer, []
                try:
                    parts.append((self._correction(modulus, bases, n, bits), 1))
                    shifted = exponents + np.int64(1 << bits)
                    cost.products += n + bits
                except ZeroDivisionError:  # some base has no inverse: invert what must be
                    negative = np.flatnonzero((exponents < 0).any(axis=1))
                    inverses = self._inverse(modulus, self.take(x, negative).buffer, len(negative))
                    bases = self._joined(modulus, [(bases, n), (inverses, len(negative))]).buffer
                    shifted = np.vstack([exponents, -exponents[negative]]).clip(min=0)
                    n += len(negative)
                    cost.products += 3 * len(negative)
                block, shape = self._block(modulus), self._shape(modulus)
                size = 4 * shape.words
                step = max(1, _TABLE_BYTES // (size << WIDEST))
                for start in range(0, n, step):
                    k = min(step, n - start)
                    plan = straus_plan(k, m, bits + 1, shape, self.device.slots(shape))
                    window, count = plan.window, plan.shares * m
                    tables = self.device.allocate((k << window) * size)
                    first = bases.address + start * size
                    self._launch(modulus, "fill", k, tables, first, 1, window, block)
                    e = self.device.upload(shifted[start : start + k].astype(np.uint64))
                    out = self._numbers(modulus, count)
                    self._launch(
                        modulus, kernel, count,
                        out, tables, e, k, m, plan.share, bits + 1, window, block,
                    )  # fmt: skip
                    parts.append((out, count))
                    cost.products += plan.products + count
                every = np.arange(sum(count for _, count in parts))
                common, own = every[: len(every) % m], every[len(every) % m :].reshape(-1, m)
                index = np.vstack([np.repeat(common[:, None], m, axis=1), own]).T
                offsets = np.arange(m + 1) * index.shape[1]
                joined = self._joined(modulus, parts).buffer
                out = self._prod(modulus, joined, index.ravel(), offsets)
                return GpuArray(self, modulus, out, m)

    def _correction(self, modulus: Modulus, bases: Buffer, n: int, bits: int) -> Buffer:
        """The inverse of all bases' product to the power ``2**bits``."""
        product = self._prod(modulus, bases, np.arange(n), np.array([0, n]))
        shape, block = self._shape(modulus), self._block(modulus)
        e = np.array([[1 << bits]], np.uint64)
        plan = power_plan(bits + 1, shape)
        power = self._powers(shape, "pow_var", product, 1, e, plan, block, 0)
        return self._inverted(modulus, power)

    def _inverse(self, modulus: Modulus, x: Buffer, n: int) -> Buffer:
        """Products of pairs up to one, its inverse on the host, and the same way down."""
        shape, block = self._shape(modulus), self._block(modulus)
        size = 4 * shape.words
        levels = []  # of even length, filled up with 1
        while n > 1:
            half = -(-n // 2)
            level = self._numbers(modulus, 2 * half)
            self.device.copy(level, 0, x, 0, n * size)
            self.device.copy(level, n * size, block, one_at(shape), (2 * half - n) * size)
            levels.append((level, half))
            x = self._numbers(modulus, half)
            other = level.address + size
            self._launch(modulus, "mul", half, x, 1, level, 2, other, 2, block)
            n = half
        if n:
            try:
                x = self._inverted(modulus, x)
            except ZeroDivisionError as error:
                raise BackendError("a residue has no inverse modulo its modulus") from error
        for level, half in reversed(levels):
            out = self._numbers(modulus, 2 * half)
            for mine, other in ((0, size), (size, 0)):
                self._launch(
                    modulus, "mul", half,
                    out.address + mine, 2, x, 1, level.address + other, 2, block,
                )  # fmt: skip
            x = out
        return x

    def _inverted(self, modulus: Modulus, x: Buffer) -> Buffer:
        """The inverse of one residue, by the host, in variable time. Raises ZeroDivisionError."""
        shape, block = self._shape(modulus), self._block(modulus)
        (value,) = from_limbs(self._leave(shape, x, block, 1, modulus.limbs))
        inverse = gmpy2.invert(value, modulus.value)
        return self._enter_plain(shape, to_limbs([inverse], modulus.limbs), block, 0)


def _address(memory: Buffer | int) -> int:
    return memory.address if isinstance(memory, Buffer) else memory
