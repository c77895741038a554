"""Bench of residue_writer: memory after random lanes, idle, rates, errors, flushing, zeroing."""

from __future__ import annotations

import itertools
import logging
import random
from collections import deque
from typing import Any

import cocotb
import pytest
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, RisingEdge
from cocotbext.axi import AxiSlaveWrite, AxiWriteBus

from residue_sim.harness import bench_parameter, run_bench
from residue_sim.stimuli import stalls
from residue_sim.window import BASE, ROW, SIZE, Window, is_bad, misplaced, random_address


class Bench:
    """Drives the lanes cycle by cycle; each lane writes its own share of the window."""

    def __init__(self, dut: Any, stall: float = 0.0) -> None:
        self.dut = dut
        self.rng = random.Random(cocotb.RANDOM_SEED)
        self.lanes = bench_parameter("Lanes")
        self.beat = bench_parameter("AxiDataBits") // 8
        self.share = SIZE // self.lanes // 4096 * 4096
        self.stall = stall
        self.memory = Window(self.beat)
        self.wanted = bytearray(SIZE)
        self.sent: set[tuple[int, bytes]] = set()
        self.requests: list[deque[tuple[int, int]]] = [deque() for _ in range(self.lanes)]
        self.rows: list[deque[tuple[bytes, bool]]] = [deque() for _ in range(self.lanes)]
        self.asking = [False] * self.lanes
        self.sending = [False] * self.lanes
        self.cycle = 0
        self.taken: list[list[int]] = [[] for _ in range(self.lanes)]  # cycles of rows taken
        self.beats: list[int] = []  # cycles of beats on the bus
        Clock(dut.clk, 2, "ns").start()
        for name in ("flush_i", "clear_i", "error_clear_i", "s_req_valid", "s_valid"):
            getattr(dut, name).value = 0
        dut.mem_base_i.value = BASE
        dut.mem_limit_i.value = BASE + SIZE
        bus = AxiWriteBus.from_prefix(dut, "m_axi")
        self.slave = AxiSlaveWrite(bus, dut.clk, dut.rst_n, self.memory, False)
        self.slave.log.setLevel(logging.ERROR)  # faults are meant
        if stall:
            for channel in (self.slave.aw_channel, self.slave.w_channel, self.slave.b_channel):
                channel.set_pause_generator(stalls(self.rng, stall * self.rng.uniform(0.3, 1)))

    async def start(self) -> None:
        self.dut.rst_n.value = 0
        await ClockCycles(self.dut.clk, 3)
        self.dut.rst_n.value = 1
        await ClockCycles(self.dut.clk, 3)
        cocotb.start_soon(self._drive())

    async def _drive(self) -> None:
        dut, rng = self.dut, self.rng
        waiting = 0
        while True:
            for lane in range(self.lanes):
                requests, rows = self.requests[lane], self.rows[lane]
                self.asking[lane] = bool(requests) and (
                    self.asking[lane] or rng.random() >= self.stall
                )
                self.sending[lane] = bool(rows) and (
                    self.sending[lane] or rng.random() >= self.stall
                )
            heads = [queue[0] if queue else (0, 0) for queue in self.requests]
            firsts = [queue[0] if queue else (bytes(ROW), False) for queue in self.rows]
            for name, width, values in (
                ("s_req_valid", 1, self.asking),
                ("s_req_addr", 64, [address for address, _ in heads]),
                ("s_req_rows", 16, [rows for _, rows in heads]),
                ("s_valid", 1, self.sending),
                ("s_data", 128, [int.from_bytes(data, "little") for data, _ in firsts]),
                ("s_last", 1, [last for _, last in firsts]),
            ):
                packed = sum(int(value) << width * i for i, value in enumerate(values))
                getattr(dut, name).value = packed
            await RisingEdge(dut.clk)
            self.cycle += 1
            asked, taken = int(dut.s_req_ready.value), int(dut.s_ready.value)
            for lane in range(self.lanes):
                if self.asking[lane] and asked >> lane & 1:
                    self.requests[lane].popleft()
                    self.asking[lane] = False
                if self.sending[lane] and taken >> lane & 1:
                    self.rows[lane].popleft()
                    self.sending[lane] = False
                    self.taken[lane].append(self.cycle)
            if int(dut.m_axi_wvalid.value) and int(dut.m_axi_wready.value):
                self.beats.append(self.cycle)
            assert not (waiting and int(dut.idle_o.value))
            waiting += int(dut.m_axi_awvalid.value) and int(dut.m_axi_awready.value)
            waiting -= int(dut.m_axi_bvalid.value) and int(dut.m_axi_bready.value)

    def busy(self) -> bool:
        return any(self.requests) or any(self.rows) or not int(self.dut.idle_o.value)

    async def idle(self) -> None:
        await ClockCycles(self.dut.clk, 2)
        while self.busy():
            await RisingEdge(self.dut.clk)
        await RisingEdge(self.dut.clk)

    async def pulse(self, signal: Any) -> None:
        signal.value = 1
        await RisingEdge(self.dut.clk)
        signal.value = 0

    def random_request(self, lane: int, bad: float) -> tuple[int, int]:
        """A range in the lane's share; now and then one that must be refused."""
        rng = self.rng
        rows = rng.choice([1, 2, 3, 4, rng.randrange(5, 64), rng.randrange(60, 200)])
        start, end = BASE + self.share * lane, BASE + self.share * (lane + 1)
        address = random_address(rng, rows, start, end)
        if rng.random() < bad:
            return rng.choice(misplaced(address, rows))
        return address, rows

    def send(self, lane: int, address: int, rows: int) -> None:
        """Queue a request with random rows; `wanted` becomes what memory must hold afterwards."""
        self.requests[lane].append((address, rows))
        for i in range(rows):
            data = self.rng.randbytes(ROW)
            at = address + ROW * i
            self.rows[lane].append((data, i == rows - 1))
            self.sent.add((at, data))
            if not is_bad(address, rows) and at - at % self.beat not in self.memory.faulty:
                self.wanted[at - BASE : at - BASE + ROW] = data


