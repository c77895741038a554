"""Which pieces of the board's memory are in use."""

from __future__ import annotations

from bisect import bisect_left

__all__ = ["PAGE", "PageAllocator"]

PAGE = 4096
"""Granularity and alignment of allocations in bytes."""


class PageAllocator:
    """First fit over ``[base, base + size)``; freed neighbours join.

    Args:
        base, size: multiples of `PAGE`.
    """

    def __init__(self, base: int, size: int) -> None:
        self._holes: list[tuple[int, int]] = [(base, base + size)]  # ascending, never touching
        self._used: dict[int, int] = {}

    @property
    def free_bytes(self) -> int:
        """Bytes not allocated, in all."""
        return sum(end - start for start, end in self._holes)

    def allocate(self, nbytes: int) -> int:
        """Address of `nbytes` fresh bytes, rounded up to pages.

        Raises:
            ValueError: nbytes < 1.
            MemoryError: no hole is large enough.
        """
        if nbytes < 1:
            raise ValueError(f"cannot allocate {nbytes} bytes: expected at least 1")
        size = -(-nbytes // PAGE) * PAGE
        for i, (start, end) in enumerate(self._holes):
            if end - start >= size:
                self._holes[i : i + 1] = [(start + size, end)] if end - start > size else []
                self._used[start] = size
                return start
        raise MemoryError(
            f"no piece of {nbytes} bytes left in the board's memory ({self.free_bytes} bytes free)"
        )

    def free(self, address: int) -> None:
        """Give back what `allocate` returned.

        Raises:
            KeyError: nothing is allocated there.
        """
        start, end = address, address + self._used.pop(address)
        i = bisect_left(self._holes, (start, end))
        if i < len(self._holes) and self._holes[i][0] == end:
            end = self._holes.pop(i)[1]
        if i and self._holes[i - 1][1] == start:
            i -= 1
            start = self._holes.pop(i)[0]
        self._holes.insert(i, (start, end))
