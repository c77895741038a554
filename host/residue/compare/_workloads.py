"""What is measured: the same operations with the same operands on every device.

A workload runs on any backend through the arrays of `residue.paillier`, so that what is timed on a
device, counted in cycles on a simulated card and recorded for a projection is the same code.
Operands repeat with a period, and so do results: a batch of any size is checked against few.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from gmpy2 import mpz
from numpy.typing import NDArray

from residue._limbs import to_limbs
from residue.backends._protocol import Backend, Limbs, ResidueArray
from residue.paillier import CiphertextArray, PrivateKey, PublicKey
from residue.paillier._encoding import encode

__all__ = ["BEST", "OPERATIONS", "SAME", "WORKLOADS", "Bench", "Workload", "wait"]

_POOL = 256
_ROWS = 64
_COLUMNS = (100, 2)  # of ciphertexts a row, of results
_FACTOR_BITS = 63

OPERATIONS: Mapping[str, str] = {
    "power": "r^n",
    "encrypt": "encrypt",
    "decrypt": "decrypt",
    "add": "add",
    "ct_x_pt": "ct x pt",
    "matmul": "matmul",
}
"""Columns of the tables and their headings."""

SAME: Mapping[str, str] = {
    "power": "power",
    "encrypt": "encrypt-classic",
    "decrypt": "decrypt",
    "add": "add",
    "ct_x_pt": "ct_x_pt",
    "matmul": "matmul-powers",
}
"""Column -> the workload that all devices run."""

BEST: Mapping[str, tuple[str, ...]] = {
    "encrypt": ("encrypt-djn", "encrypt-classic"),
    "decrypt": ("decrypt",),
    "add": ("add",),
    "ct_x_pt": ("ct_x_pt-var", "ct_x_pt"),
    "matmul": ("matmul", "matmul-powers"),
}
"""Column -> the workloads of which each device shows its fastest."""


class Bench:
    """A key and operands on one device.

    Args:
        pk, sk: a key pair; both halves are moved to `backend`.
        backend: where it computes.
        ciphertexts: ``(256, limbs) uint64``, encryptions of `plaintexts`.
    """

    plaintexts: NDArray[np.int64] = np.random.default_rng(1).integers(-(2**30), 2**30, _POOL)
    factors: NDArray[np.int64] = np.random.default_rng(2).integers(
        -(2**_FACTOR_BITS) + 1, 2**_FACTOR_BITS - 1, _POOL
    )
    weights: NDArray[np.float64] = np.random.default_rng(3).normal(size=_COLUMNS)

    def __init__(self, pk: PublicKey, sk: PrivateKey, backend: Backend, ciphertexts: Limbs) -> None:
        self.backend = backend
        self.pk, self.sk = pk.to(backend), sk.to(backend)
        self.ciphertexts = ciphertexts
        self._pool = backend.upload(self.pk.modulus, ciphertexts)

    def residues(self, index: NDArray[np.int64]) -> ResidueArray:
        """Elements of the pool on the device, repeated."""
        return self.backend.take(self._pool, index.ravel() % _POOL)

    def ciphertext(self, index: NDArray[np.int64]) -> CiphertextArray:
        """The same as ciphertexts of the index's shape."""
        return CiphertextArray(self.pk, self.residues(index), index.shape, 0, 2**30)

    def matrix(self, rows: int) -> CiphertextArray:
        """``(rows, 100)`` ciphertexts; row i equals row ``i % 64``."""
        row = np.arange(rows, dtype=np.int64)[:, None] % _ROWS
        return self.ciphertext(37 * row + np.arange(_COLUMNS[0], dtype=np.int64))


@dataclass(frozen=True)
class Workload:
    """One way to do one operation.

    Attributes:
        name: its key.
        algorithm: how, in words.
        operations: operations of one unit of a batch.
        up, down: residues modulo n**2 that a unit brings to the device and back.
        border: a turn begins and ends in host memory, and so includes its transfers; else
            operands and results stay on the device.
        period: results repeat after so many units.
        prepare: ``(bench, units)`` -> a turn of so many units, to be timed; `wait` completes its
            result.
        plaintexts: what the results of the first units decrypt to; None: they are no ciphertexts.
    """

    name: str
    algorithm: str
    operations: int
    up: int
    down: int
    border: bool
    period: int
    prepare: Callable[[Bench, int], Callable[[], Any]]
    plaintexts: Callable[[int], list[int]] | None


def wait(result: Any) -> None:
    """Return when a turn's result is computed."""
    if isinstance(result, CiphertextArray):
        result = result.residues
    if not isinstance(result, np.ndarray | list):
        result.wait()


