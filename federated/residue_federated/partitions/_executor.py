"""How owners of devices are reached: on other machines, or for tests in processes of this one."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any, Protocol

from residue.errors import DeviceError
from residue_federated._workers import end_with_parent
from residue_federated.partitions._owner import Owner

__all__ = ["Executor", "Processes"]

Result = Callable[[], Any]
"""Waits for an answer; raises what the owner raised, or `DeviceError` if it is lost."""


class Executor(Protocol):
    """Nodes, each with one `Owner`, that do what they are told in order."""

    @property
    def nodes(self) -> list[str]:
        """What to call them."""

    def submit(self, node: int, method: str, *arguments: Any) -> Result:
        """Have the owner of a node call a method. Returns at once."""

    def close(self) -> None:
        """End the owners."""


_owner: Owner | None = None
"""A worker process's own."""


def _open(device: str) -> None:
    end_with_parent()
    global _owner
    _owner = Owner(device)


def _call(method: str, *arguments: Any) -> Any:
    return getattr(_owner, method)(*arguments)


class Processes:
    """Several owners on one machine, in processes of their own: what nodes are, without a cluster.

    For tests: no setting of a party makes them, since a machine's device has one owner.
    """

    def __init__(self, count: int, device: str) -> None:
        self.nodes = [f"process {number}" for number in range(count)]
        self._pools = [
            ProcessPoolExecutor(1, get_context("spawn"), _open, (device,)) for _ in range(count)
        ]

    def submit(self, node: int, method: str, *arguments: Any) -> Result:
        """Have the owner of a process call a method. Returns at once."""
        try:
            future: Future[Any] = self._pools[node].submit(_call, method, *arguments)
        except BrokenProcessPool:
            future = Future()
            future.set_exception(BrokenProcessPool())

        def result() -> Any:
            try:
                return future.result()
            except BrokenProcessPool:
                raise lost(self.nodes[node]) from None

        return result

    def close(self) -> None:
        """End the processes."""
        for pool in self._pools:
            pool.shutdown(cancel_futures=True)


def lost(node: str) -> DeviceError:
    """The error of a node that is gone."""
    return DeviceError(f"{node} is lost with its part of the ciphertexts: resume the job")
