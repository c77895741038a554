from __future__ import annotations

import random
from functools import partial

import numpy as np
import pytest

from residue.paillier import slot_order
from residue_federated._slots import Slots, draw_masks
from residue_federated.errors import Diverged, JobError
from residue_federated.linear._config import Precision
from residue_federated.linear._fixed import (
    LOSS_BITS,
    encode_residual_share,
    loss_coefficients,
    quantise,
)

PRECISION = Precision()


@pytest.mark.parametrize("bits", [4, 8, 12, 24])
def test_quantised_columns_use_their_width(bits: int) -> None:
    x = np.random.default_rng(1).normal(size=(50, 3)) * [1e-3, 1.0, 1e6]
    quantised = quantise(x, bits)
    q = quantised.q[:]
    assert q.dtype == np.int64
    assert np.abs(q).max(axis=0).tolist() == [2 ** (bits - 1) - 1] * 3
    assert np.abs(q / quantised.scale - x).max(axis=0) == pytest.approx(
        0.5 / quantised.scale, rel=0.2
    )


def test_quantised_zeros() -> None:
    quantised = quantise(np.zeros((3, 1)), 8)
    assert quantised.q[:].tolist() == [[0], [0], [0]]
    assert quantised.scale.tolist() == [1.0]


def test_residual_share_is_exact_to_half_a_unit_and_bounded() -> None:
    share = np.array([0.1, -63.99, 1 / 3])
    encoded = encode_residual_share(share, PRECISION)
    assert np.abs(encoded / 2**PRECISION.residual_bits - share).max() <= 2**-17
    for bad in (64.0, -64.0, np.inf, np.nan):
        with pytest.raises(Diverged, match="integer_bits"):
            encode_residual_share(np.array([bad]), PRECISION)


def test_loss_coefficients() -> None:
    c = loss_coefficients(np.array([0.5, -2.0]), np.array([127.0, 4.0]))
    assert c.tolist() == [round(0.5 / 127 * 2**LOSS_BITS), -(2 ** (LOSS_BITS - 1))]
    with pytest.raises(Diverged):
        loss_coefficients(np.array([1e20]), np.array([1.0]))


@pytest.mark.parametrize("key_bits", [1024, 2048])
@pytest.mark.parametrize("gradients", [1, 4, 11, 20])
def test_slots_carry_the_largest_sums(key_bits: int, gradients: int) -> None:
    rows, parties = 569, 3
    slots = Slots.plan(
        PRECISION, key_bits=key_bits, rows=rows, magnitude=parties << 22, gradients=gradients
    )
    assert slots.count * slots.width <= key_bits - 136
    largest = rows * parties * 2 ** (16 + 6) * (2**11 - 1)
    rng = random.Random(gradients)
    values = [rng.choice([-largest, largest, rng.randint(-largest, largest)]) for _ in range(20)]
    values = values[:gradients]
    order = slot_order(gradients, slots.count)
    plaintexts = [
        sum(values[order[t, g]] << (slots.width * t) for t in range(len(order)))
        for g in range(slots.groups)
    ]
    assert slots.unpack(plaintexts) == values


def test_packing_gives_way_to_short_keys() -> None:
    precision = Precision(pack=16, feature_bits=24, residual_bits=32, integer_bits=16)
    slots = Slots.plan(precision, key_bits=1024, rows=10**6, magnitude=4 << 48, gradients=40)
    assert 1 < slots.count < 16
    assert slots.count * slots.groups >= 40


@pytest.mark.parametrize(("bits", "fits"), [(870, True), (900, False)])
def test_a_key_without_room_for_a_mask_is_refused(bits: int, fits: bool) -> None:
    asked = partial(Slots.plan, PRECISION, key_bits=1024, rows=2, gradients=1)
    if fits:
        assert asked(magnitude=1 << bits).count == 1
    else:
        with pytest.raises(JobError, match="and its mask do not fit a 1024-bit key"):
            asked(magnitude=1 << bits)


def test_masks_cover_the_plaintext_space_and_never_repeat() -> None:
    masks = draw_masks(64, 1024)
    assert len(set(masks)) == 64
    assert all(abs(mask) < 1 << 1020 for mask in masks)
    assert {mask > 0 for mask in masks} == {True, False}
    assert sum(abs(mask) >> 1017 > 0 for mask in masks) > 32
