"""Scores of rows by boosted trees: the parties walk them together, all trees level by level."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from residue_federated._context import Context, Line, Model, Outcome, Spec
from residue_federated._data import Table
from residue_federated.boosting._config import SecureBoostConfig
from residue_federated.boosting._tree import LEAF
from residue_federated.errors import ProtocolError

__all__ = ["apply", "predictions"]

Ints = NDArray[np.int64]

_PAIRS = 1 << 21
"""(row, tree) pairs that are walked at once: bounds messages to some 16 MiB."""


def apply(
    context: Context, config: SecureBoostConfig, table: Table | None, model: Model
) -> Outcome:
    """Scores at the guest, ``(rows,)`` or ``(rows, classes)``, in the label's own units.

    A host learns which rows meet which of its splits, the guest which way they go there.

    Raises `DataError` if the parties' rows differ or columns are missing.
    """
    if table is None:
        return Outcome()
    table = table.with_columns(context.party, model["columns"])
    context.agree_on_rows(table)
    splits = _Splits(model, table)
    if context.role == "host":
        _answer(context.line, context.guest, splits)
        return Outcome()
    return Outcome(scores=_walk(context.line, model, splits))


def predictions(
    config: SecureBoostConfig, scores: NDArray[np.float64]
) -> dict[str, NDArray[np.float64]]:
    """What `scores` say of each row, by name: the predicted value, class or probability."""
    if config.objective == "squared_error":
        return {"value": scores}
    if config.objective == "binary":
        return {"score": scores, "probability": np.asarray(0.5 + 0.5 * np.tanh(0.5 * scores))}
    p = np.exp(scores - scores.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    named = {f"probability_{k}": p[:, k] for k in range(p.shape[1])}
    return {"class": scores.argmax(axis=1).astype(np.float64), **named}


def _walk(line: Line, model: Model, splits: _Splits) -> NDArray[np.float64]:
    """The guest's part: asks every host, level by level, for the nodes that are its."""
    forest, hosts, rows = _Forest(model), model["parties"][1:], splits.rows
    step = max(1, _PAIRS // len(forest.roots))
    starts = range(0, rows, step)
    for host in hosts:
        line.send_record(host, "walk", plan=np.array([len(starts), forest.depth]))
    scores = np.empty((rows, len(model["start"])))
    for chunk, start in enumerate(starts):
        stop = min(start + step, rows)
        node = np.tile(forest.roots, stop - start)
        row = np.repeat(np.arange(start, stop), len(forest.roots))
        for level in range(forest.depth):
            owner, record = forest.owner[node], forest.record[node]
            places = [np.flatnonzero(owner == party) for party in range(1 + len(hosts))]
            tag = f"walk/{chunk}/{level}"
            for host, at in zip(hosts, places[1:], strict=True):
                asked = {"rows": row[at].astype(np.int32), "records": record[at].astype(np.int32)}
                line.send_record(host, tag, **asked)
            left = np.zeros(len(node), np.bool_)
            left[places[0]] = splits.left(row[places[0]], record[places[0]])
            for host, at in zip(hosts, places[1:], strict=True):
                spec = Spec(np.uint8, (-(-len(at) // 8),))
                answer = line.receive_record(host, tag, left=spec)["left"]
                left[at] = np.unpackbits(answer, count=len(at))
            inner = owner != LEAF
            node[inner] = np.where(left, forest.left[node], forest.right[node])[inner]
        values = forest.value[node].reshape(stop - start, -1, len(model["start"]))
        scores[start:stop] = model["start"]
        for added in values.swapaxes(0, 1):  # in the order of training, to the last bit
            scores[start:stop] += added
    scaling = model["target_scaling"]
    if scaling is not None:
        scores = scores * scaling["deviation"] + scaling["mean"]
    return scores[:, 0] if scores.shape[1] == 1 else scores


def _answer(line: Line, guest: str, splits: _Splits) -> None:
    """A host's part: which way rows go at its splits."""
    plan = line.receive_record(guest, "walk", plan=Spec(np.int64, (2,)))["plan"]
    some = Spec(np.int32, (None,))
    for tag in (f"walk/{c}/{level}" for c in range(plan[0]) for level in range(plan[1])):
        asked = line.receive_record(guest, tag, rows=some, records=some)
        rows, records = asked["rows"].astype(np.int64), asked["records"].astype(np.int64)
        if (
            len(rows) != len(records)
            or not _within(rows, splits.rows)
            or not _within(records, len(splits))
        ):
            raise ProtocolError(f"{guest} asks for rows or splits that do not exist")
        line.send_record(guest, tag, left=np.packbits(splits.left(rows, records)))


class _Forest:
    """All trees of a guest's share, nodes numbered through.

    roots: of all trees, those of a round one after the other. depth: levels of inner nodes.
    """

    def __init__(self, model: Model) -> None:
        trees = [tree for trees in model["trees"] for tree in trees]
        sizes = [len(tree["owner"]) for tree in trees]
        self.roots: Ints = np.cumsum([0, *sizes[:-1]])
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
    """A party's records, applied to the model's columns of a table."""

    def __init__(self, model: Model, table: Table) -> None:
        records = model["records"]
        place = {name: j for j, name in enumerate(table.columns)}
        self._column = np.array([place[name] for name in records["column"]], np.int64)
        self._threshold = np.array(records["threshold"], np.float64)
        self._missing_left = np.array(records["missing_left"], np.bool_)
        self._x = table.x
        self.rows = len(table.x)

    def __len__(self) -> int:
        return len(self._column)

    def left(self, rows: Ints, records: Ints) -> NDArray[np.bool_]:
        """Which of these rows go left at these splits."""
        x = self._x[rows, self._column[records]]
        missing = self._missing_left[records]
        return np.where(np.isnan(x), missing, x <= self._threshold[records])


def _within(values: Ints, end: int) -> bool:
    return not len(values) or bool(values.min() >= 0 and values.max() < end)
