"""The card in this process: registers, memory and clock of the Verilated `residue_card`."""

from __future__ import annotations

import ctypes
import re
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from residue.errors import DeviceError

__all__ = ["Card", "Fault", "FaultKind", "Latency", "Store"]

_REACHED, _FAILED = 1, -1


class FaultKind(IntEnum):
    """What goes wrong when the card touches an address."""

    READ_ERROR = 0
    WRITE_ERROR = 1
    HANG = 2
    FLIP = 3
    READ_DECODE_ERROR = 4
    WRITE_DECODE_ERROR = 5
    READ_FLIP = 6


@dataclass(frozen=True)
class Fault:
    """A fault of the memory, for tests of recovery.

    Attributes:
        kind: READ_ERROR and WRITE_ERROR answer SLVERR, READ_DECODE_ERROR and WRITE_DECODE_ERROR
            DECERR (and store nothing); HANG never answers again, on any channel, until the faults
            are cleared; FLIP inverts a bit of what is written, READ_FLIP of what the card is given.
        low: first byte address it concerns.
        high: address after the last one.
        bit: bit of the bus word that FLIP or READ_FLIP inverts.
        count: bus words (HANG: bursts) it still hits; negative: all.
        skip: bus words (HANG: bursts) of that kind that it lets pass first.
    """

    kind: FaultKind
    low: int
    high: int
    bit: int = 0
    count: int = -1
    skip: int = 0


@dataclass(frozen=True)
class Store:
    """A memory on the card that holds operands.

    Attributes:
        name: the path of its instance.
        content: ``(rows, bytes of a row) uint8``, the memory itself; the top bit is the parity.
        bits: of a row.
    """

    name: str
    content: NDArray[np.uint8]
    bits: int


@dataclass(frozen=True)
class Latency:
    """How fast the memory answers.

    Attributes:
        cycles: from an accepted burst to its answer; the mean of it if `random`.
        random: latencies vary from 0 to twice `cycles`, and every channel pauses now and then.
    """

    cycles: int = 8
    random: bool = False

    @classmethod
    def parse(cls, text: str) -> Latency:
        """From `fast`, a number of cycles, `random` or `random:CYCLES`.

        Raises:
            ValueError: anything else, or more than 10,000 cycles.
        """
        match = re.fullmatch(r"fast|(\d{1,5})|(random)(?::(\d{1,5}))?", text)
        cycles = int(match[1] or match[3] or (32 if match[2] else 8)) if match else -1
        if match is None or cycles > 10_000:
            raise ValueError(
                f"latency {text!r}: expected fast, a number of cycles up to 10000, random or "
                "random:CYCLES"
            )
        return cls(cycles, bool(match[2]))


