"""Fixed-point numbers of vertical training.

All arithmetic under encryption is on integers whose scales both ends know, so what is decrypted is
exact and the same on every device:

- a feature column is ``q = round(x * scale)``, ``|q| < 2**(feature_bits - 1)``, its scale chosen
  by the party that owns it so that the column uses the whole width;
- a party's share of a row's residual is ``round(share * 2**residual_bits)``, below
  ``2**(residual_bits + integer_bits)`` in magnitude;
- a gradient is the integer sum of their products.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from residue_federated._scratch import row_blocks
from residue_federated.errors import Diverged
from residue_federated.linear._columns import Columns
from residue_federated.linear._config import Precision

__all__ = [
    "LOSS_BITS",
    "LOSS_WIDTH",
    "Quantised",
    "encode_residual_share",
    "loss_coefficients",
    "quantise",
]

Matrix = Columns | NDArray[np.float64]

LOSS_BITS = 26
"""Fractional bits of the coefficients that turn a gradient into a share of the loss."""
LOSS_WIDTH = 40
"""Such a coefficient is below ``2**LOSS_WIDTH``."""


class _Rounded:
    """``q[rows]``: ``(rows, columns) int64``, made of the rows that are asked for."""

    def __init__(self, x: Matrix, scale: NDArray[np.float64]) -> None:
        self._x, self._scale = x, scale
        self.shape = x.shape

    def __getitem__(self, rows: Any) -> NDArray[np.int64]:
        return np.asarray(np.rint(self._x[rows] * self._scale), dtype=np.int64)


@dataclass(frozen=True)
class Quantised:
    """``x ~ q / scale``. x: ``(rows, columns) float64``; scale: ``(columns,) float64``."""

    x: Matrix
    scale: NDArray[np.float64]

    @property
    def q(self) -> _Rounded:
        """The integers of chosen rows: ``q[rows]``."""
        return _Rounded(self.x, self.scale)


def quantise(x: Matrix, bits: int) -> Quantised:
    """Columns of `x` as integers of `bits` bits, sign included; an all-zero column has scale 1."""
    largest = np.zeros(x.shape[1])
    for rows in row_blocks(x):
        largest = np.maximum(largest, np.abs(x[rows]).max(axis=0))
    scale = np.where(largest > 0, (2 ** (bits - 1) - 1) / np.where(largest > 0, largest, 1), 1.0)
    return Quantised(x, scale)


def encode_residual_share(share: NDArray[np.float64], precision: Precision) -> NDArray[np.int64]:
    """A party's share of the residuals, ``(rows,) int64``.

    Raises `Diverged` if one is not below ``2**integer_bits``.
    """
    limit = 2.0**precision.integer_bits
    if not bool(np.all(np.abs(share) < limit)):
        raise Diverged(
            f"a residual reached {limit:g}, the bound of precision.integer_bits: lower the "
            "learning rate, standardise the data or raise integer_bits"
        )
    return np.asarray(np.rint(share * 2.0**precision.residual_bits), dtype=np.int64)


def loss_coefficients(
    weights: NDArray[np.float64], scale: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Integers c with ``sum(c * gradient) / 2**LOSS_BITS`` = the sum of weight * true gradient.

    Raises `Diverged` if a weight is too large for them.
    """
    out = np.rint(weights / scale * 2.0**LOSS_BITS)
    if not bool(np.all(np.abs(out) < 2.0**LOSS_WIDTH)):
        raise Diverged("a weight grew past all bounds: lower the learning rate")
    return np.asarray(out, dtype=np.int64)
