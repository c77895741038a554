"""Growing the trees of a round, level by level, from the histograms of all parties' columns.

The same code grows trees on encrypted and on plain histograms. Both are the same integers, so
gains, ties and trees are the same too. A candidate is numbered ``(column * bins + bin) * 2 +
missing_left``; of those with the largest gain the first in the order of parties and numbers wins.

Of two siblings the one with fewer rows is summed; the other is the parent less it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from residue_federated.boosting._bins import Binned, Cuts
from residue_federated.boosting._histogram import Histogram, Members, plain
from residue_federated.boosting._packing import Quantised
from residue_federated.errors import ProtocolError

__all__ = [
    "LEAF",
    "Best",
    "Frontier",
    "Local",
    "Party",
    "Records",
    "Rule",
    "Tree",
    "best_splits",
    "goes_left",
    "grow",
]

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

LEAF = -1
"""Owner of a node that is not split."""

_LEAST_GAIN = 1e-6
"""Gains below it are rounding."""
_COMPARED = 1 << 20
"""Candidates whose gains are computed at once: bounds memory to some 100 MiB."""


@dataclass(frozen=True)
class Rule:
    """How trees grow. Names and meanings are xgboost's where it has them."""

    depth: int
    learning_rate: float
    reg_lambda: float
    gamma: float
    min_child_weight: float
    min_leaf_rows: int


@dataclass
class Tree:
    """Nodes in order of their level, the root first; lists of equal length.

    owner: whose column decides: 0 for the guest, then the hosts; `LEAF`. record: the owner's record
    of the split. left, right: children. value: what a leaf adds to the score. gain: of the split.
    rows: how many the node was grown on.
    """

    owner: list[int] = field(default_factory=list)
    record: list[int] = field(default_factory=list)
    left: list[int] = field(default_factory=list)
    right: list[int] = field(default_factory=list)
    value: list[float] = field(default_factory=list)
    gain: list[float] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)

    def add(self) -> int:
        """A new leaf; returns its number."""
        self.owner.append(LEAF)
        for numbers in (self.record, self.left, self.right, self.rows):
            numbers.append(0)
        for values in (self.value, self.gain):
            values.append(0.0)
        return len(self.owner) - 1

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {name: list(values) for name, values in vars(self).items()}


@dataclass
class Records:
    """What a party alone knows of its splits: column, threshold, where missing values go."""

    column: list[str] = field(default_factory=list)
    threshold: list[float] = field(default_factory=list)
    missing_left: list[bool] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.column)

    def add(self, column: str, threshold: float, missing_left: bool) -> int:
        """A new record; returns its number."""
        self.column.append(column)
        self.threshold.append(threshold)
        self.missing_left.append(missing_left)
        return len(self.column) - 1

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {name: list(values) for name, values in vars(self).items()}


class Frontier:
    """Where rows are: the nodes of the level that grows, of all trees of the round together.

    node: ``(outputs * rows,)``, each tree's rows one after the other; -1 for rows in leaves.
    nodes: how many nodes the level has.
    """

    def __init__(self, outputs: int, rows: int) -> None:
        self.table_rows = rows
        self.node: Ints = np.repeat(np.arange(outputs), rows)
        self.nodes = outputs

    def inside(self, nodes: Ints) -> tuple[Ints, Ints]:
        """Places in `node` of the rows in these nodes, ascending, and which of `nodes` each is."""
        rank = np.full(self.nodes + 1, -1)  # the last is for node -1
        rank[nodes] = np.arange(len(nodes))
        ranks = rank[self.node]
        places = np.flatnonzero(ranks >= 0)
        return places, ranks[places]

    def members(self, nodes: Ints, selected: Bools) -> tuple[Members, Ints]:
        """The selected table rows in these nodes, and their places in `node`."""
        places, ranks = self.inside(nodes)
        kept = selected[places % self.table_rows]
        places, ranks = places[kept], ranks[kept]
        return Members(places % self.table_rows, ranks, len(nodes)), places

    def advance(self, nodes: Ints, left: Bools) -> None:
        """The next level: children of these nodes, the i-th's are 2i (left) and 2i + 1.

        left: of each row inside these nodes, as `inside` orders them.
        """
        places, ranks = self.inside(nodes)
        self.node = np.full(len(self.node), -1)
        self.node[places] = 2 * ranks + ~left
        self.nodes = 2 * len(nodes)


