"""Bins of columns by quantiles, and what they say about a binary label: WOE and IV."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from residue_federated._scratch import Scratch, column_results

__all__ = ["ADJUSTMENT", "Bins", "Evidence"]

ADJUSTMENT = 0.5
"""Added to both counts of a bin that lacks positives or negatives, so that its WOE is finite."""


@dataclass(frozen=True)
class Bins:
    """How columns are cut; every bin held at least one row of the table that made them.

    cuts: a column each, ascending: bin i holds ``cuts[i - 1] < x <= cuts[i]``, the last one the
    rest. missing: ``(columns,) bool``, whether a further bin holds the column's missing values.
    """

    cuts: list[NDArray[np.float64]]
    missing: NDArray[np.bool_]

    @classmethod
    def of(cls, x: NDArray[np.float64], most: int, scratch: Scratch | None = None) -> Bins:
        """At most `most` bins a column, with about equally many rows, besides the missing ones'.

        A value that fills several quantiles has one bin. Every column must have a value.
        """
        given = [most] * x.shape[1]
        found = list(column_results(_bins, x, given, scratch or Scratch()))
        return cls([cuts for cuts, _ in found], np.array([missing for _, missing in found]))

    @property
    def sizes(self) -> NDArray[np.int64]:
        """``(columns,)`` bins of each column, that of its missing values included."""
        whole = np.array([len(cuts) + 1 for cuts in self.cuts], dtype=np.int64)
        return whole + self.missing

    @property
    def starts(self) -> NDArray[np.int64]:
        """``(columns + 1,)`` where each column's bins begin when all are counted in order."""
        return np.concatenate([[0], np.cumsum(self.sizes)])

    def codes(self, x: NDArray[np.float64]) -> NDArray[np.int64]:
        """``(rows, columns)``: each value's bin, counted over all columns.

        -1 for a missing value of a column that had none when the bins were made.
        """
        codes = np.empty(x.shape, dtype=np.int64, order="F")
        for j, (cuts, start) in enumerate(zip(self.cuts, self.starts[:-1], strict=True)):
            absent = np.isnan(x[:, j])
            last = start + len(cuts) + 1 if self.missing[j] else -1
            codes[:, j] = np.where(absent, last, start + np.searchsorted(cuts, x[:, j]))
        return codes


def _bins(column: NDArray[np.float64], most: int) -> tuple[NDArray[np.float64], bool]:
    """A column's cuts, and whether it has missing values."""
    absent = np.isnan(column)
    seen = column[~absent]
    found = np.quantile(seen, np.arange(1, most) / most, method="inverted_cdf")
    return np.unique(found[found < seen.max()]), bool(absent.any())


Totals = tuple[int, int] | tuple[NDArray[np.int64], NDArray[np.int64]]


@dataclass(frozen=True)
class Evidence:
    """What bins say about the label. ``(bins,)`` arrays over all columns in order.

    positives, counts: rows. woe: ``log((p / P) / (q / Q))`` with p of all P positives and q of all
    Q negatives in the bin. iv: ``(columns,)``, the sum of ``(p / P - q / Q) * woe`` over a
    column's bins.

    Source: Siddiqi, "Credit Risk Scorecards", 2006; the adjustment is FATE's.
    """

    positives: NDArray[np.int64]
    counts: NDArray[np.int64]
    woe: NDArray[np.float64]
    iv: NDArray[np.float64]

    @classmethod
    def of(
        cls,
        positives: NDArray[np.int64],
        counts: NDArray[np.int64],
        sizes: NDArray[np.int64],
        totals: Totals,
    ) -> Evidence:
        """From the counts of bins that are not empty.

        sizes: ``(columns,)`` bins of each column. totals: positives and negatives of the table, or
        ``(bins,)`` of each bin's column; none of them 0.
        """
        negatives = counts - positives
        lacking = ADJUSTMENT * ((positives == 0) | (negatives == 0))
        p, q = (positives + lacking) / totals[0], (negatives + lacking) / totals[1]
        woe = np.log(p / q)
        starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        return cls(positives, counts, woe, np.add.reduceat((p - q) * woe, starts))

    @classmethod
    def shuffled(
        cls,
        positives: NDArray[np.int64],
        counts: NDArray[np.int64],
        sizes: NDArray[np.int64],
        totals: Totals,
    ) -> Evidence:
        """As `of`, for bins in an order that is another party's secret.

        Sums of floats run over bins in order of their counts, so that the secret order does not
        show in the last digit.
        """
        order = np.lexsort((positives, counts, np.repeat(np.arange(sizes.size), sizes)))
        found = cls.of(positives[order], counts[order], sizes, totals)
        back = np.argsort(order)
        return replace(found, positives=positives, counts=counts, woe=found.woe[back])
