"""Exponentials of shared numbers.

From M. Kelkar et al., "Secure Poisson regression", USENIX Security 2022.

``exp(u) = 2**v``, v = u log2(e). From shares a + b = v over the integers, in units of ``2**-20``,
each party makes ``2**floor(a) * 2**(a - floor(a))``: the first modulo a prime p, the second as a
fixed-point number from 1 to 2. The product modulo p of both, times ``2**least`` so that it is an
integer where v is not below ``2 - least``, is the exponential, far below p. So its shares modulo p
are shares over the integers but with a probability of ``exp(u) / p``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import gmpy2
import numpy as np

from residue_federated.shared._exchange import Exchange, Slots
from residue_federated.shared._ring import Integers, Ring, integers

__all__ = ["FACTOR_BITS", "LOG2_BITS", "Exponential", "prime_of_bits"]

LOG2_BITS = 16
"""Fractional bits of log2(e) where a number is multiplied by it."""
FACTOR_BITS = 16
"""Fractional bits of a party's factor in [1, 2)."""
_EXPONENT_BITS = 20
"""Fractional bits of the exponent that is shared."""
_LOG2_E = round(math.log2(math.e) * 2**LOG2_BITS)


def prime_of_bits(bits: int) -> int:
    """A modulus of factors: near the root of two times a power of two.

    Were it near the power itself, an exponential that is too large for it would leave a small
    number and pass for one.
    """
    return int(gmpy2.next_prime(math.isqrt(2 << 2 * (bits - 1))))


@dataclass(frozen=True)
class Exponential:
    """That of one party.

    fraction: fractional bits of what is exponentiated. prime: modulus of multiplicative shares.
    least: ``2**(2 - least)`` is the smallest exponential that two factors can have.
    """

    exchange: Exchange
    ring: Ring
    fraction: int
    prime: int
    least: int

    @property
    def unit(self) -> int:
        """Fractional bits of an exponential."""
        return self.least + 2 * FACTOR_BITS

    def __call__(self, tag: str, u: Integers, ahead: int = 0) -> Integers:
        """Shares over the integers of ``exp(u)``, of the shape of u's reduced shares.

        ahead: ciphertexts for which randomness is made ready while waiting.
        """
        exchange, bits = self.exchange, self.prime.bit_length()
        slots = Slots.plan(u.size, 2 * bits, exchange.key_bits)
        own = self.factors(u)
        part = exchange.crossed(tag, own, bits, slots, lambda c: c.multiply(own), ahead)
        return np.asarray(part % self.prime - (0 if exchange.lead else self.prime)).reshape(u.shape)

    def factors(self, u: Integers) -> Integers:
        """This party's, modulo the prime."""
        lead = self.exchange.lead
        drop = self.fraction + LOG2_BITS - _EXPONENT_BITS
        v = self.ring.truncated(self.ring.reduced(u * _LOG2_E), drop, lead=lead)
        whole = (v >> _EXPONENT_BITS) + (0 if lead else self.least)
        rest = np.ldexp((v & ((1 << _EXPONENT_BITS) - 1)).astype(np.float64), -_EXPONENT_BITS)
        fine = integers(np.rint(np.ldexp(np.exp2(rest), FACTOR_BITS)).astype(np.int64))
        return np.asarray(self._powers(whole % (self.prime - 1)) * fine % self.prime)

    def _powers(self, exponents: Integers) -> Integers:
        """Of 2 modulo the prime, in constant time."""
        found = [int(gmpy2.powmod_sec(2, e, self.prime)) for e in exponents.ravel().tolist()]
        return integers(found).reshape(exponents.shape)
