"""HEU through its array interface; the variant is a scheme: ZPaillier, IPCL, OU."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np
from heu import numpy as hnp  # type: ignore[import-not-found]  # in its own environment only
from heu import phe

_ALGORITHMS = {
    "ZPaillier": "DJN-like, tables for a fixed base",
    "IPCL": "Intel's library, for AVX512-IFMA",
    "OU": "Okamoto-Uchiyama: another scheme, for scale",
}


class Adapter:
    """As `adapters` says."""

    operations = ("encrypt", "decrypt", "add", "ct_x_pt", "matmul")

    def __init__(self, variant: str) -> None:
        self._scheme = getattr(phe.SchemaType, variant)
        self.facts = {"version": version("sf-heu"), "algorithm": _ALGORITHMS[variant]}

    def key(self, bits: int, inputs: dict[str, Any]) -> None:
        """A key and encryptions of the distinct plaintexts."""
        self._inputs = inputs
        self._kit = hnp.setup(self._scheme, bits)
        self._coder = self._kit.bigint_encoder()
        self._encryptor, self._decryptor = self._kit.encryptor(), self._kit.decryptor()
        self._evaluator = self._kit.evaluator()
        self._few = self._encryptor.encrypt(self._encoded(inputs["x"][: inputs["distinct"]]))

    def prepare(self, operation: str, count: int) -> Callable[[], Any]:
        """A turn of the operation on `count` elements."""
        encryptor, evaluator, inputs = self._encryptor, self._evaluator, self._inputs
        if operation == "encrypt":
            x = self._encoded(inputs["x"][:count])
            return lambda: encryptor.encrypt(x)
        if operation == "matmul":  # rows repeat after four
            matrix = encryptor.encrypt(self._encoded(inputs["matrix"][:4]))[[0, 1, 2, 3] * 5]
            weights = self._encoded(inputs["weights"])
            return lambda: evaluator.matmul(matrix, weights)
        index = [i % inputs["distinct"] for i in range(count)]
        c = self._few[index]
        if operation == "decrypt":
            return lambda: self._decryptor.decrypt(c)
        if operation == "ct_x_pt":
            factors = self._encoded(inputs["factors"][:count])
            return lambda: evaluator.mul(c, factors)
        d = encryptor.encrypt(self._encoded(inputs["y"][: inputs["distinct"]]))[index]
        return lambda: evaluator.add(c, d)

    def answers(self, operation: str, result: Any, limit: int) -> list[int]:
        """The first plaintexts of a turn's result."""
        if operation == "matmul":
            result = result[list(range(-(-limit // 2)))]
        else:
            result = result[list(range(min(limit, result.rows)))]
        if operation != "decrypt":
            result = self._decryptor.decrypt(result)
        return [int(m) for m in result.to_numpy(self._coder).ravel().tolist()][:limit]

    def _encoded(self, values: list[Any]) -> Any:
        return self._kit.array(np.array(values, dtype=np.int64), self._coder)
