"""The card's memory: a few large buffers, cut into blocks that free themselves."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from residue.card._port import Buffer
from residue.errors import BackendError

__all__ = ["Block", "DeviceMemory", "DeviceMemoryError", "Extents", "Progress"]

_ALIGNMENT = 64


class DeviceMemoryError(BackendError):
    """The card's memory holds no free block of the size asked for."""


class Extents:
    """Free byte ranges of ``[start, start + size)``, first fit, neighbours merged."""

    def __init__(self, start: int, size: int) -> None:
        self.start = start
        self.size = size
        self._free = [(start, size)]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Free ranges (address, size), ascending, never adjacent."""
        return iter(self._free)

    def take(self, size: int) -> int | None:
        """Cut `size` > 0 bytes from the first range that has them; its address, or None."""
        for i, (address, free) in enumerate(self._free):
            if free >= size:
                if free == size:
                    del self._free[i]
                else:
                    self._free[i] = (address + size, free - size)
                return address
        return None

    def give(self, address: int, size: int) -> None:
        """Return a range that `take` cut."""
        i = bisect_left(self._free, (address, 0))
        if i < len(self._free) and address + size == self._free[i][0]:
            size += self._free.pop(i)[1]
        if i > 0 and sum(self._free[i - 1]) == address:
            address, before = self._free.pop(i - 1)
            size += before
        insort(self._free, (address, size))


class Progress(Protocol):
    """How far the card has come with its commands."""

    @property
    def submitted(self) -> int:
        """Number of the last command submitted."""

    @property
    def done(self) -> int:
        """Number of the last command known to be complete."""


_Freed = tuple[int, int, int]  # address, bytes, last command that may use them


class Block:
    """A piece of card memory; given back when the last reference to it goes.

    It is given away again once the commands submitted so far are complete: until then they may
    have to be repeated, and read it once more.
    """

    __slots__ = ("_progress", "_returned", "address", "nbytes")

    def __init__(
        self, address: int, nbytes: int, progress: Progress, returned: deque[_Freed]
    ) -> None:
        self.address = address
        self.nbytes = nbytes
        self._progress = progress
        self._returned = returned

    def __del__(self) -> None:
        # May run in any thread, even inside the allocator: only an atomic append here.
        self._returned.append((self.address, self.nbytes, self._progress.submitted))


@dataclass(eq=False)
class _Arena:
    """A buffer that blocks are cut from; `soiled`: something was given back since the last wipe."""

    buffer: Buffer
    extents: Extents
    soiled: bool = False


class DeviceMemory:
    """Hands out blocks from arenas that it allocates on the board as they are needed.

    Args:
        allocate: allocates a buffer on the board; raises MemoryError when it has none left.
        arena_bytes: usual size of an arena.
        limit: most bytes of all arenas together; None: as much as the board has.
        progress: of the commands that use the memory.
    """

    def __init__(
        self,
        allocate: Callable[[int], Buffer],
        arena_bytes: int,
        limit: int | None,
        progress: Progress,
    ) -> None:
        self._allocate_buffer = allocate
        self._arena_bytes = arena_bytes
        self._limit = limit
        self._progress = progress
        self._arenas: list[_Arena] = []
        self._returned: deque[_Freed] = deque()

    @property
    def reserved(self) -> int:
        """Bytes of all arenas."""
        return sum(arena.extents.size for arena in self._arenas)

    @property
    def free(self) -> int:
        """Bytes of the arenas that can be given away now."""
        self._collect()
        return sum(size for arena in self._arenas for _, size in arena.extents)

    @property
    def pending(self) -> int:
        """Bytes that were given back, but that commands not yet complete may read."""
        self._collect()
        return sum(size for _, size, _ in list(self._returned))

    @property
    def largest_free(self) -> int:
        """Bytes of the largest block that can be given away now without another arena."""
        self._collect()
        return max((size for arena in self._arenas for _, size in arena.extents), default=0)

    def take(self, nbytes: int, below: int | None = None) -> Block | None:
        """A 64-byte aligned block of at least `nbytes` > 0 bytes, if the arenas have one.

        Args:
            nbytes: bytes wanted.
            below: address that it must not reach; None: any will do.
        """
        size = _aligned(nbytes)
        self._collect()
        for extents in sorted((arena.extents for arena in self._arenas), key=lambda e: e.start):
            address = extents.take(size)
            if address is None:
                continue
            if below is not None and address + size > below:
                extents.give(address, size)
                return None
            return Block(address, size, self._progress, self._returned)
        return None

    def allocate(self, nbytes: int) -> Block:
        """As `take`, from another arena if need be.

        Raises:
            DeviceMemoryError: no free range is large enough and the board has no more.
        """
        if (block := self.take(nbytes)) is not None:
            return block
        self._grow(_aligned(nbytes))
        block = self.take(nbytes)
        assert block is not None
        return block

    def wipe(self, *, arrays: bool, partial_writes: bool) -> None:
        """Overwrite with zeros, through the host, what is not in use, or (`arrays`) everything.

        Arenas that gave nothing back since the last wipe are left out. The card must be idle and
        all its commands complete. `partial_writes` is the port's.
        """
        self._collect()
        for arena in self._arenas:
            buffer, extents = arena.buffer, arena.extents
            if arrays:
                buffer.write(0, np.zeros(extents.size, np.uint8))
            elif arena.soiled and partial_writes:
                for address, size in extents:
                    buffer.write(address - extents.start, np.zeros(size, np.uint8))
            elif arena.soiled:
                image = buffer.read(0, extents.size)
                for address, size in extents:
                    image[address - extents.start : address - extents.start + size] = 0
                buffer.write(0, image)
            arena.soiled = False

    def _collect(self) -> None:
        """Take back what was given back and is not read any more."""
        done = self._progress.done
        while self._returned and self._returned[0][2] <= done:
            address, size, _ = self._returned.popleft()
            for arena in self._arenas:
                if arena.extents.start <= address < arena.extents.start + arena.extents.size:
                    arena.extents.give(address, size)
                    arena.soiled = True
                    break

    def _grow(self, size: int) -> None:
        """Allocate an arena of at least `size` bytes, smaller than usual if the board is short."""
        room = self._arena_bytes if self._limit is None else self._limit - self.reserved
        wanted = max(size, min(self._arena_bytes, room // _ALIGNMENT * _ALIGNMENT))
        while self._limit is None or size <= room:
            try:
                buffer = self._allocate_buffer(wanted)
            except MemoryError:
                if wanted == size:
                    break
                wanted = max(size, wanted // 2 // _ALIGNMENT * _ALIGNMENT)
                continue
            self._arenas.append(_Arena(buffer, Extents(buffer.physical_address, wanted)))
            return
        raise DeviceMemoryError(
            f"the card's memory has no free block of {size} bytes: {self.free} of {self.reserved} "
            f"bytes are free, {self.largest_free} of them in one piece; free arrays, or use "
            "smaller batches"
        )


def _aligned(nbytes: int) -> int:
    return -(-nbytes // _ALIGNMENT) * _ALIGNMENT
