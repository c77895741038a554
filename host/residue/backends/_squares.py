"""Numbers 1 + m n modulo squares n n and residues of longer numbers, on any backend.

Backends that know them (`SupportsSquares`) compute them; for others they are computed here, with
GMP's integers, and uploaded or downloaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gmpy2
from gmpy2 import mpz
from numpy.typing import NDArray

from residue._limbs import from_limbs, to_limbs
from residue.backends._protocol import Backend, Limbs, Modulus, ResidueArray, SupportsSquares
from residue.backends._validate import check_limbs, check_numbers
from residue.errors import CorruptResult

__all__ = [
    "binomial_limbs",
    "binomials",
    "logarithm_limbs",
    "logarithms",
    "reduce",
    "require_logarithms",
    "uploaded",
]


def binomials(backend: Backend, modulus: Modulus, m: NDArray[Any]) -> ResidueArray:
    """As `SupportsSquares.binomials`, on any backend; `m` may be integers in an object array."""
    if m.dtype != object:
        check_numbers(m)
        if isinstance(backend, SupportsSquares):
            return backend.binomials(modulus, m)
    return backend.upload(modulus, binomial_limbs(modulus, m))


def reduce(backend: Backend, moduli: Sequence[Modulus], values: Limbs) -> list[ResidueArray]:
    """As `SupportsSquares.reduce`, on any backend."""
    if isinstance(backend, SupportsSquares):
        return backend.reduce(moduli, values)
    return uploaded(backend, moduli, values)


def uploaded(backend: Backend, moduli: Sequence[Modulus], values: Limbs) -> list[ResidueArray]:
    """As `reduce`, by GMP's integers; each division is multiplied back."""
    check_limbs(values, "integers")
    numbers = from_limbs(values)
    return [backend.upload(modulus, _reduced(modulus, numbers)) for modulus in moduli]


def logarithms(backend: Backend, a: ResidueArray) -> Limbs:
    """As `SupportsSquares.logarithms`, on any backend."""
    if isinstance(backend, SupportsSquares):
        return backend.logarithms(a)
    return logarithm_limbs(a.modulus, backend.download(a))


def binomial_limbs(modulus: Modulus, m: NDArray[Any]) -> Limbs:
    """``1 + m[i] n``, canonical."""
    n, value = _root(modulus), mpz(modulus.value)
    return to_limbs([(1 + x * n) % value for x in m.tolist()], modulus.limbs)


def logarithm_limbs(modulus: Modulus, residues: Limbs) -> Limbs:
    """``m`` for canonical residues ``1 + m n``."""
    n = _root(modulus)
    pairs = [gmpy2.f_divmod(x, n) for x in from_limbs(residues)]
    require_logarithms(all(low == 1 for _, low in pairs))
    return to_limbs([high for high, _ in pairs], -(-n.bit_length() // 64))


def require_logarithms(exist: bool) -> None:
    """Raise `CorruptResult` unless all residues are 1 modulo the root of their modulus."""
    if not exist:
        raise CorruptResult("a power is not 1 modulo its prime; nothing was released")


def _root(modulus: Modulus) -> mpz:
    return gmpy2.isqrt(mpz(modulus.value))


def _reduced(modulus: Modulus, numbers: Sequence[mpz]) -> Limbs:
    value = mpz(modulus.value)
    remainders = []
    for x in numbers:
        quotient, remainder = gmpy2.f_divmod(x, value)
        if quotient * value + remainder != x:
            raise CorruptResult("a reduction failed its check; nothing was released")
        remainders.append(remainder)
    return to_limbs(remainders, modulus.limbs)
