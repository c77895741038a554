"""Bench of residue_pe: one digit step against the golden model."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cocotb
import pytest
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge

from residue_sim.golden import Montgomery, from_words, to_words
from residue_sim.harness import bench_parameter, run_bench
from residue_sim.stimuli import edge_operands, odd_modulus, random_word

LATENCY = 15
B_LATENCY = 14
M_SKEW = 8


@dataclass
class Operand:
    """One digit step to be done, with how many idle slots follow its last word."""

    ctx: Montgomery
    t: int
    a: int
    digit: int
    idle: int = 0


class Bench:
    def __init__(self, dut: Any) -> None:
        self.dut = dut
        self.word = 3 * bench_parameter("DigitBits")
        self.half = (self.word + 1) // 2
        self.rng = random.Random(cocotb.RANDOM_SEED)

    def redundant(self, value: int, count: int) -> list[tuple[int, int]]:
        """Limbs of `value`, with carries moved down at random as far as the limbs allow."""
        limbs = [
            [word % (1 << self.half), word >> self.half]
            for word in to_words(value, self.word, count)
        ]
        flat = [limb for pair in limbs for limb in pair]
        most = 1 << (self.half + 2)
        for i in range(len(flat) - 1, 0, -1):
            weight = 1 << (self.half if i % 2 else self.word - self.half)
            if flat[i] and flat[i - 1] + weight < most and self.rng.random() < 0.5:
                flat[i] -= 1
                flat[i - 1] += weight
        return list(zip(flat[::2], flat[1::2], strict=True))

    async def run(self, operands: Iterator[Operand]) -> None:
        dut = self.dut
        a: list[int] = []
        t: list[tuple[int, int]] = []
        m: list[int] = []
        b: list[int] = []
        starts: dict[int, Operand] = {}
        for op in operands:
            starts[len(a)] = op
            count = op.ctx.k + 1 + op.idle
            a += to_words(op.a, self.word, count)
            m += to_words(op.ctx.m, self.word, count)
            t += [*self.redundant(op.t, op.ctx.k), *[(0, 0)] * (1 + op.idle)]
            b += [op.digit, *(self.rng.getrandbits(self.word) for _ in range(count - 1))]
        total = len(a)
        out: list[tuple[int, ...]] = []
        names = ("first_o", "a_o", "b_o", "m_o", "t0_o", "t1_o")
        outputs = [getattr(dut, name) for name in names]
        for cycle in range(total + LATENCY + M_SKEW + 1):
            dut.first_i.value = cycle in starts
            dut.a_i.value = a[cycle] if cycle < total else 0
            dut.b_i.value = b[cycle] if cycle < total else 0
            late = cycle - 1
            dut.t0_i.value, dut.t1_i.value = t[late] if 0 <= late < total else (0, 0)
            late = cycle - M_SKEW
            dut.m_i.value = m[late] if 0 <= late < total else 0
            await FallingEdge(dut.clk)
            out.append(tuple(int(output.value) for output in outputs))
        # out[c]: what stands at the outputs in cycle c + 1.
        assert [row[0] for row in out[LATENCY - 1 :][:total]] == [
            int(c in starts) for c in range(total)
        ]
        assert [row[1] for row in out[LATENCY - 1 :][:total]] == a
        assert [row[2] for row in out[B_LATENCY - 1 :][:total]] == b
        assert [row[3] for row in out[LATENCY + M_SKEW - 1 :][:total]] == m
        for start, op in starts.items():
            words = [
                low + (high << self.half)
                for *_, low, high in out[start + LATENCY :][: op.ctx.k + 1]
            ]
            assert from_words(words, self.word) == op.ctx.step(op.t, op.a, op.digit), op
            assert words[-1] == 0


async def start(dut: Any) -> Bench:
    Clock(dut.clk, 2, "ns").start()
    await FallingEdge(dut.clk)
    return Bench(dut)


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def edges_and_random_operands(dut: Any) -> None:
    """Several moduli, each operand with its own; back to back and with idle slots."""
    bench = await start(dut)
    rng = bench.rng

    def operands() -> Iterator[Operand]:
        ones = (1 << bench.word) - 1
        contexts = [
            Montgomery.of(odd_modulus(rng, bits), bench.word)
            for bits in (2 * bench.word, 3 * bench.word - 2, 4 * bench.word - 5)
        ]
        contexts.append(Montgomery.of((1 << (2 * bench.word)) - 1, bench.word))
        for ctx in contexts:
            for a in edge_operands(ctx):
                for digit in (0, 1, ones):
                    yield Operand(ctx, rng.choice((0, 3 * ctx.n_tilde - 1)), a, digit)
        for _ in range(150):
            ctx = rng.choice(contexts)
            yield Operand(
                ctx,
                rng.randrange(3 * ctx.n_tilde),
                rng.randrange(2 * ctx.n_tilde),
                random_word(rng, bench.word),
                rng.choice((0, 0, 3)),
            )

    await bench.run(operands())


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def exhaustive_at_toy_width(dut: Any) -> None:
    """Every digit with every a below 2*N~ = 126, N = 3."""
    bench = await start(dut)
    if bench.word > 6:
        return

    def operands() -> Iterator[Operand]:
        ctx = Montgomery.of(3, bench.word)
        for a in range(2 * ctx.n_tilde):
            for digit in range(1 << bench.word):
                yield Operand(ctx, bench.rng.randrange(3 * ctx.n_tilde), a, digit)

    await bench.run(operands())


@pytest.mark.parametrize("digit", [2, 17], ids=["toy", "full"])
def test_residue_pe(digit: int) -> None:
    run_bench("residue_pe", __file__, parameters={"DigitBits": digit})
