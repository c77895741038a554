"""Shares, their fixed point and their packing, without a peer."""

from __future__ import annotations

import secrets
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import residue
from residue_federated import Job, load_job
from residue_federated._jobs import validated
from residue_federated.errors import JobError
from residue_federated.shared import _rectify, _residuals
from residue_federated.shared._config import SharedConfig
from residue_federated.shared._exchange import MASK_BITS, Exchange, Keys, Slots
from residue_federated.shared._exponential import FACTOR_BITS
from residue_federated.shared._format import SLACK_BITS, gains, ring_of
from residue_federated.shared._rectify import Rectifier
from residue_federated.shared._ring import Integers, Ring, integers, shifted_right

EXAMPLE = Path(__file__).parents[2] / "examples" / "breast_shared_lr.yaml"


def shares_of(ring: Ring, values: Integers) -> tuple[Integers, Integers]:
    guest = integers([secrets.randbits(ring.bits) for _ in values])
    return guest, ring.reduced(values - guest)


def config(kind: str = "logistic", **changes: Any) -> SharedConfig:
    return SharedConfig.model_validate({"type": f"shared_{kind}_regression", **changes})


@pytest.mark.parametrize("bits", [64, 160, 224])
def test_words_keep_every_integer(bits: int) -> None:
    ring = Ring(bits)
    values = integers([0, 1, (1 << bits) - 1, 1 << 63, secrets.randbits(bits)])
    words = ring.words(values)
    assert (words.dtype, words.shape) == (np.dtype("<u4"), (5, bits // 32))
    assert ring.of_words(words).tolist() == values.tolist()


def test_centred_undoes_the_modulus() -> None:
    ring = Ring(96)
    values = integers([0, -1, 5, (1 << 95) - 1, -(1 << 95)])
    assert ring.centred(ring.reduced(values)).tolist() == values.tolist()


def test_product_is_exact_at_the_largest_features() -> None:
    ring = Ring(160)
    rng = np.random.default_rng(3)
    matrix = rng.integers(-(1 << 24), 1 << 24, (5, 300), dtype=np.int64, endpoint=True)
    matrix[0] = 1 << 24
    shares = integers([(1 << 160) - 1] * 100 + [secrets.randbits(160) for _ in range(200)])
    exact = ring.reduced(integers(matrix) @ shares)
    assert ring.product(matrix, shares).tolist() == exact.tolist()


@pytest.mark.parametrize("bits", [1, 16, 40])
def test_truncation_is_off_by_less_than_one(bits: int) -> None:
    ring = Ring(160)
    values = integers([s * secrets.randbits(90) for s in (1, -1) for _ in range(200)] + [0, 1, -1])
    guest, host = shares_of(ring, values)
    found = ring.truncated(guest, bits, lead=True) + ring.truncated(host, bits, lead=False)
    assert max(abs((found << bits) - values)) < 1 << bits
    whole = ring.over_integers(guest, lead=True) + ring.over_integers(host, lead=False)
    assert whole.tolist() == values.tolist()
    assert shifted_right(integers([-5]), 1, lead=True).tolist() == [-3]
    assert shifted_right(integers([-5]), 1, lead=False).tolist() == [-2]


@pytest.mark.parametrize("count", [1, 7, 8, 9])
def test_slots_carry_masked_numbers(count: int) -> None:
    slots = Slots.plan(count, 180, 1024)
    assert slots.used * slots.groups >= count
    assert slots.width * slots.used <= 1020
    assert slots.mask - slots.bits >= MASK_BITS
    values = integers([(-1) ** i * ((1 << 180) - 1 - i) for i in range(count)])
    masks = integers([(1 << slots.mask) - 1 - i for i in range(count)])
    slot = (values + masks + (1 << slots.bits))[slots.order]
    assert slots.unpacked(slots.places @ slot).tolist() == (values + masks).tolist()


def test_a_key_may_be_too_short() -> None:
    with pytest.raises(JobError, match="do not fit a 1024-bit key: use a longer key"):
        Slots.plan(3, 1000, 1024)


@pytest.mark.parametrize("rows", [2, 569, 100_000])
@pytest.mark.parametrize("kind", ["logistic", "linear", "poisson", "softmax"])
def test_gains_are_the_step_and_what_they_give_fits_the_ring(kind: str, rows: int) -> None:
    of = config(kind, optimiser={"learning_rate": 0.3, "momentum": 0.9}, l2=0.01)
    scale = gains(of, rows)
    slope = 0.25 if kind == "logistic" else 1.0
    unit = 2.0 ** (scale.shift - 2 * of.precision.feature_bits)
    assert scale.gradient / unit == pytest.approx(0.3 * slope / rows, rel=2**-16)
    assert scale.weight / 2**scale.shift == pytest.approx(0.003, rel=1e-4)
    assert scale.step / 2**scale.shift == pytest.approx(0.9)
    largest = 1 << of.precision.integer_bits
    gradient = rows * largest**2 << 2 * of.precision.feature_bits + of.precision.weight_bits
    weight = largest << of.precision.weight_bits
    total = gradient * scale.gradient + weight * (scale.weight + scale.step)
    assert total.bit_length() + 1 + SLACK_BITS <= ring_of(of, rows).bits


def test_the_sine_series_is_near_the_sigmoid_and_bounded_beyond() -> None:
    series = _residuals.sine_series()
    u = np.linspace(-24, 24, 1001)
    off = _residuals.sines(u) @ series - (1 / (1 + np.exp(-u)) - 0.5)
    assert np.abs(off).max() < 0.075
    assert np.sqrt(np.mean(off**2)) < 0.03
    assert np.abs(_residuals.sines(np.linspace(-200, 200, 9001)) @ series).max() < 0.6
    assert np.abs(series).max() < 1


class Alone(Exchange):
    """A side of an exchange that nobody is at the other end of."""

    def __init__(self, *, lead: bool) -> None:
        self.lead = lead


def test_masks_are_of_a_secret_and_a_message() -> None:
    """One party's, drawn anew after a resume; every other message, component or run has others."""

    def masks(tag: str, secret: bytes = bytes(32), path: str = "train") -> list[int]:
        alone = Alone(lead=True)
        alone.keys = SimpleNamespace(secret=secret)  # type: ignore[assignment]
        alone.line = SimpleNamespace(path=path)  # type: ignore[assignment]
        drawn: list[int] = alone.drawn(tag, 500, 7).tolist()
        assert max(drawn).bit_length() == 56
        assert len(set(drawn)) == 500
        return drawn

    first = masks("g/0/0")
    assert masks("g/0/0") == first
    others = [masks("g/0/1"), masks("z/0/0"), masks("g/0/0", bytes([1]) * 32)]
    for other in [*others, masks("g/0/0", path="again")]:
        assert not set(other) & set(first)
    ones = sum(mask.bit_count() for mask in first)
    assert abs(ones - 14_000) < 6 * 84  # six standard deviations of 28,000 fair bits


def test_factors_of_shared_predictors_give_exponentials() -> None:
    ring, fraction, prime = Ring(160), 32, _residuals._PRIME
    u = np.concatenate([np.linspace(-16, 6, 200), [0.0]])
    encoded = integers(np.rint(np.ldexp(u, fraction)).astype(np.int64))
    factors = [
        _residuals._Poisson(Alone(lead=lead), ring, fraction)._exponential.factors(shares)
        for lead, shares in zip((True, False), shares_of(ring, encoded), strict=True)
    ]
    product = (factors[0] * factors[1] % prime).astype(np.float64)
    unit = 2.0 ** (_residuals._LEAST + 2 * FACTOR_BITS)
    assert product / unit == pytest.approx(np.exp(u), rel=3e-4)


def test_means_that_are_too_large_do_not_pass_for_small_ones() -> None:
    """From ``2**72`` on means do not fit the prime: what is left is no mean below ``2**40``."""
    ring, fraction, prime = Ring(160), 32, _residuals._PRIME
    u = integers(np.rint(np.ldexp(np.linspace(50.5, 120, 300), fraction)).astype(np.int64))
    factors = [
        _residuals._Poisson(Alone(lead=lead), ring, fraction)._exponential.factors(shares)
        for lead, shares in zip((True, False), shares_of(ring, u), strict=True)
    ]
    left = factors[0] * factors[1] % prime >> _residuals._LEAST + 2 * FACTOR_BITS
    assert min(left.tolist()) >> 40


class Wire:
    """A line in memory between two parties; what each decrypts is kept by tag."""

    path = "train"

    def __init__(self) -> None:
        self.sent: Queue[residue.CiphertextArray] = Queue()
        self.other = self

    def send(self, _: str, __: str, c: residue.CiphertextArray) -> None:
        self.sent.put(c)

    def receive(self, *_: Any, **__: Any) -> list[residue.CiphertextArray]:
        return [self.other.sent.get(timeout=30)]

    def precompute(self, *_: Any) -> None:
        return None


def linked() -> tuple[Alone, Alone]:
    """Guest and host."""
    pairs = [residue.keygen(1024, insecure_allow_1024=True, device="cpu") for _ in "gh"]
    wires = [Wire(), Wire()]
    for at in (0, 1):
        wires[at].other = wires[1 - at]
    sides = []
    for at, lead in enumerate((True, False)):
        side = Alone(lead=lead)
        side.peer, side.key_bits = "peer", 1024
        side.line = wires[at]  # type: ignore[assignment]
        side.keys = Keys(*pairs[at], pairs[1 - at][0])
        sides.append(side)
    return sides[0], sides[1]


@pytest.mark.filterwarnings("ignore::residue.errors.InsecureKeyWarning")
def test_soft_thresholds_of_shares_are_exact_and_seen_by_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ring, bits, cut = Ring(96), 12, 100
    edges = [0, 1, -1, 99, 100, 101, -99, -100, -101, 3995, -3995]
    values = integers([*edges, *(secrets.randbelow(7990) - 3995 for _ in range(20)), *[5] * 30])
    seen: dict[str, Integers] = {}
    collect = Exchange.collect

    def watched(self: Exchange, tag: str, slots: Slots, ahead: int = 0) -> Integers:
        seen[tag] = collect(self, tag, slots, ahead)
        return seen[tag]

    monkeypatch.setattr(Exchange, "collect", watched)
    with ThreadPoolExecutor(2) as pool:
        found = sum(
            pool.map(
                lambda side, s: Rectifier(side, ring, bits).soft("0", s, cut),
                linked(),
                shares_of(ring, values),
            )
        )
    expected = [int(np.sign(v)) * max(abs(v) - cut, 0) for v in values.tolist()]
    assert ring.centred(ring.reduced(integers(found))).tolist() == expected
    # Modulo the prime the host sees one zero a comparison or none, at every place; of thirty equal
    # numbers under random shares about half; the rest are uniform, and masks of full size.
    rest = (seen["c/0"] % _rectify._PRIME).reshape(-1, bits + 1)
    zeros = (rest == 0).astype(np.int64)
    assert set(zeros.sum(axis=1)) == {0, 1}
    assert 3 <= zeros.sum(axis=1)[-30:].sum() <= 27
    assert (zeros.sum(axis=0) > 0).sum() > bits // 2
    counts = np.bincount(rest[rest > 0].astype(np.int64), minlength=_rectify._PRIME)[1:]
    expected_each = counts.sum() / len(counts)
    square = float(((counts - expected_each) ** 2).sum() / expected_each)
    assert abs(square - len(counts)) < 6 * np.sqrt(2 * len(counts))
    assert max(seen["c/0"]).bit_length() == 80


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"arbiter": {"name": "arbiter"}}, "is between a guest and one host: remove the arbiter"),
        (
            {"hosts": [{"name": n, "data": {"sklearn": "breast_cancer"}} for n in ("h0", "h1")]},
            "is between a guest and one host",
        ),
        (
            {"components": {"t": {"type": "shared_linear_regression", "activation": "sine"}}},
            "activation is for shared_logistic_regression",
        ),
        (
            {"components": {"t": {"type": "shared_linear_regression", "one_vs_rest": True}}},
            "one_vs_rest is for shared_logistic_regression",
        ),
        (
            {"components": {"t": {"type": "shared_softmax_regression", "one_vs_rest": True}}},
            "one_vs_rest is for shared_logistic_regression",
        ),
        (
            {
                "components": {
                    "t": {"type": "shared_softmax_regression", "precision": {"integer_bits": 7}}
                }
            },
            "shared_softmax_regression takes up to 6 precision.integer_bits",
        ),
        (
            {"components": {"t": {"type": "shared_linear_regression", "l1": 1e-5}}},
            "l1 times learning_rate is 1e-06: with this precision it can be from 3.8147e-06",
        ),
    ],
)
def test_jobs_that_cannot_be(change: dict[str, Any], fault: str) -> None:
    data = load_job(EXAMPLE).model_dump(mode="json")
    with pytest.raises(JobError, match=fault):
        validated(data | change, "job")
    assert isinstance(validated(data, "job"), Job)
