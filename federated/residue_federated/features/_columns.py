"""Columns that a job file names, of whichever party has them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from residue_federated._context import Context, Spec
from residue_federated._data import Table
from residue_federated.errors import DataError

__all__ = ["require_known"]


def require_known(context: Context, names: Sequence[str], table: Table) -> None:
    """Guest and hosts see that somebody has each of these columns; nothing is sent for none.

    A host tells the guest which of the named columns it has, the guest tells it which ones are
    known at all. Raises `DataError` at all of them.
    """
    if not names:
        return
    line, spec = context.line, Spec(np.bool_, (len(names),))
    known = np.isin(names, table.columns)
    if context.role == "host":
        line.send_record(context.guest, "columns", known=known)
        known = line.receive_record(context.guest, "columns", known=spec)["known"]
    else:
        for host in context.hosts:
            known = known | line.receive_record(host, "columns", known=spec)["known"]
        for host in context.hosts:
            line.send_record(host, "columns", known=known)
    if not known.all():
        unknown = [name for name, found in zip(names, known, strict=True) if not found]
        raise DataError(f"no party has a column {', '.join(unknown)}")
