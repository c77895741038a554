"""Inner loops of the CPU backend, exhaustively over a toy group."""

from __future__ import annotations

import itertools
from math import gcd, prod
from typing import Any

import numpy as np
import pytest
from gmpy2 import mpz

from residue._limbs import from_limbs, to_limbs
from residue.backends import _cpu_kernels as kernels

TOY = mpz(77)
UNITS = [a for a in range(77) if gcd(a, 77) == 1]


class Counted(int):
    """An integer that counts products."""

    products = 0

    def __mul__(self, other: Any) -> Counted:
        Counted.products += 1
        return Counted(int(self) * int(other))

    def __mod__(self, other: Any) -> Counted:
        return Counted(int(self) % int(other))


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> type[Counted]:
    monkeypatch.setattr(kernels, "mpz", Counted)
    Counted.products = 0
    return Counted


def limbs(values: Any) -> Any:
    return np.array(values, dtype=np.uint64).reshape(-1, 1)


@pytest.mark.parametrize("window", range(1, 8))
@pytest.mark.parametrize("base", [0, 1, 2, 7, 76])
def test_pow_fixed_is_right_for_every_exponent(window: int, base: int) -> None:
    table = kernels.CombTable.build(TOY, mpz(base), 7, window)
    powers = kernels.pow_fixed_var(table, limbs(range(128)))
    assert powers == [pow(base, e, 77) for e in range(128)]


@pytest.mark.parametrize("window", [1, 5, 8, 10])
def test_pow_fixed_takes_digits_across_limbs(window: int) -> None:
    modulus = mpz(2) ** 127 - 1
    exponents = [0, 1, (1 << 130) - 1, 1 << 64, (1 << 129) + (1 << 63)]
    table = kernels.CombTable.build(modulus, mpz(3), 130, window)
    powers = kernels.pow_fixed_var(table, to_limbs([mpz(e) for e in exponents], 3))
    assert powers == [pow(3, e, int(modulus)) for e in exponents]


def toy_multi_pow(bases: list[int], exponents: Any, bits: int) -> list[int]:
    return [
        prod(pow(a, e, 77) for a, e in zip(bases, column, strict=True)) % 77
        for column in exponents.T.tolist()
    ]


def test_multi_pow_is_right_for_every_pair_of_short_exponents() -> None:
    pairs = np.array(list(itertools.product(range(-7, 8), repeat=2)), dtype=np.int64).T
    for bases in itertools.combinations(UNITS[::7], 2):
        got = kernels.multi_pow_var(TOY, [mpz(a) for a in bases], pairs, 3)
        assert got == toy_multi_pow(list(bases), pairs, 3)


@pytest.mark.parametrize("method", [kernels._straus_var, kernels._buckets_var])
@pytest.mark.parametrize("window", [1, 2, 3, 5])
def test_both_methods_of_simultaneous_powers_agree(method: Any, window: int) -> None:
    rng = np.random.default_rng(window)
    bases = [mpz(int(a)) for a in rng.choice(UNITS, 6)]
    digits = rng.integers(0, 1 << window, (4, 3, 6))
    exponents = [
        [sum(int(row[i]) << (window * (2 - r)) for r, row in enumerate(rows)) for i in range(6)]
        for rows in digits
    ]
    expected = [
        prod(pow(int(a), e, 77) for a, e in zip(bases, column, strict=True)) % 77
        for column in exponents
    ]
    assert method(TOY, bases, digits.tolist(), window) == expected


@pytest.mark.parametrize("bits", [1, 31, 61, 62])
def test_multi_pow_at_the_ends_of_the_exponent_range(bits: int) -> None:
    modulus = mpz(2) ** 127 - 1
    most = (1 << bits) - 1
    exponents = np.array([[most, -most, 0], [-most, most, -1]], dtype=np.int64)
    bases = [mpz(3), modulus - 2]
    got = kernels.multi_pow_var(modulus, bases, exponents, bits)
    n = int(modulus)
    assert got == [pow(3, a, n) * pow(n - 2, b, n) % n for a, b in exponents.T.tolist()]


def test_multi_pow_inverts_only_what_must_be() -> None:
    bases = [mpz(7), mpz(5)]  # 7 divides 77
    got = kernels.multi_pow_var(TOY, bases, np.array([[2, 0], [-1, -2]]), 2)
    assert got == [49 * pow(5, -1, 77) % 77, pow(5, -2, 77)]
    with pytest.raises(ZeroDivisionError):
        kernels.multi_pow_var(TOY, bases, np.array([[-1], [1]]), 2)


def test_more_bases_than_one_table_holds() -> None:
    rng = np.random.default_rng(3)
    bases = [mpz(int(a)) for a in rng.choice(UNITS, 1030)]
    exponents = rng.integers(-3, 4, (1030, 2))
    assert kernels.multi_pow_var(TOY, bases, exponents, 2) == toy_multi_pow(
        [int(a) for a in bases], exponents, 2
    )


def test_inverse_of_every_unit() -> None:
    inverses = kernels.inverse_var(TOY, [mpz(a) for a in UNITS])
    assert inverses == [pow(a, -1, 77) for a in UNITS]
    with pytest.raises(ZeroDivisionError):
        kernels.inverse_var(TOY, [mpz(2), mpz(11)])


def test_powers_with_zero_exponents() -> None:
    bases, exponents = [mpz(a) for a in range(77)], [mpz(a % 5) for a in range(77)]
    expected = [pow(a, a % 5, 77) for a in range(77)]
    assert kernels.pow_sec(TOY, bases, exponents) == expected
    assert kernels.pow_var(TOY, bases, exponents) == expected
    assert kernels.pow_sec(TOY, bases, [mpz(0)]) == [1] * 77


def test_line3_products_of_pow_fixed_depend_on_bits_alone(counted: type[Counted]) -> None:
    table = kernels.CombTable.build(counted(77), counted(2), 12, 4)
    counts = []
    for e in (0, 1, 0xFFF, 0x800, 0x5A5):
        counted.products = 0
        kernels.pow_fixed_var(table, limbs([e]))
        counts.append(counted.products)
    assert counts == [2] * 5


@pytest.mark.parametrize("shape", [(3, 2), (40, 1), (5, 30)])
def test_line3_products_of_multi_pow_depend_on_sizes_alone(
    counted: type[Counted], shape: tuple[int, int]
) -> None:
    bases = [counted(a) for a in (UNITS * 2)[: shape[0]]]
    rng = np.random.default_rng(0)
    counts = set()
    for exponents in (
        np.zeros(shape, dtype=np.int64),
        np.full(shape, 1023),
        np.full(shape, -1023),
        rng.integers(-1023, 1024, shape),
    ):
        counted.products = 0
        kernels.multi_pow_var(counted(77), bases, exponents, 10)
        counts.add(counted.products)
    assert len(counts) == 1


def test_buckets_are_chosen_where_tables_are_not_shared() -> None:
    assert kernels.multi_pow_plan(1000, 1, 50)[0]
    assert not kernels.multi_pow_plan(10, 1000, 50)[0]


def test_limbs_round_trip() -> None:
    values = [mpz(0), mpz(1), mpz(2) ** 64 - 1, mpz(2) ** 64, mpz(2) ** 192 - 1]
    rows = to_limbs(values, 3)
    assert rows.dtype == np.uint64
    assert rows.flags.c_contiguous
    assert rows[3].tolist() == [0, 1, 0]
    assert from_limbs(rows) == values
    assert from_limbs(to_limbs([], 3)) == []
