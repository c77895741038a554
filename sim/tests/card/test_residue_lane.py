"""Bench of residue_lane: whole commands out of and into memory, row by row, and what stops them."""

from __future__ import annotations

import random
import struct
from collections import deque
from dataclasses import dataclass
from typing import Any

import cocotb
import pytest
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge, ReadOnly

from residue.card import _abi as abi
from residue.card._abi import CommandFlag, ModulusVector, Opcode, Status
from residue_sim.card_model import RESERVED_ENTRIES, Command
from residue_sim.dispatch import EMIT_RESULTS, Dispatch
from residue_sim.harness import bench_parameter, run_bench
from residue_sim.job import unpack_job, unpack_share, unpack_states
from residue_sim.manifest import Configuration
from residue_sim.scenarios import Program, all_operations, short_operations
from residue_sim.stimuli import odd_modulus

BASE = 0x7_FFFF_F000
ROW = 16
TAB = 1  # store
ROW_CAME = 3  # event
PATIENCE = 800  # cycles without a handshake or a product: a lane stands still
BUSY = ("engine_busy", "loader_busy", "storer_busy")
FLAGS = ("mismatch", "store_error", "bad_modulus", "even_modulus")
COUNTS = ("stall", "product", "slot_busy")  # lane_count_t, lowest bit first


def configuration(karatsuba: bool) -> Configuration:
    """A card of two lanes, of which the bench is one after the other."""
    return Configuration(
        name="toy",
        element="karatsuba" if karatsuba else "schoolbook",
        word_bits=6,
        elements=2 if karatsuba else 3,
        rings=2,
        masters=1,
        contexts=8,
        max_modulus_bits=64,
        max_exponent_bits=256,
        axi_data_bits=128,
        table_entries=45,
    )


@dataclass(frozen=True)
class Read:
    """Rows on their way from memory."""

    address: int
    rows: int
    store: int
    row: int
    event: int = 0


