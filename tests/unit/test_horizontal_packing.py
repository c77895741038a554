from __future__ import annotations

import numpy as np
import pytest

import residue
from residue_federated.horizontal._packing import Packing


@pytest.fixture(scope="module")
def keys() -> tuple[residue.PublicKey, residue.PrivateKey]:
    return residue.keygen(1024, insecure_allow_1024=True, device="cpu")


@pytest.mark.parametrize("size", [1, 37, 38, 39, 200])
@pytest.mark.parametrize(("bits", "clients"), [(8, 2), (24, 3), (24, 4), (32, 16), (17, 1)])
def test_sums_of_packed_vectors_unpack(bits: int, clients: int, size: int) -> None:
    packing, half = Packing.plan(bits, clients, key_bits=1024), 2 ** (bits - 1)
    values = np.random.default_rng(size).integers(-half, half, size=(clients, size))
    values[:, 0], values[:, -1] = half - 1, -half
    packed = [packing.pack(row) for row in values]
    assert all(len(row) == packing.plaintexts(size) for row in packed)
    assert np.array_equal(packing.unpack(np.sum(packed, axis=0))[:size], values.sum(axis=0))


def test_sums_under_encryption_that_cross_the_wire_unpack(
    keys: tuple[residue.PublicKey, residue.PrivateKey],
) -> None:
    """The bound that travels with ciphertexts is coarse; packing leaves room for it."""
    public, secret = keys
    for clients in (2, 5):
        packing = Packing.plan(24, clients, public.bits)
        values = np.random.default_rng(clients).integers(-(2**23), 2**23, size=(clients, 90))
        sent = [public.encrypt(packing.pack(row)).to_bytes() for row in values]
        assert len({len(data) for data in sent}) == 1
        arrived = [public.ciphertexts_from_bytes(data) for data in sent]
        total = public.ciphertexts_from_bytes(sum(arrived[1:], arrived[0]).to_bytes())
        found = packing.unpack(secret.decrypt(total, dtype=object))[:90]
        assert np.array_equal(found, values.sum(axis=0))


@pytest.mark.parametrize("bits", [8, 24, 32])
def test_plaintexts_have_one_size_whatever_is_in_them(bits: int) -> None:
    packing = Packing.plan(bits, 3, key_bits=1024)
    low, high = (np.full(5, value) for value in (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1))
    sizes = {int(p).bit_length() for values in (low, high) for p in packing.pack(values)}
    assert sizes == {packing.slots * packing.width + 1}


def test_slots_fill_the_key() -> None:
    for key_bits in (1024, 2048, 3072):
        for clients in (2, 3, 100):
            packing = Packing.plan(24, clients, key_bits)
            used = packing.slots * packing.width
            assert key_bits - 2 * 32 - packing.width - 10 < used < key_bits - 10


@pytest.mark.parametrize("summands", [0, 2, 4])
def test_other_than_one_of_each_client_is_refused(summands: int) -> None:
    packing = Packing.plan(16, 3, key_bits=1024)
    packed = packing.pack(np.arange(10))
    with pytest.raises(ValueError, match="not the sum of 3"):
        packing.unpack(packed * summands)
    with pytest.raises(ValueError, match="not the sum of 3"):
        packing.unpack(packed * -3)
