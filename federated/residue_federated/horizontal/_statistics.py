"""Columns to mean 0 and variance 1 over the rows of all parties."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from residue_federated._data import Scaling

__all__ = ["joint_scaling"]

_CONSTANT = 1e-12
"""A column whose deviation is so much smaller than its mean varies by rounding only."""


def joint_scaling(mean: NDArray[np.float64], variance: NDArray[np.float64]) -> Scaling:
    """The scaling of columns with these moments; a constant column is only moved to 0."""
    deviation = np.sqrt(variance)
    return Scaling(mean, np.where(deviation > _CONSTANT * np.abs(mean), deviation, 1.0))
