"""Conversions to and from the objects of the `phe` library, which is never imported here.

Functions that make phe objects take the phe module as an argument; the others read attributes.
Both libraries use g = n + 1, base-16 exponents and the middle-third convention for signs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gmpy2 import mpz

from residue._limbs import from_limbs, to_limbs
from residue.backends._protocol import Backend
from residue.errors import EncodingOverflow, InvalidCiphertext, KeyMismatch
from residue.paillier._ciphertext import CiphertextArray
from residue.paillier._encoding import BASE_BITS
from residue.paillier._formats import check_ciphertexts
from residue.paillier._keys import PrivateKey, PublicKey

__all__ = ["from_phe", "private_key_from_phe", "public_key_from_phe", "to_phe", "to_phe_keys"]


def public_key_from_phe(key: Any, *, device: str | Backend = "auto") -> PublicKey:
    """A `phe.PaillierPublicKey`; it has no DJN base, so it encrypts by the classic scheme."""
    return PublicKey(int(key.n), device=device)


def private_key_from_phe(key: Any, *, device: str | Backend = "auto") -> PrivateKey:
    """A `phe.PaillierPrivateKey`."""
    return PrivateKey(public_key_from_phe(key.public_key, device=device), int(key.p), int(key.q))


def to_phe_keys(phe: Any, key: PrivateKey) -> tuple[Any, Any]:
    """``(PaillierPublicKey, PaillierPrivateKey)`` of the given phe module."""
    public = phe.PaillierPublicKey(key.public_key.n)
    return public, phe.PaillierPrivateKey(public, *key.primes)


def to_phe(phe: Any, c: CiphertextArray) -> Any:
    """`phe.EncryptedNumber` objects in an object array of the same shape, or one for shape ``()``.

    Ciphertexts leave here: what is not fresh is re-randomised.
    """
    public = phe.PaillierPublicKey(c.public_key.n)
    out = np.empty(c.size, dtype=object)
    for i, value in enumerate(from_limbs(c.released().to_limbs())):
        out[i] = phe.EncryptedNumber(public, int(value), c.exponent)
    return out.reshape(c.shape) if c.shape else out[0]


def from_phe(key: PublicKey, numbers: Any, *, bound_bits: int = 128) -> CiphertextArray:
    """Ciphertexts of `phe.EncryptedNumber` objects: one, or a list or array of any shape.

    Elements are brought to their smallest exponent.

    Args:
        key: the public key they were made with.
        numbers: the encrypted numbers.
        bound_bits: what you know of the plaintexts: mantissas stay below ``2**bound_bits``. Later
            overflow checks start from it.

    Raises:
        KeyMismatch: made with another key.
        InvalidCiphertext: out of range or not coprime to n.
        EncodingOverflow: `bound_bits` exceeds the key.
    """
    array = np.asarray(numbers, dtype=object)
    flat = array.ravel().tolist()
    for number in flat:
        if number.public_key.n != key.n:
            raise KeyMismatch("an encrypted number belongs to another key")
    bound = (1 << bound_bits) - 1
    if bound > key.max_mantissa:
        raise EncodingOverflow(f"bound_bits {bound_bits} exceed a {key.bits}-bit key")
    values = [mpz(number.ciphertext(be_secure=False)) for number in flat]
    if any(not 0 < v < key.nsquare for v in values):
        raise InvalidCiphertext("a ciphertext is outside (0, n**2)")
    limbs = to_limbs(values, key.modulus.limbs)
    check_ciphertexts(key, limbs)
    exponents = np.array([number.exponent for number in flat], dtype=np.int64)
    least = int(exponents.min()) if flat else 0
    shifts = (BASE_BITS * (exponents - least)).tolist()
    residues = key.backend.upload(key.modulus, limbs)
    if any(shifts):
        bits = max(shifts) + 1
        factors = to_limbs([mpz(1) << s for s in shifts], -(-bits // 64))
        residues = key.backend.pow(residues, factors, bits)
        bound <<= max(shifts)
    return CiphertextArray(key, residues, array.shape, least, bound)
