"""Objectives, samples, splits and trees; the twin against a tree grown by brute force."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

from residue_federated.boosting import _tree
from residue_federated.boosting._bins import Cuts
from residue_federated.boosting._booster import Booster, columns_of
from residue_federated.boosting._config import SecureBoostConfig
from residue_federated.boosting._histogram import Histogram, Members, plain
from residue_federated.boosting._objective import objective
from residue_federated.boosting._packing import Quantised, quantise
from residue_federated.boosting._tree import (
    LEAF,
    Frontier,
    Local,
    Records,
    Rule,
    Tree,
    best_splits,
    grow,
)
from residue_federated.errors import DataError, ProtocolError

Floats = NDArray[np.float64]

RULE = Rule(3, 0.5, 1.0, 0.0, 0.1, 2)


def config_of(**changes: Any) -> SecureBoostConfig:
    return SecureBoostConfig.model_validate({"type": "secureboost"} | changes)


# --- objectives ---------------------------------------------------------------------------------

LABELS = {
    "binary": np.arange(40) % 3 // 2 * 1.0,
    "multiclass": np.arange(40) % 7 % 4 * 1.0,
    "squared_error": np.sin(np.arange(40)),
}


@pytest.mark.parametrize("name", LABELS)
def test_gradients_are_derivatives_of_the_loss(name: str) -> None:
    loss, y = objective(name, LABELS[name])
    scores = np.random.default_rng(13).normal(size=(40, loss.outputs))
    g, h = loss.gradients(y, scores)
    step = 1e-4
    for i, k in np.ndindex(4, loss.outputs):
        moved = [scores.copy() for _ in range(3)]
        moved[0][i, k] -= step
        moved[2][i, k] += step
        low, middle, high = (40 * loss.loss(y, each) for each in moved)
        assert g[i, k] == pytest.approx((high - low) / 2 / step, abs=1e-5)
        curvature = (high - 2 * middle + low) / step**2
        assert h[i, k] == pytest.approx(curvature * (2 if name == "multiclass" else 1), abs=1e-3)


@pytest.mark.parametrize("name", LABELS)
def test_scores_start_at_the_best_constant(name: str) -> None:
    loss, y = objective(name, LABELS[name])
    g, _ = loss.gradients(y, np.tile(loss.start(y), (40, 1)))
    assert g.sum(axis=0) == pytest.approx(np.zeros(loss.outputs), abs=1e-9)


@pytest.mark.parametrize(
    ("name", "y"),
    [
        ("binary", [0.0, 2.0]),
        ("binary", [1.0, 1.0]),
        ("binary", [0.0, 1.0, -1.0]),
        ("multiclass", [1.0, 2.0]),
        ("multiclass", [0.0, 1.5]),
        ("multiclass", [0.0, 0.0]),
    ],
)
def test_labels_that_are_refused(name: str, y: list[float]) -> None:
    with pytest.raises(DataError, match="labels must be two classes"):
        objective(name, np.array(y))


def test_labels_of_either_coding() -> None:
    assert objective("binary", np.array([-1.0, 1.0]))[1].tolist() == [0, 1]


def test_a_class_without_rows_to_train_on_has_a_finite_score() -> None:
    for name, y in (("binary", [0.0, 1.0]), ("multiclass", [0.0, 1.0, 2.0])):
        loss, coded = objective(name, np.array(y))
        assert np.isfinite(loss.start(coded[:1])).all()


# --- splits -------------------------------------------------------------------------------------


def make(
    rows: int, columns: int, outputs: int = 1, seed: int = 13
) -> tuple[Floats, Cuts, Quantised]:
    rng = np.random.default_rng(seed)
    x = np.round(rng.normal(size=(rows, columns)), 1)
    x[rng.random(x.shape) < 0.15] = np.nan
    g, h = rng.normal(size=(outputs, rows)), rng.random((outputs, rows))
    return x, Cuts.of(x, 6), quantise(g, h, 24)


def local_of(x: Floats, cuts: Cuts, index: int = 0) -> tuple[Local, Records]:
    records = Records()
    names = [f"{index}.{j}" for j in range(x.shape[1])]
    return Local(index, f"p{index}", cuts.apply(x), cuts, names, records), records


def score(q: Quantised, rows: NDArray[np.bool_], rule: Rule) -> float:
    g = float(np.ldexp(float(q.g[0, rows].sum()), -q.g_shift))
    h = float(np.ldexp(float(q.h[0, rows].sum()), -q.h_shift))
    return g * g / (h + rule.reg_lambda)


def brute_force(
    x: Floats, cuts: Cuts, q: Quantised, inside: NDArray[np.bool_], rule: Rule
) -> tuple[float, tuple[int, float, bool] | None]:
    """The best gain, and the first (column, threshold, missing left) that has it."""
    best: tuple[float, tuple[int, float, bool] | None] = (-np.inf, None)
    for column in range(x.shape[1]):
        values = x[:, column]
        for threshold in [*cuts.cuts[column], np.inf]:
            for missing_left in (False, True):
                left = inside & np.where(np.isnan(values), missing_left, values <= threshold)
                right = inside & ~left
                heavy = all(
                    side.sum() >= rule.min_leaf_rows
                    and np.ldexp(float(q.h[0, side].sum()), -q.h_shift) >= rule.min_child_weight
                    for side in (left, right)
                )
                if heavy:
                    gain = score(q, left, rule) + score(q, right, rule) - score(q, inside, rule)
                    if gain > best[0] + 1e-12:
                        best = gain, (column, float(threshold), missing_left)
    return best


@pytest.mark.parametrize("compared", [1, 1 << 20])
@pytest.mark.parametrize(
    "rule",
    [RULE, Rule(3, 0.5, 0.0, 0.0, 0.0, 1), Rule(3, 0.5, 2.0, 0.0, 4.0, 9)],
    ids=["plain", "nothing forbidden", "large leaves, some nodes not split"],
)
def test_best_splits_are_those_of_brute_force(
    rule: Rule, compared: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_tree, "_COMPARED", compared)
    x, cuts, q = make(80, 3)
    node = np.arange(80) * 7 % 11 % 4
    members = Members(np.arange(80), node, 4)
    binned = cuts.apply(x)
    best = best_splits(plain(members, binned, q.g[0], q.h[0]), q, rule)
    for n in range(4):
        gain, split = brute_force(x, cuts, q, node == n, rule)
        assert best.gain[n] == pytest.approx(gain, abs=1e-9)
        ties = best.of(n)
        if split is None:
            assert not len(best.candidate[ties])
            continue
        first = int(best.candidate[ties][0])
        column, bin_ = divmod(first // 2, cuts.bins)
        left = np.where(
            np.isnan(x[:, column]), first % 2 == 1, x[:, column] <= cuts.threshold(column, bin_)
        )
        left &= node == n
        assert [a[ties][0] for a in (best.g, best.h, best.n)] == [
            q.g[0, left].sum(),
            q.h[0, left].sum(),
            left.sum(),
        ]


def test_equal_columns_tie_and_the_first_wins() -> None:
    x, _, q = make(50, 2)
    x = np.concatenate([x[:, :1], x[:, :1], x[:, 1:]], axis=1)
    cuts = Cuts.of(x, 6)
    members = Members(np.arange(50), np.zeros(50, np.int64), 1)
    best = best_splits(plain(members, cuts.apply(x), q.g[0], q.h[0]), q, RULE)
    columns = best.candidate // 2 // cuts.bins
    assert len(columns) == 1 or columns.tolist()[:2] == [0, 1]
    twice = np.concatenate([x[:, :1], x[:, :1]], axis=1)
    cuts = Cuts.of(twice, 6)
    best = best_splits(plain(members, cuts.apply(twice), q.g[0], q.h[0]), q, RULE)
    assert (best.candidate // 2 // cuts.bins).tolist() == [0, 1]


def test_nodes_without_candidates() -> None:
    nothing = Histogram(*(np.zeros((2, 3, 5), np.int64) for _ in range(3)))
    q = quantise(np.ones((1, 2)), np.ones((1, 2)), 24)
    best = best_splits(nothing, q, Rule(3, 0.5, 0.0, 0.0, 0.0, 1))
    assert best.gain.tolist() == [-np.inf, -np.inf]
    assert len(best.candidate) == 0


# --- trees --------------------------------------------------------------------------------------


def brute_tree(
    x: Floats, cuts: Cuts, q: Quantised, selected: NDArray[np.bool_], rule: Rule
) -> Floats:
    """What one tree adds to the scores, grown node by node."""
    added = np.zeros(len(x))
    stack = [(np.ones(len(x), np.bool_), 0)]
    while stack:
        inside, level = stack.pop()
        grown = inside & selected
        gain, split = brute_force(x, cuts, q, grown, rule)
        if level < rule.depth and split is not None and gain > max(rule.gamma, 1e-6):
            column, threshold, missing_left = split
            values = x[:, column]
            left = np.where(np.isnan(values), missing_left, values <= threshold)
            stack += [(inside & left, level + 1), (inside & ~left, level + 1)]
        else:
            g = np.ldexp(float(q.g[0, grown].sum()), -q.g_shift)
            h = np.ldexp(float(q.h[0, grown].sum()), -q.h_shift)
            added[inside] = -rule.learning_rate * g / (h + rule.reg_lambda)
    return added


@pytest.mark.parametrize("gamma", [0.0, 2.0])
@pytest.mark.parametrize("share", [1.0, 0.6])
def test_trees_are_those_of_brute_force(gamma: float, share: float) -> None:
    rule = Rule(3, 0.5, 1.0, gamma, 0.1, 2)
    for seed in range(5):
        x, cuts, q = make(90, 3, seed=seed)
        selected = np.random.default_rng(seed).random(90) < share
        local, records = local_of(x, cuts)
        local.begin(q, selected, np.arange(3))
        (tree,), added = grow(q, selected, [local], rule)
        assert added[0] == pytest.approx(brute_tree(x, cuts, q, selected, rule), abs=1e-12)
        inner = [n for n, owner in enumerate(tree.owner) if owner != LEAF]
        assert len(records) == len(inner)
        assert tree.rows[0] == selected.sum()
        for n in inner:
            assert tree.rows[n] == tree.rows[tree.left[n]] + tree.rows[tree.right[n]]
            assert tree.gain[n] > gamma
        assert len(tree.owner) == 2 * len(inner) + 1


def test_columns_of_several_parties_give_the_tree_of_all_columns_together() -> None:
    x, cuts, q = make(200, 6, outputs=3)
    selected = np.ones(200, np.bool_)
    local, records = local_of(x, cuts)
    local.begin(q, selected, np.arange(6))
    trees, added = grow(q, selected, [local], RULE)
    parts = [local_of(x[:, j : j + 2], Cuts(cuts.cuts[j : j + 2], 6), j // 2) for j in (0, 2, 4)]
    for party, _ in parts:
        party.begin(q, selected, np.arange(2))
    split_trees, split_added = grow(q, selected, [party for party, _ in parts], RULE)
    assert (added == split_added).all()
    for whole, split in zip(trees, split_trees, strict=True):
        assert (whole.gain, whole.value, whole.left) == (split.gain, split.value, split.left)
    assert len(records) == sum(len(r) for _, r in parts)
    thresholds = [t for _, r in parts for t in r.threshold]
    assert sorted(thresholds) == sorted(records.threshold)


def test_a_node_too_small_to_split_is_not_summed() -> None:
    x, cuts, q = make(30, 2)
    selected = np.ones(30, np.bool_)
    local, _ = local_of(x, cuts)
    local.begin(q, selected, np.arange(2))
    trees, added = grow(q, selected, [local], Rule(3, 1.0, 1.0, 0.0, 0.0, 16))
    assert trees[0].owner == [LEAF]
    assert len(set(added[0].tolist())) == 1


class Liar(Local):
    """A party that says something else."""

    what = ""

    def histogram(self) -> Histogram:
        out = super().histogram()
        if self.what == "sums":
            out.g[0, 1, 0] += 1
        return out

    def divided(self) -> tuple[NDArray[np.bool_], list[int]]:
        left, records = super().divided()
        if self.what == "rows":
            left[np.flatnonzero(left)[0]] = False
        return left, records


@pytest.mark.parametrize(
    ("what", "expected"), [("sums", "do not add up"), ("rows", "other than by its best split")]
)
def test_a_party_that_departs_from_its_sums_is_named(what: str, expected: str) -> None:
    x, cuts, q = make(60, 2)
    selected = np.ones(60, np.bool_)
    liar = Liar(0, "mallory", cuts.apply(x), cuts, ["a", "b"], Records())
    liar.begin(q, selected, np.arange(2))
    assert grow(q, selected, [liar], RULE)
    liar.what = what
    with pytest.raises(ProtocolError, match=f"mallory.*{expected}"):
        grow(q, selected, [liar], RULE)


def test_frontier_keeps_rows_of_all_trees_apart() -> None:
    frontier = Frontier(2, 4)
    assert frontier.node.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    members, places = frontier.members(np.array([1]), np.array([True, False, True, True]))
    assert members.rows.tolist() == [0, 2, 3]
    assert places.tolist() == [4, 6, 7]
    frontier.advance(np.array([1]), np.array([True, False, False, True]))
    assert frontier.node.tolist() == [-1] * 4 + [0, 1, 1, 0]
    assert frontier.nodes == 2


# --- rounds -------------------------------------------------------------------------------------


def booster_of(rows: int = 100, **changes: Any) -> Booster:
    loss, y = objective("binary", (np.arange(rows) % 3 == 0).astype(float))
    return Booster(config_of(**changes), loss, y, 3)


def test_subsample_draws_other_rows_each_round() -> None:
    booster = booster_of(subsample=0.3)
    first = booster.sample()[1]
    assert first.sum() == 30
    assert (booster.sample()[1] == first).all()
    booster.add([Tree()], np.zeros((1, 100)))
    assert (booster.sample()[1] != first).any()


def test_goss_keeps_the_large_gradients_and_weights_the_others_up() -> None:
    booster = booster_of(goss={"top": 0.3, "other": 0.2})
    booster.scores = np.random.default_rng(13).normal(size=(100, 1))
    g, h = booster.objective.gradients(booster.y, booster.scores)
    q, selected = booster.sample()
    assert selected.sum() == 50
    top = np.argsort(-np.abs(g[:, 0]))[:30]
    assert selected[top].all()
    factor = np.where(np.isin(np.arange(100), top), 1.0, 70 / 20)
    expected = quantise(
        np.where(selected, g[:, 0] * factor, 0)[None],
        np.where(selected, h[:, 0] * factor, 0)[None],
        24,
    )
    assert (q.g == expected.g).all()
    assert (q.h == expected.h).all()


def test_columns_are_drawn_for_each_party_and_round() -> None:
    config = config_of(column_subsample=0.4)
    drawn = [tuple(columns_of(config, done, party, 50)) for done in range(3) for party in range(3)]
    assert {len(columns) for columns in drawn} == {20}
    assert len(set(drawn)) == 9
    assert all(list(columns) == sorted(set(columns)) for columns in drawn)
    assert columns_of(config, 0, 0, 1).tolist() == [0]
    assert columns_of(config_of(), 0, 0, 3).tolist() == [0, 1, 2]


def test_who_may_split() -> None:
    plans = [booster_of(), booster_of(guest_trees=[2]), booster_of(mixed_period=2)]
    seen = []
    for booster in plans:
        owners = []
        for _ in range(7):
            owners.append(booster.owners)
            booster.add([Tree()], np.zeros((1, 100)))
        seen.append(owners)
    everyone = [0, 1, 2]
    assert seen[0] == [everyone] * 7
    assert seen[1] == [everyone, [0], *[everyone] * 5]
    assert seen[2] == [[0], [0], [1], [1], [2], [2], [0]]


def test_early_stop_waits_for_the_best_loss() -> None:
    booster = booster_of(trees=50, early_stop={"rounds": 2, "tolerance": 0.0})
    step = booster.y[None] - 0.5
    for change, stopped in ((1, False), (-0.1, False), (0.2, False), (-0.1, False), (-0.1, True)):
        assert not booster.stopped
        booster.add([Tree()], change * step)
        assert booster.stopped == stopped


def test_held_out_rows_are_not_trained_on() -> None:
    booster = booster_of(early_stop={"validation": 0.25})
    q, selected = booster.sample()
    assert selected.sum() == 75
    assert not q.g[0, ~selected].any()
    booster.add([Tree()], np.where(selected, 0.0, 1.0)[None])
    trained = booster.objective.loss(booster.y[selected], booster.scores[selected])
    assert booster.losses == [trained]
    assert booster.state["watched"] != [trained]


def test_too_many_rows_for_the_precision() -> None:
    with pytest.raises(DataError, match="lower precision_bits"):
        booster_of(1 << 21, precision_bits=32)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"goss": {"top": 0.8, "other": 0.3}}, "at most 1"),
        ({"goss": {}, "subsample": 0.5}, "not both"),
        ({"guest_trees": [1], "mixed_period": 2}, "not both"),
        ({"guest_trees": [0]}, "guest_trees"),
        ({"bins": 256}, "bins"),
        ({"depth": 0}, "depth"),
        ({"trees": 0}, "trees"),
        ({"leaves": 3}, "leaves"),
    ],
)
def test_configurations_that_are_refused(changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValidationError, match=expected):
        config_of(**changes)
