"""Plain work of a party as tasks of its Ray cluster, on whichever node is free."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from residue_federated.errors import WorkerLost
from residue_federated.partitions._cluster import join, leave, name_of

__all__ = ["RayTasks"]

_AHEAD = 2
"""Tasks under way besides one a processor: bounds what of a table is in the object store."""
_RETRIES = 3
"""Of a task whose node or process was lost: it has no effect but its result, so nobody notices."""


class RayTasks:
    """`residue_federated._workers.Workers` with one task at a time on each of the cluster's cores.

    Arguments and results go through Ray's object store. Tasks see columns and identifiers; they get
    no key. With fewer than two cores the party's own process does the work.

    Args:
        address: of the cluster, as `ray.init` takes it.

    Raises:
        DeviceError: there is no cluster.
    """

    def __init__(self, address: str) -> None:
        join(address)
        self._address = address
        self.done: Counter[str] = Counter()

    @property
    def count(self) -> int:
        """Processors of the cluster as it is now."""
        resources: Any = ray.cluster_resources
        count = int(resources().get("CPU", 0))
        return count if count > 1 else 0

    def each(self, function: Callable[..., Any], tasks: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
        """As `Workers.each`."""
        remote: Any = ray.remote(_work)
        task_of = remote.options(num_cpus=1, max_retries=_RETRIES, scheduling_strategy="SPREAD")
        most = self.count + _AHEAD
        pending: deque[Any] = deque()
        try:
            for task in tasks:
                pending.append(task_of.remote(function, *task))
                if len(pending) >= most:
                    yield self._result(pending.popleft())
            while pending:
                yield self._result(pending.popleft())
        except RayError as error:
            cause = error.cause if isinstance(error, RayTaskError) else error
            if not isinstance(cause, RayError):
                raise cause from None
            reason = str(cause).splitlines()[0]
            raise WorkerLost(
                f"a task of the Ray cluster at {self._address} was lost: {reason}; resume the job"
            ) from error
        finally:
            for result in pending:
                ray.cancel(result)

    def close(self) -> None:
        """Leave the cluster, if nothing else here needs it."""
        leave()

    def _result(self, pending: Any) -> Any:
        node, result = ray.get(pending)
        self.done[name_of(node)] += 1
        return result


def _work(function: Callable[..., Any], *task: Any) -> tuple[str, Any]:
    """Where this task is worked on, and its result."""
    return ray.get_runtime_context().get_node_id(), function(*task)
