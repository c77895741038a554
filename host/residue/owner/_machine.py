"""The device and whose turn it is."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from dataclasses import fields
from typing import Protocol, TypeVar

from residue.backends._protocol import Backend, Limbs, OperationStats, ResidueArray
from residue.errors import BackendError, DeviceError

__all__ = ["Machine", "User"]

T = TypeVar("T", bound=ResidueArray | Limbs)

# A slice of a large batch is to take about as long; another session waits for one at most.
_SLICE_SECONDS = 0.05
_FIRST_ROWS = 64


class User(Protocol):
    """Whoever takes turns."""

    backend: Backend
    stats: dict[str, OperationStats]

    def check_alive(self) -> None:
        """Raise if there is nobody left to work for."""


class Machine:
    """A backend that several users share: one at a time, whoever has waited longest first.

    As a user has one request at a time, users with work to do take turns.

    Args:
        open_backend: opens the device, and opens it again after it has failed.
    """

    def __init__(self, open_backend: Callable[[], Backend]) -> None:
        self._open = open_backend
        self._backend = open_backend()
        self._queue = threading.Condition()
        self._tickets = 0
        self._called = 0
        self._recent: User | None = None
        self._counted: dict[str, OperationStats] = {}
        self._rows: dict[Hashable, int] = {}

    def describe(self) -> dict[str, str | int | float | bool]:
        """Facts about the device."""
        return self._backend.describe()

    def healthy(self) -> Backend:
        """The backend; it is opened again if it has failed. Raises `DeviceError` if that fails."""
        if self._is_healthy():
            return self._backend
        with self._turn():
            if not self._is_healthy():
                self._recent = None
                self._counted = {}
                with contextlib.suppress(BackendError):
                    self._backend.close()
                self._backend = self._open()
            return self._backend

    @contextlib.contextmanager
    def turn(self, user: User) -> Iterator[Backend]:
        """Wait for a turn and have the backend to oneself.

        Raises:
            DeviceError: the device failed and was opened again; the user's arrays are lost.
        """
        with self._turn():
            if user.backend is not self._backend:
                raise DeviceError("the owner's device failed; arrays of before are lost")
            if user is not self._recent:
                self.count()
                self._recent = user
            yield self._backend

    def count(self) -> None:
        """Put down what the backend has counted since the last time to whose turn it was last."""
        now = self._backend.stats()
        if self._recent is not None:
            for name, stats in now.items():
                before = self._counted.get(name, OperationStats())
                spent = OperationStats(
                    **{f.name: getattr(stats, f.name) - getattr(before, f.name)
                       for f in fields(stats)}
                )  # fmt: skip
                if spent != OperationStats():
                    self._recent.stats.setdefault(name, OperationStats()).add(spent)
        self._counted = now

    def sliced(
        self, user: User, key: Hashable, n: int,
        compute: Callable[[Backend, int, int], T], join: Callable[[Backend, list[T]], T],
    ) -> T:  # fmt: skip
        """Compute rows ``[0, n)``, a large batch slice by slice, each in a turn of its own.

        Args:
            user: for whom.
            key: of operations whose rows take the same time.
            n: how many rows.
            compute: computes rows ``[lo, hi)``.
            join: puts the slices together.
        """
        parts: list[T] = []
        lo = 0
        while True:
            rows = self._rows.get(key, _FIRST_ROWS)
            hi = n if n - lo < 2 * rows else lo + rows
            with self.turn(user) as backend:
                start = time.monotonic()
                parts.append(compute(backend, lo, hi))
                if hi == n:
                    return join(backend, parts) if len(parts) > 1 else parts[0]
                if isinstance(part := parts[-1], ResidueArray):
                    part.wait()
                seconds = time.monotonic() - start
            if seconds < _SLICE_SECONDS / 2:
                self._rows[key] = 2 * rows
            elif seconds > 2 * _SLICE_SECONDS:
                self._rows[key] = max(1, rows // 2)
            user.check_alive()
            lo = hi

    def close(self) -> None:
        """Release the device."""
        with self._turn():
            self._backend.close()

    def _is_healthy(self) -> bool:
        return bool(self._backend.describe().get("healthy", True))

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        with self._queue:
            ticket = self._tickets
            self._tickets += 1
            self._queue.wait_for(lambda: self._called == ticket)
        try:
            yield
        finally:
            with self._queue:
                self._called += 1
                self._queue.notify_all()
