"""Arrays larger than the memory a party may use: mapped from files that have no name.

Such a file is gone as soon as nobody maps it, however its process ends. Pages that are not in use
are the kernel's to write back and to drop: they are no part of the party's own memory.
"""

from __future__ import annotations

import math
import mmap
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from residue_federated._mapping import map_file, mapping_of
from residue_federated._workers import Workers
from residue_federated.errors import DataError

__all__ = [
    "Growing",
    "Scratch",
    "block_sums",
    "column_results",
    "columns",
    "fill",
    "forget",
    "is_mapped",
    "mapped",
    "partitions",
    "permuted",
    "row_blocks",
    "taken",
]

_BLOCK = 1 << 20
"""Values of a table that are worked on at once, 8 MiB: sums over blocks depend on it."""
_PARTITION = 1 << 22
"""Values of a partition, 32 MiB: of whole columns that are read from, or put into, a table on disk
at once, and of what one worker takes at a time."""


@dataclass(frozen=True)
class Scratch:
    """Where arrays are made.

    most: bytes of an array that is kept in memory; None for any. directory: of the files of larger
    ones; None for the system's temporary directory. workers: who works on partitions of them;
    arrays of more than one are in memory that can be shared.
    """

    most: int | None = None
    directory: Path | None = None
    workers: Workers | None = None

    def empty(self, shape: tuple[int, ...], dtype: Any = np.float64) -> NDArray[Any]:
        """A new array of any values. Raises `DataError` if the disk has no room for it."""
        values = math.prod(shape)
        size = values * np.dtype(dtype).itemsize
        spills = self.spills(size)
        if not spills and not self.spreads(values):
            return np.empty(shape, dtype)
        with self.file() if spills else _memory() as file:
            try:
                os.posix_fallocate(file.fileno(), 0, size)
            except OSError as error:
                where = self.directory or tempfile.gettempdir() if spills else "memory"
                raise DataError(
                    f"no room for a table of {size >> 20} MiB in {where}: {error.strerror}"
                ) from error
            return map_file(file.fileno(), shape, dtype, on_disk=spills)

    def spills(self, size: int) -> bool:
        """Whether an array of so many bytes is kept in a file."""
        return self.most is not None and size > self.most

    def spreads(self, values: int) -> bool:
        """Whether so many values, more than one partition of them, are worked on by workers."""
        return values > _PARTITION and self.workers is not None and self.workers.count > 0

    def spread(
        self, function: Callable[..., Any], tasks: Iterable[tuple[Any, ...]], values: int
    ) -> Iterator[Any]:
        """``function(*task)`` of every task, in order; of so many values in all.

        See `Workers.each` for what can be in a task.
        """
        if self.spreads(values):
            assert self.workers is not None
            return self.workers.each(function, tasks)
        return (function(*task) for task in tasks)

    def file(self) -> BinaryIO:
        """A new file without a name."""
        if self.directory is not None:
            self.directory.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryFile(dir=self.directory)


def _memory() -> BinaryIO:
    """A file in memory, without a name in the file system."""
    return open(os.memfd_create("table"), "w+b")


class Growing:
    """A ``(rows, columns) float64`` array whose rows come in blocks, nobody knows how many."""

    def __init__(self, scratch: Scratch, columns: int) -> None:
        self._scratch = scratch
        self._columns = columns
        self._blocks: list[NDArray[np.float64]] = []
        self._size = 0
        self._file: BinaryIO | None = None

    def append(self, block: NDArray[np.float64]) -> None:
        """The next ``(n, columns)`` rows. Raises `DataError` if the disk is full."""
        self._size += block.nbytes
        self._blocks.append(block)
        if self._file is None and self._scratch.spills(self._size):
            self._file = self._scratch.file()
        if self._file is not None:
            try:
                for each in self._blocks:
                    self._file.write(np.ascontiguousarray(each).data)
            except OSError as error:
                raise DataError(f"no room for a table on disk: {error.strerror}") from error
            self._blocks.clear()

    def array(self) -> NDArray[np.float64]:
        """All rows; the last call."""
        if self._file is None:
            blocks = [np.empty((0, self._columns)), *self._blocks]
            self._blocks.clear()
            out = self._scratch.empty((sum(map(len, blocks)), self._columns))
            return np.concatenate(blocks, out=out)
        with self._file:
            self._file.flush()
            rows = self._size // (8 * self._columns)
            shape = (rows, self._columns)
            return map_file(self._file.fileno(), shape, np.float64, on_disk=True)


def is_mapped(x: NDArray[Any]) -> bool:
    """Whether an array lies in a file on disk."""
    mapping = mapping_of(x)
    return mapping is not None and mapping.on_disk


def forget(x: NDArray[Any]) -> None:
    """Let a mapped array's pages leave this process; the file and the kernel's cache keep them."""
    mapping = mapping_of(x)
    if mapping is not None and mapping.on_disk:
        mapping.madvise(mmap.MADV_DONTNEED)


