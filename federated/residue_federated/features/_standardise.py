"""The component ``standardise``: columns to mean 0 and variance 1, each party its own."""

from __future__ import annotations

from residue_federated._context import Context, Model, Outcome
from residue_federated._data import Table
from residue_federated.features._config import StandardiseConfig

__all__ = ["apply", "run"]


def run(context: Context, config: StandardiseConfig, table: Table | None) -> Outcome:
    """Scale this party's columns; nothing is sent but the agreement on where to resume."""
    context.restored()
    if table is None:
        return Outcome()
    scaled = table.standardised(target=config.target)
    return Outcome(table=scaled, model={"columns": scaled.columns, **scaled.scalings()})


def apply(
    context: Context, config: StandardiseConfig, table: Table | None, model: Model
) -> Outcome:
    """Scale other rows as the first were."""
    if table is None:
        return Outcome()
    return Outcome(table=table.with_columns(context.party, model["columns"]).scaled_by(model))