class Bench:
    """Memory, command processor and fetcher of table rows around the lane."""

    def __init__(self, dut: Any, supply: float = 1.0, ready: float = 1.0) -> None:
        self.dut = dut
        self.rng = random.Random(cocotb.RANDOM_SEED)
        self.supply, self.ready = supply, ready
        self.configuration = configuration(bool(bench_parameter("Karatsuba")))
        self.faulty: set[int] = set()  # addresses of rows that cannot be read
        self.clear_bus()
        Clock(dut.clk, 2, "ns").start()

    def clear_bus(self) -> None:
        """Forget what is on its way."""
        self.reads: deque[Read] = deque()
        self.row = 0  # of the first read
        self.offering = False
        self.writes: deque[tuple[int, int]] = deque()  # address and rows, asked for
        self.written = 0  # rows of the first write
        self.quiet = 0
        self.waits = 0  # cycles in which a row was not taken
        self.told = dict.fromkeys(FLAGS, 0)

    async def reset(self) -> None:
        self._driven: dict[str, int] = {}
        inputs = """rst_n start_i abort_i flush_i clear_i share_valid_i row_taken_i m_req_ready
            s_row_valid m_write_ready m_data_ready"""
        self.put(**dict.fromkeys(inputs.split(), 0))
        for _ in range(3):
            await FallingEdge(self.dut.clk)
        self.put(rst_n=1)
        self.clear_bus()

    def load(self, program: Program) -> None:
        self.image = bytearray(program.image)

    def peek(self, address: int, length: int) -> bytes:
        at = address - BASE
        assert 0 <= at <= len(self.image) - length, f"{address:#x} lies outside"
        return bytes(self.image[at : at + length])

    def dispatch(self, index: int) -> Dispatch:
        """What the command processor makes of a command of the queue."""
        command = Command.parse(self.peek(BASE + index * abi.DESCRIPTOR_BYTES, 64))
        (k,) = struct.unpack("<Q", self.peek(command.modulus, 8))
        return Dispatch(command, k, self.configuration)

    @property
    def busy(self) -> bool:
        return bool(self.reads) or any(self.state[name] for name in BUSY)

    async def start(self, dispatch: Dispatch, lane: int) -> None:
        """The modulus into the stores, the share, and the start."""
        self.job = unpack_job(dispatch.job)
        self.counts = dict.fromkeys(COUNTS, 0)
        self.table_rows = 0
        self.addresses: list[int] = []  # of the residues written
        self.put(job_i=dispatch.job, n0inv_i=dispatch.n0inv(self.peek))
        for part in dispatch.modulus():
            self.reads.append(Read(part.address, part.rows, part.store, part.row))
        await self.step()
        while self.reads:
            await self.step()
        await self.pulse(share_valid_i=1, share_i=dispatch.share(lane))
        self.put(share_i=self.rng.getrandbits(len(self.dut.share_i)))  # of other lanes
        await self.step()
        await self.pulse(start_i=1)
        self.told = dict.fromkeys(FLAGS, 0)  # cycles with each of them
        await self.step()

    async def pulse(self, **signals: int) -> None:
        """Drive inputs for a cycle; single bits fall again."""
        self.put(**signals)
        await self.step()
        self.put(**{name: 0 for name, value in signals.items() if value == 1})

    def put(self, **signals: int) -> None:
        """Drive inputs that change."""
        for name, value in signals.items():
            if self._driven.get(name) != value:
                self._driven[name] = value
                getattr(self.dut, name).value = value

    def get(self, name: str) -> int:
        return int(getattr(self.dut, name).value)

    async def step(self) -> None:
        """One cycle."""
        rng = self.rng
        req_ready, write_ready, data_ready = (rng.random() < self.ready for _ in range(3))
        row_taken = rng.random() < self.ready and bool(self.get("row_want_o"))
        self.put(m_req_ready=req_ready, m_write_ready=write_ready, m_data_ready=data_ready,
                 row_taken_i=row_taken)  # fmt: skip
        self._offer()
        await ReadOnly()
        count = self.get("count_o")
        for bit, name in enumerate(COUNTS):
            self.counts[name] += count >> bit & 1
        moved = row_taken or bool(count >> COUNTS.index("product") & 1)
        if row_taken:
            self._fetch_table_row()
        self.waits += self.offering and not self.get("s_row_ready")
        if self.offering and self.get("s_row_ready"):
            moved = True
            self.offering = False
            self.row = (self.row + 1) % self.reads[0].rows
            if not self.row:
                self.reads.popleft()
        if req_ready and self.get("m_req_valid"):
            moved = True
            names = ("addr", "rows", "store", "row", "event")
            self.reads.append(Read(*(self.get(f"m_req_{name}") for name in names)))
        moved |= self._take_writes(write_ready, data_ready)
        self.state = unpack_states(self.get("state_o"))[0]
        for name in FLAGS:
            self.told[name] += self.state[name]
        self.quiet = 0 if moved or not self.busy else self.quiet + 1
        await FallingEdge(self.dut.clk)

    def _offer(self) -> None:
        if not self.offering and self.reads and self.rng.random() < self.supply:
            self.offering = True
            read = self.reads[0]
            at = read.address + self.row * ROW
            error = at in self.faulty
            data = (
                self.rng.getrandbits(128) if error else int.from_bytes(self.peek(at, ROW), "little")
            )
            self.put(s_row_data=data, s_row_error=error, s_row_last=self.row + 1 == read.rows,
                     s_row_store=read.store, s_row_event=read.event,
                     s_row_row=read.row + self.row)  # fmt: skip
        self.put(s_row_valid=self.offering)

    def _fetch_table_row(self) -> None:
        """All residues of the next row, into the half of the table store that is free."""
        job, entries = self.job, 1 << (1 << self.job["window_log2"])
        first = self.table_rows % job["length"] * entries
        for e in range(entries):
            entry = RESERVED_ENTRIES + self.table_rows % 2 * entries + e
            address = job["table_addr"] + (first + e) * job["stride_b"] * ROW
            event = ROW_CAME if e + 1 == entries else 0
            self.reads.append(Read(address, job["rows"], TAB, entry * job["rows"], event))
        self.table_rows += 1

    def _take_writes(self, request_ready: bool, data_ready: bool) -> bool:
        """Whether a request or a row was taken."""
        asked = request_ready and bool(self.get("m_write_valid"))
        if asked:
            address, rows = self.get("m_write_addr"), self.get("m_write_rows")
            assert rows == self.job["rows"]
            self.writes.append((address, rows))
            self.addresses.append(address)
        data = data_ready and bool(self.get("m_data_valid"))
        if data:
            assert self.writes, "data that no request announced"
            address, rows = self.writes[0]
            at = address - BASE + self.written * ROW
            assert 0 <= at <= len(self.image) - ROW
            self.image[at : at + ROW] = self.get("m_data").to_bytes(ROW, "little")
            self.written += 1
            assert self.get("m_data_last") == (self.written == rows)
            if self.written == rows:
                self.writes.popleft()
                self.written = 0
        return asked or data

    async def run(self, dispatch: Dispatch, lane: int) -> None:
        """A lane's share of a command, to its end."""
        await self.start(dispatch, lane)
        while self.busy:
            await self.step()
            assert self.quiet < PATIENCE, f"stands still in {dispatch.command}"
        assert not self.writes
        share = unpack_share(dispatch.share(lane))
        slots = self.job["passes"] * self.job["slots"]
        assert self.counts["slot_busy"] == self.counts["product"] * slots
        assert (self.counts["product"] > 0) == (share["count"] > 0)
        assert not any(self.told.values())

    async def run_all(self, program: Program) -> None:
        """Both lanes' shares of every command; memory is compared."""
        self.load(program)
        for index in range(len(program.expected)):
            for lane in range(self.configuration.rings):
                await self.run(self.dispatch(index), lane)
            self.complete(program, index)
        program.check(self.peek)

    def complete(self, program: Program, index: int) -> None:
        """The record that the command processor writes."""
        at = index * abi.DESCRIPTOR_BYTES + abi.COMPLETION_OFFSET
        self.image[at : at + 8] = struct.pack("<II", Status.OK, program.expected[index].tag)

    async def abort(self) -> None:
        """The command processor's abort: rest, then flush."""
        self.put(abort_i=1)
        rest = self.quiet = 0
        while rest < 64:
            state = self.state
            at_rest = not (self.reads or state["engine_busy"] or state["loader_busy"])
            waits = state["storer_waiting"] or not state["storer_busy"]
            rest = rest + 1 if at_rest and waits else 0
            await self.step()
            assert self.quiet < PATIENCE, "an abort that does not end"
        await self.pulse(flush_i=1)
        self.put(abort_i=0)
        await self.step()
        assert not self.busy
        assert not self.writes, "a residue was cut off"

    def program(self) -> Program:
        return Program(self.configuration, BASE)


