"""Bench of residue_join: limbs of every size become digits of the same value."""

from __future__ import annotations

import random
from typing import Any

import cocotb
import pytest
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge

from residue_sim.harness import bench_parameter, run_bench
from residue_sim.limbs import Limbs

LATENCY = 2


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def keeps_the_value(dut: Any) -> None:
    rng = random.Random(cocotb.RANDOM_SEED)
    width = bench_parameter("WordBits")
    limbs = Limbs(width, bool(bench_parameter("Karatsuba")))
    digit_bits = width + 3
    Clock(dut.clk, 2, "ns").start()
    await FallingEdge(dut.clk)
    words = [
        limbs.pack([rng.choice((0, limit - 1, rng.randrange(limit))) for limit in limbs.limit])
        for _ in range(500)
    ]
    for cycle, word in enumerate([*words, *[0] * LATENCY], 1):
        dut.s_t.value = word
        await FallingEdge(dut.clk)
        if cycle >= LATENCY and cycle - LATENCY < len(words):
            data = int(dut.m_data.value)
            digits = [
                data >> (digit_bits * i) & ((1 << digit_bits) - 1)
                for i in range(limbs.ring_bits // width)
            ]
            value = sum(digit << (width * i) for i, digit in enumerate(digits))
            assert value == limbs.value([words[cycle - LATENCY]])


@pytest.mark.parametrize(("word", "karatsuba"), [(48, 0), (51, 0), (6, 1), (50, 1)])
def test_residue_join(word: int, karatsuba: int) -> None:
    run_bench("residue_join", __file__, parameters={"WordBits": word, "Karatsuba": karatsuba})
