"""Bench of residue_row_unpack: rows of every beat, their numbers, full rate, zeroing."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass
from typing import Any

import cocotb
import pytest
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, FallingEdge, RisingEdge

from residue_sim.harness import bench_parameter, run_bench

ROW = 1 << 128


@dataclass(frozen=True)
class Beat:
    data: int
    low: int
    high: int
    last: bool
    error: bool
    tag: int


class Bench:
    """Feeds beats a cycle after room and collects rows."""

    def __init__(self, dut: Any) -> None:
        self.dut = dut
        self.rng = random.Random(cocotb.RANDOM_SEED)
        self.places = bench_parameter("AxiDataBits") // 128
        self.beats: deque[Beat] = deque()
        self.rows: list[tuple[int, int, int, bool, bool]] = []
        self.room = False

    async def start(self) -> None:
        dut = self.dut
        Clock(dut.clk, 2, "ns").start()
        for signal in (dut.clear_i, dut.s_valid, dut.m_ready):
            signal.value = 0
        dut.rst_n.value = 0
        await ClockCycles(dut.clk, 2)
        dut.rst_n.value = 1
        await FallingEdge(dut.clk)

    def request(self, rows: int) -> list[tuple[int, int, int, bool, bool]]:
        """Queue the beats of a request at a random position; returns its rows."""
        place = self.rng.randrange(self.places)
        tag = self.rng.randrange(1 << bench_parameter("TagBits"))
        wanted = []
        index = 0
        while index < rows:
            count = min(self.places - place, rows - index)
            data = self.rng.randrange(1 << 128 * self.places)
            error = self.rng.random() < 0.1
            last = index + count == rows
            self.beats.append(Beat(data, place, place + count - 1, last, error, tag))
            for i in range(count):
                row = data >> 128 * (place + i) & (ROW - 1)
                wanted.append((row, tag, index + i, last and i == count - 1, error))
            index += count
            place = 0
        return wanted

    async def cycle(self, sending: float = 1.0, taking: float = 1.0) -> None:
        dut = self.dut
        valid = self.room and bool(self.beats) and self.rng.random() < sending
        self.room = bool(dut.room_o.value)
        ready = self.rng.random() < taking
        dut.s_valid.value, dut.m_ready.value = valid, ready
        if valid:
            beat = self.beats.popleft()
            dut.s_data.value, dut.s_tag.value = beat.data, beat.tag
            dut.s_low.value, dut.s_high.value = beat.low, beat.high
            dut.s_last.value, dut.s_error.value = beat.last, beat.error
        if dut.m_valid.value and ready:
            tag, index = int(dut.m_tag.value), int(dut.m_index.value)
            last, error = bool(dut.m_last.value), bool(dut.m_error.value)
            self.rows.append((int(dut.m_data.value), tag, index, last, error))
        await RisingEdge(dut.clk)
        await FallingEdge(dut.clk)


@cocotb.test(timeout_time=100, timeout_unit="us")
@cocotb.parametrize(sending=[1.0, 0.4], taking=[1.0, 0.4])
async def random_requests(dut: Any, sending: float, taking: float) -> None:
    bench = Bench(dut)
    await bench.start()
    wanted = []
    for _ in range(40):
        wanted += bench.request(bench.rng.choice([1, 2, 3, 5, bench.rng.randrange(6, 40)]))
    while len(bench.rows) < len(wanted):
        await bench.cycle(sending, taking)
    assert bench.rows == wanted
    await bench.cycle()
    assert (dut.idle_o.value, dut.m_valid.value, dut.m_data.value) == (1, 0, 0)


@cocotb.test(timeout_time=20, timeout_unit="us")
async def a_row_a_cycle(dut: Any) -> None:
    """Rows leave without a gap, across beats and requests of any position and length."""
    bench = Bench(dut)
    await bench.start()
    wanted = [row for _ in range(30) for row in bench.request(bench.rng.randrange(1, 12))]
    while not dut.m_valid.value:
        await bench.cycle()
    for _ in wanted:
        await bench.cycle()
    assert bench.rows == wanted


@cocotb.test(timeout_time=20, timeout_unit="us")
async def clear_leaves_zeros(dut: Any) -> None:
    """A clear in the middle of a request drops it; the next one counts from 0."""
    bench = Bench(dut)
    await bench.start()
    bench.request(100)
    for _ in range(60):
        await bench.cycle(taking=0.5)
    bench.beats.clear()
    dut.s_valid.value = 0
    dut.clear_i.value = 1
    await bench.cycle()
    dut.clear_i.value = 0
    assert dut.idle_o.value == 0
    for _ in range(bench_parameter("QueueBeats") + 1):
        await bench.cycle()
    assert (dut.idle_o.value, dut.m_valid.value, dut.m_data.value) == (1, 0, 0)
    assert not any(int(cell.value) for cell in dut.i_queue.mem_q)
    bench.rows.clear()
    wanted = bench.request(9)
    for _ in range(20):
        await bench.cycle()
    assert bench.rows == wanted


@pytest.mark.parametrize("axi_data_bits", [128, 512])
def test_residue_row_unpack(axi_data_bits: int) -> None:
    parameters = {"AxiDataBits": axi_data_bits, "TagBits": 5, "IndexBits": 8, "QueueBeats": 16}
    run_bench("residue_row_unpack", __file__, parameters=parameters)
