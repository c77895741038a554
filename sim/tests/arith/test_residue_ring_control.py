"""Bench of residue_ring_control: order, spacing and flags of groups over a mock ring."""

from __future__ import annotations

import random
from collections import deque
from itertools import pairwise
from typing import Any

import cocotb
import pytest
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge

from residue_sim.harness import bench_parameter, run_bench


async def play(dut: Any, slots: int, passes: int, latency: int, gaps: float, count: int) -> None:
    """`count` products through a ring that answers `latency` cycles after each fetch."""
    rng = random.Random(cocotb.RANDOM_SEED)
    dut.slots_i.value = slots
    dut.passes_i.value = passes
    waiting: deque[tuple[int, tuple[int, int]]] = deque()  # when it leaves, (tag, pass)
    fetches: list[tuple[int, int, int]] = []
    finished: list[int] = []
    requested = accepted = 0
    cycle = 0
    while len(finished) < count:
        assert bool(dut.idle_o.value) == (len(finished) == accepted)
        leaving = waiting and waiting[0][0] == cycle
        dut.leave_i.value = bool(leaving)
        valid = requested > accepted
        if not valid and requested < count and rng.random() >= gaps:
            requested += 1
            valid = True
        dut.s_req_valid.value = valid
        dut.s_req_tag.value = accepted % 16
        taken = valid and bool(dut.s_req_ready.value)
        if leaving:
            tag, number = waiting.popleft()[1]
            assert int(dut.leave_tag_o.value) == tag
            assert bool(dut.leave_last_o.value) == (number == passes - 1)
            if number == passes - 1:
                finished.append(tag)
        await FallingEdge(dut.clk)
        cycle += 1
        accepted += taken
        if dut.m_fetch_valid.value:
            tag, number = int(dut.m_fetch_tag.value), int(dut.m_fetch_pass.value)
            assert taken == (number == 0)
            fetches.append((cycle, tag, number))
            waiting.append((cycle + latency, (tag, number)))
        else:
            assert not taken
    dut.leave_i.value = 0
    await FallingEdge(dut.clk)
    assert dut.idle_o.value
    assert finished == [i % 16 for i in range(count)]
    for number in range(passes):
        assert [tag for _, tag, n in fetches if n == number] == finished
    spacing = [b[0] - a[0] for a, b in pairwise(fetches)]
    assert min(spacing) >= slots
    if not gaps:  # saturated: groups touch until requests run out
        last_request = max(i for i, fetch in enumerate(fetches) if fetch[2] == 0)
        assert set(spacing[:last_request]) == {slots}


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def schedules(dut: Any) -> None:
    flush = bench_parameter("FlushCycles")
    Clock(dut.clk, 2, "ns").start()
    dut.rst_n.value = 0
    dut.s_req_valid.value = 0
    dut.leave_i.value = 0
    dut.slots_i.value = 3
    for _ in range(2):
        await FallingEdge(dut.clk)
    dut.rst_n.value = 1
    quiet = 0
    while not dut.s_req_ready.value:
        await FallingEdge(dut.clk)
        quiet += 1
    assert quiet == flush
    for slots, passes, latency in ((3, 1, 40), (5, 2, 61), (7, 4, 20), (23, 3, 100), (9, 5, 72)):
        for gaps in (0.0, 0.9):
            await play(dut, slots, passes, latency, gaps, 60)


@pytest.mark.parametrize("flush", [300])
def test_residue_ring_control(flush: int) -> None:
    run_bench("residue_ring_control", __file__, parameters={"TagBits": 4, "FlushCycles": flush})
