"""Residues on their way in and out: integers as limbs, and the check of what a peer sent."""

from __future__ import annotations

import os
from collections.abc import Iterable

import numpy as np
from gmpy2 import mpz
from numpy.typing import NDArray

from residue_federated.errors import ProtocolError

__all__ = ["Limbs", "check_elements", "from_integers", "random_exponents", "to_integers"]

Limbs = NDArray[np.uint64]
"""``(n, limbs) uint64``: n unsigned integers, little-endian 64-bit limbs."""


def from_integers(values: Iterable[int], limbs: int) -> Limbs:
    """Rows ``(n, limbs) uint64`` of integers in ``[0, 2**(64 * limbs))``."""
    raw = b"".join(value.to_bytes(8 * limbs, "little") for value in values)
    return np.frombuffer(raw, "<u8").reshape(-1, limbs)


def to_integers(values: Limbs) -> NDArray[np.object_]:
    """``(n,)`` integers of GMP, of ``(n, limbs) uint64``."""
    raw, width = values.astype("<u8").tobytes(), 8 * values.shape[1]
    rows = (raw[at : at + width] for at in range(0, len(raw), width))
    return np.fromiter((mpz.from_bytes(row, "little") for row in rows), object, len(values))


def random_exponents(count: int, bits: int) -> Limbs:
    """`count` secret integers, uniform below ``2**bits``."""
    limbs = -(-bits // 64)
    values = np.frombuffer(os.urandom(8 * count * limbs), "<u8").reshape(count, limbs).copy()
    values[:, -1] >>= np.uint64(64 * limbs - bits)
    return values


def check_elements(values: Limbs, modulus: int, peer: str, what: str) -> None:
    """Raise `ProtocolError` unless all of ``(n, limbs) uint64`` are in ``[2, modulus - 2]``.

    0 and 1 stay what they are under every secret exponent, and ``modulus - 1`` tells its parity
    (NIST SP 800-56A rev. 3, section 5.6.2.3.1).
    """
    bound = from_integers([modulus - 1], values.shape[1])[0]
    highest = values.shape[1] - 1 - np.argmax((values != bound)[:, ::-1], axis=1)
    small = values[np.arange(len(values)), highest] < bound[highest]
    large = values[:, 1:].any(axis=1) | (values[:, 0] > 1)
    wrong = int(np.count_nonzero(~(small & large)))
    if wrong:
        raise ProtocolError(f"{peer} sent {wrong} {what} outside the group: expected 2 to n - 2")
