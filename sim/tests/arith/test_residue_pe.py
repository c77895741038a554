"""Bench of residue_pe and residue_pe_karatsuba: one step against the golden model."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cocotb
import pytest
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge

from residue_sim.golden import Montgomery, to_words
from residue_sim.harness import bench_parameter, run_bench
from residue_sim.limbs import Limbs
from residue_sim.stimuli import edge_operands, odd_modulus, random_word


@dataclass
class Operand:
    """One step to be done, with how many idle slots follow its last word."""

    ctx: Montgomery
    t: int
    a: int
    word: int
    idle: int = 0


class Bench:
    def __init__(self, dut: Any) -> None:
        self.dut = dut
        self.karatsuba = dut._name.endswith("karatsuba")
        self.latency, self.b_latency, self.m_skew = (24, 23, 12) if self.karatsuba else (15, 14, 8)
        self.word = bench_parameter("WordBits")
        self.limbs = Limbs(self.word, self.karatsuba)
        self.ring_bits = self.limbs.ring_bits
        self.rng = random.Random(cocotb.RANDOM_SEED)

    def montgomery(self, modulus: int) -> Montgomery:
        return Montgomery.of(modulus, self.word, digits_per_word=2 if self.karatsuba else 1)

    async def run(self, operands: Iterator[Operand]) -> None:
        dut = self.dut
        latency, m_skew = self.latency, self.m_skew
        a: list[int] = []
        t: list[int] = []
        m: list[int] = []
        b: list[int] = []
        starts: dict[int, Operand] = {}
        for op in operands:
            starts[len(a)] = op
            length = op.ctx.ring_words
            count = length + 1 + op.idle
            a += to_words(op.a, self.ring_bits, count)
            m += to_words(op.ctx.m, self.ring_bits, count)
            t += [*self.limbs.redundant(self.rng, op.t, length), *[0] * (1 + op.idle)]
            b += [op.word, *(self.rng.getrandbits(self.ring_bits) for _ in range(count - 1))]
        total = len(a)
        out: list[tuple[int, ...]] = []
        names = ("first_o", "a_o", "b_o", "m_o", "t_o")
        outputs = [getattr(dut, name) for name in names]
        for cycle in range(total + latency + m_skew + 1):
            dut.first_i.value = cycle in starts
            dut.a_i.value = a[cycle] if cycle < total else 0
            dut.b_i.value = b[cycle] if cycle < total else 0
            late = cycle - 1
            dut.t_i.value = t[late] if 0 <= late < total else 0
            late = cycle - m_skew
            dut.m_i.value = m[late] if 0 <= late < total else 0
            await FallingEdge(dut.clk)
            out.append(tuple(int(output.value) for output in outputs))
        # out[c]: what stands at the outputs in cycle c + 1.
        assert [row[0] for row in out[latency - 1 :][:total]] == [
            int(c in starts) for c in range(total)
        ]
        assert [row[1] for row in out[latency - 1 :][:total]] == a
        assert [row[2] for row in out[self.b_latency - 1 :][:total]] == b
        assert [row[3] for row in out[latency + m_skew - 1 :][:total]] == m
        for start, op in starts.items():
            words = [row[4] for row in out[start + latency :][: op.ctx.ring_words + 1]]
            assert self.limbs.value(words) == op.ctx.step(op.t, op.a, op.word), op
            assert words[-1] == 0
            for word in words:
                pairs = zip(self.limbs.unpack(word), self.limbs.limit, strict=True)
                assert all(0 <= limb < limit for limb, limit in pairs)


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
        bits = bench.ring_bits
        ones = (1 << bits) - 1
        contexts = [
            bench.montgomery(odd_modulus(rng, size))
            for size in (2 * bits, 3 * bits - 2, 4 * bits - 5)
        ]
        contexts.append(bench.montgomery((1 << (2 * bits)) - 1))
        for ctx in contexts:
            for a in edge_operands(ctx):
                for word in (0, 1, ones, ones >> bench.word):
                    yield Operand(ctx, rng.choice((0, 3 * ctx.n_tilde - 1)), a, word)
        for _ in range(150):
            ctx = rng.choice(contexts)
            yield Operand(
                ctx,
                rng.randrange(3 * ctx.n_tilde),
                rng.randrange(2 * ctx.n_tilde),
                random_word(rng, bits),
                rng.choice((0, 0, 3)),
            )

    await bench.run(operands())


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def exhaustive_at_toy_width(dut: Any) -> None:
    """N = 3. Schoolbook: every digit with every a below 2*N~ = 126; Karatsuba: every word."""
    bench = await start(dut)
    if bench.word > 6:
        return

    def operands() -> Iterator[Operand]:
        ctx = bench.montgomery(3)
        top = 2 * ctx.n_tilde
        for word in range(1 << bench.ring_bits):
            for a in [bench.rng.randrange(top)] if bench.karatsuba else range(top):
                yield Operand(ctx, bench.rng.randrange(3 * ctx.n_tilde), a, word)

    await bench.run(operands())


@pytest.mark.parametrize(
    ("top", "word"),
    [
        ("residue_pe", 6),
        ("residue_pe", 48),
        ("residue_pe", 51),
        ("residue_pe_karatsuba", 6),
        ("residue_pe_karatsuba", 50),
    ],
)
def test_residue_pe(top: str, word: int) -> None:
    run_bench(top, __file__, parameters={"WordBits": word})
