"""Bench of residue_beat_queue: order, the rule of its room, full rate, zeroing."""

from __future__ import annotations

import random
from collections import deque
from typing import Any

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, FallingEdge, RisingEdge

from residue_sim.harness import bench_parameter, run_bench

SLACK = 4  # beats that may be on their way: the queue need not take more than depth - SLACK + 1


async def start(dut: Any) -> None:
    Clock(dut.clk, 2, "ns").start()
    for signal in (dut.s_valid, dut.s_data, dut.m_ready, dut.clear_i):
        signal.value = 0
    dut.rst_n.value = 0
    await ClockCycles(dut.clk, 2)
    dut.rst_n.value = 1
    await RisingEdge(dut.clk)
    await FallingEdge(dut.clk)


@cocotb.test(timeout_time=50, timeout_unit="us")
async def keeps_what_comes_a_cycle_after_room(dut: Any) -> None:
    """Whatever either side does, every beat leaves once, in order."""
    rng = random.Random(cocotb.RANDOM_SEED)
    depth = bench_parameter("DepthBeats")
    model: deque[int] = deque()
    await start(dut)
    room = False
    fullest = 0
    for _ in range(40):
        sending, taking = rng.choice([(1.0, 1.0), (1.0, 0.0), (0.0, 1.0), (0.5, 0.5), (0.9, 0.3)])
        for _ in range(25):
            valid, ready = room and rng.random() < sending, rng.random() < taking
            data = rng.randrange(1, 256)
            dut.s_valid.value, dut.s_data.value, dut.m_ready.value = valid, data, ready
            room = bool(dut.room_o.value)
            assert dut.half_o.value == (int(dut.count_q.value) >= depth // 2)
            assert not (dut.idle_o.value and model)
            if dut.m_valid.value and ready:
                assert dut.m_data.value == model.popleft()
            if valid:
                model.append(data)
            fullest = max(fullest, len(model))
            await RisingEdge(dut.clk)
            await FallingEdge(dut.clk)
    assert depth - SLACK < fullest <= depth


@cocotb.test(timeout_time=10, timeout_unit="us")
async def full_rate(dut: Any) -> None:
    """With a reader that always takes, a beat enters and leaves in every cycle."""
    await start(dut)
    dut.m_ready.value = 1
    seen = []
    for i in range(60):
        assert dut.room_o.value == 1
        dut.s_valid.value, dut.s_data.value = 1, i
        await RisingEdge(dut.clk)
        await FallingEdge(dut.clk)
        seen += [int(dut.m_data.value)] if dut.m_valid.value else []
    assert seen == list(range(59))


@cocotb.test(timeout_time=20, timeout_unit="us")
async def clear_leaves_zeros(dut: Any) -> None:
    """After a clear at any fill nothing is in it, and every cell and register is zero."""
    depth = bench_parameter("DepthBeats")
    await start(dut)
    for fill in (1, depth - SLACK, depth // 2):
        for _ in range(depth + fill):  # through all cells
            await FallingEdge(dut.clk)
            dut.m_ready.value = int(dut.count_q.value) >= fill
            dut.s_valid.value, dut.s_data.value = dut.room_o.value, 0xA5
            await RisingEdge(dut.clk)
        assert any(int(dut.mem_q[i].value) for i in range(depth))
        await FallingEdge(dut.clk)
        dut.clear_i.value = 1  # a beat enters in the same cycle
        await RisingEdge(dut.clk)
        await FallingEdge(dut.clk)
        dut.clear_i.value = dut.s_valid.value = 0
        cycles = 0
        while not dut.idle_o.value:
            assert (dut.m_valid.value, dut.room_o.value) == (0, 0)
            cycles += 1
            await RisingEdge(dut.clk)
            await FallingEdge(dut.clk)
        assert cycles == depth
        assert not any(int(dut.mem_q[i].value) for i in range(depth))
        assert dut.in_q.value == 0
        await RisingEdge(dut.clk)
        await FallingEdge(dut.clk)
        assert dut.room_o.value == 1


def test_residue_beat_queue() -> None:
    run_bench("residue_beat_queue", __file__, parameters={"WidthBits": 8, "DepthBeats": 16})