def _index(units: int) -> NDArray[np.int64]:
    return np.arange(units, dtype=np.int64)


def _power(bench: Bench, units: int) -> Callable[[], Any]:
    pk = bench.pk
    bases, e = bench.residues(_index(units)), to_limbs([mpz(pk.n)], -(-pk.bits // 64))
    return lambda: bench.backend.pow(bases, e, pk.bits)


def _encrypt(scheme: Any) -> Callable[[Bench, int], Callable[[], Any]]:
    def prepare(bench: Bench, units: int) -> Callable[[], Any]:
        x = bench.plaintexts[_index(units) % _POOL]
        return lambda: bench.pk.encrypt(x, scheme=scheme).to_limbs()

    return prepare


def _decrypt(bench: Bench, units: int) -> Callable[[], Any]:
    c = bench.ciphertexts[_index(units) % _POOL]
    return lambda: bench.sk.decrypt_mantissas(c)


def _add(bench: Bench, units: int) -> Callable[[], Any]:
    a, b = bench.ciphertext(_index(units)), bench.ciphertext(_index(units) + 1)
    return lambda: a + b


def _multiply(*, constant_time: bool) -> Callable[[Bench, int], Callable[[], Any]]:
    def prepare(bench: Bench, units: int) -> Callable[[], Any]:
        c, x = bench.ciphertext(_index(units)), bench.factors[_index(units) % _POOL]
        return lambda: c.multiply(x, constant_time=constant_time)

    return prepare


def _matmul_powers(bench: Bench, units: int) -> Callable[[], Any]:
    c = bench.matrix(units).reshape(units, _COLUMNS[0], 1)
    return lambda: c.multiply(bench.weights, constant_time=True).sum(axis=1)


def _matmul(bench: Bench, units: int) -> Callable[[], Any]:
    c = bench.matrix(units)
    return lambda: c @ bench.weights


def _integers(values: NDArray[Any]) -> list[int]:
    return [int(value) for value in values.ravel()]


def _same(units: int) -> list[int]:
    return _integers(Bench.plaintexts[_index(units) % _POOL])


def _sums(units: int) -> list[int]:
    x = Bench.plaintexts
    return _integers(x[_index(units) % _POOL] + x[(_index(units) + 1) % _POOL])


def _products(units: int) -> list[int]:
    index = _index(units) % _POOL
    x, f = Bench.plaintexts[index].astype(object), Bench.factors[index].astype(object)
    return _integers(x * f)


def _rows(units: int) -> list[int]:
    row = _index(units)[:, None] % _ROWS
    x = Bench.plaintexts[(37 * row + _index(_COLUMNS[0])) % _POOL].astype(object)
    return _integers(x @ encode(Bench.weights).mantissas.astype(object))


_CELLS = _COLUMNS[0] * _COLUMNS[1]

WORKLOADS: Mapping[str, Workload] = {
    w.name: w
    for w in (
        Workload("power", "r^n mod n^2, a constant-time power; operands stay on the device",
                 1, 1, 1, False, _POOL, _power, None),
        Workload("encrypt-classic", "(1 + m n) r^n, from host memory to host memory",
                 1, 1, 1, True, _POOL, _encrypt("classic"), _same),
        Workload("encrypt-djn", "DJN: (1 + m n) h^x, comb table, from host memory to host memory",
                 1, 1, 1, True, _POOL, _encrypt("djn"), _same),
        Workload("decrypt", "CRT, two constant-time powers, from host memory to host memory",
                 1, 1, 1, True, _POOL, _decrypt, _same),
        Workload("add", "one product; operands stay on the device",
                 1, 2, 1, False, _POOL, _add, _sums),
        Workload("ct_x_pt", "a constant-time power by a signed 63-bit number; stays on the device",
                 1, 1, 1, False, _POOL, _multiply(constant_time=True), _products),
        Workload("ct_x_pt-var", "as the device does `*`: variable time where that is faster",
                 1, 1, 1, False, _POOL, _multiply(constant_time=False), _products),
        Workload("matmul-powers", "powers one by one, then sums: rows of 100 by 100 x 2 floats",
                 _CELLS, _COLUMNS[0], _COLUMNS[1], False, _ROWS, _matmul_powers, _rows),
        Workload("matmul", "simultaneous powers: rows of 100 by 100 x 2 floats",
                 _CELLS, _COLUMNS[0], _COLUMNS[1], False, _ROWS, _matmul, _rows),
    )
}  # fmt: skip
"""All workloads by name."""
