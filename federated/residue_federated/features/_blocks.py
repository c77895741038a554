"""Rows in blocks: one is computed on while the next is encrypted."""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["blocks"]

_BLOCK = 1 << 14


def blocks(rows: int) -> Iterator[slice]:
    """All rows, in order."""
    for start in range(0, rows, _BLOCK):
        yield slice(start, min(start + _BLOCK, rows))
