"""Residue: Paillier arithmetic on an FPGA card, or on the CPU where there is none.

>>> import residue
>>> pk, sk = residue.keygen(2048)  # doctest: +SKIP

Names are imported on first use, so that the command line starts fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from residue.backends import get_backend
    from residue.errors import ResidueError
    from residue.paillier import (
        CiphertextArray,
        PrivateKey,
        PublicKey,
        keygen,
        load_private_key,
        load_public_key,
        save_private_key,
        save_public_key,
    )

__all__ = [
    "CiphertextArray",
    "PrivateKey",
    "PublicKey",
    "ResidueError",
    "__version__",
    "get_backend",
    "keygen",
    "load_private_key",
    "load_public_key",
    "save_private_key",
    "save_public_key",
]

__version__ = "0.1.0"

_HOMES = {"get_backend": "residue.backends", "ResidueError": "residue.errors"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'residue' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES.get(name, "residue.paillier")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