@dataclass(frozen=True)
class Best:
    """The best candidates of each node in one party's columns.

    gain: ``(nodes,)``, -inf where there is no candidate. node, candidate: ``(ties,)``, all that
    have the node's gain, ascending. g, h, n: ``(ties,)``, sums and rows left of each.
    """

    gain: NDArray[np.float64]
    node: Ints
    candidate: Ints
    g: Ints
    h: Ints
    n: Ints

    def of(self, node: int) -> slice:
        """Where a node's candidates are."""
        start, stop = np.searchsorted(self.node, [node, node + 1])
        return slice(int(start), int(stop))


class Party(Protocol):
    """A party's columns, as the growing of trees sees them."""

    @property
    def index(self) -> int:
        """The owner's number in trees."""

    @property
    def name(self) -> str:
        """What to call it in errors."""

    def start(self, frontier: Frontier, build: Ints) -> None:
        """Begin to sum up these nodes."""

    def histogram(self) -> Histogram:
        """The sums, ``(len(build), columns, bins + 1)``."""

    def divide(self, frontier: Frontier, nodes: Ints, best: Best) -> None:
        """Begin to divide these nodes by their best candidates."""

    def divided(self) -> tuple[Bools, list[int]]:
        """Which rows inside these nodes go left, and the records of the splits."""

    def advance(self, nodes: Ints, left: Bools) -> None:
        """The level is done: these nodes were split, the others are leaves."""


class Local:
    """A party whose columns are here: the guest's, and everyone's where data are joined."""

    def __init__(
        self,
        index: int,
        name: str,
        binned: Binned,
        cuts: Cuts,
        columns: Sequence[str],
        records: Records,
    ) -> None:
        self.index = index
        self.name = name
        self._all = binned
        self._cuts = cuts
        self._names = columns
        self._records = records

    def begin(self, quantised: Quantised, selected: Bools, columns: Ints) -> None:
        """A round, of so many rows and columns, ascending."""
        self._g, self._h = quantised.g.ravel(), quantised.h.ravel()
        self._selected = selected
        self._columns = columns
        self._binned = self._all.take(columns)

    def start(self, frontier: Frontier, build: Ints) -> None:
        """Nothing: `histogram` does it all."""
        self._members, self._places = frontier.members(build, self._selected)

    def histogram(self) -> Histogram:
        """Plain sums."""
        return plain(self._members, self._binned, self._g[self._places], self._h[self._places])

    def divide(self, frontier: Frontier, nodes: Ints, best: Best) -> None:
        """The first of equal candidates wins."""
        self._inside = frontier.inside(nodes)
        self._rows = self._inside[0] % frontier.table_rows
        self._candidates = np.array([best.candidate[best.of(s)][0] for s in nodes], np.int64)

    def divided(self) -> tuple[Bools, list[int]]:
        """Rows that go left, and the new records."""
        column, bin_, missing = decoded(self._candidates, self._binned.bins)
        column = self._columns[column]
        return (
            goes_left(self._all, self._rows, self._inside[1], column, bin_, missing),
            record(self._records, self._cuts, self._names, column, bin_, missing),
        )

    def advance(self, nodes: Ints, left: Bools) -> None:
        """Nothing to do."""


def decoded(candidates: Ints, bins: int) -> tuple[Ints, Ints, Bools]:
    """Column, bin and direction of missing values."""
    return candidates // 2 // bins, candidates // 2 % bins, candidates % 2 == 1


def goes_left(
    binned: Binned, rows: Ints, split: Ints, column: Ints, bin_: Ints, missing_left: Bools
) -> Bools:
    """Which rows go left, each by its own of the splits ``(column, bin, missing_left)``."""
    values = binned.columns[column[split], rows]
    return np.where(values == binned.bins, missing_left[split], values <= bin_[split])


def record(
    records: Records,
    cuts: Cuts,
    names: Sequence[str],
    column: Ints,
    bin_: Ints,
    missing_left: Bools,
) -> list[int]:
    """Write splits down."""
    return [
        records.add(names[c], cuts.threshold(c, b), m)
        for c, b, m in zip(column.tolist(), bin_.tolist(), missing_left.tolist(), strict=True)
    ]


