"""Product identities: they accept what is right, find what is wrong, and know what they cannot."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Iterator
from typing import Any

import gmpy2
import numpy as np
import pytest
from gmpy2 import mpz
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from residue._limbs import to_limbs
from residue.backends import _card_checks as checks
from residue.backends._card import CardArray, CardBackend
from residue.backends._card_checks import Identity
from residue.card._abi import Opcode
from residue.errors import CorruptResult
from residue_sim.card_model import ModelBoard
from residue_sim.faulty_card import FaultyCard
from residue_sim.manifest import configurations, hw_root

P, Q = (int(gmpy2.next_prime(1 << 255)), int(gmpy2.next_prime(3 << 254)))
N = P * Q
COUNT = 200


class Rig:
    """A card that computes nonsense on request, all of its results checked."""

    def __init__(self, check_rate: float = 1.0) -> None:
        self.board = ModelBoard(configurations()["small"], card=FaultyCard)
        self.backend = CardBackend(self.board, check_rate=check_rate)
        self.modulus = self.backend.register(N)

    def up(self, values: list[int]) -> CardArray:
        array = self.backend.upload(self.modulus, limbs(values))
        self.backend.synchronize()  # which checks the transfer
        self.backend.reset_stats()
        return array

    def flip(self, *opcodes: Opcode) -> None:
        self.backend.synchronize()
        assert isinstance(self.board.card, FaultyCard)
        self.board.card.flip = set(opcodes)


def limbs(values: list[int], width: int = 8) -> NDArray[np.uint64]:
    return to_limbs([mpz(v) for v in values], width)


def units(n: int) -> list[int]:
    rng = random.Random(n)
    return [rng.randrange(2, N) for _ in range(n)]


EXPONENTS = limbs([random.Random(i).getrandbits(256) for i in range(COUNT)], 4)
SHORT = np.random.default_rng(1).integers(-99, 99, (4, COUNT))
INDEX = np.random.default_rng(2).integers(0, COUNT, 20 * COUNT)
OFFSETS = np.arange(0, 20 * COUNT + 1, 20)

Compute = Callable[[CardBackend, CardArray], CardArray]
BATCHES: dict[str, tuple[Opcode, Compute]] = {
    "pow_fixed": (
        Opcode.POW_FIXED,
        lambda b, a: b.pow_fixed(b.take(a, np.array([1])), EXPONENTS, 256),
    ),
    "pow": (Opcode.POW, lambda b, a: b.pow(a, EXPONENTS[:1], 256)),
    "prod": (Opcode.PROD, lambda b, a: b.prod(a, INDEX, OFFSETS)),
    "multi_pow": (
        Opcode.MULTI_POW,
        lambda b, a: b.multi_pow(b.take(a, np.arange(4)), SHORT, 7),
    ),
    "multi_pow_var": (
        Opcode.MUL,
        lambda b, a: b.multi_pow_var(b.take(a, np.arange(4)), SHORT, 7),
    ),
}


def test_the_documented_costs_are_those_of_the_code() -> None:
    page = (hw_root().parent / "docs" / "security.md").read_text(encoding="utf-8")
    rows = dict(
        re.findall(r"^\| `(\w+)`, .*? products \| ([\d,]+) products \|", page, re.MULTILINE)
    )
    bases: Any = range(200)  # only how many there are counts
    residues: Any = range(1000)
    index, offsets = np.zeros(20_000, np.int64), np.linspace(0, 20_000, 321, dtype=np.int64)
    costs = {
        "pow_fixed": checks.pow_fixed_identity(bases, np.zeros((1000, 8), np.uint64), 512, mpz(N)),
        "pow": checks.pow_identity(bases, mpz(1), 1024, mpz(N)),
        "prod": checks.prod_identity(residues, index, offsets, mpz(N)),
    }
    assert rows == {name: f"{identity.products:,}" for name, identity in costs.items()}


@pytest.mark.parametrize("name", BATCHES)
def test_a_batch_is_proved_for_less_than_it_costs(name: str) -> None:
    rig = Rig()
    _, compute = BATCHES[name]
    result = compute(rig.backend, rig.up(units(COUNT)))
    rig.backend.download(result)
    cost = rig.backend.stats()["check"]
    assert cost.elements == len(result)
    again = {"prod": 20}.get(name, 4 * 8 if "multi" in name else 256)
    assert cost.host_products < 0.8 * again * COUNT
    assert cost.products > 0  # the card's share: residues leave Montgomery form
    assert cost.host_seconds > 0


@pytest.mark.parametrize("name", BATCHES)
def test_one_wrong_result_of_a_batch_is_found(name: str) -> None:
    opcode, compute = BATCHES[name]
    rig = Rig()
    a = rig.up(units(COUNT))
    rig.flip(opcode)
    with pytest.raises(CorruptResult, match=name):
        rig.backend.download(compute(rig.backend, a))
    assert rig.backend.describe()["healthy"] is False


@pytest.mark.parametrize("name", ["pow", "prod"])
@pytest.mark.parametrize("faulty", [False, True])
def test_residues_without_inverse_are_computed_again(name: str, faulty: bool) -> None:
    """A product that is 0 proves nothing."""
    opcode, compute = BATCHES[name]
    rig = Rig()
    a = rig.up([*units(COUNT - 2), 0, P])
    if faulty:
        rig.flip(opcode)
        with pytest.raises(CorruptResult, match=name):
            rig.backend.download(compute(rig.backend, a))
    else:
        rig.backend.download(compute(rig.backend, a))
        assert rig.backend.stats()["check"].elements == COUNT


def test_products_are_computed_again_which_is_cheapest() -> None:
    rig = Rig(check_rate=0.5)
    a = rig.up(units(COUNT))
    rig.backend.mul(a, a)
    rig.backend.synchronize()
    assert 0 < rig.backend.stats()["check"].elements < COUNT


def test_few_results_of_many_are_computed_again() -> None:
    """A rate so small that the identity over all results costs more."""
    rig = Rig(check_rate=0.01)
    rig.backend._random = np.random.default_rng(3)
    a = rig.up(units(1))
    rig.backend.pow_fixed(a, EXPONENTS[:, :1] & np.uint64(15), 4)
    rig.backend.synchronize()
    assert 0 < rig.backend.stats()["check"].elements < 20


# --- the identities themselves ------------------------------------------------------------------


class Values:
    """Stands for an array where only its length counts."""

    def __init__(self, values: list[int]) -> None:
        self.values = values

    def __len__(self) -> int:
        return len(self.values)


def _holds(identity: Identity, results: list[int]) -> bool | None:
    proof = identity.make()
    picked = [[mpz(a.values[i]) for i in rows] for a, rows in proof.operands]  # type: ignore[attr-defined]
    return proof.holds([mpz(results[i]) for i in proof.rows], *picked)


def _cases(values: list[int], rng: random.Random) -> Iterator[tuple[Identity, list[int]]]:
    n, modulus = len(values), mpz(N)
    a: Any = Values(values)
    base: Any = Values(values[:1])
    es = [rng.getrandbits(100) for _ in range(n)]
    yield (
        checks.pow_fixed_identity(base, limbs(es, 2), 100, modulus),
        [pow(values[0], e, N) for e in es],
    )
    yield checks.pow_identity(a, mpz(es[0]), 100, modulus), [pow(x, es[0], N) for x in values]
    index = np.array([rng.randrange(n) for _ in range(3 * n)])
    offsets = np.array([0, 1, 1, 3 * n])
    segments = [index[:1], index[1:1], index[1:]]
    yield (
        checks.prod_identity(a, index, offsets, modulus),
        [math.prod(values[i] for i in s) % N for s in segments],
    )
    e = np.array([[rng.randrange(-9, 10) for _ in range(3)] for _ in range(n)])
    yield (
        checks.multi_pow_identity(a, e, 4, modulus),
        [math.prod(pow(x, int(y), N) for x, y in zip(values, c, strict=True)) % N for c in e.T],
    )


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(2, P - 1), min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_identities_hold_and_see_wrong_signs(values: list[int], rng: random.Random) -> None:
    """A wrong sign alone is always found: weights are odd. Other factors almost always."""
    for identity, results in _cases(values, rng):
        assert _holds(identity, results) is True
        wrong = rng.randrange(len(results))
        results[wrong] = N - results[wrong]
        assert _holds(identity, results) is False


def test_identities_see_wrong_factors() -> None:
    rng = random.Random(5)
    missed = 0
    for _ in range(20):
        for identity, results in _cases(units(6), rng):
            wrong = rng.randrange(len(results))
            results[wrong] = results[wrong] * rng.randrange(2, N) % N
            missed += _holds(identity, results) is not False
    assert missed == 0  # each one is missed with a probability of about 2**-15


def test_identities_cannot_tell_without_inverses() -> None:
    values = [0, 5, 7]
    a: Any = Values(values)
    cubes = [pow(x, 3, N) for x in values]
    assert _holds(checks.pow_identity(a, mpz(3), 2, mpz(N)), cubes) is None


@pytest.mark.parametrize("exponents", [[3, -2, 0], [0, 0, 0], [-7, -7, -7]])
def test_powers_with_signed_exponents(exponents: list[int]) -> None:
    bases = [mpz(v) for v in (3, 5, N - 2)]
    expected = math.prod(pow(int(b), e, N) for b, e in zip(bases, exponents, strict=True)) % N
    assert checks.multi_pow_sec(mpz(N), bases, exponents, 3) == expected


def test_powers_of_a_base_without_inverse() -> None:
    assert checks.multi_pow_sec(mpz(N), [mpz(P), mpz(3)], [2, -1], 3) == P * P * pow(3, -1, N) % N
