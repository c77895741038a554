"""Bench of residue_arbiter: nothing lost, order of each port, turns, priority, rate."""

from __future__ import annotations

import random
from typing import Any

import cocotb
import pytest
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, FallingEdge, RisingEdge

from residue_sim.harness import bench_parameter, run_bench

WIDTH = 8


class Bench:
    """Drives all ports and the output, cycle by cycle; port p sends (p, 0), (p, 1), ..."""

    def __init__(self, dut: Any) -> None:
        self.dut = dut
        self.ports = bench_parameter("Ports")
        self.sent = [0] * self.ports
        self.valid = [False] * self.ports
        self.taken: list[tuple[int, int]] = []

    async def start(self) -> None:
        dut = self.dut
        Clock(dut.clk, 2, "ns").start()
        for signal in (dut.clear_i, dut.s_valid, dut.s_data, dut.m_ready):
            signal.value = 0
        dut.rst_n.value = 0
        await ClockCycles(dut.clk, 2)
        dut.rst_n.value = 1
        await FallingEdge(dut.clk)

    async def cycle(self, asking: list[bool], ready: bool) -> None:
        """Ports that ask start to, those that already wait go on."""
        dut = self.dut
        self.valid = [old or new for old, new in zip(self.valid, asking, strict=True)]
        dut.s_valid.value = sum(valid << p for p, valid in enumerate(self.valid))
        dut.s_data.value = sum((n % 256) << WIDTH * p for p, n in enumerate(self.sent))
        dut.m_ready.value = ready
        await RisingEdge(dut.clk)
        accepted = int(dut.s_ready.value)
        if ready and dut.m_valid.value:
            self.taken.append((int(dut.m_port.value), int(dut.m_data.value)))
        for p in range(self.ports):
            if self.valid[p] and accepted >> p & 1:
                self.sent[p] += 1
                self.valid[p] = False
        await FallingEdge(dut.clk)


@cocotb.test(timeout_time=50, timeout_unit="us")
async def loses_nothing(dut: Any) -> None:
    rng = random.Random(cocotb.RANDOM_SEED)
    bench = Bench(dut)
    await bench.start()
    for _ in range(30):
        asking, taking = rng.choice([0.1, 0.5, 1.0]), rng.choice([0.2, 0.7, 1.0])
        for _ in range(20):
            ask = [rng.random() < asking for _ in range(bench.ports)]
            await bench.cycle(ask, rng.random() < taking)
    for _ in range(3 * bench.ports):
        await bench.cycle([False] * bench.ports, True)
    for p in range(bench.ports):
        assert [n for port, n in bench.taken if port == p] == [
            i % 256 for i in range(bench.sent[p])
        ]


@cocotb.test(timeout_time=10, timeout_unit="us")
async def takes_turns_at_full_rate(dut: Any) -> None:
    """All ports ask all the time: one is served a cycle, in turn; port 0 alone with priority."""
    bench = Bench(dut)
    await bench.start()
    cycles = 6 * bench.ports
    for _ in range(cycles + 1):
        await bench.cycle([True] * bench.ports, True)
    ports = [port for port, _ in bench.taken]
    assert len(ports) >= cycles
    if bench_parameter("Priority"):
        assert set(ports) == {0}
        bench.taken.clear()
        bench.valid[0] = False  # nothing of it waits at this point: it was served in every cycle
        for _ in range(cycles + 1):
            await bench.cycle([False] + [True] * (bench.ports - 1), True)
        ports = [port for port, _ in bench.taken][2:]
        others = list(range(1, bench.ports))
        only_others = [False] + [True] * (bench.ports - 1)
        for turn in range(1, bench.ports):  # wherever the turn stands, port 0 is next
            for _ in range(turn):
                await bench.cycle(only_others, True)
            await bench.cycle([True] * bench.ports, True)
            await bench.cycle(only_others, True)
            assert bench.taken[-1][0] == 0
    else:
        others = list(range(bench.ports))
    for i, port in enumerate(ports):
        assert port == others[(others.index(ports[0]) + i) % len(others)]


@cocotb.test(timeout_time=10, timeout_unit="us")
async def clear_drops_what_it_holds(dut: Any) -> None:
    bench = Bench(dut)
    await bench.start()
    for _ in range(3):
        await bench.cycle([True] * bench.ports, False)
    dut.clear_i.value = 1
    bench.valid = [False] * bench.ports
    await bench.cycle([False] * bench.ports, False)
    dut.clear_i.value = 0
    assert dut.m_valid.value == 0


@pytest.mark.parametrize(("ports", "priority"), [(1, 0), (3, 0), (5, 1)])
def test_residue_arbiter(ports: int, priority: int) -> None:
    parameters = {"Ports": ports, "WidthBits": WIDTH, "Priority": priority}
    run_bench("residue_arbiter", __file__, parameters=parameters)
