"""Bench of residue_fifo: order, capacity, full rate, clearing."""

from __future__ import annotations

import random
from collections import deque
from typing import Any

import cocotb
import pytest
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, FallingEdge, RisingEdge

from residue_sim.harness import run_bench


async def start(dut: Any) -> None:
    Clock(dut.clk, 2, "ns").start()
    dut.s_valid.value = 0
    dut.m_ready.value = 0
    dut.clear_i.value = 0
    dut.rst_n.value = 0
    await ClockCycles(dut.clk, 2)
    dut.rst_n.value = 1
    await FallingEdge(dut.clk)


@cocotb.test(timeout_time=50, timeout_unit="us")
async def follows_a_queue(dut: Any) -> None:
    """In every cycle it answers as a bounded queue would, whatever either side does."""
    rng = random.Random(cocotb.RANDOM_SEED)
    depth = int(dut.DepthEntries.value)
    model: deque[int] = deque()
    await start(dut)
    for phase in range(40):
        sending, taking = rng.choice([(1.0, 1.0), (1.0, 0.0), (0.0, 1.0), (0.5, 0.5), (0.9, 0.3)])
        for _ in range(25):
            valid, ready = rng.random() < sending, rng.random() < taking
            clear = phase % 4 == 3 and rng.random() < 0.1
            data = rng.randrange(256)
            dut.s_valid.value, dut.s_data.value = valid, data
            dut.m_ready.value, dut.clear_i.value = ready, clear
            assert dut.s_ready.value == (len(model) < depth)
            assert dut.m_valid.value == bool(model)
            if model:
                assert dut.m_data.value == model[0]
            room = len(model) < depth
            if ready and model:
                model.popleft()
            if valid and room:
                model.append(data)
            if clear:
                model.clear()
            await RisingEdge(dut.clk)
            await FallingEdge(dut.clk)


@pytest.mark.parametrize("depth", [2, 8])
def test_residue_fifo(depth: int) -> None:
    run_bench("residue_fifo", __file__, parameters={"WidthBits": 8, "DepthEntries": depth})
