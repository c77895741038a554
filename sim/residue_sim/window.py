"""The window of memory behind the AXI ports of a bench, and what benches ask of it."""

from __future__ import annotations

import random
from typing import Any

from cocotbext.axi.stream import define_stream

__all__ = ["BASE", "ROW", "SIZE", "Bursts", "Window", "is_bad", "misplaced", "random_address"]

BASE = 0x7_FFFF_8000  # crosses a 32-bit boundary
SIZE = 0x1_0000
ROW = 16
_BURST_BEATS = 64


class Window:
    """Memory at ``[BASE, BASE + SIZE)`` for cocotbext's AXI slaves.

    Attributes:
        bytes: the memory.
        faulty: addresses of beats that are answered SLVERR.
        raised: whether one was.
        outside: addresses of accesses that left the window.
    """

    def __init__(self, beat_bytes: int, content: bytes = bytes(SIZE)) -> None:
        self.beat_bytes = beat_bytes
        self.bytes = bytearray(content)
        self.faulty: set[int] = set()
        self.raised = False
        self.outside: list[int] = []

    def at(self, address: int, length: int) -> bytes:
        """What lies there."""
        return bytes(self.bytes[address - BASE : address - BASE + length])

    def break_beats(self, rng: random.Random, share: float) -> None:
        """Let this share of the beats be faulty from now on."""
        beats = range(BASE, BASE + SIZE, self.beat_bytes)
        self.faulty = {address for address in beats if rng.random() < share}
        self.raised = False

    async def read(self, address: int, length: int) -> bytes:
        """What an AXI slave reads."""
        self._touch(address, length)
        return self.at(address, length)

    async def write(self, address: int, data: bytes) -> None:
        """What an AXI slave writes."""
        self._touch(address, len(data))
        self.bytes[address - BASE : address - BASE + len(data)] = data

    def _touch(self, address: int, length: int) -> None:
        if not BASE <= address <= BASE + SIZE - length:
            self.outside.append(address)
        if address - address % self.beat_bytes in self.faulty:
            self.raised = True
            raise OSError("faulty")


class Bursts:
    """The bursts on an address channel of `dut`, ``ar`` or ``aw``."""

    def __init__(self, dut: Any, channel: str, beat_bytes: int) -> None:
        self._channel = channel
        self._beat_bytes = beat_bytes
        names = ("addr", "len", "size", "burst", "cache", "prot", "valid", "ready")
        bus, _, _, _, monitor = define_stream(
            "Address", signals=[f"{channel}{name}" for name in names]
        )
        self._seen = monitor(bus.from_prefix(dut, "m_axi"), dut.clk, dut.rst_n, False)

    def __len__(self) -> int:
        return int(self._seen.count())

    def clear(self) -> None:
        """Forget those seen so far."""
        self._seen.clear()

    def beats(self) -> list[int]:
        """Addresses of the beats of those seen since the last call, each burst by AXI's rules."""
        size = self._beat_bytes
        found: list[int] = []
        while not self._seen.empty():
            burst = self._seen.recv_nowait()

            def field(name: str, burst: Any = burst) -> int:
                return int(getattr(burst, f"{self._channel}{name}"))

            address, beats = field("addr"), field("len") + 1
            assert address % size == 0
            assert beats <= _BURST_BEATS
            assert address % 4096 + beats * size <= 4096
            assert (field("size"), field("burst")) == (size.bit_length() - 1, 1)
            assert (field("cache"), field("prot")) == (3, 0)
            found += [address + i * size for i in range(beats)]
        return found


def is_bad(address: int, rows: int) -> bool:
    """Whether a request must be refused."""
    inside = address >= BASE and address + rows * ROW <= BASE + SIZE
    return not inside or rows == 0 or address % ROW != 0


def random_address(rng: random.Random, rows: int, start: int = BASE, end: int = BASE + SIZE) -> int:
    """Of so many rows in ``[start, end)``, half of the time around a page's edge, or its own."""
    last = end - rows * ROW
    if rng.random() < 0.5:
        edge = rng.randrange(start, end + 1, 4096) + ROW * rng.randrange(-rows, 2)
        return min(max(edge, start), last)
    return rng.randrange(start, last + 1, ROW)


def misplaced(address: int, rows: int) -> list[tuple[int, int]]:
    """Requests of rows, like a good one, that must be refused for where they lie."""
    return [
        (address + 1, rows),
        (address + ROW // 2, rows),
        (BASE - ROW, rows),
        (BASE - rows * ROW, rows),
        (BASE + SIZE, 1),
        (BASE + SIZE - rows * ROW + ROW, rows),
        (2**64 - ROW, 2),
        (address - BASE, rows),
    ]
