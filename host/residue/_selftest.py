"""Known answers for every operation of a backend.

Operands come from SHAKE-256 of a fixed text; the answers were computed by Python's own integers
(`expected`, which the tests run) and are kept as SHA-256 digests of the canonical limbs.
"""

from __future__ import annotations

import hashlib
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from math import prod

import numpy as np
from gmpy2 import mpz
from numpy.typing import NDArray

from residue._limbs import to_limbs
from residue.backends._protocol import Backend, Limbs, ResidueArray
from residue.errors import InsecureKeyWarning, ResidueError
from residue.paillier import keygen

__all__ = ["KNOWN_ANSWERS", "Outcome", "digest", "expected", "run"]

KNOWN_ANSWERS: dict[str, str] = {
    "transfer": "d9a8be78a129f7e480c535a7614011f9",
    "take": "11f4b3a074bbe785d9baa1e420ed525f",
    "concat": "8976ab9326571ba634738204c8041c9d",
    "mul": "7c6b57a8defa0bba114f0c3356cc798c",
    "pow": "6d2fe5f27e575efebad5dc7f28b3ddbc",
    "pow_fixed": "1291659f361b3819eb0d1cde042a9360",
    "prod": "a140551dbd8d88d15102b5d57db0b5ea",
    "multi_pow": "4dbc6cbbd497c7bb01ded4950662d97e",
    "inverse": "8c7f8a5c88b9f935f1d8dfd4513963fb",
}
"""Operation -> first 16 bytes of SHA-256 of its answer's limbs."""

_BITS = 1024
_COUNT = 8
_EXPONENT_BITS = 130
_SHORT_BITS = 20


@dataclass(frozen=True)
class Outcome:
    """One operation's result, and the error that it ended with, if any."""

    operation: str
    ok: bool
    seconds: float
    error: str | None


def _integers(label: str, count: int, bits: int) -> list[int]:
    raw = hashlib.shake_256(f"residue selftest {label}".encode()).digest(count * bits // 8)
    return [
        int.from_bytes(raw[i * bits // 8 : (i + 1) * bits // 8], "little") for i in range(count)
    ]


MODULUS = 2**1024 - 105
"""The largest prime of 1024 bits, so that every operand has an inverse."""

_A = [a % MODULUS for a in _integers("a", _COUNT, _BITS)]
_B = [b % MODULUS for b in _integers("b", _COUNT, _BITS)]
_E = [e >> (136 - _EXPONENT_BITS) for e in _integers("exponents", _COUNT, 136)]
_S: NDArray[np.int64] = (
    np.array(
        [
            e % (2 << _SHORT_BITS) - (1 << _SHORT_BITS) + 1
            for e in _integers("short", 2 * _COUNT, 64)
        ],
        dtype=np.int64,
    )
    .reshape(_COUNT, 2)
    .clip(-(1 << _SHORT_BITS) + 1, (1 << _SHORT_BITS) - 1)
)
_INDEX = np.array([0, 3, 3, 7, 1, 2, 5], dtype=np.int64)
_OFFSETS = np.array([0, 4, 4, 7], dtype=np.int64)


def expected() -> dict[str, list[int]]:
    """The answers, by Python's integers."""
    n = MODULUS
    cuts = _OFFSETS.tolist()
    segments = [_INDEX.tolist()[i:j] for i, j in pairwise(cuts)]
    return {
        "transfer": _A,
        "take": [_A[i] for i in _INDEX.tolist()],
        "concat": _A + _B,
        "mul": [a * b % n for a, b in zip(_A, _B, strict=True)],
        "pow": [pow(a, e, n) for a, e in zip(_A, _E, strict=True)],
        "pow_fixed": [pow(_A[0], e, n) for e in _E],
        "prod": [prod(_A[i] for i in s) % n for s in segments],
        "multi_pow": [
            prod(pow(a, e, n) for a, e in zip(_A, column, strict=True)) % n
            for column in _S.T.tolist()
        ],
        "inverse": [pow(a, -1, n) for a in _A],
    }


def digest(values: Limbs) -> str:
    """What `KNOWN_ANSWERS` holds of an answer."""
    return hashlib.sha256(np.ascontiguousarray(values, dtype="<u8").tobytes()).hexdigest()[:32]


def run(
    backend: Backend, *, progress: Callable[[str, int, int], None] = lambda text, done, total: None
) -> list[Outcome]:
    """Compute every operation on a device and compare; then a Paillier round trip with fresh keys.

    Raises:
        BackendError: the device does not take the operands.
    """
    modulus = backend.register(MODULUS)
    a = backend.upload(modulus, _limbs(_A))
    b = backend.upload(modulus, _limbs(_B))
    e = to_limbs([mpz(x) for x in _E], -(-_EXPONENT_BITS // 64))
    operations: dict[str, Callable[[], ResidueArray]] = {
        "transfer": lambda: backend.upload(modulus, _limbs(_A)),
        "take": lambda: backend.take(a, _INDEX),
        "concat": lambda: backend.concat([a, b]),
        "mul": lambda: backend.mul(a, b),
        "pow": lambda: backend.pow(a, e, _EXPONENT_BITS),
        "pow_fixed": lambda: backend.pow_fixed(
            backend.take(a, np.zeros(1, dtype=np.int64)), e, _EXPONENT_BITS
        ),
        "prod": lambda: backend.prod(a, _INDEX, _OFFSETS),
        "multi_pow": lambda: backend.multi_pow(a, _S, _SHORT_BITS),
        "inverse": lambda: backend.inverse(a),
    }
    checks: dict[str, Callable[[], bool]] = {
        name: partial(_agrees, backend, name, operation) for name, operation in operations.items()
    }
    checks["paillier"] = partial(_round_trip, backend)
    outcomes: list[Outcome] = []
    for name, check in checks.items():
        progress(name, len(outcomes), len(checks))
        outcomes.append(_outcome(name, check))
    return outcomes


def _outcome(operation: str, check: Callable[[], bool]) -> Outcome:
    start, error = time.perf_counter(), None
    try:
        ok = check()
    except ResidueError as caught:
        ok, error = False, str(caught)
    return Outcome(operation, ok, time.perf_counter() - start, error)


def _agrees(backend: Backend, name: str, operation: Callable[[], ResidueArray]) -> bool:
    return digest(backend.download(operation())) == KNOWN_ANSWERS[name]


def _round_trip(backend: Backend) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InsecureKeyWarning)  # the keys live in this call only
        pk, sk = keygen(1024, insecure_allow_1024=True, device=backend)
    x = np.array([[-3, 5], [0, 7]])
    W = np.array([[2, -1], [-4, 3]])
    c = pk.encrypt(x)
    return bool((sk.decrypt(-(c @ W) + x) == x - x @ W).all())


def _limbs(values: list[int]) -> Limbs:
    return to_limbs([mpz(v) for v in values], _BITS // 64)