@cocotb.test(timeout_time=400, timeout_unit="us")
@cocotb.parametrize(stall=[0.0, 0.6])
async def random_requests(dut: Any, stall: float) -> None:
    """Any mix of lanes and requests leaves in memory what was sent, and the flags due."""
    bench = Bench(dut, stall)
    await bench.start()
    assert dut.idle_o.value == 1
    for bad, faults in ((0.0, 0.0), (0.3, 0.02)):
        bench.memory.break_beats(bench.rng, faults)
        refused = False
        for lane in range(bench.lanes):
            for _ in range(6):
                request = bench.random_request(lane, bad)
                refused |= is_bad(*request)
                bench.send(lane, *request)
        await bench.idle()
        assert bench.memory.bytes == bench.wanted
        assert not bench.memory.outside
        assert dut.error_window_o.value == refused
        assert dut.error_axi_o.value == bench.memory.raised
        await bench.pulse(dut.error_clear_i)
        await ClockCycles(dut.clk, 2)
        assert (dut.error_window_o.value, dut.error_axi_o.value) == (0, 0)


@cocotb.test(timeout_time=60, timeout_unit="us")
async def every_lane_gives_a_row_a_cycle(dut: Any) -> None:
    """As long as the bus carries what the lanes give, a lane pauses between residues only."""
    bench = Bench(dut)
    await bench.start()
    wide = min(bench.beat // ROW, bench.lanes)
    rows, count = 12 * bench.beat // ROW, 6
    for lane in range(wide):
        for i in range(count):
            bench.send(lane, BASE + bench.share * lane + i * rows * ROW, rows)
    await bench.idle()
    assert bench.memory.bytes == bench.wanted
    for lane in range(wide):
        times = bench.taken[lane]
        gaps = [b - a - 1 for a, b in itertools.pairwise(times)]
        assert max(gaps) <= 1 + wide  # two, and one for each lane that is served first
        assert sum(gap > 0 for gap in gaps) <= count - 1


@cocotb.test(timeout_time=60, timeout_unit="us")
async def the_bus_never_waits(dut: Any) -> None:
    """Complete residues of several lanes leave back to back."""
    bench = Bench(dut)
    await bench.start()
    bench.slave.w_channel.pause = True
    rows = 8 * bench.beat // ROW
    for lane in range(bench.lanes):
        for i in range(2):
            bench.send(lane, BASE + bench.share * lane + i * rows * ROW, rows)
    await ClockCycles(dut.clk, 4 * rows)
    bench.slave.w_channel.pause = False
    await bench.idle()
    assert len(bench.beats) == 2 * bench.lanes * 8
    assert bench.beats[-1] - bench.beats[0] == len(bench.beats) - 1
    assert bench.memory.bytes == bench.wanted


@cocotb.test(timeout_time=100, timeout_unit="us")
@cocotb.parametrize(stall=[0.0, 0.5])
async def flush(dut: Any, stall: float) -> None:
    """After a flush at any moment memory holds what was there or whole rows that were sent."""
    bench = Bench(dut, stall)
    await bench.start()
    for _ in range(6):
        before = bytes(bench.memory.bytes)
        bench.sent.clear()
        for lane in range(bench.lanes):
            for _ in range(4):
                bench.send(lane, *bench.random_request(lane, 0.2))
        await ClockCycles(dut.clk, bench.rng.randrange(1, 150))
        for requests, rows in zip(bench.requests, bench.rows, strict=True):
            requests.clear()
            rows.clear()
        dut.s_req_valid.value = dut.s_valid.value = 0
        bench.asking, bench.sending = [False] * bench.lanes, [False] * bench.lanes
        await bench.pulse(dut.flush_i)
        await bench.idle()
        assert (dut.error_window_o.value, dut.error_axi_o.value) == (0, 0)
        assert not bench.memory.outside
        for offset in range(0, SIZE, ROW):
            row = bytes(bench.memory.bytes[offset : offset + ROW])
            assert row == before[offset : offset + ROW] or (BASE + offset, row) in bench.sent
        bench.wanted[:] = bench.memory.bytes
        lane = bench.rng.randrange(bench.lanes)
        bench.send(lane, *bench.random_request(lane, 0.0))
        await bench.idle()
        assert bench.memory.bytes == bench.wanted


@cocotb.test(timeout_time=20, timeout_unit="us")
async def clear_leaves_zeros(dut: Any) -> None:
    """After CLEAR no queue and no register holds data; the next request is served."""
    bench = Bench(dut)
    await bench.start()
    for lane in range(bench.lanes):
        bench.send(lane, BASE + bench.share * lane, 40 * bench.beat // ROW)
    await bench.idle()
    queues = [dut.i_dma.i_data.mem_q]
    if bench.lanes > 1 or bench.beat > ROW:
        queues += [lane.i_pack.g_queue.i_queue.mem_q for lane in dut.g_lanes]
    assert all(any(int(cell.value) for cell in queue) for queue in queues)
    await bench.pulse(dut.clear_i)
    await RisingEdge(dut.clk)
    assert dut.idle_o.value == 0
    await bench.idle()
    assert not any(int(cell.value) for queue in queues for cell in queue)
    assert (dut.held_q.value, dut.m_axi_wdata.value) == (0, 0)
    bench.send(0, BASE + ROW, 7)
    await bench.idle()
    assert bench.memory.bytes == bench.wanted


@pytest.mark.parametrize(
    ("axi_data_bits", "lanes"),
    [(128, 1), (256, 2), *(pytest.param(*c, marks=pytest.mark.full) for c in ((128, 2), (512, 4)))],
)
def test_residue_writer(axi_data_bits: int, lanes: int) -> None:
    parameters = {"AxiDataBits": axi_data_bits, "Lanes": lanes}
    run_bench("residue_writer", __file__, parameters=parameters)