def _load(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    handle, u32, u64 = ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint64
    for name, result, *arguments in (
        ("create", handle, u64, u64, u32, ctypes.c_int, u64, ctypes.c_char_p),
        ("destroy", None),
        ("memory", handle),
        ("cycles", u64),
        ("interrupt", ctypes.c_int),
        ("error", ctypes.c_char_p),
        ("reset", None),
        ("read", ctypes.c_int, u32, ctypes.POINTER(u32)),
        ("write", ctypes.c_int, u32, u32),
        ("run", ctypes.c_int, u64, u32, u32, u32),
        ("step", ctypes.c_int, u64),
        ("stop", None),
        ("watch", None),
        ("watched", handle, ctypes.POINTER(u64)),
        ("add_fault", None, ctypes.c_int, u64, u64, u32, ctypes.c_int64, u64),
        ("clear_faults", None),
        ("struck", u64),
        ("strike_reset", None, u64),
        ("strike_store", None, u64, u32, u32, u32),
        ("stores", u32),
        ("store_name", ctypes.c_char_p, u32),
        ("store", handle, u32, *[ctypes.POINTER(u32)] * 3),
    ):
        function = getattr(library, f"card_{name}")
        function.restype = result
        function.argtypes = arguments if name == "create" else [handle, *arguments]
    return library


class Card:
    """One simulated card with its memory. Not thread-safe, except `stop`.

    Args:
        library: what `card_library` built.
        memory_base: physical address of the memory's first byte, a multiple of 4096.
        memory_bytes: its size, a multiple of 4096; pages are committed when first touched.
        latency: how fast the memory answers.
        seed: of the random latencies and pauses.
        trace: file for an FST waveform; the library must be built for it.

    Attributes:
        memory: ``(memory_bytes,) uint8``, the memory itself, valid until `close`.
    """

    def __init__(
        self,
        library: Path,
        *,
        memory_base: int,
        memory_bytes: int,
        latency: Latency | None = None,
        seed: int = 1,
        trace: Path | None = None,
    ) -> None:
        latency = latency or Latency()
        if trace is not None and not trace.parent.is_dir():
            raise FileNotFoundError(f"no folder {trace.parent} for the waveform {trace.name}")
        self._library = _load(library)
        self._handle: int | None = self._library.card_create(
            memory_base,
            memory_bytes,
            latency.cycles,
            latency.random,
            seed & (2**64 - 1),
            None if trace is None else str(trace).encode(),
        )
        if self._handle is None:
            raise MemoryError(f"no address space for {memory_bytes} bytes of simulated memory")
        address = self._library.card_memory(self._handle)
        self.memory: NDArray[np.uint8] = np.ctypeslib.as_array(
            (ctypes.c_uint8 * memory_bytes).from_address(address)
        )
        self.memory_base = memory_base

    @property
    def cycles(self) -> int:
        """Clock cycles simulated so far."""
        return int(self._library.card_cycles(self._live()))

    @property
    def interrupt(self) -> bool:
        """Level of the card's interrupt."""
        return bool(self._library.card_interrupt(self._live()))

    def reset(self) -> None:
        """Pulse the reset input; what was under way on the buses is forgotten, memory stays."""
        self._library.card_reset(self._live())

    def read32(self, offset: int) -> int:
        """Read a register over AXI4-Lite. Raises `DeviceError` on an error answer or none."""
        value = ctypes.c_uint32()
        self._check(self._library.card_read(self._live(), offset, ctypes.byref(value)))
        return value.value

    def write32(self, offset: int, value: int) -> None:
        """Write a register over AXI4-Lite. Raises `DeviceError` on an error answer or none."""
        self._check(self._library.card_write(self._live(), offset, value))

    def run_until(self, offset: int, mask: int, value: int, max_cycles: int) -> bool:
        """Clock until register & mask == value; False if cycles were spent or `stop` was called.

        Raises:
            DeviceError: the card broke a rule of its buses.
        """
        status = self._library.card_run(self._live(), max_cycles, offset, mask, value)
        self._check(status)
        return bool(status == _REACHED)

    def step(self, cycles: int) -> None:
        """Clock the card. Raises `DeviceError` if it broke a rule of its buses."""
        self._check(self._library.card_step(self._live(), cycles))

    def stop(self) -> None:
        """Make a `run_until` in another thread return soon; else the next one."""
        self._library.card_stop(self._live())

    def watch(self) -> None:
        """Note every burst that the card asks for from now on; see `watched`."""
        self._library.card_watch(self._live())

    def watched(self) -> NDArray[np.uint64]:
        """``(bursts, 4)``: cycle, address, length field, and 2 * master (1 more for a write)."""
        count = ctypes.c_uint64()
        address = self._library.card_watched(self._live(), ctypes.byref(count))
        if not count.value:
            return np.empty((0, 4), np.uint64)
        words = (ctypes.c_uint64 * (4 * count.value)).from_address(address)
        return np.array(words, np.uint64).reshape(-1, 4)

    def add_fault(self, fault: Fault) -> None:
        """Let the memory misbehave from now on."""
        self._library.card_add_fault(
            self._live(), fault.kind, fault.low, fault.high, fault.bit, fault.count, fault.skip
        )

    def clear_faults(self) -> None:
        """Let the memory behave again; what hung is answered, and no strike is to come."""
        self._library.card_clear_faults(self._live())

    @property
    def struck(self) -> int:
        """How often a fault or a strike has hit so far."""
        return int(self._library.card_struck(self._live()))

    def strike_reset(self, cycle: int) -> None:
        """Pulse the reset input once, at the first `cycle` or later that `run_until` makes."""
        self._library.card_strike_reset(self._live(), cycle)

    def strike_store(self, cycle: int, store: int, row: int, bit: int) -> None:
        """Invert a bit in a store once, as soon as it holds anything from that cycle on.

        Args:
            cycle: as for `strike_reset`.
            store: position in `stores()`.
            row: the first row from here on that is not zero is struck.
            bit: below `Store.bits`.
        """
        self._library.card_strike_store(self._live(), cycle, store, row, bit)

    def stores(self) -> list[Store]:
        """The stores of a library built with `faults`, valid until `close`; else none."""
        found = []
        for i in range(self._library.card_stores(self._live())):
            rows, row_bytes, bits = (ctypes.c_uint32() for _ in range(3))
            address = self._library.card_store(
                self._live(), i, ctypes.byref(rows), ctypes.byref(row_bytes), ctypes.byref(bits)
            )
            size = rows.value * row_bytes.value
            memory = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))
            name = self._library.card_store_name(self._live(), i).decode()
            found.append(Store(name, memory.reshape(rows.value, row_bytes.value), bits.value))
        return found

    def close(self) -> None:
        """End the model and its waveform; a second call does nothing."""
        if self._handle is not None:
            self.memory = np.empty(0, np.uint8)
            self._library.card_destroy(self._handle)
            self._handle = None

    def _live(self) -> int:
        if self._handle is None:
            raise DeviceError("the simulated card is closed")
        return self._handle

    def _check(self, status: int) -> None:
        if status == _FAILED:
            reason = self._library.card_error(self._live()).decode()
            raise DeviceError(f"simulated card: {reason}; it needs a reset")
