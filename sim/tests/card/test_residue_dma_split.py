"""Bench of residue_dma_split: every burst of every request, refusals, rate, clearing."""

from __future__ import annotations

import random
from typing import Any

import cocotb
import pytest
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, RisingEdge
from cocotbext.axi.stream import define_stream

from residue_sim.harness import bench_parameter, run_bench

BASE, LIMIT = 0xFFFF_F7F0, 0x1_0001_0040  # the base is not aligned to a beat of 512 bits
BYTES, BURST = 16, 64

RequestBus, Request, RequestSource, _, _ = define_stream(
    "Request", signals=["addr", "rows", "tag", "valid", "ready"]
)
BurstBus, _, _, BurstSink, _ = define_stream(
    "Burst", signals=["addr", "beats", "low", "high", "last", "bad", "tag", "valid", "ready"]
)


def bursts(address: int, rows: int, tag: int, limit: int) -> list[tuple[int, ...]]:
    """(address, beats, low, high, last, bad, tag) of each burst of a request."""
    size = bench_parameter("AxiDataBits") // 8
    start, end = address // size * size, -(-(address // BYTES + rows) * BYTES // size) * size
    beats = (end - start) // size if rows else 0
    if start < BASE or end > limit or rows == 0 or address % BYTES:
        return [(start, beats, -1, -1, True, True, tag)]
    result: list[tuple[int, ...]] = []
    low = (address - start) // BYTES
    while beats:
        step = min(beats, BURST - start // size % BURST)
        last = step == beats
        high = (address // BYTES + rows - 1 if last else -1) % (size // BYTES)
        result.append((start, step, low, high, last, False, tag))
        start += step * size
        beats -= step
        low = 0
    return result


async def start(dut: Any) -> tuple[Any, Any]:
    Clock(dut.clk, 2, "ns").start()
    dut.clear_i.value = 0
    dut.mem_base_i.value = BASE
    dut.mem_limit_i.value = LIMIT
    source = RequestSource(RequestBus.from_prefix(dut, "s_req"), dut.clk, dut.rst_n, False)
    sink = BurstSink(BurstBus.from_prefix(dut, "m_burst"), dut.clk, dut.rst_n, False)
    dut.rst_n.value = 0
    await ClockCycles(dut.clk, 3)
    dut.rst_n.value = 1
    await ClockCycles(dut.clk, 2)
    return source, sink


@cocotb.test(timeout_time=100, timeout_unit="us")
@cocotb.parametrize(stall=[0.0, 0.5], limit=[LIMIT, LIMIT + BYTES])
async def random_requests(dut: Any, stall: float, limit: int) -> None:
    rng = random.Random(cocotb.RANDOM_SEED)
    source, sink = await start(dut)
    dut.mem_limit_i.value = limit
    for channel in (source, sink):
        channel.set_pause_generator(iter(lambda: rng.random() < stall, None))
    wanted = []
    for pages in (1, 2, 3):  # whole ones: the last burst is as long as a burst can be
        rows = pages * BURST * bench_parameter("AxiDataBits") // 128
        source.send_nowait(Request(addr=1 << 32, rows=rows, tag=0))
        wanted += bursts(1 << 32, rows, 0, limit)
    for _ in range(200):
        rows = rng.choice([0, 1, 2, 63, 64, 65, rng.randrange(3, 300), rng.randrange(256, 1200)])
        address = rng.choice(
            [
                rng.randrange(BASE, limit, BYTES),
                rng.randrange(BASE // 4096, limit // 4096 + 1) * 4096 - rng.randrange(4) * BYTES,
                BASE,
                BASE - BYTES,
                BASE + BYTES,
                limit - rows * BYTES,
                limit - rows * BYTES + BYTES,
                limit - rows * BYTES - 3 * BYTES,
                limit - BYTES,
                limit,
                rng.randrange(BASE, limit),
                2**64 - BYTES,
                0,
            ]
        )
        tag = rng.randrange(2)
        source.send_nowait(Request(addr=address, rows=rows, tag=tag))
        wanted += bursts(address, rows, tag, limit)
    for index, burst in enumerate(wanted):
        got = await sink.recv()
        bad = bool(got.bad)  # of a refused request no row is used
        low, high = (-1, -1) if bad else (int(got.low), int(got.high))
        found = (int(got.addr), int(got.beats), low, high, bool(got.last), bad, int(got.tag))
        assert found == burst, f"burst {index}"
    await ClockCycles(dut.clk, 3)
    assert sink.empty()
    assert dut.idle_o.value == 1


@cocotb.test(timeout_time=10, timeout_unit="us")
async def a_burst_a_cycle(dut: Any) -> None:
    """Also where every request is one burst."""
    source, _ = await start(dut)
    for i in range(50):
        source.send_nowait(Request(addr=BASE + 64 + i * BYTES, rows=1, tag=0))
    while not int(dut.m_burst_valid.value):
        await RisingEdge(dut.clk)
    for _ in range(50):
        assert dut.m_burst_valid.value == 1
        await RisingEdge(dut.clk)
    assert dut.m_burst_valid.value == 0


@cocotb.test(timeout_time=10, timeout_unit="us")
async def clear_drops_everything(dut: Any) -> None:
    source, sink = await start(dut)
    sink.pause = True
    await RisingEdge(dut.clk)
    for i in range(6):
        source.send_nowait(Request(addr=BASE + 64 + i * BYTES, rows=1000, tag=0))
    await ClockCycles(dut.clk, 8)
    assert dut.idle_o.value == 0
    source.clear()
    dut.s_req_valid.value = 0
    dut.clear_i.value = 1
    await RisingEdge(dut.clk)
    dut.clear_i.value = 0
    await RisingEdge(dut.clk)
    assert (dut.idle_o.value, dut.m_burst_valid.value, dut.s_req_ready.value) == (1, 0, 1)


@pytest.mark.parametrize("axi_data_bits", [128, 512])
def test_residue_dma_split(axi_data_bits: int) -> None:
    run_bench("residue_dma_split", __file__, parameters={"AxiDataBits": axi_data_bits})
