"""Bench of residue_reader: every row of every request to its targets, rates, flush, zeroing."""

from __future__ import annotations

import logging
import random
from collections import deque
from dataclasses import dataclass
from typing import Any

import cocotb
import pytest
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, RisingEdge
from cocotbext.axi import AxiReadBus, AxiSlaveRead

from residue_sim.harness import bench_parameter, run_bench
from residue_sim.stimuli import stalls
from residue_sim.window import BASE, ROW, SIZE, Bursts, Window, is_bad, misplaced, random_address

TAG_BITS, INDEX_BITS = 10, 12


@dataclass(frozen=True)
class Request:
    address: int
    rows: int
    tag: int
    targets: int

    @property
    def bad(self) -> bool:
        return is_bad(self.address, self.rows)


@dataclass(frozen=True)
class Row:
    data: int
    index: int
    last: bool
    error: bool


class Bench:
    """Drives the ports and takes the streams, cycle by cycle."""

    def __init__(self, dut: Any, stall: float = 0.0) -> None:
        self.dut = dut
        self.rng = random.Random(cocotb.RANDOM_SEED)
        self.ports = bench_parameter("Ports")
        self.targets = bench_parameter("Targets")
        self.beat = bench_parameter("AxiDataBits") // 8
        self.memory = Window(self.beat, self.rng.randbytes(SIZE))
        self.stall = stall
        self.waiting: list[deque[Request]] = [deque() for _ in range(self.ports)]
        self.valid = [False] * self.ports
        self.ready = 0
        self.rows: list[list[tuple[int, Row]]] = [[] for _ in range(self.targets)]
        self.times: list[list[int]] = [[] for _ in range(self.targets)]
        self.cycle = 0
        Clock(dut.clk, 2, "ns").start()
        for name in ("flush_i", "clear_i", "error_clear_i", "s_req_valid", "m_ready"):
            getattr(dut, name).value = 0
        dut.mem_base_i.value = BASE
        dut.mem_limit_i.value = BASE + SIZE
        self.bursts = Bursts(dut, "ar", self.beat)
        bus = AxiReadBus.from_prefix(dut, "m_axi")
        self.slave = AxiSlaveRead(bus, dut.clk, dut.rst_n, self.memory, False)
        self.slave.log.setLevel(logging.ERROR)  # faults are meant
        self.slave.ar_channel.queue_occupancy_limit = 16
        if stall:
            for channel in (self.slave.ar_channel, self.slave.r_channel):
                channel.set_pause_generator(stalls(self.rng, stall * self.rng.uniform(0.3, 1)))

    async def start(self) -> None:
        self.dut.rst_n.value = 0
        await ClockCycles(self.dut.clk, 3)
        self.dut.rst_n.value = 1
        await ClockCycles(self.dut.clk, 3)
        self.driver = cocotb.start_soon(self._drive())

    async def _drive(self) -> None:
        dut, rng = self.dut, self.rng
        while True:
            self.valid = [
                bool(queue) and (valid or rng.random() >= self.stall)
                for queue, valid in zip(self.waiting, self.valid, strict=True)
            ]
            fields = [queue[0] if queue else Request(0, 0, 0, 1) for queue in self.waiting]
            dut.s_req_valid.value = sum(valid << p for p, valid in enumerate(self.valid))
            for name, width, values in (
                ("addr", 64, [field.address for field in fields]),
                ("rows", 16, [field.rows for field in fields]),
                ("tag", TAG_BITS, [field.tag for field in fields]),
                ("targets", self.targets, [field.targets for field in fields]),
            ):
                packed = sum(value << width * p for p, value in enumerate(values))
                getattr(dut, f"s_req_{name}").value = packed
            self.ready = sum((rng.random() >= self.stall) << t for t in range(self.targets))
            dut.m_ready.value = self.ready
            await RisingEdge(dut.clk)
            self.cycle += 1
            accepted = int(dut.s_req_ready.value)
            for p in range(self.ports):
                if self.valid[p] and accepted >> p & 1:
                    self.waiting[p].popleft()
                    self.valid[p] = False
            taken = int(dut.m_valid.value) & self.ready
            for t in range(self.targets):
                if taken >> t & 1:
                    self._collect(t)

    def _collect(self, t: int) -> None:
        def field(name: str, width: int) -> int:
            value = int(getattr(self.dut, f"m_{name}").value)
            return value >> width * t & ((1 << width) - 1)

        row = Row(
            field("data", 128),
            field("index", INDEX_BITS),
            bool(field("last", 1)),
            bool(field("error", 1)),
        )
        self.rows[t].append((field("tag", TAG_BITS), row))
        self.times[t].append(self.cycle)

    async def idle(self) -> None:
        await ClockCycles(self.dut.clk, 2)
        while any(self.waiting) or not int(self.dut.idle_o.value):
            await RisingEdge(self.dut.clk)
        await RisingEdge(self.dut.clk)

    async def pulse(self, signal: Any) -> None:
        signal.value = 1
        await RisingEdge(self.dut.clk)
        signal.value = 0

    def random_request(self, tag: int, bad: float) -> Request:
        """A request to random targets; now and then one that must be refused."""
        rng = self.rng
        rows = rng.choice([1, 2, 3, rng.randrange(4, 64), rng.randrange(60, 200)])
        address = random_address(rng, rows)
        if rng.random() < bad:
            worse = [*misplaced(address, rows), (address, 0), (BASE + SIZE - ROW, 65535)]
            address, rows = rng.choice(worse)
        targets = 1 << rng.randrange(self.targets)
        if rng.random() < 0.3:
            targets = rng.randrange(1, 1 << self.targets)
        return Request(address, rows, tag, targets)

    def expected(self, request: Request) -> list[Row]:
        if request.bad:
            return [Row(0, 0, True, True)]
        result = []
        for i in range(request.rows):
            at = request.address + ROW * i
            error = at - at % self.beat in self.memory.faulty
            data = int.from_bytes(self.memory.at(at, ROW), "little")
            result.append(Row(0 if error else data, i, i == request.rows - 1, error))
        return result

    def check(self, ports: list[list[Request]]) -> None:
        """Each target got all its requests once, whole, and those of a port in order."""
        by_tag = {request.tag: request for requests in ports for request in requests}
        port_of = {request.tag: p for p, requests in enumerate(ports) for request in requests}
        for t, rows in enumerate(self.rows):
            at = 0
            order: list[list[Request]] = [[] for _ in ports]
            while at < len(rows):
                tag = rows[at][0]
                wanted = self.expected(by_tag[tag])
                found = [
                    (got, Row(0, row.index, row.last, row.error) if row.error else row)
                    for got, row in rows[at : at + len(wanted)]
                ]
                assert found == [(tag, row) for row in wanted], f"target {t}: {by_tag[tag]}"
                order[port_of[tag]].append(by_tag[tag])
                at += len(wanted)
            for p, requests in enumerate(ports):
                assert order[p] == [request for request in requests if request.targets >> t & 1]


