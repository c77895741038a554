"""Bench of residue_operands_rows: every row of every pass, at its cycle, from either store."""

from __future__ import annotations

from typing import Any

import cocotb
import pytest

from residue_sim.harness import run_bench
from residue_sim.operand_bench import PARAMETERS, OperandBench

SMALL, LARGEST = range(2, 10), 63  # rows of a residue


def bench_of(dut: Any) -> OperandBench:
    return OperandBench(dut, "rows_i", per_row=1, latency=5)


@cocotb.test(timeout_time=200, timeout_unit="us")
async def every_pass_alone(dut: Any) -> None:
    bench = bench_of(dut)
    await bench.reset()
    await bench.every_pass((*SMALL, LARGEST))


@cocotb.test(timeout_time=200, timeout_unit="us")
@cocotb.parametrize(idle=[0, 3])
async def back_to_back(dut: Any, idle: int) -> None:
    bench = bench_of(dut)
    await bench.reset()
    await bench.in_a_row(SMALL, idle)


@pytest.mark.parametrize("elements", [2, 3, 5], ids="P{}".format)
def test_residue_operands_rows(elements: int) -> None:
    run_bench("residue_operands_rows", __file__, parameters=PARAMETERS | {"Elements": elements})
