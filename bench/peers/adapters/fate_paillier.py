"""FATE's `fate_utils`."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np
from fate_utils import paillier  # type: ignore[import-not-found]  # in its own environment only


class Adapter:
    """As `adapters` says. Plaintexts come back modulo 2**64: its coder has no larger integers."""

    operations = ("encrypt", "decrypt", "add", "ct_x_pt", "matmul")

    def __init__(self, variant: str) -> None:
        self.facts = {
            "version": version("fate_utils"),
            "algorithm": "classic: r^n",
            "answer_bits": 64,
        }

    def key(self, bits: int, inputs: dict[str, Any]) -> None:
        """A key and encryptions of the distinct plaintexts."""
        self._inputs = inputs
        self._sk, self._pk, self._coder = paillier.keygen(bits)
        self._few = self._encrypted(inputs["x"][: inputs["distinct"]])

    def prepare(self, operation: str, count: int) -> Callable[[], Any]:
        """A turn of the operation on `count` elements."""
        pk, inputs = self._pk, self._inputs
        if operation == "encrypt":
            x = self._encoded(inputs["x"][:count])
            return lambda: pk.encrypt_encoded(x, True)
        if operation == "matmul":
            matrix = self._repeated(self._few, 2000)
            weights = self._encoded(np.ravel(inputs["weights"]))
            return lambda: matrix.matmul(pk, weights, [20, 100], [100, 2])
        c = self._repeated(self._few, count)
        if operation == "decrypt":
            return lambda: self._sk.decrypt_to_encoded(c)
        if operation == "ct_x_pt":
            factors = self._encoded(inputs["factors"][:count])
            return lambda: c.mul(pk, factors)
        d = self._repeated(self._encrypted(inputs["y"][: inputs["distinct"]]), count)
        return lambda: c.add(pk, d)

    def answers(self, operation: str, result: Any, limit: int) -> list[int]:
        """The first plaintexts of a turn's result."""
        if operation != "decrypt":
            size = len(result.tolist())
            result = self._sk.decrypt_to_encoded(result.slice(0, min(limit, size)))
        return [int(m) for m in self._coder.decode_i64_vec(result)[:limit]]

    def _encoded(self, values: Any) -> Any:
        return self._coder.encode_i64_vec(np.array(values, dtype=np.int64))

    def _encrypted(self, values: list[int]) -> Any:
        return self._pk.encrypt_encoded(self._encoded(values), True)

    def _repeated(self, vector: Any, count: int) -> Any:
        return vector.slice_indexes([i % self._inputs["distinct"] for i in range(count)])
