"""What each party keeps of the trees, and what it can tell of them.

The guest keeps the structure: of each node whose it is and the number of its owner's record, and
the leaves. A party keeps the records of its own splits: column, threshold, where missing values go.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from residue_federated._data import Table
from residue_federated.boosting._booster import Booster
from residue_federated.boosting._tree import LEAF, Records

__all__ = [
    "guest_share",
    "host_share",
    "importance",
    "quality",
    "unscaled",
]


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
