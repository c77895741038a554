"""Bench of residue_loader: what it reads, where that goes, and that it waits for room."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge

from residue.card._abi import Opcode
from residue_sim.harness import run_bench
from residue_sim.job import pack_job, pack_share

ROW_BITS, MAX_GROUP = 11, 8
ROWS = 3
FIRST = 3  # entry of the table store at which tables and operands start
OPERAND_SLOTS = 32
ACC, TAB, EXP, MOD, INDEX, CHECK = 0, 1, 2, 3, 4, 7  # stores
INIT_CAME, EXP_CAME, OPERAND_CAME, HEADER_CAME, N_CAME = 1, 2, 4, 5, 6  # events
FIXED = (Opcode.POW_FIXED, Opcode.MULTI_POW)
ONE_GROUP = (Opcode.POW, Opcode.TABLE)


@dataclass(frozen=True)
class Request:
    """A read request."""

    addr: int
    rows: int
    store: int
    row: int
    event: int


@dataclass(frozen=True)
class Retirement:
    """A product that retires once `after` requests were made."""

    after: int
    last_of_round: bool
    last_of_group: bool


@dataclass
class Job:
    """A command for the loader, with what it must request."""

    opcode: Opcode
    count: int
    length: int = 1
    window_log2: int = 0
    init_from_a: bool = False
    cap: int = MAX_GROUP
    exp_rows: int = 1
    broadcast: bool = False
    per_element: bool = False
    first: int = 0  # of the lane's elements among those of the command
    total: int = 0  # elements of the command; 0: all are this lane's

    def __post_init__(self) -> None:
        self.src_a, self.src_b, self.exponents = 0x4_FFFF_F010, 0x2_0000_0020, 0x1_FFFF_FF30
        self.total = self.total or self.count
        self.stride_a = 0 if self.broadcast else 5
        self.stride_b, self.stride_e = 4, self.exp_rows + 1
        rng = random.Random(self.count)
        self.index = [rng.randrange(1 << 32) for _ in range(self.total * self.length)]
        self.requests: list[Request] = []
        self.limits: list[tuple[str, int]] = []  # what each request must wait for
        self.retirements: list[Retirement] = []
        self.table_rows: list[tuple[int, int]] = []  # wanted after requests, and retired rounds
        self._plan()

    @property
    def packed(self) -> int:
        names = ("opcode", "length", "window_log2", "init_from_a", "per_element", "cap",
                 "exp_rows", "stride_a", "stride_b", "stride_e")  # fmt: skip
        values = {name: int(getattr(self, name)) for name in names}
        return pack_job(k=2 * ROWS, rows=ROWS, count=self.total, **values)

    @property
    def share(self) -> int:
        names = ("first", "count", "src_a", "src_b", "exponents")
        return pack_share(**{name: int(getattr(self, name)) for name in names})

    def _ask(
        self, limit: tuple[str, int], addr: int, store: int, row: int, event: int, rows: int = ROWS
    ) -> None:
        self.requests.append(Request(addr % (1 << 64), rows, store, row, event))
        self.limits.append(limit)

    def _retire(self, n: int, last_round: bool) -> None:
        for c in range(n):
            last = c + 1 == n
            self.retirements.append(Retirement(len(self.requests), last, last and last_round))

    def _plan(self) -> None:
        op, done, slot, table_rows = self.opcode, 0, 0, 0
        has_init = op not in (Opcode.PROD, *FIXED) or (op in FIXED and self.init_from_a)
        for group in range(-(-self.count // self.cap)):
            n = min(self.cap, self.count - done)
            whole = ("groups", group if op in ONE_GROUP else group - 1)
            if has_init:
                for c in range(n):
                    if self.per_element:
                        block = self.src_b + (done + c) * self.stride_b * 16
                        one = block + 32 + 3 * 16 * ROWS
                        first = ROWS * (1 + c)
                        self._ask(whole, block, CHECK, 0, HEADER_CAME, rows=1)
                        self._ask(whole, block + 32 + 16 * ROWS, CHECK, 0, N_CAME, rows=1)
                        self._ask(whole, block + 32, MOD, first, 0)
                        self._ask(whole, one, ACC, first + ROWS * self.cap, 0)
                        self._ask(whole, one, TAB, ROWS * (FIRST + 16 * c), 0)
                    if op in ONE_GROUP:
                        store, entry = TAB, FIRST + (16 * c + 1 if op == Opcode.POW else c)
                    else:
                        store, entry = ACC, 1 + group % 2 * self.cap + c
                    at = self.src_a + (done + c) * self.stride_a * 16
                    self._ask(whole, at, store, entry * ROWS, INIT_CAME)
            if op == Opcode.MUL:
                for c in range(n):
                    at = self.src_b + (done + c) * self.stride_b * 16
                    row = ROWS * (FIRST + slot % OPERAND_SLOTS)
                    self._ask(("operands", slot - OPERAND_SLOTS + 1), at, TAB, row, OPERAND_CAME)
                    slot += 1
                    self.retirements.append(Retirement(len(self.requests), c + 1 == n, c + 1 == n))
            elif op == Opcode.POW or op in FIXED:
                for c in range(n):
                    at = self.exponents + (done + c) * self.stride_e * 16
                    self._ask(("groups", group), at, EXP, c * self.exp_rows, EXP_CAME,
                              rows=self.exp_rows)  # fmt: skip
                if op == Opcode.POW:
                    self._retire(n, True)
            if op in FIXED:
                for r in range(self.length):
                    self.table_rows.append((len(self.requests), table_rows - 1))
                    table_rows += 1
                    self._retire(n, r + 1 == self.length)
            elif op == Opcode.PROD:
                for r in range(self.length):
                    first = r * self.total + self.first + done
                    rows = (first + n - 1) // 4 - first // 4 + 1
                    self._ask(whole, self.exponents + first // 4 * 16, INDEX, 0, 0, rows=rows)
                    for c in range(n):
                        at = self.src_a + self.index[first + c] * self.stride_a * 16
                        row = ROWS * (FIRST + slot % OPERAND_SLOTS)
                        limit = ("operands", slot - OPERAND_SLOTS + 1)
                        self._ask(limit, at, TAB, row, OPERAND_CAME)
                        slot += 1
                        last = c + 1 == n
                        self.retirements.append(
                            Retirement(len(self.requests), last, last and r + 1 == self.length)
                        )
            elif op not in (Opcode.MUL, Opcode.POW):
                self._retire(n, True)
            done += n

    def index_rows(self, request: Request) -> list[int]:
        """The rows that answer an index request; words outside the matrix are noise."""
        first = (request.addr - self.exponents) // 4
        words = self.index[first : first + 4 * request.rows]
        words += [0xDEAD_BEEF] * (4 * request.rows - len(words))
        return [
            sum(word << 32 * lane for lane, word in enumerate(words[at : at + 4]))
            for at in range(0, len(words), 4)
        ]


class Bench:
    """DMA and engine around the loader."""

    def __init__(self, dut: Any, ready: float, pace: float) -> None:
        self.dut = dut
        self.rng = random.Random(cocotb.RANDOM_SEED)
        self.ready, self.pace = ready, pace  # of the DMA, of the engine (0: it retires nothing)

    async def reset(self) -> None:
        dut = self.dut
        Clock(dut.clk, 2, "ns").start()
        for signal in (dut.rst_n, dut.start_i, dut.abort_i, dut.m_req_ready, dut.s_index_valid,
                       dut.row_taken_i, dut.retire_i, dut.retire_round_i,
                       dut.retire_group_i):  # fmt: skip
            signal.value = 0
        await FallingEdge(dut.clk)
        await FallingEdge(dut.clk)
        dut.rst_n.value = 1

    async def start(self, job: Job) -> None:
        self.job = job
        self.accepted = self.rows_taken = 0
        self.accepted_in: list[int] = []  # cycles
        self.retirements = deque(job.retirements)
        self.retired = {"operands": 0, "rounds": 0, "groups": 0}
        self.answer: deque[int] = deque()
        self.standing: Request | None = None
        self.cycle = 0
        self.dut.job_i.value = job.packed
        self.dut.share_i.value = job.share
        self.dut.start_i.value = 1
        await FallingEdge(self.dut.clk)
        self.dut.start_i.value = 0

    async def step(self) -> None:
        dut, rng = self.dut, self.rng
        ready = rng.random() < self.ready
        dut.m_req_ready.value = ready
        new_answer: list[int] = []
        if int(dut.m_req_valid.value):
            request = Request(
                *(int(getattr(dut, f"m_req_{field.name}").value) for field in fields(Request))
            )
            assert self.standing in (None, request), "a request changed while it waited"
            self.standing = None if ready else request
            if ready:
                new_answer = self._accept(request)
        else:
            assert not self.standing, "a request was withdrawn"

        beat = self.answer.popleft() if self.answer and rng.random() < (self.pace or 1) else None
        dut.s_index_valid.value = beat is not None
        dut.s_index_data.value = rng.getrandbits(128) if beat is None else beat
        dut.s_index_last.value = not self.answer

        row_taken = bool(int(dut.row_want_o.value)) and rng.random() < self.ready
        if row_taken:
            assert self.rows_taken < len(self.job.table_rows), "a table row too many"
            after, least = self.job.table_rows[self.rows_taken]
            assert self.accepted == after, "a table row wanted out of turn"
            assert self.retired["rounds"] >= least, "no room for a table row"
            self.rows_taken += 1
        dut.row_taken_i.value = row_taken

        product = None
        due = self.retirements and self.retirements[0].after <= self.accepted
        if due and self.job.table_rows:  # and its table row is there
            due = self.retired["rounds"] < self.rows_taken
        if due and rng.random() < self.pace:
            product = self.retirements.popleft()
            self.retired["operands"] += 1
            self.retired["rounds"] += product.last_of_round
            self.retired["groups"] += product.last_of_group
        dut.retire_i.value = product is not None
        dut.retire_round_i.value = product is not None and product.last_of_round
        dut.retire_group_i.value = product is not None and product.last_of_group
        await FallingEdge(dut.clk)
        self.answer += new_answer
        self.cycle += 1

    def _accept(self, request: Request) -> list[int]:
        """Check a request that is taken; the rows that will answer it."""
        assert self.accepted < len(self.job.requests), "a request too many"
        if request.store in (CHECK, INDEX):  # no row of a store of the engine
            request = replace(request, row=0)
        wanted = self.job.requests[self.accepted]
        assert request == wanted, f"request {self.accepted} of {self.job}"
        kind, least = self.job.limits[self.accepted]
        assert self.retired[kind] >= least, f"request {self.accepted}: no room, {kind}"
        self.accepted += 1
        self.accepted_in.append(self.cycle)
        return self.job.index_rows(request) if request.store == INDEX else []

    async def run(self, job: Job) -> None:
        await self.start(job)
        while int(self.dut.busy_o.value):
            await self.step()
        assert self.accepted == len(job.requests)
        assert self.rows_taken == len(job.table_rows)


def jobs() -> Iterator[Job]:
    for count in (1, MAX_GROUP, 2 * MAX_GROUP + 3):
        for opcode in (Opcode.TO_MONT, Opcode.FROM_MONT, Opcode.SQR, Opcode.TABLE):
            yield Job(opcode, count, cap=MAX_GROUP - 1)
        yield Job(Opcode.POW, count, 9, exp_rows=3, cap=5)
        yield Job(Opcode.POW, count, 9, cap=5, per_element=True)
        yield Job(Opcode.MUL, 3 * count)
        yield Job(Opcode.MUL, count, broadcast=True)
        for length in (1, 3):
            yield Job(Opcode.PROD, count, length)
    yield Job(Opcode.PROD, 3, 13)
    yield Job(Opcode.PROD, MAX_GROUP + 2, 3, first=5, total=2 * MAX_GROUP + 9)
    yield Job(Opcode.PROD, MAX_GROUP - 1, 6)
    for log2, length in ((0, 1), (0, 5), (1, 3), (2, 2), (3, 1)):
        for init in (False, True):
            opcode = FIXED[init]
            yield Job(opcode, MAX_GROUP + 1, length, log2, init_from_a=init, exp_rows=2)


@cocotb.test(timeout_time=200, timeout_unit="us")
@cocotb.parametrize(ready=[1.0, 0.4], pace=[1.0, 0.2])
async def every_operation(dut: Any, ready: float, pace: float) -> None:
    bench = Bench(dut, ready, pace)
    await bench.reset()
    for job in jobs():
        await bench.run(job)


@cocotb.test(timeout_time=200, timeout_unit="us")
async def a_request_every_two_cycles(dut: Any) -> None:
    """Runs of residues, strings and operands are requested without a longer pause."""
    bench = Bench(dut, 1.0, 1.0)
    await bench.reset()
    n = MAX_GROUP
    for job, run in (
        (Job(Opcode.SQR, n), n),
        (Job(Opcode.MUL, n), 2 * n),
        (Job(Opcode.POW, n), n),
        (Job(Opcode.POW_FIXED, n), n),
    ):
        await bench.run(job)
        start = bench.accepted_in[0]
        assert bench.accepted_in[:run] == list(range(start, start + 2 * run, 2)), job


@cocotb.test(timeout_time=200, timeout_unit="us")
async def stops_without_room(dut: Any) -> None:
    """With nothing retired: one or two groups, two rows, or 32 operands."""
    bench = Bench(dut, 1.0, 0.0)
    await bench.reset()
    for job, requests in (
        (Job(Opcode.SQR, 5, cap=2), 4),
        (Job(Opcode.TABLE, 5, cap=2), 2),
        (Job(Opcode.POW, 5, cap=2), 4),
        (Job(Opcode.MUL, 40), 4 * MAX_GROUP),
        (Job(Opcode.PROD, 8, 5), OPERAND_SLOTS + 5),  # and the index of every round
        (Job(Opcode.POW_FIXED, 3, 5, 1), 3),
    ):
        await bench.start(job)
        for _ in range(200):
            await bench.step()
        assert bench.accepted == requests, job
        assert bench.rows_taken == (2 if job.table_rows else 0)
        dut.abort_i.value = 1
        await bench.step()
        dut.abort_i.value = 0
        assert not int(dut.busy_o.value)


@cocotb.test(timeout_time=200, timeout_unit="us")
async def abort(dut: Any) -> None:
    """An abort lets a standing request be taken, then ends; the next command is right."""
    bench = Bench(dut, 0.4, 0.5)
    await bench.reset()
    everything = list(jobs())
    for _ in range(60):
        job = bench.rng.choice(everything)
        await bench.start(job)
        for _ in range(bench.rng.randrange(80)):
            await bench.step()
        before = bench.accepted
        dut.abort_i.value = 1
        cycles = 0
        while int(dut.busy_o.value):
            await bench.step()
            cycles += 1
        dut.abort_i.value = 0
        assert bench.accepted <= before + 1
        assert cycles < 40
        await bench.step()
    await bench.run(Job(Opcode.PROD, 9, 2))


def test_residue_loader() -> None:
    parameters = {"RowBits": ROW_BITS, "MaxGroup": MAX_GROUP}
    run_bench("residue_loader", __file__, parameters=parameters)
