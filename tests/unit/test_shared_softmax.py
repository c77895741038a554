"""Reciprocals and softmax of shares, between two parties in memory, against exact numbers."""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import numpy as np
import pytest
from numpy.typing import NDArray

from residue_federated.linear._models import MOST_CLASSES, softmax
from residue_federated.shared._config import SharedPrecision
from residue_federated.shared._exchange import MASK_BITS, Exchange, Slots
from residue_federated.shared._exponential import FACTOR_BITS
from residue_federated.shared._format import SLACK_BITS, fraction_of
from residue_federated.shared._reciprocal import (
    ACCURACY_BITS,
    FRACTION,
    INVERSE_BITS,
    RING,
    Interval,
    Reciprocal,
    times,
)
from residue_federated.shared._ring import Integers, Ring, integers
from residue_federated.shared._softmax import Softmax, interval_of, levels_of, prime_of
from tests.unit.test_shared_ring import linked, shares_of

pytestmark = pytest.mark.filterwarnings("ignore::residue.errors.InsecureKeyWarning")

ONE = 1 << FRACTION


def together(
    call: Callable[[Exchange, Integers], Integers], ring: Ring, values: Integers
) -> Integers:
    """What both parties' results of `call` on shares of `values` add up to, in that ring."""
    sides, shares = linked(), shares_of(ring, values.ravel())
    with ThreadPoolExecutor(2) as pool:
        found = pool.map(lambda side, s: call(side, s.reshape(values.shape)), sides, shares)
        guest, host = found
        return ring.centred(guest + host)


@pytest.mark.parametrize("classes", [2, 3, 4, 10, 64, MOST_CLASSES])
def test_the_line_leaves_no_more_error_than_the_rounds_square_away(classes: int) -> None:
    interval = interval_of(classes)
    assert interval.high <= 2**interval.shift < 2 * interval.high
    a, b = (Fraction(c, ONE) for c in interval.line)
    ends = [interval.low, interval.high]
    middle = (interval.low + interval.high) / 2
    t = [s / 2**interval.shift for s in (*ends, middle)]
    errors = [abs(1 - a * x + b * x * x) for x in t]
    assert max(errors) - min(errors) < 2**-20  # the least possible: as far off in all three
    assert max(errors) ** 2**interval.rounds < 2**-ACCURACY_BITS
    assert max(errors) ** 2 ** (interval.rounds - 1) > 2**-ACCURACY_BITS
    largest = max(a * ONE**2, b * t[1] * ONE**2, interval.high * ONE)
    assert largest <= 2 ** (RING.bits - SLACK_BITS)


@pytest.mark.parametrize(
    "interval",
    [
        interval_of(2),
        interval_of(3),
        interval_of(10),
        Interval(Fraction(1, 4), Fraction(1, 2)),
        pytest.param(interval_of(MOST_CLASSES), id="most classes"),
    ],
)
def test_reciprocals_are_those_of_exact_integers(interval: Interval) -> None:
    """Smallest, largest, powers of two and their neighbours, and numbers at random."""
    low, high = math.ceil(interval.low * ONE), math.floor(interval.high * ONE)
    near = [(1 << k) + more for k in range(26, 42) for more in (-1, 0, 1)]
    edges = [low, low + 1, high - 1, high, *(s for s in near if low <= s <= high)]
    sums = integers([*edges, *(low + secrets.randbelow(high - low) for _ in range(30))])
    found = together(lambda side, s: Reciprocal(side, interval)("0/0", s), RING, sums)
    exact = (1 << FRACTION + INVERSE_BITS) // sums
    off = [Fraction(abs(a - b), b) for a, b in zip(found.tolist(), exact.tolist(), strict=True)]
    assert float(max(off)) < 2 * 2**-ACCURACY_BITS
    assert found.min() > 0


def test_products_of_shares_are_exact() -> None:
    values = integers([[3, -5, 1 << 60], [0, -(1 << 40), 7], [1, -1, 1 << 30]])
    found = together(lambda side, s: times(side, "q/0/0", s[:2], s[2]), RING, values)
    assert found.tolist() == (values[:2] * values[2]).tolist()


def encoded(u: NDArray[np.float64], fraction: int) -> Integers:
    return integers(np.rint(np.ldexp(u, fraction)).astype(np.int64))


