"""The golden model against Python's own modular arithmetic."""

from __future__ import annotations

import doctest
import random

import pytest

from residue_sim import golden
from residue_sim.golden import Montgomery, digit_count, from_words, to_words
from residue_sim.stimuli import edge_operands, odd_modulus


def test_doctest() -> None:
    assert doctest.testmod(golden).failed == 0


@pytest.mark.parametrize(
    ("bits", "k"), [(512, 12), (1024, 22), (2048, 42), (3072, 62), (4096, 82), (6144, 122)]
)
def test_digit_count(bits: int, k: int) -> None:
    assert digit_count(bits, 51) == k


@pytest.mark.parametrize(("word", "elements"), [(6, 2), (51, 6), (51, 21)])
def test_products_are_right_and_stay_in_range(word: int, elements: int) -> None:
    rng = random.Random(word * elements)
    for bits in (word + 1, 3 * word, 7 * word - 1):
        ctx = Montgomery.of(odd_modulus(rng, bits), word, elements)
        assert 4 * ctx.n_tilde < 1 << (word * ctx.k)
        assert (ctx.n_tilde + 1) % (1 << word) == 0
        inverse = pow(ctx.r, -1, ctx.n_tilde)
        edges = edge_operands(ctx)
        assert {0, 1, ctx.modulus - 1, 2 * ctx.n_tilde - 1} <= set(edges)
        for a in edges:
            b = rng.choice(edges)
            product = ctx.multiply(a, b)
            assert product < 2 * ctx.n_tilde
            assert product % ctx.n_tilde == a * b * inverse % ctx.n_tilde


def test_there_and_back() -> None:
    rng = random.Random(3)
    ctx = Montgomery.of(odd_modulus(rng, 512), elements=6)
    assert ctx.leave(ctx.one) == 1
    for x in (0, 1, ctx.modulus - 1, rng.randrange(ctx.modulus)):
        assert ctx.leave(ctx.enter(x)) == x


def test_modulus_block() -> None:
    ctx = Montgomery.of((1 << 511) + 111, elements=21)
    block = ctx.block()
    assert len(block) == 4 + 5 * ctx.k
    assert block[:4] == [ctx.k, ctx.n0inv, 0, 0]
    rows = [from_words(block[4 + i * ctx.k :][: ctx.k], 51) for i in range(5)]
    assert rows == [ctx.m, ctx.modulus, ctx.r_squared, ctx.one, 1 << 51]


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="odd"):
        Montgomery.of(1 << 64)
    with pytest.raises(ValueError, match="at least 12"):
        Montgomery.of((1 << 512) - 1, k=10)
    with pytest.raises(ValueError, match="even"):
        Montgomery.of((1 << 512) - 1, k=13)
    with pytest.raises(ValueError, match="does not fit"):
        to_words(64, 6, 1)
