"""Columns in quantile bins: what trees see of the data.

A column has up to `bins` bins of values and one more, the last, for missing ones. A value lies in
the first bin whose cut it does not exceed, so a split after bin b sends ``x <= cuts[b]`` left.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from residue_federated._scratch import (
    Scratch,
    column_results,
    forget,
    partitions,
    row_blocks,
    taken,
)

__all__ = ["MAX_BINS", "Binned", "Cuts"]

MAX_BINS = 255
"""Bins of values a column at most: with the missing ones they number a uint8."""

_BEYOND = float(np.finfo(np.float64).max)


@dataclass(frozen=True)
class Cuts:
    """Between which bins of values are separated.

    cuts: a column's ``(k,) float64``, ascending, k < bins. bins: bins of values a column.
    """

    cuts: list[NDArray[np.float64]]
    bins: int

    @classmethod
    def of(cls, x: NDArray[np.float64], bins: int, scratch: Scratch | None = None) -> Cuts:
        """Cuts of ``(rows, columns)`` values that fill the bins of each column alike.

        A column of no more distinct values than bins has a bin for each. NaN is missing.
        """
        given = [bins] * x.shape[1]
        return cls(list(column_results(_cuts, x, given, scratch or Scratch())), bins)

    def threshold(self, column: int, bin_: int) -> float:
        """What a split after this bin compares with; past the last value where there is no cut."""
        cuts = self.cuts[column]
        return float(cuts[bin_]) if bin_ < len(cuts) else _BEYOND

    def apply(self, x: NDArray[np.float64], scratch: Scratch | None = None) -> Binned:
        """The bins of ``(rows, columns)`` values, kept where `scratch` says."""
        scratch = scratch or Scratch()
        out = scratch.empty(x.shape[::-1], np.uint8)
        tasks = ((self, x[rows]) for rows in partitions(x))
        for rows, bins in zip(partitions(x), scratch.spread(_apply, tasks, x.size), strict=True):
            out[:, rows] = bins
            forget(out)
        return Binned(out, self.bins, scratch)


@dataclass(frozen=True)
class Binned:
    """columns: ``(columns, rows) uint8``, `bins` stands for missing. bins: bins of values.

    scratch: where further ones go.
    """

    columns: NDArray[np.uint8]
    bins: int
    scratch: Scratch = field(default_factory=Scratch, compare=False)

    @property
    def width(self) -> int:
        """Bins a column, that of missing values included."""
        return self.bins + 1

    def take(self, columns: NDArray[np.int64]) -> Binned:
        """Chosen columns."""
        return Binned(taken(self.columns, columns, self.scratch), self.bins, self.scratch)


def _apply(cuts: Cuts, x: NDArray[np.float64]) -> NDArray[np.uint8]:
    """The bins of ``(rows, columns)`` values, ``(columns, rows)``."""
    out = np.empty(x.shape[::-1], np.uint8)
    for rows in row_blocks(x):
        for bins, own, column in zip(out[:, rows], cuts.cuts, x[rows].T, strict=True):
            bins[:] = np.searchsorted(own, column, side="left")
            bins[np.isnan(column)] = cuts.bins
    return out


def _cuts(column: NDArray[np.float64], bins: int) -> NDArray[np.float64]:
    values = np.sort(column[~np.isnan(column)])
    if not len(values):
        return values
    distinct = values[np.flatnonzero(np.diff(values, prepend=-np.inf))]
    if len(distinct) <= bins:
        below, above = distinct[:-1], distinct[1:]
    else:
        ranks = np.arange(1, bins) * len(values) // bins
        below, above = values[ranks - 1], values[ranks]
    middle = below + (above - below) / 2
    cuts = np.unique(np.where(middle < above, middle, below))
    return np.asarray(cuts[cuts < values[-1]])
