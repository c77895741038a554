"""Owners as actors of a Ray cluster, one a node."""

from __future__ import annotations

import time
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from residue.errors import DeviceError
from residue_federated.partitions._cluster import NAMESPACE, alive, join, leave, name_of
from residue_federated.partitions._executor import Result, lost
from residue_federated.partitions._owner import Owner

__all__ = ["RayExecutor"]

_START = 120.0
"""Seconds for the nodes to start their owners."""
_NOTICED = 60.0
"""Seconds for the cluster to notice that a node is dead."""
_TAKEN = 20.0
"""Seconds for the owner of a job that has just ended to vanish."""


class RayExecutor:
    """One actor on each node that is alive, pinned to it; its name keeps a second one off the node.

    A node that has died without the cluster's knowing yet is left out.

    Arguments go through Ray's object store, arrays without a copy on arrival. An actor is not
    restarted, since its arrays would be lost all the same, and it ends with this process.

    Args:
        address: of the cluster, as `ray.init` takes it; "auto" for the one on this machine.
        party: whose owners they are.
        device: that each opens on its node.

    Raises:
        DeviceError: there is no cluster, or an owner does not start.
    """

    def __init__(self, address: str, party: str, device: str) -> None:
        join(address)
        self.nodes: list[str] = []
        self._owners: list[Any] = []
        try:
            started = {node: _started(node, party, device) for node in alive()}
            self._owners += started.values()
            for node, owner in started.items():
                if _works(node, owner):
                    self.nodes.append(name_of(node))
                else:
                    self._owners.remove(owner)
            if not self.nodes:
                raise DeviceError("no node is alive")
        except (RayError, DeviceError) as error:
            self.close()
            reason = str(error).splitlines()[0]
            raise DeviceError(f"a node of the Ray cluster has no owner: {reason}") from error

    def submit(self, node: int, method: str, *arguments: Any) -> Result:
        """Have the owner of a node call a method. Returns at once."""
        answer = getattr(self._owners[node], method).remote(*arguments)

        def result() -> Any:
            try:
                return ray.get(answer)
            except RayTaskError as error:
                raise error.cause from None
            except RayActorError:
                raise lost(self.nodes[node]) from None

        return result

    def close(self) -> None:
        """End the owners; with the last of them this process leaves the cluster."""
        for owner in self._owners:
            ray.kill(owner)
        leave()


def _started(node: str, party: str, device: str) -> Any:
    """The owner of a node. Raises `DeviceError` while another job's is there."""
    actor: Any = ray.remote(Owner)
    options = {
        "name": f"residue-{party}-{node}",
        "namespace": NAMESPACE,
        "num_cpus": 0,
        "max_restarts": 0,
        "scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False),
    }
    end = time.monotonic() + _TAKEN
    while True:
        try:
            return actor.options(**options).remote(device)
        except ValueError as error:  # the name is taken
            if time.monotonic() > end:
                raise DeviceError("another job of this party has it") from error
            time.sleep(0.5)


def _works(node: str, owner: Any) -> bool:
    """Whether an owner has its device; False if that is because the node is dead.

    Raises `RayError` if the node lives and its owner does not.
    """
    try:
        ray.get(owner.describe.remote(), timeout=_START)
    except RayActorError:
        end = time.monotonic() + _NOTICED
        while node in alive():
            if time.monotonic() > end:
                raise
            time.sleep(0.5)
        return False
    return True