def row_blocks(x: Any) -> Iterator[slice]:
    """All rows of what has a `shape`, in order, in blocks that depend on the shape alone."""
    step = max(1, _BLOCK // max(1, math.prod(x.shape[1:])))
    for start in range(0, len(x), step):
        yield slice(start, min(start + step, len(x)))
        if isinstance(x, np.ndarray):
            forget(x)


def block_sums(
    x: NDArray[np.float64], of: Callable[[NDArray[np.float64]], NDArray[Any]]
) -> NDArray[np.float64]:
    """The sum over all rows of what `of` makes of each block of rows, one a column.

    The same bits for any layout of `x` in memory.
    """
    total = np.zeros(x.shape[1:])
    for rows in row_blocks(x):
        total += np.ascontiguousarray(of(x[rows])).sum(axis=0)
    return total


def mapped(
    x: NDArray[np.float64],
    change: Callable[[NDArray[np.float64]], NDArray[Any]],
    scratch: Scratch,
) -> NDArray[Any]:
    """`change` of every block of rows; it keeps their number."""
    blocks = row_blocks(x)
    rows = next(blocks, slice(0))
    first = change(x[rows])
    if len(first) == len(x) and not scratch.spills(first.nbytes):
        return first
    out = scratch.empty((len(x), *first.shape[1:]), first.dtype)
    out[rows] = first
    for rows in blocks:
        out[rows] = change(x[rows])
        forget(out)
    return out


def taken(x: NDArray[Any], rows: NDArray[np.int64], scratch: Scratch) -> NDArray[Any]:
    """``x[rows]``, which may be as large as `x`."""
    out = scratch.empty((len(rows), *x.shape[1:]), x.dtype)
    for part in row_blocks(out):
        out[part] = x[rows[part]]
        forget(x)
    return out


def _rows_at_once(x: NDArray[Any]) -> int:
    """Of a partition of whole rows."""
    return max(1, _PARTITION * len(x) // max(1, x.size))


def _columns_at_once(x: NDArray[Any]) -> int:
    """Of a partition of whole columns."""
    return max(1, _PARTITION // max(1, len(x)))


def permuted(
    x: NDArray[np.float64], order: NDArray[np.int64], scratch: Scratch
) -> NDArray[np.float64]:
    """``x[order]`` for a permutation.

    A mapped table is sorted by distribution: one pass puts each row into the range of rows where it
    belongs, another sorts each range in memory. Both read and write in long runs.
    """
    if not is_mapped(x):
        # The default mode would make a second copy.
        return np.take(x, order, axis=0, out=scratch.empty(x.shape), mode="clip")
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    step = _rows_at_once(x)
    ends = np.arange(0, len(x), step)
    out, wanted = scratch.empty(x.shape), np.empty(len(x), np.int64)
    for rows in row_blocks(x):
        bucket = place[rows] // step
        sorted_ = np.argsort(bucket, kind="stable")
        counts = np.bincount(bucket, minlength=len(ends))
        to = np.repeat(ends - (np.cumsum(counts) - counts), counts) + np.arange(len(bucket))
        out[to] = x[rows][sorted_]
        wanted[to] = place[rows][sorted_]
        ends += counts
        forget(out)
    for part in partitions(x):
        block = np.empty_like(out[part])
        block[wanted[part] - part.start] = out[part]
        out[part] = block
        forget(out)
    return out


def columns(x: NDArray[np.float64]) -> Iterator[NDArray[np.float64]]:
    """The columns of ``(rows, columns)``; of a mapped table as many at a time as memory allows."""
    if not is_mapped(x):
        yield from x.T
        return
    step = _columns_at_once(x)
    for start in range(0, x.shape[1], step):
        group = np.empty((min(step, x.shape[1] - start), len(x)))
        for rows in row_blocks(x):
            group[:, rows] = x[rows, start : start + step].T
        yield from group


def partitions(x: NDArray[Any]) -> Iterator[slice]:
    """All rows, in order, in partitions of whole rows that depend on the shape alone."""
    step = _rows_at_once(x)
    for start in range(0, len(x), step):
        yield slice(start, min(start + step, len(x)))


def column_results(
    of: Callable[..., Any], x: NDArray[np.float64], given: Sequence[Any], scratch: Scratch
) -> Iterator[Any]:
    """``of(column, given of the column)`` of each column of ``(rows, columns)``, in order."""
    step = _columns_at_once(x)
    tasks = (
        (of, x[:, start : start + step], given[start : start + step])
        for start in range(0, x.shape[1], step)
    )
    for some in scratch.spread(_column_results, tasks, x.size):
        yield from some


def _column_results(
    of: Callable[..., Any], x: NDArray[np.float64], given: Sequence[Any]
) -> list[Any]:
    return [of(column, each) for column, each in zip(columns(x), given, strict=True)]


def fill(x: NDArray[np.float64], made: Iterable[NDArray[np.float64]]) -> None:
    """Put columns, which come one after the other, into ``(rows, columns)``."""
    step, group = _columns_at_once(x) if is_mapped(x) else 1, []
    for j, column in enumerate(made, 1):
        group.append(column)
        if len(group) == step or j == x.shape[1]:
            for rows in row_blocks(x):
                for at, each in enumerate(group, j - len(group)):
                    x[rows, at] = each[rows]
            group.clear()
