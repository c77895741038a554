"""Bench of residue_dma_read: data, errors, order, rate, and flushing in the middle of anything."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cocotb
import pytest
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, RisingEdge
from cocotbext.axi import AxiReadBus, AxiSlaveRead
from cocotbext.axi.stream import define_stream

from residue_sim.harness import run_bench

BASE = 0x7_FFFF_8000  # crosses a 32-bit boundary
SIZE = 0x1_0000
BURST_BEATS = 64

RequestBus, Request, RequestSource, _, _ = define_stream(
    "Request", signals=["addr", "beats", "tag", "valid", "ready"]
)
DataBus, Data, _, DataSink, _ = define_stream(
    "Data", signals=["data", "last", "error", "tag", "valid", "ready"]
)
AddressBus, _, _, _, AddressMonitor = define_stream(
    "Address",
    signals=["araddr", "arlen", "arsize", "arburst", "arcache", "arprot", "arvalid", "arready"],
)


class Memory:
    """The window's bytes; raises (SLVERR) where told and remembers reads outside the window."""

    def __init__(self, rng: random.Random) -> None:
        self.bytes = rng.randbytes(SIZE)
        self.faulty: set[int] = set()
        self.raised = False
        self.outside: list[int] = []

    async def read(self, address: int, length: int) -> bytes:
        if not BASE <= address <= BASE + SIZE - length:
            self.outside.append(address)
        if address in self.faulty:
            self.raised = True
            raise OSError("faulty")
        return self.at(address, length)

    def at(self, address: int, length: int) -> bytes:
        return self.bytes[address - BASE : address - BASE + length]


@dataclass(frozen=True)
class Beat:
    data: int
    last: bool
    error: bool
    tag: int


