"""The redundant words that processing elements exchange, for benches."""

from __future__ import annotations

import random
from collections.abc import Sequence

from residue_sim.golden import to_words

__all__ = ["Limbs"]


class Limbs:
    """Limbs of ``H = ceil(W/2)`` bits of a ring word: two, with Karatsuba four.

    Limb i of a word has the weight ``2^(H*i)`` and is below ``limit[i]``. With Karatsuba the upper
    two are sent as their differences to the lower two (hw/rtl/arith/residue_mac_karatsuba.sv).
    """

    def __init__(self, word_bits: int, karatsuba: bool) -> None:
        self.karatsuba = karatsuba
        self.half = half = (word_bits + 1) // 2
        self.ring_bits = word_bits * (2 if karatsuba else 1)
        self.weights = tuple(half * i for i in range(4 if karatsuba else 2))
        unit = 1 << half
        upper = 1 << (word_bits - half)
        self.limit = (unit, 8 * unit, unit, unit) if karatsuba else (3 * unit, 3 * upper)
        self._sent_bits = (
            (half, half + 3, half + 1, half + 4) if karatsuba else (half + 2, half + 2)
        )

    def pack(self, limbs: Sequence[int]) -> int:
        """A word as it stands on a port."""
        sent = list(limbs)
        if self.karatsuba:
            sent[2:] = [sent[2] - sent[0], sent[3] - sent[1]]
        word = 0
        for limb, bits in zip(reversed(sent), reversed(self._sent_bits), strict=True):
            word = word << bits | limb & ((1 << bits) - 1)
        return word

    def unpack(self, word: int) -> list[int]:
        """The limbs of a word on a port."""
        limbs = []
        for bits in self._sent_bits:
            limbs.append(word & ((1 << bits) - 1))
            word >>= bits
        if self.karatsuba:
            for i in (2, 3):
                limbs[i] -= (limbs[i] >> (self._sent_bits[i] - 1)) << self._sent_bits[i]
                limbs[i] += limbs[i - 2]
        return limbs

    def value(self, words: Sequence[int]) -> int:
        """The number that words on a port stand for."""
        return sum(
            limb << (self.ring_bits * j + weight)
            for j, word in enumerate(words)
            for limb, weight in zip(self.unpack(word), self.weights, strict=True)
        )

    def redundant(self, rng: random.Random, value: int, count: int) -> list[int]:
        """`value` in `count` packed words, with carries moved down at random as limbs allow."""
        size = len(self.weights)
        after = (*self.weights[1:], self.ring_bits)
        limbs = [
            (word >> weight) & ((1 << (end - weight)) - 1)
            for word in to_words(value, self.ring_bits, count)
            for weight, end in zip(self.weights, after, strict=True)
        ]
        for i in range(len(limbs) - 1, 0, -1):
            below = (i - 1) % size
            unit = 1 << (after[below] - self.weights[below])
            most = min((self.limit[below] - 1 - limbs[i - 1]) // unit, limbs[i])
            moved = rng.choice((0, rng.randint(0, most), most))
            limbs[i] -= moved
            limbs[i - 1] += moved * unit
        return [self.pack(limbs[j : j + size]) for j in range(0, len(limbs), size)]
