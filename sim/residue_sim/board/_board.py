"""A board: one card that is clocked while it has work, and the memory it shares with the host."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from residue.card._abi import CTRL_AP_START, SOFT_RESET_RESET, Register
from residue.errors import DeviceError
from residue_sim.board._build import card_library
from residue_sim.board._memory import PageAllocator
from residue_sim.board._platform import platform
from residue_sim.board.model import Card, Fault, Latency, Store
from residue_sim.manifest import configurations

__all__ = ["Board"]

_COUNTER_MASK = 0xFFFF
_CHUNK_CYCLES = 1_000_000
_SETTLE_CYCLES = 256  # from the last command's end to ap_done and the interrupt
_UNATTENDED_CYCLES = 1_000_000_000  # a card nobody asks about stops after so many


class Board:
    """The board's two ports, registers and memory. Thread-safe.

    A thread clocks the card from a start (or a soft reset) until HEAD meets TAIL; the rest of the
    time the clock stands still. A register read while the card is busy is answered after up to
    `patience` seconds, as soon as the card is idle, so that polling costs the simulation little.

    Args:
        configuration: entry of `hw/configs.yaml`.
        latency: of the memory.
        seed: of random latencies.
        trace: file for an FST waveform.
        faults: with `stores` and `strike_store`, which make the simulation slower.
        patience: seconds.

    Attributes:
        configuration: of the card.
        memory_base: physical address of the memory.
        memory_bytes: its size.
    """

    def __init__(
        self,
        configuration: str = "r21",
        *,
        latency: Latency | None = None,
        seed: int = 1,
        trace: Path | None = None,
        faults: bool = False,
        patience: float = 0.02,
    ) -> None:
        known = configurations()
        if configuration not in known:
            raise ValueError(f"configuration {configuration!r}: expected one of {sorted(known)}")
        self.configuration = known[configuration]
        facts = platform()
        self._card = Card(
            card_library(self.configuration, trace=trace is not None, faults=faults),
            memory_base=facts.memory_base,
            memory_bytes=facts.memory_bytes,
            latency=latency,
            seed=seed,
            trace=trace,
        )
        self.memory_base, self.memory_bytes = facts.memory_base, facts.memory_bytes
        self._allocator = PageAllocator(facts.memory_base, facts.memory_bytes)
        self._patience = patience
        self._turn = threading.Condition()
        self._taken = False  # a thread is using the card
        self._waiting = 0  # threads that want it
        self._busy = False
        self._interrupt = False
        self._closed = False
        self._tail = 0
        self._unattended = 0
        self._error: DeviceError | None = None
        self._clock = threading.Thread(target=self._run_clock, name="card clock", daemon=True)
        self._clock.start()

    def __enter__(self) -> Board:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def cycles(self) -> int:
        """Clock cycles simulated so far."""
        with self._access() as card:
            return card.cycles

    def read32(self, offset: int) -> int:
        """Read the register at byte `offset`.

        Raises:
            DeviceError: the card does not answer, broke a rule of its buses, or is closed.
        """
        self._await(lambda: not self._busy, self._patience)
        with self._access() as card:
            return card.read32(offset)

    def write32(self, offset: int, value: int) -> None:
        """Write the register at byte `offset`; raises as `read32`."""
        with self._access() as card:
            card.write32(offset, value)
            if offset == Register.TAIL:
                self._tail = value & _COUNTER_MASK
            elif offset == Register.SOFT_RESET and SOFT_RESET_RESET.get(value):
                self._tail = 0
                self._busy = True
            elif offset == Register.CTRL and CTRL_AP_START.get(value):
                self._busy = True

    def wait_interrupt(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds for the interrupt; whether its line is high.

        Returns at once when the card is idle and will not raise it.
        """
        self._await(lambda: self._interrupt or not self._busy, timeout)
        with self._access() as card:
            return card.interrupt

    def wait_idle(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds until the card has no work; whether it came to that.

        Raises:
            DeviceError: the card broke a rule of its buses, or is closed.
        """
        self._await(lambda: not self._busy, timeout)
        with self._access():
            return not self._busy

    def reset(self) -> None:
        """Pulse the reset input, as programming the device does; allocations stay."""
        with self._access(recover=True) as card:
            card.reset()
            self._tail, self._busy, self._error = 0, False, None

    def allocate(self, nbytes: int) -> int:
        """Physical address of `nbytes` fresh bytes of memory, page-aligned.

        Raises:
            ValueError: nbytes < 1.
            MemoryError: no such piece is left.
        """
        with self._turn:
            return self._allocator.allocate(nbytes)

    def free(self, address: int) -> None:
        """Give back what `allocate` returned. Raises KeyError if nothing is allocated there."""
        with self._turn:
            self._allocator.free(address)

    def memory(self, address: int, nbytes: int) -> NDArray[np.uint8]:
        """View of ``[address, address + nbytes)``, to be dropped before `close`."""
        start = address - self.memory_base
        return self._card.memory[start : start + nbytes]

    def add_fault(self, fault: Fault) -> None:
        """Let the memory misbehave from now on."""
        with self._access() as card:
            card.add_fault(fault)

    def clear_faults(self) -> None:
        """Let the memory behave again; what hung is answered."""
        with self._access() as card:
            card.clear_faults()

    @property
    def struck(self) -> int:
        """How often a fault or a strike has hit so far."""
        with self._access() as card:
            return card.struck

    def strike_reset(self, delay: int) -> None:
        """Pulse the reset input once, after `delay` cycles, while the card is at work."""
        with self._access() as card:
            card.strike_reset(card.cycles + delay)

    def strike_store(self, delay: int, store: int, row: int, bit: int) -> None:
        """Invert a bit in a store once, after `delay` cycles, as `Card.strike_store` does."""
        with self._access() as card:
            card.strike_store(card.cycles + delay, store, row, bit)

    def stores(self) -> list[Store]:
        """The card's stores, to be dropped before `close`; none without `faults`."""
        with self._access() as card:
            return card.stores()

    def close(self) -> None:
        """Stop the clock and end the model; a second call does nothing."""
        with self._turn:
            if self._closed:
                return
            self._closed = True
            self._card.stop()
            self._turn.notify_all()
        self._clock.join()
        with self._turn:
            self._turn.wait_for(lambda: not self._taken)
            self._card.close()

    def _await(self, condition: Callable[[], bool], timeout: float) -> None:
        with self._turn:
            self._turn.wait_for(
                lambda: condition() or self._closed or self._error is not None, timeout
            )

    @contextlib.contextmanager
    def _access(self, *, recover: bool = False) -> Iterator[Card]:
        """Exclusive use of the card; the clock thread makes way."""
        with self._turn:
            self._waiting += 1
            if self._taken:
                self._card.stop()
            self._turn.wait_for(lambda: not self._taken)
            self._waiting -= 1
            if self._closed:
                raise DeviceError("the simulated board is closed")
            if self._error is not None and not recover:
                raise DeviceError(str(self._error)) from self._error
            self._taken = True
            self._unattended = 0
        try:
            yield self._card
        finally:
            self._release()

    def _release(self) -> None:
        with self._turn:
            self._taken = False
            self._interrupt = self._card.interrupt
            self._turn.notify_all()

    def _has_work(self) -> bool:
        return (
            self._busy
            and self._error is None
            and not self._taken
            and not self._waiting
            and self._unattended < _UNATTENDED_CYCLES
        )

    def _run_clock(self) -> None:
        while True:
            with self._turn:
                self._turn.wait_for(lambda: self._closed or self._has_work())
                if self._closed:
                    return
                self._taken = True
            start = self._card.cycles
            try:
                if self._card.run_until(Register.HEAD, _COUNTER_MASK, self._tail, _CHUNK_CYCLES):
                    self._card.step(_SETTLE_CYCLES)
                    self._busy = False
            except DeviceError as error:
                self._error = error
            self._unattended += self._card.cycles - start
            self._release()
