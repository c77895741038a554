"""What each party keeps of the trees, and scoring with it, all parties together.

The guest keeps the structure: of each node whose it is and the number of its owner's record, and
the leaves. A party keeps the records of its own splits: column, threshold, where missing values go.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from residue_federated._context import Line, Spec
from residue_federated._data import Table
from residue_federated.boosting._booster import Booster
from residue_federated.boosting._tree import LEAF, Records
from residue_federated.errors import DataError, ProtocolError

__all__ = [
    "guest_share",
    "host_share",
    "importance",
    "predict",
    "predict_at_host",
    "quality",
    "unscaled",
]

Ints = NDArray[np.int64]

_PAIRS = 1 << 21
"""(row, tree) pairs that are walked at once: bounds messages to some 16 MiB."""


def guest_share(
    booster: Booster, parties: list[str], table: Table, records: Records
) -> dict[str, Any]:
    """The guest's share of a model."""
    return {
        "objective": booster.config.objective,
        "parties": parties,
        "start": booster.start.tolist(),
        "trees": [[tree.to_dict() for tree in trees] for trees in booster.trees],
        **host_share(table, records),
        **table.scalings(),
    }


def host_share(table: Table, records: Records) -> dict[str, Any]:
    """A host's share of a model."""
    return {"columns": table.columns, "records": records.to_dict()}


def importance(share: dict[str, Any]) -> dict[str, Any]:
    """What a party can tell from its own share.

    A host: how often each of its columns splits. The guest: also the gain of its columns' splits
    together, and of all splits of each party.
    """
    records = share["records"]["column"]
    splits = {c: records.count(c) for c in dict.fromkeys(records)}
    if "trees" not in share:
        return {"splits": splits}
    gain = dict.fromkeys(splits, 0.0)
    parties = dict.fromkeys(share["parties"], 0.0)
    for tree in (tree for trees in share["trees"] for tree in trees):
        for owner, number, each in zip(tree["owner"], tree["record"], tree["gain"], strict=True):
            if owner != LEAF:
                parties[share["parties"][owner]] += each
            if owner == 0:
                gain[records[number]] += each
    return {"splits": splits, "gain": gain, "party_gain": parties}


def unscaled(scores: NDArray[np.float64], table: Table) -> NDArray[np.float64]:
    """Scores ``(rows, outputs)`` in the label's own units; ``(rows,)`` where there is one."""
    out = scores[:, 0] if scores.shape[1] == 1 else scores
    return out if table.y_scaling is None else table.y_scaling.undo(out)


def quality(booster: Booster, table: Table) -> dict[str, float]:
    """Metrics of the scores so far, in the label's own units."""
    y = booster.y if table.y_scaling is None else table.y_scaling.undo(booster.y)
    return booster.objective.metrics(y, unscaled(booster.scores, table))


