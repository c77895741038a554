"""Bench of residue_operands: every word of every pass, at its cycle, from either store."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import cocotb
import pytest
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge

from residue_sim.harness import run_bench

FETCH_LATENCY = 6
WORD_BITS = 6
ACC_ROW_BITS, TAB_ROW_BITS, MOD_ROW_BITS = 7, 8, 7
SMALL_K, LARGEST_K = 14, 126


class Store:
    """A residue_ram seen from its read port: two cycles of latency."""

    def __init__(self, dut: Any, name: str, row_bits: int, rng: random.Random) -> None:
        self.words = [rng.getrandbits(WORD_BITS) for _ in range(2 << row_bits)]
        self._enable = getattr(dut, f"{name}_ren_o")
        self._row = getattr(dut, f"{name}_rrow_o")
        self._data = getattr(dut, f"{name}_rdata_i")
        self._array = 0
        self.used: set[int] = set()

    def cycle(self) -> None:
        """To be called in every cycle: what the coming edge does."""
        self._next, enabled = self._array, int(self._enable.value)
        if enabled:
            row = int(self._row.value)
            assert row in self.used, "a row that no product uses"
            self._array = self.words[2 * row + 1] << WORD_BITS | self.words[2 * row]

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
        self.rng = random.Random(cocotb.RANDOM_SEED)
        self.elements = int(dut.Elements.value)
        self.acc = Store(dut, "acc", ACC_ROW_BITS, self.rng)
        self.tab = Store(dut, "tab", TAB_ROW_BITS, self.rng)
        self.mod = Store(dut, "mod", MOD_ROW_BITS, self.rng)

    async def reset(self) -> None:
        Clock(self.dut.clk, 2, "ns").start()
        self.dut.rst_n.value, self.dut.fetch_valid_i.value = 0, 0
        await FallingEdge(self.dut.clk)
        await FallingEdge(self.dut.clk)
        self.dut.rst_n.value = 1

    def random_fetch(self, k: int) -> Fetch:
        b_is_acc = self.rng.random() < 0.5
        rows = 1 << (ACC_ROW_BITS if b_is_acc else TAB_ROW_BITS)
        return Fetch(
            self.rng.randrange(-(-k // self.elements)),
            self.rng.randrange((1 << ACC_ROW_BITS) - k // 2 + 1),
            self.rng.randrange(rows - k // 2 + 1),
            b_is_acc,
            self.rng.randrange((1 << MOD_ROW_BITS) - k // 2 + 1),
        )

    async def run(self, k: int, fetches: list[tuple[int, Fetch]]) -> None:
        """Send each fetch in its cycle and check its words."""
        dut = self.dut
        dut.k_i.value = k
        starts = dict(fetches)
        want_a: dict[int, tuple[int, int]] = {}
        want_b: dict[int, int] = {}
        for store in (self.acc, self.tab, self.mod):
            store.used.clear()
        for cycle, fetch in fetches:
            b_store = self.acc if fetch.b_is_acc else self.tab
            for store, row in ((self.acc, fetch.a_row), (self.mod, fetch.m_row)):
                store.used.update(range(row, row + k // 2))
            b_store.used.update(range(fetch.b_row, fetch.b_row + k // 2))
            b_words = b_store.words
            for j in range(k):
                want_a[cycle + FETCH_LATENCY + j] = (
                    self.acc.words[2 * fetch.a_row + j],
                    self.mod.words[2 * fetch.m_row + j],
                )
            for p in range(self.elements):
                digit = fetch.pass_index * self.elements + p
                value = b_words[2 * fetch.b_row + digit] if digit < k else 0
                want_b[cycle + FETCH_LATENCY + p] = value
        for cycle in range(max(want_a) + 2):
            fetch_now = starts.get(cycle)
            dut.fetch_valid_i.value = fetch_now is not None
            if fetch_now:
                dut.fetch_pass_i.value = fetch_now.pass_index
                dut.fetch_a_row_i.value = fetch_now.a_row
                dut.fetch_b_row_i.value = fetch_now.b_row
                dut.fetch_m_row_i.value = fetch_now.m_row
                dut.fetch_b_is_acc_i.value = fetch_now.b_is_acc
            for store in (self.acc, self.tab, self.mod):
                store.cycle()
            await FallingEdge(dut.clk)
            for store in (self.acc, self.tab, self.mod):
                store.after_edge()
            # The outputs are registers: they show now what the ring sees in cycle + 1.
            seen = cycle + 1
            if seen in want_a:
                got = (int(dut.m_a_o.value), int(dut.m_m_o.value))
                assert got == want_a[seen], f"k {k}: a or M, {starts}, cycle {seen}"
            if seen in want_b:
                assert int(dut.m_b_o.value) == want_b[seen], f"k {k}: b, {starts}, cycle {seen}"


@cocotb.test(timeout_time=200, timeout_unit="us")
async def every_pass_alone(dut: Any) -> None:
    """Every k and pass, from each store."""
    bench = Bench(dut)
    await bench.reset()
    for k in (*range(4, SMALL_K + 1, 2), LARGEST_K):
        for pass_index in range(-(-k // bench.elements)):
            for b_is_acc in (False, True):
                fetch = bench.random_fetch(k)
                fetch.pass_index, fetch.b_is_acc = pass_index, b_is_acc
                fetch.b_row %= (1 << ACC_ROW_BITS) - k // 2
                await bench.run(k, [(0, fetch)])


@cocotb.test(timeout_time=200, timeout_unit="us")
@cocotb.parametrize(idle=[0, 3])
async def back_to_back(dut: Any, idle: int) -> None:
    """Passes in a row with as few slots as the ring may use, or some more."""
    bench = Bench(dut)
    await bench.reset()
    for k in range(4, SMALL_K + 1, 2):
        slots = max(k, bench.elements) + 1
        cycle = 0
        fetches = []
        for _ in range(20):
            fetches.append((cycle, bench.random_fetch(k)))
            cycle += slots + bench.rng.randrange(idle + 1)
        await bench.run(k, fetches)


@pytest.mark.parametrize("elements", [3, 4, 5, 6], ids="P{}".format)
def test_residue_operands(elements: int) -> None:
    run_bench(
        "residue_operands",
        __file__,
        parameters={
            "WordBits": WORD_BITS,
            "Elements": elements,
            "AccRowBits": ACC_ROW_BITS,
            "TabRowBits": TAB_ROW_BITS,
            "ModRowBits": MOD_ROW_BITS,
        },
    )
