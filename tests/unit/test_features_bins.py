"""Quantile bins, WOE and IV in the clear."""

from __future__ import annotations

import numpy as np
import pytest

from residue_federated.features._bins import ADJUSTMENT, Bins, Evidence


def test_bins_hold_about_equally_many_rows_and_none_is_empty() -> None:
    rng = np.random.default_rng(0)
    x = np.stack([rng.normal(size=1000), rng.poisson(1, 1000), np.full(1000, 7.0)], axis=1)
    x[::10, 0] = np.nan
    bins = Bins.of(x, 8)
    assert bins.sizes[0] == 9
    assert bins.sizes[2] == 1
    assert bins.missing.tolist() == [True, False, False]
    codes = bins.codes(x)
    counts = np.bincount(codes.ravel(), minlength=bins.starts[-1])
    assert counts.min() > 0
    assert counts.size == bins.starts[-1]
    assert np.abs(counts[:8] - 900 / 8).max() <= 1
    assert counts[8] == 100  # missing
    assert np.all(codes[::10, 0] == 8)


def test_edges_belong_to_the_lower_bin_also_for_unseen_values() -> None:
    x = np.array([[1.0], [2.0], [3.0], [4.0]])
    bins = Bins.of(x, 2)
    assert bins.cuts[0].tolist() == [2.0]
    assert bins.codes(np.array([[-9.0], [2.0], [2.1], [99.0], [np.nan]])).ravel().tolist() == [
        0, 0, 1, 1, -1,
    ]  # fmt: skip


def test_a_dominant_value_has_one_bin() -> None:
    x = np.r_[np.zeros(90), np.arange(1, 11)][:, None]
    bins = Bins.of(x, 10)
    assert bins.cuts[0].tolist() == [0.0]
    assert np.bincount(bins.codes(x).ravel()).tolist() == [90, 10]


def test_woe_and_iv_follow_their_definitions() -> None:
    rng = np.random.default_rng(1)
    y = rng.random(500) < 0.3
    codes = np.stack([rng.integers(0, 3, 500), 3 + (rng.random(500) < 0.2 + 0.5 * y)], axis=1)
    counts = np.bincount(codes.ravel(), minlength=5)
    positives = np.bincount(codes[y].ravel(), minlength=5)
    found = Evidence.of(positives, counts, np.array([3, 2]), (int(y.sum()), int((~y).sum())))
    for b in range(5):
        p = (codes[y] == b).sum() / y.sum()
        q = (codes[~y] == b).sum() / (~y).sum()
        assert found.woe[b] == pytest.approx(np.log(p / q))
    p, q = positives / y.sum(), (counts - positives) / (~y).sum()
    assert found.iv[0] == pytest.approx(((p - q) * np.log(p / q))[:3].sum())
    assert found.iv[1] == pytest.approx(((p - q) * np.log(p / q))[3:].sum())
    assert found.iv[1] > found.iv[0] >= 0


def test_a_pure_bin_has_a_finite_woe() -> None:
    found = Evidence.of(np.array([4, 0]), np.array([4, 6]), np.array([2]), (4, 6))
    up = np.log(((4 + ADJUSTMENT) / 4) / (ADJUSTMENT / 6))
    assert found.woe[0] == pytest.approx(up)
    assert np.isfinite(found.iv).all()