def best_splits(histogram: Histogram, quantised: Quantised, rule: Rule) -> Best:
    """The best candidates of each node; their gain as in xgboost (Chen and Guestrin, 2016)."""
    nodes, columns, width = histogram.n.shape
    step = max(1, _COMPARED // (2 * columns * width))
    gains, parts = [], []
    for start in range(0, nodes, step):
        g, h, n = (a[start : start + step] for a in (histogram.g, histogram.h, histogram.n))
        gain, left = _gains(g, h, n, quantised, rule)
        best = gain.max(axis=1)
        node, candidate = np.nonzero((gain == best[:, None]) & (gain > -np.inf))
        gains.append(best)
        # Each candidate there is has one or both directions of missing values.
        number = candidate * (2 * columns * (width - 1) // gain.shape[1])
        parts.append((start + node, number, *(a[node, candidate] for a in left)))
    return Best(np.concatenate(gains), *(np.concatenate(each) for each in zip(*parts, strict=True)))


def _gains(
    g: Ints, h: Ints, n: Ints, quantised: Quantised, rule: Rule
) -> tuple[NDArray[np.float64], list[Ints]]:
    """``(nodes, candidates)`` gains, -inf for what is no candidate; and sums left of each.

    Missing values go right, and where there are any, also left.
    """
    # A split after an empty bin is the one after the bin before.
    real = np.repeat(n[..., :-1, None] > 0, 2 if n[..., -1].any() else 1, axis=-1)
    real[..., 1:] &= n[..., -1:, None] > 0
    lefts, rights = [], []
    for sums in (g, h, n):
        left = np.repeat(np.cumsum(sums[..., :-1], axis=-1)[..., None], real.shape[-1], axis=-1)
        left[..., 1:] += sums[..., -1:, None]
        right = sums.sum(axis=-1)[..., None, None] - left
        lefts.append(left.reshape(len(left), -1))
        rights.append(right.reshape(len(right), -1))
    valid = real.reshape(len(real), -1)
    scores = []
    for side in (lefts, rights):
        gradient = np.ldexp(side[0].astype(np.float64), -quantised.g_shift)
        curvature = np.ldexp(side[1].astype(np.float64), -quantised.h_shift)
        valid &= (side[2] >= rule.min_leaf_rows) & (curvature >= rule.min_child_weight)
        with np.errstate(divide="ignore", invalid="ignore"):  # of empty sides, which are not valid
            scores.append(gradient**2 / (curvature + rule.reg_lambda))
    with np.errstate(invalid="ignore"):
        gain = scores[0] + scores[1] - _whole(g, h, quantised, rule)[:, None]
    return np.where(valid, gain, -np.inf), lefts


def _whole(g: Ints, h: Ints, quantised: Quantised, rule: Rule) -> NDArray[np.float64]:
    """The score of each node as it is."""
    gradient, curvature = (
        np.ldexp(sums[:, 0].sum(axis=-1).astype(np.float64), -shift)
        for sums, shift in ((g, quantised.g_shift), (h, quantised.h_shift))
    )
    with np.errstate(divide="ignore", invalid="ignore"):  # of nodes that were not summed
        return np.asarray(gradient**2 / (curvature + rule.reg_lambda))


def grow(
    quantised: Quantised, selected: Bools, parties: Sequence[Party], rule: Rule
) -> tuple[list[Tree], NDArray[np.float64]]:
    """One tree for each output.

    Args:
        quantised: ``(outputs, rows)`` gradients and curvatures.
        selected: ``(rows,)``, those to grow on.
        parties: whose columns may split, in the order in which equal splits are preferred.
        rule: how.

    Returns the trees, and what they add to the scores, ``(outputs, rows)`` for all rows.

    Raises `ProtocolError` where a party's sums do not add up to the nodes', or where it divides a
    node other than by a candidate it was given.
    """
    outputs, rows = quantised.g.shape
    weights = [quantised.g.ravel(), quantised.h.ravel(), np.ones(outputs * rows, np.int64)]
    frontier = Frontier(outputs, rows)
    trees = [Tree() for _ in range(outputs)]
    at = [(tree, tree.add()) for tree in trees]
    added = np.zeros(outputs * rows)
    split = np.zeros(0, np.int64)
    parents: list[Histogram | None] = [None] * len(parties)
    for level in range(rule.depth + 1):
        members, places = frontier.members(np.arange(frontier.nodes), selected)
        totals = [_sums(members.node, each[places], frontier.nodes) for each in weights]
        for (tree, node), n in zip(at, totals[2].tolist(), strict=True):
            tree.rows[node] = n
        build = np.zeros(0, np.int64)
        if level < rule.depth:
            build = _to_build(totals, quantised, rule, paired=level > 0)
            for party in parties:
                party.start(frontier, build)
        before, split = split, np.zeros(0, np.int64)
        if len(build):
            built = [party.histogram() for party in parties]
            for party, each in zip(parties, built, strict=True):
                _check_sums(party, each, [total[build] for total in totals])
            level_sums = [
                _completed(each, build, frontier.nodes, before, parent)
                for each, parent in zip(built, parents, strict=True)
            ]
            best = [best_splits(each, quantised, rule) for each in level_sums]
            parents = [*level_sums]
            gains = np.stack([each.gain for each in best])
            winner, gain = gains.argmax(axis=0), gains.max(axis=0)
            split = np.flatnonzero(gain > max(rule.gamma, _LEAST_GAIN))
        leaves = np.setdiff1d(np.arange(frontier.nodes), split)
        values = _leaf_values(totals, quantised, rule)[leaves]
        for s, value in zip(leaves.tolist(), values.tolist(), strict=True):
            tree, node = at[s]
            tree.value[node] = value
        places, ranks = frontier.inside(leaves)
        added[places] = values[ranks]
        if not len(build):
            break
        left, records = _divide(frontier, split, winner[split], parties, best, selected, weights)
        children = []
        for s, number in zip(split.tolist(), records, strict=True):
            tree, node = at[s]
            tree.owner[node] = parties[int(winner[s])].index
            tree.record[node] = number
            tree.gain[node] = float(gain[s])
            tree.left[node], tree.right[node] = tree.add(), tree.add()
            children += [(tree, tree.left[node]), (tree, tree.right[node])]
        at = children
        frontier.advance(split, left)
        for party in parties:
            party.advance(split, left)
    return trees, added.reshape(outputs, rows)


def _sums(node: Ints, values: Ints, nodes: int) -> Ints:
    return np.bincount(node, values.astype(np.float64), nodes).astype(np.int64)


def _to_build(totals: list[Ints], quantised: Quantised, rule: Rule, *, paired: bool) -> Ints:
    """The nodes to sum up: those large enough to split, or their smaller siblings."""
    _, h, n = totals
    curvature = np.ldexp(h.astype(np.float64), -quantised.h_shift)
    fit = (n >= 2 * rule.min_leaf_rows) & (curvature >= 2 * rule.min_child_weight)
    if not paired:
        return np.flatnonzero(fit)
    left = np.flatnonzero(fit.reshape(-1, 2).any(axis=1)) * 2
    return np.asarray(left + (n[left + 1] < n[left]))


def _completed(
    built: Histogram, build: Ints, nodes: int, split: Ints, parents: Histogram | None
) -> Histogram:
    """The level's histogram from that of the nodes built; `split` were the parents. Else zeros."""
    out = []
    for name in ("g", "h", "n"):
        some = getattr(built, name)
        full = np.zeros((nodes, *some.shape[1:]), np.int64)
        full[build] = some
        if parents is not None:
            full[build ^ 1] = getattr(parents, name)[split[build // 2]] - some
        out.append(full)
    return Histogram(*out)


def _check_sums(party: Party, built: Histogram, totals: list[Ints]) -> None:
    for sums, total in zip((built.g, built.h, built.n), totals, strict=True):
        if (sums.sum(axis=-1) != total[:, None]).any():
            raise ProtocolError(f"{party.name} sent histograms that do not add up")


def _leaf_values(totals: list[Ints], quantised: Quantised, rule: Rule) -> NDArray[np.float64]:
    gradient = np.ldexp(totals[0].astype(np.float64), -quantised.g_shift)
    curvature = np.ldexp(totals[1].astype(np.float64), -quantised.h_shift)
    return np.asarray(-rule.learning_rate * gradient / (curvature + rule.reg_lambda))


def _divide(
    frontier: Frontier,
    split: Ints,
    winner: Ints,
    parties: Sequence[Party],
    best: list[Best],
    selected: Bools,
    weights: list[Ints],
) -> tuple[Bools, list[int]]:
    """Which rows of the split nodes go left, and the records of the splits."""
    places, ranks = frontier.inside(split)
    left = np.zeros(len(places), np.bool_)
    records = [0] * len(split)
    for i, party in enumerate(parties):
        party.divide(frontier, split[winner == i], best[i])
    for i, party in enumerate(parties):
        won = np.flatnonzero(winner == i)
        if len(won):
            left[winner[ranks] == i], numbers = party.divided()
            for s, number in zip(won.tolist(), numbers, strict=True):
                records[s] = number
    counted = left & selected[places % frontier.table_rows]
    sums = [_sums(ranks[counted], each[places[counted]], len(split)) for each in weights]
    for s, node in enumerate(split.tolist()):
        each = best[int(winner[s])]
        ties = each.of(node)
        if not (
            (each.g[ties] == sums[0][s])
            & (each.h[ties] == sums[1][s])
            & (each.n[ties] == sums[2][s])
        ).any():
            name = parties[int(winner[s])].name
            raise ProtocolError(f"{name} divided a node other than by its best split")
    return left, records
