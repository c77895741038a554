from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from residue.errors import EncodingError, EncodingOverflow
from residue.paillier._encoding import (
    FLOAT_EXPONENT,
    decode,
    encode,
    exponent_of,
)

finite = st.floats(allow_nan=False, allow_infinity=False, width=64)


def exact(x: float, exponent: int) -> int:
    """Nearest integer to ``x * 16**-exponent``, ties to even, by rationals."""
    return round(Fraction(x) * Fraction(16) ** -exponent)


@given(st.lists(finite, min_size=1, max_size=5), st.integers(-40, 10))
def test_floats_are_rounded_once_half_to_even(values: list[float], exponent: int) -> None:
    encoded = encode(np.array(values), exponent=exponent)
    assert encoded.mantissas.tolist() == [exact(v, exponent) for v in values]
    assert encoded.bound == max(abs(m) for m in encoded.mantissas.tolist())


@given(st.floats(min_value=1, max_value=1e300), st.booleans())
def test_default_exponent_is_exact_from_one_upwards(x: float, negative: bool) -> None:
    x = -x if negative else x
    encoded = encode(x)
    assert encoded.exponent == FLOAT_EXPONENT
    assert decode([int(encoded.mantissas)], FLOAT_EXPONENT)[0] == x


@given(st.floats(min_value=-1, max_value=1))
def test_default_exponent_rounds_small_numbers_to_2_to_minus_52(x: float) -> None:
    decoded = decode([int(encode(x).mantissas)], FLOAT_EXPONENT)[0]
    assert abs(decoded - x) <= 2.0**-53


@given(st.lists(st.integers(-(2**200), 2**200), min_size=1, max_size=4))
@example([0, 2**63])
@example([-1, 2**64 - 1])
def test_integers_of_any_size_are_exact(values: list[int]) -> None:
    encoded = encode(values)
    assert encoded.exponent == 0
    assert decode(encoded.mantissas.tolist(), 0, object).tolist() == values
    assert (encoded.mantissas.dtype == np.int64) == (encoded.bound < 2**63)


@pytest.mark.parametrize(
    "x",
    [
        np.array([-(2**63), 2**63 - 1], dtype=np.int64),
        np.array([0, 2**64 - 1], dtype=np.uint64),
        np.array([-128, 127], dtype=np.int8),
        np.array([True, False]),
        np.array([2**100, -1], dtype=object),
        np.array([], dtype=np.int32),
    ],
)
def test_every_integer_dtype(x: Any) -> None:
    encoded = encode(x)
    assert encoded.mantissas.tolist() == [int(v) for v in x]
    assert encoded.bound == max((abs(int(v)) for v in x), default=0)


def test_other_float_dtypes_and_mixed_objects() -> None:
    assert encode(np.float32(0.5)).mantissas == 2**51
    assert encode(np.array([0.5, 1], dtype=object)).mantissas.tolist() == [2**51, 2**52]
    assert encode([1, 2.5], exponent=-1).mantissas.tolist() == [16, 40]


@pytest.mark.parametrize("x", [math.nan, math.inf, -math.inf, [1.0, math.nan]])
def test_line5_not_a_number_is_refused(x: Any) -> None:
    with pytest.raises(EncodingError, match="NaN or infinity"):
        encode(x)


@pytest.mark.parametrize("x", [1j, "one", None, np.array(["a"]), np.longdouble(1), [1, "a"]])
def test_unsupported_kinds_are_refused(x: Any) -> None:
    with pytest.raises(EncodingError, match="cannot encode"):
        encode(x)


@pytest.mark.parametrize("precision", [1e-6, 0.5, 1.0, 2.0**-52, 3.7e10, 16.0, 1 / 16])
def test_precision_gives_the_largest_unit_not_above_it(precision: float) -> None:
    e = exponent_of(precision)
    assert Fraction(16) ** e <= precision < Fraction(16) ** (e + 1)
    assert encode(1.5, precision=precision).exponent == e


@pytest.mark.parametrize("precision", [0.0, -1.0, math.nan, math.inf])
def test_bad_precision(precision: float) -> None:
    with pytest.raises(EncodingError, match="precision"):
        encode(1.0, precision=precision)


def test_exponent_is_given_once_and_within_range() -> None:
    with pytest.raises(EncodingError, match="not both"):
        encode(1.0, exponent=-1, precision=0.1)
    with pytest.raises(EncodingError, match="outside"):
        encode(1.0, exponent=-2000)


@given(st.integers(-(2**300), 2**300), st.integers(-80, 3))
def test_decoding_gives_the_nearest_float(m: int, exponent: int) -> None:
    assert decode([m], exponent, np.float64)[0] == float(Fraction(m) * Fraction(16) ** exponent)


def test_decoding_dtypes() -> None:
    assert decode([3], 0).dtype == np.int64
    assert decode([3], 1).tolist() == [48]
    assert decode([3], -1).dtype == np.float64
    assert decode([3], -1, object).tolist() == [Fraction(3, 16)]
    assert decode([3], 1, object).tolist() == [48]
    assert decode([200], 0, np.uint8).dtype == np.uint8
    assert decode([], -1).shape == (0,)


def test_line5_what_does_not_fit_the_dtype_is_refused() -> None:
    with pytest.raises(EncodingOverflow, match="int64"):
        decode([2**63], 0)
    with pytest.raises(EncodingOverflow, match="uint8"):
        decode([256], 0, np.uint8)
    for exponent in (0, -1):
        with pytest.raises(EncodingOverflow, match="float64"):
            decode([2**1100], exponent, np.float64)
    with pytest.raises(EncodingError, match="not integers"):
        decode([1], -1, np.int64)
    with pytest.raises(EncodingError, match="cannot decode"):
        decode([1], 0, np.complex128)


def test_line7_encoded_plaintexts_do_not_show() -> None:
    assert "12345" not in repr(encode(12345))


@pytest.mark.parametrize("x", [5, -(2**80), [1, -2], [2**80], 2.5])
def test_negation_keeps_shape_and_dtype(x: Any) -> None:
    encoded = encode(x)
    negated = encoded.negated()
    assert isinstance(negated.mantissas, np.ndarray)
    assert negated.mantissas.dtype == encoded.mantissas.dtype
    assert (negated.mantissas == -encoded.mantissas).all()


def test_rescaling_is_exact() -> None:
    encoded = encode([1.5, -2.0], exponent=-1).rescaled(-20)
    assert decode(encoded.mantissas.tolist(), -20).tolist() == [1.5, -2.0]
    assert encoded.bound == 2 * 16**20
