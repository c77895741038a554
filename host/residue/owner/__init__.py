"""One process owns a device; others use it as ``owner:PATH``, each with arrays of its own.

`Owner` serves, `OwnerBackend` uses, `status` asks.
"""

from __future__ import annotations

from residue.owner._client import OwnerArray, OwnerBackend, status
from residue.owner._server import Owner, default_quota

__all__ = ["Owner", "OwnerArray", "OwnerBackend", "default_quota", "status"]
