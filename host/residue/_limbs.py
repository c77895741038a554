"""Big integers as rows of little-endian 64-bit limbs, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import gmpy2
import numpy as np
from gmpy2 import mpz

if TYPE_CHECKING:
    from residue.backends._protocol import Limbs

__all__ = ["from_limbs", "to_limbs"]


def from_limbs(values: Limbs) -> list[mpz]:
    """Integers of ``(n, limbs) uint64`` rows."""
    n, limbs = values.shape
    if not n:
        return []
    whole = mpz.from_bytes(np.ascontiguousarray(values, dtype="<u8").tobytes(), "little")
    numbers: list[mpz] = gmpy2.unpack(whole, 64 * limbs)
    return numbers + [mpz()] * (n - len(numbers))


def to_limbs(values: Sequence[mpz], limbs: int) -> Limbs:
    """Rows ``(n, limbs) uint64`` of integers in ``[0, 2**(64 * limbs))``."""
    whole = gmpy2.pack(list(values), 64 * limbs)
    raw = bytearray(whole.to_bytes(8 * limbs * len(values), "little"))
    return np.frombuffer(raw, dtype="<u8").reshape(len(values), limbs)
