"""What the operations of a backend have cost, counted the same way by all of them."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager

from residue._trace import note_operation
from residue.backends._protocol import Modulus, OperationStats

__all__ = ["Counted"]


class Counted(ABC):
    """The part of a backend that counts its operations, under the backend's one lock."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._stats: dict[str, OperationStats] = {}

    @abstractmethod
    def describe(self) -> dict[str, str | int | float | bool]:
        """Facts about the device."""

    def stats(self) -> dict[str, OperationStats]:
        """What each operation has cost since the last `reset_stats`."""
        with self._lock:
            return {name: OperationStats(**vars(stats)) for name, stats in self._stats.items()}

    def reset_stats(self) -> None:
        """Start counting anew."""
        with self._lock:
            self._stats.clear()

    @contextmanager
    def _count(
        self, operation: str, modulus: Modulus | None, elements: int, products: int
    ) -> Iterator[OperationStats]:
        """Count one call, unless it fails; the body may add to what it costs.

        `modulus` is that of most bits, or None where there is none.
        """
        cost = OperationStats(calls=1, elements=elements, products=products)
        start = time.perf_counter()
        yield cost
        end = time.perf_counter()
        cost.host_seconds = end - start
        with self._lock:
            self._stats.setdefault(operation, OperationStats()).add(cost)
        note_operation(self, operation, modulus.bits if modulus else 0, elements, start, end)
