"""The `phe` library as a yardstick: an optional adapter, imported by `residue bench` alone.

phe is under the GPL. It is not a dependency of this package: where it is not installed, `load`
returns None and the bench reports no peer. No other module of the product imports it.
"""

from __future__ import annotations

import importlib
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Peer", "load"]


def load(primes: tuple[int, int]) -> Peer | None:
    """The peer with the same key, or None where phe is not installed."""
    try:
        phe = importlib.import_module("phe")
    except ImportError:
        return None
    return Peer(phe, primes)


class Peer:
    """One key of phe."""

    def __init__(self, phe: Any, primes: tuple[int, int]) -> None:
        self.name = f"phe {version('phe')}"
        self._public = phe.PaillierPublicKey(primes[0] * primes[1])
        self._private = phe.PaillierPrivateKey(self._public, *primes)

    def encrypt(self, x: NDArray[Any]) -> NDArray[Any]:
        """Encrypted numbers, object array of the same shape."""
        out = np.empty(x.shape, dtype=object)
        out.ravel()[:] = [self._public.encrypt(v) for v in x.ravel().tolist()]
        return out

    def decrypt(self, c: NDArray[Any]) -> list[Any]:
        """Decrypted numbers."""
        return [self._private.decrypt(v) for v in c.ravel()]

    def add(self, a: NDArray[Any], b: NDArray[Any]) -> list[Any]:
        """Element-wise sums."""
        return [x + y for x, y in zip(a, b, strict=True)]

    def multiply(self, c: NDArray[Any], x: NDArray[Any]) -> list[Any]:
        """Element-wise products with plaintexts."""
        return [v * m for v, m in zip(c, x.tolist(), strict=True)]

    def matmul(self, c: NDArray[Any], W: NDArray[Any]) -> NDArray[Any]:
        """Matrix product with a plaintext matrix, as phe's users write it."""
        product: NDArray[Any] = np.dot(c, W.astype(object))
        return product
