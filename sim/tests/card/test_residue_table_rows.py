"""Bench of residue_table_rows: each row once, for all lanes that want it, in order, with room."""

from __future__ import annotations

import random
from typing import Any

import cocotb
import pytest
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge

from residue.card._abi import Opcode
from residue_sim.harness import bench_parameter, run_bench
from residue_sim.job import pack_job

ROWS, STRIDE, TABLE = 3, 5, 0x1_FFFF_FF00
FIRST = 3  # entry of the table store at which tables start


class Bench:
    """Loaders and the reader around it: each loader wants a row when it has room for one."""

    def __init__(self, dut: Any, ready: float, pace: float) -> None:
        self.dut = dut
        self.rng = random.Random(cocotb.RANDOM_SEED)
        self.ready, self.pace = ready, pace

    async def reset(self) -> None:
        dut = self.dut
        Clock(dut.clk, 2, "ns").start()
        for signal in (dut.rst_n, dut.abort_i, dut.lane_busy_i, dut.want_i, dut.m_req_ready):
            signal.value = 0
        await FallingEdge(dut.clk)
        await FallingEdge(dut.clk)
        dut.rst_n.value = 1

    async def run(self, groups: list[int], length: int, log2: int, stop: int | None = None) -> None:
        """Lane i takes `groups[i]` groups of `length` rows; an abort after `stop` cycles."""
        dut, rng = self.dut, self.rng
        entries = 1 << (1 << log2)
        dut.job_i.value = pack_job(opcode=Opcode.POW_FIXED, window_log2=log2, length=length,
                                   rows=ROWS, table_addr=TABLE, stride_b=STRIDE)  # fmt: skip
        await FallingEdge(dut.clk)
        left = [length * count for count in groups]  # rows each lane still needs
        room = [False for _ in groups]
        rows = residue = cycle = 0  # rows asked for, and residues of the next one
        targets = 0
        while any(left) and cycle != stop:
            busy = [count > 0 for count in left]
            room = [b and (r or rng.random() < self.pace) for b, r in zip(busy, room, strict=True)]
            ready = rng.random() < self.ready
            dut.lane_busy_i.value = bits(busy)
            dut.want_i.value = bits(room)
            dut.m_req_ready.value = ready
            if int(dut.m_req_valid.value):
                if residue == 0:
                    assert busy == room, "asked before every lane had room"
                    targets = bits(room)
                last = residue + 1 == entries
                at = TABLE + (rows % length * entries + residue) * STRIDE * 16
                row = ROWS * (FIRST + rows % 2 * entries + residue)
                names = ("addr", "rows", "row", "last", "targets")
                request = tuple(int(getattr(dut, f"m_req_{name}").value) for name in names)
                assert request == (at, ROWS, row, last, targets)
                if ready:
                    residue = 0 if last else residue + 1
                    rows += last
            if int(dut.taken_o.value):
                assert residue == 0
                left = [count - wants for count, wants in zip(left, room, strict=True)]
                room = [False for _ in groups]
            await FallingEdge(dut.clk)
            cycle += 1
        if stop is None:
            assert rows == length * max(groups)
        dut.lane_busy_i.value = dut.want_i.value = 0
        if stop is not None and rng.random() < 0.5:  # the lanes may hear of it first
            await FallingEdge(dut.clk)
            assert not int(dut.m_req_valid.value) or int(dut.m_req_targets.value)
        dut.abort_i.value, dut.m_req_ready.value = stop is not None, 1
        await FallingEdge(dut.clk)
        await FallingEdge(dut.clk)
        assert not int(dut.busy_o.value)
        dut.abort_i.value = 0


def bits(flags: list[bool]) -> int:
    return sum(flag << i for i, flag in enumerate(flags))


@cocotb.test(timeout_time=500, timeout_unit="us")
@cocotb.parametrize(ready=[1.0, 0.4], pace=[1.0, 0.1])
async def rows_in_order(dut: Any, ready: float, pace: float) -> None:
    """Lanes of equal and of different numbers of groups; tables of every digit width."""
    bench = Bench(dut, ready, pace)
    await bench.reset()
    lanes = bench_parameter("Lanes")
    for log2, length in ((0, 1), (0, 5), (1, 3), (2, 4), (3, 2)):
        await bench.run([1] * lanes, length, log2)
        groups = [bench.rng.randrange(3) for _ in range(lanes)]
        groups[bench.rng.randrange(lanes)] = 2
        await bench.run(groups, length, log2)


@cocotb.test(timeout_time=500, timeout_unit="us")
async def abort(dut: Any) -> None:
    """An abort ends it after at most the request that stands; the next command is right."""
    bench = Bench(dut, 0.5, 0.3)
    await bench.reset()
    lanes = bench_parameter("Lanes")
    for _ in range(30):
        await bench.run([2] * lanes, 3, 1, stop=bench.rng.randrange(1, 40))
        await bench.run([1] * lanes, 2, 0)


@pytest.mark.parametrize("lanes", [1, 3])
def test_residue_table_rows(lanes: int) -> None:
    run_bench("residue_table_rows", __file__, parameters={"Lanes": lanes, "RowBits": 11})
