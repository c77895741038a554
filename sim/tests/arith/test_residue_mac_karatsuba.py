"""Bench of residue_mac_karatsuba: t + a*b over whole numbers, in redundant words."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from typing import Any

import cocotb
import pytest
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge

from residue_sim.golden import from_words
from residue_sim.harness import bench_parameter, run_bench
from residue_sim.limbs import Limbs
from residue_sim.stimuli import random_word

LATENCY = 12
Operand = tuple[list[int], list[int], int]  # words of a, words of t, b
Slot = tuple[int, int, int, bool]  # a, t, b, first
Output = tuple[int, int, bool]  # s, quotient, first


class Bench:
    def __init__(self, dut: Any) -> None:
        self.dut = dut
        self.word = bench_parameter("WordBits")
        self.limbs = Limbs(self.word, karatsuba=True)
        self.lower_bits = len(dut.t_lower_i)
        self.rng = random.Random(cocotb.RANDOM_SEED)

    def random_limbs(self) -> int:
        """A word of t: each limb zero, as large as it gets, or uniform."""
        limits = self.limbs.limit
        return self.limbs.pack(
            [self.rng.choice((0, limit - 1, self.rng.randrange(limit))) for limit in limits]
        )

    def sparse(self, digits: tuple[int, ...], bits: int) -> Iterator[int]:
        """Every word of four limbs (or six digits) of `bits` bits out of `digits`."""
        for chosen in itertools.product(digits, repeat=2 * self.word // bits):
            yield from_words(chosen, bits)

    def operands(self) -> Iterator[Operand]:
        v = self.limbs.ring_bits
        ones = (1 << v) - 1
        largest = self.limbs.pack([limit - 1 for limit in self.limbs.limit])
        for a, t, b in itertools.product((0, 1, ones), (0, largest), (0, 1, ones)):
            yield [a] * 4, [t] * 4, b
        if self.word <= 6:  # every limb of a and digit of b at its ends
            for a in self.sparse((0, 1, 7), 3):
                for b in self.sparse((0, 3), 2):
                    yield [a], [self.random_limbs()], b
        for _ in range(400):
            count = self.rng.randrange(1, 6)
            low, high = (random_word(self.rng, self.word) for _ in range(2))
            yield (
                [random_word(self.rng, v) for _ in range(count)],
                [self.random_limbs() for _ in range(count)],
                self.rng.choice((low | high << self.word, random_word(self.rng, v))),
            )

    async def run(self, operands: Iterator[Operand]) -> None:
        """Send operands back to back, each followed by two zero words, and compare the sums."""
        slots: list[Slot] = []
        sums: list[tuple[int, int, int]] = []  # first slot, slots, value
        for a, t, b in operands:
            value = self.limbs.value(t) + from_words(a, self.limbs.ring_bits) * b
            sums.append((len(slots), len(a) + 2, value))
            slots += [
                (word, limbs, b, j == 0) for j, (word, limbs) in enumerate(zip(a, t, strict=True))
            ]
            slots += [(0, 0, self.rng.getrandbits(self.limbs.ring_bits), False)] * 2
        outputs = await self.stream(slots)
        for start, count, value in sums:
            out = outputs[start : start + count]
            assert [first for *_, first in out] == [True] + [False] * (count - 1)
            assert self.limbs.value([word for word, *_ in out]) == value
            assert out[0][1] == value % (1 << self.limbs.ring_bits)
            for word, *_ in out:
                pairs = zip(self.limbs.unpack(word), self.limbs.limit, strict=True)
                assert all(0 <= limb < limit for limb, limit in pairs)

    async def stream(self, slots: list[Slot]) -> list[Output]:
        lower: list[tuple[int, int, bool]] = []
        upper: list[int] = []
        dut = self.dut
        mask = (1 << self.lower_bits) - 1
        late = [0, 0]
        for a, t, b, first in slots + [(0, 0, 0, False)] * (LATENCY + 1):
            dut.a_i.value = a
            dut.b_i.value = b
            dut.first_i.value = first
            dut.t_lower_i.value = late[0] & mask
            dut.t_upper_i.value = late[1] >> self.lower_bits
            late = [t, late[0]]
            await FallingEdge(dut.clk)
            lower.append(
                (int(dut.s_lower_o.value), int(dut.quotient_o.value), bool(dut.first_o.value))
            )
            upper.append(int(dut.s_upper_o.value))
        return [
            (low | high << self.lower_bits, quotient, first)
            for (low, quotient, first), high in zip(
                lower[LATENCY - 1 : -1], upper[LATENCY:], strict=True
            )
        ]


async def start(dut: Any) -> Bench:
    Clock(dut.clk, 2, "ns").start()
    dut.clear_t_i.value = 0
    await FallingEdge(dut.clk)
    return Bench(dut)


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def sums_numbers(dut: Any) -> None:
    bench = await start(dut)
    await bench.run(bench.operands())


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def a_first_word_cuts_off_what_went_before(dut: Any) -> None:
    """The operand before the one checked lacks its final zero words."""
    bench = await start(dut)
    ones = (1 << bench.limbs.ring_bits) - 1
    largest = bench.limbs.pack([limit - 1 for limit in bench.limbs.limit])
    noise = [(ones, largest, ones, j == 0) for j in range(4)]
    t = bench.limbs.pack([3, 0, 0, 0])
    outputs = await bench.stream([*noise, (5, t, 2, True), (0, 0, 0, False)])
    thirteen = bench.limbs.pack([13 % (1 << bench.limbs.half), 13 >> bench.limbs.half, 0, 0])
    assert outputs[4] == (thirteen, 13, True)
    assert outputs[5][::2] == (0, False)


@pytest.mark.parametrize("word", [6, 50], ids=["toy", "full"])
def test_residue_mac_karatsuba(word: int) -> None:
    run_bench("residue_mac_karatsuba", __file__, parameters={"WordBits": word})
