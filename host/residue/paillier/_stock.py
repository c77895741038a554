"""Randomness made ahead of time."""

from __future__ import annotations

import os
import threading

import numpy as np

from residue.backends._protocol import Backend, ResidueArray

__all__ = ["Stock"]


class Stock:
    """Encryptions of zero that wait for their one use. Safe to use from several threads.

    A forked process starts with an empty stock: what both processes hold would be used twice.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process = os.getpid()
        self._parts: list[ResidueArray] = []

    def __len__(self) -> int:
        with self._lock:
            self._forget_if_forked()
            return sum(len(part) for part in self._parts)

    def add(self, part: ResidueArray) -> None:
        """Put `part` into the stock; the caller forgets it."""
        with self._lock:
            self._forget_if_forked()
            self._parts.append(part)

    def take(self, backend: Backend, count: int) -> list[ResidueArray]:
        """Remove and return up to `count` of them, in arrays of `backend`."""
        taken: list[ResidueArray] = []
        with self._lock:
            self._forget_if_forked()
            while count and self._parts:
                part = self._parts.pop()
                if len(part) > count:
                    index = np.arange(len(part), dtype=np.int64)
                    self._parts.append(backend.take(part, index[count:]))
                    part = backend.take(part, index[:count])
                taken.append(part)
                count -= len(part)
        return taken

    def _forget_if_forked(self) -> None:
        if self._process != os.getpid():
            self._process, self._parts = os.getpid(), []
