"""Which rows are in which fold."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from residue_federated._context import Context, Spec
from residue_federated._data import Table
from residue_federated.errors import DataError, ProtocolError
from residue_federated.features._rows import strata
from residue_federated.validation._config import CrossValidateConfig

__all__ = ["agreed_folds", "drawn_folds", "fold_sizes"]

Folds = NDArray[np.uint8]


def fold_sizes(rows: int, folds: int) -> NDArray[np.int64]:
    """``(folds,)``: rows are dealt out in turn."""
    return rows // folds + (np.arange(folds) < rows % folds)


def drawn_folds(config: CrossValidateConfig, party: str, table: Table) -> Folds:
    """``(rows,) uint8``, the fold of each row.

    Raises `DataError` if there are too few rows, or rows of a class, for so many folds.
    """
    rows, random = len(table.ids), np.random.default_rng(config.seed)
    groups = strata(table) if config.stratified else {None: np.arange(rows)}
    least = min(len(group) for group in groups.values())
    if least < config.folds or rows < 2 * config.folds:
        what = "rows of a class" if config.stratified else "rows"
        raise DataError(f"{party}: {least} {what} are too few for {config.folds} folds")
    order = np.concatenate([random.permutation(group) for group in groups.values()])
    out = np.empty(rows, np.uint8)
    out[order] = np.arange(rows) % config.folds
    return out


def agreed_folds(context: Context, config: CrossValidateConfig, table: Table) -> Folds:
    """The same at guest and hosts: drawn by the guest.

    Raises `DataError` as `drawn_folds`, or if the parties' rows differ; `ProtocolError` if a host
    is told folds of other sizes.
    """
    context.agree_on_rows(table)
    if context.role == "guest":
        folds = drawn_folds(config, context.party, table)
        for host in context.hosts:
            context.line.send_record(host, "folds", folds=folds)
        return folds
    spec = Spec(np.uint8, (len(table.ids),))
    folds = context.line.receive_record(context.guest, "folds", folds=spec)["folds"]
    found = np.bincount(folds, minlength=config.folds)
    if not np.array_equal(found, fold_sizes(len(folds), config.folds)):
        raise ProtocolError(f"{context.guest} sent folds of sizes that were not agreed")
    return folds
