"""Machines that multiply residues, behind one protocol.

`get_backend` opens one by name: ``cpu``, ``card``, ``card:ADDRESS``, ``cards:ADDRESS``,
``gpu``, ``gpu:N``, ``gpus``, ``owner:PATH`` or ``auto``.
"""

from __future__ import annotations

from residue.backends._auto import DeviceFallbackWarning
from residue.backends._protocol import Backend, Modulus, OperationStats, ResidueArray
from residue.backends._registry import available_backends, get_backend
from residue.backends._secrets import clearing_secrets

__all__ = [
    "Backend",
    "DeviceFallbackWarning",
    "Modulus",
    "OperationStats",
    "ResidueArray",
    "available_backends",
    "clearing_secrets",
    "get_backend",
]
