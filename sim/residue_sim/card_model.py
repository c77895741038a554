"""Functional model of residue_card in Python integers: what docs/card-abi.md says, no clock.

`CardModel` is the card: registers and a command queue over any memory. `ModelBoard` puts it on a
board with a little memory of its own and offers the two ports of `residue.card`.

A residue in Montgomery form is any value congruent modulo N~ below 2 N~. The model returns the
upper representative for every second result, so that nothing may depend on which one it is.

Cycles are estimated, not simulated: a product occupies ``passes * slots`` ring slots, and a command
takes those slots plus `COMMAND_CYCLES`. Use the co-simulated card for figures.
"""

from __future__ import annotations

import struct
from bisect import insort
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import reduce
from operator import xor
from typing import Protocol

import numpy as np

from residue.card import _abi as abi
from residue.card._abi import CommandFlag, ModulusVector, Opcode, Register, Status
from residue.card._port import Bytes
from residue_sim.golden import Montgomery, from_words, to_words
from residue_sim.manifest import Configuration

__all__ = [
    "COMMAND_CYCLES",
    "RESERVED_ENTRIES",
    "CardModel",
    "Command",
    "Dram",
    "Memory",
    "ModelBoard",
    "products",
]

COMMAND_CYCLES = 200
"""Assumed cycles of a command besides its products."""

RESERVED_ENTRIES = 3
"""Entries of the table store that hold no table."""


class Memory(Protocol):
    """What the card's bus reaches. Raises IndexError where nothing answers."""

    def read(self, address: int, nbytes: int) -> bytes:
        """Bytes at `address`."""

    def write(self, address: int, data: bytes) -> None:
        """Store `data` at `address`."""


class Dram:
    """`nbytes` bytes of memory at physical address `base`."""

    def __init__(self, base: int, nbytes: int) -> None:
        self.base = base
        self.nbytes = nbytes
        self._bytes = np.zeros(nbytes, np.uint8).data  # untouched pages cost nothing

    def _slice(self, address: int, nbytes: int) -> slice:
        start = address - self.base
        if not 0 <= start <= start + nbytes <= self.nbytes:
            raise IndexError(f"no memory at {address:#x} + {nbytes:#x}")
        return slice(start, start + nbytes)

    def read(self, address: int, nbytes: int) -> bytes:
        """Bytes at `address`."""
        return bytes(self._bytes[self._slice(address, nbytes)])

    def write(self, address: int, data: bytes) -> None:
        """Store `data` at `address`."""
        self._bytes[self._slice(address, len(data))] = data


@dataclass(frozen=True)
class Command:
    """The command half of a descriptor; strides in bytes. `sound`: its bytes fold to the check."""

    sound: bool
    opcode: int
    window: int
    flags: int
    check: int
    tag: int
    modulus: int
    src_a: int
    src_b: int
    exponents: int
    dst: int
    count: int
    length: int
    stride_a: int
    stride_b: int
    stride_e: int
    stride_dst: int

    @classmethod
    def parse(cls, raw: bytes) -> Command:
        """Decode a descriptor."""
        (fields,) = np.frombuffer(raw, abi.COMMAND_DTYPE, count=1, offset=abi.COMMAND_OFFSET)
        names = abi.COMMAND_DTYPE.names or ()
        values = {n: int(fields[n]) * (16 if n.startswith("stride") else 1) for n in names}
        return cls(sound=reduce(xor, fields.tobytes()) == abi.COMMAND_CHECK, **values)


class _CommandError(Exception):
    """A command ends with this status."""

    def __init__(self, status: Status) -> None:
        super().__init__(status.name)
        self.status = status


_SOURCE_A = {Opcode.TO_MONT, Opcode.FROM_MONT, Opcode.MUL, Opcode.POW, Opcode.PROD, Opcode.SQR,
             Opcode.TABLE}  # fmt: skip
_GATHERED = {Opcode.POW_FIXED, Opcode.MULTI_POW}
_LENGTH = _GATHERED | {Opcode.POW, Opcode.PROD, Opcode.SQR, Opcode.SELFTEST}
_EXPONENTS = _GATHERED | {Opcode.POW, Opcode.PROD}
_WINDOWS = (1, 2, 4, 8)


