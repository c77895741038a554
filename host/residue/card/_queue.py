"""The card's command queue: submission, completion, timeout, reset and retry."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from residue.backends._protocol import OperationStats
from residue.card import _abi as abi
from residue.card._abi import Opcode, Register, Status
from residue.card._port import Buffer, Port
from residue.card._records import CommandRecord
from residue.errors import CommandFailed, DeviceError, DeviceTimeout

__all__ = ["Command", "CommandQueue", "Task"]

_log = logging.getLogger(__name__)

_RECORDS = 16384
# Cycles that every command is given, however little it has to do.
_LEAST_CYCLES = 1 << 20
# What a second try may cure.
_PASSING = frozenset({Status.READ_ERROR, Status.WRITE_ERROR, Status.STORE_ERROR, Status.BAD_CHECK})


@dataclass(eq=False, slots=True)
class Task:
    """One operation of the backend: its commands share a fate.

    Attributes:
        name: the operation.
        stats: where the card's counts of its commands go.
        inputs: the tasks that made its operands, as far as they are not completed.
        last: number of its last command so far; 0 before the first.
        closed: no command will follow.
        error: why its results are not to be used.
    """

    name: str
    stats: OperationStats
    inputs: list[Task] = field(default_factory=list)
    last: int = 0
    closed: bool = False
    error: DeviceError | None = None

    def settle(self, done: int) -> None:
        """Take over errors of inputs; forget them once all commands up to `done` are complete."""
        for task in self.inputs:
            if self.error is None:
                self.error = task.error
        if self.closed and self.last <= done:
            self.inputs.clear()


@dataclass(eq=False, slots=True)
class Command:
    """A command of docs/card-abi.md; strides in bytes. No command reads what it writes.

    `cycles` are what it should take by its sizes, about.
    """

    task: Task
    opcode: Opcode
    modulus: int = 0
    src_a: int = 0
    src_b: int = 0
    exponents: int = 0
    dst: int = 0
    count: int = 0
    length: int = 0
    window: int = 0
    flags: int = 0
    stride_a: int = 0
    stride_b: int = 0
    stride_e: int = 0
    stride_dst: int = 0
    modulus_bits: int = 0
    cycles: int = 0
    number: int = 0

    def encode(self, raw: np.void) -> None:
        """Fill the command half of a descriptor."""
        for name in abi.COMMAND_DTYPE.names or ():
            if name.startswith("stride"):
                raw[name] = getattr(self, name) // 16
            elif name == "tag":
                raw[name] = self.number & 0xFFFFFFFF
            elif name == "check":
                raw[name] = 0
            else:
                raw[name] = getattr(self, name)
        folded = np.bitwise_xor.reduce(np.frombuffer(raw.tobytes(), np.uint8))
        raw["check"] = abi.COMMAND_CHECK ^ folded


class CommandQueue:
    """Keeps the card supplied with commands and tells what became of them.

    Commands are numbered from 1 in the order of submission and complete in that order. A command
    that stalls, or fails for a reason that may pass, is repeated once after a reset, with those
    behind it: what they read stays as it is until they are complete (see `DeviceMemory`).

    Args:
        port: the board.
        buffer: memory of the queue; its descriptors are a power of two, 2 .. 1024.
        timeout: seconds without any sign of life after which a card is reset.
        slack: how many times the cycles it should take a command may take before a card is reset.
        rings: rings of the card.

    Attributes:
        records: the last commands completed, oldest first.
        observer: is told each record at once.
        resets: how often the card was reset.
        suspect: a command failed twice for a reason of the card's own.
    """

    def __init__(
        self, port: Port, buffer: Buffer, timeout: float, slack: float, rings: int
    ) -> None:
        self._port = port
        self._buffer = buffer
        self._size = buffer.nbytes // abi.DESCRIPTOR_BYTES
        self._timeout = timeout
        self._slack = slack
        self._waiting: deque[Command] = deque()
        self._running: deque[Command] = deque()
        self._submitted = 0
        self._done = 0
        self._head = 0
        self._tail = 0
        self._retried = 0
        self._window = (0, 0)
        self._programmed_window = (0, 0)
        self._error: DeviceError | None = None
        self._rings = rings
        self.records: deque[CommandRecord] = deque(maxlen=_RECORDS)
        self.observer: Callable[[CommandRecord], None] | None = None
        self.resets = 0
        self.suspect = False

    @property
    def error(self) -> DeviceError | None:
        """Why the card is not used any more; None while it is."""
        return self._error

    @property
    def submitted(self) -> int:
        """Number of the last command submitted."""
        return self._submitted

    @property
    def done(self) -> int:
        """Number of the last command known to be complete."""
        return self._done

    @property
    def waiting(self) -> int:
        """Commands not yet given to the card."""
        return len(self._waiting)

    def set_window(self, base: int, limit: int) -> None:
        """Let the card touch ``[base, limit)``, from the next start on."""
        self._window = (base, limit)

    def submit(self, command: Command) -> None:
        """Append a command; it starts with the next `start`."""
        if self._error is not None:
            raise self._error.with_traceback(None)
        self._submitted += 1
        command.number = command.task.last = self._submitted
        self._waiting.append(command)

    def start(self) -> None:
        """Give the card as many waiting commands as its queue takes now; does not wait."""
        if self._error is None and self._waiting:
            self._guarded(self._start)

    def poll(self) -> None:
        """Take note of completed commands; does not wait."""
        if self._error is None and self._running:
            self._guarded(lambda: self._collect(self._port.read32(Register.HEAD)))

    def wait(self, number: int) -> None:
        """Return when command `number` is complete or the card is given up; see `error`."""
        while self._done < number and self._error is None:
            self._guarded(self._advance)

    def reset(self) -> None:
        """Bring the card into its reset state and program it.

        Raises:
            DeviceTimeout: it does not become idle.
            DeviceError: the board does not answer.
        """
        port = self._port
        port.write32(Register.SOFT_RESET, abi.SOFT_RESET_RESET.mask)
        self._until_idle()
        base = self._buffer.physical_address
        port.write32(Register.QUEUE_BASE_LO, base & 0xFFFFFFFF)
        port.write32(Register.QUEUE_BASE_HI, base >> 32)
        port.write32(Register.QUEUE_SIZE, self._size)
        if port.has_interrupt:
            port.write32(Register.GIE, abi.GIE_ENABLE.mask)
            port.write32(Register.IER, abi.IER_DONE.mask)
        self._head = self._tail = 0
        self._programmed_window = (0, 0)

    def fail(self, error: DeviceError) -> None:
        """Give the card up: what is not complete gets `error`, and so does every later call."""
        self._error = error
        for command in (*self._running, *self._waiting):
            command.task.error = command.task.error or error
        self._running.clear()
        self._waiting.clear()
        self._done = self._submitted

    # --------------------------------------------------------------------------------- private

    def _guarded(self, action: Callable[[], None]) -> None:
        try:
            action()
        except DeviceError as error:
            self._recover(error)

    def _start(self) -> None:
        # Also finds out if somebody else reset the card: it would begin with old descriptors.
        self._collect(self._port.read32(Register.HEAD))
        if self._running and (
            not self._port.partial_writes or self._window != self._programmed_window
        ):
            return
        if self._window != self._programmed_window:
            self._program_window()
        count = min(self._size - len(self._running), len(self._waiting))
        batch = [self._waiting.popleft() for _ in range(count)]
        self._running.extend(batch)
        self._write(batch)
        self._tail = (self._tail + count) & 0xFFFF
        self._port.write32(Register.TAIL, self._tail)
        self._port.write32(Register.CTRL, abi.CTRL_AP_START.mask)

    def _write(self, batch: list[Command]) -> None:
        """Copy descriptors into the ring, one transfer for each contiguous run."""
        image = np.zeros((self._size, abi.DESCRIPTOR_BYTES), np.uint8)
        commands = image[:, : abi.COMMAND_DTYPE.itemsize].view(abi.COMMAND_DTYPE)[:, 0]
        first = self._tail % self._size
        for i, command in enumerate(batch):
            command.encode(commands[(first + i) % self._size])
        end = first + len(batch)
        if not self._port.partial_writes:
            self._buffer.write(0, image[: min(end, self._size)].ravel())
            return
        for lo, hi in ((first, min(end, self._size)), (0, end - self._size)):
            if lo < hi:
                self._buffer.write(lo * abi.DESCRIPTOR_BYTES, image[lo:hi].ravel())

    def _program_window(self) -> None:
        self._until_idle()
        for register, value in zip(
            (Register.MEM_BASE_LO, Register.MEM_LIMIT_LO), self._window, strict=True
        ):
            self._port.write32(register, value & 0xFFFFFFFF)
            self._port.write32(register + 4, value >> 32)
        self._programmed_window = self._window

    def _until_idle(self) -> None:
        end = time.monotonic() + self._timeout
        while not self._port.read32(Register.CTRL) & abi.CTRL_AP_IDLE.mask:
            if time.monotonic() > end:
                raise DeviceTimeout(f"the card at {self._port.name} does not become idle")
            time.sleep(1e-4)

    def _advance(self) -> None:
        """Wait until at least one more command is complete, and start what waits."""
        if not self._running:
            self._start()
        head = self._next_head()
        self._collect(head)
        if self._waiting and (not self._running or self._port.partial_writes):
            self._start()

    def _next_head(self) -> int:
        """HEAD as soon as it has moved.

        Raises:
            DeviceTimeout: nothing moves any more, or the command takes far too many cycles.
        """
        port = self._port
        command = self._running[0]
        limit = max(_LEAST_CYCLES, int(self._slack * command.cycles))
        delay = 5e-5
        cycles, signs, spent = 0, [0], 0
        alive = time.monotonic()
        look = alive + self._timeout / 4
        while (head := port.read32(Register.HEAD)) == self._head:
            now = time.monotonic()
            if now >= look:
                since, before = cycles, signs
                cycles, *signs = self._signs_of_life()
                if since and cycles != since and signs != before:
                    alive = now
                    spent += cycles - since
                    if spent > limit:
                        raise DeviceTimeout(
                            f"{self._told(command)} is not complete after {spent:,} cycles of "
                            f"work: it should take about {command.cycles:,}"
                        )
                elif now - alive > self._timeout:
                    raise DeviceTimeout(
                        f"the card at {port.name} made no progress for {self._timeout:g} s"
                    )
                look = now + self._timeout / 4
            if port.has_interrupt:
                if port.wait_interrupt(delay):
                    port.write32(Register.ISR, abi.ISR_DONE.mask)
            else:
                time.sleep(delay)
            delay = min(2 * delay, 0.01)
        return head

    def _signs_of_life(self) -> list[int]:
        """The counters of cycles, and of what a card at work cannot but do."""
        cycles = self._port.read32(Register.CYCLES_LO)
        cycles |= self._port.read32(Register.CYCLES_HI) << 32
        registers = (Register.PRODUCTS_LO, Register.READ_BYTES_LO, Register.WRITE_BYTES_LO)
        return [cycles, *(self._port.read32(register) for register in registers)]

    def _collect(self, head: int) -> None:
        """Read the completion records of the commands before `head`."""
        count = (head - self._head) & 0xFFFF
        if count == 0:
            return
        if count > len(self._running):
            raise DeviceError(
                f"the card at {self._port.name} reports {count} completed commands of "
                f"{len(self._running)} given"
            )
        raw = self._buffer.read(0, self._size * abi.DESCRIPTOR_BYTES)
        entries = raw.reshape(self._size, abi.DESCRIPTOR_BYTES)
        at = abi.COMPLETION_OFFSET
        width = abi.COMPLETION_DTYPE.itemsize
        records = np.ascontiguousarray(entries[:, at : at + width]).view(abi.COMPLETION_DTYPE)
        for _ in range(count):
            record = records[self._head % self._size, 0]
            command = self._running[0]
            if int(record["tag"]) != command.number & 0xFFFFFFFF:
                raise DeviceError(
                    f"the card at {self._port.name} answered with the record of another command"
                )
            status = int(record["status"])
            if status in _PASSING:
                if self._retried != command.number:
                    raise DeviceError(f"{self._told(command)} failed: {_explain(status)}")
                self.suspect = True
            self._running.popleft()
            self._complete(command, record)
            self._head = (self._head + 1) & 0xFFFF

    def _complete(self, command: Command, record: np.void) -> None:
        self._done = command.number
        task = command.task
        fields = {name: int(record[name]) for name in abi.COMPLETION_DTYPE.names or ()}
        status = fields.pop("status")
        del fields["tag"]
        told = CommandRecord(
            number=command.number,
            operation=task.name,
            opcode=command.opcode,
            status=status,
            count=command.count,
            length=command.length,
            modulus_bits=command.modulus_bits,
            epoch=self.resets,
            noticed=time.perf_counter(),
            **fields,
        )
        self.records.append(told)
        if self.observer is not None:
            self.observer(told)
        stats = task.stats
        stats.device_cycles += fields["cycles"]
        stats.ring_slots += fields["cycles"] * self._rings
        stats.busy_slots += fields["busy"]
        stats.products += fields["products"]
        stats.stalls += fields["stalls"]
        stats.read_bytes += fields["read_bytes"]
        stats.write_bytes += fields["write_bytes"]
        if status != Status.OK and task.error is None:
            task.error = CommandFailed(f"{self._told(command)} failed: {_explain(status)}")
        task.settle(self._done)

    def _told(self, command: Command) -> str:
        return (
            f"{command.opcode.name} of operation {command.task.name} on the card at "
            f"{self._port.name}"
        )

    def _recover(self, error: DeviceError) -> None:
        """Reset the card and repeat the commands it did not complete; once for each of them."""
        first = self._running[0].number if self._running else self._done + 1
        if self._retried == first:
            self.fail(error)
            return
        self._retried = first
        _log.warning("resetting the card after: %s", error)
        self.resets += 1
        try:
            self.reset()
        except DeviceError as second:
            second.__cause__ = error
            self.fail(second)
            return
        self._waiting.extendleft(reversed(self._running))
        self._running.clear()


def _explain(status: int) -> str:
    try:
        known = Status(status)
    except ValueError:
        return f"unknown status {status}"
    return f"{known.name} ({abi.STATUS_TEXT[known]})"
