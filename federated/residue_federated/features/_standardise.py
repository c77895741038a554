"""The component ``standardise``: columns to mean 0 and variance 1, each party its own."""

from __future__ import annotations

from residue_federated._context import Context, Outcome
from residue_federated._data import Table
from residue_federated.features._config import StandardiseConfig

__all__ = ["run"]


def run(context: Context, config: StandardiseConfig, table: Table | None) -> Outcome:
    """Scale this party's columns; nothing is sent but the agreement on where to resume."""
    context.restored()
    if table is None:
        return Outcome()
    return Outcome(table=table.standardised(target=config.target))
