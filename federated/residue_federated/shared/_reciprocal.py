"""Of shared numbers S in a known interval the shares of 1 / S, by Goldschmidt's division.

Let ``T = S / 2**h`` with T at most 1, and n a line near 1 / T. The error ``e = 1 - T n`` is the
quadratic polynomial that is 1 at 0 and least over the interval, Chebyshev's: ``1 - A T + B T**2``.
Then, together,

    n = n + n e    e = e**2

(R. Goldschmidt, 1964): ``T n = 1 - e`` holds on, and e is squared until it is below
``2**-ACCURACY_BITS``. Every product is one of two shared numbers: the host offers its shares, the
guest multiplies. All numbers are in `RING` with `FRACTION` fractional bits, n with `INVERSE_BITS`,
to which every product is truncated, off by less than one unit. What is truncated is at most
``2**64``: that fails with a probability of at most ``2**-64`` (`Ring.over_integers`).

The number of rounds depends on the interval alone; no sum, sign or magnitude becomes known.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import numpy as np

import residue
from residue.paillier import concatenate
from residue_federated.shared._exchange import Exchange, Slots
from residue_federated.shared._ring import Integers, Ring

__all__ = ["ACCURACY_BITS", "FRACTION", "INVERSE_BITS", "RING", "Interval", "Reciprocal", "times"]

RING = Ring(128)
FRACTION = 30
INVERSE_BITS = 33
"""Fractional bits of a reciprocal: of a thousand classes it can be small."""
ACCURACY_BITS = 14
"""A reciprocal times its number is 1 within ``2**-ACCURACY_BITS``, and at most so much again for
truncations."""


@dataclass(frozen=True)
class Interval:
    """Where sums are, ``0 < low < high``, and what follows from it; at most 2048 times as large."""

    low: Fraction
    high: Fraction

    @cached_property
    def shift(self) -> int:
        """The h for which ``high <= 2**h``, 0 at least."""
        return max(0, (-(-self.high.numerator // self.high.denominator) - 1).bit_length())

    @cached_property
    def line(self) -> tuple[int, int]:
        """A and B in units of ``2**-FRACTION``: ``n = A - B T``."""
        scale = 8 / self._denominator * 2**FRACTION
        ends = (self.high + self.low) / 2**self.shift
        return round(scale * ends), round(scale)

    @cached_property
    def rounds(self) -> int:
        """How often the error is squared."""
        rounds = 0
        width = self.high - self.low
        error = width * width / (1 << 2 * self.shift) / self._denominator
        while error**2**rounds > Fraction(1, 2**ACCURACY_BITS):
            rounds += 1
        return rounds

    @property
    def _denominator(self) -> Fraction:
        """``2 s**2 - w**2`` for sum s and difference w of the ends of T's interval."""
        ends, width = self.high + self.low, self.high - self.low
        return (2 * ends * ends - width * width) / (1 << 2 * self.shift)


@dataclass(frozen=True)
class Reciprocal:
    """That of one party."""

    exchange: Exchange
    interval: Interval

    def __call__(self, tag: str, sums: Integers) -> Integers:
        """Reduced shares ``(n,)`` of ``1 / S``, in units of ``2**-INVERSE_BITS``.

        sums: those of S, in units of ``2**-FRACTION``. Where an S is outside the interval the
        result is anything.
        """
        a, b = self.interval.line
        shift, lead = self.interval.shift, self.exchange.lead
        one = 1 << 2 * FRACTION if lead else 0
        t = _truncated(sums, shift, lead=lead)
        square = _truncated(self._square(f"s/{tag}", t), FRACTION, lead=lead)
        error = _truncated(RING.reduced(one - a * t + b * square), FRACTION, lead=lead)
        line = (a << FRACTION if lead else 0) - b * t
        fine = INVERSE_BITS - FRACTION
        inverse = _truncated(RING.reduced(line), FRACTION + shift - fine, lead=lead)
        for number in range(self.interval.rounds):
            last = number == self.interval.rounds - 1
            products = self._round(f"r/{tag}/{number}", error, inverse, last=last)
            products = _truncated(products, FRACTION, lead=lead)
            inverse = RING.reduced(inverse + products[-1])
            error = products[0]
        return inverse

    def _square(self, tag: str, t: Integers) -> Integers:
        slots = Slots.plan(len(t), 2 * RING.bits + 1, self.exchange.key_bits)
        part = self.exchange.crossed(
            tag, t, RING.bits, slots, lambda c: c.multiply(2 * t), self._ahead(t)
        )
        return RING.reduced(t * t + part)

    def _round(self, tag: str, error: Integers, inverse: Integers, *, last: bool) -> Integers:
        """``e**2`` and ``n e``, ``(2, n)``; in the last round ``n e`` alone, ``(1, n)``."""
        own = np.stack([error, inverse])
        slots = Slots.plan((2 - last) * len(error), 2 * RING.bits + 1, self.exchange.key_bits)

        def cross(c: residue.CiphertextArray) -> residue.CiphertextArray:
            mixed = c.multiply(own[::-1]).sum(axis=0).reshape(1, -1)
            return mixed if last else concatenate([c[:1].multiply(2 * error), mixed])

        part = self.exchange.crossed(tag, own, RING.bits, slots, cross, self._ahead(error))
        local = own[last:] * error
        return RING.reduced(local + part.reshape(local.shape))

    def _ahead(self, numbers: Integers) -> int:
        """The host's next offer, for while it waits; the guest makes none."""
        return 0 if self.exchange.lead else 2 * len(numbers)


def times(exchange: Exchange, tag: str, many: Integers, one: Integers, ahead: int = 0) -> Integers:
    """Reduced shares ``(m, n)`` of each of ``(m, n)`` shared numbers times one of ``(n,)``.

    ahead: ciphertexts for which randomness is made ready while waiting.
    """
    slots = Slots.plan(many.size, 2 * RING.bits + 1, exchange.key_bits)
    own = np.concatenate([many, one[None]])
    part = exchange.crossed(
        tag, own, RING.bits, slots, lambda c: c[:-1].multiply(one) + c[-1].multiply(many), ahead
    )
    return RING.reduced(many * one + part.reshape(many.shape))


def _truncated(shares: Integers, bits: int, *, lead: bool) -> Integers:
    return RING.reduced(RING.truncated(shares, bits, lead=lead))