def predict(line: Line, share: dict[str, Any], table: Table) -> NDArray[np.float64]:
    """Scores of the guest's rows, ``(rows,)`` or ``(rows, outputs)``, in the label's own units.

    Every host calls `predict_at_host` meanwhile, with the same rows. A host learns which rows meet
    which of its splits; the guest which way they go.

    Raises `DataError` if a column of the model is missing, `ProtocolError`.
    """
    forest = _Forest(share)
    ours, hosts = _Splits(share, table), share["parties"][1:]
    rows = len(table.ids)
    step = max(1, _PAIRS // max(1, len(forest.roots)))
    starts = range(0, rows, step)
    for host in hosts:
        line.send_record(host, "walk", plan=np.array([len(starts), forest.depth]))
    scores = np.empty((rows, len(share["start"])))
    for chunk, start in enumerate(starts):
        stop = min(start + step, rows)
        node = np.tile(forest.roots, stop - start)
        row = np.repeat(np.arange(start, stop), len(forest.roots))
        for level in range(forest.depth):
            owner = forest.owner[node]
            pairs = [np.flatnonzero(owner == party) for party in range(1 + len(hosts))]
            tag = f"walk/{chunk}/{level}"
            for host, at in zip(hosts, pairs[1:], strict=True):
                asked = forest.record[node[at]].astype(np.int32)
                line.send_record(host, tag, rows=row[at].astype(np.int32), records=asked)
            left = np.zeros(len(node), np.bool_)
            left[pairs[0]] = ours.left(row[pairs[0]], forest.record[node[pairs[0]]])
            for host, at in zip(hosts, pairs[1:], strict=True):
                spec = Spec(np.uint8, (-(-len(at) // 8),))
                answer = line.receive_record(host, tag, left=spec)["left"]
                left[at] = np.unpackbits(answer, count=len(at))
            inner = owner != LEAF
            node[inner] = np.where(left, forest.left[node], forest.right[node])[inner]
        values = forest.value[node].reshape(stop - start, -1, len(share["start"]))
        scores[start:stop] = share["start"]
        for added in values.swapaxes(0, 1):  # in the order of training, to the last bit
            scores[start:stop] += added
    scaling = share["target_scaling"]
    if scaling is not None:
        scores = scores * scaling["deviation"] + scaling["mean"]
    return scores[:, 0] if scores.shape[1] == 1 else scores


def predict_at_host(line: Line, guest: str, share: dict[str, Any], table: Table) -> None:
    """A host's part of `predict`.

    Raises `DataError` if a column of the model is missing, `ProtocolError`.
    """
    ours, rows = _Splits(share, table), len(table.ids)
    plan = line.receive_record(guest, "walk", plan=Spec(np.int64, (2,)))["plan"]
    some = Spec(np.int32, (None,))
    for tag in (f"walk/{c}/{level}" for c in range(plan[0]) for level in range(plan[1])):
        asked = line.receive_record(guest, tag, rows=some, records=some)
        row, record = asked["rows"].astype(np.int64), asked["records"].astype(np.int64)
        if len(row) != len(record) or not _within(row, rows) or not _within(record, len(ours)):
            raise ProtocolError(f"{guest} asks for rows or splits that do not exist")
        line.send_record(guest, tag, left=np.packbits(ours.left(row, record)))


class _Forest:
    """All trees of a guest's share, nodes numbered through.

    roots: of all trees, those of a round one after the other. depth: levels of inner nodes.
    """

    def __init__(self, share: dict[str, Any]) -> None:
        trees = [tree for trees in share["trees"] for tree in trees]
        sizes = [len(tree["owner"]) for tree in trees]
        self.roots: Ints = np.cumsum([0, *sizes[:-1]])[: len(trees)]
        shift = np.repeat(self.roots, sizes)
        self.owner, self.record, left, right = (
            np.array([number for tree in trees for number in tree[name]], np.int64)
            for name in ("owner", "record", "left", "right")
        )
        self.left, self.right = left + shift, right + shift
        self.value = np.array([value for tree in trees for value in tree["value"]])
        self.depth, level = -1, self.roots
        while len(level):
            self.depth += 1
            inner = level[self.owner[level] != LEAF]
            level = np.concatenate([self.left[inner], self.right[inner]])


class _Splits:
    """A party's records, applied to a table."""

    def __init__(self, share: dict[str, Any], table: Table) -> None:
        records = share["records"]
        absent = sorted(set(records["column"]) - set(table.columns))
        if absent:
            raise DataError(f"the model needs column(s) {', '.join(absent)}")
        place = {name: j for j, name in enumerate(table.columns)}
        self._column = np.array([place[name] for name in records["column"]], np.int64)
        self._threshold = np.array(records["threshold"], np.float64)
        self._missing_left = np.array(records["missing_left"], np.bool_)
        self._x = table.x

    def __len__(self) -> int:
        return len(self._column)

    def left(self, rows: Ints, records: Ints) -> NDArray[np.bool_]:
        """Which of these rows go left at these splits."""
        x = self._x[rows, self._column[records]]
        missing = self._missing_left[records]
        return np.where(np.isnan(x), missing, x <= self._threshold[records])


def _within(values: Ints, end: int) -> bool:
    return not len(values) or bool(values.min() >= 0 and values.max() < end)
