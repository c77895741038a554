from __future__ import annotations

import numpy as np
import pytest

from residue_federated.horizontal._quantise import (
    WIDE_LIMIT,
    FixedPoint,
    decode_wide,
    encode_wide,
    wide_integers,
)


@pytest.mark.parametrize("bits", [8, 16, 24, 32])
def test_sums_of_updates_err_by_half_a_step_a_client(bits: int) -> None:
    fixed, clients = FixedPoint(bits, clip=0.25), 5
    updates = np.random.default_rng(bits).uniform(-0.25, 0.25, size=(clients, 200))
    encoded = [fixed.encode(update) for update in updates]
    assert all(cut == 0 for _, cut in encoded)
    q = np.array([q for q, _ in encoded])
    assert np.abs(q).max() <= fixed.limit
    error = np.abs(fixed.decode(q.sum(axis=0)) - updates.sum(axis=0)).max()
    assert error <= clients * 0.25 / fixed.limit / 2 * 1.001


def test_what_exceeds_the_clip_is_cut_and_counted() -> None:
    fixed = FixedPoint(8, clip=1.0)
    q, cut = fixed.encode(np.array([-5.0, -1.0, 0.0, 1.0, 1.5]))
    assert (q.tolist(), cut) == ([-127, -127, 0, 127, 127], 2)
    assert fixed.decode(q).tolist() == [-1.0, -1.0, 0.0, 1.0, 1.0]


@pytest.mark.parametrize("bits", [8, 9, 24, 32])
def test_wide_numbers_add_exactly(bits: int) -> None:
    rng = np.random.default_rng(bits)
    x = rng.integers(-(2**52), 2**52, size=(6, 50)) * 2.0 ** rng.integers(-64, 9, size=(6, 50))
    encoded = np.array([encode_wide(row, bits) for row in x])
    assert encoded.shape == (6, 50 * wide_integers(bits))
    assert encoded.min() >= -(2 ** (bits - 1))
    assert encoded.max() < 2 ** (bits - 1)
    exact = [sum(int(v * 2**64) for v in column.tolist()) / 2**64 for column in x.T]
    assert decode_wide(encoded.sum(axis=0), bits).tolist() == exact


@pytest.mark.parametrize("value", [WIDE_LIMIT, -WIDE_LIMIT, np.inf, np.nan])
def test_numbers_that_are_too_wide_are_refused(value: float) -> None:
    edge = np.array([np.nextafter(WIDE_LIMIT, 0), -np.nextafter(WIDE_LIMIT, 0)])
    assert decode_wide(encode_wide(edge, 8), 8).tolist() == edge.tolist()
    with pytest.raises(OverflowError, match="not below"):
        encode_wide(np.array([0.0, value]), 8)
