"""Shamir's secret sharing of 32-byte seeds ("How to share a secret", CACM 22(11), 1979).

A seed is the value at 0 of a polynomial of degree ``threshold - 1`` over the integers modulo
``PRIME``; a share is its value at the holder's place, 1, 2, ...: any `threshold` of them give the
seed, and fewer say nothing about it.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping

__all__ = ["PRIME", "SEED_BYTES", "SHARE_BYTES", "join", "split"]

SEED_BYTES = 32
SHARE_BYTES = 33
PRIME = 2**256 + 297
"""The least prime above all seeds."""


def split(seed: bytes, holders: int, threshold: int) -> list[bytes]:
    """Shares of `seed` for the holders at places 1 to `holders`, `SHARE_BYTES` each."""
    polynomial = [int.from_bytes(seed, "little")]
    polynomial += [secrets.randbelow(PRIME) for _ in range(threshold - 1)]
    shares = []
    for place in range(1, holders + 1):
        value = 0
        for coefficient in reversed(polynomial):
            value = (value * place + coefficient) % PRIME
        shares.append(value.to_bytes(SHARE_BYTES, "little"))
    return shares


def join(shares: Mapping[int, bytes]) -> bytes:
    """The seed, from the shares of `threshold` holders by place: Lagrange's interpolation at 0.

    Raises `ValueError` if a share is out of range or they are not shares of one seed of 32 bytes;
    most wrong shares give a wrong seed, which the caller must recognise.
    """
    total = 0
    for place, share in shares.items():
        value = int.from_bytes(share, "little")
        if len(share) != SHARE_BYTES or value >= PRIME:
            raise ValueError("a share is out of range")
        for other in shares:
            if other != place:
                value = value * other * pow(other - place, -1, PRIME) % PRIME
        total += value
    if (total := total % PRIME) >> 8 * SEED_BYTES:
        raise ValueError("the shares do not belong together")
    return total.to_bytes(SEED_BYTES, "little")
