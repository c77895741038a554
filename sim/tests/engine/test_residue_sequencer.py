"""Bench of residue_sequencer: which products it issues, with what operands, and when it may."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge

from residue.card._abi import Opcode
from residue_sim.harness import run_bench
from residue_sim.job import pack_job

ROWS, CAP, EMIT_CAP = 2, 6, 5
R2, ONE, EXIT, FIRST = range(4)  # entries of the table store
OPERAND_SLOTS = 32
PERIOD = 7  # cycles between the ring's requests, at the fastest
FIXED = (Opcode.POW_FIXED, Opcode.MULTI_POW)


@dataclass(frozen=True)
class Request:
    """What is asked of the ring; tab_row is zero where nothing goes to the table store."""

    a_row: int
    b_is_acc: int
    b_row: int
    m_row: int
    dst_row: int
    to_acc: int
    to_table: int
    tab_row: int
    emit: int
    last_of_round: int
    last_of_group: int


REQUEST_FIELDS = tuple(field.name for field in fields(Request))


@dataclass(frozen=True)
class Product:
    """A request and what must have happened before it."""

    request: Request
    group: int
    init: bool = False
    exponent: bool = False
    row: bool = False  # a table row must be there
    operand: bool = False
    depends: int = 0  # products that must have retired


@dataclass(frozen=True)
class Job:
    """A command for the sequencer; `length` in rounds' units, POW: windows."""

    opcode: Opcode
    count: int
    length: int = 1
    window_log2: int = 0
    init_from_a: bool = False
    exponents: tuple[int, ...] = ()
    per_element: bool = False

    @property
    def digit_bits(self) -> int:
        return 4 if self.opcode == Opcode.POW else 1 << self.window_log2

    @property
    def exp_rows(self) -> int:
        return -(-self.length * self.digit_bits // 128)

    @property
    def packed(self) -> int:
        return pack_job(
            opcode=self.opcode,
            window_log2=self.window_log2,
            init_from_a=self.init_from_a,
            count=self.count,
            length=self.length,
            k=2 * ROWS,
            rows=ROWS,
            exp_rows=self.exp_rows,
            cap=CAP,
            emit_cap=EMIT_CAP,
            per_element=self.per_element,
        )

    def digit(self, element: int, index: int) -> int:
        return self.exponents[element] >> index * self.digit_bits & ((1 << self.digit_bits) - 1)

    def rounds(self) -> list[str]:
        """What each round multiplies: 'a b' with where each operand comes from."""
        n = self.length
        match self.opcode:
            case Opcode.TO_MONT:
                return ["init r2"]
            case Opcode.FROM_MONT:
                return ["init exit"]
            case Opcode.MUL:
                return ["init operand"]
            case Opcode.SQR:
                return ["init acc", *["acc acc"] * (n - 1)]
            case Opcode.PROD:
                return ["one operand", *["acc operand"] * (n - 1)]
            case Opcode.TABLE:
                return ["one one", "one base", *["acc base"] * ((1 << self.digit_bits) - 2)]
            case Opcode.SELFTEST:
                return ["one one", *["acc acc"] * n, "acc exit"]
            case Opcode.POW:
                table = ["one base1", *["acc base1"] * 14]
                return [*table, "one power", *[*["acc acc"] * 4, "acc power"] * (n - 1)]
            case _:
                first = "init digit" if self.init_from_a else "one digit"
                return [first, *["acc digit"] * (n - 1)]

    def products(self) -> Iterator[Product]:
        pow_, fixed = self.opcode == Opcode.POW, self.opcode in FIXED
        issued = element = slot = table_rows = 0
        for group in range(-(-self.count // CAP)):
            n = min(CAP, self.count - element)
            rounds = self.rounds()
            group_start = issued
            for index, text in enumerate(rounds):
                a, b = text.split()
                for c in range(n):
                    dst = ROWS * (1 + (0 if self.per_element else group % 2 * CAP) + c)
                    one = ROWS * (1 + CAP + c) if self.per_element else 0
                    context = FIRST + (16 * c if pow_ else c)
                    to_table = pow_ and 0 < index < 15
                    if b == "power":
                        digit = self.digit(element + c, self.length - 1 - (index - 15) // 5)
                        entry = context + digit if digit or self.per_element else ONE
                    elif b == "digit":
                        entry = FIRST + (table_rows % 2 << self.digit_bits)
                        entry += self.digit(element + c, index)
                    else:
                        entry = {
                            "r2": R2, "one": ONE, "exit": EXIT, "acc": 0, "base": context,
                            "base1": context + 1, "operand": FIRST + slot % OPERAND_SLOTS,
                        }[b]  # fmt: skip
                    last = index + 1 == len(rounds)
                    yield Product(
                        Request(
                            a_row=one if a == "one" else dst,
                            b_is_acc=b == "acc",
                            b_row=dst if b == "acc" else ROWS * entry,
                            m_row=ROWS * (1 + c) if self.per_element else 0,
                            dst_row=dst,
                            to_acc=not last,
                            to_table=to_table,
                            tab_row=ROWS * (context + index + 1) if to_table else 0,
                            emit=last or self.opcode == Opcode.TABLE,
                            last_of_round=c + 1 == n,
                            last_of_group=last and c + 1 == n,
                        ),
                        group,
                        init=a == "init" or (a == "one" and b in ("base", "base1")),
                        exponent=b in ("power", "digit") and a != "acc",
                        row=fixed,
                        operand=b == "operand",
                        depends=issued - n + 1 if index else max(0, group_start - CAP),
                    )
                    issued += 1
                    slot += b == "operand"
                table_rows += fixed
            element += n


class Bench:
    """Loader, exponent store, ring, write-back and storer around the sequencer, every cycle."""

    def __init__(self, dut: Any, pace: float = 1.0, latency: int = 20) -> None:
        self.dut = dut
        self.rng = random.Random(cocotb.RANDOM_SEED)
        self.pace = pace  # probability of each event in a cycle in which it may be
        self.latency = latency
        self.data_comes = True

    async def reset(self) -> None:
        dut = self.dut
        Clock(dut.clk, 2, "ns").start()
        self.pulses = [
            dut.init_arrived_i,
            dut.exponent_arrived_i,
            dut.row_arrived_i,
            dut.operand_arrived_i,
            dut.retire_i,
            dut.retire_group_i,
            dut.emit_taken_i,
        ]
        for signal in (dut.rst_n, dut.start_i, dut.abort_i, dut.m_req_ready, *self.pulses):
            signal.value = 0
        await FallingEdge(dut.clk)
        await FallingEdge(dut.clk)
        dut.rst_n.value = 1

    def begin(self, job: Job) -> None:
        self.job = job
        self.products = list(job.products())
        self.groups = [min(CAP, job.count - CAP * g) for g in range(-(-job.count // CAP))]
        self.arrived = [0, 0, 0, 0]  # initial residues, exponents, rows, operands
        self.used = [0, 0, 0, 0]
        self.issued: list[tuple[int, Request]] = []  # with their cycles
        self.flight: deque[tuple[int, Product]] = deque()  # with the cycle they retire in
        self.retired = self.retired_rounds = self.retired_groups = 0
        self.emit_issued = self.emit_ready = self.emit_taken = 0
        self.exponent_reads: list[int] = []
        self.cycle = 0
        self.store: dict[int, int] = {}
        self.standing: Request | None = None
        self.reads: list[int | None] = []  # of the exponent store, this cycle's and the last one's

    def _room(self) -> list[int]:
        """How many of each kind the loader may have brought by now."""
        if not self.data_comes:
            return [0, 0, 0, 0]
        one_group = self.job.opcode in (Opcode.POW, Opcode.TABLE)
        groups = self.retired_groups
        return [
            sum(self.groups[: groups + (1 if one_group else 2)]),
            sum(self.groups[: groups + 1]),
            self.retired_rounds + 2,
            self.retired + OPERAND_SLOTS,
        ]

    def _fill_exponents(self, group: int) -> None:
        """The exponent store holds the strings of one group."""
        for c in range(self.groups[group] if group < len(self.groups) else 0):
            if self.job.exponents:
                string = self.job.exponents[group * CAP + c]
                for row in range(self.job.exp_rows):
                    at = c * self.job.exp_rows + row
                    self.store[at] = string >> 128 * row & ((1 << 128) - 1)

    def _accept(self, request: Request) -> None:
        assert len(self.issued) < len(self.products), "a product too many"
        wanted = self.products[len(self.issued)]
        assert request == wanted.request, f"product {len(self.issued)} of {self.job}"
        needs = (wanted.init, wanted.exponent, wanted.row, wanted.operand)
        for kind, needed in enumerate(needs):
            if kind != 2:
                self.used[kind] += needed
                assert self.used[kind] <= self.arrived[kind], "the data was not there"
        if wanted.row:
            assert self.used[2] < self.arrived[2], "the table row was not there"
            self.used[2] += request.last_of_round
        assert self.retired >= wanted.depends, "an operand was not written yet"
        assert wanted.group < self.retired_groups + 2, "the accumulators are in use"
        self.emit_issued += request.emit
        assert self.emit_issued - self.emit_taken <= EMIT_CAP, "no room in the emit queue"
        self.issued.append((self.cycle, request))
        done = self.cycle + self.latency
        self.flight.append((max(done, self.flight[-1][0] + 1 if self.flight else 0), wanted))

    async def step(self, ready: bool) -> bool:
        """One cycle; whether a request stood there."""
        dut, rng = self.dut, self.rng
        valid = bool(int(dut.m_req_valid.value))
        if valid:
            values = {name: int(getattr(dut, f"m_req_{name}").value) for name in REQUEST_FIELDS}
            request = Request(**values | {"tab_row": values["tab_row"] * values["to_table"]})
            if self.standing:
                assert request == self.standing, "a request changed while it waited"
            self.standing = None if ready else request
            if ready:
                self._accept(request)
        else:
            assert not self.standing, "a request was withdrawn"
        dut.m_req_ready.value = ready

        if int(dut.stall_o.value):
            wanted = self.products[len(self.issued)]
            needs = (wanted.init, wanted.exponent, wanted.row, wanted.operand)
            used, arrived = self.used, self.arrived
            assert any(n and used[i] >= arrived[i] for i, n in enumerate(needs)), "no stall"

        self.reads = [*self.reads[-1:], int(dut.exp_rrow_o.value) if dut.exp_ren_o.value else None]
        if self.reads[0] is not None and len(self.reads) == 2:
            dut.exp_rdata_i.value = self.store[self.reads[0]]

        pulses = [False] * len(self.pulses)
        room = self._room()
        for kind in range(4):
            pulses[kind] = self.arrived[kind] < room[kind] and rng.random() < self.pace
        if self.flight and self.cycle >= self.flight[0][0] and rng.random() < self.pace:
            product = self.flight.popleft()[1]
            pulses[4], pulses[5] = True, bool(product.request.last_of_group)
            self.retired += 1
            self.retired_rounds += product.request.last_of_round
            self.retired_groups += product.request.last_of_group
            self.emit_ready += product.request.emit
            if product.request.last_of_group:
                self._fill_exponents(self.retired_groups)
        pulses[6] = self.emit_ready > self.emit_taken and rng.random() < self.pace
        self.emit_taken += pulses[6]
        for signal, value in zip(self.pulses, pulses, strict=True):
            signal.value = value
        await FallingEdge(dut.clk)
        for kind in range(4):
            self.arrived[kind] += pulses[kind]
        self.cycle += 1
        return valid

    async def start(self, job: Job) -> None:
        self.begin(job)
        self._fill_exponents(0)
        self.dut.job_i.value = job.packed
        self.dut.start_i.value = 1
        await FallingEdge(self.dut.clk)
        self.dut.start_i.value = 0

    async def run(self, job: Job, ready: float) -> list[tuple[int, Request]]:
        """Run one job to its end; the requests with their cycles."""
        await self.start(job)
        while int(self.dut.busy_o.value):
            await self.step(self.rng.random() < ready)
        assert len(self.issued) == len(self.products) == self.retired
        return self.issued


def jobs(rng: random.Random) -> Iterator[Job]:
    for count in (1, CAP, 2 * CAP + 3):
        for opcode in (Opcode.TO_MONT, Opcode.FROM_MONT, Opcode.MUL):
            yield Job(opcode, count)
        for length in (1, 2, 5):
            yield Job(Opcode.SQR, count, length)
            yield Job(Opcode.PROD, count, length)
        for log2 in (0, 1, 2):
            yield Job(Opcode.TABLE, count, window_log2=log2)
    yield Job(Opcode.TABLE, 2, window_log2=3)
    yield Job(Opcode.SELFTEST, CAP, 3)
    for count, length in ((1, 1), (CAP + 1, 2), (2, 33)):
        strings = (0, (1 << 4 * length) - 1, *(rng.getrandbits(4 * length) for _ in range(count)))
        yield Job(Opcode.POW, count, length, exponents=strings[:count])
        yield Job(Opcode.POW, count, length, exponents=strings[:count], per_element=True)
    for log2, length in ((0, 1), (0, 130), (1, 3), (2, 4), (3, 17)):
        count = 2 if length > 100 else 2 * CAP + 1
        bits = length << log2
        strings = ((1 << bits) - 1, *(rng.getrandbits(bits) for _ in range(count - 1)))
        opcode = rng.choice(FIXED)
        yield Job(opcode, count, length, log2, rng.random() < 0.5, strings)


@cocotb.test(timeout_time=200, timeout_unit="us")
@cocotb.parametrize(pace=[1.0, 0.3])
async def every_operation(dut: Any, pace: float) -> None:
    bench = Bench(dut, pace)
    await bench.reset()
    for job in jobs(bench.rng):
        await bench.run(job, ready=pace)


@cocotb.test(timeout_time=200, timeout_unit="us")
async def keeps_requests_coming(dut: Any) -> None:
    """With data and contexts at hand, a request stands whenever the ring takes one."""
    bench = Bench(dut, latency=3 * PERIOD)
    await bench.reset()
    for job in (
        Job(Opcode.MUL, 4 * CAP),
        Job(Opcode.TO_MONT, 3 * CAP),
        Job(Opcode.SQR, 3 * CAP, 3),
        Job(Opcode.PROD, 2 * CAP, 3),
        Job(Opcode.POW, CAP, 3, exponents=tuple(range(CAP))),
        Job(Opcode.POW, CAP, 3, exponents=tuple(range(CAP)), per_element=True),
        Job(Opcode.POW_FIXED, CAP, 6, 1, exponents=tuple(range(CAP))),
    ):
        await bench.start(job)
        for _ in range(4 * CAP):  # first arrivals
            await bench.step(False)
        while len(bench.issued) < len(bench.products):
            for _ in range(PERIOD - 1):
                await bench.step(False)
            assert await bench.step(True), f"no product {len(bench.issued)} of {job}"
        while int(dut.busy_o.value):
            await bench.step(False)


@cocotb.test(timeout_time=200, timeout_unit="us")
async def waits_for_data(dut: Any) -> None:
    bench = Bench(dut)
    await bench.reset()
    for job in (
        Job(Opcode.SQR, 2),
        Job(Opcode.PROD, 2),
        Job(Opcode.POW, 2, 1, exponents=(1, 2)),
        Job(Opcode.POW_FIXED, 2, 1, exponents=(1, 0)),
    ):
        bench.data_comes = False
        await bench.start(job)
        for cycle in range(20):
            assert not await bench.step(True)
            assert cycle < 3 or int(dut.stall_o.value)
        bench.data_comes = True
        while int(dut.busy_o.value):
            await bench.step(True)
        assert bench.retired == len(bench.products)


@cocotb.test(timeout_time=200, timeout_unit="us")
async def timing_ignores_exponents(dut: Any) -> None:
    """Any exponents: the same requests in the same cycles, but for the table entry."""
    bench = Bench(dut, pace=0.5)
    await bench.reset()
    for opcode, count, length, log2, per_element in (
        (Opcode.POW, CAP, 4, 0, False),
        (Opcode.POW, CAP, 4, 0, True),
        (Opcode.POW_FIXED, CAP, 5, 1, False),
        (Opcode.MULTI_POW, 3, 4, 2, False),
    ):
        traces = []
        for fill in (0, -1, 0x5A3C96):
            exponents = (fill & 0xFFFF_FFFF,) * CAP
            bench.rng = random.Random(cocotb.RANDOM_SEED)
            job = Job(opcode, count, length, log2, exponents=exponents, per_element=per_element)
            issued = await bench.run(job, ready=0.5)
            traces.append(
                [(at, *(getattr(r, f) for f in REQUEST_FIELDS if f != "b_row")) for at, r in issued]
            )
        assert traces[0] == traces[1] == traces[2]


@cocotb.test(timeout_time=200, timeout_unit="us")
async def abort(dut: Any) -> None:
    """After an abort one request more at most, an end when all is retired, then a good run."""
    bench = Bench(dut, pace=0.6)
    await bench.reset()
    jobs_ = (
        Job(Opcode.MUL, 3 * CAP),
        Job(Opcode.SQR, 3 * CAP, 4),
        Job(Opcode.POW, CAP, 3, exponents=(5,) * CAP),
        Job(Opcode.POW_FIXED, 2 * CAP, 4, 1, exponents=(9,) * 2 * CAP),
    )
    for _ in range(10):
        for job in jobs_:
            await bench.start(job)
            for _ in range(bench.rng.randrange(150)):
                await bench.step(bench.rng.random() < 0.5)
            before = len(bench.issued)
            dut.abort_i.value = 1
            cycles = 0
            while int(dut.busy_o.value):
                await bench.step(bench.rng.random() < 0.5)
                cycles += 1
            dut.abort_i.value = 0
            assert len(bench.issued) <= before + 1
            assert bench.retired == len(bench.issued)
            assert cycles < 100
    await bench.run(jobs_[1], ready=0.5)


def test_residue_sequencer() -> None:
    parameters = {"AccRowBits": 5, "TabRowBits": 11, "ExpRowBits": 4, "ModRowBits": 4}
    run_bench("residue_sequencer", __file__, parameters=parameters)
