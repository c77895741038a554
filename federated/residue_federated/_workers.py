"""Who does a party's plain work, partitions of its table, one a task: processes of its machine.

They are started when there is a second partition, so a small job has none. They see tables by
mapping them, not as messages; they have no key and open no device. They end with the party's
process, however that ends.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Protocol

from residue_federated._mapping import Lent, lent
from residue_federated.errors import WorkerLost

__all__ = ["LocalWorkers", "Workers", "end_with_parent"]

_AHEAD = 2
"""Tasks of each worker that are under way, or whose results wait: bounds memory."""


class Workers(Protocol):
    """Whoever works on partitions. What a task gives does not depend on who does it."""

    @property
    def count(self) -> int:
        """How many tasks are worked on at once; 0 if the party's own process does all."""

    @property
    def done(self) -> Counter[str]:
        """Tasks that are finished, by the node that did them, where there are nodes."""

    def each(self, function: Callable[..., Any], tasks: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
        """``function(*task)`` of every task, in order, computed some tasks ahead.

        `function` is one that a module names. It does not change its arguments.

        Raises `WorkerLost` if a task cannot be finished, and what `function` raises.
        """

    def close(self) -> None:
        """End them."""


class LocalWorkers:
    """As many processes as there is work for at once, `count` at most; a core each by default.

    Fewer than two, or a system that cannot share unnamed memory, is none: the party's own process
    does the work. Threads may share them. They import the main module as `multiprocessing` does, so
    a script that runs a party does so below ``if __name__ == "__main__"``.
    """

    def __init__(self, count: int | None = None) -> None:
        if count is None:
            count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
        self.count = count if count > 1 and hasattr(os, "memfd_create") else 0
        self.done: Counter[str] = Counter()
        self._pool: ProcessPoolExecutor | None = None
        self._lock = threading.Lock()

    def each(self, function: Callable[..., Any], tasks: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
        """As `Workers.each`.

        Arrays that can be mapped (`residue_federated._mapping`) are; what else is in a task, and
        what comes back, is copied.
        """
        pending: deque[Future[Any]] = deque()
        try:
            for task in tasks:
                pending.append(self._started().submit(_work, function, *map(lent, task)))
                if len(pending) >= _AHEAD * self.count:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        except BrokenProcessPool:
            raise WorkerLost(
                "a worker process ended, perhaps killed for want of memory: resume the job, with "
                "fewer processes or none"
            ) from None
        finally:
            for future in pending:
                future.cancel()

    @property
    def pids(self) -> list[int]:
        """Processes that have been started."""
        return [] if self._pool is None else list(self._pool._processes or [])

    def close(self) -> None:
        """End them."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def _started(self) -> ProcessPoolExecutor:
        with self._lock:
            if self._pool is None:
                # Not by fork: this process has threads of gRPC, and keys.
                context = multiprocessing.get_context("spawn")
                self._pool = ProcessPoolExecutor(self.count, context, end_with_parent)
            return self._pool


def end_with_parent() -> None:
    """Have this worker process end with the one that started it, and not by an interrupt."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end, daemon=True).start()


def _end() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _work(function: Callable[..., Any], *task: Any) -> Any:
    return function(*(part.array() if isinstance(part, Lent) else part for part in task))
