"""Bench of residue_mac_word: t + a*b over whole numbers, in redundant digits."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from typing import Any

import cocotb
import pytest
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge

from residue_sim.golden import from_words, to_words
from residue_sim.harness import bench_parameter, run_bench
from residue_sim.stimuli import random_word

LATENCY = 8
Limbs = tuple[int, int]
Operand = tuple[list[int], list[Limbs], int]  # words of a, limbs of t, b


class Bench:
    def __init__(self, dut: Any) -> None:
        self.dut = dut
        self.word = bench_parameter("WordBits")
        self.half = (self.word + 1) // 2
        self.drop_first = bool(bench_parameter("DropFirst"))
        self.rng = random.Random(cocotb.RANDOM_SEED)

    def operands(self) -> Iterator[Operand]:
        ones, limb = (1 << self.word) - 1, (1 << (self.half + 2)) - 1
        for a, t, b in itertools.product((0, 1, ones), (0, limb), (0, 1, ones)):
            yield [a] * 4, [(t, t)] * 4, b
        if self.word <= 6:  # exhaustive over a word and b
            for a, b in itertools.product(range(ones + 1), repeat=2):
                yield [a], [(self.rng.randrange(limb + 1), self.rng.randrange(limb + 1))], b
        for _ in range(120):
            count = self.rng.randrange(1, 6)
            yield (
                [random_word(self.rng, self.word) for _ in range(count)],
                [(self.limb(), self.limb()) for _ in range(count)],
                random_word(self.rng, self.word),
            )

    def limb(self) -> int:
        return random_word(self.rng, self.half + 2)

    def value(self, limbs: list[Limbs]) -> int:
        return from_words([low + (high << self.half) for low, high in limbs], self.word)

    async def run(self, operands: Iterator[Operand]) -> None:
        """Send operands back to back, each followed by a zero word, and compare the sums."""
        slots: list[tuple[int, Limbs, int, bool]] = []
        sums: list[tuple[int, int, int]] = []  # first slot, slots, value
        for a, t, b in operands:
            sums.append((len(slots), len(a) + 1, self.value(t) + from_words(a, self.word) * b))
            slots += [
                (word, limbs, b, j == 0) for j, (word, limbs) in enumerate(zip(a, t, strict=True))
            ]
            slots.append((0, (0, 0), self.rng.getrandbits(self.word), False))
        outputs = await self.stream(slots)
        for start, count, value in sums:
            out = outputs[start : start + count]
            assert [first for _, first in out] == [True] + [False] * (count - 1)
            limbs = [pair for pair, _ in out]
            exact = to_words(value % (1 << self.word), self.half, 2)
            carry = 1 << (self.word - self.half)
            assert limbs[0][0] == exact[0]
            assert limbs[0][1] % carry == exact[1] % carry
            if self.drop_first:
                assert self.value(limbs[1:]) == value >> self.word
            else:
                assert self.value(limbs) == value

    async def stream(self, slots: list[tuple[int, Limbs, int, bool]]) -> list[tuple[Limbs, bool]]:
        outputs: list[tuple[Limbs, bool]] = []
        dut = self.dut
        late: Limbs = (0, 0)
        for a, limbs, b, first in slots + [(0, (0, 0), 0, False)] * LATENCY:
            dut.a_i.value = a
            dut.b_i.value = b
            dut.first_i.value = first
            dut.t0_i.value, dut.t1_i.value = late
            late = limbs
            await FallingEdge(dut.clk)
            outputs.append(((int(dut.s0_o.value), int(dut.s1_o.value)), bool(dut.first_o.value)))
        return outputs[LATENCY - 1 :]


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def sums_numbers(dut: Any) -> None:
    Clock(dut.clk, 2, "ns").start()
    dut.clear_t_i.value = 0
    await FallingEdge(dut.clk)
    bench = Bench(dut)
    await bench.run(bench.operands())


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def a_first_word_cuts_off_what_went_before(dut: Any) -> None:
    """The operand before the one checked lacks its final zero word."""
    Clock(dut.clk, 2, "ns").start()
    dut.clear_t_i.value = 0
    await FallingEdge(dut.clk)
    bench = Bench(dut)
    ones, limb = (1 << bench.word) - 1, (1 << (bench.half + 2)) - 1
    noise = [(ones, (limb, limb), ones, j == 0) for j in range(4)]
    await bench.stream(noise)
    outputs = await bench.stream([*noise, (5, (3, 0), 2, True), (0, (0, 0), 0, False)])
    assert outputs[4:6] == [((13 % (1 << bench.half), 13 >> bench.half), True), ((0, 0), False)]


@pytest.mark.parametrize(
    ("word", "drop_first"),
    [(6, 0), (6, 1), (48, 1), (51, 1)],
    ids=["toy-keep", "toy-drop", "48", "51"],
)
def test_residue_mac_word(word: int, drop_first: int) -> None:
    run_bench("residue_mac_word", __file__, parameters={"WordBits": word, "DropFirst": drop_first})
