"""Big integers as rows of little-endian 64-bit limbs, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from gmpy2 import mpz

if TYPE_CHECKING:
    from residue.backends._protocol import Limbs

__all__ = ["from_limbs", "to_limbs"]


def from_limbs(values: Limbs) -> list[mpz]:
    """Integers of ``(n, limbs) uint64`` rows."""
    width = values.shape[1] * 8
    raw = memoryview(np.ascontiguousarray(values, dtype="<u8").tobytes())
    parse = mpz.from_bytes
    return [parse(raw[i : i + width], "little") for i in range(0, len(raw), width)]


def to_limbs(values: Sequence[mpz], limbs: int) -> Limbs:
    """Rows ``(n, limbs) uint64`` of integers in ``[0, 2**(64 * limbs))``."""
    width = 8 * limbs
    raw = bytearray().join([v.to_bytes(width, "little") for v in values])
    return np.frombuffer(raw, dtype="<u8").reshape(len(values), limbs)
