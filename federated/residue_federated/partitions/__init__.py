"""Partitions of a party's work on the nodes of a Ray cluster.

A party whose job file gives it `ray` has others' public keys on a backend of nodes
(`NodesBackend`), each with one owner of its device: arrays of ciphertexts lie in contiguous
partitions, one a node, and sums, products with matrices, encryption and histograms are computed
where the partitions are; what crosses are partial results. What involves a secret key, or a secret
of entity alignment, stays in the party's own process, which owns this machine's device. The values
that leave are the same integers wherever they are computed.

Partitions of its plain values are tasks of the same cluster; without one they are worked on by
processes of the party's machine (`residue_federated._workers`).
"""

from __future__ import annotations

from residue_federated._jobs import Party
from residue_federated._workers import LocalWorkers, Workers
from residue_federated.partitions._executor import Executor
from residue_federated.partitions._nodes import NodesBackend

__all__ = ["Executor", "NodesBackend", "open_nodes", "open_workers"]


def open_nodes(party: Party) -> NodesBackend | None:
    """The nodes that a party's settings name; None where it computes in its own process.

    Raises `DeviceError` if the cluster cannot be reached, has no node, or another job of the party
    is on it.
    """
    if party.ray is None:
        return None
    from residue_federated.partitions._ray import RayExecutor

    return NodesBackend(RayExecutor(party.ray, party.name, party.device))


def open_workers(party: Party) -> Workers:
    """Who works on a party's plain values: tasks of its cluster, or `processes` of its machine.

    Raises `DeviceError` if the cluster cannot be reached.
    """
    if party.ray is None or party.processes is not None:
        return LocalWorkers(party.processes)
    from residue_federated.partitions._ray_tasks import RayTasks

    return RayTasks(party.ray)
