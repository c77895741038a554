"""Rows in blocks: one is computed on while the next is encrypted."""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["BLOCK_ROWS", "block_count", "blocks"]

BLOCK_ROWS = 1 << 14
"""Of every block but the last."""


def block_count(rows: int) -> int:
    """How many `blocks` there are of so many rows."""
    return -(-rows // BLOCK_ROWS)


def blocks(rows: int) -> Iterator[slice]:
    """All rows, in order."""
    for start in range(0, rows, BLOCK_ROWS):
        yield slice(start, min(start + BLOCK_ROWS, rows))
