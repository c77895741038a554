"""phe, with the adapter that `residue bench` has. GPL: in tests and benches only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from residue import _bench_peer
from residue.paillier._random import random_prime


class Adapter:
    """As `adapters` says."""

    operations = ("encrypt", "decrypt", "add", "ct_x_pt", "matmul")

    def __init__(self, variant: str) -> None:
        import phe

        self.facts = {"version": phe.__version__, "algorithm": "classic: r^n"}

    def key(self, bits: int, inputs: dict[str, Any]) -> None:
        """A key and encryptions of the distinct plaintexts."""
        self._inputs = inputs
        peer = _bench_peer.load((int(random_prime(bits // 2)), int(random_prime(bits // 2))))
        assert peer is not None
        self._peer = peer
        self._few = peer.encrypt(np.array(inputs["x"][: inputs["distinct"]]))

    def prepare(self, operation: str, count: int) -> Callable[[], Any]:
        """A turn of the operation on `count` elements."""
        peer, inputs = self._peer, self._inputs
        if operation == "encrypt":
            x = np.array(inputs["x"][:count])
            return lambda: peer.encrypt(x)
        if operation == "matmul":
            matrix = self._few[np.arange(2000) % inputs["distinct"]].reshape(20, 100)
            weights = np.array(inputs["weights"])
            return lambda: peer.matmul(matrix, weights)
        c = self._few[np.arange(count) % inputs["distinct"]]
        if operation == "decrypt":
            return lambda: peer.decrypt(c)
        if operation == "ct_x_pt":
            factors = np.array(inputs["factors"][:count])
            return lambda: peer.multiply(c, factors)
        other = peer.encrypt(np.array(inputs["y"][: inputs["distinct"]]))
        d = other[np.arange(count) % inputs["distinct"]]
        return lambda: peer.add(c, d)

    def answers(self, operation: str, result: Any, limit: int) -> list[int]:
        """The first plaintexts of a turn's result."""
        first = np.ravel(result)[:limit]
        return [int(m) for m in (first if operation == "decrypt" else self._peer.decrypt(first))]
