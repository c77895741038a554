"""Bench of residue_mac_chain: c + a * b or c + (d - a) * b at full rate, b changing."""

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

Slot = tuple[int, int, int, int, bool, bool]  # a, d, c, b, load b, clear c


async def check(dut: Any, slots: Iterable[Slot]) -> None:
    """Send the slots one a cycle and compare each product."""
    digit, difference = bench_parameter("DigitBits"), bench_parameter("Difference")
    latency = 6 + difference
    Clock(dut.clk, 2, "ns").start()
    await FallingEdge(dut.clk)
    expected: list[int] = []
    held = 0
    loads = [0, 0, 0, 0]
    late = [(0, False)] * (1 + difference)  # c stands behind its a
    late_b = [0] * (1 + difference)
    drain = [(0, 0, 0, 0, False, True)] * (latency + 1)
    low_bits = 2 * digit
    high_bits = len(dut.z_hi_o)
    for cycle, (a, d, c, b, wanted, clear) in enumerate(itertools.chain(slots, drain), 1):
        load = wanted and not loads[0]  # loads are at least two cycles apart
        held = b if load else held
        loads = [int(load), *loads[:3]]
        late_b = [b, *late_b[:-1]]
        flags = loads[difference : difference + 3]
        dut.a_i.value = a
        dut.d_i.value = d
        dut.b_i.value = late_b[-1] if difference else b
        dut.load_b_i.value = flags[0] | flags[1] << 1 | flags[2] << 2
        late.append((c, clear))
        value, dut.clear_c_i.value = late.pop(0)
        dut.c_i.value = value & ((1 << len(dut.c_i)) - 1)
        operand = d - a if difference else a
        expected.append(joined(held, digit, difference) * operand + (0 if clear else c))
        await FallingEdge(dut.clk)
        if cycle >= latency:
            high = int(dut.z_hi_o.value)
            high -= high >> (high_bits - 1) << high_bits
            assert (high << low_bits) + int(dut.z_lo_o.value) == expected[cycle - latency]


def joined(b: int, digit: int, difference: int) -> int:
    """The number that three digits stand for, two's complement ones with `difference`."""
    bits = digit + difference
    digits = [b >> (bits * i) & ((1 << bits) - 1) for i in range(3)]
    if difference:
        digits = [value - (value >> (bits - 1) << bits) for value in digits]
    return sum(value << (digit * i) for i, value in enumerate(digits))


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def multiplies(dut: Any) -> None:
    rng = random.Random(cocotb.RANDOM_SEED)
    names = ("DigitBits", "ABits", "CBits", "Difference")
    digit, a_bits, c_bits, difference = map(bench_parameter, names)
    word = 3 * (digit + difference)
    ones = (1 << a_bits) - 1
    c_most = (1 << (c_bits - 1)) - 1
    # The most negative digit does not occur as a difference of digits.
    least = 1 << digit

    def random_b() -> int:
        bits = digit + difference
        while True:
            b = random_word(rng, word)
            if not difference or all(b >> (bits * i) & (2 * least - 1) != least for i in range(3)):
                return b

    slots: list[Slot] = [(ones, 0, c_most, (1 << 3 * digit) - 1, True, False)]
    if not difference and word <= 6:  # exhaustive over a and b
        slots += [
            (a, 0, rng.choice((0, -c_most, c_most)), b, a == 0, False)
            for b in range(1 << word)
            for a in range(1 << a_bits)
        ]
    slots += [
        (
            random_word(rng, a_bits),
            random_word(rng, a_bits),
            rng.choice((-1, 1)) * random_word(rng, c_bits - 1),
            random_b(),
            rng.random() < 0.3,
            rng.random() < 0.1,
        )
        for _ in range(800)
    ]
    await check(dut, slots)


@pytest.mark.parametrize(
    ("digit", "a_bits", "c_bits", "difference"),
    [(2, 3, 5, 0), (17, 26, 29, 0), (2, 3, 5, 1), (17, 25, 29, 1)],
)
def test_residue_mac_chain(digit: int, a_bits: int, c_bits: int, difference: int) -> None:
    parameters = {"DigitBits": digit, "ABits": a_bits, "CBits": c_bits, "Difference": difference}
    run_bench("residue_mac_chain", __file__, parameters=parameters)