@cocotb.test(timeout_time=400, timeout_unit="us")
@cocotb.parametrize(stall=[0.0, 0.6])
async def random_requests(dut: Any, stall: float) -> None:
    """Any mix of ports, targets and requests gets its rows and the errors due."""
    bench = Bench(dut, stall)
    await bench.start()
    tags = iter(range(1 << TAG_BITS))
    for bad, faults in ((0.0, 0.0), (0.0, 0.05), (0.3, 0.05)):
        bench.memory.break_beats(bench.rng, faults)
        bench.rows = [[] for _ in range(bench.targets)]
        ports = [
            [bench.random_request(next(tags), bad) for _ in range(5)] for _ in range(bench.ports)
        ]
        for queue, requests in zip(bench.waiting, ports, strict=True):
            queue.extend(requests)
        await bench.idle()
        bench.check(ports)
        assert bench.bursts.beats()
        assert not bench.memory.outside
        refused = any(request.bad for requests in ports for request in requests)
        assert dut.error_window_o.value == refused
        assert dut.error_axi_o.value == bench.memory.raised
        await bench.pulse(dut.error_clear_i)
        await ClockCycles(dut.clk, 2)
        assert (dut.error_window_o.value, dut.error_axi_o.value) == (0, 0)


@cocotb.test(timeout_time=60, timeout_unit="us")
async def every_lane_takes_a_row_a_cycle(dut: Any) -> None:
    """As long as the bus carries what the lanes take, their streams have no gap."""
    bench = Bench(dut)
    await bench.start()
    wide = min(bench.beat // ROW, bench.targets)
    rows, count = 60, 6
    for i in range(count):
        for lane in range(wide):
            address = BASE + rows * ROW * ((lane * count + i) % (SIZE // ROW // rows // 4) * 4)
            address -= address % bench.beat
            bench.waiting[min(lane + 1, bench.ports - 1)].append(
                Request(address, rows, i, 1 << lane)
            )
    await bench.idle()
    for lane in range(wide):
        times = bench.times[lane]
        assert len(times) == rows * count
        # The first request meets empty queues behind it, so only the bus's own pace.
        assert times[-1] - times[rows] == rows * (count - 1) - 1


@cocotb.test(timeout_time=60, timeout_unit="us")
async def the_bus_never_waits(dut: Any) -> None:
    """With the lanes faster than the bus, or as fast, a beat moves in every cycle."""
    bench = Bench(dut)
    await bench.start()
    lanes = bench.targets
    for i in range(4):
        for lane in range(lanes):
            rows = 16 * bench.beat // ROW
            address = BASE + 4096 * ((i * lanes + lane) % 16)
            bench.waiting[min(lane + 1, bench.ports - 1)].append(
                Request(address, rows, i, 1 << lane)
            )
    while not int(dut.m_axi_rvalid.value):
        await RisingEdge(dut.clk)
    cycles = beats = 0
    total = 4 * lanes * 16
    while beats < total:
        beats += int(dut.m_axi_rvalid.value) and int(dut.m_axi_rready.value)
        cycles += 1
        await RisingEdge(dut.clk)
    if lanes >= bench.beat // ROW:
        assert cycles == total


@cocotb.test(timeout_time=20, timeout_unit="us")
async def a_lane_that_stands_still_leaves_the_others_a_queue(dut: Any) -> None:
    """Rows behind those of a lane that does not drain still reach the others."""
    bench = Bench(dut)
    if bench.targets == 1:
        return
    await bench.start()
    bench.driver.cancel()
    dut.m_ready.value = 0
    one, two = Request(BASE, 24, 1, 1), Request(BASE + 4096, 24, 2, 2)
    for request in (one, two):
        dut.s_req_valid.value = 1
        dut.s_req_addr.value, dut.s_req_rows.value = request.address, request.rows
        dut.s_req_tag.value, dut.s_req_targets.value = request.tag, request.targets
        await RisingEdge(dut.clk)
        while not int(dut.s_req_ready.value) & 1:
            await RisingEdge(dut.clk)
    dut.s_req_valid.value = 0
    dut.m_ready.value = 2
    while len(bench.rows[1]) < 24:
        await RisingEdge(dut.clk)
        if int(dut.m_valid.value) & 2:
            bench._collect(1)
    assert [row for _, row in bench.rows[1]] == bench.expected(two)
    assert int(dut.m_valid.value) & 1
    assert int(dut.m_index.value) & ((1 << INDEX_BITS) - 1) == 0


@cocotb.test(timeout_time=100, timeout_unit="us")
@cocotb.parametrize(stall=[0.0, 0.5])
async def flush(dut: Any, stall: float) -> None:
    """After a flush at any moment nothing of the past is left."""
    bench = Bench(dut, stall)
    await bench.start()
    for _ in range(6):
        for queue in bench.waiting:
            queue.extend(bench.random_request(1, 0.2) for _ in range(4))
        await ClockCycles(dut.clk, bench.rng.randrange(1, 150))
        for queue in bench.waiting:
            queue.clear()
        bench.valid = [False] * bench.ports
        dut.s_req_valid.value = 0
        await bench.pulse(dut.flush_i)
        await bench.idle()
        assert (dut.error_window_o.value, dut.error_axi_o.value) == (0, 0)
        bench.rows = [[] for _ in range(bench.targets)]
        request = bench.random_request(2, 0.0)
        bench.waiting[0].append(request)
        await bench.idle()
        bench.check([[request]])


@cocotb.test(timeout_time=20, timeout_unit="us")
async def clear_leaves_zeros(dut: Any) -> None:
    """After CLEAR no queue and no register holds data; the next request is served."""
    bench = Bench(dut)
    await bench.start()
    everyone = (1 << bench.targets) - 1
    bench.waiting[0].append(Request(BASE, 64 * bench.beat // ROW, 1, everyone))
    await bench.idle()
    queues = [lane.i_unpack.i_queue.mem_q for lane in dut.g_targets]
    assert all(any(int(cell.value) for cell in queue) for queue in queues)
    await bench.pulse(dut.clear_i)
    await RisingEdge(dut.clk)
    assert dut.idle_o.value == 0
    await bench.idle()
    assert not any(int(cell.value) for queue in queues for cell in queue)
    assert (dut.m_data.value, dut.i_dma.m_data.value) == (0, 0)
    bench.rows = [[] for _ in range(bench.targets)]
    request = Request(BASE + ROW, 7, 2, everyone)
    bench.waiting[0].append(request)
    await bench.idle()
    bench.check([[request]])


@pytest.mark.parametrize(
    ("axi_data_bits", "lanes"),
    [(128, 1), (256, 2), *(pytest.param(*c, marks=pytest.mark.full) for c in ((128, 2), (512, 4)))],
)
def test_residue_reader(axi_data_bits: int, lanes: int) -> None:
    parameters = {"AxiDataBits": axi_data_bits, "Ports": lanes + 1, "Targets": lanes}
    parameters |= {"TagBits": TAG_BITS, "IndexBits": INDEX_BITS}
    run_bench(
        "residue_reader", __file__, parameters=parameters, visible=("residue_dma_read.m_data",)
    )
