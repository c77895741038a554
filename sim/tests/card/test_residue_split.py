"""Bench of residue_split: shares of every count, their addresses, and their time."""

from __future__ import annotations

import random
from typing import Any

import cocotb
import pytest
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge

from residue_sim.harness import bench_parameter, run_bench
from residue_sim.job import unpack_share

FIELDS = ("src_a", "src_b", "exponents", "dst")
MASK = (1 << 64) - 1


def wanted(
    rings: int, count: int, each: bool, bases: list[int], strides: list[int], log2: int
) -> list[dict[str, int]]:
    """The shares, lane by lane."""
    shares = []
    done = 0
    for ring in range(rings):
        n = count if each else count // rings + (ring < count % rings)
        steps = [16 * s for s in strides[:3]] + [16 * strides[3] << log2]
        addresses = {
            name: (base + done * step) & MASK
            for name, base, step in zip(FIELDS, bases, steps, strict=True)
        }
        # The same elements for each: only their count matters.
        shares.append({"first": done, "count": n} | ({} if each else addresses))
        done += 0 if each else n
    return shares


def packed(values: list[int], bits: int) -> int:
    return sum(value << bits * i for i, value in enumerate(values))


@cocotb.test(timeout_time=500, timeout_unit="us")
async def shares(dut: Any) -> None:
    """Small counts all, large ones at random; every division of one kind takes the same time."""
    rng = random.Random(cocotb.RANDOM_SEED)
    rings = bench_parameter("Rings")
    Clock(dut.clk, 2, "ns").start()
    dut.rst_n.value = dut.start_i.value = 0
    await FallingEdge(dut.clk)
    await FallingEdge(dut.clk)
    dut.rst_n.value = 1
    counts = [*range(3 * rings + 2), (1 << 32) - 1, 1 << 31]
    counts += [rng.getrandbits(rng.randrange(1, 33)) for _ in range(40)]
    times: dict[bool, set[int]] = {False: set(), True: set()}
    for count in counts:
        each = rng.random() < 0.1
        bases = [rng.getrandbits(60) << 4 for _ in FIELDS]
        strides = [rng.choice((0, 1, 0xFFFF, rng.getrandbits(16))) for _ in FIELDS]
        log2 = rng.choice((0, 1, 2, 4, 8))
        dut.count_i.value, dut.each_i.value = count, each
        dut.bases_i.value, dut.strides_i.value = packed(bases, 64), packed(strides, 16)
        dut.dst_log2_i.value = log2
        dut.start_i.value = 1
        await FallingEdge(dut.clk)
        dut.start_i.value = 0
        seen: list[dict[str, int]] = []
        cycles = 0
        while int(dut.busy_o.value):
            if int(dut.m_valid.value):
                assert int(dut.m_ring.value) == len(seen)
                seen.append(unpack_share(int(dut.m_share.value)))
            await FallingEdge(dut.clk)
            cycles += 1
        times[each].add(cycles)
        expected = wanted(rings, count, each, bases, strides, log2)
        assert len(seen) == rings
        for got, share in zip(seen, expected, strict=True):
            assert {name: got[name] for name in share} == share, (count, each, strides)
    assert all(len(cycles) <= 1 for cycles in times.values()), times


@pytest.mark.parametrize("rings", [1, 4, 6])
def test_residue_split(rings: int) -> None:
    run_bench("residue_split", __file__, parameters={"Rings": rings})