class Bench:
    def __init__(self, dut: Any, seed: int, stall: float) -> None:
        self.dut = dut
        self.rng = random.Random(seed)
        self.memory = Memory(self.rng)
        self.beat_bytes = len(dut.m_data) // 8
        Clock(dut.clk, 2, "ns").start()
        for signal in (dut.flush_i, dut.error_clear_i):
            signal.value = 0
        dut.mem_base_i.value = BASE
        dut.mem_limit_i.value = BASE + SIZE
        self.requests = RequestSource(
            RequestBus.from_prefix(dut, "s_req"), dut.clk, dut.rst_n, False
        )
        self.data = DataSink(DataBus.from_prefix(dut, "m"), dut.clk, dut.rst_n, False)
        self.addresses = AddressMonitor(
            AddressBus.from_prefix(dut, "m_axi"), dut.clk, dut.rst_n, False
        )
        bus = AxiReadBus.from_prefix(dut, "m_axi")
        self.slave = AxiSlaveRead(bus, dut.clk, dut.rst_n, self.memory, False)
        self.slave.log.setLevel(logging.ERROR)  # faults are meant
        if stall:
            for channel in (
                self.requests,
                self.data,
                self.slave.ar_channel,
                self.slave.r_channel,
            ):
                channel.set_pause_generator(self._stalls(stall * self.rng.uniform(0.5, 1)))

    def _stalls(self, probability: float) -> Iterator[bool]:
        while True:
            yield self.rng.random() < probability

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

    def random_request(self, bad: float) -> tuple[int, int]:
        """Address and beats; now and then one that must be refused."""
        size = self.beat_bytes
        beats = self.rng.choice([1, 2, self.rng.randrange(3, 66), self.rng.randrange(64, 200)])
        beats = min(beats, SIZE // size // 4)
        address = self.rng.randrange(BASE, BASE + SIZE - beats * size, size)
        if self.rng.random() < 0.5:  # around a page's edge, or the window's
            edge = self.rng.randrange(BASE, BASE + SIZE + 1, 4096)
            address = edge + size * self.rng.randrange(-beats, 2)
            address = min(max(address, BASE), BASE + SIZE - beats * size)
        if self.rng.random() < bad:
            return self.rng.choice(
                [
                    (address + 1, beats),
                    (address + size // 2, beats),
                    (address, 0),
                    (BASE - size, beats),
                    (BASE - beats * size, beats),
                    (BASE + SIZE, 1),
                    (BASE + SIZE - beats * size + size, beats),
                    (BASE + SIZE - size, 65535),
                    (2**64 - size, 2),
                    (address - BASE, beats),
                ]
            )
        return address, beats

    def is_bad(self, address: int, beats: int) -> bool:
        size = self.beat_bytes
        inside = address >= BASE and address + beats * size <= BASE + SIZE
        return not inside or beats == 0 or address % size != 0

    def expected(self, address: int, beats: int, tag: int) -> list[Beat]:
        if self.is_bad(address, beats):
            return [Beat(0, True, True, tag)]
        size = self.beat_bytes
        result = []
        for i in range(beats):
            at = address + i * size
            error = at in self.memory.faulty
            data = 0 if error else int.from_bytes(self.memory.at(at, size), "little")
            result.append(Beat(data, i == beats - 1, error, tag))
        return result

    def send(self, address: int, beats: int, tag: int) -> None:
        self.requests.send_nowait(Request(addr=address, beats=beats, tag=tag))

    async def check(self, wanted: list[Beat]) -> None:
        for index, beat in enumerate(wanted):
            got = await self.data.recv()
            found = Beat(
                beat.data if beat.error else int(got.data),  # data of an error is not defined
                bool(got.last),
                bool(got.error),
                int(got.tag),
            )
            assert found == beat, f"beat {index}"

    def check_addresses(self, requests: list[tuple[int, int]]) -> None:
        """The bursts cover the good requests, in order, as AXI allows."""
        covered = []
        while not self.addresses.empty():
            burst = self.addresses.recv_nowait()
            address, beats = int(burst.araddr), int(burst.arlen) + 1
            assert beats <= BURST_BEATS
            assert address % 4096 + beats * self.beat_bytes <= 4096
            assert (int(burst.arsize), int(burst.arburst)) == (self.beat_bytes.bit_length() - 1, 1)
            assert (int(burst.arcache), int(burst.arprot)) == (3, 0)
            covered += [address + i * self.beat_bytes for i in range(beats)]
        assert covered == [
            address + i * self.beat_bytes
            for address, beats in requests
            if not self.is_bad(address, beats)
            for i in range(beats)
        ]
        assert not self.memory.outside


@cocotb.test(timeout_time=120, timeout_unit="us")
@cocotb.parametrize(stall=[0.0, 0.4, 0.8])
async def random_requests(dut: Any, stall: float) -> None:
    """Any mix of requests answers in order with the memory's data and the errors due."""
    bench = Bench(dut, cocotb.RANDOM_SEED, stall)
    await bench.reset()
    assert dut.idle_o.value == 1
    for bad, faults in ((0.0, 0.0), (0.0, 0.05), (0.3, 0.0), (0.3, 0.05)):
        size = bench.beat_bytes
        words = range(BASE, BASE + SIZE, size)
        bench.memory.faulty = {at for at in words if bench.rng.random() < faults}
        requests = [bench.random_request(bad) for _ in range(15)]
        wanted = []
        for address, beats in requests:
            tag = bench.rng.randrange(16)
            bench.send(address, beats, tag)
            wanted += bench.expected(address, beats, tag)
        await bench.check(wanted)
        await bench.idle()
        assert bench.data.empty()
        bench.check_addresses(requests)
        assert dut.error_window_o.value == any(bench.is_bad(*request) for request in requests)
        assert dut.error_axi_o.value == bench.memory.raised
        bench.memory.raised = False
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
        bench.send(BASE + 4096 * (i % 8), beats, 0)
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
    requests = [(BASE + 4096 * (i % 8), 3) for i in range(2 * int(dut.MaxOutstanding.value))]
    for address, beats in requests:
        bench.send(address, beats, 1)
    await ClockCycles(dut.clk, 200)
    assert bench.addresses.count() == int(dut.MaxOutstanding.value)
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
    for _ in range(15):
        for _ in range(6):
            bench.send(*bench.random_request(0.2), 1)
        await ClockCycles(dut.clk, bench.rng.randrange(1, 150))
        await bench.flush()
        assert (dut.error_window_o.value, dut.error_axi_o.value) == (0, 0)
        bench.data.clear()
        bench.addresses.clear()
        request = bench.random_request(0.0)
        bench.send(*request, 2)
        await bench.check(bench.expected(*request, 2))
        await bench.idle()
        assert bench.data.empty()
        bench.check_addresses([request])


@pytest.mark.parametrize("axi_data_bits", [128, 512])
def test_residue_dma_read(axi_data_bits: int) -> None:
    run_bench("residue_dma_read", __file__, parameters={"AxiDataBits": axi_data_bits})
