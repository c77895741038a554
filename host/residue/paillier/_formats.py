"""Binary forms of keys and ciphertext arrays, documented byte for byte in docs/formats.md."""

from __future__ import annotations

import struct
from math import prod

import gmpy2
import numpy as np
from gmpy2 import mpz
from numpy.typing import NDArray

from residue._limbs import from_limbs, to_limbs
from residue.backends._protocol import Backend, Limbs
from residue.errors import InvalidCiphertext, InvalidKey, KeyMismatch
from residue.paillier._ciphertext import CiphertextArray
from residue.paillier._keys import MAX_KEY_BITS, MIN_KEY_BITS, PublicKey

__all__ = [
    "check_ciphertexts",
    "ciphertexts_from_bytes",
    "ciphertexts_to_bytes",
    "public_key_from_bytes",
    "public_key_to_bytes",
]

VERSION = 1

_CIPHERTEXTS_MAGIC = b"RSDUCTXT"
_CIPHERTEXTS = struct.Struct("<8sHHI32siIII")  # 64 bytes
_MAX_DIMENSIONS = 32
_MAX_EXPONENT = 1 << 20
BOUND_STEP = 32
"""The bound on plaintexts travels in steps of so many bits."""

_PUBLIC_KEY_MAGIC = b"RSDUPUBK"
_PUBLIC_KEY = struct.Struct("<8sHHI")  # 16 bytes
_HAS_RANDOMIZER = 1


def ciphertexts_to_bytes(c: CiphertextArray) -> bytes:
    """Header, shape, limbs. The caller has released the ciphertexts."""
    key = c.public_key
    # Never 0: that would say that all plaintexts are.
    bound_bits = max(1, -(-c.bound.bit_length() // BOUND_STEP)) * BOUND_STEP
    header = _CIPHERTEXTS.pack(
        _CIPHERTEXTS_MAGIC,
        VERSION,
        0,
        c.ndim,
        key.fingerprint,
        c.exponent,
        min(bound_bits, key.max_mantissa.bit_length()),
        key.modulus.limbs,
        0,
    )
    shape = struct.pack(f"<{c.ndim}Q", *c.shape)
    return b"".join((header, shape, np.ascontiguousarray(c.to_limbs(), dtype="<u8").tobytes()))


def ciphertexts_from_bytes(key: PublicKey, data: bytes | memoryview) -> CiphertextArray:
    """Parse and check; see `PublicKey.ciphertexts_from_bytes`."""
    data = memoryview(data).cast("B")
    if len(data) < _CIPHERTEXTS.size:
        raise InvalidCiphertext(f"{len(data)} bytes are too few for a ciphertext header")
    magic, version, flags, ndim, fingerprint, exponent, bound_bits, limbs, zero = (
        _CIPHERTEXTS.unpack_from(data)
    )
    if magic != _CIPHERTEXTS_MAGIC:
        raise InvalidCiphertext("these bytes are not a ciphertext array")
    if version != VERSION or flags or zero:
        raise InvalidCiphertext(f"ciphertext format {version} is unknown; expected {VERSION}")
    if fingerprint != key.fingerprint:
        raise KeyMismatch(
            f"ciphertexts of key {fingerprint.hex()[:12]}, not of {key.fingerprint.hex()[:12]}"
        )
    if limbs != key.modulus.limbs or ndim > _MAX_DIMENSIONS or abs(exponent) > _MAX_EXPONENT:
        raise InvalidCiphertext("the ciphertext header is inconsistent")
    start = _CIPHERTEXTS.size + 8 * ndim
    if len(data) < start:
        raise InvalidCiphertext("the ciphertext array is truncated")
    shape = struct.unpack_from(f"<{ndim}Q", data, _CIPHERTEXTS.size)
    size = prod(shape)
    if len(data) != start + 8 * limbs * size:
        raise InvalidCiphertext(
            f"{len(data) - start} bytes of ciphertexts; the header announces {8 * limbs * size}"
        )
    if bound_bits > key.max_mantissa.bit_length():
        raise InvalidCiphertext("the announced plaintext bound exceeds the key's range")
    values = np.frombuffer(data[start:], dtype="<u8").reshape(size, limbs)
    marks = check_ciphertexts(key, values)
    bound = min((1 << bound_bits) - 1, key.max_mantissa)
    array = CiphertextArray(key, key.backend.upload(key.modulus, values), shape, exponent, bound)
    array.randomness_marks = marks
    return array


def check_ciphertexts(key: PublicKey, values: Limbs) -> NDArray[np.int64]:
    """Raise `InvalidCiphertext` unless ``0 < c < n**2`` and ``gcd(c, n) = 1`` for all rows.

    One gcd for the whole batch, of the product of all. Returns `CiphertextArray.randomness_marks`.
    """
    n, nsquare = mpz(key.n), mpz(key.nsquare)
    numbers = from_limbs(values)
    if numbers and not (min(numbers) > 0 and max(numbers) < nsquare):
        raise InvalidCiphertext("a ciphertext is outside (0, n**2)")
    randomness = [c % n for c in numbers]
    product = mpz(1)
    for r in randomness:
        product = product * r % n
    if gmpy2.gcd(product, n) != 1:
        raise InvalidCiphertext("a ciphertext is not coprime to n")
    return np.fromiter(map(hash, randomness), np.int64, len(randomness))


def public_key_to_bytes(key: PublicKey) -> bytes:
    """Header, n, and h_s where the key has one."""
    limbs = -(-key.bits // 64)
    flags = _HAS_RANDOMIZER if key.h_s is not None else 0
    parts = [_PUBLIC_KEY.pack(_PUBLIC_KEY_MAGIC, VERSION, flags, key.bits)]
    parts.append(to_limbs([mpz(key.n)], limbs).tobytes())
    if key.h_s is not None:
        parts.append(to_limbs([mpz(key.h_s)], 2 * limbs).tobytes())
    return b"".join(parts)


def public_key_from_bytes(data: bytes, *, device: str | Backend) -> PublicKey:
    """Parse and check; raises `InvalidKey`."""
    if len(data) < _PUBLIC_KEY.size:
        raise InvalidKey(f"{len(data)} bytes are too few for a public key")
    magic, version, flags, bits = _PUBLIC_KEY.unpack_from(data)
    if magic != _PUBLIC_KEY_MAGIC:
        raise InvalidKey("these bytes are not a public key")
    if version != VERSION or flags not in (0, _HAS_RANDOMIZER):
        raise InvalidKey(f"public key format {version} is unknown; expected {VERSION}")
    if not MIN_KEY_BITS <= bits <= MAX_KEY_BITS:
        raise InvalidKey(f"a key of {bits} bits; expected {MIN_KEY_BITS} to {MAX_KEY_BITS}")
    size = 8 * -(-bits // 64)
    body = data[_PUBLIC_KEY.size :]
    if len(body) != (3 * size if flags else size):
        raise InvalidKey("the public key is truncated or too long")
    n = int.from_bytes(body[:size], "little")
    if n.bit_length() != bits:
        raise InvalidKey(f"n has {n.bit_length()} bits; the header announces {bits}")
    return PublicKey(n, int.from_bytes(body[size:], "little") if flags else None, device=device)
