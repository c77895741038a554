"""Bench of residue_dma_read: data, errors, order, rate, and flushing in the middle of anything."""

from __future__ import annotations

import logging
import random
from dataclasses import dataclass, replace
from typing import Any

import cocotb
import pytest
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, RisingEdge
from cocotbext.axi import AxiReadBus, AxiSlaveRead
from cocotbext.axi.stream import define_stream

from residue_sim.harness import run_bench
from residue_sim.stimuli import stalls
from residue_sim.window import BASE, ROW, SIZE, Bursts, Window, is_bad, misplaced, random_address

TARGETS = 3

RequestBus, Request, RequestSource, _, _ = define_stream(
    "Request", signals=["addr", "rows", "tag", "targets", "valid", "ready"]
)


@dataclass(frozen=True)
class Beat:
    targets: int
    data: int
    low: int
    high: int
    last: bool
    error: bool
    tag: int


class Bench:
    def __init__(self, dut: Any, seed: int, stall: float) -> None:
        self.dut = dut
        self.rng = random.Random(seed)
        self.beat_bytes = len(dut.m_data) // 8
        self.memory = Window(self.beat_bytes, self.rng.randbytes(SIZE))
        Clock(dut.clk, 2, "ns").start()
        for signal in (dut.flush_i, dut.error_clear_i, dut.room_i):
            signal.value = 0
        dut.mem_base_i.value = BASE
        dut.mem_limit_i.value = BASE + SIZE
        self.requests = RequestSource(
            RequestBus.from_prefix(dut, "s_req"), dut.clk, dut.rst_n, False
        )
        self.beats: list[Beat] = []
        self.bursts = Bursts(dut, "ar", self.beat_bytes)
        bus = AxiReadBus.from_prefix(dut, "m_axi")
        self.slave = AxiSlaveRead(bus, dut.clk, dut.rst_n, self.memory, False)
        self.slave.log.setLevel(logging.ERROR)  # faults are meant
        if stall:
            for channel in (
                self.requests,
                self.slave.ar_channel,
                self.slave.r_channel,
            ):
                channel.set_pause_generator(stalls(self.rng, stall * self.rng.uniform(0.5, 1)))

        cocotb.start_soon(self._collect(stall))

    async def _collect(self, stall: float) -> None:
        """Give the targets room at random; a beat may come only in the cycle after it."""
        dut = self.dut
        before = room = 0
        while True:
            await RisingEdge(dut.clk)
            valid = int(dut.m_valid.value)
            if int(dut.rst_n.value) and valid:
                assert valid & ~before == 0
                self.beats.append(
                    Beat(
                        valid,
                        int(dut.m_data.value),
                        int(dut.m_low.value),
                        int(dut.m_high.value),
                        bool(dut.m_last.value),
                        bool(dut.m_error.value),
                        int(dut.m_tag.value),
                    )
                )
            elif int(dut.rst_n.value):
                assert dut.m_data.value == 0
            before = room
            room = sum((self.rng.random() >= stall / 3) << t for t in range(TARGETS))
            dut.room_i.value = room

    async def reset(self) -> None:
        self.dut.rst_n.value = 0
        await ClockCycles(self.dut.clk, 3)
        self.dut.rst_n.value = 1
        await ClockCycles(self.dut.clk, 2)

    async def idle(self) -> None:
        await RisingEdge(self.dut.clk)
        while self.requests.count() or not int(self.dut.idle_o.value):
            await RisingEdge(self.dut.clk)

    async def flush(self) -> None:
        """Flush, the source falling silent with it, until it is done."""
        self.dut.flush_i.value = 1
        self.requests.clear()
        self.dut.s_req_valid.value = 0
        await RisingEdge(self.dut.clk)
        self.dut.flush_i.value = 0
        await RisingEdge(self.dut.clk)
        await self.idle()

    def random_request(self, bad: float) -> tuple[int, int, int]:
        """Address, rows and targets; now and then one that must be refused."""
        rows = self.rng.choice([1, 2, self.rng.randrange(3, 66), self.rng.randrange(64, 300)])
        address = random_address(self.rng, rows)
        if self.rng.random() < bad:
            worse = [*misplaced(address, rows), (address, 0), (BASE + SIZE - ROW, 65535)]
            address, rows = self.rng.choice(worse)
        return address, rows, self.rng.randrange(1, 1 << TARGETS)

    def span(self, address: int, rows: int) -> range:
        """Addresses of the beats that a request touches."""
        size = self.beat_bytes
        return range(address - address % size, address + rows * ROW, size)

    def expected(self, address: int, rows: int, targets: int, tag: int) -> list[Beat]:
        if is_bad(address, rows):
            return [Beat(targets, 0, 0, 0, True, True, tag)]
        size = self.beat_bytes
        end = address + rows * ROW
        result = []
        for at in self.span(address, rows):
            error = at in self.memory.faulty
            data = 0 if error else int.from_bytes(self.memory.at(at, size), "little")
            low = (max(at, address) - at) // ROW
            high = (min(at + size, end) - at) // ROW - 1
            result.append(Beat(targets, data, low, high, at + size >= end, error, tag))
        return result

    def send(self, address: int, rows: int, targets: int, tag: int) -> None:
        self.requests.send_nowait(Request(addr=address, rows=rows, tag=tag, targets=targets))

    async def check(self, wanted: list[Beat]) -> None:
        while len(self.beats) < len(wanted):
            await RisingEdge(self.dut.clk)
        for index, beat in enumerate(wanted):
            got = self.beats.pop(0)
            if beat.error:  # its data is not defined
                got = replace(got, data=0)
            assert got == beat, f"beat {index}"

    def check_addresses(self, requests: list[tuple[int, int, int]]) -> None:
        """The bursts cover the good requests, in order, as AXI allows."""
        assert self.bursts.beats() == [
            at
            for address, rows, _ in requests
            if not is_bad(address, rows)
            for at in self.span(address, rows)
        ]
        assert not self.memory.outside


