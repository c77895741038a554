"""Bench of residue_delay: what went in comes out, Cycles later, with nothing in between."""

from __future__ import annotations

import random
from typing import Any

import cocotb
import pytest
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge

from residue_sim.harness import bench_parameter, run_bench


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def delays(dut: Any) -> None:
    rng = random.Random(cocotb.RANDOM_SEED)
    width, cycles = bench_parameter("Width"), bench_parameter("Cycles")
    Clock(dut.clk, 2, "ns").start()
    await FallingEdge(dut.clk)
    sent: list[int] = []
    for _ in range(20 * cycles):
        if len(sent) >= cycles:
            assert int(dut.q_o.value) == sent[-cycles]
        sent.append(rng.getrandbits(width))
        dut.d_i.value = sent[-1]
        await FallingEdge(dut.clk)


@pytest.mark.parametrize("cycles", [2, 15])
def test_residue_delay(cycles: int) -> None:
    run_bench("residue_delay", __file__, parameters={"Width": 52, "Cycles": cycles})
