"""Fixed-point encoding of numpy arrays.

A number x is the integer ``mantissa = round(x * 16**-exponent)``; an array shares one exponent. The
base 16 is phe's, so that ciphertexts of both libraries mean the same. Signed mantissas m stand for
the plaintext ``m mod n``; |m| <= n // 3 - 1, and what decrypts to neither third is an overflow.

Rules for float64 at the default exponent -13 (units of ``2**-52``):

- a number of magnitude 1 or more is encoded exactly: its last bit weighs at least ``2**-52``;
- a smaller one is rounded to the nearest multiple of ``2**-52``, ties to even;
- decoding gives the float64 nearest to ``mantissa * 16**exponent``.

Integers have exponent 0 and are exact at any size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from residue.errors import EncodingError, EncodingOverflow

__all__ = ["BASE_BITS", "FLOAT_EXPONENT", "Encoded", "decode", "encode", "exponent_of"]

BASE_BITS = 4
"""log2 of the exponent's base."""

FLOAT_EXPONENT = -13
"""Exponent of floats unless another is asked for: units of 2**-52."""

_FAST_BITS = 63
_MAX_EXPONENT = 1024


@dataclass(frozen=True)
class Encoded:
    """Signed mantissas of an array and their shared exponent.

    Attributes:
        mantissas: any shape; int64 where all magnitudes are below ``2**63``, else Python integers
            in an object array.
        exponent: a mantissa m stands for ``m * 16**exponent``.
        bound: no mantissa exceeds it in magnitude.
    """

    mantissas: NDArray[Any]
    exponent: int
    bound: int

    def __repr__(self) -> str:
        return f"Encoded(shape={self.mantissas.shape}, exponent={self.exponent})"

    def negated(self) -> Encoded:
        """The numbers with their signs changed."""
        mantissas = np.asarray(-self.mantissas, dtype=self.mantissas.dtype)
        return Encoded(mantissas, self.exponent, self.bound)

    def rescaled(self, exponent: int) -> Encoded:
        """The same numbers at a smaller or equal exponent."""
        shift = BASE_BITS * (self.exponent - exponent)
        if not shift:
            return self
        values = _objects([m << shift for m in self.mantissas.ravel().tolist()])
        return _compact(values.reshape(self.mantissas.shape), exponent)


def exponent_of(precision: float) -> int:
    """Largest exponent whose unit ``16**exponent`` does not exceed `precision`.

    Raises:
        EncodingError: the precision is not a positive finite number.
    """
    if not (math.isfinite(precision) and precision > 0):
        raise EncodingError("precision must be a positive finite number")
    _, e = math.frexp(precision)  # precision >= 2**(e - 1)
    return (e - 1) // BASE_BITS


def encode(x: Any, *, exponent: int | None = None, precision: float | None = None) -> Encoded:
    """Encode numbers of any shape at one exponent.

    Args:
        x: numpy array, nested list or scalar: bool, integers of any size, or floats.
        exponent: the shared exponent; default 0 for integers, `FLOAT_EXPONENT` for floats.
        precision: instead of an exponent: the coarsest step allowed between two numbers.

    Raises:
        EncodingError: NaN, infinity or an unsupported dtype.
    """
    values = np.asarray(x)
    if values.dtype.kind == "f" and not isinstance(x, (np.ndarray, np.generic, float)):
        # numpy takes a list for floats when it holds an integer of 64 bits and smaller ones
        values = np.asarray(x, dtype=object)
    if values.dtype.kind == "O":
        values = _from_objects(values)
    if values.dtype.kind not in "biufO":
        raise EncodingError(f"cannot encode dtype {values.dtype}; expected integers or floats")
    floating = values.dtype.kind == "f"
    if precision is not None:
        if exponent is not None:
            raise EncodingError("give an exponent or a precision, not both")
        exponent = exponent_of(precision)
    if exponent is None:
        exponent = FLOAT_EXPONENT if floating else 0
    if not -_MAX_EXPONENT <= exponent <= _MAX_EXPONENT:
        raise EncodingError(f"exponent {exponent} is outside [-{_MAX_EXPONENT}, {_MAX_EXPONENT}]")
    shift = -BASE_BITS * exponent
    if floating:
        return _encode_floats(values, shift, exponent)
    if values.dtype.kind != "O":
        extremes = (int(values.min(initial=0)), int(values.max(initial=0)))
        small = max(map(abs, extremes)) < 1 << _FAST_BITS
        values = values.astype(np.int64 if small else object)
    if shift:
        flat = [_scaled(m, shift) for m in values.ravel().tolist()]
        values = _objects(flat).reshape(values.shape)
    return _compact(values, exponent)


