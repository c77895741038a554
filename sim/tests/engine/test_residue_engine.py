"""Bench of residue_engine: every operation bit by bit, full rings, constant time, flipped bits,
clearing; with words of one digit and, for Karatsuba rings, of two.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cocotb
import pytest
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge, ReadOnly

from residue.card._abi import Opcode
from residue_sim.golden import Montgomery, from_words, to_words
from residue_sim.harness import bench_parameter, run_bench
from residue_sim.job import job_of
from residue_sim.stimuli import edge_operands, odd_modulus

WORD_BITS = 6
EXPONENT_BITS, EMIT_RESULTS = 256, 16
R2, ONE, EXIT, FIRST = range(4)  # entries of the table store
ACC, TAB, EXP, MOD = range(4)  # stores
INIT_CAME, EXP_CAME, ROW_CAME, OPERAND_CAME = 1, 2, 3, 4
CAP = int(os.environ.get("BENCH_CAP", "0"))  # elements of a group
OPERAND_SLOTS = 32
DIGIT_CYCLES = 7  # the sequencer's, from product to product, where it reads exponents
FIXED = (Opcode.POW_FIXED, Opcode.MULTI_POW)


@dataclass(frozen=True)
class Load:
    """Rows for a store, which may come once `least` of `kind` have retired."""

    store: int
    row: int
    beats: tuple[int, ...]
    event: int = 0
    kind: str = "groups"
    least: int = 0


@dataclass
class Job:
    """A command with its operands. `table` holds the rows of a fixed base, one after the other."""

    opcode: Opcode
    domain: Montgomery
    a: list[int]
    b: list[int] | None = None  # MUL, PROD (round by round)
    exponents: list[int] | None = None
    table: list[list[int]] | None = None
    length: int = 1
    window_log2: int = 0
    init_from_a: bool = False
    domains: list[Montgomery] | None = None  # POW: of each element, instead of `domain`

    @property
    def digit_bits(self) -> int:
        return 4 if self.opcode == Opcode.POW else 1 << self.window_log2

    @property
    def exp_rows(self) -> int:
        return -(-self.length * self.digit_bits // 128)

    @property
    def packed(self) -> int:
        return job_of(
            self.opcode,
            self.domain,
            count=len(self.a),
            length=self.length,
            window_log2=self.window_log2,
            init_from_a=self.init_from_a,
            exp_rows=self.exp_rows,
            cap=CAP,
            emit_cap=min(63, EMIT_RESULTS * bench_parameter("MaxWords") // self.domain.k),
            per_element=self.domains is not None,
        )

    def results(self) -> Iterator[int]:
        """The accumulators as they are emitted, by the ring's own steps."""
        multiply, one = self.domain.multiply, self.domain.one
        tables: list[list[int]] = []
        for start in range(0, len(self.a), CAP):
            group = range(start, min(start + CAP, len(self.a)))
            if self.opcode == Opcode.TABLE:
                tables = [[multiply(one, one), multiply(one, self.a[c])] for c in group]
                for powers, c in zip(tables, group, strict=True):
                    while len(powers) < 1 << self.digit_bits:
                        powers.append(multiply(powers[-1], self.a[c]))
                yield from (p[e] for e in range(1 << self.digit_bits) for p in tables)
            else:
                yield from (self._result(c) for c in group)

    def _result(self, c: int) -> int:
        d = self.domains[c] if self.domains else self.domain
        multiply, a = d.multiply, self.a[c]
        match self.opcode:
            case Opcode.TO_MONT:
                return multiply(a, d.r_squared)
            case Opcode.FROM_MONT:
                return multiply(a, 1 << d.ring_bits)
            case Opcode.MUL:
                return multiply(a, self._b(c))
            case Opcode.SQR:
                for _ in range(self.length):
                    a = multiply(a, a)
                return a
            case Opcode.PROD:
                acc = d.one
                for r in range(self.length):
                    acc = multiply(acc, self._b(r * len(self.a) + c))
                return acc
            case Opcode.SELFTEST:
                acc = multiply(d.one, d.one)
                for _ in range(self.length):
                    acc = multiply(acc, acc)
                return multiply(acc, 1 << d.ring_bits)
            case Opcode.POW:
                table = [d.one, a]
                acc = multiply(d.one, a)
                for _ in range(14):
                    acc = multiply(acc, a)
                    table.append(acc)
                acc = d.one
                for window in reversed(range(self.length)):
                    if window + 1 < self.length:
                        for _ in range(4):
                            acc = multiply(acc, acc)
                    acc = multiply(acc, table[self._digit(c, window)])
                return acc
            case _:
                acc = a if self.init_from_a else d.one
                assert self.table is not None
                for r in range(self.length):
                    acc = multiply(acc, self.table[r][self._digit(c, r)])
                return acc

    def _b(self, index: int) -> int:
        assert self.b is not None
        return self.b[index]

    def _digit(self, c: int, index: int) -> int:
        assert self.exponents is not None
        return self.exponents[c] >> index * self.digit_bits & ((1 << self.digit_bits) - 1)

    def beats(self, residue: int) -> tuple[int, ...]:
        words = to_words(residue, WORD_BITS, self.domain.k)
        return tuple(low | high << 64 for low, high in zip(words[::2], words[1::2], strict=True))

    def constants(self) -> list[Load]:
        """What the command processor loads before the start."""
        d, rows = self.domain, self.domain.k // 2
        return [
            Load(MOD, 0, self.beats(d.m)),
            Load(ACC, 0, self.beats(d.one)),
            Load(TAB, R2 * rows, self.beats(d.r_squared)),
            Load(TAB, ONE * rows, self.beats(d.one)),
            Load(TAB, EXIT * rows, self.beats(1 << d.ring_bits)),
        ]

    def loads(self) -> Iterator[Load]:
        """What the loader brings, in order."""
        op, rows = self.opcode, self.domain.k // 2
        slot = table_rows = 0
        for group, start in enumerate(range(0, len(self.a), CAP)):
            elements = range(start, min(start + CAP, len(self.a)))
            first_acc = rows * (1 + group % 2 * CAP)
            if op == Opcode.MUL:  # pairs, so that the first product can start
                assert self.b is not None
                for c, i in enumerate(elements):
                    yield Load(ACC, first_acc + rows * c, self.beats(self.a[i]), INIT_CAME,
                               least=group - 1)  # fmt: skip
                    yield self._operand(slot, self.b[i])
                    slot += 1
            elif op not in (Opcode.PROD, Opcode.SELFTEST, *FIXED) or self.init_from_a:
                for c, i in enumerate(elements):
                    store, row, least = ACC, first_acc + rows * c, group - 1
                    if op in (Opcode.POW, Opcode.TABLE):
                        store, least = TAB, group
                        row = rows * (FIRST + (16 * c + 1 if op == Opcode.POW else c))
                    if self.domains:
                        m, one = (self.beats(v) for v in (self.domains[i].m, self.domains[i].one))
                        yield Load(MOD, rows * (1 + c), m, least=least)
                        yield Load(ACC, rows * (1 + CAP + c), one, least=least)
                        yield Load(TAB, row - rows, one, least=least)
                    yield Load(store, row, self.beats(self.a[i]), INIT_CAME, least=least)
            for c, i in enumerate(elements if self.exponents else ()):
                assert self.exponents is not None
                data = tuple(to_words(self.exponents[i], 128, self.exp_rows))
                yield Load(EXP, c * self.exp_rows, data, EXP_CAME, least=group)
            for r in range(self.length if op == Opcode.PROD else 0):
                for i in elements:
                    yield self._operand(slot, self._b(r * len(self.a) + i))
                    slot += 1
            for entries in self.table or ():
                first = FIRST + table_rows % 2 * len(entries)
                for e, entry in enumerate(entries):
                    event = ROW_CAME if e + 1 == len(entries) else 0
                    row = rows * (first + e)
                    yield Load(TAB, row, self.beats(entry), event, "rounds", table_rows - 1)
                table_rows += 1

    def _operand(self, slot: int, residue: int) -> Load:
        row = self.domain.k // 2 * (FIRST + slot % OPERAND_SLOTS)
        room = slot - OPERAND_SLOTS + 1
        return Load(TAB, row, self.beats(residue), OPERAND_CAME, "products", room)


