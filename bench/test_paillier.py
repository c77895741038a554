"""Paillier operations on the CPU's one core, each beside phe: ``make bench``.

`residue bench` prints the ratios; here pytest-benchmark keeps the distributions and compares runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from residue import _bench_peer
from residue.backends._cpu import CpuBackend
from residue.paillier import PrivateKey, PublicKey, keygen

N = 16
rng = np.random.default_rng(1)
FLOATS = rng.normal(size=N)
FACTORS = rng.integers(-(2**63) + 1, 2**63 - 1, size=N)
ROWS = rng.normal(size=(2, 100))
W = rng.normal(size=(100, 2))


@dataclass(frozen=True)
class Setting:
    pk: PublicKey
    sk: PrivateKey
    peer: _bench_peer.Peer


@pytest.fixture(scope="module", params=[1024, 2048])
def setting(request: pytest.FixtureRequest) -> Setting:
    backend = CpuBackend(workers=1)
    pk, sk = keygen(request.param, insecure_allow_1024=True, device=backend)
    peer = _bench_peer.load(sk.primes)
    assert peer is not None
    pk.encrypt(np.zeros(4000))  # the comb table reaches the size of steady use
    return Setting(pk, sk, peer)


def ours(setting: Setting, operation: str) -> Callable[[], Any]:
    pk, sk = setting.pk, setting.sk
    c, rows = pk.encrypt(FLOATS), pk.encrypt(ROWS)
    return {
        "encrypt": lambda: pk.encrypt(FLOATS),
        "encrypt_classic": lambda: pk.encrypt(FLOATS, scheme="classic"),
        "decrypt": lambda: sk.decrypt(c),
        "add": lambda: c + c,
        "ct_x_pt": lambda: c * FACTORS,
        "matmul": lambda: rows @ W,
    }[operation]


def theirs(setting: Setting, operation: str) -> Callable[[], Any]:
    peer = setting.peer
    c, rows = peer.encrypt(FLOATS), peer.encrypt(ROWS)
    return {
        "encrypt": lambda: peer.encrypt(FLOATS),
        "encrypt_classic": lambda: peer.encrypt(FLOATS),
        "decrypt": lambda: peer.decrypt(c),
        "add": lambda: peer.add(c, c),
        "ct_x_pt": lambda: peer.multiply(c, FACTORS),
        "matmul": lambda: peer.matmul(rows, W),
    }[operation]


@pytest.mark.parametrize("side", [ours, theirs], ids=["residue", "phe"])
@pytest.mark.parametrize(
    "operation", ["encrypt", "encrypt_classic", "decrypt", "add", "ct_x_pt", "matmul"]
)
def test_operation(benchmark: Any, setting: Setting, operation: str, side: Any) -> None:
    benchmark.group = f"{operation} {setting.pk.bits}"
    benchmark.extra_info["plaintexts"] = N
    benchmark.pedantic(side(setting, operation), rounds=7, warmup_rounds=1)
