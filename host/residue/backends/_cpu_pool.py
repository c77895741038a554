"""Worker processes of the CPU backend.

GMP's products take a microsecond or two, far less than handing over the interpreter lock, so
threads cannot share them. Workers are fresh interpreters, never forks: they are safe beside gRPC's
threads and need no ``if __name__ == "__main__"`` in the user's script. They end when the pipe to
their parent closes, whatever ended the parent.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import weakref
from multiprocessing.connection import Connection, Pipe
from typing import Any

import numpy as np

from residue._limbs import to_limbs
from residue.backends._cpu_kernels import KERNELS
from residue.backends._protocol import Limbs

__all__ = ["WorkerPool", "run_kernel"]

_log = logging.getLogger(__name__)

Task = tuple[str, int, tuple[Any, ...]]
"""Kernel name, modulus, further arguments."""


def run_kernel(task: Task) -> Limbs:
    """Run one task in this process; residues as ``(n, limbs) uint64``."""
    name, modulus, args = task
    return to_limbs(KERNELS[name](modulus, *args), (modulus.bit_length() + 63) // 64)


def serve(descriptor: int) -> None:
    """Main loop of a worker: tasks in, limbs or an exception out, until the pipe closes."""
    with Connection(descriptor) as pipe:
        while True:
            try:
                task = pipe.recv()
            except EOFError:
                return
            try:
                reply: Limbs | ZeroDivisionError = run_kernel(task)
            except ZeroDivisionError as error:
                reply = error
            pipe.send(reply)


class _Worker:
    def __init__(self) -> None:
        ours, theirs = Pipe()
        with theirs:
            code = f"from residue.backends._cpu_pool import serve; serve({theirs.fileno()})"
            self.process = subprocess.Popen(  # noqa: S603 - our own interpreter, fixed code
                [sys.executable, "-c", code],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
            )
        self.pipe = ours

    def stop(self) -> None:
        self.pipe.close()
        try:
            self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class WorkerPool:
    """`size` processes in all: this one and ``size - 1`` workers, started on first use."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._lock = threading.Lock()
        self._workers: list[_Worker] = []
        self._finalizer = weakref.finalize(self, _stop_all, self._workers)
        _pools.add(self)

    @property
    def started(self) -> bool:
        """Whether the workers run already, so that using them costs little."""
        return bool(self._workers)

    def map(self, tasks: list[Task]) -> list[Limbs]:
        """Results of at most `size` tasks; the first runs in this process.

        A worker that died is replaced by this process for this call, by a new worker afterwards.
        """
        with self._lock:
            while len(self._workers) < len(tasks) - 1:
                self._workers.append(_Worker())
            busy = list(zip(self._workers, tasks[1:], strict=False))
            try:
                for worker, task in busy:
                    worker.pipe.send(task)
                results: list[Limbs | ZeroDivisionError] = [run_kernel(tasks[0])]
                results += [worker.pipe.recv() for worker, _ in busy]
            except (EOFError, OSError):
                _log.warning("a CPU worker process ended early; its share is computed again")
                _stop_all(self._workers)
                results = [run_kernel(task) for task in tasks]
            except BaseException:
                _stop_all(self._workers)  # replies still under way belong to nobody
                raise
        for result in results:
            if isinstance(result, ZeroDivisionError):
                raise result
        return [r for r in results if isinstance(r, np.ndarray)]

    def close(self) -> None:
        """End the workers."""
        with self._lock:
            _stop_all(self._workers)

    def _forget(self) -> None:
        """In a forked child: the workers belong to the parent."""
        self._lock = threading.Lock()
        for worker in self._workers:
            worker.pipe.close()
            worker.process.returncode = 0  # not ours to wait for
        self._workers.clear()


def _stop_all(workers: list[_Worker]) -> None:
    while workers:
        workers.pop().stop()


_pools: weakref.WeakSet[WorkerPool] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for pool in list(_pools):
        pool._forget()


os.register_at_fork(after_in_child=_after_fork_in_child)
