"""Of shared numbers v the shares of ``max(v, 0)``, and so the soft thresholds of an L1 penalty.

Neither party learns a sign. With ``abs(v) < 2**bits``, v's shares modulo ``2**(bits + 1)`` have its
sign: it is the sum modulo 2 of their highest bits and of the carry of the others, x and y, which is
``x > ~y``. That comparison is I. Damgaard, M. Geisler and M. Kroigaard, "Homomorphic encryption and
secure comparison", IJACT 2008, section 4: the host sends the bits of its number, encrypted, the
guest makes of them one number for each place, of which one is 0 if the comparison holds and none
otherwise. A random bit of the guest turns the comparison round, so the host that decrypts them
learns a share of the outcome. Their plaintexts are modulo a small prime by the order of a group;
here they are integers, each multiplied by a random factor below the prime `_PRIME` and under a mask
that is a multiple of it: modulo the prime nothing is left but whether they are 0, and many of them
lie in one plaintext.

The product with the number itself, ``v * (a + b - 2 a b)`` for shares a and b of the bit, is one of
what each party knows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from residue_federated.shared._exchange import Exchange, Slots
from residue_federated.shared._ring import Integers, Ring, integers

__all__ = ["Rectifier"]

_PRIME = 251
"""Above the numbers of a comparison of n places, up to ``3 n - 1``: none but 0 is a multiple."""
_FACTOR_BITS = 8


@dataclass(frozen=True)
class Rectifier:
    """One party's. bits: numbers are below ``2**bits`` in magnitude, bits at most 80."""

    exchange: Exchange
    ring: Ring
    bits: int

    def soft(self, tag: str, shares: Integers, threshold: int) -> Integers:
        """Shares of ``sign(v) * max(abs(v) - threshold, 0)``, ``(n,)``."""
        public = threshold if self.exchange.lead else 0
        positive, negative = np.split(
            self.positive(tag, np.concatenate([shares - public, -shares - public])), 2
        )
        return self.ring.reduced(positive - negative)

    def positive(self, tag: str, shares: Integers) -> Integers:
        """Shares of ``max(v, 0)``, ``(n,)``."""
        exchange, shares = self.exchange, self.ring.reduced(shares)
        high = (shares >> self.bits & 1).astype(np.int64)
        bit = high ^ self._no_carry(f"c/{tag}", shares & ((1 << self.bits) - 1))
        signed = shares * (1 - 2 * bit)
        slots = Slots.plan(len(shares), 2 * self.ring.bits + 1, exchange.key_bits)
        own = np.stack([signed, integers(bit)] if exchange.lead else [integers(bit), signed])
        part = exchange.crossed(
            f"m/{tag}",
            own,
            self.ring.bits,
            slots,
            lambda c: c.multiply(own).sum(axis=0),
            ahead=slots.groups if exchange.lead else 0,
        )
        return self.ring.reduced(shares * bit + part)

    def _no_carry(self, tag: str, low: Integers) -> NDArray[np.int64]:
        """Shares modulo 2, ``(n,)``, of whether the parties' numbers add up below ``2**bits``.

        That is ``x < y`` for ``2 x`` at the guest and ``2 (2**bits - 1 - low) + 1`` at the host,
        which are never the same.
        """
        exchange, places = self.exchange, self.bits + 1
        mine = 2 * low if exchange.lead else (2 << self.bits) - 1 - 2 * low
        digits = (mine[:, None] >> np.arange(places)[::-1] & 1).astype(np.int64)
        slots = Slots.plan(digits.size, 2 * _FACTOR_BITS, exchange.key_bits)
        if not exchange.lead:
            exchange.offer(tag, integers(digits))
            found = exchange.collect(tag, slots, ahead=2 * len(low)) % _PRIME
            return np.asarray((found.reshape(digits.shape) == 0).any(axis=1), dtype=np.int64)
        turned, factors, order = self._secrets(tag, digits.shape)
        c = exchange.take(tag, digits.shape, 1, ahead=slots.groups)
        # A sum is 0 only at the first place where digits differ, if x is smaller, or, where turned,
        # larger: at places before it is 1 or -1, after it each difference before counts 3.
        differ = c.multiply(1 - 2 * digits) + digits
        above = differ @ (3 * np.triu(np.ones((places, places), np.int64), 1))
        sums = above - c + (digits + 1 - 2 * turned[:, None])
        blind = sums.multiply(factors).ravel()[order]
        exchange.answer(tag, slots.packed(blind), slots, multiples=_PRIME)
        return turned

    def _secrets(
        self, tag: str, shape: tuple[int, int]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """The guest's: a bit a number, a factor a place, and an order of each number's places."""
        count, places = shape
        drawn = self.exchange.drawn(f"{tag}/blind", count * (1 + 4 * places), 8)
        words = drawn.astype(np.uint64)
        turned = (words[:count] & np.uint64(1)).astype(np.int64)
        # Of 128 bits each: of 64 a factor would be 2**-58 from uniform, and two places might tie.
        high, low, first, second = words[count:].reshape(4, count, places)
        most = np.uint64(_PRIME - 1)
        factors = (high % most * np.uint64(2**64 % (_PRIME - 1)) + low % most) % most
        index = np.lexsort((second, first), axis=1) + places * np.arange(count)[:, None]
        return turned, factors.astype(np.int64) + 1, index.ravel()