def moduli(rng: random.Random) -> list[int]:
    """Of three sizes: one pass, several, the largest."""
    return [odd_modulus(rng, bits) for bits in (9, 37, 64)]


async def run_all_operations(bench: Bench, modulus: int, count: int) -> None:
    await bench.reset()
    program = bench.program()
    all_operations(program, modulus, bench.rng, count=count, exponent_bits=5)
    await bench.run_all(program)


@cocotb.test(timeout_time=500, timeout_unit="us")
async def every_operation(dut: Any) -> None:
    """Results of all operations in two lanes' shares."""
    bench = Bench(dut, 0.7, 0.6)
    await run_all_operations(bench, moduli(bench.rng)[0], 3)


@cocotb.test(timeout_time=2, timeout_unit="ms", skip=True)  # but in test_sizes
async def every_size(dut: Any) -> None:
    """Several groups; a lane without elements, which rests."""
    bench = Bench(dut)
    for size, supply, ready, count in ((2, 1, 1, 9), (1, 0.3, 0.3, 9), (0, 0.5, 1, 1)):
        bench.supply, bench.ready = supply, ready
        await run_all_operations(bench, moduli(bench.rng)[size], count)


async def works(bench: Bench) -> None:
    """What follows a command that was cut off is right."""
    program = bench.program()
    short_operations(program, bench.rng.choice(moduli(bench.rng)), bench.rng, count=5)
    await bench.run_all(program)


