"""The wire format: ``exchange_v1.proto`` and the stubs generated from it."""

from __future__ import annotations

from residue_federated.proto import exchange_v1_pb2 as v1

__all__ = ["v1"]
