"""Bench of residue_ring: whole products, full rate, gaps, many passes, reset in flight."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import cocotb
import pytest
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge

from residue_sim.golden import Montgomery, from_words, to_words
from residue_sim.harness import bench_parameter, run_bench
from residue_sim.stimuli import edge_operands, odd_modulus

FETCH_LATENCY = 4


@dataclass
class Result:
    tag: int
    value: int
    cycle: int  # of its last word


class Bench:
    """Feeds products as the engine does and collects what comes out."""

    def __init__(self, dut: Any) -> None:
        self.dut = dut
        self.karatsuba = bool(bench_parameter("Karatsuba"))
        self.digit = bench_parameter("WordBits")
        self.word = self.digit * (2 if self.karatsuba else 1)
        self.latency = 24 if self.karatsuba else 15
        self.elements = bench_parameter("Elements")
        self.rng = random.Random(cocotb.RANDOM_SEED)
        self.cycle = 0
        self.results: list[Result] = []
        self.fetches: list[int] = []
        self.busy: list[bool] = []
        self.contexts: dict[int, tuple[Montgomery, int, int]] = {}  # tag: modulus, a, b
        self._lanes: deque[dict[str, int]] = deque({} for _ in range(300))
        self._words: list[int] = []

    async def reset(self) -> None:
        dut = self.dut
        dut.rst_n.value = 0
        dut.s_req_valid.value = 0
        dut.clear_i.value = 0
        for lane in ("a", "m", "b"):
            getattr(dut, f"s_{lane}_i").value = 0
        for name in ("words_i", "slots_i", "passes_i"):
            getattr(dut, name).value = 2
        for _ in range(20):
            await FallingEdge(dut.clk)
        dut.rst_n.value = 1
        self._words.clear()
        for words in self._lanes:
            words.clear()

    def configure(self, ctx: Montgomery) -> None:
        assert self.dut.idle_o.value
        self.dut.words_i.value = ctx.ring_words
        self.dut.slots_i.value = ctx.slots
        self.dut.passes_i.value = ctx.passes

    async def step(self) -> None:
        """One cycle: operands as fetched before, outputs observed."""
        dut = self.dut
        lanes = self._lanes.popleft()
        self._lanes.append({})
        for lane in ("a", "m", "b"):  # words that nobody asked for are noise
            value = lanes.get(lane, self.rng.getrandbits(self.word))
            getattr(dut, f"s_{lane}_i").value = value
        await FallingEdge(dut.clk)
        self.cycle += 1
        self.busy.append(bool(dut.busy_o.value))
        if dut.m_fetch_valid.value:
            self._present(int(dut.m_fetch_tag.value), int(dut.m_fetch_pass.value))
        if dut.m_res_valid.value:
            assert bool(dut.m_res_first.value) == (not self._words)
            self._words.append(int(dut.m_res_data.value))
            if dut.m_res_last.value:
                value = from_words(self._words, self.word)
                self.results.append(Result(int(dut.m_res_tag.value), value, self.cycle))
                self._words.clear()

    def _present(self, tag: int, number: int) -> None:
        ctx, a, b = self.contexts[tag]
        self.fetches.append(self.cycle)
        digits = to_words(b, self.word, ctx.steps)[number * self.elements :]
        for lane, value in (("a", a), ("m", ctx.m)):
            for j, word in enumerate(to_words(value, self.word, ctx.ring_words)):
                self._lanes[FETCH_LATENCY + j][lane] = word
        for p in range(self.elements):
            self._lanes[FETCH_LATENCY + p]["b"] = digits[p]

    async def multiply(
        self, products: Sequence[tuple[Montgomery, int, int]], gaps: float = 0.0
    ) -> None:
        """Request the products, wait until the ring is idle, compare the results in order."""
        self.results.clear()
        self.fetches.clear()
        self.busy.clear()
        for i, (ctx, a, b) in enumerate(products):
            self.contexts[i % 256] = (ctx, a, b)
            while self.rng.random() < gaps:
                await self.step()
            self.dut.s_req_valid.value = 1
            self.dut.s_req_tag.value = i % 256
            while not self.dut.s_req_ready.value:
                await self.step()
            await self.step()
            self.dut.s_req_valid.value = 0
        while not self.dut.idle_o.value:
            await self.step()
        assert [r.tag for r in self.results] == [i % 256 for i in range(len(products))]
        for result, (ctx, a, b) in zip(self.results, products, strict=True):
            assert result.value == ctx.multiply(a, b), (ctx, a, b)
            assert result.value < 2 * ctx.n_tilde

    def moduli(self, words: int, count: int = 3) -> Iterator[Montgomery]:
        """Moduli of so many ring words, the largest that fit among them."""
        bits = self.word * (words - 1) - 2
        digits = 2 if self.karatsuba else 1
        for modulus in ((1 << bits) - 1, *(odd_modulus(self.rng, bits) for _ in range(count - 1))):
            yield Montgomery.of(modulus, self.digit, self.elements, words * digits, digits)

    def products(
        self, moduli: Sequence[Montgomery], count: int
    ) -> list[tuple[Montgomery, int, int]]:
        """Random operands, each product with its own modulus."""
        chosen = [self.rng.choice(moduli) for _ in range(count)]
        return [
            (ctx, self.rng.randrange(2 * ctx.n_tilde), self.rng.randrange(2 * ctx.n_tilde))
            for ctx in chosen
        ]


async def start(dut: Any) -> Bench:
    Clock(dut.clk, 2, "ns").start()
    bench = Bench(dut)
    await bench.reset()
    return bench


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def full_rate_at_every_length(dut: Any) -> None:
    """Back to back, one to many passes: the right results, and not one empty slot."""
    bench = await start(dut)
    for words in (2, 4, 6, 10) if not bench.karatsuba else (2, 3, 5, 9):
        moduli = list(bench.moduli(words))
        ctx = moduli[0]
        bench.configure(ctx)
        flight = bench.latency * bench.elements // ctx.slots + 4  # more than are in flight together
        products = bench.products(moduli, 3 * flight)
        await bench.multiply(products)
        groups = len(products) * ctx.passes
        assert len(bench.fetches) == groups
        spacing = [b - a for a, b in pairwise(bench.fetches)]
        # At the end fewer products remain than fill the ring.
        full = spacing[: groups - flight * ctx.passes]
        assert set(full) == {ctx.slots}
        assert min(spacing) == ctx.slots
        first = bench.busy.index(True)
        assert all(bench.busy[first : first + len(full) * ctx.slots])
        assert sum(bench.busy) == groups * ctx.slots


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def edge_operands_with_gaps(dut: Any) -> None:
    bench = await start(dut)
    for ctx in bench.moduli(4, count=2):
        bench.configure(ctx)
        edges = edge_operands(ctx)
        pairs = [(a, bench.rng.choice(edges)) for a in edges] + [(edges[-1], edges[-1])]
        await bench.multiply([(ctx, a, b) for a, b in pairs], gaps=0.3)


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def latency_does_not_depend_on_operands(dut: Any) -> None:
    bench = await start(dut)
    latencies = set()
    for ctx in bench.moduli(6, count=2):
        bench.configure(ctx)
        top = 2 * ctx.n_tilde - 1
        for a, b in ((0, 0), (0, top), (top, 0), (1, 1), (top, top)):
            await bench.multiply([(ctx, a, b)])
            latencies.add(bench.results[0].cycle - bench.fetches[0])
    assert len(latencies) == 1


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def reset_in_flight(dut: Any) -> None:
    """A reset at any moment drops what is in flight and disturbs nothing after it."""
    bench = await start(dut)
    moduli = list(bench.moduli(4))
    for cut in (3, 40, 75):
        bench.configure(moduli[0])
        for i, product in enumerate(bench.products(moduli, 256)):
            bench.contexts[i] = product
        dut.s_req_valid.value = 1
        for _ in range(cut):
            await bench.step()
        await bench.reset()
        assert dut.idle_o.value
        bench.configure(moduli[0])
        await bench.multiply(bench.products(moduli, 12))


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def clearing_zeroes_what_is_stored_between_passes(dut: Any) -> None:
    bench = await start(dut)
    moduli = list(bench.moduli(max(6, bench.elements + 1)))
    bench.configure(moduli[0])
    await bench.multiply(bench.products(moduli, 12))
    assert any(int(row.value) for row in dut.store)
    dut.clear_i.value = 1
    for _ in range(len(dut.store)):
        await bench.step()
    dut.clear_i.value = 0
    assert not any(int(row.value) for row in dut.store)
    await bench.multiply(bench.products(moduli, 12))


@pytest.mark.parametrize(
    ("karatsuba", "word", "elements"),
    [
        (0, 6, 2),
        pytest.param(0, 6, 5, marks=pytest.mark.full),
        (0, 51, 3),
        (1, 6, 2),
        pytest.param(1, 50, 3, marks=pytest.mark.full),
        pytest.param(0, 48, 3, marks=pytest.mark.full),
        pytest.param(1, 50, 11, marks=pytest.mark.full),
    ],
)
def test_residue_ring(karatsuba: int, word: int, elements: int) -> None:
    parameters = {
        "WordBits": word,
        "Karatsuba": karatsuba,
        "Elements": elements,
        "MaxWords": max(10, elements + 1),  # more than one pass
        "TagBits": 8,
        "FetchLatency": FETCH_LATENCY,
    }
    run_bench("residue_ring", __file__, parameters=parameters)
