"""Arrays in the card's memory: how operations are framed, and where residues are kept.

Memory follows the arrays: what does not fit moves to the host and comes back when it is used.
"""

from __future__ import annotations

import contextlib
import time
import weakref
from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import NoReturn

import numpy as np
from gmpy2 import mpz
from numpy.typing import NDArray

from residue._limbs import from_limbs
from residue._trace import note_command, note_operation, recorder
from residue.backends._card_checks import Identity, Proof
from residue.backends._counted import Counted
from residue.backends._protocol import Limbs, Modulus, OperationStats, ResidueArray
from residue.backends._validate import below_modulus
from residue.card._abi import Opcode
from residue.card._device import Card, CardModulus
from residue.card._digits import digits_from_limbs, limbs_from_digits
from residue.card._memory import Block, DeviceMemoryError
from residue.card._queue import Task
from residue.card._records import CommandRecord
from residue.errors import BackendError, CommandFailed, CorruptResult, DeviceError

__all__ = ["CardArray", "CardArrays", "Index"]

Index = NDArray[np.int64]

_MAX_STRIDE = 16 * 0xFFFF


class _Storage:
    """Card memory of `length` residues and, after them, room for ONE: the neutral factor."""

    __slots__ = ("block", "length", "one")

    def __init__(self, block: Block, length: int) -> None:
        self.block = block
        self.length = length
        self.one: Task | None = None  # what wrote ONE


class CardArray:
    """Residues in the card's memory, in Montgomery form; or on the host when the card is full.

    Arrays may share memory: each is every `stride`-th byte of its storage from `address` on.
    """

    __slots__ = (
        "__weakref__", "_backend", "_length", "_modulus",
        "address", "host", "storage", "stride", "task",
    )  # fmt: skip

    def __init__(self, backend: CardArrays, modulus: Modulus, length: int) -> None:
        self._backend = backend
        self._modulus = modulus
        self._length = length
        self.storage: _Storage | None = None
        self.address = 0
        self.stride = 0
        self.host: Limbs | None = None
        self.task: Task | None = None

    @property
    def modulus(self) -> Modulus:
        """The modulus of all elements."""
        return self._modulus

    @property
    def backend(self) -> CardArrays:
        """The backend that holds the array."""
        return self._backend

    def __len__(self) -> int:
        return self._length

    def wait(self) -> None:
        """Return when the array is computed; raise the error of the operation that failed."""
        self._backend.wait(self)


@dataclass(frozen=True)
class _Check:
    """Results to be checked before anything is released, by the first proof that can tell."""

    operation: str
    result: CardArray
    proofs: list[Proof]


