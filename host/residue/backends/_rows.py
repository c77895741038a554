"""Simultaneous powers of several rows of bases, on backends that know them and on others."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from residue.backends._protocol import Backend, ResidueArray, SupportsMultiPowRows

__all__ = ["multi_pow_rows", "row_by_row"]

Index = NDArray[np.int64]


def multi_pow_rows(
    backend: Backend, a: ResidueArray, index: Index, exponents: Index, bits: int
) -> ResidueArray:
    """As `SupportsMultiPowRows.multi_pow_rows`, on any backend."""
    if isinstance(backend, SupportsMultiPowRows):
        return backend.multi_pow_rows(a, index, exponents, bits)
    return row_by_row(backend, a, index, exponents, bits)


def row_by_row(
    backend: Backend, a: ResidueArray, index: Index, exponents: Index, bits: int
) -> ResidueArray:
    """As `multi_pow_rows`, by one `multi_pow` a row."""
    parts = [
        backend.multi_pow(backend.take(a, row), exponents, bits)
        for row in np.ascontiguousarray(index)
    ]
    return parts[0] if len(parts) == 1 else backend.concat(parts)