@cocotb.test(timeout_time=500, timeout_unit="us")
async def rows_that_cannot_be_read(dut: Any) -> None:
    """A row that came with an error does not count as arrived: the command waits for its abort."""
    bench = Bench(dut, 0.9, 0.9)
    await bench.reset()
    rng, count = bench.rng, 6
    modulus = moduli(rng)[1]
    for opcode in (Opcode.SQR, Opcode.MUL, Opcode.POW, Opcode.MULTI_POW):
        program = bench.program()
        domain, _ = program.domain(modulus)
        values = [rng.randrange(domain.n_tilde) for _ in range(4 * count)]
        src, stride = program.residues(values, domain)
        strings, stride_e = program.strings([rng.getrandbits(4) for _ in range(count)], 4)
        dst = program.place(bytes(count * stride))
        program.add(opcode, modulus, count=count, length=4 if opcode == Opcode.POW else 1,
                    window=2 if opcode == Opcode.MULTI_POW else 4, exponents=strings,
                    stride_e=stride_e, src_a=src, stride_a=stride, src_b=src + count * stride,
                    stride_b=stride, dst=dst, stride_dst=stride,
                    flags=CommandFlag.INIT_FROM_A)  # fmt: skip
        bench.load(program)
        hit = rng.randrange(3)
        last_row = {
            Opcode.SQR: src + hit * stride,
            Opcode.MUL: src + (count + hit) * stride,
            Opcode.POW: strings + hit * stride_e,
            Opcode.MULTI_POW: src + (count + 3) * stride,
        }[opcode]
        if opcode != Opcode.POW:
            last_row += stride - ROW
        bench.faulty = {last_row}
        await bench.start(bench.dispatch(0), 0)
        while bench.quiet < PATIENCE:
            await bench.step()
        assert len(bench.addresses) < unpack_share(bench.dispatch(0).share(0))["count"]
        assert bench.counts["stall"]
        bench.faulty = set()
        await bench.abort()
        await works(bench)


@cocotb.test(timeout_time=500, timeout_unit="us")
async def rows_wait_for_results(dut: Any) -> None:
    """A row for a store that a result goes to in the same cycle waits, and is not lost."""
    bench = Bench(dut, 0.4)
    await bench.reset()
    program = bench.program()
    values = range(9, 73)  # four groups a lane
    modulus = moduli(bench.rng)[0]
    domain, _ = program.domain(modulus)
    src, stride = program.residues(values, domain)
    expect = [v**4 * pow(domain.r, -3, domain.n_tilde) for v in values]
    program.add(Opcode.SQR, modulus, expect=expect, length=2, src_a=src, stride_a=stride,
                count=len(values))  # fmt: skip
    await bench.run_all(program)
    assert bench.waits


@cocotb.test(timeout_time=500, timeout_unit="us")
async def every_modulus_is_checked(dut: Any) -> None:
    """MODULUS_PER_ELEMENT: a block of another size or an even modulus is told, once an element."""
    bench = Bench(dut)
    await bench.reset()
    rng, count = bench.rng, 3
    for wrong, flag in ((0, "bad_modulus"), (1, "even_modulus")):
        program = bench.program()
        own = [odd_modulus(rng, 37) for _ in range(count)]
        domains, blocks, stride_b = program.blocks(own)
        src, stride = program.residues([domain.one for domain in domains], domains[0])
        strings, stride_e = program.strings([3] * count, 4)
        program.add(Opcode.POW, domains=domains, expect=[d.one for d in domains], window=4,
                    length=4, block=blocks, stride_b=stride_b, exponents=strings,
                    stride_e=stride_e, src_a=src, stride_a=stride, count=count,
                    flags=CommandFlag.MODULUS_PER_ELEMENT)  # fmt: skip
        bench.load(program)
        dispatch = bench.dispatch(0)
        second = blocks + stride_b - BASE
        first_n = 8 * (abi.MODULUS_HEADER_WORDS + dispatch.k)
        bench.image[second + (0, first_n)[wrong]] ^= (2, 1)[wrong]
        await bench.start(dispatch, 0)
        while not bench.told[flag]:
            await bench.step()
            assert bench.quiet < PATIENCE, f"{flag} is not told"
        await bench.abort()
        told = {name: bench.told[name] for name in ("bad_modulus", "even_modulus")}
        assert told == {"bad_modulus": 0, "even_modulus": 0} | {flag: 1}
        await works(bench)


