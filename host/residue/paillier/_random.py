"""Secret random numbers, all from the operating system, which re-seeds itself across forks."""

from __future__ import annotations

import os
import secrets

import gmpy2
import numpy as np
from gmpy2 import mpz

from residue.backends._protocol import Limbs

__all__ = ["random_limbs", "random_prime", "random_units"]

_PRIMORIAL = gmpy2.primorial(2000)
_MILLER_RABIN_ROUNDS = 40


def random_limbs(n: int, bits: int) -> Limbs:
    """``(n, limbs) uint64``: independent uniform numbers below ``2**bits``."""
    limbs = (bits + 63) // 64
    values = np.frombuffer(bytearray(os.urandom(8 * n * limbs)), dtype="<u8").reshape(n, limbs)
    if bits % 64:
        values[:, -1] >>= np.uint64(64 - bits % 64)
    return values


def random_units(n: int, modulus: int) -> list[mpz]:
    """Independent uniform integers in ``[1, modulus)`` that are coprime to `modulus`."""
    units: list[mpz] = []
    while len(units) < n:
        candidate = mpz(secrets.randbelow(modulus - 1) + 1)
        if gmpy2.gcd(candidate, modulus) == 1:
            units.append(candidate)
    return units


def random_prime(bits: int) -> mpz:
    """Uniform prime = 3 mod 4 with its two top bits set, so that two of them have ``2 * bits``."""
    while True:
        candidate = mpz(secrets.randbits(bits)) | (3 << (bits - 2)) | 3
        if gmpy2.gcd(candidate, _PRIMORIAL) == 1 and gmpy2.is_prime(
            candidate, _MILLER_RABIN_ROUNDS
        ):
            return candidate
