"""Bench of residue_ram: two cycles of latency at full rate, old data on a collision."""

from __future__ import annotations

import random
from typing import Any

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge

from residue_sim.harness import run_bench

WIDTH_BITS, DEPTH_ROWS = 9, 5


@cocotb.test(timeout_time=200, timeout_unit="us")
@cocotb.parametrize(rate=[1.0, 0.5])
async def reads_what_was_written(dut: Any, rate: float) -> None:
    rng = random.Random(cocotb.RANDOM_SEED)
    Clock(dut.clk, 2, "ns").start()
    rows = [0] * DEPTH_ROWS
    array: int | None = None  # the register behind the array
    output: int | None = None
    for cycle in range(1000):
        await FallingEdge(dut.clk)
        assert output is None or int(dut.rdata_o.value) == output, f"cycle {cycle}"
        filling = cycle < DEPTH_ROWS
        write = filling or rng.random() < rate
        read = not filling and rng.random() < rate
        row = cycle if filling else rng.randrange(DEPTH_ROWS)
        read_row = row if rng.random() < 0.3 else rng.randrange(DEPTH_ROWS)
        data = rng.getrandbits(WIDTH_BITS)
        dut.wen_i.value, dut.wrow_i.value, dut.wdata_i.value = write, row, data
        dut.ren_i.value, dut.rrow_i.value = read, read_row
        output, array = array, rows[read_row] if read else array
        if write:
            rows[row] = data


def test_residue_ram() -> None:
    parameters = {"WidthBits": WIDTH_BITS, "DepthRows": DEPTH_ROWS}
    run_bench("residue_ram", __file__, parameters=parameters)
