"""Bench of residue_storer: addresses, leaving Montgomery form, self-test, aborts."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge, ReadOnly

from residue.card._abi import Opcode
from residue_sim.golden import Montgomery, from_words, to_words
from residue_sim.harness import run_bench
from residue_sim.job import job_of, pack_share
from residue_sim.stimuli import odd_modulus

WORD_BITS, MAX_WORDS = 6, 8
CAP = 5
DST = 0x1_FFFF_FF00
STRIDE = 6  # in units of 16 bytes
QUIET_CYCLES = 60  # more than the exit unit holds a residue


@dataclass
class Job:
    """A command for the storer, the results that come and the writes that must follow."""

    opcode: Opcode
    count: int
    domain: Montgomery
    rng: random.Random
    window_log2: int = 0
    wrong: int | None = None  # SELFTEST: what leaves instead of 1, in the last result
    results: list[int] = field(init=False)
    writes: list[tuple[int, list[int]]] = field(init=False)  # address, words

    def __post_init__(self) -> None:
        d = self.domain
        top = 2 * d.n_tilde
        rounds = 1 << (1 << self.window_log2) if self.opcode == Opcode.TABLE else 1
        self.results, self.writes = [], []
        for start in range(0, self.count, CAP):
            for r in range(rounds):
                for c in range(start, min(start + CAP, self.count)):
                    value = self.rng.choice((0, top - 1, self.rng.randrange(top)))
                    leaves = value
                    if self.opcode == Opcode.FROM_MONT:
                        leaves = d.leave(value)
                        value = d.multiply(value, 1 << WORD_BITS)
                    elif self.opcode == Opcode.SELFTEST:
                        last = c + 1 == self.count
                        target = self.wrong if last and self.wrong is not None else 1
                        value = d.multiply(target * d.r % d.n_tilde, 1 << WORD_BITS)
                    self.results.append(value)
                    if self.opcode != Opcode.SELFTEST:
                        at = DST + (c * rounds + r) * STRIDE * 16
                        self.writes.append((at, to_words(leaves, WORD_BITS, d.k)))

    @property
    def packed(self) -> int:
        return job_of(
            self.opcode,
            self.domain,
            window_log2=self.window_log2,
            stride_dst=STRIDE,
            cap=CAP,
        )

    @property
    def share(self) -> int:
        return pack_share(count=self.count, dst=DST)


class Bench:
    """Emit queue and DMA around the storer."""

    def __init__(self, dut: Any, supply: float, ready: float) -> None:
        self.dut = dut
        self.rng = random.Random(cocotb.RANDOM_SEED)
        self.supply, self.ready = supply, ready

    async def reset(self) -> None:
        dut = self.dut
        Clock(dut.clk, 2, "ns").start()
        for signal in (dut.rst_n, dut.start_i, dut.abort_i, dut.flush_i, dut.clear_i, dut.n_wen_i,
                       dut.s_result_valid, dut.m_req_ready, dut.m_data_ready):  # fmt: skip
            signal.value = 0
        await FallingEdge(dut.clk)
        await FallingEdge(dut.clk)
        dut.rst_n.value = 1

    async def start(self, job: Job) -> None:
        dut, d = self.dut, job.domain
        n_words = to_words(d.modulus, WORD_BITS, d.k)
        dut.n0inv_i.value = d.n0inv
        for row in range(d.k // 2):
            dut.n_wen_i.value, dut.n_wrow_i.value = 1, row
            dut.n_wdata_i.value = from_words(n_words[2 * row : 2 * row + 2], WORD_BITS)
            await FallingEdge(dut.clk)
        dut.n_wen_i.value = 0
        self.rows: deque[int] = deque()
        for value in job.results:
            words = to_words(value, WORD_BITS, d.k)
            self.rows += [words[i] | words[i + 1] << WORD_BITS for i in range(0, d.k, 2)]
        self.row_count = d.k // 2
        self.offered: int | None = None
        self.taken = 0
        self.addresses: list[int] = []
        self.beats: list[int] = []
        self.standing: tuple[str, int] | None = None
        dut.job_i.value, dut.share_i.value = job.packed, job.share
        dut.start_i.value = 1
        await FallingEdge(dut.clk)
        dut.start_i.value = 0

    async def step(self) -> None:
        """One cycle."""
        dut, rng = self.dut, self.rng
        if self.offered is None and self.rows and rng.random() < self.supply:
            self.offered = self.rows.popleft()
        dut.s_result_valid.value = self.offered is not None
        if self.offered is not None:
            dut.s_result_data.value = self.offered
        req_ready, data_ready = rng.random() < self.ready, rng.random() < self.ready
        dut.m_req_ready.value, dut.m_data_ready.value = req_ready, data_ready
        await ReadOnly()  # ready and valid pass through: let them settle
        standing = None
        if int(dut.m_req_valid.value):
            assert int(dut.m_req_rows.value) == self.row_count
            standing = ("request", int(dut.m_req_addr.value))
            if req_ready:
                self.addresses.append(standing[1])
        elif int(dut.m_data_valid.value):
            assert len(self.beats) < self.row_count * len(self.addresses), "data not asked for"
            standing = ("data", int(dut.m_data.value))
            last = (len(self.beats) + 1) % self.row_count == 0
            assert int(dut.m_data_last.value) == last
            if data_ready:
                self.beats.append(standing[1])
        assert self.standing in (None, standing), "a request or datum changed while it waited"
        went = req_ready if int(dut.m_req_valid.value) else data_ready
        self.standing = None if went else standing
        if self.offered is not None and int(dut.s_result_ready.value):
            self.offered = None
        self.taken += int(dut.result_taken_o.value)
        await FallingEdge(dut.clk)

    def check(self, writes: list[tuple[int, list[int]]]) -> None:
        beats = [
            words[i] | words[i + 1] << 64 for _, words in writes for i in range(0, len(words), 2)
        ]
        assert self.addresses == [address for address, _ in writes]
        assert self.beats == beats

    async def run(self, job: Job) -> None:
        await self.start(job)
        while int(self.dut.busy_o.value):
            await self.step()
        assert self.taken == job.count * (len(job.results) // job.count)
        assert not self.rows
        self.check(job.writes)


def domains(rng: random.Random) -> list[Montgomery]:
    """Moduli of 4, 6 and 8 words."""
    moduli = (3, 0xFFFF, odd_modulus(rng, 25), (1 << 40) - 1)
    return [Montgomery.of(n, WORD_BITS, 3) for n in moduli]


def jobs(rng: random.Random) -> Iterator[Job]:
    for domain in domains(rng):
        for count in (1, CAP, 2 * CAP + 2):
            for opcode in (Opcode.TO_MONT, Opcode.MUL, Opcode.FROM_MONT):
                yield Job(opcode, count, domain, rng)
        yield Job(Opcode.TABLE, CAP + 2, domain, rng, window_log2=rng.randrange(3))
        yield Job(Opcode.SELFTEST, CAP, domain, rng)
    yield Job(Opcode.TABLE, CAP + 1, domain, rng, window_log2=3)


@cocotb.test(timeout_time=200, timeout_unit="us")
async def full_rate(dut: Any) -> None:
    """A result of r rows takes r + 2 cycles: one to see it, one for the request."""
    bench = Bench(dut, 1.0, 1.0)
    await bench.reset()
    for domain in domains(bench.rng):
        job = Job(Opcode.MUL, 8, domain, bench.rng)
        await bench.start(job)
        cycles = 0
        while int(dut.busy_o.value):
            await bench.step()
            cycles += 1
        assert cycles <= 8 * (domain.k // 2 + 2) + 1


@cocotb.test(timeout_time=200, timeout_unit="us")
async def self_test_finds_a_wrong_word(dut: Any) -> None:
    """0, or 1 with a wrong bit in any word, is a mismatch; the next start forgets it."""
    bench = Bench(dut, 0.7, 0.7)
    await bench.reset()
    domain = Montgomery.of((1 << 40) - 1, WORD_BITS, 3)
    for wrong in (0, *(1 + (1 << WORD_BITS * j) for j in range(6))):
        job = Job(Opcode.SELFTEST, 2, domain, bench.rng, wrong=wrong)
        await bench.run(job)
        assert int(dut.mismatch_o.value), f"{wrong:#x} passed"
        await bench.run(Job(Opcode.SELFTEST, 2, domain, bench.rng))
        assert not int(dut.mismatch_o.value)


@cocotb.test(timeout_time=200, timeout_unit="us")
async def abort(dut: Any) -> None:
    """A residue begun is completed, later ones are dropped; after the flush the next is right."""
    bench = Bench(dut, 0.6, 0.6)
    await bench.reset()
    everything = [job for job in jobs(bench.rng) if job.opcode != Opcode.SELFTEST]
    for _ in range(40):
        job = bench.rng.choice(everything)
        await bench.start(job)
        for _ in range(bench.rng.randrange(120)):
            await bench.step()
        begun = len(bench.addresses)
        rows = job.domain.k // 2
        keep = bench.rng.randrange(3) * rows  # results still on their way
        behind = len(bench.rows) % rows
        bench.rows = deque(list(bench.rows)[: behind + keep])
        if not int(dut.busy_o.value):
            bench.check(job.writes)
            continue
        dut.abort_i.value = 1
        quiet = 0
        while int(dut.busy_o.value) and quiet < QUIET_CYCLES:
            quiet = quiet + 1 if int(dut.waiting_o.value) and not bench.rows else 0
            await bench.step()
        dut.flush_i.value = 1
        await bench.step()
        dut.flush_i.value, dut.abort_i.value = 0, 0
        await bench.step()
        assert not int(dut.busy_o.value)
        assert begun <= len(bench.addresses) <= begun + 1
        bench.check(job.writes[: len(bench.addresses)])
    for job in everything[:6]:
        await bench.run(job)


@cocotb.test(timeout_time=200, timeout_unit="us")
@cocotb.parametrize(supply=[1.0, 0.4], ready=[1.0, 0.4])
async def every_operation(dut: Any, supply: float, ready: float) -> None:
    bench = Bench(dut, supply, ready)
    await bench.reset()
    for job in jobs(bench.rng):
        await bench.run(job)
        assert not int(dut.mismatch_o.value)


@cocotb.test(timeout_time=200, timeout_unit="us")
async def clear_leaves_nothing(dut: Any) -> None:
    """CLEAR zeroes N and what results left behind; the next command is right."""
    bench = Bench(dut, 1.0, 1.0)
    await bench.reset()
    job = Job(Opcode.FROM_MONT, 3, domains(bench.rng)[-1], bench.rng)
    await bench.run(job)
    held = [*dut.n_even_q, *dut.n_odd_q, dut.pair_q, dut.out_low_q]
    assert any(int(word.value) for word in held)
    dut.clear_i.value = 1
    await FallingEdge(dut.clk)
    dut.clear_i.value = 0
    while int(dut.busy_o.value):
        await bench.step()
    assert not any(int(word.value) for word in held)
    await bench.run(job)


def test_residue_storer() -> None:
    parameters = {"WordBits": WORD_BITS, "MaxWords": MAX_WORDS}
    run_bench("residue_storer", __file__, parameters=parameters)
