"""Reciprocals of encrypted sums: what comes out, and what the arbiter sees."""

from __future__ import annotations

import math
import secrets
import warnings
from fractions import Fraction

import numpy as np
import pytest

import residue
from residue.errors import InsecureKeyWarning
from residue_federated.errors import Diverged, JobError
from residue_federated.linear._blinding import (
    EXACT,
    LOG_BITS,
    LOW,
    Blind,
    Blinding,
    log_sum,
    total_loss,
)
from residue_federated.linear._config import LinearConfig
from residue_federated.linear._schemes import ResidualFormat

SMALL = Blinding(fraction=32, sum_bits=60, later_bits=120, spread=128)
SUMS = [3 << 32, (3 << 32) + 1, 10**12, (1 << 60) - 1, 1 << 24]


def test_reciprocals_do_not_depend_on_what_hides_the_sums() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InsecureKeyWarning)
        public, secret = residue.keygen(1024, insecure_allow_1024=True, device="cpu")
    found = []
    for _ in range(2):
        blind = Blind(SMALL, len(SUMS))
        hidden = secret.decrypt(blind.hide(public.encrypt(SUMS)), dtype=object).tolist()
        assert SMALL.fits(hidden)
        inverse = blind.reveal(secret.encrypt(SMALL.reciprocals(hidden)))
        found.append(secret.decrypt(inverse, dtype=object).tolist())
        assert log_sum(hidden) - blind.log_sum == pytest.approx(log_sum(SUMS), abs=1 << 16)
    for total, one, other in zip(SUMS, *found, strict=True):
        exact = Fraction(1 << SMALL.shift, total)
        for value in (one, other):
            assert abs(value / exact - 1) < Fraction(3, 1 << EXACT)
    assert found[0] != found[1]


def test_announced_sizes_tell_nothing_of_what_hides_the_sums() -> None:
    """That of the largest product, in steps of 32 bits, would narrow down its factor."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InsecureKeyWarning)
        public, _ = residue.keygen(1024, insecure_allow_1024=True, device="cpu")
    sums = public.encrypt([SUMS[0]])
    for step in (Blind.hide, Blind.reveal):
        found = {step(Blind(SMALL, 1), sums).bound.bit_length() for _ in range(20)}
        assert len(found) == 1


def test_every_octave_of_the_range_hides_as_often_as_another() -> None:
    blind = Blind(SMALL, 4000)
    octaves = np.array([int(rho).bit_length() - 1 - SMALL.lowest for rho in blind._factors])
    assert (octaves.min(), octaves.max()) == (0, SMALL.spread - 1)
    counts = np.bincount(octaves // 16, minlength=8)
    assert counts.min() > 400  # of 500 expected, four deviations of 21 off
    assert sorted(blind._order.tolist()) == list(range(4000))
    assert blind._order.tolist() != list(range(4000))


def test_what_hides_a_sum_leaves_no_multiple_of_it() -> None:
    """N modulo S is uniform: its mean over many is half of S."""
    total = 3 << 32
    factors = Blind(SMALL, 2000)._factors
    rests = [secrets.randbelow(int(rho) >> EXACT) % total for rho in factors]
    assert np.mean(rests) / total == pytest.approx(0.5, abs=0.04)
    assert min(int(rho) >> EXACT for rho in factors) >= total << 30


def test_sums_out_of_range_are_told_apart() -> None:
    assert not SMALL.fits([1 << SMALL.most_bits])
    assert not SMALL.fits([-1])
    least = 1 << (SMALL.lowest + SMALL.fraction - LOW)
    assert SMALL.reciprocals([least])[0] == 1 << (SMALL.shift - least.bit_length() + 1)
    for value in (0, least - 1):
        with pytest.raises(Diverged, match="contradict each other"):
            SMALL.reciprocals([least, value])


@pytest.mark.parametrize("parties", [2, 3, 6])
@pytest.mark.parametrize("bits", [1024, 2048])
def test_everything_fits_the_key(parties: int, bits: int) -> None:
    config = LinearConfig(type="softmax_regression")
    form = ResidualFormat.of(config, parties, bits)
    assert form.blinding is not None
    assert 64 <= form.blinding.spread <= 256
    assert form.blinding.bound_bits <= bits - 8
    assert form.blinding.most_bits < bits - 8
    kept, unit = form.kept([5 << form.dropped, -(7 << form.dropped) + 1])
    assert kept == [5, -7]
    assert unit == 2.0**-28


def test_a_key_that_is_too_short_is_an_error() -> None:
    with pytest.raises(JobError, match="a key of 1024 bits is too short"):
        ResidualFormat.of(LinearConfig(type="softmax_regression"), 8, 1024)


def test_logarithms_add_up() -> None:
    values = [3, 10**30, 1 << 700]
    expected = math.log(3) + 30 * math.log(10) + 700 * math.log(2)
    assert log_sum(values) / 2**LOG_BITS == pytest.approx(expected, rel=1e-15)
    assert total_loss(log_sum(values)) == pytest.approx(expected, abs=2**-40)
    assert total_loss(5 << 60) == total_loss((5 << 60) + 1000) == 5 * 2.0**-40
