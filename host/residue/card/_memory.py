"""The card's memory: a few large buffers, cut into blocks that free themselves."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Iterator

import numpy as np

from residue.card._port import Buffer
from residue.errors import BackendError

__all__ = ["Block", "DeviceMemory", "DeviceMemoryError", "Extents"]

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


class Block:
    """A piece of card memory; returns to the free ranges when the last reference to it goes.

    Commands run in order, so a block may be given away again while commands that use its former
    content are still queued.
    """

    __slots__ = ("_returned", "address", "nbytes")

    def __init__(self, address: int, nbytes: int, returned: deque[tuple[int, int]]) -> None:
        self.address = address
        self.nbytes = nbytes
        self._returned = returned

    def __del__(self) -> None:
        # May run in any thread, even inside the allocator: only an atomic append here.
        self._returned.append((self.address, self.nbytes))


class DeviceMemory:
    """Hands out blocks from arenas that it allocates on the board as they are needed.

    Args:
        allocate: allocates a buffer on the board; raises MemoryError when it has none left.
        arena_bytes: usual size of an arena.
        limit: most bytes of all arenas together; None: as much as the board has.
    """

    def __init__(
        self, allocate: Callable[[int], Buffer], arena_bytes: int, limit: int | None
    ) -> None:
        self._allocate_buffer = allocate
        self._arena_bytes = arena_bytes
        self._limit = limit
        self._arenas: list[tuple[Buffer, Extents]] = []
        self._returned: deque[tuple[int, int]] = deque()

    @property
    def reserved(self) -> int:
        """Bytes of all arenas."""
        return sum(extents.size for _, extents in self._arenas)

    @property
    def free(self) -> int:
        """Bytes of the arenas that are not in use."""
        self._collect()
        return sum(size for _, extents in self._arenas for _, size in extents)

    def allocate(self, nbytes: int) -> Block:
        """A block of at least `nbytes` > 0 bytes, 64-byte aligned.

        Raises:
            DeviceMemoryError: no free range is large enough and the board has no more.
        """
        size = -(-nbytes // _ALIGNMENT) * _ALIGNMENT
        self._collect()
        for _, extents in self._arenas:
            if (address := extents.take(size)) is not None:
                return Block(address, size, self._returned)
        extents = self._grow(size)
        address = extents.take(size)
        assert address is not None
        return Block(address, size, self._returned)

    def wipe(self, *, arrays: bool) -> None:
        """Overwrite with zeros, through the host, what is not in use, or (`arrays`) everything.

        The card must be idle.
        """
        self._collect()
        for buffer, extents in self._arenas:
            image = np.zeros(extents.size, np.uint8)
            if not arrays:
                image = buffer.read(0, extents.size)
                for address, size in extents:
                    image[address - extents.start : address - extents.start + size] = 0
            buffer.write(0, image)

    def _collect(self) -> None:
        while self._returned:
            address, size = self._returned.popleft()
            for _, extents in self._arenas:
                if extents.start <= address < extents.start + extents.size:
                    extents.give(address, size)
                    break

    def _grow(self, size: int) -> Extents:
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
            extents = Extents(buffer.physical_address, wanted)
            self._arenas.append((buffer, extents))
            return extents
        raise DeviceMemoryError(
            f"the card's memory has no free block of {size} bytes: {self.free} of {self.reserved} "
            "bytes are free; free arrays, or use smaller batches"
        )
