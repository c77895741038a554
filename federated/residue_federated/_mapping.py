"""Arrays in memory or files that have no name, which other processes of the machine can map.

What has no name is gone with the last process that maps it, however that ends.
"""

from __future__ import annotations

import mmap
import os
import weakref
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Lent", "Mapping", "lent", "map_file", "mapping_of"]


class Mapping(mmap.mmap):
    """A whole file in memory. on_disk: whether it is one, and not memory that is shared."""

    on_disk: bool
    _descriptor: int

    @classmethod
    def of(cls, descriptor: int, *, on_disk: bool) -> Mapping:
        """Map what a descriptor stands for, which the caller may close."""
        made = cls(descriptor, 0)
        made.on_disk = on_disk
        # Python's own duplicate cannot be asked for.
        made._descriptor = os.dup(descriptor)
        weakref.finalize(made, os.close, made._descriptor)
        return made

    @property
    def path(self) -> str:
        """Under which processes of the same user can open it while this one has it mapped."""
        return f"/proc/{os.getpid()}/fd/{self._descriptor}"


def map_file(descriptor: int, shape: tuple[int, ...], dtype: Any, *, on_disk: bool) -> NDArray[Any]:
    """An array over a whole file; the caller may close it."""
    return np.ndarray(shape, dtype, Mapping.of(descriptor, on_disk=on_disk))


def mapping_of(x: NDArray[Any]) -> Mapping | None:
    """What an array, or the array that it is a view of, was mapped from."""
    base: Any = x
    while isinstance(base, np.ndarray):
        base = base.base
    return base if isinstance(base, Mapping) else None


@dataclass(frozen=True)
class Lent:
    """An array that another process maps, too: where its values are, not the values."""

    path: str
    on_disk: bool
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: np.dtype[Any]

    def array(self) -> NDArray[Any]:
        """The same values; what is written here is read there."""
        mapping = _opened(self.path, os.stat(self.path).st_ino, self.on_disk)
        return np.ndarray(self.shape, self.dtype, mapping, self.offset, self.strides)


@lru_cache(maxsize=2)  # a table and what is made of it: to map 320 MiB anew takes some 50 ms
def _opened(path: str, inode: int, on_disk: bool) -> Mapping:
    """What is under a path now. An inode that is mapped does not come to stand for another."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        return Mapping.of(descriptor, on_disk=on_disk)
    finally:
        os.close(descriptor)


def lent(x: Any) -> Any:
    """What to send another process for `x`: a `Lent` for an array that it can map, else `x`."""
    mapping = mapping_of(x) if isinstance(x, np.ndarray) else None
    if mapping is None:
        return x
    start = np.frombuffer(mapping, np.uint8).ctypes.data
    offset = x.ctypes.data - start
    return Lent(mapping.path, mapping.on_disk, offset, x.shape, x.strides, x.dtype)
