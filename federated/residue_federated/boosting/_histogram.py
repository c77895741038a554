"""Sums of gradients, curvatures and rows of each (node, column, bin) of a level.

Encrypted sums are products of rows' ciphertexts, one a row and column. Where a level has many more
rows than bins, columns are summed in pairs: first the cells of (bin of one, bin of the other), one
product a row, then the cells along each, which halves the products.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

import residue
from residue.paillier import concatenate
from residue_federated.boosting._bins import Binned

__all__ = ["Histogram", "Members", "count", "encrypted", "plain"]

Ints = NDArray[np.int64]

_CACHED = 1 << 17
"""Entries of (column, row) that are counted at once: they stay in a core's cache."""
_GATHERED = 1 << 22
"""Entries whose products are formed at once: bounds memory to some 100 MiB."""
_PAIRING = 0.45
"""Columns are summed in pairs where these have fewer cells than this share of rows."""


@dataclass(frozen=True)
class Members:
    """Which rows of a table are summed for which node.

    A row may be in several nodes, as it is where several trees grow at once.

    rows: ``(n,)``. node: ``(n,)``, in ``[0, nodes)``.
    """

    rows: Ints
    node: Ints
    nodes: int


@dataclass(frozen=True)
class Histogram:
    """g, h, n: ``(nodes, columns, bins + 1) int64``: sums and counts, missing values last."""

    g: Ints
    h: Ints
    n: Ints


def plain(members: Members, binned: Binned, g: Ints, h: Ints) -> Histogram:
    """The histogram of the members' ``(n,)`` integers, sums below ``2**53`` in magnitude."""
    n, sums = _binned_sums(members, binned, g.astype(np.float64), h.astype(np.float64))
    return Histogram(sums[0], sums[1], n)


def count(members: Members, binned: Binned) -> Ints:
    """Rows of each cell, ``(nodes, columns, bins + 1)``."""
    return _binned_sums(members, binned)[0]


def encrypted(
    members: Members, binned: Binned, c: residue.CiphertextArray, which: Ints
) -> residue.CiphertextArray:
    """``(cells,)`` sums of all cells that are not empty, ordered by column, node and bin.

    Args:
        members: at least one.
        binned: at least one column.
        c: ``(m,)`` ciphertexts.
        which: ``(n,)``, the ciphertext of each member.
    """
    pairs = members.nodes * binned.width**2 < _PAIRING * len(members.rows)
    sums = _sums_by_pairs if pairs else _sums
    step = 2 * max(1, _GATHERED // (2 * len(members.rows)))
    return concatenate(
        [
            sums(members, binned.take(np.arange(start, stop)), c, which)
            for start in range(0, len(binned.columns), step)
            for stop in [min(start + step, len(binned.columns))]
        ]
    )


def _binned_sums(
    members: Members, binned: Binned, *weights: NDArray[np.float64]
) -> tuple[Ints, list[Ints]]:
    """Counts and weighted sums of each (node, column, bin)."""
    columns, cells = len(binned.columns), members.nodes * binned.width
    out = np.empty((1 + len(weights), columns, cells), np.int64)
    step = max(1, _CACHED // max(1, len(members.rows)))
    for start in range(0, columns, step):
        keys = _cells(members, binned, slice(start, start + step))
        keys += np.arange(len(keys))[:, None] * cells
        for sums, each in zip(out, (None, *weights), strict=True):
            spread = None if each is None else np.broadcast_to(each, keys.shape).ravel()
            flat = np.bincount(keys.ravel(), spread, len(keys) * cells)
            sums[start : start + step] = flat.reshape(len(keys), cells)
    shape = (len(out), columns, members.nodes, binned.width)
    counts, *sums_of = out.reshape(shape).swapaxes(1, 2)
    return counts, sums_of


def _cells(members: Members, binned: Binned, columns: slice) -> Ints:
    """Each member's cell ``node * width + bin`` in each column."""
    return members.node * binned.width + binned.columns[columns, members.rows]


def _sums(
    members: Members, binned: Binned, c: residue.CiphertextArray, which: Ints
) -> residue.CiphertextArray:
    order, counts = _by_key(_cells(members, binned, slice(None)), members.nodes * binned.width)
    return c.gather_sum(which[order].ravel(), _offsets(counts))


def _sums_by_pairs(
    members: Members, binned: Binned, c: residue.CiphertextArray, which: Ints
) -> residue.CiphertextArray:
    columns, width = len(binned.columns), binned.width
    first = _cells(members, binned, slice(0, None, 2))
    second = np.zeros_like(first)  # an odd column's partner
    second[: columns // 2] = binned.columns[1::2, members.rows]
    order, counts = _by_key(first * width + second, members.nodes * width**2)
    cells = c.gather_sum(which[order].ravel(), _offsets(counts))
    pair, cell = np.nonzero(counts)
    row = 2 * pair * members.nodes * width
    along_first = row + cell // width
    along_second = row + (members.nodes + cell // width**2) * width + cell % width
    keys = np.concatenate([along_first, along_second])
    kept = np.flatnonzero(keys < columns * members.nodes * width)
    order = np.argsort(keys[kept], kind="stable")
    return cells.gather_sum(kept[order] % len(cells), _offsets(np.bincount(keys[kept])))


def _by_key(keys: Ints, cells: int) -> tuple[Ints, Ints]:
    """Each row's order by key, and how often each key occurs in it, ``(len(keys), cells)``."""
    small = keys.astype(np.uint16 if cells <= 1 << 16 else np.uint32)  # two bytes sort by radix
    order = np.argsort(small, axis=1, kind="stable")
    flat = keys + np.arange(len(keys))[:, None] * cells
    counts = np.bincount(flat.ravel(), minlength=len(keys) * cells)
    return order, counts.reshape(len(keys), cells)


def _offsets(counts: Ints) -> Ints:
    """Where segments of so many begin and end, without the empty ones."""
    return np.concatenate([[0], np.cumsum(counts[counts > 0])])
