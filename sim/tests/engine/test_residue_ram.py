"""Bench of residue_ram: latencies at full rate, a waiting output, parity, clearing."""

from __future__ import annotations

import random
from typing import Any

import cocotb
import pytest
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge

from residue_sim.harness import bench_parameter, run_bench

WIDTH_BITS, DEPTH_ROWS = 9, 5
CLEAR_CYCLES = DEPTH_ROWS + 4


async def reset(dut: Any) -> None:
    Clock(dut.clk, 2, "ns").start()
    for signal in (dut.rst_n, dut.clear_i, dut.wen_i, dut.ren_i):
        signal.value = 0
    dut.out_en_i.value = 1
    for _ in range(3):
        await FallingEdge(dut.clk)
    dut.rst_n.value = 1


async def write(dut: Any, row: int, data: int) -> None:
    dut.wen_i.value, dut.wrow_i.value, dut.wdata_i.value = 1, row, data
    await FallingEdge(dut.clk)
    dut.wen_i.value = 0


@cocotb.test(timeout_time=200, timeout_unit="us")
@cocotb.parametrize(rate=[1.0, 0.5], flow=[1.0, 0.6])
async def reads_what_was_written(dut: Any, rate: float, flow: float) -> None:
    """Random traffic; writes land two edges later; no parity error at any time."""
    rng = random.Random(cocotb.RANDOM_SEED)
    await reset(dut)
    rows = [0] * DEPTH_ROWS
    pending: tuple[int, int] | None = None  # in the write register
    array: int | None = None
    output: int | None = None
    for cycle in range(1000):
        await FallingEdge(dut.clk)
        assert output is None or int(dut.rdata_o.value) == output, f"cycle {cycle}"
        assert not int(dut.error_o.value)
        filling = cycle < DEPTH_ROWS
        writing = filling or rng.random() < rate
        reading = cycle > DEPTH_ROWS + 1 and rng.random() < rate
        moving = rng.random() < flow
        row = cycle if filling else rng.randrange(DEPTH_ROWS)
        near = [row] if pending is None else [row, pending[0]]
        read_row = rng.choice(near) if rng.random() < 0.5 else rng.randrange(DEPTH_ROWS)
        data = rng.getrandbits(WIDTH_BITS)
        dut.wen_i.value, dut.wrow_i.value, dut.wdata_i.value = writing, row, data
        dut.ren_i.value, dut.rrow_i.value, dut.out_en_i.value = reading, read_row, moving
        output = array if moving else output
        array = rows[read_row] if reading else array
        if pending:
            rows[pending[0]] = pending[1]
        pending = (row, data) if writing else None


@cocotb.test(timeout_time=200, timeout_unit="us")
async def tells_of_a_flipped_bit(dut: Any) -> None:
    """One flipped bit, data or parity: an error three cycles behind the read, at no other time."""
    parity = bench_parameter("Parity")
    rng = random.Random(cocotb.RANDOM_SEED)
    await reset(dut)
    rows = [rng.getrandbits(WIDTH_BITS) for _ in range(DEPTH_ROWS)]
    for row, data in enumerate(rows):
        await write(dut, row, data)
    await FallingEdge(dut.clk)
    for bit in range(WIDTH_BITS + parity):
        bad = rng.randrange(DEPTH_ROWS)
        stored = int(dut.mem_q[bad].value)
        assert stored & ((1 << WIDTH_BITS) - 1) == rows[bad]
        assert not parity or stored.bit_count() % 2 == 0
        dut.mem_q[bad].value = stored ^ 1 << bit
        reads = [rng.choice([*range(DEPTH_ROWS), None]) for _ in range(30)] + [None] * 3
        errors = []
        for row in reads:
            dut.ren_i.value = row is not None
            dut.rrow_i.value = bad if row is None else row  # named, but not read
            await FallingEdge(dut.clk)
            errors.append(int(dut.error_o.value))
        assert errors[2:] == [int(parity and row == bad) for row in reads[:-2]]
        dut.mem_q[bad].value = stored
        await FallingEdge(dut.clk)


@cocotb.test(timeout_time=200, timeout_unit="us")
async def a_waiting_error_is_told(dut: Any) -> None:
    """The output waits before and while a bad row stands in it."""
    await reset(dut)
    await write(dut, 1, 3)
    await FallingEdge(dut.clk)
    dut.mem_q[1].value = int(dut.mem_q[1].value) ^ 4
    dut.out_en_i.value = 0
    dut.ren_i.value, dut.rrow_i.value = 1, 1
    await FallingEdge(dut.clk)
    dut.ren_i.value = 0
    for _ in range(3):
        await FallingEdge(dut.clk)
        assert not int(dut.error_o.value)
    dut.out_en_i.value = 1
    await FallingEdge(dut.clk)
    dut.out_en_i.value = 0
    await FallingEdge(dut.clk)
    assert int(dut.error_o.value) == bench_parameter("Parity")


@cocotb.test(timeout_time=200, timeout_unit="us")
async def clears_everything(dut: Any) -> None:
    """Array and registers are zero after a clear; what stood there before raises no error."""
    rng = random.Random(cocotb.RANDOM_SEED)
    await reset(dut)
    for row in range(DEPTH_ROWS):
        await write(dut, row, rng.getrandbits(WIDTH_BITS) | 1)
    await FallingEdge(dut.clk)
    for row in range(DEPTH_ROWS):
        dut.mem_q[row].value = int(dut.mem_q[row].value) ^ 2  # bad parity everywhere
    dut.ren_i.value, dut.rrow_i.value = 1, 2
    await write(dut, 3, 5)
    dut.ren_i.value = 0
    dut.clear_i.value = 1
    await FallingEdge(dut.clk)
    for _ in range(CLEAR_CYCLES - 1):
        await FallingEdge(dut.clk)
        assert not int(dut.error_o.value)
    dut.clear_i.value = 0
    held = [*dut.mem_q, dut.array_q, dut.out_q, dut.wdata_q, dut.rdata_o]
    assert not any(int(signal.value) for signal in held)
    await write(dut, 0, 1)
    await FallingEdge(dut.clk)
    assert [int(row.value) & 1 for row in dut.mem_q] == [1, 0, 0, 0, 0]


@pytest.mark.parametrize("parity", [1, 0], ids="parity{}".format)
def test_residue_ram(parity: int) -> None:
    parameters = {"WidthBits": WIDTH_BITS, "DepthRows": DEPTH_ROWS, "Parity": parity}
    run_bench("residue_ram", __file__, parameters=parameters)
