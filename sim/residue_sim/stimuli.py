"""Stimuli that the benches share."""

from __future__ import annotations

import random
from collections.abc import Iterator

from residue_sim.golden import Montgomery, from_words

__all__ = ["edge_operands", "odd_modulus", "random_word", "stalls"]


def edge_operands(ctx: Montgomery) -> list[int]:
    """Operands below ``2*N~`` at which carries and quotients are extreme."""
    base, top = 1 << ctx.word_bits, 2 * ctx.n_tilde
    ones = [base - 1] * ctx.k
    edges = [
        *(0, 1, 2, ctx.modulus - 1, ctx.modulus, ctx.n_tilde - 1, ctx.n_tilde, top - 1, top - 2),
        *(base - 1, base, base + 1),
        *(from_words(ones[:j], ctx.word_bits) for j in range(1, ctx.k)),  # ripples
        *(from_words([0] * j + [1], ctx.word_bits) for j in range(1, ctx.k)),
        from_words([base - 1, 0] * (ctx.k // 2), ctx.word_bits),
        from_words([0, base - 1] * (ctx.k // 2), ctx.word_bits),
    ]
    return sorted({edge for edge in edges if edge < top})


def odd_modulus(rng: random.Random, bits: int) -> int:
    """A random odd number of exactly `bits` bits."""
    return rng.getrandbits(bits) | 1 | 1 << (bits - 1)


def random_word(rng: random.Random, bits: int) -> int:
    """A word: zero, one, all ones, half ones, or (mostly) uniform."""
    ones = (1 << bits) - 1
    pick = rng.randrange(12)
    special = (0, 1, ones, ones >> bits // 2, ones - (ones >> bits // 2))
    return special[pick] if pick < len(special) else rng.randrange(ones + 1)


def stalls(rng: random.Random, probability: float) -> Iterator[bool]:
    """Whether a channel pauses, cycle by cycle: for cocotbext's pause generators."""
    while True:
        yield rng.random() < probability
