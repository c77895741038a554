"""Bench of residue_dma_split: every burst of every request, refusals, rate, clearing."""

from __future__ import annotations

import random
from typing import Any

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, RisingEdge
from cocotbext.axi.stream import define_stream

from residue_sim.harness import run_bench

BASE, LIMIT = 0xFFFF_F800, 0x1_0001_0040
BYTES, BURST = 16, 64

RequestBus, Request, RequestSource, _, _ = define_stream(
    "Request", signals=["addr", "beats", "tag", "valid", "ready"]
)
BurstBus, _, _, BurstSink, _ = define_stream(
    "Burst", signals=["addr", "beats", "last", "bad", "tag", "valid", "ready"]
)


def bursts(address: int, beats: int, tag: int) -> list[tuple[int, int, bool, bool, int]]:
    """(address, beats, last, bad, tag) of each burst of a request."""
    inside = address >= BASE and address + beats * BYTES <= LIMIT
    if not inside or beats == 0 or address % BYTES:
        return [(address, beats, True, True, tag)]
    result = []
    while beats:
        step = min(beats, BURST - address // BYTES % BURST)
        result.append((address, step, step == beats, False, tag))
        address += step * BYTES
        beats -= step
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
@cocotb.parametrize(stall=[0.0, 0.5])
async def random_requests(dut: Any, stall: float) -> None:
    rng = random.Random(cocotb.RANDOM_SEED)
    source, sink = await start(dut)
    for channel in (source, sink):
        channel.set_pause_generator(iter(lambda: rng.random() < stall, None))
    wanted = []
    for _ in range(200):
        beats = rng.choice([0, 1, 2, 63, 64, 65, rng.randrange(3, 300)])
        address = rng.choice(
            [
                rng.randrange(BASE, LIMIT, BYTES),
                rng.randrange(BASE // 4096, LIMIT // 4096 + 1) * 4096 - rng.randrange(4) * BYTES,
                BASE,
                BASE - BYTES,
                LIMIT - beats * BYTES,
                LIMIT - beats * BYTES + BYTES,
                LIMIT - BYTES,
                LIMIT,
                rng.randrange(BASE, LIMIT),
                2**64 - BYTES,
                0,
            ]
        )
        tag = rng.randrange(2)
        source.send_nowait(Request(addr=address, beats=beats, tag=tag))
        wanted += bursts(address, beats, tag)
    for index, burst in enumerate(wanted):
        got = await sink.recv()
        found = (int(got.addr), int(got.beats), bool(got.last), bool(got.bad), int(got.tag))
        assert found == burst, f"burst {index}"
    await ClockCycles(dut.clk, 3)
    assert sink.empty()
    assert dut.idle_o.value == 1


@cocotb.test(timeout_time=10, timeout_unit="us")
async def a_burst_a_cycle(dut: Any) -> None:
    """Also where every request is one burst."""
    source, _ = await start(dut)
    for i in range(50):
        source.send_nowait(Request(addr=BASE + i * BYTES, beats=1, tag=0))
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
        source.send_nowait(Request(addr=BASE + i * BYTES, beats=100, tag=0))
    await ClockCycles(dut.clk, 8)
    assert dut.idle_o.value == 0
    source.clear()
    dut.s_req_valid.value = 0
    dut.clear_i.value = 1
    await RisingEdge(dut.clk)
    dut.clear_i.value = 0
    await RisingEdge(dut.clk)
    assert (dut.idle_o.value, dut.m_burst_valid.value, dut.s_req_ready.value) == (1, 0, 1)


def test_residue_dma_split() -> None:
    run_bench("residue_dma_split", __file__, parameters={"AxiDataBits": 8 * BYTES})
