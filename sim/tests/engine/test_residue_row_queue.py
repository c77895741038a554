"""Bench of residue_row_queue: order, rate, latency, capacity, parity and clearing."""

from __future__ import annotations

import random
from collections import deque
from typing import Any

import cocotb
import pytest
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge

from residue_sim.harness import run_bench

WIDTH_BITS = 12
OUTPUT_STAGE = 2  # entries held beside the memory
LATENCY = 4


class Bench:
    """Drives both sides on the falling edge and compares what leaves with what entered."""

    def __init__(self, dut: Any) -> None:
        self.dut = dut
        self.rng = random.Random(cocotb.RANDOM_SEED)
        self.depth = int(dut.DepthEntries.value)
        self.held: deque[int] = deque()
        self.taken = 0

    async def reset(self) -> None:
        Clock(self.dut.clk, 2, "ns").start()
        dut = self.dut
        for signal in (dut.rst_n, dut.clear_i, dut.s_valid, dut.m_ready):
            signal.value = 0
        for _ in range(3):
            await FallingEdge(dut.clk)
        dut.rst_n.value = 1

    async def cycle(self, offer: bool, take: bool) -> tuple[bool, bool]:
        """One cycle; whether an entry went in, and whether one came out."""
        dut = self.dut
        data = self.rng.getrandbits(WIDTH_BITS)
        dut.s_valid.value, dut.s_data.value, dut.m_ready.value = offer, data, take
        went_in = offer and bool(int(dut.s_ready.value))
        came_out = take and bool(int(dut.m_valid.value))
        if came_out:
            assert int(dut.m_data.value) == self.held.popleft()
            self.taken += 1
        assert not int(dut.error_o.value)
        if went_in:
            self.held.append(data)
        await FallingEdge(dut.clk)
        return went_in, came_out


@cocotb.test(timeout_time=200, timeout_unit="us")
@cocotb.parametrize(offer=[0.2, 0.5, 1.0], take=[0.2, 0.5, 1.0])
async def keeps_the_order(dut: Any, offer: float, take: float) -> None:
    bench = Bench(dut)
    await bench.reset()
    for _ in range(600):
        await bench.cycle(bench.rng.random() < offer, bench.rng.random() < take)
    while bench.held:
        await bench.cycle(False, True)
    assert bench.taken > 50
    assert not int(dut.m_valid.value)


@cocotb.test(timeout_time=200, timeout_unit="us")
async def an_entry_a_cycle(dut: Any) -> None:
    """Full rate in and out, both with the queue empty and with entries held."""
    bench = Bench(dut)
    await bench.reset()
    for waiting in (0, bench.depth - 3):
        for _ in range(waiting):
            assert (await bench.cycle(True, False))[0]
        for _ in range(LATENCY):  # until the first one stands at the output
            await bench.cycle(True, True)
        for cycle in range(5 * bench.depth):
            assert await bench.cycle(True, True) == (True, True), f"cycle {cycle}"


@cocotb.test(timeout_time=200, timeout_unit="us")
async def latency_and_capacity(dut: Any) -> None:
    bench = Bench(dut)
    await bench.reset()
    assert await bench.cycle(True, False) == (True, False)
    cycles = 0  # after the edge at which the entry went in
    while not int(dut.m_valid.value):
        await bench.cycle(False, False)
        cycles += 1
    assert cycles == LATENCY - 1
    entries = 1
    for _ in range(bench.depth + 10):
        entries += (await bench.cycle(True, False))[0]
    assert entries == bench.depth + OUTPUT_STAGE


@cocotb.test(timeout_time=200, timeout_unit="us")
async def tells_of_a_flipped_bit(dut: Any) -> None:
    bench = Bench(dut)
    await bench.reset()
    await bench.cycle(True, False)
    await bench.cycle(False, False)
    memory = dut.i_memory.mem_q
    memory[0].value = int(memory[0].value) ^ 1 << bench.rng.randrange(WIDTH_BITS + 1)
    for _ in range(LATENCY):
        await FallingEdge(dut.clk)
    assert int(dut.m_valid.value)
    assert int(dut.error_o.value)


@cocotb.test(timeout_time=200, timeout_unit="us")
async def clears_everything(dut: Any) -> None:
    """A full queue is empty after a clear, and nothing of its entries is left."""
    bench = Bench(dut)
    await bench.reset()
    for _ in range(bench.depth + 5):
        await bench.cycle(True, False)
    dut.s_valid.value, dut.clear_i.value = 0, 1
    for _ in range(bench.depth + 4):
        await FallingEdge(dut.clk)
    dut.clear_i.value = 0
    memory = dut.i_memory
    held = [*memory.mem_q, memory.array_q, memory.out_q, memory.wdata_q]
    assert not any(int(signal.value) for signal in held)
    assert not int(dut.m_valid.value)
    bench.held.clear()
    for _ in range(3 * bench.depth):
        await bench.cycle(True, True)
    assert bench.taken > bench.depth


@pytest.mark.parametrize("depth", [3, 4, 6], ids="depth{}".format)
def test_residue_row_queue(depth: int) -> None:
    parameters = {"WidthBits": WIDTH_BITS, "DepthEntries": depth}
    run_bench("residue_row_queue", __file__, parameters=parameters, visible=("residue_ram.*_q",))