class CardArrays(Counted):
    """The part of the card backend that owns arrays, memory, locks, statistics and checks.

    Args:
        card: the card.
        check_rate: fraction of results that the host recomputes before any result is released.
    """

    def __init__(self, card: Card, check_rate: float) -> None:
        super().__init__()
        self._card = card
        self._check_rate = check_rate
        self._random = np.random.default_rng()
        self._checks: list[_Check] = []
        self._arrays: weakref.WeakValueDictionary[int, CardArray] = weakref.WeakValueDictionary()
        self._created = 0
        self._pinned: list[weakref.ref[CardArray]] = []
        self._closed = False
        card.queue.observer = self._note

    def wait(self, a: ResidueArray) -> None:
        """Return when `a` is computed and sampled results are checked; raise the error, if any."""
        x = self._own(a)
        with self._guard():
            if x.task is not None:
                self._card.wait(x.task)
            self._verify()

    def _note(self, record: CommandRecord) -> None:
        """Write down a completed command while a profile is taken."""
        if recorder() is not None:
            note_command(self, asdict(record))

    # -------------------------------------------------------------------------- operations' frame

    def _own(self, a: ResidueArray, modulus: Modulus | None = None) -> CardArray:
        if not isinstance(a, CardArray) or a.backend is not self:
            raise BackendError("the array lives on another backend; download and upload it")
        if modulus is not None and a.modulus != modulus:
            raise BackendError("the arrays have different moduli")
        return a

    @contextlib.contextmanager
    def _guard(self) -> Iterator[None]:
        """Hold the card; give it up on a failure that is not that of a single command."""
        with self._lock:
            if self._closed:
                raise BackendError("this card backend is closed")
            try:
                if self._card.queue.error is not None:
                    raise self._card.queue.error.with_traceback(None)
                yield
            except DeviceError as error:
                if self._card.queue.error is None and not isinstance(error, CommandFailed):
                    self._card.queue.fail(error)
                raise

    @contextlib.contextmanager
    def _operation(
        self, name: str, modulus: Modulus | None, elements: int, *operands: CardArray
    ) -> Iterator[Task]:
        """Frame of one operation: its task, its statistics, its operands kept on the card."""
        start = time.perf_counter()
        with self._guard():
            if modulus is not None:
                self._card.modulus(modulus.value)
            stats = self._stats.setdefault(name, OperationStats())
            done = self._card.queue.done
            for a in operands:
                if a.task is not None and a.task.error is not None:
                    if a.host is None:
                        raise a.task.error.with_traceback(None)
                    a.storage = a.task = None  # to be brought to the card once more
            inputs = [a.task for a in operands if a.task is not None and a.task.last > done]
            task = Task(name, stats, inputs)
            try:
                with self._pins(*operands):
                    yield task
                self._card.kick()
            finally:
                task.closed = True
                task.settle(self._card.queue.done)
                stats.calls += 1
                stats.elements += elements
                end = time.perf_counter()
                stats.host_seconds += end - start
                bits = modulus.bits if modulus is not None else 0
                note_operation(self, name, bits, elements, start, end)

    @contextlib.contextmanager
    def _pins(self, *arrays: CardArray) -> Iterator[None]:
        """Keep these arrays, and those made meanwhile, on the card."""
        before = len(self._pinned)
        self._pinned.extend(map(weakref.ref, arrays))
        try:
            yield
        finally:
            del self._pinned[before:]

    def _split(
        self, n: int, modulus: Modulus, compute: Callable[[int, int], CardArray], start: int = 0
    ) -> CardArray:
        """Compute rows ``[start, n)``; in halves, kept on the host, when memory is short."""
        if n == start:
            return self._empty(modulus)
        try:
            with self._pins():
                return compute(start, n)
        except DeviceMemoryError:
            if n - start == 1:
                raise
        middle = (start + n) // 2
        values = []
        for lo, hi in ((start, middle), (middle, n)):
            part = self._split(hi, modulus, compute, lo)
            values.append(self._spill(part))
            del part
        return self._on_host(modulus, np.concatenate(values))

    # ------------------------------------------------------------------------------ making arrays

    def _modulus(self, modulus: Modulus) -> CardModulus:
        return self._card.modulus(modulus.value)

    def _issue(
        self, task: Task, opcode: Opcode, modulus: Modulus,
        data: NDArray[np.uint8] | None = None, **fields: int,
    ) -> None:  # fmt: skip
        self._card.issue(task, opcode, self._modulus(modulus), data, **fields)

    def _adopt(self, array: CardArray) -> CardArray:
        self._created += 1
        self._arrays[self._created] = array
        return array

    def _empty(self, modulus: Modulus) -> CardArray:
        return self._on_host(modulus, np.zeros((0, modulus.limbs), np.uint64))

    def _on_host(self, modulus: Modulus, values: Limbs) -> CardArray:
        array = CardArray(self, modulus, len(values))
        array.host = values
        return self._adopt(array)

    def _new(self, task: Task, modulus: Modulus, length: int) -> CardArray:
        """An array in card memory that commands of `task` will fill."""
        array = CardArray(self, modulus, length)
        self._place(array, task)
        return self._adopt(array)

    def _place(self, array: CardArray, task: Task) -> None:
        size = self._modulus(array.modulus).layout.residue_bytes
        block = self._allocate((len(array) + 1) * size)
        array.storage = _Storage(block, len(array))
        array.address, array.stride, array.task = block.address, size, task
        self._pinned.append(weakref.ref(array))

    def _view(self, a: CardArray, first: int, step: int, length: int) -> CardArray:
        """Rows ``first, first + step, ...`` of an array on the card, sharing its memory."""
        view = CardArray(self, a.modulus, length)
        view.storage, view.task = a.storage, a.task
        view.address, view.stride = a.address + first * a.stride, step * a.stride
        return self._adopt(view)

    def _rows(self, task: Task, a: CardArray, lo: int, hi: int) -> CardArray:
        """Rows ``[lo, hi)``, on the card; all of an array of one, which broadcasts."""
        if len(a) == 1:
            lo, hi = 0, 1
        if (lo, hi) != (0, len(a)):
            a = self._part(a, lo, hi)
        self._make_resident(task, a)
        return a

    def _part(self, a: CardArray, lo: int, hi: int) -> CardArray:
        """Rows ``[lo, hi)``, wherever they are."""
        if a.storage is None:
            assert a.host is not None
            return self._on_host(a.modulus, a.host[lo:hi])
        return self._view(a, lo, 1, hi - lo)

    def _make_resident(self, task: Task, a: CardArray) -> None:
        """Bring an array that is kept on the host onto the card."""
        if a.storage is None:
            assert a.host is not None
            self._place(a, task)
            self._convert(task, a, a.host)

    # ----------------------------------------------------------------------- to and from the host

    def _upload(self, task: Task, modulus: Modulus, values: Limbs) -> CardArray:
        if len(values) == 0:
            return self._empty(modulus)
        array = self._new(task, modulus, len(values))
        self._convert(task, array, values)
        return array

    def _convert(self, task: Task, array: CardArray, values: Limbs) -> None:
        """Fill an array in card memory, part by part, with residues from the host."""
        layout = self._modulus(array.modulus).layout
        step = self._card.staging_bytes // layout.residue_bytes
        for lo in range(0, len(values), step):
            digits = digits_from_limbs(values[lo : lo + step], layout.digits, layout.word_bits)
            self._issue(
                task, Opcode.TO_MONT, array.modulus, digits.view(np.uint8),
                stride_a=layout.residue_bytes, count=len(digits),
                dst=array.address + lo * array.stride, stride_dst=array.stride,
            )  # fmt: skip

    def _fetch(self, task: Task, a: CardArray) -> Limbs:
        """Canonical residues of an array, wherever it is."""
        if a.host is not None:
            return a.host
        modulus = self._modulus(a.modulus)
        word_bits = modulus.layout.word_bits
        parts = [
            limbs_from_digits(digits, a.modulus.limbs, word_bits)
            for digits in self._card.receive(task, modulus, a.address, a.stride, len(a))
        ]
        values = np.concatenate(parts)
        if not below_modulus(a.modulus, values):
            self._retire(CorruptResult("the card returned a residue that is not canonical"))
        return values

    def _spill(self, a: CardArray) -> Limbs:
        """Canonical residues of an array that gives up its card memory."""
        task = Task("download", self._stats.setdefault("download", OperationStats()))
        if a.task is not None:
            task.inputs.append(a.task)
        values = self._hand_over(task, a)
        a.host, a.storage = values, None
        return values

    def _hand_over(self, task: Task, a: CardArray) -> Limbs:
        """Canonical residues that leave the card for good: a sample is transferred twice."""
        values = self._fetch(task, a)
        if a.host is None and (picked := self._sample(len(a))) is not None:
            lo = int(self._random.integers(len(a) - len(picked) + 1))
            again = self._fetch(task, self._view(a, lo, 1, len(picked)))
            if not np.array_equal(again, values[lo : lo + len(picked)]):
                self._retire(CorruptResult("the card handed a residue over in two versions"))
        return values

    # ------------------------------------------------------------------------------------- memory

    def _allocate(self, nbytes: int) -> Block:
        """Card memory; when it is short, arrays move together, tables go, and arrays to the host.

        Blocks that were given back return as commands complete: rather than take more and more
        memory from the board, wait for them once they are half of what there is.
        """
        memory, queue = self._card.memory, self._card.queue
        if (block := memory.take(nbytes)) is not None:
            return block
        queue.poll()
        if memory.pending < max(nbytes, memory.reserved // 2):
            with contextlib.suppress(DeviceMemoryError):
                return memory.allocate(nbytes)
        self._card.wait_number(queue.submitted)
        with contextlib.suppress(DeviceMemoryError):
            return memory.allocate(nbytes)
        pinned = {id(a.storage) for ref in self._pinned if (a := ref()) is not None}
        if memory.free >= nbytes:
            self._compact(pinned)
            if (block := memory.take(nbytes)) is not None:
                return block
        self._drop_tables(pinned)
        for array in [a for _, a in sorted(self._arrays.items())]:
            if (block := memory.take(nbytes)) is not None:
                return block
            if array.storage is not None and id(array.storage) not in pinned:
                try:
                    self._spill(array)
                except CommandFailed:
                    array.storage = None  # there is nothing to keep, as its user will be told
        return memory.allocate(nbytes)

    def _compact(self, pinned: set[int]) -> None:
        """Copy arrays, on the card, to lower addresses as far as there is room, highest first.

        All commands must be complete, and are again afterwards.
        """
        owners: dict[int, list[CardArray]] = {}
        for array in list(self._arrays.values()):
            if array.storage is not None and id(array.storage) not in pinned:
                owners.setdefault(id(array.storage), []).append(array)

        def address(views: list[CardArray]) -> int:
            assert views[0].storage is not None
            return views[0].storage.block.address

        for views in sorted(owners.values(), key=address, reverse=True):
            if all(a.task is None or a.task.error is None for a in views):
                self._move(views)
        self._card.wait_number(self._card.queue.submitted)

    def _move(self, views: list[CardArray]) -> None:
        """Copy the storage that arrays share to a free place below it, if there is one."""
        storage, modulus = views[0].storage, views[0].modulus
        assert storage is not None
        before = storage.block
        block = self._card.memory.take(before.nbytes, below=before.address)
        if block is None:
            return
        task = Task("compact", self._stats.setdefault("compact", OperationStats()))
        size = self._modulus(modulus).layout.residue_bytes
        self._issue(
            task, Opcode.MUL, modulus, count=storage.length, src_a=before.address, stride_a=size,
            src_b=self._modulus(modulus).one, dst=block.address, stride_dst=size,
        )  # fmt: skip
        task.closed = True
        storage.block, storage.one = block, None
        for view in views:
            view.address += block.address - before.address
            view.task = task

    @abstractmethod
    def _drop_tables(self, pinned: set[int]) -> None:
        """Give up memory of what can be computed again and is not in storages `pinned`."""

    # ---------------------------------------------------------------------------- within the card

    def _multiply(
        self, task: Task, x: CardArray, src_b: int, stride_b: int, target: CardArray
    ) -> None:
        self._issue(
            task, Opcode.MUL, x.modulus, count=len(target),
            src_a=x.address, stride_a=x.stride if len(x) == len(target) else 0,
            src_b=src_b, stride_b=stride_b, dst=target.address, stride_dst=target.stride,
        )  # fmt: skip

    def _copy(self, task: Task, source: CardArray, target: CardArray) -> None:
        """Copy on the card: a product with ONE."""
        self._multiply(task, source, self._modulus(source.modulus).one, 0, target)

    def _gather(
        self, task: Task, x: CardArray, index: Index, begin: Index, sizes: Index, target: CardArray
    ) -> None:
        """``target[j] = prod(x[index[begin[j] : begin[j] + sizes[j]]])``; no factors give 1.

        The card multiplies as many factors for each; shorter ones are filled up with 1. Works in
        pieces of one transfer.
        """
        assert x.storage is not None
        size = self._modulus(x.modulus).layout.residue_bytes
        base = x.storage.block.address
        first, step = (x.address - base) // size, x.stride // size
        length = max(1, int(sizes.max()))
        if int(sizes.min()) < length:
            self._place_one(task, x)
        if not len(index):
            index = np.zeros(1, np.int64)
        rows = np.arange(length)[:, np.newaxis]
        width = self._staged_rows(4 * length)
        for lo in range(0, len(target), width):
            inside = rows < sizes[lo : lo + width]
            at = np.where(inside, begin[lo : lo + width] + rows, 0)
            slots = np.where(inside, first + index.take(at) * step, x.storage.length)
            self._issue(
                task, Opcode.PROD, x.modulus, slots.astype("<u4").view(np.uint8),
                count=slots.shape[1], length=length, src_a=base, stride_a=size,
                dst=target.address + lo * target.stride, stride_dst=target.stride,
            )  # fmt: skip

    def _place_one(self, task: Task, x: CardArray) -> None:
        """Have ONE behind the residues of an array's storage."""
        assert x.storage is not None
        written = x.storage.one
        if written is None or written.error is not None:
            size = self._modulus(x.modulus).layout.residue_bytes
            one, slot = CardArray(self, x.modulus, 1), CardArray(self, x.modulus, 1)
            one.address = self._modulus(x.modulus).one
            slot.address = x.storage.block.address + x.storage.length * size
            one.stride = slot.stride = size
            self._copy(task, one, slot)
            x.storage.one = task
        elif written is not task:
            task.inputs.append(written)

    def _staged_rows(self, width: int) -> int:
        return max(1, self._card.staging_bytes // width)

    def _take(self, task: Task, x: CardArray, index: Index) -> CardArray:
        if x.storage is None:
            assert x.host is not None
            return self._on_host(x.modulus, x.host[index])
        step = int(index[1] - index[0]) if len(index) > 1 else 1
        if 0 < step * x.stride <= _MAX_STRIDE and bool((np.diff(index) == step).all()):
            return self._view(x, int(index[0]), step, len(index))
        result = self._new(task, x.modulus, len(index))
        every = np.arange(len(index))
        self._gather(task, x, index, every, np.ones_like(every), result)
        return result

    # ----------------------------------------------------------------------------------- checking

    def _retire(self, error: DeviceError) -> NoReturn:
        """Give the card up and raise `error`."""
        self._card.queue.fail(error)
        raise error

    def _sample(self, n: int) -> Index | None:
        """Which of `n` results to recompute; None: none of them."""
        picked = np.flatnonzero(self._random.random(n) < self._check_rate)
        return picked if len(picked) else None

    def _check(
        self, operation: str, result: CardArray, picked: Index,
        operands: list[tuple[CardArray, Index]], expected: Callable[..., list[mpz]], each: int,
        identity: Identity | None = None,
    ) -> None:  # fmt: skip
        """Have results checked: by computing `picked` again, or all by `identity` if cheaper.

        Args:
            operation: what made them.
            result: where they are.
            picked: those to compute again.
            operands: arrays, and the rows of them, that this takes.
            expected: computes them.
            each: products that one of them takes, about.
            identity: a proof of all of them.
        """

        def holds(results: list[mpz], *values: list[mpz]) -> bool:
            try:
                return results == expected(*values)
            except ZeroDivisionError:  # what had an inverse has none any more
                return False

        moved = len(picked) + sum(len(rows) for _, rows in operands)
        proofs = [Proof(picked, operands, holds, moved + each * len(picked))]
        if identity is not None and identity.products < proofs[0].products:
            proofs.insert(0, identity.make())
        self._checks.append(_Check(operation, result, proofs))

    def _verify(self) -> None:
        """Make the checks that wait; a wrong result retires the card."""
        checks, self._checks = self._checks, []
        if not checks:
            return
        stats = self._stats.setdefault("check", OperationStats())
        start = time.perf_counter()
        for check in checks:
            task = Task("check", stats)
            stats.calls += 1
            for proof in check.proofs:
                arrays = [check.result, *(a for a, _ in proof.operands)]
                tasks = [a.task for a in arrays if a.task is not None]
                for made in tasks:
                    self._card.wait_number(made.last)
                if any(made.error is not None for made in tasks):
                    break  # whoever waits for the result gets the error
                results = self._look_up(task, check.result, proof.rows)
                values = [self._look_up(task, a, rows) for a, rows in proof.operands]
                right = proof.holds(results, *values)
                stats.host_products += proof.products
                if right is False:
                    self._retire(
                        CorruptResult(f"the card computed a wrong result in {check.operation}")
                    )
                if right:
                    stats.elements += len(proof.rows)
                    break
        stats.host_seconds += time.perf_counter() - start

    def _look_up(self, task: Task, a: CardArray, index: Index) -> list[mpz]:
        return from_limbs(self._fetch(task, self._take(task, a, index))) if len(index) else []
