"""Bench of residue_row_pack: beats of every request, when it is handed on, rate, zeroing."""

from __future__ import annotations

import random
from collections import deque
from typing import Any

import cocotb
import pytest
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, FallingEdge, RisingEdge

from residue_sim.harness import bench_parameter, run_bench


class Bench:
    """A lane that sends requests and rows; beats are taken only of requests handed on."""

    def __init__(self, dut: Any) -> None:
        self.dut = dut
        self.rng = random.Random(cocotb.RANDOM_SEED)
        self.places = bench_parameter("AxiDataBits") // 128
        self.requests: deque[tuple[int, int]] = deque()
        self.rows: deque[tuple[int, bool]] = deque()  # (data, last)
        self.asking = self.sending = False
        self.handed_on: list[tuple[int, int]] = []
        self.due = 0  # requests handed on whose last beat was not taken
        self.beats: list[tuple[int, int, bool]] = []

    async def start(self) -> None:
        dut = self.dut
        Clock(dut.clk, 2, "ns").start()
        for signal in (dut.clear_i, dut.s_req_valid, dut.s_valid, dut.m_req_ready, dut.m_ready):
            signal.value = 0
        dut.rst_n.value = 0
        await ClockCycles(dut.clk, 2)
        dut.rst_n.value = 1
        await RisingEdge(dut.clk)
        await FallingEdge(dut.clk)

    def request(self, rows: int) -> tuple[tuple[int, int], list[tuple[int, int, bool]]]:
        """Queue a request and its rows; returns it and its beats."""
        address = self.rng.randrange(1 << 60) << 4
        data = [self.rng.randrange(1, 1 << 128) for _ in range(rows)]
        self.requests.append((address, rows))
        self.rows += [(row, i == rows - 1) for i, row in enumerate(data)]
        place = address // 16 % self.places
        beats = []
        while data:
            chunk, data = data[: self.places - place], data[self.places - place :]
            value = sum(row << 128 * (place + i) for i, row in enumerate(chunk))
            beats.append((value, (1 << len(chunk)) - 1 << place, not data))
            place = 0
        return (address, rows), beats

    async def cycle(self, sending: float = 1.0, granting: float = 1.0, taking: float = 1.0) -> None:
        dut, rng = self.dut, self.rng
        self.asking = bool(self.requests) and (self.asking or rng.random() < sending)
        self.sending = bool(self.rows) and (self.sending or rng.random() < sending)
        grant, take = rng.random() < granting, self.due > 0 and rng.random() < taking
        dut.s_req_valid.value, dut.s_valid.value = self.asking, self.sending
        if self.requests:
            dut.s_req_addr.value, dut.s_req_rows.value = self.requests[0]
        if self.rows:
            dut.s_data.value, dut.s_last.value = self.rows[0]
        dut.m_req_ready.value, dut.m_ready.value = grant, take
        await RisingEdge(dut.clk)
        if self.asking and dut.s_req_ready.value:
            self.requests.popleft()
            self.asking = False
        if self.sending and dut.s_ready.value:
            self.rows.popleft()
            self.sending = False
        if grant and dut.m_req_valid.value:
            self.handed_on.append((int(dut.m_req_addr.value), int(dut.m_req_rows.value)))
            self.due += 1
        if take and dut.m_valid.value:
            beat = int(dut.m_data.value), int(dut.m_keep.value), bool(dut.m_last.value)
            self.beats.append(beat)
            self.due -= beat[2]
        await FallingEdge(dut.clk)


@cocotb.test(timeout_time=100, timeout_unit="us")
@cocotb.parametrize(sending=[1.0, 0.5], taking=[1.0, 0.2])
async def random_requests(dut: Any, sending: float, taking: float) -> None:
    bench = Bench(dut)
    await bench.start()
    wanted_requests, wanted_beats = [], []
    for _ in range(30):
        rows = bench.rng.choice([1, 2, 3, 4, 5, bench.rng.randrange(6, 40), 100])
        request, beats = bench.request(rows)
        wanted_requests.append(request)
        wanted_beats += beats
    while len(bench.beats) < len(wanted_beats):
        await bench.cycle(sending, 0.5, taking)
    assert bench.beats == wanted_beats
    assert bench.handed_on == wanted_requests
    await bench.cycle()
    assert dut.idle_o.value == 1


@cocotb.test(timeout_time=20, timeout_unit="us")
async def is_handed_on_complete_or_half_full(dut: Any) -> None:
    """The bus is asked for when all rows are in, or half of the queue is."""
    queue = bench_parameter("QueueBeats")
    bench = Bench(dut)
    await bench.start()
    for rows in (5, 48 * bench.places):
        bench.request(rows)
        left = len(bench.rows)
        bench.handed_on.clear()
        while not bench.handed_on:
            await bench.cycle(taking=0.0)
        entered = left - len(bench.rows)
        if queue == 0:
            assert entered == 0
        elif rows == 5:
            assert entered == rows
        else:
            assert queue // 2 - 1 < entered / bench.places <= queue // 2 + 4
        while bench.due:
            await bench.cycle()


@cocotb.test(timeout_time=20, timeout_unit="us")
async def a_row_a_cycle(dut: Any) -> None:
    """A long residue enters without a gap."""
    bench = Bench(dut)
    await bench.start()
    bench.request(100)
    await bench.cycle()
    while not bench.due and bench_parameter("QueueBeats") == 0:
        await bench.cycle()
    left = len(bench.rows)
    for _ in range(left):
        await bench.cycle()
    assert not bench.rows


@cocotb.test(timeout_time=20, timeout_unit="us")
async def clear_leaves_zeros(dut: Any) -> None:
    """A clear in the middle of a residue drops it, and every cell and register is zero."""
    queue = bench_parameter("QueueBeats")
    if queue == 0:
        return  # nothing is held
    bench = Bench(dut)
    await bench.start()
    bench.request(100)
    for _ in range(3 * queue):
        await bench.cycle(granting=0.0)
    bench.requests.clear()
    bench.rows.clear()
    bench.asking = bench.sending = False
    dut.clear_i.value = 1
    await bench.cycle()
    dut.clear_i.value = 0
    assert (dut.idle_o.value, dut.m_req_valid.value, dut.m_valid.value) == (0, 0, 0)
    for _ in range(queue + 1):
        await bench.cycle()
    assert dut.idle_o.value == 1
    assert not any(int(cell.value) for cell in dut.g_queue.i_queue.mem_q)
    assert dut.g_queue.rows_q.value == 0
    bench.handed_on.clear()
    request, beats = bench.request(7)
    while len(bench.beats) < len(beats):
        await bench.cycle()
    assert (bench.handed_on, bench.beats) == ([request], beats)


@pytest.mark.parametrize(("axi_data_bits", "queue_beats"), [(128, 0), (128, 16), (512, 16)])
def test_residue_row_pack(axi_data_bits: int, queue_beats: int) -> None:
    parameters = {"AxiDataBits": axi_data_bits, "QueueBeats": queue_beats}
    run_bench("residue_row_pack", __file__, parameters=parameters)
