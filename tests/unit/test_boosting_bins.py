"""Quantile bins of columns."""

from __future__ import annotations

import numpy as np
import pytest

from residue_federated.boosting._bins import MAX_BINS, Cuts


@pytest.mark.parametrize("bins", [2, 7, 32, MAX_BINS])
@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_bins_are_what_thresholds_say(bins: int, missing: float) -> None:
    rng = np.random.default_rng(11)
    x = np.stack(
        [rng.normal(size=500), rng.integers(0, 5, 500), rng.exponential(size=500), np.full(500, 2)],
        axis=1,
    )
    x[rng.random(x.shape) < missing] = np.nan
    cuts = Cuts.of(x, bins)
    binned = cuts.apply(x)
    assert binned.columns.dtype == np.uint8
    assert binned.width == bins + 1
    for j, column in enumerate(x.T):
        known = ~np.isnan(column)
        assert (binned.columns[j][~known] == bins).all()
        assert binned.columns[j][known].max() < bins
        for b in range(bins):
            left = column[known] <= cuts.threshold(j, b)
            assert (left == (binned.columns[j][known] <= b)).all()


def test_bins_are_filled_alike() -> None:
    x = np.random.default_rng(11).lognormal(size=(3200, 1))
    counts = np.bincount(Cuts.of(x, 32).apply(x).columns[0])
    assert counts.tolist() == [100] * 32


@pytest.mark.parametrize("bins", [5, 6, 200])
def test_few_values_have_a_bin_each(bins: int) -> None:
    x = np.array([[3.0], [1.0], [1.0], [7.5], [np.nan], [2.0], [-4.0]])
    cuts = Cuts.of(x, bins)
    assert cuts.cuts[0].tolist() == [-1.5, 1.5, 2.5, 5.25]
    assert cuts.apply(x).columns[0].tolist() == [3, 1, 1, 4, bins, 2, 0]


def test_values_that_fill_many_bins_are_cut_once() -> None:
    x = np.concatenate([np.zeros(90), np.arange(1.0, 11.0)])[:, None]
    cuts = Cuts.of(x, 8)
    (column,) = cuts.cuts
    assert (np.diff(column) > 0).all()
    assert column[0] == 0.0
    assert np.bincount(cuts.apply(x).columns[0])[0] == 90


def test_columns_that_cannot_be_split() -> None:
    cuts = Cuts.of(np.array([[1.0, np.nan], [1.0, np.nan]]), 4)
    assert [len(c) for c in cuts.cuts] == [0, 0]
    assert cuts.apply(np.array([[9.0, 1.0]])).columns.tolist() == [[0], [0]]
    assert 1e300 < cuts.threshold(0, 3) < np.inf


def test_neighbouring_floats_stay_apart() -> None:
    value = 1.0
    x = np.array([[value], [np.nextafter(value, 2)], [np.nextafter(value, 0)]])
    assert sorted(Cuts.of(x, 8).apply(x).columns[0].tolist()) == [0, 1, 2]
