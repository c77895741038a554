"""From shares of predictors u to shares of residuals, both in units of ``2**-fraction``.

A quadratic objective's residual is linear in u, so each party computes its share alone. Sine and
Poisson take one product of what each party makes of its own shares a and b, ``a + b = u``: the host
sends it encrypted, the guest multiplies (`Exchange.crossed`). Softmax takes several.
"""

from __future__ import annotations

from functools import cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from residue_federated.shared._config import SharedConfig
from residue_federated.shared._exchange import Exchange, Slots
from residue_federated.shared._exponential import Exponential, prime_of_bits
from residue_federated.shared._format import fraction_of
from residue_federated.shared._ring import Integers, Ring, integers, shifted_right
from residue_federated.shared._softmax import Softmax

__all__ = ["PERIOD_BITS", "Residuals", "residuals_of", "sine_series", "sines"]

PERIOD_BITS = 6
"""The sine series has period ``2**PERIOD_BITS``."""
_TERMS = 6
_FITTED = 0.75
"""The series is fitted in this part of half a period; beyond, it returns to 0 at its end."""
_SINE_BITS = 22
"""Fractional bits of a sine or cosine."""

_PRIME = prime_of_bits(130)
"""Modulus of a mean's multiplicative shares."""
_LEAST = 26
"""``2**(2 - _LEAST)`` is the smallest mean that two factors can have."""


class Residuals(Protocol):
    """One objective at one party; label: ``(rows,) float64`` at the guest, None at the host."""

    def __call__(self, tag: str, u: Integers, label: NDArray[np.float64] | None) -> Integers:
        """Reduced shares of the residuals, from reduced shares of the predictors: both ``(rows,)``,
        or ``(classes, rows)`` of softmax.
        """


def residuals_of(config: SharedConfig, exchange: Exchange, ring: Ring) -> Residuals:
    """Those of the objective that a job asks for."""
    fraction = fraction_of(config.precision)
    if config.softmax:
        return Softmax(exchange, ring, config.precision)
    if config.type == "shared_poisson_regression":
        return _Poisson(exchange, ring, fraction)
    if config.activation == "sine":
        return _Sine(exchange, ring, fraction)
    # Of the logistic loss to second order, 4 d = u - 2 y: the factor 1/4 is in the step's gain.
    return _Quadratic(ring, fraction, 2 if config.type == "shared_logistic_regression" else 1)


def _encoded(label: NDArray[np.float64], fraction: int) -> Integers:
    """In units of ``2**-fraction``, rounded to ``2**-20``."""
    rounded = np.rint(np.ldexp(label, 20)).astype(np.int64)
    return np.asarray(integers(rounded) * (1 << (fraction - 20)))


class _Quadratic:
    def __init__(self, ring: Ring, fraction: int, factor: int) -> None:
        self._ring = ring
        self._fraction = fraction
        self._factor = factor

    def __call__(self, tag: str, u: Integers, label: NDArray[np.float64] | None) -> Integers:
        """``u - factor * y``."""
        if label is None:
            return u
        return self._ring.reduced(u - self._factor * _encoded(label, self._fraction))


class _Sine:
    """``sum of c_k sin(2 pi k u / 64) - y / 2`` with y = -1 or 1: `sine_series`.

    Shares a + b = u modulo 64 are angles that need no unwrapping, and each party computes the
    sines and cosines of its own: ``sin(k(a + b)) = sin(ka) cos(kb) + cos(ka) sin(kb)``. The host
    sends its two of every k, the guest multiplies by its own and by c_k, each below 1. C. Boura et
    al., "High-precision privacy-preserving real-valued function evaluation", FC 2018.
    """

    def __init__(self, exchange: Exchange, ring: Ring, fraction: int) -> None:
        self._exchange = exchange
        self._ring = ring
        self._fraction = fraction

    def __call__(self, tag: str, u: Integers, label: NDArray[np.float64] | None) -> Integers:
        exchange = self._exchange
        period = self._fraction + PERIOD_BITS
        angles = (u & ((1 << period) - 1)).astype(np.float64) * (2 * np.pi / 2.0**period)
        turns = np.outer(np.arange(1, _TERMS + 1), angles)
        both = np.concatenate([np.sin(turns), np.cos(turns)])
        bits = 2 * _SINE_BITS + (2 * _TERMS).bit_length()
        slots = Slots.plan(len(u), bits, exchange.key_bits)
        if exchange.lead:
            both *= np.tile(sine_series(), 2)[:, None]
        else:
            both = np.roll(both, _TERMS, axis=0)
        own = integers(_fixed(both))
        part = exchange.crossed(
            f"p/{tag}",
            own,
            _SINE_BITS + 1,
            slots,
            lambda c: c.multiply(own).sum(axis=0),
            ahead=0 if exchange.lead else both.size,
        )
        d = shifted_right(part, 2 * _SINE_BITS - self._fraction, lead=exchange.lead)
        if label is not None:
            d = d - _encoded(label / 2, self._fraction)
        return self._ring.reduced(d)


def _fixed(values: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.asarray(np.rint(np.ldexp(values, _SINE_BITS)), dtype=np.int64)


@cache
def sine_series() -> NDArray[np.float64]:
    """``c_1, c_2, ...`` of the least-squares fit of ``sigmoid(u) - 1/2``."""
    end = _FITTED * 2 ** (PERIOD_BITS - 1)
    u = np.linspace(-end, end, 4001)
    fitted = np.linalg.lstsq(sines(u), 0.5 * np.tanh(u / 2), rcond=None)[0]
    return np.asarray(fitted)


def sines(u: NDArray[np.float64]) -> NDArray[np.float64]:
    """``(len(u), terms)``: those that the series adds up."""
    turns = np.outer(u, np.arange(1, _TERMS + 1)) * (2 * np.pi / 2**PERIOD_BITS)
    return np.asarray(np.sin(turns))


class _Poisson:
    """``exp(u) - y``, by `Exponential`."""

    def __init__(self, exchange: Exchange, ring: Ring, fraction: int) -> None:
        self._ring = ring
        self._fraction = fraction
        self._exponential = Exponential(exchange, ring, fraction, _PRIME, _LEAST)

    def __call__(self, tag: str, u: Integers, label: NDArray[np.float64] | None) -> Integers:
        exponential = self._exponential
        lead = exponential.exchange.lead
        mean = exponential(f"p/{tag}", u, ahead=0 if lead else len(u))
        d = shifted_right(mean, exponential.unit - self._fraction, lead=lead)
        if label is not None:
            d = d - _encoded(label, self._fraction)
        return self._ring.reduced(d)
