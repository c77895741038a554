"""Bench of residue_operands_rows: every row of every pass, at its cycle, from either store."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import cocotb
import pytest
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge

from residue_sim.harness import run_bench

FETCH_LATENCY = 5
WORD_BITS = 6
ACC_ROW_BITS, TAB_ROW_BITS, MOD_ROW_BITS = 7, 8, 7
SMALL, LARGEST = 9, 63  # rows of a residue


class Port:
    """A read port of a residue_ram: two cycles of latency."""

    def __init__(self, dut: Any, name: str, rows: list[int]) -> None:
        self.rows = rows
        self._enable = getattr(dut, f"{name}_ren_o")
        self._row = getattr(dut, f"{name}_rrow_o")
        self._data = getattr(dut, f"{name}_rdata_i")
        self._array = 0
        self.used: set[int] = set()

    def cycle(self) -> None:
        """To be called in every cycle: what the coming edge does."""
        self._next = self._array
        if int(self._enable.value):
            row = int(self._row.value)
            assert row in self.used, "a row that no product uses"
            self._array = self.rows[row]

    def after_edge(self) -> None:
        self._data.value = self._next


@dataclass
class Fetch:
    """One pass of one product."""

    pass_index: int
    a_row: int
    b_row: int
    b_is_acc: bool
    m_row: int


class Bench:
    def __init__(self, dut: Any) -> None:
        self.dut = dut
        self.rng = rng = random.Random(cocotb.RANDOM_SEED)
        self.elements = int(dut.Elements.value)
        acc, tab, mod = (
            [rng.getrandbits(2 * WORD_BITS) for _ in range(1 << bits)]
            for bits in (ACC_ROW_BITS, TAB_ROW_BITS, MOD_ROW_BITS)
        )
        self.acc, self.acc_b = Port(dut, "acc", acc), Port(dut, "acc_b", acc)
        self.tab, self.mod = Port(dut, "tab", tab), Port(dut, "mod", mod)
        self.ports = (self.acc, self.acc_b, self.tab, self.mod)

    async def reset(self) -> None:
        Clock(self.dut.clk, 2, "ns").start()
        self.dut.rst_n.value, self.dut.fetch_valid_i.value = 0, 0
        await FallingEdge(self.dut.clk)
        await FallingEdge(self.dut.clk)
        self.dut.rst_n.value = 1

    def random_fetch(self, rows: int) -> Fetch:
        b_is_acc = self.rng.random() < 0.5
        return Fetch(
            self.rng.randrange(-(-rows // self.elements)),
            self.rng.randrange((1 << ACC_ROW_BITS) - rows + 1),
            self.rng.randrange((1 << (ACC_ROW_BITS if b_is_acc else TAB_ROW_BITS)) - rows + 1),
            b_is_acc,
            self.rng.randrange((1 << MOD_ROW_BITS) - rows + 1),
        )

    async def run(self, rows: int, fetches: list[tuple[int, Fetch]]) -> None:
        """Send each fetch in its cycle and check its words."""
        dut = self.dut
        dut.rows_i.value = rows
        starts = dict(fetches)
        want_a: dict[int, tuple[int, int]] = {}
        want_b: dict[int, int] = {}
        for port in self.ports:
            port.used.clear()
        for cycle, fetch in fetches:
            b_port = self.acc_b if fetch.b_is_acc else self.tab
            first = fetch.pass_index * self.elements
            self.acc.used.update(range(fetch.a_row, fetch.a_row + rows))
            self.mod.used.update(range(fetch.m_row, fetch.m_row + rows))
            b_port.used.update(range(fetch.b_row + first, fetch.b_row + rows))
            for j in range(rows):
                want_a[cycle + FETCH_LATENCY + j] = (
                    self.acc.rows[fetch.a_row + j],
                    self.mod.rows[fetch.m_row + j],
                )
            for p in range(self.elements):
                inside = first + p < rows
                value = b_port.rows[fetch.b_row + first + p] if inside else 0
                want_b[cycle + FETCH_LATENCY + p] = value
        for cycle in range(max(*want_a, *want_b) + 2):
            fetch_now = starts.get(cycle)
            dut.fetch_valid_i.value = fetch_now is not None
            if fetch_now:
                dut.fetch_pass_i.value = fetch_now.pass_index
                dut.fetch_a_row_i.value = fetch_now.a_row
                dut.fetch_b_row_i.value = fetch_now.b_row
                dut.fetch_b_is_acc_i.value = fetch_now.b_is_acc
                dut.fetch_m_row_i.value = fetch_now.m_row
            for port in self.ports:
                port.cycle()
            await FallingEdge(dut.clk)
            for port in self.ports:
                port.after_edge()
            # The outputs are registers: they show now what the ring sees in cycle + 1.
            seen = cycle + 1
            if seen in want_a:
                got = (int(dut.m_a_o.value), int(dut.m_m_o.value))
                assert got == want_a[seen], f"{rows} rows: a or M, {starts}, cycle {seen}"
            if seen in want_b:
                assert int(dut.m_b_o.value) == want_b[seen], f"{rows} rows: b, {starts}, {seen}"


@cocotb.test(timeout_time=200, timeout_unit="us")
async def every_pass_alone(dut: Any) -> None:
    """Every size and pass, from each store."""
    bench = Bench(dut)
    await bench.reset()
    for rows in (*range(2, SMALL + 1), LARGEST):
        for pass_index in range(-(-rows // bench.elements)):
            for b_is_acc in (False, True):
                fetch = bench.random_fetch(rows)
                fetch.pass_index, fetch.b_is_acc = pass_index, b_is_acc
                fetch.b_row %= (1 << ACC_ROW_BITS) - rows
                await bench.run(rows, [(0, fetch)])


@cocotb.test(timeout_time=200, timeout_unit="us")
@cocotb.parametrize(idle=[0, 3])
async def back_to_back(dut: Any, idle: int) -> None:
    """Passes in a row with as few slots as the ring may use, or some more."""
    bench = Bench(dut)
    await bench.reset()
    for rows in range(2, SMALL + 1):
        cycle = 0
        fetches = []
        for _ in range(20):
            fetches.append((cycle, bench.random_fetch(rows)))
            cycle += max(rows, bench.elements) + 1 + bench.rng.randrange(idle + 1)
        await bench.run(rows, fetches)


@pytest.mark.parametrize("elements", [2, 3, 5], ids="P{}".format)
def test_residue_operands_rows(elements: int) -> None:
    run_bench(
        "residue_operands_rows",
        __file__,
        parameters={
            "WordBits": WORD_BITS,
            "Elements": elements,
            "AccRowBits": ACC_ROW_BITS,
            "TabRowBits": TAB_ROW_BITS,
            "ModRowBits": MOD_ROW_BITS,
        },
    )