@cocotb.test(timeout_time=120, timeout_unit="us")
@cocotb.parametrize(stall=[0.0, 0.6])
async def random_requests(dut: Any, stall: float) -> None:
    """Any mix of requests answers in order with the memory's data and the errors due."""
    bench = Bench(dut, cocotb.RANDOM_SEED, stall)
    await bench.reset()
    assert dut.idle_o.value == 1
    for bad, faults in ((0.0, 0.0), (0.0, 0.05), (0.3, 0.0), (0.3, 0.05)):
        bench.memory.break_beats(bench.rng, faults)
        requests = [bench.random_request(bad) for _ in range(10)]
        wanted = []
        for request in requests:
            tag = bench.rng.randrange(16)
            bench.send(*request, tag)
            wanted += bench.expected(*request, tag)
        await bench.check(wanted)
        await bench.idle()
        assert not bench.beats
        bench.check_addresses(requests)
        assert dut.error_window_o.value == any(is_bad(*request[:2]) for request in requests)
        assert dut.error_axi_o.value == bench.memory.raised
        dut.error_clear_i.value = 1
        await RisingEdge(dut.clk)
        dut.error_clear_i.value = 0
        await ClockCycles(dut.clk, 2)
        assert (dut.error_window_o.value, dut.error_axi_o.value) == (0, 0)


@cocotb.test(timeout_time=20, timeout_unit="us")
@cocotb.parametrize(beats=[1, 5, 64, 200])
async def full_rate(dut: Any, beats: int) -> None:
    """A memory that answers every cycle is read every cycle, across bursts and requests."""
    bench = Bench(dut, cocotb.RANDOM_SEED, 0.0)
    await bench.reset()
    total = 400 // beats * beats
    for i in range(total // beats):
        bench.send(BASE + 4096 * (i % 8), beats * bench.beat_bytes // ROW, 1, 0)
    while not int(dut.m_valid.value):
        await RisingEdge(dut.clk)
    cycles = seen = 0
    while seen < total:
        seen += int(dut.m_valid.value)
        cycles += 1
        await RisingEdge(dut.clk)
    assert cycles == total


@cocotb.test(timeout_time=20, timeout_unit="us")
async def addresses_run_ahead(dut: Any) -> None:
    """While no data comes, exactly MaxOutstanding bursts are issued."""
    bench = Bench(dut, cocotb.RANDOM_SEED, 0.0)
    await bench.reset()
    bench.slave.ar_channel.queue_occupancy_limit = -1
    bench.slave.r_channel.pause = True
    requests = [(BASE + 4096 * (i % 8), 3, 1) for i in range(2 * int(dut.MaxOutstanding.value))]
    for request in requests:
        bench.send(*request, 1)
    await ClockCycles(dut.clk, 200)
    assert len(bench.bursts) == int(dut.MaxOutstanding.value)
    bench.slave.r_channel.pause = False
    await bench.check([beat for request in requests for beat in bench.expected(*request, 1)])
    await bench.idle()
    bench.check_addresses(requests)


@cocotb.test(timeout_time=40, timeout_unit="us")
@cocotb.parametrize(stall=[0.0, 0.6])
async def flush(dut: Any, stall: float) -> None:
    """After a flush at any moment nothing of the past is left, and the bus saw whole bursts."""
    bench = Bench(dut, cocotb.RANDOM_SEED, stall)
    await bench.reset()
    for _ in range(8):
        for _ in range(6):
            bench.send(*bench.random_request(0.2), 1)
        await ClockCycles(dut.clk, bench.rng.randrange(1, 150))
        await bench.flush()
        assert (dut.error_window_o.value, dut.error_axi_o.value) == (0, 0)
        bench.beats.clear()
        bench.bursts.clear()
        request = bench.random_request(0.0)
        bench.send(*request, 2)
        await bench.check(bench.expected(*request, 2))
        await bench.idle()
        assert not bench.beats
        bench.check_addresses([request])


@pytest.mark.parametrize("axi_data_bits", [128, 512])
def test_residue_dma_read(axi_data_bits: int) -> None:
    run_bench(
        "residue_dma_read", __file__, parameters={"AxiDataBits": axi_data_bits, "Targets": TARGETS}
    )
