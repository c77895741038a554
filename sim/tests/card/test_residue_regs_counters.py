"""Bench of residue_regs_counters: a pair read LO first is coherent while it is counting."""

from __future__ import annotations

import random
from typing import Any

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, RisingEdge

from residue_sim.harness import run_bench

BYTES = 0xFFF0  # a cycle
READ_BYTES, WRITE_BYTES = 3, 4


async def read(dut: Any, register: int) -> int:
    dut.req_register_i.value = register
    dut.req_i.value = 1
    await RisingEdge(dut.clk)
    dut.req_i.value = 0
    await RisingEdge(dut.clk)
    assert dut.read_ack_o.value == 1
    value = int(dut.read_data_o.value)
    await RisingEdge(dut.clk)
    assert dut.read_ack_o.value == 0
    return value


@cocotb.test(timeout_time=100, timeout_unit="us")
async def coherent_pairs(dut: Any) -> None:
    rng = random.Random(cocotb.RANDOM_SEED)
    Clock(dut.clk, 2, "ns").start()
    for name in ("cycles", "busy", "products", "read_bytes", "write_bytes", "stalls", "commands"):
        getattr(dut, f"inc_{name}_i").value = 0
    dut.inc_errors_i.value = 0
    dut.clear_i.value = 0
    dut.req_i.value = 0
    dut.req_is_write_i.value = 0
    dut.rst_n.value = 0
    await ClockCycles(dut.clk, 2)
    dut.rst_n.value = 1
    dut.inc_read_bytes_i.value = BYTES
    counted = (1 << 32) - 500 * BYTES  # the lower half overflows on the way
    dut.count_q[READ_BYTES].value = counted

    async def count() -> None:
        nonlocal counted
        while True:
            await RisingEdge(dut.clk)
            counted += BYTES

    cocotb.start_soon(count())
    for _ in range(100):
        before = counted
        low = await read(dut, 2 * READ_BYTES)
        after = counted
        await ClockCycles(dut.clk, rng.randrange(1, 40))
        high = await read(dut, 2 * READ_BYTES + 1)
        assert before <= (high << 32 | low) <= after
    assert counted >> 32
    dut.inc_read_bytes_i.value = 0
    dut.inc_write_bytes_i.value = BYTES
    await ClockCycles(dut.clk, 40)
    dut.inc_write_bytes_i.value = 0
    low = await read(dut, 2 * WRITE_BYTES)
    assert await read(dut, 2 * WRITE_BYTES + 1) << 32 | low == 40 * BYTES
    dut.clear_i.value = 1
    await RisingEdge(dut.clk)
    dut.clear_i.value = 0
    for counter in range(8):
        assert await read(dut, 2 * counter) == 0
        assert await read(dut, 2 * counter + 1) == 0


def test_residue_regs_counters() -> None:
    run_bench("residue_regs_counters", __file__)