def products(opcode: Opcode, length: int, window: int) -> int:
    """Modular products that each result of a command takes, as `residue_sequencer` issues them.

    Args:
        opcode: of a command that computes; a result of TABLE is a whole row.
        length: its field.
        window: its field.
    """
    match opcode:
        case Opcode.POW:
            # a^1 .. a^15; the first window's look-up; four squarings and a look-up for the others
            return 15 + 1 + 5 * (-(-length // 4) - 1)
        case Opcode.POW_FIXED | Opcode.MULTI_POW | Opcode.PROD | Opcode.SQR:
            return length
        case Opcode.TABLE:
            return 1 << window
        case Opcode.SELFTEST:
            return length + 1
        case Opcode.TO_MONT | Opcode.FROM_MONT | Opcode.MUL:
            return 1
        case _:
            raise ValueError(f"{opcode.name} makes no products")


class CardModel:
    """Registers and command processor of one card.

    Args:
        configuration: the named configuration of the card.
        memory: what its AXI master reaches; the host writes the same memory.
    """

    def __init__(self, configuration: Configuration, memory: Memory) -> None:
        self.configuration = configuration
        self.memory = memory
        c = configuration
        axi_bytes = c.axi_data_bits // 8
        self._registers = dict.fromkeys(Register, 0) | {
            Register.CTRL: abi.CTRL_AP_IDLE.mask,
            Register.ID: abi.CARD_ID,
            Register.VERSION: abi.VERSION_MAJOR.put(abi.ABI_MAJOR)
            | abi.VERSION_MINOR.put(abi.ABI_MINOR),
            Register.CAP0: abi.CAP0_WORD_BITS.put(c.word_bits)
            | abi.CAP0_ELEMENTS.put(c.elements)
            | abi.CAP0_RINGS.put(c.rings)
            | abi.CAP0_LOG2_AXI_BYTES.put(axi_bytes.bit_length() - 1),
            Register.CAP1: abi.CAP1_MAX_MODULUS_BITS.put(c.max_modulus_bits)
            | abi.CAP1_MAX_EXPONENT_BITS.put(c.max_exponent_bits),
            Register.CAP2: abi.CAP2_CONTEXTS.put(c.contexts) | abi.CAP2_MAX_WORDS.put(c.max_words),
            Register.CAP3: abi.CAP3_TABLE_ENTRIES.put(c.table_entries),
            Register.CAP4: abi.CAP4_DIGITS_PER_WORD.put(c.digits_per_word)
            | abi.CAP4_MASTERS.put(c.masters),
        }
        self.counters: dict[str, int] = {}
        self._latched = 0
        self._soft_reset()

    # ------------------------------------------------------------------------------ registers

    def read32(self, offset: int) -> int:
        """Value of the register at byte `offset`; 0 where there is none."""
        if Register.CYCLES_LO <= offset <= Register.ERRORS_HI:
            if offset % 8:
                return self._latched
            value = self.counters[Register(offset).name.removesuffix("_LO")]
            self._latched = value >> 32
            return value & 0xFFFFFFFF
        if offset not in self._registers:
            return 0
        value = self._registers[Register(offset)]
        if offset == Register.CTRL:
            self._registers[Register.CTRL] &= ~(abi.CTRL_AP_DONE.mask | abi.CTRL_AP_READY.mask)
        return value

    def write32(self, offset: int, value: int) -> None:
        """Write the register at byte `offset`; a start runs the queue to its end."""
        if offset == Register.SOFT_RESET:
            if value & abi.SOFT_RESET_RESET.mask:
                self._soft_reset()
        elif offset == Register.CTRL:
            if value & abi.CTRL_AP_START.mask:
                self.run()
        elif offset == Register.ISR:
            self._registers[Register.ISR] &= ~value
        elif offset == Register.TAIL:
            self._registers[Register.TAIL] = value & 0xFFFF
        elif offset < Register.ID and offset in self._registers and offset != Register.HEAD:
            self._registers[Register(offset)] = value & 0xFFFFFFFF

    def interrupt(self) -> bool:
        """The interrupt line."""
        return bool(self._registers[Register.GIE] and self._registers[Register.ISR])

    def _pair(self, low: Register, high: Register) -> int:
        return self._registers[low] | self._registers[high] << 32

    def _soft_reset(self) -> None:
        self._registers[Register.HEAD] = self._registers[Register.TAIL] = 0
        self._registers[Register.ISR] = 0
        self._registers[Register.CTRL] = abi.CTRL_AP_IDLE.mask
        counters = (r.name for r in Register if Register.CYCLES_LO <= r <= Register.ERRORS_LO)
        self.counters = {n.removesuffix("_LO"): 0 for n in counters if n.endswith("_LO")}

    # ---------------------------------------------------------------------------------- queue

    def run(self) -> None:
        """Work off the queue, as after `ap_start`."""
        base = self._pair(Register.QUEUE_BASE_LO, Register.QUEUE_BASE_HI)
        size = self._registers[Register.QUEUE_SIZE]
        while (head := self._registers[Register.HEAD]) != self._registers[Register.TAIL]:
            entry = base + head % size * abi.DESCRIPTOR_BYTES
            command = Command.parse(self.memory.read(entry, abi.DESCRIPTOR_BYTES))
            record = self.complete(command)
            self.memory.write(entry + abi.COMPLETION_OFFSET, record)
            self._registers[Register.HEAD] = (head + 1) & 0xFFFF
        self._registers[Register.CTRL] |= abi.CTRL_AP_DONE.mask | abi.CTRL_AP_READY.mask
        if self._registers[Register.IER]:
            self._registers[Register.ISR] |= abi.ISR_DONE.mask

    def complete(self, command: Command) -> bytes:
        """Execute one command; its completion record."""
        before = dict(self.counters)
        try:
            self.execute(command)
            status = Status.OK
        except _CommandError as failure:
            status = failure.status
            self.counters["ERRORS"] += 1
        self.counters["COMMANDS"] += 1
        busy = self.counters["BUSY"] - before["BUSY"]
        cycles = -(-busy // self.configuration.rings) + COMMAND_CYCLES
        self.counters["CYCLES"] += cycles
        spent = {name: value - before[name] for name, value in self.counters.items()}
        return struct.pack(
            "<II7Q", status, command.tag, cycles, busy, spent["PRODUCTS"], before["CYCLES"],
            spent["STALLS"], spent["READ_BYTES"], spent["WRITE_BYTES"],
        )  # fmt: skip

    # ------------------------------------------------------------------------------- commands

    def execute(self, command: Command) -> None:
        """Do what one command says; raises the failure it completes with."""
        if not command.sound:
            raise _CommandError(Status.BAD_CHECK)
        if command.opcode not in Opcode.__members__.values():
            raise _CommandError(Status.UNKNOWN_OPCODE)
        opcode = Opcode(command.opcode)
        if opcode in (Opcode.NOP, Opcode.CLEAR):
            return
        if (opcode is not Opcode.SELFTEST and command.count == 0) or (
            opcode in _LENGTH and command.length == 0
        ):
            raise _CommandError(Status.ZERO_COUNT)
        if opcode in _GATHERED and not command.flags & CommandFlag.INIT_FROM_A:
            command = replace(command, src_a=0)
        self._check_window(opcode, command)
        self._check_addresses(opcode, command)
        if command.flags & CommandFlag.MODULUS_PER_ELEMENT and opcode is Opcode.POW:
            self._power_per_modulus(command)
            return
        domain, consistent = self._domain(command.modulus)
        if opcode is Opcode.SELFTEST and not consistent:
            raise _CommandError(Status.SELFTEST_FAILED)
        if not consistent:
            raise ValueError("the modulus block does not belong to its modulus")
        if opcode in _GATHERED and not self._table_fits(command.window, domain.k):
            raise _CommandError(Status.BAD_WINDOW)
        self._check_strides(opcode, command, domain)
        self._check_exponents(opcode, command)
        if opcode is Opcode.SELFTEST:
            contexts = self.configuration.rings * self.configuration.contexts
            self._count(contexts * products(opcode, command.length, command.window), domain)
            return
        stride = command.stride_dst
        for i, result in enumerate(list(self._results(opcode, command, domain))):
            value = result % domain.n_tilde
            if opcode is not Opcode.FROM_MONT:
                value += domain.n_tilde * (i % 2)
            self._store(command.dst + i * stride, value, domain)

    def _power_per_modulus(self, command: Command) -> None:
        """POW, each element modulo the block of its own."""
        first: Montgomery | None = None
        for i in range(command.count):
            address = command.modulus + i * command.stride_b
            domain, consistent = self._domain(address, first.k if first is not None else None)
            if not consistent:
                raise ValueError("a modulus block does not belong to its modulus")
            first = first or domain
            self._check_strides(Opcode.POW, command, domain)
            self._check_exponents(Opcode.POW, command)
            element = replace(
                command, count=1, src_a=command.src_a + i * command.stride_a,
                exponents=command.exponents + i * command.stride_e,
            )  # fmt: skip
            (result,) = self._results(Opcode.POW, element, domain)
            value = result % domain.n_tilde + domain.n_tilde * (i % 2)
            self._store(command.dst + i * command.stride_dst, value, domain)

    def _results(self, opcode: Opcode, c: Command, domain: Montgomery) -> Iterator[int]:
        n_tilde = domain.n_tilde
        unit = domain.one
        inverse = pow(domain.r, -1, n_tilde)

        def source(base: int, stride: int, i: int) -> int:
            return self._load(base + i * stride, domain)

        def power(x: int, e: int) -> int:
            return pow(x * inverse, e, n_tilde) * unit

        def product(x: int, y: int) -> int:
            return x * y * inverse % n_tilde

        window = 1 << c.window
        for i in range(c.count):
            a = source(c.src_a, c.stride_a, i) if opcode in _SOURCE_A - {Opcode.PROD} else 0
            self._count(products(opcode, c.length, c.window), domain)
            match opcode:
                case Opcode.TO_MONT:
                    yield a * unit
                case Opcode.FROM_MONT:
                    yield a * inverse % n_tilde % domain.modulus
                case Opcode.MUL:
                    yield product(a, source(c.src_b, c.stride_b, i))
                case Opcode.POW:
                    yield power(a, self._string(c, i, c.length))
                case Opcode.SQR:
                    yield power(a, 1 << c.length)
                case Opcode.PROD:
                    acc = unit
                    for row in range(c.length):
                        raw = self._read(c.exponents + 4 * (row * c.count + i), 4)
                        acc = product(
                            acc, source(c.src_a, c.stride_a, int.from_bytes(raw, "little"))
                        )
                    yield acc
                case Opcode.POW_FIXED | Opcode.MULTI_POW:
                    acc = source(c.src_a, c.stride_a, i) if c.src_a else unit
                    digits = self._string(c, i, c.length * c.window)
                    for row in range(c.length):
                        digit = digits >> row * c.window & (window - 1)
                        acc = product(acc, source(c.src_b, c.stride_b, row * window + digit))
                    yield acc
                case Opcode.TABLE:
                    entry = unit
                    for _ in range(window):
                        yield entry
                        entry = product(entry, a)

    # --------------------------------------------------------------------------------- checks

    def _check_window(self, opcode: Opcode, c: Command) -> None:
        if opcode is Opcode.POW and c.window != 4:
            raise _CommandError(Status.BAD_WINDOW)
        if opcode in _GATHERED | {Opcode.TABLE} and c.window not in _WINDOWS:
            raise _CommandError(Status.BAD_WINDOW)

    def _table_fits(self, window: int, k: int) -> bool:
        """Whether the table store holds two rows."""
        _, entries = self.configuration.room(k)
        return (2 << window) + RESERVED_ENTRIES <= entries

    def _check_addresses(self, opcode: Opcode, c: Command) -> None:
        used = [c.modulus]
        if opcode is not Opcode.SELFTEST:
            used += [c.src_a, c.dst]
        if opcode is Opcode.MUL or opcode in _GATHERED:
            used.append(c.src_b)
        if opcode in _EXPONENTS:
            used.append(c.exponents)
        if any(address % 16 for address in used):
            raise _CommandError(Status.UNALIGNED)

    def _check_strides(self, opcode: Opcode, c: Command, domain: Montgomery) -> None:
        size = 8 * domain.k
        strides = []
        if opcode in _SOURCE_A or c.src_a:
            strides.append(c.stride_a if opcode is Opcode.PROD else c.stride_a or size)
        if opcode is Opcode.MUL:
            strides.append(c.stride_b or size)
        if opcode in _GATHERED:
            strides.append(c.stride_b)
        if opcode is not Opcode.SELFTEST:
            strides.append(c.stride_dst)
        if any(stride < size for stride in strides):
            raise _CommandError(Status.BAD_STRIDE)

    def _check_exponents(self, opcode: Opcode, c: Command) -> None:
        if opcode in _EXPONENTS - {Opcode.PROD}:
            bits = c.length * (c.window if opcode in _GATHERED else 1)
            if bits > self.configuration.max_exponent_bits or 0 < c.stride_e * 8 < bits:
                raise _CommandError(Status.EXPONENT_TOO_LONG)

    def _domain(self, address: int, expected_k: int | None = None) -> tuple[Montgomery, bool]:
        """The modulus block's modulus, and whether the rest of the block belongs to it."""
        word_bits, elements = self.configuration.word_bits, self.configuration.elements
        k = int.from_bytes(self._read(address, 8), "little")
        if k % 2 or not 4 <= k <= self.configuration.max_words or k != (expected_k or k):
            raise _CommandError(Status.BAD_MODULUS)
        nbytes = 8 * (abi.MODULUS_HEADER_WORDS + k * len(ModulusVector))
        words = struct.unpack(f"<{nbytes // 8}Q", self._read(address, nbytes))
        start = abi.MODULUS_HEADER_WORDS + ModulusVector.N * k
        modulus = from_words(words[start : start + k], word_bits)
        if modulus % 2 == 0:
            raise _CommandError(Status.EVEN_MODULUS)
        domain = Montgomery.of(modulus, word_bits, elements, k, self.configuration.digits_per_word)
        return domain, list(words) == domain.block()

    # --------------------------------------------------------------------------------- memory

    def _guard(self, address: int, nbytes: int) -> None:
        base = self._pair(Register.MEM_BASE_LO, Register.MEM_BASE_HI)
        limit = self._pair(Register.MEM_LIMIT_LO, Register.MEM_LIMIT_HI)
        if not base <= address <= address + nbytes <= limit:
            raise _CommandError(Status.OUT_OF_WINDOW)

    def _read(self, address: int, nbytes: int) -> bytes:
        self._guard(address, nbytes)
        self.counters["READ_BYTES"] += nbytes
        try:
            return self.memory.read(address, nbytes)
        except IndexError:
            raise _CommandError(Status.READ_ERROR) from None

    def _string(self, c: Command, i: int, bits: int) -> int:
        raw = self._read(c.exponents + i * c.stride_e, -(-bits // 8))
        return int.from_bytes(raw, "little") & ((1 << bits) - 1)

    def _load(self, address: int, domain: Montgomery) -> int:
        words = struct.unpack(f"<{domain.k}Q", self._read(address, 8 * domain.k))
        return from_words(words, domain.word_bits)

    def _store(self, address: int, value: int, domain: Montgomery) -> None:
        data = struct.pack(f"<{domain.k}Q", *to_words(value, domain.word_bits, domain.k))
        self._guard(address, len(data))
        self.counters["WRITE_BYTES"] += len(data)
        try:
            self.memory.write(address, data)
        except IndexError:
            raise _CommandError(Status.WRITE_ERROR) from None

    def _count(self, products: int, domain: Montgomery) -> None:
        self.counters["PRODUCTS"] += products
        self.counters["BUSY"] += products * domain.passes * domain.slots


class _ModelBuffer:
    """A buffer of `ModelBoard`."""

    def __init__(
        self, dram: Dram, address: int, nbytes: int, partial: bool, free: Callable[[int], None]
    ) -> None:
        self._dram = dram
        self._partial = partial
        self._free = free
        self.physical_address = address
        self.nbytes = nbytes

    def write(self, offset: int, data: Bytes) -> None:
        if offset and not self._partial:
            raise ValueError("this board copies to the start of a buffer only")
        if offset + data.nbytes > self.nbytes:
            raise ValueError("write past the end of the buffer")
        self._dram.write(self.physical_address + offset, data.tobytes())

    def read(self, offset: int, nbytes: int) -> Bytes:
        if offset + nbytes > self.nbytes:
            raise ValueError("read past the end of the buffer")
        return np.frombuffer(
            self._dram.read(self.physical_address + offset, nbytes), np.uint8
        ).copy()

    def free(self) -> None:
        self._free(self.physical_address)


class ModelBoard:
    """A board with a modelled card: the two ports of `residue.card._port`.

    Args:
        configuration: the named configuration of the card.
        memory_bytes: memory of the board.
        partial_writes: copy to any offset of a buffer, as a local board does; else to its start
            only, as a remote one.
        card: makes the card's model.
    """

    has_interrupt = True
    name = "model"

    def __init__(
        self,
        configuration: Configuration,
        *,
        memory_bytes: int = 64 << 20,
        partial_writes: bool = False,
        card: Callable[[Configuration, Memory], CardModel] = CardModel,
    ) -> None:
        self.partial_writes = partial_writes
        self.dram = Dram(0x1000_0000, memory_bytes)
        self.card = card(configuration, self.dram)
        self._buffers: list[tuple[int, int]] = []

    def read32(self, offset: int) -> int:
        """Read a register."""
        return self.card.read32(offset)

    def write32(self, offset: int, value: int) -> None:
        """Write a register."""
        self.card.write32(offset, value)

    def wait_interrupt(self, timeout: float) -> bool:
        """Whether the interrupt line is high: the model computes at once."""
        return self.card.interrupt()

    def allocate(self, nbytes: int) -> _ModelBuffer:
        """First gap of the memory that fits; raises MemoryError if there is none."""
        size = -(-nbytes // 64) * 64
        address = self.dram.base
        for start, end in self._buffers:
            if start - address >= size:
                break
            address = end
        if address + size > self.dram.base + self.dram.nbytes:
            raise MemoryError(f"no {nbytes} bytes left")
        insort(self._buffers, (address, address + size))
        return _ModelBuffer(self.dram, address, nbytes, self.partial_writes, self._free)

    def _free(self, address: int) -> None:
        self._buffers = [b for b in self._buffers if b[0] != address]

    def close(self) -> None:
        """Forget the buffers."""
        self._buffers.clear()
