"""Bench of residue_normalise: carries resolved over words, with gaps."""

from __future__ import annotations

import os
import random
from typing import Any

import cocotb
import pytest
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge

from residue_sim.golden import from_words, to_words
from residue_sim.harness import bench_parameter, run_bench

LATENCY = 4


def _numbers(rng: random.Random, width: int, guard: int) -> list[list[int]]:
    """Redundant numbers: longest ripples, largest digits, one word, random ones."""
    ones, most = (1 << width) - 1, (1 << (width + guard)) - 1
    ripples = [[ones + 1] + [ones] * 6, [ones + 1] + [ones] * 3 + [0, ones, ones, 5]]
    edges = [[0] * 5, [ones] * 5, [most] * 5, [most], [0], [most, 0, ones, ones, 0]]
    free = [
        [rng.choice((0, ones, most, rng.randrange(most + 1))) for _ in range(rng.randrange(1, 9))]
        for _ in range(150)
    ]
    return ripples + edges + free


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def resolves_carries(dut: Any) -> None:
    rng = random.Random(cocotb.RANDOM_SEED)
    width, guard, digits = (bench_parameter(name) for name in ("Width", "GuardBits", "Digits"))
    gaps = float(os.environ["GAPS"])
    Clock(dut.clk, 2, "ns").start()
    got: list[tuple[int, ...]] = []
    expected: list[tuple[int, ...]] = []
    cycle = 0

    async def step() -> None:
        nonlocal cycle
        await FallingEdge(dut.clk)
        cycle += 1
        if dut.m_valid.value:
            outputs = (dut.m_data, dut.m_first, dut.m_last, dut.m_tag)
            got.append((cycle, *(int(output.value) for output in outputs)))

    dut.rst_n.value = 0
    dut.s_valid.value = 0
    for _ in range(5):
        await step()
    got.clear()
    dut.rst_n.value = 1
    for tag, number in enumerate(_numbers(rng, width, guard)):
        number += [0] * (-len(number) % digits)
        value = from_words(number, width) % (1 << (width * len(number)))
        words = to_words(value, width * digits, len(number) // digits)
        sent = [
            sum(digit << ((width + guard) * i) for i, digit in enumerate(number[j : j + digits]))
            for j in range(0, len(number), digits)
        ]
        for j, (digit, word) in enumerate(zip(sent, words, strict=True)):
            while rng.random() < gaps:
                dut.s_valid.value = 0
                dut.s_data.value = rng.getrandbits(digits * (width + guard))
                dut.s_first.value = rng.getrandbits(1)
                await step()
            dut.s_valid.value = 1
            dut.s_first.value = j == 0
            dut.s_last.value = j == len(words) - 1
            dut.s_tag.value = tag & 1
            dut.s_data.value = digit
            expected.append((cycle + LATENCY, word, j == 0, j == len(words) - 1, tag & 1))
            await step()
    dut.s_valid.value = 0
    for _ in range(LATENCY + 2):
        await step()
    assert got == expected


@pytest.mark.parametrize(
    ("width", "guard", "digits", "gaps"),
    [(6, 3, 1, 0.0), (51, 3, 1, 0.3), (50, 3, 2, 0.3)],
    ids=["toy", "gaps", "pairs"],
)
def test_residue_normalise(width: int, guard: int, digits: int, gaps: float) -> None:
    run_bench(
        "residue_normalise",
        __file__,
        parameters={"Width": width, "GuardBits": guard, "Digits": digits},
        environment={"GAPS": str(gaps)},
    )
