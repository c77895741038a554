"""The rings stay full, on the whole simulated card.

A batch of 256 encryptions with a 1024-bit key (2048-bit modulus) on one ring: from the plaintexts
in host memory to canonical ciphertexts back in host memory, DMA, table and exponent reads
included. And every operation of the narrow waist on four rings.
"""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import phe
import pytest

from residue.backends import OperationStats
from residue.backends._card import CardBackend
from residue.paillier import PrivateKey, PublicKey, keygen, to_phe, to_phe_keys
from residue_sim.board import Board, InProcess
from residue_sim.board.utilisation import measure

BATCH = 256
LEAST = {"pow": 0.95, "pow_fixed": 0.95, "multi_pow": 0.90, "prod": 0.80}
"""Utilisation of four rings at 2048-bit moduli, by operation."""


@pytest.fixture(scope="module")
def keys() -> tuple[PublicKey, PrivateKey]:
    return keygen(1024, insecure_allow_1024=True, device="cpu")


@pytest.mark.full
def test_a_batch_of_encryptions_fills_the_ring(keys: tuple[PublicKey, PrivateKey]) -> None:
    on_cpu, sk = keys
    backend = CardBackend(InProcess(Board("r21")), check_rate=0.0, timeout=60)
    try:
        pk = on_cpu.to(backend)
        pk.encrypt(np.arange(1)).to_bytes()  # builds the comb table, once a key
        backend.reset_stats()
        values = np.arange(-BATCH // 2, BATCH // 2)
        ciphertexts = pk.encrypt(values)
        message = ciphertexts.to_bytes()
        spent = backend.stats()
        _, oracle = to_phe_keys(phe, sk)
        received = on_cpu.ciphertexts_from_bytes(message)
        assert [oracle.decrypt(c) for c in to_phe(phe, received)] == values.tolist()
    finally:
        backend.close()

    def utilisation(*parts: OperationStats) -> float:
        return sum(s.busy_slots for s in parts) / sum(s.device_cycles for s in parts)

    print({name: round(utilisation(s), 4) for name, s in spent.items() if s.device_cycles})
    # Each encryption is 64 table products; the whole batch adds conversions and one product.
    assert spent["pow_fixed"].elements == BATCH
    assert spent["pow_fixed"].products >= 64 * BATCH
    assert utilisation(spent["pow_fixed"]) >= 0.97
    assert utilisation(*spent.values()) >= 0.90


@pytest.mark.full  # building four full rings takes minutes
@pytest.mark.parametrize("operation", LEAST)
def test_four_rings_stay_full(operation: str) -> None:
    (use,) = measure("kv260", 2048, [operation])
    print(json.dumps(asdict(use)))
    assert use.rings == 4
    assert LEAST[operation] <= use.utilisation <= use.roof
