"""Bench of residue_mac_chain: c + a * b at full rate, b changing between operands."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable
from typing import Any

import cocotb
import pytest
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge

from residue_sim.harness import bench_parameter, run_bench
from residue_sim.stimuli import random_word

LATENCY = 6
Slot = tuple[int, int, int, bool, bool]  # a, c, b, load b, clear c


async def check(dut: Any, slots: Iterable[Slot], low_bits: int) -> None:
    """Send the slots one a cycle (c one cycle after a) and compare each product."""
    Clock(dut.clk, 2, "ns").start()
    await FallingEdge(dut.clk)
    expected: list[int] = []
    held = 0
    loads = [0, 0, 0]
    late = (0, False)
    drain = [(0, 0, 0, False, True)] * (LATENCY + 1)
    for cycle, (a, c, b, wanted, clear) in enumerate(itertools.chain(slots, drain), 1):
        load = wanted and not loads[0]  # loads are at least two cycles apart
        held = b if load else held
        loads = [int(load), *loads[:2]]
        dut.a_i.value = a
        dut.b_i.value = b
        dut.load_b_i.value = loads[0] | loads[1] << 1 | loads[2] << 2
        dut.c_i.value, dut.clear_c_i.value = late
        late = (c, clear)
        expected.append(held * a + (0 if clear else c))
        await FallingEdge(dut.clk)
        if cycle >= LATENCY:
            z = int(dut.z_hi_o.value) << low_bits | int(dut.z_lo_o.value)
            assert z == expected[cycle - LATENCY]


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def multiplies(dut: Any) -> None:
    rng = random.Random(cocotb.RANDOM_SEED)
    digit, a_bits, c_bits = (bench_parameter(name) for name in ("DigitBits", "ABits", "CBits"))
    word = 3 * digit
    ones = [(1 << bits) - 1 for bits in (a_bits, c_bits, word)]
    slots: list[Slot] = [(ones[0], ones[1], ones[2], True, False)]
    if word <= 6:  # exhaustive over a and b
        slots += [
            (a, rng.choice((0, ones[1], rng.randrange(ones[1]))), b, a == 0, False)
            for b in range(1 << word)
            for a in range(1 << a_bits)
        ]
    slots += [
        (
            random_word(rng, a_bits),
            random_word(rng, c_bits),
            random_word(rng, word),
            rng.random() < 0.3,
            rng.random() < 0.1,
        )
        for _ in range(800)
    ]
    await check(dut, slots, 2 * digit)


@pytest.mark.parametrize(
    ("digit", "a_bits", "c_bits"), [(2, 3, 5), (17, 26, 28)], ids=["toy", "full"]
)
def test_residue_mac_chain(digit: int, a_bits: int, c_bits: int) -> None:
    parameters = {"DigitBits": digit, "ABits": a_bits, "CBits": c_bits}
    run_bench("residue_mac_chain", __file__, parameters=parameters)
