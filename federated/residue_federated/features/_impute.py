"""The component ``impute``: something in the place of missing values, each party its own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from residue_federated._context import Context, Model, Outcome
from residue_federated._data import Table
from residue_federated._scratch import column_results
from residue_federated.errors import DataError
from residue_federated.features._columns import require_known
from residue_federated.features._config import Fill, ImputeConfig
from residue_federated.features._flows import naming as flow

__all__ = ["apply", "flow", "run"]


def run(context: Context, config: ImputeConfig, table: Table | None) -> Outcome:
    """Fill this party's columns; the model keeps what with.

    Raises `DataError` for a column that nobody has, or one without any value and without a number
    to fill it with.
    """
    context.restored()
    if table is None:
        return Outcome()
    require_known(context, list(config.columns), table)
    fills = [config.columns.get(name, config.fill) for name in table.columns]
    values = list(column_results(_value, table.x, fills, table.scratch))
    if None in values:
        name = table.columns[values.index(None)]
        raise DataError(
            f"{context.party}: column '{name}' has no value: drop it or fill it with a number"
        )
    model = {"columns": table.columns, "fill": values}
    return replace(apply(context, config, table, model), model=model)


def apply(context: Context, config: ImputeConfig, table: Table | None, model: Model) -> Outcome:
    """Fill other rows with the same values."""
    if table is None:
        return Outcome()
    table = table.with_columns(context.party, model["columns"])
    fill = np.array(model["fill"])
    filled = table.changed(lambda block: np.where(np.isnan(block), fill, block))
    return Outcome(table=filled, facts={"filled": int(table.missing().sum())})


def _value(column: NDArray[np.float64], fill: Fill) -> float | None:
    """What a column is filled with; None if that depends on values and it has none."""
    if not isinstance(fill, str):
        return float(fill)
    seen = column[~np.isnan(column)]
    if not seen.size:
        return None
    return float(seen.mean() if fill == "mean" else np.median(seen))
