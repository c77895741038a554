"""Ciphertexts of Residue decrypt in phe, and the other way round."""

from __future__ import annotations

from typing import Any

import numpy as np
import phe
import pytest

from residue.errors import EncodingOverflow, InvalidCiphertext, KeyMismatch
from residue.paillier import (
    CiphertextArray,
    PrivateKey,
    PublicKey,
    from_phe,
    keygen,
    private_key_from_phe,
    public_key_from_phe,
    to_phe,
    to_phe_keys,
)

Pair = tuple[PublicKey, PrivateKey, Any, Any]

INTEGERS = [0, 1, -1, 2**62 + 12345, -(2**63), 10**30, -(10**30)]
FLOATS = [0.0, 1.5, -2.75, np.pi, -1e6 / 3, 2.0**-40, 123456789.123]


@pytest.fixture(scope="module", params=[1024, 2048, 3072])
def pair(request: pytest.FixtureRequest) -> Pair:
    pk, sk = keygen(request.param, insecure_allow_1024=True, device="cpu")
    return pk, sk, *to_phe_keys(phe, sk)


@pytest.mark.parametrize("scheme", ["djn", "classic"])
@pytest.mark.parametrize("values", [INTEGERS, FLOATS], ids=["integers", "floats"])
def test_phe_decrypts_ours(pair: Pair, scheme: Any, values: list[Any]) -> None:
    pk, _, _, phe_sk = pair
    c = pk.encrypt(values, scheme=scheme)
    assert [phe_sk.decrypt(number) for number in to_phe(phe, c)] == values


@pytest.mark.parametrize("values", [INTEGERS, FLOATS], ids=["integers", "floats"])
def test_we_decrypt_phe(pair: Pair, values: list[Any]) -> None:
    pk, sk, phe_pk, _ = pair
    c = from_phe(pk, [phe_pk.encrypt(v) for v in values])
    dtype = object if isinstance(values[0], int) else None
    assert sk.decrypt(c, dtype=dtype).tolist() == values


def test_results_of_arithmetic_convert_in_both_directions(pair: Pair) -> None:
    pk, sk, phe_pk, phe_sk = pair
    W = np.array([[2, -3], [0.25, 1.5]])
    x = np.array([[1.5, -2.0], [7.0, 0.125]])
    ours = pk.encrypt(x) @ W - 1
    theirs = np.array([[phe_pk.encrypt(v) for v in row] for row in x.tolist()])
    theirs = theirs.dot(W.astype(object)) - 1
    decrypted = [[phe_sk.decrypt(v) for v in row] for row in to_phe(phe, ours)]
    np.testing.assert_allclose(decrypted, x @ W - 1, rtol=1e-14)
    np.testing.assert_allclose(sk.decrypt(from_phe(pk, theirs)), x @ W - 1, rtol=1e-14)
    mixed = from_phe(pk, theirs) + ours
    np.testing.assert_allclose(sk.decrypt(mixed), 2 * (x @ W - 1), rtol=1e-14)


def test_keys_of_phe() -> None:
    phe_pk, phe_sk = phe.generate_paillier_keypair(n_length=1024)
    pk = public_key_from_phe(phe_pk, device="cpu")
    sk = private_key_from_phe(phe_sk, device="cpu")
    assert pk == sk.public_key
    assert sk.decrypt(pk.encrypt([1, -2])).tolist() == [1, -2]
    assert phe_sk.decrypt(to_phe(phe, pk.encrypt(-2.5))) == -2.5
    assert sk.decrypt(from_phe(pk, phe_pk.encrypt(-2.5))) == -2.5


def test_line1_ciphertexts_for_phe_are_rerandomised() -> None:
    pk, sk = keygen(1024, insecure_allow_1024=True, device="cpu")
    _, phe_sk = to_phe_keys(phe, sk)
    c = pk.encrypt([1, 2]) + 5
    first, second = to_phe(phe, c), to_phe(phe, c)
    for a, b, expected in zip(first, second, (6, 7), strict=True):
        assert a.ciphertext(be_secure=False) != b.ciphertext(be_secure=False)
        assert phe_sk.decrypt(a) == phe_sk.decrypt(b) == expected


def test_what_is_refused() -> None:
    pk, _ = keygen(1024, insecure_allow_1024=True, device="cpu")
    other, _ = phe.generate_paillier_keypair(n_length=1024)
    with pytest.raises(KeyMismatch):
        from_phe(pk, [other.encrypt(1)])
    same = phe.PaillierPublicKey(pk.n)
    for value in (0, pk.nsquare, pk.nsquare + 1, -1):
        with pytest.raises(InvalidCiphertext, match="outside"):
            from_phe(pk, phe.EncryptedNumber(same, value, 0))
    with pytest.raises(InvalidCiphertext, match="coprime"):
        from_phe(pk, phe.EncryptedNumber(same, pk.n, 0))
    with pytest.raises(EncodingOverflow, match="bound_bits"):
        from_phe(pk, same.encrypt(1), bound_bits=1024)


def test_shapes_are_kept() -> None:
    pk, _ = keygen(1024, insecure_allow_1024=True, device="cpu")
    c = pk.encrypt(np.ones((2, 3)))
    numbers = to_phe(phe, c)
    assert numbers.shape == (2, 3)
    assert from_phe(pk, numbers).shape == (2, 3)
    assert from_phe(pk, []).shape == (0,)
    single = to_phe(phe, c[0, 0])
    assert isinstance(single, phe.EncryptedNumber)
    back = from_phe(pk, single)
    assert isinstance(back, CiphertextArray)
    assert back.shape == ()
