"""The generated credit-like data: the same at every party, and worth training on."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from residue_federated._generated import POSITIVES, Generated, credit


def joined(rows: int, columns: int = 50, seed: int = 0, hosts: int = 1) -> list[Generated]:
    """Every host's part, then the guest's."""
    return [
        credit(rows, columns, seed, 0.02, hosts=hosts, host=host) for host in (*range(hosts), None)
    ]


def test_the_same_at_every_party_and_every_time() -> None:
    host, guest = joined(1000)
    *parts, again = joined(1000, hosts=3)
    assert [len(part.names) for part in parts] == [14, 13, 13]
    np.testing.assert_array_equal(np.hstack([part.x for part in parts]), host.x)
    assert [name for part in parts for name in part.names] == host.names
    np.testing.assert_array_equal(again.x, guest.x)
    assert again.y is not None
    assert guest.y is not None
    np.testing.assert_array_equal(again.y, guest.y)
    assert all(part.y is None for part in (host, *parts))
    assert host.ids == guest.ids == sorted(set(guest.ids))
    assert host.x.shape == (1000, 40)
    assert guest.x.shape == (1000, 10)
    assert host.x.flags.c_contiguous


def test_another_seed_gives_other_data() -> None:
    (host, guest), (other_host, other_guest) = joined(500), joined(500, seed=1)
    assert not np.array_equal(host.x, other_host.x, equal_nan=True)
    assert guest.y is not None
    assert other_guest.y is not None
    assert not np.array_equal(guest.y, other_guest.y)


def test_missing_values_and_positives() -> None:
    host, guest = joined(20_000)
    share = np.isnan(np.hstack([host.x, guest.x])).mean(axis=0)
    assert np.all(np.abs(share - 0.02) < 0.006)  # six deviations of a binomial
    assert guest.y is not None
    assert set(np.unique(guest.y)) == {0.0, 1.0}
    assert guest.y.mean() == POSITIVES
    # Which values are missing changes no value.
    whole = credit(20_000, 50, 0, 0.0, hosts=1, host=0).x
    assert np.isfinite(whole).all()
    np.testing.assert_array_equal(np.where(np.isnan(host.x), np.nan, whole), host.x)


def test_kinds_of_columns() -> None:
    x = credit(5000, 50, 0, 0.0, hosts=1, host=0).x
    normal, amount, count, share, linked = x[:, :5].T
    skewness = [float(np.mean(((c - c.mean()) / c.std()) ** 3)) for c in x[:, :4].T]
    assert abs(skewness[0]) < 0.2
    assert min(skewness[1:]) > 0.5
    assert amount.min() > 0
    assert np.array_equal(count, np.floor(count))
    assert 3 < len(np.unique(count)) < 60
    assert 0 < share.min() < share.max() < 1
    assert np.corrcoef(np.log(share / (1 - share)), linked)[0, 1] > 0.85
    guest = credit(5000, 50, 0, 0.0, hosts=1, host=None).x
    between = np.corrcoef(normal, guest[:, 2])[0, 1]  # columns 0 and 42 share no factor
    assert abs(between) < 0.1
    within = np.corrcoef(normal, guest[:, 0])[0, 1]  # 0 and 40 do
    assert 0.15 < within < 0.35


@pytest.mark.full
def test_trees_beat_a_linear_model_on_a_signal_that_both_find() -> None:
    host, guest = joined(10_000)
    assert guest.y is not None
    x, y, half = np.hstack([host.x, guest.x]), guest.y, 5000
    linear = make_pipeline(SimpleImputer(), StandardScaler(), LogisticRegression())
    trees = HistGradientBoostingClassifier(
        max_iter=30, learning_rate=0.2, max_leaf_nodes=15, random_state=0
    )
    scores = {}
    for name, model, columns in (
        ("linear", linear, slice(None)),
        ("trees", trees, slice(None)),
        ("alone", linear, slice(40, None)),
    ):
        with threadpool_limits(1):  # small trees: threads cost more than they bring
            model.fit(x[:half, columns], y[:half])
        scores[name] = roc_auc_score(y[half:], model.predict_proba(x[half:, columns])[:, 1])
    assert 0.7 < scores["linear"] < 0.95
    assert scores["trees"] > scores["linear"] + 0.02
    assert scores["alone"] < scores["linear"] - 0.1  # what the host adds


@pytest.mark.parametrize(
    ("rows", "columns", "seed", "missing", "hosts", "host"),
    [
        (1, 50, 0, 0.0, 1, 0),
        (10, 4, 0, 0.0, 1, 0),
        (10, 50, -1, 0.0, 1, 0),
        (10, 50, 0, 1.0, 1, 0),
        (10, 50, 0, 0.0, 41, 0),
        (10, 50, 0, 0.0, 2, 2),
    ],
)
def test_arguments_out_of_range(
    rows: int, columns: int, seed: int, missing: float, hosts: int, host: int
) -> None:
    with pytest.raises(ValueError, match="out of range"):
        credit(rows, columns, seed, missing, hosts=hosts, host=host)
