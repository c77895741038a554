"""Checks of arguments that every backend makes alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from residue.backends._protocol import Limbs, Modulus
from residue.errors import BackendError

__all__ = [
    "below_modulus",
    "broadcast_length",
    "check_exponents",
    "check_index",
    "check_limbs",
    "check_modulus",
    "check_numbers",
    "check_offsets",
    "check_pow_moduli",
    "check_residues",
    "check_short_exponents",
]

MAX_SHORT_BITS = 62


def check_modulus(modulus: int) -> None:
    """Raise `BackendError` unless `modulus` is odd and at least 2**64."""
    if modulus < 1 << 64 or modulus % 2 == 0:
        raise BackendError("a modulus must be odd and at least 2**64")


def check_residues(modulus: Modulus, values: Limbs) -> None:
    """Raise `BackendError` unless `values` are ``(n, limbs) uint64`` and all below the modulus."""
    check_limbs(values, "residues")
    if values.shape[1] != modulus.limbs:
        raise BackendError(
            f"residues have {values.shape[1]} limbs; this modulus takes {modulus.limbs}"
        )
    if not below_modulus(modulus, values):
        raise BackendError("a residue is not below its modulus")


def below_modulus(modulus: Modulus, values: Limbs) -> bool:
    """Whether all of ``(n, modulus.limbs) uint64`` are below the modulus."""
    raw = modulus.value.to_bytes(8 * modulus.limbs, "little")
    bound = np.frombuffer(raw, "<u8")
    differs = values != bound
    top = modulus.limbs - 1 - np.argmax(differs[:, ::-1], axis=1)
    rows = np.arange(len(values))
    return bool((values[rows, top] < bound[top]).all())


def check_exponents(exponents: Limbs, bits: int, length: int | None = None) -> None:
    """Raise `BackendError` unless ``(n, e) uint64`` below ``2**bits``, n being 1 or `length`."""
    check_limbs(exponents, "exponents")
    if bits < 1:
        raise BackendError(f"exponent bits must be positive, not {bits}")
    if length is not None and len(exponents) not in (1, length):
        raise BackendError(f"{len(exponents)} exponents for {length} residues")
    whole, rest = divmod(bits, 64)
    beyond = exponents[:, whole:].copy()
    if rest and beyond.size:
        beyond[:, 0] >>= np.uint64(rest)
    if beyond.any():
        raise BackendError(f"an exponent does not fit {bits} bits")


def check_short_exponents(exponents: NDArray[np.int64], bits: int, length: int) -> None:
    """Raise `BackendError` unless ``(length, m) int64`` with ``|e| < 2**bits``, bits <= 62."""
    if exponents.dtype != np.int64 or exponents.ndim != 2 or len(exponents) != length:
        raise BackendError(
            f"multi_pow takes int64 exponents ({length}, m), not "
            f"{exponents.dtype} {exponents.shape}"
        )
    if not 1 <= bits <= MAX_SHORT_BITS:
        raise BackendError(f"multi_pow takes 1 to {MAX_SHORT_BITS} exponent bits, not {bits}")
    limit = np.int64(1 << bits)
    if ((exponents >= limit) | (exponents <= -limit)).any():
        raise BackendError(f"an exponent does not fit {bits} bits and a sign")


def check_pow_moduli(moduli: Sequence[Modulus], bases: Limbs, exponents: Limbs, bits: int) -> None:
    """Raise `BackendError` unless bases are ``(n, limbs) uint64``, each below its modulus."""
    check_limbs(bases, "bases")
    if len(bases) != len(moduli):
        raise BackendError(f"{len(moduli)} moduli for {len(bases)} bases")
    check_exponents(exponents, bits, len(bases))
    for modulus in set(moduli):
        check_modulus(modulus.value)
        if modulus.limbs > bases.shape[1]:
            raise BackendError(f"a modulus of {modulus.limbs} limbs for bases of {bases.shape[1]}")
        rows = bases[[i for i, m in enumerate(moduli) if m == modulus]]
        if rows[:, modulus.limbs :].any() or not below_modulus(modulus, rows[:, : modulus.limbs]):
            raise BackendError("a base is not below its modulus")


def check_index(index: NDArray[np.int64], length: int) -> None:
    """Raise `BackendError` unless `index` is one-dimensional, of integers in ``[0, length)``."""
    if index.ndim != 1 or index.dtype.kind != "i":
        raise BackendError(f"an index must be one-dimensional int64, not {index.dtype}")
    if index.size and (index.min() < 0 or index.max() >= length):
        raise BackendError(f"an index is outside [0, {length})")


def check_offsets(offsets: NDArray[np.int64], length: int) -> None:
    """Raise `BackendError` unless `offsets` run from 0 to `length` without decreasing."""
    if (
        offsets.ndim != 1
        or offsets.dtype.kind != "i"
        or not len(offsets)
        or offsets[0] != 0
        or offsets[-1] != length
        or (np.diff(offsets) < 0).any()
    ):
        raise BackendError("offsets must not decrease and must run from 0 to len(index)")


def broadcast_length(a: int, b: int) -> int:
    """Length of the element-wise product of arrays of `a` and `b` residues."""
    if a == b or b == 1:
        return a
    if a == 1:
        return b
    raise BackendError(f"arrays of {a} and {b} residues do not broadcast")


def check_numbers(m: NDArray[Any]) -> None:
    """Raise `BackendError` unless `m` is ``(k,) int64``."""
    if m.dtype != np.int64 or m.ndim != 1:
        raise BackendError(f"numbers must be (k,) int64, not {m.dtype} {m.shape}")


def check_limbs(values: Limbs, what: str) -> None:
    """Raise `BackendError` unless `values` are ``(n, limbs) uint64``."""
    if values.dtype != np.uint64 or values.ndim != 2 or not values.shape[1]:
        raise BackendError(f"{what} must be (n, limbs) uint64, not {values.dtype} {values.shape}")
