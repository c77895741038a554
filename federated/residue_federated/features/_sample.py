"""The component ``sample``: rows left out or repeated by chance, the same at every party."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from residue_federated._context import Context, Outcome
from residue_federated._data import Table
from residue_federated.errors import DataError
from residue_federated.features._config import SampleConfig
from residue_federated.features._flows import drawing as flow
from residue_federated.features._rows import MOST_CLASSES, chosen_rows, drawn, strata, taken

__all__ = ["flow", "run"]


def run(context: Context, config: SampleConfig, table: Table | None) -> Outcome:
    """This party's rows of the sample.

    Raises `DataError` if the parties' rows differ, no row has a label that `classes` names, or
    fewer than two are drawn.
    """
    context.restored()
    if table is None:
        return Outcome()
    by_label = config.stratify or bool(config.classes)

    def choose(table: Table) -> NDArray[np.int64]:
        random = np.random.default_rng(config.seed)
        if not by_label:
            return drawn(np.arange(len(table.ids)), config.share, random)
        groups = strata(table)
        unknown = sorted(config.classes.keys() - groups.keys())
        if unknown:
            raise DataError(f"no row has the label {', '.join(f'{label:g}' for label in unknown)}")
        return np.concatenate(
            [
                drawn(rows, config.classes.get(label, config.share), random)
                for label, rows in groups.items()
            ]
        )

    # Rounding adds less than a row a class.
    most = math.ceil(max([config.share, *config.classes.values()]) * len(table.ids)) + MOST_CLASSES
    index = chosen_rows(context, table, choose, by_label=by_label, most=most)
    return Outcome(table=taken(table, index), facts={"rows": len(index)})
