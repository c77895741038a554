"""Machines that multiply residues, behind one protocol.

`get_backend` opens one by name: ``cpu``, ``card``, ``card:ADDRESS`` or ``auto``.
"""

from __future__ import annotations

from residue.backends._auto import DeviceFallbackWarning
from residue.backends._protocol import Backend, Modulus, OperationStats, ResidueArray
from residue.backends._registry import available_backends, get_backend

__all__ = [
    "Backend",
    "DeviceFallbackWarning",
    "Modulus",
    "OperationStats",
    "ResidueArray",
    "available_backends",
    "get_backend",
]
