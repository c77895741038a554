"""Being in a Ray cluster: to join it, to stay while anything here needs it, and its nodes."""

from __future__ import annotations

import logging
import socket
import threading
from typing import Any

import ray
from ray.exceptions import RayError

from residue.errors import DeviceError

__all__ = ["NAMESPACE", "alive", "join", "leave", "name_of"]

NAMESPACE = "residue"
_REACHED = 10.0
"""Seconds for the cluster's address to answer."""

_membership = threading.Lock()
_members: list[str] = []
"""The address once for each `join`: a process is in one cluster at a time."""


def join(address: str) -> None:
    """Join the cluster at `address`, as `ray.init` takes it, or stay in it.

    Raises `DeviceError` if there is none, or this process is in another one.
    """
    with _membership:
        if _members and _members[0] != address:
            raise DeviceError(f"this process is in the Ray cluster at {_members[0]} already")
        if not _members:
            try:
                _reach(address)
                ray.init(
                    address, namespace=NAMESPACE, log_to_driver=False, logging_level=logging.ERROR
                )
            except (OSError, RuntimeError, ValueError, RayError) as error:
                reason = str(error).splitlines()[0]
                raise DeviceError(f"no Ray cluster at {address}: {reason}") from error
        _members.append(address)


def leave() -> None:
    """Undo one `join`; with the last of them this process leaves the cluster."""
    with _membership:
        _members.pop()
        if not _members:
            ray.shutdown()


def alive() -> list[str]:
    """The nodes that the cluster takes for alive; it notices a death after some seconds."""
    nodes: Any = ray.nodes
    return sorted(str(node["NodeID"]) for node in nodes() if node["Alive"])


def name_of(node: str) -> str:
    """What to call a node."""
    return f"node {node[:12]}"


def _reach(address: str) -> None:
    """Raise OSError at once where nobody listens: Ray would try for minutes."""
    host, separator, port = address.removeprefix("ray://").rpartition(":")
    if separator and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=_REACHED).close()