def _encode_floats(values: NDArray[Any], shift: int, exponent: int) -> Encoded:
    if values.dtype.itemsize > 8:
        raise EncodingError(f"cannot encode dtype {values.dtype}; convert it to float64")
    values = values.astype(np.float64)
    if not np.isfinite(values).all():
        raise EncodingError("cannot encode NaN or infinity")
    fractions, exponents = np.frexp(values)
    top = int(exponents.max(initial=0))
    if top + shift <= _FAST_BITS:
        mantissas = np.rint(np.ldexp(values, shift)).astype(np.int64)
        return Encoded(mantissas, exponent, int(np.abs(mantissas).max(initial=0)))
    whole = np.ldexp(fractions, 53).astype(np.int64).ravel().tolist()
    shifts = (exponents.astype(np.int64) - 53 + shift).ravel().tolist()
    flat = [_scaled(m, s) for m, s in zip(whole, shifts, strict=True)]
    return _compact(_objects(flat).reshape(values.shape), exponent)


def _scaled(m: int, shift: int) -> int:
    """``m * 2**shift``, rounded half to even."""
    return m << shift if shift >= 0 else round(Fraction(m, 1 << -shift))


def _from_objects(values: NDArray[Any]) -> NDArray[Any]:
    """Object arrays hold Python or numpy numbers: all integers, or integers and floats."""
    kinds = {type(v) for v in values.ravel()}
    if all(issubclass(k, int | np.integer) for k in kinds):
        return _objects([int(v) for v in values.ravel()]).reshape(values.shape)
    if all(issubclass(k, int | float | np.integer | np.floating) for k in kinds):
        return values.astype(np.float64)
    raise EncodingError("cannot encode objects other than integers and floats")


def _objects(values: list[int]) -> NDArray[Any]:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def _compact(mantissas: NDArray[Any], exponent: int) -> Encoded:
    """Encoded with int64 mantissas where they fit."""
    if mantissas.dtype != object:
        return Encoded(mantissas, exponent, int(np.abs(mantissas).max(initial=0)))
    bound = max(map(abs, mantissas.ravel().tolist()), default=0)
    if bound < 1 << _FAST_BITS:
        mantissas = mantissas.astype(np.int64)
    return Encoded(mantissas, exponent, bound)


def decode(mantissas: list[int], exponent: int, dtype: Any = None) -> NDArray[Any]:
    """Numbers of signed mantissas, one-dimensional.

    Args:
        mantissas: the decrypted integers.
        exponent: their shared exponent.
        dtype: None gives int64 where the exponent is not negative, else float64; ``object`` gives
            exact integers or `fractions.Fraction`; other integer and float dtypes are kept to.

    Raises:
        EncodingOverflow: a number does not fit the dtype.
        EncodingError: an integer dtype is asked for numbers with fractional digits.
    """
    shift = BASE_BITS * exponent
    kind = np.dtype(dtype) if dtype is not None else np.dtype(np.float64 if shift < 0 else np.int64)
    if kind.kind == "O":
        if shift >= 0:
            return _objects([m << shift for m in mantissas])
        exact = np.empty(len(mantissas), dtype=object)
        exact[:] = [Fraction(m, 1 << -shift) for m in mantissas]
        return exact
    if kind.kind == "f":
        return _decode_floats(mantissas, shift).astype(kind)
    if kind.kind not in "iu":
        raise EncodingError(f"cannot decode to {kind}; expected an integer, float or object dtype")
    if shift < 0:
        raise EncodingError(f"numbers with exponent {exponent} are not integers; ask for float64")
    whole = [m << shift for m in mantissas]
    least, most = int(np.iinfo(kind.type).min), int(np.iinfo(kind.type).max)
    if whole and (max(whole) > most or min(whole) < least):
        raise EncodingOverflow(f"an integer does not fit {kind}; decrypt with dtype=object")
    return np.array(whole, dtype=kind)


def _decode_floats(mantissas: list[int], shift: int) -> NDArray[np.float64]:
    if all(-(1 << 63) <= m < 1 << 63 for m in mantissas) and shift > -900:
        numbers = np.ldexp(np.array(mantissas, dtype=np.int64).astype(np.float64), shift)
        if np.isfinite(numbers).all():
            return numbers
    try:
        if shift >= 0:
            return np.array([float(m << shift) for m in mantissas], dtype=np.float64)
        return np.array([m / (1 << -shift) for m in mantissas], dtype=np.float64)
    except OverflowError as error:
        raise EncodingOverflow("a number does not fit float64") from error
