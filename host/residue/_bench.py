"""Measures a device beside the `phe` library: one key, one run, one core by default.

Ours and the peer's turns alternate, and the ratio is the median of the rounds' ratios, so that a
machine that slows down in between slows both.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from residue import _bench_peer
from residue.backends._protocol import Backend
from residue.errors import InsecureKeyWarning
from residue.paillier import CiphertextArray, keygen

__all__ = ["OPERATIONS", "Row", "run"]

OPERATIONS = ("encrypt", "decrypt", "add", "ct_x_pt", "matmul")
"""Operations in the order of the report; ct_x_pt takes signed 63-bit plaintexts, matmul an
encrypted 20 x 100 by a plaintext 100 x 2 matrix of floats, counted in multiplications."""

_ROUNDS = 21
_WARM_UP_ENCRYPTIONS = 4000


@dataclass(frozen=True)
class Row:
    """One line of the report; a peer that is not installed is None."""

    device: str
    key_bits: int
    operation: str
    ops_per_second: float
    peer: str | None
    peer_ops_per_second: float | None
    ratio: float | None
    cores: int


@dataclass(frozen=True)
class _Case:
    ours: Callable[[], Any]
    count: int
    peer: Callable[[], Any] | None
    peer_count: int


def run(
    backend: Backend,
    key_bits: int,
    *,
    cores: int,
    progress: Callable[[str, int, int], None] = lambda text, done, total: None,
) -> Iterator[Row]:
    """Measure all operations; `progress` hears of each before it starts."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InsecureKeyWarning)  # the keys live in this call only
        pk, sk = keygen(key_bits, insecure_allow_1024=True, device=backend)
    peer = _bench_peer.load(sk.primes)
    rng = np.random.default_rng(1)  # plaintexts only

    n, m = (128, 8) if key_bits <= 1024 else (32, 2)  # turns of some 20 ms
    floats = rng.normal(size=n)
    ints = rng.integers(-(2**60), 2**60, size=4096)
    factors = rng.integers(-(2**63) + 1, 2**63 - 1, size=n)
    W = rng.normal(size=(100, 2))
    progress("warming up", 0, len(OPERATIONS) + 1)
    pk.encrypt(np.zeros(_WARM_UP_ENCRYPTIONS)).residues.wait()
    c = pk.encrypt(floats)
    c_ints = pk.encrypt(ints[:n])[np.arange(4096) % n]
    c_matrix = pk.encrypt(rng.normal(size=(20, 100)))

    cases = {
        "encrypt": _Case(lambda: _done(pk.encrypt(floats)), n, None, m),
        "decrypt": _Case(lambda: sk.decrypt(c[: 2 * m]), 2 * m, None, 2 * m),
        "add": _Case(lambda: _done(c_ints + c_ints), 4096, None, 1024),
        "ct_x_pt": _Case(lambda: _done(c * factors), n, None, n),
        "matmul": _Case(lambda: _done(c_matrix @ W), 4000, None, 400),
    }
    if peer is not None:
        p = peer.encrypt(floats[:16])[np.arange(n) % 16]
        p_ints = peer.encrypt(ints[:16])[np.arange(1024) % 16]
        p_matrix = p[np.arange(200) % 16].reshape(2, 100)
        turns: dict[str, Callable[[], Any]] = {
            "encrypt": lambda: peer.encrypt(floats[:m]),
            "decrypt": lambda: peer.decrypt(p[: 2 * m]),
            "add": lambda: peer.add(p_ints, p_ints),
            "ct_x_pt": lambda: peer.multiply(p, factors),
            "matmul": lambda: peer.matmul(p_matrix, W),
        }
        cases = {
            name: _Case(case.ours, case.count, turns[name], case.peer_count)
            for name, case in cases.items()
        }
    for done, operation in enumerate(OPERATIONS, 1):
        progress(operation, done, len(OPERATIONS) + 1)
        yield _measure(operation, cases[operation], backend, key_bits, cores, peer)


def _measure(
    operation: str,
    case: _Case,
    backend: Backend,
    key_bits: int,
    cores: int,
    peer: _bench_peer.Peer | None,
) -> Row:
    case.ours()
    ours, theirs = [], []
    for _ in range(_ROUNDS):
        ours.append(case.count / _seconds(case.ours))
        if case.peer is not None:
            theirs.append(case.peer_count / _seconds(case.peer))
    compared = peer is not None
    return Row(
        device=backend.name,
        key_bits=key_bits,
        operation=operation,
        ops_per_second=round(median(ours), 2),
        peer=peer.name if peer is not None else None,
        peer_ops_per_second=round(median(theirs), 2) if compared else None,
        ratio=round(median(a / b for a, b in zip(ours, theirs, strict=True)), 3)
        if compared
        else None,
        cores=cores,
    )


def _seconds(turn: Callable[[], Any]) -> float:
    start = time.perf_counter()
    turn()
    return time.perf_counter() - start


def _done(c: CiphertextArray) -> None:
    c.residues.wait()