@pytest.mark.parametrize(
    ("classes", "precision"),
    [
        (2, SharedPrecision(integer_bits=2)),
        (3, SharedPrecision()),
        (5, SharedPrecision(integer_bits=4, feature_bits=4, weight_bits=16)),
        (7, SharedPrecision(feature_bits=12, weight_bits=32)),
    ],
)
def test_probabilities_of_shared_scores(classes: int, precision: SharedPrecision) -> None:
    """At random, all equal, and as far apart as they may be, the highest in every place."""
    ring, fraction = Ring(160), fraction_of(precision)
    rng, most = np.random.default_rng(4), 2.0**precision.integer_bits - 0.25
    u = np.clip(rng.normal(0, most / 3, (classes, 20)), -most, most)
    u[:, 0], u[:, 1], u[:, 2] = 0.0, most, -most
    far = np.full((classes, classes), -most)
    np.fill_diagonal(far, most)
    u = np.concatenate([u, far, far + np.where(far < 0, 0.125, 0)], axis=1)
    found = together(
        lambda side, s: Softmax(side, ring, precision)("0/0", s, None), ring, encoded(u, fraction)
    )
    p = np.ldexp(found.astype(np.float64), -fraction)
    assert p == pytest.approx(softmax(u.T).T, rel=6e-4, abs=2**-14)
    assert p.sum(axis=0) == pytest.approx(1.0, abs=2**-ACCURACY_BITS + 2**-16)


@pytest.mark.parametrize("bits", [2, 6])
def test_scores_too_far_apart_give_no_probabilities(bits: int) -> None:
    """But, unless they happen to be right, numbers far outside every range that is checked when
    weights are opened.
    """
    precision, ring = SharedPrecision(integer_bits=bits), Ring(160)
    spread = 2.0 ** (bits + 1) * np.array([1.1, 1.5, 2.0, 2.1, 3.0, 3.9, 4.1, 5.0, 8.1, 100.0])
    u = np.concatenate(
        [np.stack([spread * a, spread * (a - 1), spread * b]) for a in (0.5, 0, 1) for b in (0, a)],
        axis=1,
    )
    found = together(
        lambda side, s: Softmax(side, ring, precision)("0/0", s, None),
        ring,
        encoded(u, fraction_of(precision)),
    )
    noticed = abs(found).max(axis=0) > 1 << 60
    p = np.ldexp(found.astype(np.float64), -fraction_of(precision))
    right = np.isclose(p, softmax(u.T).T, rtol=0, atol=2**-11).all(axis=0)  # by chance
    assert bool(np.all(noticed | right))
    assert np.mean(noticed) > 0.8


def test_the_guest_takes_its_label_off() -> None:
    """Its share and no other; the host's call has none."""
    precision, ring = SharedPrecision(), Ring(160)
    label = np.array([2.0, 0.0, 1.0, 2.0])
    zeros = integers(np.zeros((3, 4), np.int64))
    found = together(
        lambda side, s: Softmax(side, ring, precision)("0/0", s, label if side.lead else None),
        ring,
        zeros,
    )
    d = np.ldexp(found.astype(np.float64), -fraction_of(precision))
    expected = 1 / 3 - (label == np.arange(3)[:, None])
    assert d == pytest.approx(expected, abs=2**-ACCURACY_BITS)


@pytest.mark.parametrize("bits", range(2, 7))
def test_exponentials_fit_their_prime_with_slack(bits: int) -> None:
    prime = prime_of(SharedPrecision(integer_bits=bits))
    spread = (2 ** (bits + 1) + 0.25) * math.log2(math.e)
    assert prime.bit_length() > spread + 2 + 2 * FACTOR_BITS + 0.25 + SLACK_BITS
    assert prime_of(SharedPrecision(integer_bits=bits)) == prime
    Slots.plan(1, 2 * prime.bit_length(), 1024)


def test_what_is_decrypted_is_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thirty rows of the same scores: nothing that the host decrypts is the same twice."""
    seen: dict[str, Integers] = {}
    widths: dict[str, Slots] = {}
    collect = Exchange.collect

    def watched(self: Exchange, tag: str, slots: Slots, ahead: int = 0) -> Integers:
        seen[tag], widths[tag] = collect(self, tag, slots, ahead), slots
        return seen[tag]

    monkeypatch.setattr(Exchange, "collect", watched)
    precision, ring, rows = SharedPrecision(), Ring(160), 30
    u = encoded(np.outer([1.0, 1.5, -2.0], np.ones(rows)), fraction_of(precision))
    together(lambda side, s: Softmax(side, ring, precision)("0/0", s, None), ring, u)
    rounds = [f"r/0/0/{k}" for k in range(interval_of(3).rounds)]
    compared = [f"{kind}/0/0/{k}" for k in range(levels_of(3)) for kind in "cm"]
    assert list(seen) == [*compared, "p/0/0", "s/0/0", *rounds, "q/0/0"]
    for tag, values in seen.items():
        slots = widths[tag]
        assert slots.mask >= slots.bits + MASK_BITS
        assert len(set(values.tolist())) == len(values) >= rows
        high = (values + (1 << slots.bits)) >> (slots.mask - 2)
        assert set(high.tolist()) == {0, 1, 2, 3}, tag