@cocotb.test(timeout_time=500, timeout_unit="us")
@cocotb.parametrize(reset=[False, True])
async def stopped_anywhere(dut: Any, reset: bool) -> None:
    """An abort, which ends with whole residues, and a reset at any moment."""
    bench = Bench(dut, 0.8, 0.7)
    await bench.reset()
    program = bench.program()
    all_operations(program, moduli(bench.rng)[1], bench.rng, count=9, exponent_bits=5)
    for _ in range(4):
        bench.load(program)
        index = bench.rng.randrange(len(program.expected))
        await bench.start(bench.dispatch(index), 0)
        for _ in range(bench.rng.randrange(500)):
            await bench.step()
        if reset:
            await bench.reset()
        else:
            await bench.abort()
        await works(bench)


@cocotb.test(timeout_time=500, timeout_unit="us")
async def self_test_finds_a_wrong_constant(dut: Any) -> None:
    bench = Bench(dut)
    await bench.reset()
    program = bench.program()
    modulus = moduli(bench.rng)[0]
    domain, block = program.domain(modulus)
    program.add(Opcode.SELFTEST, modulus, length=1)
    bench.load(program)
    radix = 8 * (abi.MODULUS_HEADER_WORDS + ModulusVector.RADIX * domain.k + domain.k // 2)
    bench.image[block - BASE + radix] ^= 1
    await bench.start(bench.dispatch(0), 0)
    while bench.busy:
        await bench.step()
    assert bench.told["mismatch"]
    await works(bench)


@cocotb.test(timeout_time=500, timeout_unit="us")
async def a_flipped_bit_is_told(dut: Any) -> None:
    """A parity error in a store of the engine."""
    bench = Bench(dut)
    await bench.reset()
    program = bench.program()
    all_operations(program, moduli(bench.rng)[1], bench.rng, count=2, exponent_bits=5)
    bench.load(program)
    await bench.start(bench.dispatch(0), 0)
    row = dut.i_engine.i_modulus.mem_q[0]
    row.value = int(row.value) ^ 1
    while bench.busy:
        await bench.step()
    assert bench.told["store_error"]
    await works(bench)


@cocotb.test(timeout_time=500, timeout_unit="us")
async def clear_leaves_nothing(dut: Any) -> None:
    """CLEAR zeroes the engine's stores and the modulus of the storer."""
    bench = Bench(dut)
    await bench.reset()
    await works(bench)
    engine = dut.i_engine
    rams = (engine.i_accumulators, engine.i_tables, engine.i_modulus)
    words = [*(row for ram in rams for row in ram.mem_q), *dut.i_storer.n_even_q]
    assert any(int(word.value) for word in words)
    await bench.pulse(clear_i=1)
    await bench.step()
    assert bench.busy
    while bench.busy:
        await bench.step()
    assert not any(int(word.value) for word in words)
    await works(bench)


def run(karatsuba: bool, *tests: str) -> None:
    card = configuration(karatsuba)
    run_bench(
        "residue_lane",
        __file__,
        tests=tests,
        visible=("residue_storer.n_even_q",),
        parameters={
            "WordBits": card.word_bits,
            "Karatsuba": int(karatsuba),
            "Elements": card.elements,
            "MaxWords": card.max_words,
            "Contexts": card.contexts,
            "TableEntries": card.table_entries,
            "MaxExponentBits": card.max_exponent_bits,
            "EmitResults": EMIT_RESULTS,
        },
    )


@pytest.mark.full  # the whole card runs the same jobs in make test
@pytest.mark.parametrize("karatsuba", [False, True])
def test_residue_lane(karatsuba: bool) -> None:
    run(karatsuba)


@pytest.mark.full
@pytest.mark.parametrize("karatsuba", [False, True])
def test_sizes(karatsuba: bool) -> None:
    run(karatsuba, "every_size")
