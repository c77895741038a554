"""Fixed point of secret-shared training: units, and how large every number can get.

With fx, fw, b for ``feature_bits``, ``weight_bits`` and ``integer_bits``:

- a feature is an integer in units of ``2**-fx``, a weight in units of ``2**-fw``, both below
  ``2**b`` in magnitude, so a predictor ``x @ w`` and a residual have ``fx + fw`` fractional bits
  and a gradient ``2 fx + fw``;
- a step is ``(gradient * G + weight * L + step before * M) / 2**shift`` for the integers of
  `Gains`, and that division is the only truncation of a weight;
- what is truncated stays below ``2**(bits - 1 - SLACK_BITS)`` in the ring, so that a truncation
  fails with a probability below ``2**-SLACK_BITS``.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from residue_federated._context import Context
from residue_federated._data import Table
from residue_federated.errors import DataError
from residue_federated.linear._models import Objective
from residue_federated.shared._config import SharedConfig, SharedPrecision
from residue_federated.shared._exponential import LOG2_BITS
from residue_federated.shared._ring import WORD_BITS, Ring

__all__ = [
    "MOST_COLUMNS",
    "MOST_ROWS",
    "Gains",
    "encoded_features",
    "fraction_of",
    "gains",
    "most_rows",
    "ring_of",
    "threshold_of",
]

SLACK_BITS = 64
"""How far the ring is larger than what is truncated in it."""
MOST_COLUMNS = 1 << 20
MOST_ROWS = (1 << 23) - 1
_GAIN_BITS = 16
"""At least so many significant bits has the factor of a gradient."""


@dataclass(frozen=True)
class Gains:
    """A step is ``(gradient * G + weight * L + step before * M) / 2**shift``."""

    gradient: int
    weight: int
    step: int
    shift: int


def fraction_of(precision: SharedPrecision) -> int:
    """Fractional bits of predictors and residuals."""
    return precision.feature_bits + precision.weight_bits


def gains(config: SharedConfig, rows: int) -> Gains:
    """Those of a batch of so many rows: the same at both parties, whatever their machines.

    The mean over rows and the slope of a quadratic objective are in the gradient's.
    """
    slope = Fraction(1)
    if config.quadratic:
        slope = Fraction(Objective.of(config.plain).u_factor)
    rate = Fraction(config.optimiser.learning_rate)
    mean = rate * slope / rows
    log = mean.numerator.bit_length() - mean.denominator.bit_length()
    fine = max(0, _GAIN_BITS + 1 - log)
    shift = fine + 2 * config.precision.feature_bits
    return Gains(
        round(mean * 2**fine),
        round(rate * Fraction(config.l2) * 2**shift),
        round(Fraction(config.optimiser.momentum) * 2**shift),
        shift,
    )


def threshold_of(config: SharedConfig) -> int:
    """Of the soft threshold after a step, in units of a weight."""
    step = Fraction(config.l1) * Fraction(config.optimiser.learning_rate)
    return round(step * (1 << config.precision.weight_bits))


def most_rows(config: SharedConfig, rows: int) -> int:
    """Of one batch."""
    return rows if config.batch_size is None else min(rows, config.batch_size + 1)


def ring_of(config: SharedConfig, rows: int) -> Ring:
    """Wide enough for all that is truncated when tables have so many rows.

    The larger a batch, the larger its step before truncation. Besides there is ``u * log2(e)`` of
    Poisson's and softmax's exponentials, the latter's of a difference of two scores.
    """
    precision = config.precision
    batch = most_rows(config, rows)
    scale = gains(config, batch)
    whole, fraction = precision.integer_bits, fraction_of(precision)
    gradient = (scale.gradient * batch) << (2 * whole + fraction + precision.feature_bits)
    others = (scale.weight + scale.step) << (whole + precision.weight_bits)
    bits = (gradient + others).bit_length()
    bits = max(bits, whole + (2 if config.softmax else 0) + fraction + LOG2_BITS + 1)
    return Ring(-(-(bits + 1 + SLACK_BITS) // WORD_BITS) * WORD_BITS)


def encoded_features(config: SharedConfig, context: Context, table: Table) -> NDArray[np.int64]:
    """Features in units of ``2**-feature_bits``, ``(rows, columns) int64``; the intercept's last.

    Raises `DataError` if there are too many rows or none, or naming a column that is too large.
    """
    party, precision = context.party, config.precision
    if not 1 <= len(table.ids) <= MOST_ROWS:
        raise DataError(f"{party}: {len(table.ids)} rows, where 1 to {MOST_ROWS:,} are possible")
    limit = 1 << precision.integer_bits
    large = np.abs(table.x).max(axis=0) > limit - 1
    if large.any():
        raise DataError(
            f"{party}: column '{table.columns[int(large.argmax())]}' has values beyond {limit - 1} "
            "in magnitude, the bound of precision.integer_bits: standardise it or raise that"
        )
    q: NDArray[np.int64] = np.rint(np.ldexp(table.x, precision.feature_bits)).astype(np.int64)
    if context.role == "host" or not config.intercept:
        return q
    one = np.full((len(q), 1), 1 << precision.feature_bits, dtype=np.int64)
    return np.concatenate([q, one], axis=1)
