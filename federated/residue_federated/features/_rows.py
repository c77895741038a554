"""Rows drawn by chance, the same ones at every party."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from residue_federated._context import Context, Spec
from residue_federated._data import Table
from residue_federated._ids import chosen
from residue_federated.errors import DataError, ProtocolError

__all__ = ["MOST_CLASSES", "chosen_rows", "drawn", "strata", "taken"]

MOST_CLASSES = 100
"""Labels with more kinds than this are numbers, not classes."""


def strata(table: Table) -> dict[float, NDArray[np.int64]]:
    """Label -> its rows, at the guest. Raises `DataError` if the label has no classes."""
    assert table.y is not None
    labels, codes = np.unique(table.y, return_inverse=True)
    if len(labels) > MOST_CLASSES:
        raise DataError(
            f"the label has {len(labels)} different values: rows can be drawn by class of at most "
            f"{MOST_CLASSES}"
        )
    return {label: np.flatnonzero(codes == c) for c, label in enumerate(labels.tolist())}


def drawn(rows: NDArray[np.int64], share: float, random: np.random.Generator) -> NDArray[np.int64]:
    """``round(share * len(rows))`` of `rows`, each as often as any other or once more."""
    times, rest = divmod(round(share * len(rows)), len(rows))
    return np.concatenate([np.repeat(rows, times), random.permutation(rows)[:rest]])


def chosen_rows(
    context: Context,
    table: Table,
    choose: Callable[[Table], NDArray[np.int64]],
    *,
    by_label: bool,
    most: int,
) -> NDArray[np.int64]:
    """Indices of rows, ascending, the same at guest and hosts.

    Args:
        context: of a guest or host.
        table: whose rows; all parties must have the same.
        choose: gives the indices in any order.
        by_label: only the guest can run `choose` and tells the hosts; else all run it.
        most: how many indices there can be.

    Raises:
        DataError: the parties' rows differ, or fewer than two are left.
        ProtocolError: the guest sent what are no indices of rows in ascending order.
    """
    context.agree_on_rows(table)
    if by_label and context.role == "host":
        spec = Spec(np.int64, (None,))
        index = context.line.receive_record(context.guest, "chosen", index=spec)["index"]
        fits = index.size <= most and bool(np.all(index[1:] >= index[:-1]))
        if not fits or (index.size and not 0 <= index[0] <= index[-1] < len(table.ids)):
            raise ProtocolError(f"{context.guest} sent rows that are out of order or unknown")
    else:
        index = np.sort(choose(table))
        if by_label:
            for host in context.hosts:
                context.line.send_record(host, "chosen", index=index)
    if index.size < 2:
        raise DataError(f"{context.party}: {index.size} row(s) left; two are needed")
    return index


def taken(table: Table, index: NDArray[np.int64]) -> Table:
    """The rows of an ascending index; the second time a row comes, its identifier gains ``#2``.

    Raises `DataError` if such an identifier is there already.
    """
    repeats = np.arange(index.size) - np.searchsorted(index, index)
    if not repeats.any():
        return table.take(index)
    ids = [
        f"{name}#{times + 1}" if times else name
        for name, times in zip(chosen(table.ids, index), repeats.tolist(), strict=True)
    ]
    order = np.array(sorted(range(len(ids)), key=ids.__getitem__), dtype=np.int64)
    ids = [ids[i] for i in order]
    if len(set(ids)) < len(ids):
        raise DataError("repeated rows would get identifiers that the table has already")
    return replace(table.take(index[order]), ids=ids)
