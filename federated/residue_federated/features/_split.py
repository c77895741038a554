"""The component ``split``: one part of the rows, the same at every party."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from residue_federated._context import Context, Outcome
from residue_federated._data import Table
from residue_federated.features._config import SplitConfig
from residue_federated.features._rows import chosen_rows, strata, taken

__all__ = ["run"]

_PARTS = ("train", "validation", "test")


def run(context: Context, config: SplitConfig, table: Table | None) -> Outcome:
    """This party's rows of the part.

    Raises `DataError` if the parties' rows differ or the part has fewer than two.
    """
    context.restored()
    if table is None:
        return Outcome()

    def choose(table: Table) -> NDArray[np.int64]:
        random = np.random.default_rng(config.seed)
        whole = np.arange(len(table.ids))
        groups = list(strata(table).values()) if config.stratify else [whole]
        return np.concatenate([_part(config, random.permutation(rows)) for rows in groups])

    index = chosen_rows(context, table, choose, by_label=config.stratify, most=len(table.ids))
    return Outcome(table=taken(table, index), facts={"rows": len(index)})


def _part(config: SplitConfig, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    ends = np.rint(np.cumsum([0.0, *config.shares]) * len(rows)).astype(np.int64)
    at = _PARTS.index(config.part)
    return rows[ends[at] : ends[at + 1]]
