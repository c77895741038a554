"""What training needs of residue's ciphertexts besides arithmetic."""

from __future__ import annotations

import os

import numpy as np
import pytest

import residue
from residue.errors import EncodingOverflow
from residue.paillier._stock import Stock


@pytest.fixture(scope="module")
def keys() -> tuple[residue.PublicKey, residue.PrivateKey]:
    return residue.keygen(1024, insecure_allow_1024=True, device="cpu")


def test_prepared_randomness_is_used_once(
    keys: tuple[residue.PublicKey, residue.PrivateKey],
) -> None:
    pk, sk = keys
    pk.prepare(3)
    pk.prepare(4)
    assert pk.prepared == 7
    arrays = [pk.encrypt(np.zeros(2, dtype=int)) for _ in range(2)]
    assert pk.prepared == 3
    arrays.append(pk.encrypt(np.zeros(5, dtype=int)))
    assert pk.prepared == 0
    arrays.append(arrays[0] + arrays[1])
    pk.prepare(1)
    arrays.append(arrays[3].rerandomize())
    assert pk.prepared == 0
    rows = [row.tobytes() for array in arrays for row in array.to_limbs()]
    assert len(set(rows)) == len(rows) == 13
    assert all(not sk.decrypt(array).any() for array in arrays)


def test_prepared_randomness_does_not_survive_a_fork(
    keys: tuple[residue.PublicKey, residue.PrivateKey], monkeypatch: pytest.MonkeyPatch
) -> None:
    pk, _ = keys
    stock = Stock()
    stock.add(pk.zeros(2))
    monkeypatch.setattr(os, "getpid", lambda: -1)
    assert len(stock) == 0
    assert stock.take(pk.backend, 1) == []


def test_keys_without_a_fixed_base_prepare_nothing(
    keys: tuple[residue.PublicKey, residue.PrivateKey],
) -> None:
    classic = residue.PublicKey(keys[0].n, device="cpu")
    classic.prepare(5)
    assert classic.prepared == 0


def test_shift(keys: tuple[residue.PublicKey, residue.PrivateKey]) -> None:
    pk, sk = keys
    c = pk.encrypt(np.array([3, -5, 0]))
    assert sk.decrypt(c << 70, dtype=object).tolist() == [3 << 70, -5 << 70, 0]
    assert sk.decrypt(c << 0).tolist() == [3, -5, 0]
    with pytest.raises(EncodingOverflow):
        c << 1023
