"""One card: its memory, its moduli, the traffic to and from it, and its command queue.

Small data for commands (residues to convert, exponents, indices) is collected in staging pages that
travel in one transfer each, while the card works on what came before.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from residue.backends._protocol import OperationStats
from residue.card import _abi as abi
from residue.card._abi import CommandFlag, ModulusVector, Opcode, Register
from residue.card._digits import Layout, Words
from residue.card._memory import DeviceMemory, DeviceMemoryError
from residue.card._plan import Machine
from residue.card._port import Buffer, Bytes, Port
from residue.card._queue import Command, CommandQueue, Task
from residue.errors import BackendError, DeviceError

__all__ = ["Capabilities", "Card", "CardModulus"]

_PAGES = 4
_SMALLEST_RECEIVE = 4096
# Work that is worth a start of its own, in slots of each ring; less waits for company.
_WORTH_A_START = 40_000
# Bytes a cycle of the slowest way into a ring: one row of two digits.
_ROW_BYTES = 16


@dataclass(frozen=True)
class Capabilities:
    """What the card says of itself; the fields are those of its configuration."""

    word_bits: int
    digits_per_word: int
    elements: int
    rings: int
    masters: int
    axi_bytes: int
    max_modulus_bits: int
    max_exponent_bits: int
    contexts: int
    max_words: int
    table_entries: int

    @classmethod
    def read(cls, port: Port) -> Capabilities:
        """Read the capability registers."""
        cap0, cap1, cap2, cap3, cap4 = (port.read32(Register[f"CAP{i}"]) for i in range(5))
        return cls(
            word_bits=abi.CAP0_WORD_BITS.get(cap0),
            digits_per_word=abi.CAP4_DIGITS_PER_WORD.get(cap4),
            elements=abi.CAP0_ELEMENTS.get(cap0),
            rings=abi.CAP0_RINGS.get(cap0),
            masters=abi.CAP4_MASTERS.get(cap4),
            axi_bytes=1 << abi.CAP0_LOG2_AXI_BYTES.get(cap0),
            max_modulus_bits=abi.CAP1_MAX_MODULUS_BITS.get(cap1),
            max_exponent_bits=abi.CAP1_MAX_EXPONENT_BITS.get(cap1),
            contexts=abi.CAP2_CONTEXTS.get(cap2),
            max_words=abi.CAP2_MAX_WORDS.get(cap2),
            table_entries=abi.CAP3_TABLE_ENTRIES.get(cap3),
        )

    def layout(self, modulus: int) -> Layout:
        """How residues modulo an odd number lie in this card's memory."""
        return Layout(modulus, self.word_bits, self.elements, self.digits_per_word)

    def machine(self, layout: Layout) -> Machine:
        """The card at work on one modulus; its stores are cut finer for the smaller ones."""
        contexts, entries = self.contexts, self.table_entries
        half = (self.max_words + 3) // 4  # rows
        if layout.digits <= 2 * half:
            entries = entries * (self.max_words // 2) // half
        else:
            contexts //= 2
        return Machine(layout, self.rings, contexts, self.axi_bytes, self.masters, entries)


@dataclass(frozen=True, eq=False)
class CardModulus:
    """A modulus whose block lies in the card's memory."""

    layout: Layout
    buffer: Buffer

    @property
    def address(self) -> int:
        """Address of the modulus block."""
        return self.buffer.physical_address

    @property
    def one(self) -> int:
        """Address of ONE."""
        return self.address + self.layout.one_offset


@dataclass(eq=False)
class _Page:
    """A staging page: filled here, then copied to the board as a whole."""

    buffer: Buffer
    image: Bytes
    used: int = 0
    last: int = 0


class Card:
    """A card on a port, ready for commands. Not thread-safe: its owner holds a lock.

    Args:
        port: the board.
        timeout: seconds without any sign of life after which the card is reset.
        slack: how many times the cycles it should take a command may take before the card is reset.
        queue_size: descriptors in the command queue, a power of two, 2 .. 1024.
        staging_bytes: size of a staging page, and the most that one transfer carries.
        arena_bytes: size of the pieces in which memory for arrays is taken from the board.
        memory_limit: most bytes to take for arrays; None: as much as the board has.

    Raises:
        DeviceError: there is no residue card behind the port, or one of another ABI version.
    """

    def __init__(
        self,
        port: Port,
        *,
        timeout: float,
        slack: float,
        queue_size: int,
        staging_bytes: int,
        arena_bytes: int,
        memory_limit: int | None,
    ) -> None:
        self.port = port
        self.staging_bytes = staging_bytes
        if (found := port.read32(Register.ID)) != abi.CARD_ID:
            raise DeviceError(
                f"no residue card at {port.name}: its ID register reads {found:#010x}"
            )
        version = port.read32(Register.VERSION)
        if (major := abi.VERSION_MAJOR.get(version)) != abi.ABI_MAJOR:
            raise DeviceError(
                f"the card at {port.name} speaks ABI version {major}, this driver "
                f"{abi.ABI_MAJOR}: install the matching bitstream"
            )
        self.capabilities = Capabilities.read(port)
        self._buffers: list[Buffer] = []
        self._moduli: dict[int, CardModulus] = {}
        try:
            ring = self._allocate(queue_size * abi.DESCRIPTOR_BYTES)
            self._pages = [self._new_page()]
            self._receivers = {staging_bytes: [self._allocate(staging_bytes)]}
        except MemoryError as error:
            raise DeviceError(f"the board at {port.name} has too little free memory") from error
        self._page = self._pages[0]
        self._load = 0
        self.queue = CommandQueue(port, ring, timeout, slack, self.capabilities.rings)
        self.memory = DeviceMemory(self._allocate, arena_bytes, memory_limit, self.queue)
        self._set_window()
        self.queue.reset()

    # ---------------------------------------------------------------------------------- moduli

    def modulus(self, value: int) -> CardModulus:
        """The modulus block of an odd `value`, written to the card at the first call.

        Raises:
            BackendError: the modulus is too large for the card.
        """
        known = self._moduli.get(value)
        if known is None:
            layout = self.checked_layout(value)
            block = layout.block()
            try:
                buffer = self._allocate(block.nbytes)
            except MemoryError as error:
                raise DeviceMemoryError("no memory left for a modulus block") from error
            buffer.write(0, block)
            known = self._moduli[value] = CardModulus(layout, buffer)
        return known

    def checked_layout(self, value: int) -> Layout:
        """How residues modulo an odd `value` lie in memory; BackendError as for `modulus`."""
        if value.bit_length() > self.capabilities.max_modulus_bits:
            raise BackendError(
                f"a modulus of {value.bit_length()} bits is too large for this card, which "
                f"takes {self.capabilities.max_modulus_bits}"
            )
        return self.capabilities.layout(value)

    # -------------------------------------------------------------------------------- commands

    def issue(
        self, task: Task, opcode: Opcode, modulus: CardModulus | None, data: Bytes | None = None,
        **fields: int,
    ) -> None:  # fmt: skip
        """Queue one command.

        Args:
            task: the operation it is part of.
            opcode: what to do.
            modulus: whose modulus block it names.
            data: up to `staging_bytes` bytes it reads: src_a of TO_MONT, else exponents or index.
            fields: other fields of `Command`.
        """
        command = Command(task, opcode, **fields)
        if modulus is not None:
            command.modulus = modulus.address
        if data is not None:
            address = self._stage(data)
            if opcode is Opcode.TO_MONT:
                command.src_a = address
            else:
                command.exponents = address
        self._submit(command, modulus.layout if modulus is not None else None)

    def issue_beside(
        self, task: Task, opcode: Opcode, layout: Layout, blocks: Bytes, data: Bytes, **fields: int
    ) -> None:
        """As `issue`, for moduli that pass through: their blocks travel with the data.

        Args:
            task: the operation it is part of.
            opcode: what to do.
            layout: of the first modulus.
            blocks: one modulus block, or with MODULUS_PER_ELEMENT one for each element.
            data: as for `issue`; may be empty. Both together: up to `staging_bytes` bytes.
            fields: other fields of `Command`.
        """
        address = self._stage(np.concatenate([blocks.ravel(), data.ravel()]))
        command = Command(task, opcode, modulus=address, **fields)
        if opcode is Opcode.TO_MONT:
            command.src_a = address + blocks.nbytes
        elif data.nbytes:
            command.exponents = address + blocks.nbytes
        self._submit(command, layout)

    def kick(self) -> None:
        """Start what waits if that is worth a start and the card is free."""
        if self._load >= _WORTH_A_START * self.capabilities.rings:
            self.queue.poll()
            if self.queue.done + self.queue.waiting == self.queue.submitted:
                self.start()

    def start(self) -> None:
        """Start what waits."""
        self._flush()
        self._load = 0
        self.queue.start()

    def wait(self, task: Task) -> None:
        """Return when the commands of `task` are complete; raise its error."""
        self.wait_number(task.last)
        if task.error is not None:
            raise task.error.with_traceback(None)

    def wait_number(self, number: int) -> None:
        """Return when command `number` is complete or the card is given up."""
        if self.queue.done < number:
            self.start()
            self.queue.wait(number)
        if self.queue.suspect:
            self._examine()

    def receive(
        self, task: Task, modulus: CardModulus, address: int, stride: int, count: int
    ) -> Iterator[Words]:
        """Take residues out of Montgomery form and fetch them: parts of ``(n, k) uint64`` digits.

        The card converts the next part while this one travels. Raises the error of `task`.
        """
        size = modulus.layout.residue_bytes
        step = self.staging_bytes // size
        parts = [(lo, min(step, count - lo)) for lo in range(0, count, step)]
        taken: deque[Buffer] = deque()

        def issue(lo: int, n: int) -> None:
            taken.append(self.take_receiver(n * size))
            self.issue(
                task, Opcode.FROM_MONT, modulus, src_a=address + lo * stride, stride_a=stride,
                dst=taken[-1].physical_address, stride_dst=size, count=n,
            )  # fmt: skip

        try:
            for i, part in enumerate(parts):
                if i == 0:
                    issue(*part)
                self.wait(task)
                if i + 1 < len(parts):
                    issue(*parts[i + 1])
                    self.start()
                raw = taken[0].read(0, part[1] * size)
                self.give_receiver(taken.popleft())
                yield raw.view("<u8").reshape(part[1], modulus.layout.digits)
        finally:
            for buffer in taken:
                self.give_receiver(buffer)

    # ----------------------------------------------------------------------------- housekeeping

    def counters(self) -> dict[str, int]:
        """The card's own counters since its last reset, by lower-case register name."""
        names = [r.name for r in Register if r.name.endswith("_LO") and r >= Register.CYCLES_LO]
        return {
            name.removesuffix("_LO").lower(): self.port.read32(Register[name])
            | self.port.read32(Register[name] + 4) << 32
            for name in names
        }

    def wipe(self, *, arrays: bool = False) -> None:
        """Erase memory for transfers and moduli, and for arrays as far as not in use.

        With `arrays` all of it. The card must be idle and all its commands complete.
        """
        zeros = np.zeros(self.staging_bytes, np.uint8)
        for page in self._pages:
            page.image[:] = 0
            page.buffer.write(0, zeros)
        for free in self._receivers.values():
            for buffer in free:
                buffer.write(0, zeros[: buffer.nbytes])
        self.memory.wipe(arrays=arrays, partial_writes=self.port.partial_writes)
        for modulus in self._moduli.values():
            modulus.buffer.write(0, np.zeros(modulus.buffer.nbytes, np.uint8))
            self._buffers.remove(modulus.buffer)
            modulus.buffer.free()
        self._moduli.clear()

    def close(self) -> None:
        """Give all memory back and leave the board."""
        for buffer in self._buffers:
            buffer.free()
        self._buffers.clear()
        self.port.close()

    # --------------------------------------------------------------------------------- private

    def _submit(self, command: Command, layout: Layout | None) -> None:
        if layout is not None:
            command.modulus_bits = layout.value.bit_length()
            self._load += command.count * _chain(command) * layout.passes * layout.slots
            command.cycles = _cycles(command, self.capabilities.machine(layout))
        self.queue.submit(command)
        self._page.last = command.number

    def _examine(self) -> None:
        """Give the card up if its self-test fails after a command that failed twice."""
        modulus = next(iter(self._moduli.values()), None)
        self.queue.suspect = False
        if modulus is None or self.queue.error is not None:
            return
        task = Task("self_test", OperationStats())
        self.issue(task, Opcode.SELFTEST, modulus, length=16)
        self.start()
        self.queue.wait(task.last)
        self.queue.suspect = False
        if task.error is not None:
            self.queue.fail(task.error)

    def _allocate(self, nbytes: int) -> Buffer:
        buffer = self.port.allocate(nbytes)
        self._buffers.append(buffer)
        if hasattr(self, "queue"):
            self._set_window()
        return buffer

    def _set_window(self) -> None:
        self.queue.set_window(
            min(b.physical_address for b in self._buffers),
            max(b.physical_address + b.nbytes for b in self._buffers),
        )

    def _new_page(self) -> _Page:
        return _Page(self._allocate(self.staging_bytes), np.zeros(self.staging_bytes, np.uint8))

    def _stage(self, data: Bytes) -> int:
        """Put `data` into the open page; its address on the card."""
        if self._page.used + data.nbytes > self.staging_bytes:
            self._flush()
        page = self._page
        offset = page.used
        page.image[offset : offset + data.nbytes] = data.ravel()
        page.used = -(-(offset + data.nbytes) // 64) * 64
        return page.buffer.physical_address + offset

    def _flush(self) -> None:
        """Send the open page and open another one, waiting for the card if none is free."""
        page = self._page
        if page.used == 0:
            return
        page.buffer.write(0, page.image[: page.used])
        page.used = 0
        self._pages.remove(page)
        self._pages.append(page)
        if self._pages[0].last > self.queue.done and len(self._pages) < _PAGES:
            with contextlib.suppress(MemoryError):
                self._pages.insert(0, self._new_page())
        self._page = self._pages[0]
        if self._page.last > self.queue.done:
            self.queue.start()
            self.queue.wait(self._page.last)

    def take_receiver(self, nbytes: int) -> Buffer:
        """A free buffer for results, of the least size class that holds `nbytes`."""
        size = _SMALLEST_RECEIVE
        while size < nbytes:
            size *= 4
        size = min(size, self.staging_bytes)
        free = self._receivers.setdefault(size, [])
        if not free:
            try:
                return self._allocate(size)
            except MemoryError as error:
                if not (free := self._receivers[self.staging_bytes]):
                    raise DeviceMemoryError("no memory left to receive results") from error
        return free.pop()

    def give_receiver(self, buffer: Buffer) -> None:
        self._receivers[buffer.nbytes].append(buffer)


def _chain(command: Command) -> int:
    """Products of one result, roughly: each waits for the one before."""
    return {
        Opcode.POW: command.length * 5 // 4 + 14,
        Opcode.POW_FIXED: command.length,
        Opcode.MULTI_POW: command.length,
        Opcode.PROD: command.length,
        Opcode.SQR: command.length,
        Opcode.TABLE: 1 << command.window,
        Opcode.SELFTEST: command.length + 2,
    }.get(command.opcode, 1)


def _cycles(command: Command, machine: Machine) -> int:
    """Cycles of a command, about, as though ring, latency and memory took turns."""
    layout, chain = machine.layout, _chain(command)
    share = -(-command.count // machine.rings) or machine.contexts  # SELFTEST fills the contexts
    moved = 3 * command.count
    match command.opcode:
        case Opcode.POW_FIXED | Opcode.MULTI_POW:
            moved += (-(-share // machine.contexts) * command.length) << command.window
        case Opcode.PROD:
            moved += command.count * command.length
        case Opcode.TABLE:
            moved += command.count << command.window
        case Opcode.POW if command.flags & CommandFlag.MODULUS_PER_ELEMENT:
            moved += command.count * (len(ModulusVector) + 1)
    return (
        chain * (share * layout.passes * layout.slots + machine.product_latency)
        + moved * layout.residue_bytes // _ROW_BYTES
    )
