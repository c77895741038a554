"""Shared by the benches of residue_operands and residue_operands_rows: stores, passes, checks."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge

__all__ = ["PARAMETERS", "OperandBench"]

_WORD_BITS = 6
_ROW_BITS = {"acc": 7, "tab": 8, "mod": 7}
PARAMETERS = {
    "WordBits": _WORD_BITS,
    "AccRowBits": _ROW_BITS["acc"],
    "TabRowBits": _ROW_BITS["tab"],
    "ModRowBits": _ROW_BITS["mod"],
}
"""Parameters of either module that the bench expects."""


class _Port:
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
        """To be called after it."""
        self._data.value = self._next


@dataclass
class _Fetch:
    """One pass of one product."""

    pass_index: int
    a_row: int
    b_row: int
    b_is_acc: bool
    m_row: int


class OperandBench:
    """Stores around the module.

    Args:
        dut: the module.
        size: its input that takes the number of words of a residue.
        per_row: words in a row: 2 where they are digits, 1 where they are rows.
        latency: cycles from a fetch to its first words.
    """

    def __init__(self, dut: Any, size: str, *, per_row: int, latency: int) -> None:
        self.dut = dut
        self.rng = rng = random.Random(cocotb.RANDOM_SEED)  # noqa: S311
        self.elements = int(dut.Elements.value)
        self._size = getattr(dut, size)
        self._per_row = per_row
        self._latency = latency
        stores = {
            name: [rng.getrandbits(2 * _WORD_BITS) for _ in range(1 << bits)]
            for name, bits in _ROW_BITS.items()
        }
        self._ports = {name: _Port(dut, name, rows) for name, rows in stores.items()}
        self._b_acc = self._ports["acc"]
        if per_row == 1:  # a row a cycle each of a and b
            self._b_acc = self._ports["acc_b"] = _Port(dut, "acc_b", stores["acc"])

    async def reset(self) -> None:
        """Start the clock and come out of reset."""
        Clock(self.dut.clk, 2, "ns").start()
        self.dut.rst_n.value, self.dut.fetch_valid_i.value = 0, 0
        await FallingEdge(self.dut.clk)
        await FallingEdge(self.dut.clk)
        self.dut.rst_n.value = 1

    async def every_pass(self, sizes: Iterable[int]) -> None:
        """Each pass of residues of these sizes alone, b from each store."""
        for words in sizes:
            for pass_index in range(-(-words // self.elements)):
                for b_is_acc in (False, True):
                    fetch = self._random_fetch(words)
                    fetch.pass_index, fetch.b_is_acc = pass_index, b_is_acc
                    fetch.b_row %= (1 << _ROW_BITS["acc"]) - words // self._per_row
                    await self._run(words, [(0, fetch)])

    async def in_a_row(self, sizes: Iterable[int], idle: int) -> None:
        """Passes in a row with as few slots as the ring may use, or up to `idle` more."""
        for words in sizes:
            cycle = 0
            fetches = []
            for _ in range(20):
                fetches.append((cycle, self._random_fetch(words)))
                cycle += max(words, self.elements) + 1 + self.rng.randrange(idle + 1)
            await self._run(words, fetches)

    def _random_fetch(self, words: int) -> _Fetch:
        def row(store: str) -> int:
            return self.rng.randrange((1 << _ROW_BITS[store]) - words // self._per_row + 1)

        b_is_acc = self.rng.random() < 0.5
        passes = -(-words // self.elements)
        b_row = row("acc" if b_is_acc else "tab")
        return _Fetch(self.rng.randrange(passes), row("acc"), b_row, b_is_acc, row("mod"))

    def _word(self, port: _Port, row: int, index: int) -> int:
        data = port.rows[row + index // self._per_row]
        if self._per_row == 1:
            return data
        return data >> _WORD_BITS * (index % 2) & ((1 << _WORD_BITS) - 1)

    async def _run(self, words: int, fetches: list[tuple[int, _Fetch]]) -> None:
        """Send each fetch in its cycle and check its words."""
        dut, ports = self.dut, self._ports
        acc, tab, mod = (ports[name] for name in _ROW_BITS)
        rows = words // self._per_row
        self._size.value = words
        starts = dict(fetches)
        want_a: dict[int, tuple[int, int]] = {}
        want_b: dict[int, int] = {}
        for port in ports.values():
            port.used.clear()
        for cycle, fetch in fetches:
            b_port = self._b_acc if fetch.b_is_acc else tab
            first = fetch.pass_index * self.elements
            acc.used.update(range(fetch.a_row, fetch.a_row + rows))
            mod.used.update(range(fetch.m_row, fetch.m_row + rows))
            b_port.used.update(range(fetch.b_row + first // self._per_row, fetch.b_row + rows))
            start = cycle + self._latency
            for j in range(words):
                pair = self._word(acc, fetch.a_row, j), self._word(mod, fetch.m_row, j)
                want_a[start + j] = pair
            for p in range(self.elements):
                inside = first + p < words
                want_b[start + p] = self._word(b_port, fetch.b_row, first + p) if inside else 0
        for cycle in range(max(*want_a, *want_b) + 2):
            fetch_now = starts.get(cycle)
            dut.fetch_valid_i.value = fetch_now is not None
            if fetch_now:
                dut.fetch_pass_i.value = fetch_now.pass_index
                dut.fetch_a_row_i.value = fetch_now.a_row
                dut.fetch_b_row_i.value = fetch_now.b_row
                dut.fetch_b_is_acc_i.value = fetch_now.b_is_acc
                dut.fetch_m_row_i.value = fetch_now.m_row
            for port in ports.values():
                port.cycle()
            await FallingEdge(dut.clk)
            for port in ports.values():
                port.after_edge()
            # The outputs are registers: they show now what the ring sees in cycle + 1.
            seen = cycle + 1
            where = f"{words} words, {starts}, cycle {seen}"
            if seen in want_a:
                got = (int(dut.m_a_o.value), int(dut.m_m_o.value))
                assert got == want_a[seen], f"a or M: {where}"
            if seen in want_b:
                assert int(dut.m_b_o.value) == want_b[seen], f"b: {where}"
