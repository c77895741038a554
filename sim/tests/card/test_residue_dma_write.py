"""Bench of residue_dma_write: memory contents, errors, acknowledgement, rate, and flushing."""

from __future__ import annotations

import logging
import random
from collections import deque
from typing import Any

import cocotb
import pytest
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, ReadOnly, RisingEdge
from cocotbext.axi import AxiSlaveWrite, AxiWriteBus
from cocotbext.axi.stream import define_stream

from residue_sim.harness import run_bench
from residue_sim.stimuli import stalls
from residue_sim.window import BASE, ROW, SIZE, Bursts, Window, is_bad, misplaced, random_address

RequestBus, Request, RequestSource, _, _ = define_stream(
    "Request", signals=["addr", "rows", "valid", "ready"]
)


class Bench:
    def __init__(self, dut: Any, seed: int, stall: float) -> None:
        self.dut = dut
        self.rng = random.Random(seed)
        self.beat_bytes = len(dut.s_data) // 8
        self.memory = Window(self.beat_bytes)
        self.wanted = bytearray(SIZE)
        self.sent: set[tuple[int, bytes]] = set()
        Clock(dut.clk, 2, "ns").start()
        for signal in (dut.flush_i, dut.clear_i, dut.error_clear_i, dut.s_valid):
            signal.value = 0
        dut.mem_base_i.value = BASE
        dut.mem_limit_i.value = BASE + SIZE
        self.requests = RequestSource(
            RequestBus.from_prefix(dut, "s_req"), dut.clk, dut.rst_n, False
        )
        self.data: deque[tuple[int, int]] = deque()  # beats to send, and their rows
        self.pause = False
        self.bursts = Bursts(dut, "aw", self.beat_bytes)
        bus = AxiWriteBus.from_prefix(dut, "m_axi")
        self.slave = AxiSlaveWrite(bus, dut.clk, dut.rst_n, self.memory, False)
        self.slave.log.setLevel(logging.ERROR)  # faults are meant
        if stall:
            for channel in (
                self.requests,
                self.slave.aw_channel,
                self.slave.w_channel,
                self.slave.b_channel,
            ):
                channel.set_pause_generator(stalls(self.rng, stall * self.rng.uniform(0.5, 1)))
        cocotb.start_soon(self._watch_idle())
        cocotb.start_soon(self._feed(stall))

    async def _feed(self, stall: float) -> None:
        """Send beats, each in the cycle after one with room."""
        dut = self.dut
        while True:
            await RisingEdge(dut.clk)
            room = bool(self.data) and not self.pause and dut.room_o.value == 1
            send = room and self.rng.random() >= stall
            dut.s_valid.value = send
            if send:
                dut.s_data.value, dut.s_keep.value = self.data.popleft()

    async def _watch_idle(self) -> None:
        """idle_o is never high while a burst on the bus waits for its response."""
        dut = self.dut
        waiting = 0
        while True:
            await RisingEdge(dut.clk)
            await ReadOnly()
            if not int(dut.rst_n.value):
                continue
            assert not (waiting and int(dut.idle_o.value))
            waiting += int(dut.m_axi_awvalid.value) and int(dut.m_axi_awready.value)
            waiting -= int(dut.m_axi_bvalid.value) and int(dut.m_axi_bready.value)

    async def reset(self) -> None:
        self.dut.rst_n.value = 0
        await ClockCycles(self.dut.clk, 3)
        self.dut.rst_n.value = 1
        await ClockCycles(self.dut.clk, 2)

    async def idle(self) -> None:
        """Until all was sent and the card says that it is written."""
        await RisingEdge(self.dut.clk)
        while (
            self.requests.count()
            or self.data
            or int(self.dut.s_valid.value)
            or int(self.dut.s_req_valid.value)
            or not int(self.dut.idle_o.value)
        ):
            await RisingEdge(self.dut.clk)

    async def flush(self) -> None:
        """Flush, the sources falling silent with it, until it is done."""
        self.dut.flush_i.value = 1
        self.requests.clear()
        self.data.clear()
        self.dut.s_req_valid.value = 0
        self.dut.s_valid.value = 0
        await RisingEdge(self.dut.clk)
        self.dut.flush_i.value = 0
        await RisingEdge(self.dut.clk)
        await self.idle()

    def random_request(self, bad: float) -> tuple[int, int]:
        """Address and rows; now and then one that must be refused."""
        rows = self.rng.choice([1, 2, self.rng.randrange(3, 66), self.rng.randrange(64, 300)])
        address = random_address(self.rng, rows)
        if self.rng.random() < bad:
            return self.rng.choice([*misplaced(address, rows), (address, 0)])
        return address, rows

    def span(self, address: int, rows: int) -> range:
        """Addresses of the beats that a request touches."""
        size = self.beat_bytes
        return range(address - address % size, address + rows * ROW if rows else 0, size)

    def send(self, address: int, rows: int) -> None:
        """A request with random data; `wanted` becomes what memory must hold afterwards."""
        self.requests.send_nowait(Request(addr=address, rows=rows))
        size = self.beat_bytes
        start = address - address % ROW
        for at in self.span(start, rows):
            data = self.rng.randbytes(size)
            places = [i for i in range(size // ROW) if start <= at + ROW * i < start + rows * ROW]
            self.data.append((int.from_bytes(data, "little"), sum(1 << i for i in places)))
            for i in places:
                row = data[ROW * i : ROW * i + ROW]
                self.sent.add((at + ROW * i, row))
                if not is_bad(address, rows) and at not in self.memory.faulty:
                    self.wanted[at + ROW * i - BASE : at + ROW * i + ROW - BASE] = row

    def check_addresses(self, requests: list[tuple[int, int]]) -> None:
        """The bursts cover the good requests, in order, as AXI allows."""
        assert self.bursts.beats() == [
            at
            for address, rows in requests
            if not is_bad(address, rows)
            for at in self.span(address, rows)
        ]
        assert not self.memory.outside


@cocotb.test(timeout_time=120, timeout_unit="us")
@cocotb.parametrize(stall=[0.0, 0.6])
async def random_requests(dut: Any, stall: float) -> None:
    """Any mix of requests leaves in memory what was sent, and the flags due."""
    bench = Bench(dut, cocotb.RANDOM_SEED, stall)
    await bench.reset()
    assert dut.idle_o.value == 1
    for bad, faults in ((0.0, 0.0), (0.0, 0.02), (0.3, 0.0), (0.3, 0.02)):
        bench.memory.break_beats(bench.rng, faults)
        requests = [bench.random_request(bad) for _ in range(10)]
        for request in requests:
            bench.send(*request)
        await bench.idle()
        assert bench.memory.bytes == bench.wanted
        bench.check_addresses(requests)
        assert dut.error_window_o.value == any(is_bad(*request) for request in requests)
        assert dut.error_axi_o.value == bench.memory.raised
        dut.error_clear_i.value = 1
        await RisingEdge(dut.clk)
        dut.error_clear_i.value = 0
        await ClockCycles(dut.clk, 2)
        assert (dut.error_window_o.value, dut.error_axi_o.value) == (0, 0)


@cocotb.test(timeout_time=20, timeout_unit="us")
@cocotb.parametrize(beats=[1, 5, 64, 200])
async def full_rate(dut: Any, beats: int) -> None:
    """A memory that takes a beat every cycle gets one, across bursts and requests."""
    bench = Bench(dut, cocotb.RANDOM_SEED, 0.0)
    await bench.reset()
    total = 400 // beats * beats
    for i in range(total // beats):
        bench.send(BASE + 4096 * (i % 8), beats * bench.beat_bytes // ROW)
    while not int(dut.m_axi_wvalid.value):
        await RisingEdge(dut.clk)
    cycles = seen = 0
    while seen < total:
        seen += int(dut.m_axi_wvalid.value) and int(dut.m_axi_wready.value)
        cycles += 1
        await RisingEdge(dut.clk)
    assert cycles == total
    await bench.idle()
    assert bench.memory.bytes == bench.wanted


@cocotb.test(timeout_time=20, timeout_unit="us")
async def address_waits_for_data(dut: Any) -> None:
    """No address without its first beat; at most MaxOutstanding without their response."""
    bench = Bench(dut, cocotb.RANDOM_SEED, 0.0)
    await bench.reset()
    bench.pause = True
    bench.slave.b_channel.pause = True
    bench.slave.b_channel.queue_occupancy_limit = -1
    requests = [(BASE + 4096 * (i % 8), 3) for i in range(2 * int(dut.MaxOutstanding.value))]
    for request in requests:
        bench.send(*request)
    await ClockCycles(dut.clk, 50)
    assert len(bench.bursts) == 0
    bench.pause = False
    await ClockCycles(dut.clk, 300)
    assert len(bench.bursts) == int(dut.MaxOutstanding.value)
    bench.slave.b_channel.pause = False
    await bench.idle()
    assert bench.memory.bytes == bench.wanted
    bench.check_addresses(requests)


@cocotb.test(timeout_time=40, timeout_unit="us")
@cocotb.parametrize(stall=[0.0, 0.6])
async def flush(dut: Any, stall: float) -> None:
    """After a flush at any moment memory holds what was there or whole rows that were sent."""
    bench = Bench(dut, cocotb.RANDOM_SEED, stall)
    await bench.reset()
    for _ in range(8):
        before = bytes(bench.memory.bytes)
        bench.sent.clear()
        for _ in range(6):
            bench.send(*bench.random_request(0.2))
        await ClockCycles(dut.clk, bench.rng.randrange(1, 150))
        await bench.flush()
        assert (dut.error_window_o.value, dut.error_axi_o.value) == (0, 0)
        assert not bench.memory.outside
        for offset in range(0, SIZE, ROW):
            row = bytes(bench.memory.bytes[offset : offset + ROW])
            assert row == before[offset : offset + ROW] or (BASE + offset, row) in bench.sent
        bench.bursts.clear()
        bench.wanted[:] = bench.memory.bytes
        request = bench.random_request(0.0)
        bench.send(*request)
        await bench.idle()
        assert bench.memory.bytes == bench.wanted
        bench.check_addresses([request])


@pytest.mark.parametrize("axi_data_bits", [128, 512])
def test_residue_dma_write(axi_data_bits: int) -> None:
    run_bench("residue_dma_write", __file__, parameters={"AxiDataBits": axi_data_bits})