class Bench:
    """Loader and storer around the engine."""

    def __init__(self, dut: Any, supply: float = 1.0, take: float = 1.0) -> None:
        self.dut = dut
        self.rng = random.Random(cocotb.RANDOM_SEED)
        self.supply, self.take = supply, take
        self.flipped = False  # a bit was: an error may come
        self.errors = 0

    async def reset(self) -> None:
        dut = self.dut
        Clock(dut.clk, 2, "ns").start()
        self.arrivals = {
            INIT_CAME: dut.init_arrived_i,
            EXP_CAME: dut.exponent_arrived_i,
            ROW_CAME: dut.row_arrived_i,
            OPERAND_CAME: dut.operand_arrived_i,
        }
        inputs = (dut.rst_n, dut.start_i, dut.abort_i, dut.clear_i, dut.s_load_valid,
                  dut.m_result_ready, dut.result_taken_i)  # fmt: skip
        for signal in (*inputs, *self.arrivals.values()):
            signal.value = 0
        for _ in range(4):
            await FallingEdge(dut.clk)
        dut.rst_n.value = 1

    async def store(self, load: Load) -> None:
        """Write rows while nothing runs."""
        dut = self.dut
        dut.s_load_store.value, dut.s_load_valid.value = load.store, 1
        for i, beat in enumerate(load.beats):
            dut.s_load_row.value, dut.s_load_data.value = load.row + i, beat
            await FallingEdge(dut.clk)
        dut.s_load_valid.value = 0

    async def start(self, job: Job, loads: bool = True) -> None:
        dut = self.dut
        self.job = job
        dut.job_i.value = job.packed
        for load in job.constants():
            await self.store(load)
        self.queue = [
            (load, i) for load in (job.loads() if loads else ()) for i in range(len(load.beats))
        ][::-1]
        self.retired = {"products": 0, "rounds": 0, "groups": 0}
        self.rows: list[int] = []
        self.slots: list[int] = []  # busy or not, each cycle
        self.last_product = 0  # when it was issued
        self.result_cycles: list[int] = []
        self.refused = 0
        self.offering = False
        dut.start_i.value = 1
        await FallingEdge(dut.clk)
        dut.start_i.value = 0

    async def step(self) -> None:
        dut = self.dut
        if not self.offering and self.queue:
            load = self.queue[-1][0]
            room = self.retired[load.kind] >= load.least
            self.offering = room and self.rng.random() < self.supply
        load, index = self.queue[-1] if self.queue else (Load(0, 0, ()), 0)
        dut.s_load_valid.value = self.offering
        if self.offering:
            dut.s_load_store.value = load.store
            dut.s_load_row.value = load.row + index
            dut.s_load_data.value = load.beats[index]
        await ReadOnly()
        taken = self.offering and bool(int(dut.s_load_ready.value))
        self.refused += self.offering and not taken
        retired = [int(s.value) for s in (dut.retire_o, dut.retire_round_o, dut.retire_group_o)]
        self.slots.append(int(dut.slot_busy_o.value))
        self.errors += int(dut.store_error_o.value)
        assert self.flipped or not self.errors, "a store error where no bit was flipped"
        self.last_product = len(self.slots) if int(dut.product_o.value) else self.last_product
        result = int(dut.m_result_data.value) if int(dut.m_result_valid.value) else None
        await FallingEdge(dut.clk)
        # The event of a load's last beat and the taking of a result follow one cycle behind.
        arrived = load.event if taken and index + 1 == len(load.beats) else 0
        if taken:
            self.queue.pop()
            self.offering = False
        for event, signal in self.arrivals.items():
            signal.value = event == arrived
        for kind, pulse in zip(self.retired, retired, strict=True):
            self.retired[kind] += pulse
        ready = result is not None and int(dut.m_result_ready.value) == 1
        if ready:
            assert result is not None
            self.rows.append(result)
            self.result_cycles.append(len(self.slots))
        dut.result_taken_i.value = ready and len(self.rows) % (self.job.domain.k // 2) == 0
        dut.m_result_ready.value = self.rng.random() < self.take

    def results(self) -> list[int]:
        rows = self.job.domain.k // 2
        pair = 2 * WORD_BITS
        return [from_words(self.rows[i : i + rows], pair) for i in range(0, len(self.rows), rows)]

    async def run(self, job: Job, loads: bool = True) -> None:
        await self.start(job, loads)
        expected = list(job.results())
        while int(self.dut.busy_o.value) or len(self.rows) < len(expected) * (job.domain.k // 2):
            await self.step()
        assert self.results() == expected, job
        await self.step()


def domain_of(modulus: int) -> Montgomery:
    digits = 2 if bench_parameter("Karatsuba") else 1
    return Montgomery.of(modulus, WORD_BITS, bench_parameter("Elements"), digits_per_word=digits)


def domains(rng: random.Random) -> list[Montgomery]:
    """Moduli of 4, 6 and 8 digits on a small ring: one to three passes, odd first digits."""
    small, middle, large = (10, 22, 34) if bench_parameter("Karatsuba") else (16, 25, 40)
    return [
        domain_of(n) for n in (odd_modulus(rng, small), odd_modulus(rng, middle), (1 << large) - 1)
    ]


def jobs(domain: Montgomery, count: int, rng: random.Random) -> Iterator[Job]:
    top = 2 * domain.n_tilde
    edges = edge_operands(domain)

    def residues(n: int) -> list[int]:
        return [rng.choice(edges) if rng.random() < 0.4 else rng.randrange(top) for _ in range(n)]

    a = residues(count)
    yield Job(Opcode.TO_MONT, domain, a)
    yield Job(Opcode.FROM_MONT, domain, a)
    yield Job(Opcode.MUL, domain, a, residues(count))
    yield Job(Opcode.SQR, domain, a, length=3)
    yield Job(Opcode.PROD, domain, a, residues(3 * count), length=3)
    yield Job(Opcode.TABLE, domain, a, window_log2=1)
    for length in (1, 2):
        exponents = [rng.getrandbits(4 * length) for _ in range(count)]
        yield Job(Opcode.POW, domain, a, exponents=exponents, length=length)
        yield per_element(domain, count, rng, exponents, length)
    for log2, length in ((0, 4), (2, 3)):
        exponents = [rng.getrandbits(length << log2) for _ in range(count)]
        table = [residues(1 << (1 << log2)) for _ in range(length)]
        yield Job(FIXED[log2 // 2], domain, a, None, exponents, table, length, log2, log2 == 0)


def per_element(
    domain: Montgomery, count: int, rng: random.Random, exponents: list[int], length: int
) -> Job:
    """A power with a modulus of its own, of the same size, for every element."""
    bits = domain.modulus.bit_length()
    moduli = [domain_of(odd_modulus(rng, bits)) for _ in range(count)]
    residues = [rng.choice([0, d.one, rng.randrange(2 * d.n_tilde)]) for d in moduli]
    return Job(Opcode.POW, domain, residues, exponents=exponents, length=length, domains=moduli)


@cocotb.test(timeout_time=300, timeout_unit="us")
async def clear(dut: Any) -> None:
    """Every row of every store, and each register that held one, is zero when a clear is done."""
    bench = Bench(dut)
    await bench.reset()
    domain = domains(bench.rng)[2]
    ones = 2 * domain.n_tilde - 1
    await bench.run(Job(Opcode.POW, domain, [ones] * CAP, exponents=[0xFFF] * CAP, length=3))
    emit, operands = dut.i_emit.i_memory, stores(dut)["operands"]
    rams = [*(dut_ for name, dut_ in stores(dut).items() if name != "operands"), emit]
    registers = [signal for ram in rams for signal in (ram.array_q, ram.out_q, ram.wdata_q)]
    registers += [dut.i_writeback.wdata_o, operands.m_a_o, operands.m_m_o, operands.m_b_o]
    if not bench_parameter("Karatsuba"):
        registers += [dut.i_writeback.g_pair.low_q]
        registers += [operands.a_hold_q, operands.m_hold_q, operands.b_hold_q]
    assert sum(int(register.value) != 0 for register in registers) > len(registers) // 4
    for ram in rams:  # rows of any parity
        for row in ram.mem_q:
            row.value = bench.rng.getrandbits(2 * WORD_BITS) | 1
    dut.clear_i.value = 1
    await FallingEdge(dut.clk)
    dut.clear_i.value = 0
    while int(dut.busy_o.value):
        assert not int(dut.store_error_o.value)
        await FallingEdge(dut.clk)
    for ram in rams:
        assert not any(int(row.value) for row in ram.mem_q), ram
    assert not any(int(register.value) for register in registers)
    await bench.run(Job(Opcode.SQR, domain, [2, 3], length=2))


def stores(dut: Any) -> dict[str, Any]:
    """The stores that the loader fills, by name, and the module that reads them."""
    karatsuba = bench_parameter("Karatsuba")
    copies = {"accumulators_b": dut.g_rows.i_accumulators_b} if karatsuba else {}
    return {
        "accumulators": dut.i_accumulators,
        **copies,
        "tables": dut.i_tables,
        "exponents": dut.i_exponents,
        "modulus": dut.i_modulus,
        "operands": (dut.g_rows if karatsuba else dut.g_words).i_operands,
    }


def flip(ram: Any, row: int, bit: int) -> None:
    ram.mem_q[row].value = int(ram.mem_q[row].value) ^ 1 << bit


@cocotb.test(timeout_time=300, timeout_unit="us")
async def flipped_bits_are_told(dut: Any) -> None:
    """Any bit of a row that a product uses, in any store: an error; in other rows: none."""
    bench = Bench(dut)
    await bench.reset()
    domain = domains(bench.rng)[0]
    rows, rng = domain.k // 2, bench.rng
    row = rng.randrange(rows)
    values = [rng.randrange(2 * domain.n_tilde) for _ in range(CAP)]
    power = Job(Opcode.POW, domain, values, exponents=[rng.getrandbits(4) for _ in values])
    square = Job(Opcode.SQR, domain, values)
    # A row that is read after all loads: of the last initial residue, the base, the string, M.
    targets = {
        "accumulators": (square, rows * CAP + row),
        "accumulators_b": (square, rows * CAP + row),
        "tables": (power, rows * (FIRST + 1) + row),
        "exponents": (power, 0),
        "modulus": (power, row),
    }
    for name, ram in stores(dut).items():
        if name == "operands":
            continue
        width = int(ram.WidthBits.value)
        job, target = targets[name]
        for bit in (0, rng.randrange(width), width):  # the last one is the parity
            await bench.start(job)
            while bench.queue:
                await bench.step()
            await bench.step()
            await bench.step()
            flip(ram, target, bit)
            bench.flipped = True
            while int(dut.busy_o.value) or len(bench.rows) < len(values) * rows:
                await bench.step()
            for _ in range(4):
                await bench.step()
            assert bench.errors, f"bit {bit} of {name}"
            bench.flipped, bench.errors = False, 0
            # The next job writes the row anew, and a row that it does not read does not matter.
            flip(ram, int(ram.DepthRows.value) - 1, bit)
            await bench.run(job)


@cocotb.test(timeout_time=300, timeout_unit="us")
async def flipped_bits_of_results_are_told(dut: Any) -> None:
    """A bit of a result that waits in the emit queue."""
    bench = Bench(dut)
    await bench.reset()
    domain = domains(bench.rng)[0]
    rows = domain.k // 2
    job = Job(Opcode.TO_MONT, domain, [bench.rng.randrange(domain.n_tilde) for _ in range(4)])
    for bit in (0, 2 * WORD_BITS):
        bench.take = 0.0
        await bench.start(job)
        while int(dut.busy_o.value):
            await bench.step()
        flip(dut.i_emit.i_memory, int(dut.i_emit.read_q.value), bit)
        bench.take, bench.flipped = 1.0, True
        while len(bench.rows) < 4 * rows:
            await bench.step()
        for _ in range(4):
            await bench.step()
        assert bench.errors
        bench.flipped, bench.errors = False, 0
        await bench.run(job)


@cocotb.test(timeout_time=300, timeout_unit="us")
async def loads_wait_for_results(dut: Any) -> None:
    """Loads and results that want a store in one cycle: the load waits, nothing is lost."""
    bench = Bench(dut, supply=0.3)
    await bench.reset()
    domain = domains(bench.rng)[2]
    a = [bench.rng.randrange(2 * domain.n_tilde) for _ in range(4 * CAP)]
    await bench.run(Job(Opcode.SQR, domain, a, length=3))
    assert bench.refused


@cocotb.test(timeout_time=300, timeout_unit="us")
@cocotb.parametrize((("supply", "take", "count"), [(1, 1, CAP + 1), (0.4, 1, 2), (1, 0.08, 6)]))
async def every_operation(dut: Any, supply: float, take: float, count: int) -> None:
    bench = Bench(dut, supply, take)
    await bench.reset()
    for domain in domains(bench.rng)[::2] if count > CAP else domains(bench.rng)[1:2]:
        for job in jobs(domain, count, bench.rng):
            await bench.run(job)
        self_test = Job(Opcode.SELFTEST, domain, [0] * CAP, length=2)
        assert {domain.canonical(result) for result in self_test.results()} == {1}
        await bench.run(self_test)


@cocotb.test(timeout_time=300, timeout_unit="us")
async def every_digit(dut: Any) -> None:
    """All digits of a window and of a fixed base; 256 entries; a string of two rows."""
    bench = Bench(dut)
    await bench.reset()
    domain = domains(bench.rng)[0]
    a = [bench.rng.randrange(2 * domain.n_tilde) for _ in range(16)]
    table = [[bench.rng.randrange(2 * domain.n_tilde) for _ in range(16)]]
    await bench.run(Job(Opcode.POW, domain, a, exponents=list(range(16))))
    await bench.run(Job(Opcode.POW_FIXED, domain, a, None, list(range(16)), table, 1, 2))
    wide = [[bench.rng.randrange(2 * domain.n_tilde) for _ in range(256)]]
    await bench.run(Job(Opcode.POW_FIXED, domain, a[:3], None, [0, 255, 129], wide, 1, 3))
    long = [(1 << 132) - 1, bench.rng.getrandbits(132)]
    await bench.run(Job(Opcode.POW, domain, a[:2], exponents=long, length=33))


@cocotb.test(timeout_time=300, timeout_unit="us")
async def the_ring_stays_full(dut: Any) -> None:
    """With its contexts full no slot is empty while products are issued."""
    bench = Bench(dut)
    await bench.reset()
    domain = domains(bench.rng)[2]
    a = [bench.rng.randrange(2 * domain.n_tilde) for _ in range(CAP)]
    for job, products in (
        (Job(Opcode.SQR, domain, a, length=8), 8 * CAP),
        (Job(Opcode.POW, domain, a, exponents=[9] * CAP, length=2), (15 + 6) * CAP),
    ):
        if job.exponents and domain.slots < DIGIT_CYCLES:
            continue
        await bench.run(job)
        busy = products * domain.passes * domain.slots
        assert sum(bench.slots) == busy
        # From the first product to the issue of the last one there is no gap.
        assert all(bench.slots[bench.slots.index(1) : bench.last_product])


@cocotb.test(timeout_time=300, timeout_unit="us", skip=True)  # but in test_rate
async def short_operations_fill_the_ring(dut: Any) -> None:
    """One pass a product: no slot is empty, in powers once the operands have come."""
    bench = Bench(dut, take=1.0)
    await bench.reset()
    elements = bench_parameter("Elements")
    ring_bits = WORD_BITS * (2 if bench_parameter("Karatsuba") else 1)
    domain = domain_of((1 << ring_bits * (elements - 1) - 2) - 1)
    assert (domain.passes, domain.ring_words) == (1, elements)
    rng, count = bench.rng, 6 * CAP
    a, b = ([rng.randrange(2 * domain.n_tilde) for _ in range(count)] for _ in range(2))
    exponents = [rng.getrandbits(4) for _ in range(count)]
    table = [[rng.randrange(2 * domain.n_tilde) for _ in range(2)] for _ in range(4)]
    for job in (
        Job(Opcode.TO_MONT, domain, a),
        Job(Opcode.MUL, domain, a, b),
        Job(Opcode.PROD, domain, a[: 2 * CAP], b + a, length=4),
        Job(Opcode.POW_FIXED, domain, a[:CAP], None, exponents[:CAP], table, 4),
        Job(Opcode.SQR, domain, a[:CAP], length=8),
    ):
        if job.opcode == Opcode.MUL and bench_parameter("Karatsuba"):
            continue  # takes more rows than a port brings in the time of a product
        await bench.run(job)
        begin = bench.slots.index(1)
        if job.opcode == Opcode.SQR:  # first results and last loads share a write port
            begin += 2 * CAP * domain.slots
        steady = bench.slots[begin : bench.last_product]
        assert all(steady), f"{job.opcode.name}: {steady.count(0)} of {len(steady)} slots empty"


@cocotb.test(timeout_time=300, timeout_unit="us")
async def time_ignores_secrets(dut: Any) -> None:
    """Any exponents and residues: slots, results and retirements in the same cycles."""
    bench = Bench(dut)
    await bench.reset()
    domain = domains(bench.rng)[1]
    rng = bench.rng
    top, count, length = 2 * domain.n_tilde - 1, 5, 3
    await bench.run(Job(Opcode.SQR, domain, [1]))  # the ring's pause after the reset
    for opcode in (Opcode.POW, *FIXED):
        courses = []
        secrets: tuple[tuple[Callable[[], int], Callable[[], int]], ...] = (
            (lambda: 0, lambda: 0),
            (lambda: 0xFFF, lambda: top),
            (lambda: rng.getrandbits(12), lambda: rng.randrange(top)),
        )
        for exponent, residue in secrets:
            exponents = [exponent() for _ in range(count)]
            table = [[residue() for _ in range(16)] for _ in range(length)]
            job = Job(
                opcode,
                domain,
                [residue() for _ in range(count)],
                exponents=exponents,
                table=None if opcode == Opcode.POW else table,
                length=length,
                window_log2=2,
                init_from_a=opcode == Opcode.MULTI_POW,
            )
            await bench.run(job)
            courses.append((bench.slots, bench.result_cycles))
        assert courses[0] == courses[1] == courses[2]


@cocotb.test(timeout_time=300, timeout_unit="us")
async def abort(dut: Any) -> None:
    """What was issued drains, whole results leave, and the next command is right."""
    bench = Bench(dut, 0.8, 0.5)
    await bench.reset()
    domain = domains(bench.rng)[0]
    everything = list(jobs(domain, CAP + 1, bench.rng))
    for _ in range(12):
        job = bench.rng.choice(everything)
        expected = list(job.results())
        await bench.start(job)
        for _ in range(bench.rng.randrange(1500)):
            await bench.step()
        dut.abort_i.value = 1
        bench.queue, bench.offering = bench.queue[-1:] if bench.offering else [], bench.offering
        quiet = 0
        while int(dut.busy_o.value) or quiet < 20:
            quiet = 0 if int(dut.m_result_valid.value) else quiet + 1
            await bench.step()
        dut.abort_i.value = 0
        assert len(bench.rows) % (domain.k // 2) == 0
        assert bench.results() == expected[: len(bench.results())]
    await bench.run(everything[2])


def run(tests: Sequence[str], cap: int, **parameters: int) -> None:
    run_bench(
        "residue_engine",
        __file__,
        tests=tests,
        environment={"BENCH_CAP": str(cap)},
        visible=(
            *("residue_ram.*", "residue_row_queue.read_q"),
            *("residue_writeback.*", "residue_operands.*", "residue_operands_rows.*"),
        ),
        parameters={
            "WordBits": WORD_BITS,
            "Contexts": 24,
            "TableEntries": 256,
            "MaxExponentBits": EXPONENT_BITS,
            "EmitResults": EMIT_RESULTS,
            **parameters,
        },
    )


@pytest.mark.parametrize(
    "karatsuba",
    [pytest.param(0, id="words"), pytest.param(1, id="rows", marks=pytest.mark.full)],
)
def test_residue_engine(karatsuba: int) -> None:
    if karatsuba:  # its elements take longer: more contexts to fill them
        run((), 16, Karatsuba=1, Elements=2, MaxWords=8, Contexts=32, TableEntries=272)
    else:
        run((), 12, Karatsuba=0, Elements=3, MaxWords=8)


@pytest.mark.parametrize(
    ("karatsuba", "elements"),
    [
        pytest.param(0, 6, marks=pytest.mark.full),  # 7 cycles: as fast as the sequencer goes
        pytest.param(1, 6, marks=pytest.mark.full),
        pytest.param(0, 22, marks=pytest.mark.full),  # 1024 bits in words of 51 bits: 23 cycles
        pytest.param(1, 12, marks=pytest.mark.full),  # 1024 bits in words of 100 bits: 13 cycles
    ],
)
def test_rate(karatsuba: int, elements: int) -> None:
    tests = ["short_operations_fill_the_ring"]
    max_words = 2 * elements * (1 + karatsuba)
    contexts = 24 + 16 * karatsuba  # its elements take longer: more contexts to fill them
    shape = {"Karatsuba": karatsuba, "Elements": elements, "MaxWords": max_words}
    run(tests, contexts, **shape, Contexts=contexts)
