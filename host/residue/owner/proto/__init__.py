"""The wire format: ``owner_v1.proto`` and the stubs generated from it."""

from __future__ import annotations

from residue.owner.proto import owner_v1_pb2 as v1

__all__ = ["v1"]
