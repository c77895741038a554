"""Residuals of softmax regression: ``exp(u_k) / sum of exp(u_j) - y_k`` of shared scores.

Per batch, all of a row's classes together, everything shared:

1. the highest score M of a row, of scores rounded to a quarter, by a tournament of comparisons
   (`residue_federated.shared._rectify`): neither who wins nor by how much becomes known;
2. ``E_k = exp(u_k - M)``, by `Exponential`. M is off by less than a quarter, so the largest E_k is
   from 0.778 to 1.285, and the sum S from 0.77 to 1.29 times the number of classes;
3. ``1 / S`` by `Reciprocal`, then the products ``E_k / S``.

Scores of a row may differ by less than ``2**(integer_bits + 1) - 1/2``. Where they differ by more,
a comparison or an exponential is taken modulo something that it does not fit. What comes out, if
not the right probabilities by chance, are numbers of some hundred bits, and so are weights from
there on: the range that is checked when weights or scores are opened does not hold them.
"""

from __future__ import annotations

import math
from fractions import Fraction
from functools import cache

import numpy as np
from numpy.typing import NDArray

from residue_federated.shared._config import SharedPrecision
from residue_federated.shared._exchange import Exchange
from residue_federated.shared._exponential import FACTOR_BITS, Exponential, prime_of_bits
from residue_federated.shared._format import SLACK_BITS, fraction_of
from residue_federated.shared._reciprocal import (
    FRACTION,
    INVERSE_BITS,
    RING,
    Interval,
    Reciprocal,
    times,
)
from residue_federated.shared._rectify import Rectifier
from residue_federated.shared._ring import Integers, Ring, integers, shifted_right

__all__ = ["Softmax", "interval_of", "levels_of", "prime_of"]

_COARSE_BITS = 2
"""Fractional bits of the scores that are compared."""
_LOWEST, _HIGHEST = Fraction(77, 100), Fraction(129, 100)
"""Bounds of a row's sum, the latter times the number of classes."""


def levels_of(classes: int) -> int:
    """Of the tournament for the highest of so many scores."""
    return (classes - 1).bit_length()


@cache
def interval_of(classes: int) -> Interval:
    """Where sums over so many classes are."""
    return Interval(_LOWEST, _HIGHEST * classes)


def _least(precision: SharedPrecision) -> int:
    """``2**(2 - least)`` is below the exponential of the lowest score of a row."""
    return math.ceil((2 << precision.integer_bits) * math.log2(math.e)) + 3


@cache
def prime_of(precision: SharedPrecision) -> int:
    """Modulus of an exponential's factors: ``2**SLACK_BITS`` times what it may be, at least."""
    return prime_of_bits(_least(precision) + 2 * FACTOR_BITS + 2 + SLACK_BITS)


class Softmax:
    """One party's. Scores and residuals are ``(classes, rows)``."""

    def __init__(self, exchange: Exchange, ring: Ring, precision: SharedPrecision) -> None:
        self._exchange = exchange
        self._ring = ring
        self._fraction = fraction_of(precision)
        self._rectifier = Rectifier(exchange, RING, precision.integer_bits + 1 + _COARSE_BITS)
        prime, least = prime_of(precision), _least(precision)
        self._exponential = Exponential(exchange, ring, self._fraction, prime, least)

    def __call__(self, tag: str, u: Integers, label: NDArray[np.float64] | None) -> Integers:
        """Reduced shares of the residuals, from reduced shares of the scores."""
        ring, lead, ahead = self._ring, self._exchange.lead, 0 if self._exchange.lead else u.size
        drop = self._fraction - _COARSE_BITS
        highest = self._highest(tag, RING.reduced(ring.truncated(u, drop, lead=lead)))
        below = ring.reduced(u - (RING.over_integers(highest, lead=lead) << drop))
        exponentials = self._exponential(f"p/{tag}", below, ahead)
        unit = self._exponential.unit
        e = RING.reduced(shifted_right(exponentials, unit - FRACTION, lead=lead))
        sums = RING.reduced(e.sum(axis=0))
        inverse = Reciprocal(self._exchange, interval_of(len(u)))(tag, sums)
        products = times(self._exchange, f"q/{tag}", e, inverse, ahead)
        drop = FRACTION + INVERSE_BITS - self._fraction
        d = RING.truncated(products, drop, lead=lead)
        if label is not None:
            own = label == np.arange(len(u))[:, None]
            d = d - integers(own.astype(np.int64)) * (1 << self._fraction)
        return ring.reduced(d)

    def _highest(self, tag: str, scores: Integers) -> Integers:
        """Reduced shares ``(rows,)`` of the largest of ``(classes, rows)`` numbers of `RING`."""
        level = 0
        while len(scores) > 1:
            pairs = len(scores) // 2
            one, other = scores[: 2 * pairs : 2], scores[1 : 2 * pairs : 2]
            more = self._rectifier.positive(f"{tag}/{level}", (one - other).ravel())
            won = RING.reduced(other + more.reshape(other.shape))
            scores = np.concatenate([won, scores[2 * pairs :]])
            level += 1
        return np.asarray(scores[0])
