"""Bench of residue_cluster: commands out of and into memory over one AXI4 master, what lanes share,
and what stops them.
"""

from __future__ import annotations

import logging
import random
import struct
from collections import Counter
from collections.abc import Iterator
from typing import Any

import cocotb
import pytest
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, RisingEdge
from cocotbext.axi import AxiBus, AxiSlave

from residue.card import _abi as abi
from residue.card._abi import Opcode, Status
from residue_sim.card_model import Command
from residue_sim.dispatch import EMIT_RESULTS, Dispatch
from residue_sim.harness import bench_parameter, run_bench
from residue_sim.job import unpack_job, unpack_states
from residue_sim.manifest import Configuration
from residue_sim.scenarios import Program, all_operations, short_operations
from residue_sim.stimuli import odd_modulus

BASE = 0xFFFF_F000  # programs cross a 32-bit boundary
ROW = 16
HERE = 6  # store: back to the command processor
REST = 9  # cycles in which nothing is busy: the command has ended
PATIENCE = 3000  # cycles without traffic
BUSY = ("engine_busy", "loader_busy", "storer_busy")
FLAGS = ("mismatch", "store_error", "bad_modulus", "even_modulus")
ERRORS = ("read_window", "read_axi", "write_window", "write_axi")


def configuration(lanes: int, axi_data_bits: int, karatsuba: bool) -> Configuration:
    """A card of one cluster."""
    return Configuration(
        name="toy",
        element="karatsuba" if karatsuba else "schoolbook",
        word_bits=6,
        elements=2 if karatsuba else 3,
        rings=lanes,
        masters=1,
        contexts=8,
        max_modulus_bits=64,
        max_exponent_bits=256,
        axi_data_bits=axi_data_bits,
        table_entries=45,
    )


class Memory:
    """Card memory; answers SLVERR at `faulty` beats and counts what it sees."""

    def __init__(self) -> None:
        self.image = bytearray()
        self.faulty: set[int] = set()
        self.reads: Counter[int] = Counter()  # of each beat
        self.beats_written = 0

    def _at(self, address: int, length: int) -> int:
        assert BASE <= address <= BASE + len(self.image) - length, f"{address:#x} lies outside"
        if address in self.faulty:
            raise OSError("faulty")
        return address - BASE

    async def read(self, address: int, length: int) -> bytes:
        self.reads[address] += 1
        return self.peek(BASE + self._at(address, length), length)

    async def write(self, address: int, data: bytes) -> None:
        self.beats_written += 1
        at = self._at(address, len(data))
        self.image[at : at + len(data)] = data

    def peek(self, address: int, length: int) -> bytes:
        return bytes(self.image[address - BASE : address - BASE + length])


class Bench:
    """Command processor and memory around the cluster."""

    def __init__(self, dut: Any, stall: float = 0.0) -> None:
        self.dut = dut
        self.rng = random.Random(cocotb.RANDOM_SEED)
        self.lanes = bench_parameter("Lanes")
        width = bench_parameter("AxiDataBits")
        self.beat = width // 8
        self.configuration = configuration(self.lanes, width, bool(bench_parameter("Karatsuba")))
        self.memory = Memory()
        Clock(dut.clk, 2, "ns").start()
        bus = AxiBus.from_prefix(dut, "m_axi")
        self.slave = AxiSlave(bus, dut.clk, dut.rst_n, self.memory, reset_active_level=False)
        reads, writes = self.slave.read_if, self.slave.write_if
        for side in (reads, writes):
            side.log.setLevel(logging.ERROR)  # faults are meant
        channels = (reads.ar_channel, reads.r_channel, writes.aw_channel, writes.w_channel,
                    writes.b_channel)  # fmt: skip
        for channel in channels if stall else ():
            channel.set_pause_generator(self._stalls(stall * self.rng.uniform(0.5, 1)))

    def _stalls(self, probability: float) -> Iterator[bool]:
        while True:
            yield self.rng.random() < probability

    def get(self, name: str) -> int:
        return int(getattr(self.dut, name).value)

    async def reset(self) -> None:
        dut = self.dut
        inputs = """rst_n soft_reset_i start_i abort_i flush_i clear_i share_valid_i error_clear_i
            s_read_valid s_write_valid s_data_valid mem_base_i mem_limit_i"""
        for name in inputs.split():
            getattr(dut, name).value = 0
        await ClockCycles(dut.clk, 3)
        dut.rst_n.value = 1
        await ClockCycles(dut.clk, 2)
        self.forget()
        cocotb.start_soon(self._watch())

    def forget(self) -> None:
        """Begin to count anew."""
        self.told = dict.fromkeys(FLAGS, 0)  # cycles in which a lane told it
        self.even = 0  # pulses
        self.answers: list[tuple[int, int]] = []  # rows for the command processor, and `last`
        self.read_beats = self.write_beats = self.quiet = 0
        self.memory.reads.clear()
        self.memory.beats_written = 0
        self.products = self.slots = 0

    async def _watch(self) -> None:
        """Collect what leaves in every cycle."""
        while True:
            await RisingEdge(self.dut.clk)
            if self.get("answer_valid_o"):
                self.answers.append((self.get("answer_data_o"), self.get("answer_last_o")))
            self.even += self.get("modulus_even_o")
            beats = self.get("read_beat_o"), self.get("write_beat_o")
            self.read_beats += beats[0]
            self.write_beats += beats[1]
            counts = self.get("count_o")
            for lane in range(self.lanes):
                self.products += counts >> 3 * lane + 1 & 1
                self.slots += counts >> 3 * lane + 2 & 1
            self.states = unpack_states(self.get("state_o"), self.lanes)
            for state in self.states:
                for name in FLAGS:
                    self.told[name] += state[name]
            self.quiet = 0 if any(beats) or counts else self.quiet + 1

    async def pulse(self, name: str, value: int = 1) -> None:
        signal = getattr(self.dut, name)
        signal.value = value
        await RisingEdge(self.dut.clk)
        signal.value = 0

    async def offer(self, stream: str, **fields: int) -> None:
        """Hand over one item of a stream."""
        for name, value in fields.items():
            getattr(self.dut, f"{stream}{name}").value = value
        valid = getattr(self.dut, f"{stream}_valid")
        valid.value = 1
        await RisingEdge(self.dut.clk)
        while not self.get(f"{stream}_ready"):
            await RisingEdge(self.dut.clk)
        valid.value = 0

    async def fetch(self, address: int, rows: int) -> bytes:
        """A read of the command processor."""
        self.answers.clear()
        await self.offer("s_read", _addr=address, _rows=rows, _store=HERE, _row=0)
        while len(self.answers) < rows:
            await RisingEdge(self.dut.clk)
        assert [last for _, last in self.answers] == [0] * (rows - 1) + [1]
        return b"".join(data.to_bytes(ROW, "little") for data, _ in self.answers)

    @property
    def at_rest(self) -> bool:
        """Nothing moves, but storers may wait for results."""
        busy = any(state["engine_busy"] or state["loader_busy"] for state in self.states)
        waits = all(state["storer_waiting"] or not state["storer_busy"] for state in self.states)
        return not busy and waits and bool(self.get("read_idle_o"))

    @property
    def ended(self) -> bool:
        busy = any(state[name] for state in self.states for name in BUSY)
        return not busy and bool(self.get("read_idle_o") and self.get("write_idle_o"))

    async def until(self, condition: str, cycles: int = REST) -> None:
        """Until a property has held for so long."""
        held = 0
        self.quiet = 0
        while held < cycles:
            await RisingEdge(self.dut.clk)
            held = held + 1 if getattr(self, condition) else 0
            assert self.quiet < PATIENCE, "stands still"

    async def start(self, index: int) -> Dispatch:
        """A command of the queue: fetched, its modulus loaded, shared out, begun."""
        dut = self.dut
        dut.mem_base_i.value = BASE
        dut.mem_limit_i.value = BASE + len(self.memory.image)
        entry = BASE + index * abi.DESCRIPTOR_BYTES + abi.COMMAND_OFFSET
        descriptor = await self.fetch(entry, 4)
        assert descriptor == self.memory.peek(entry, 64)
        command = Command.parse(descriptor)
        header = await self.fetch(command.modulus, 2)
        k, n0inv = struct.unpack_from("<2Q", header)
        dispatch = Dispatch(command, k, self.configuration)
        self.job = unpack_job(dispatch.job)
        dut.job_i.value, dut.n0inv_i.value = dispatch.job, n0inv
        for part in dispatch.modulus():
            await self.offer("s_read", _addr=part.address, _rows=part.rows, _store=part.store,
                             _row=part.row)  # fmt: skip
        await self.until("ended")
        for lane in range(self.lanes):
            dut.share_i.value = dispatch.share(lane)
            await self.pulse("share_valid_i", 1 << lane)
        await self.pulse("start_i")
        await RisingEdge(dut.clk)
        return dispatch

    async def record(self, program: Program, index: int) -> None:
        """Write the completion record, and wait until it is in memory."""
        at = BASE + index * abi.DESCRIPTOR_BYTES + abi.COMPLETION_OFFSET
        words = (Status.OK | program.expected[index].tag << 32, 1, 2, 3)
        await self.offer("s_write", _addr=at, _rows=len(words))
        for i, word in enumerate(words):
            await self.offer("s_data", **{"": word, "_last": i + 1 == len(words)})
        await self.until("ended")
        assert self.memory.peek(at, ROW * len(words)) == b"".join(
            word.to_bytes(ROW, "little") for word in words
        )

    async def run(self, program: Program) -> None:
        """All commands of a program; memory and counts are compared."""
        self.forget()
        self.memory.image[:] = program.image
        for index in range(len(program.expected)):
            await self.start(index)
            await self.until("ended")
            await self.record(program, index)
            assert self.slots == self.products * self.job["passes"] * self.job["slots"]
            assert self.products
            self.slots = self.products = 0
        program.check(self.memory.peek)
        assert not any(self.errors().values())
        assert not self.even
        assert not any(self.told.values())
        assert self.read_beats == self.memory.reads.total()
        assert self.write_beats == self.memory.beats_written

    def errors(self) -> dict[str, int]:
        return {name: self.get(f"{name}_error_o") for name in ERRORS}

    async def abort(self) -> None:
        """The command processor's abort: rest, then flush."""
        self.dut.abort_i.value = 1
        await self.until("at_rest", 100)
        await self.pulse("flush_i")
        self.dut.abort_i.value = 0
        await self.until("ended")
        await self.pulse("error_clear_i")
        await ClockCycles(self.dut.clk, 2)
        assert not any(self.errors().values())

    def program(self) -> Program:
        return Program(self.configuration, BASE)


def moduli(rng: random.Random) -> list[int]:
    """Of three sizes: one pass, several, the largest."""
    return [odd_modulus(rng, bits) for bits in (9, 37, 64)]


async def works(bench: Bench) -> None:
    """What follows is right; with fewer elements than lanes some of them rest."""
    program = bench.program()
    count = bench.rng.choice([1, 2 * bench.lanes + 1])
    short_operations(program, bench.rng.choice(moduli(bench.rng)), bench.rng, count=count)
    await bench.run(program)


@cocotb.test(timeout_time=500, timeout_unit="us")
@cocotb.parametrize(stall=[0.0, 0.5])
async def few_and_many_elements(dut: Any, stall: float) -> None:
    bench = Bench(dut, stall)
    await bench.reset()
    for count in (1, 3, 9 * bench.lanes):
        program = bench.program()
        short_operations(program, moduli(bench.rng)[0], bench.rng, count=count)
        await bench.run(program)


@cocotb.test(timeout_time=1, timeout_unit="ms", skip=True)  # but in test_operations
async def every_operation(dut: Any) -> None:
    bench = Bench(dut, 0.3)
    await bench.reset()
    for size, count in ((2, 9), (1, 3), (0, 1)):
        program = bench.program()
        modulus = moduli(bench.rng)[size]
        all_operations(program, modulus, bench.rng, count=count, exponent_bits=5)
        await bench.run(program)


def fixed_base(program: Program, modulus: int, count: int, rows: int, beat: int) -> range:
    """Append a POW_FIXED whose residues stand at multiples of beats; the table's addresses."""
    domain, _ = program.domain(modulus)
    while program.place(b"") % beat:
        program.place(bytes(ROW))
    values = [domain.one] * (rows * 4)
    table, stride = program.residues(values, domain, gap=-8 * domain.k % beat // ROW)
    strings, stride_e = program.strings([0] * count, 2 * rows)
    program.add(Opcode.POW_FIXED, modulus, expect=[domain.one] * count, window=2, length=rows,
                src_b=table, stride_b=stride, exponents=strings, stride_e=stride_e,
                count=count)  # fmt: skip
    return range(table, table + len(values) * stride)


@cocotb.test(timeout_time=500, timeout_unit="us")
async def table_rows_are_read_once(dut: Any) -> None:
    """Lanes of one group each share every table row; with a second group they are read again."""
    bench = Bench(dut)
    await bench.reset()
    modulus = moduli(bench.rng)[2]
    group = 4  # contexts at the largest modulus
    for count, times in ((group * bench.lanes, 1), (group * bench.lanes + 1, 2)):
        program = bench.program()
        table = fixed_base(program, modulus, count, 3, bench.beat)
        await bench.run(program)
        beats = {address: n for address, n in bench.memory.reads.items() if address in table}
        assert beats == dict.fromkeys(table[:: bench.beat], times)


@cocotb.test(timeout_time=500, timeout_unit="us")
async def an_even_modulus_is_told(dut: Any) -> None:
    """Once, with the first row of N, whatever its other rows are (which `run` sees)."""
    bench = Bench(dut)
    await bench.reset()
    program = bench.program()
    modulus = moduli(bench.rng)[1]
    _, block = program.domain(modulus)
    short_operations(program, modulus, bench.rng, count=1)
    bench.memory.image[:] = program.image
    k = bench.memory.image[block - BASE]
    bench.memory.image[block - BASE + 8 * (abi.MODULUS_HEADER_WORDS + k)] ^= 1
    await bench.start(0)
    assert bench.even == 1
    await bench.until("ended")
    await works(bench)


@cocotb.test(timeout_time=500, timeout_unit="us")
@cocotb.parametrize(error=list(ERRORS))
async def errors_of_the_bus(dut: Any, error: str) -> None:
    """A beat that fails, or a residue outside the window, is told until cleared."""
    bench = Bench(dut, 0.2)
    await bench.reset()
    rng, lanes = bench.rng, bench.lanes
    modulus = moduli(rng)[1]
    program = bench.program()
    domain, _ = program.domain(modulus)
    src, stride = program.residues([1] * 4 * lanes, domain)
    src_a, dst = src, program.place(bytes(4 * lanes * stride))
    if error == "read_window":
        src_a = program.limit - 3 * stride
    elif error == "write_window":
        dst = program.limit - 3 * stride
    elif error == "read_axi":
        bench.memory.faulty = {(src + 2 * stride) // bench.beat * bench.beat}
    else:
        bench.memory.faulty = {(dst + 2 * stride) // bench.beat * bench.beat}
    program.add(Opcode.SQR, modulus, src_a=src_a, stride_a=stride, dst=dst, stride_dst=stride,
                count=4 * lanes, length=1)  # fmt: skip
    bench.memory.image[:] = program.image
    await bench.start(0)
    while not any(bench.errors().values()):
        await RisingEdge(dut.clk)
        assert bench.quiet < PATIENCE, "is not told"
    await ClockCycles(dut.clk, 20)
    assert bench.errors() == dict.fromkeys(ERRORS, 0) | {error: 1}
    await bench.abort()
    bench.memory.faulty.clear()
    await works(bench)


@cocotb.test(timeout_time=500, timeout_unit="us")
@cocotb.parametrize((("soft", "stall"), [(True, 0.0), (True, 0.5), (False, 0.3)]))
async def stopped_anywhere(dut: Any, soft: bool, stall: float) -> None:
    """An abort and a soft reset at any moment."""
    bench = Bench(dut, stall)
    await bench.reset()
    program = bench.program()
    all_operations(program, moduli(bench.rng)[1], bench.rng, count=9, exponent_bits=5)
    for _ in range(4):
        bench.memory.image[:] = program.image
        await bench.start(bench.rng.randrange(len(program.expected)))
        await ClockCycles(dut.clk, bench.rng.randrange(400))
        if soft:
            await bench.pulse("soft_reset_i")
            await bench.until("ended")
            assert not any(bench.errors().values())
        else:
            await bench.abort()
        await works(bench)


@cocotb.test(timeout_time=500, timeout_unit="us")
async def clear_leaves_nothing(dut: Any) -> None:
    """CLEAR reaches the stores and the queues of every lane."""
    bench = Bench(dut)
    await bench.reset()
    await works(bench)
    program = bench.program()
    fixed_base(program, moduli(bench.rng)[2], 4 * bench.lanes, 3, bench.beat)
    await bench.run(program)
    memories = [
        memory
        for i, lane in enumerate(dut.g_lane)
        for memory in (
            lane.i_lane.i_engine.i_tables.mem_q,
            lane.i_lane.i_storer.n_even_q,
            dut.i_reader.g_targets[i].i_unpack.i_queue.mem_q,
        )
    ]
    assert all(any(int(word.value) for word in memory) for memory in memories)
    await bench.pulse("clear_i")
    await RisingEdge(dut.clk)
    assert not bench.get("read_idle_o")
    await bench.until("ended")
    assert not any(int(word.value) for memory in memories for word in memory)
    await works(bench)


def run(lanes: int, axi_data_bits: int, karatsuba: bool, *tests: str) -> None:
    card = configuration(lanes, axi_data_bits, karatsuba)
    run_bench(
        "residue_cluster",
        __file__,
        tests=tests,
        visible=("residue_storer.n_even_q",),
        parameters={
            "Lanes": lanes,
            "AxiDataBits": axi_data_bits,
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


SHAPES = [(2, 256, False), (1, 128, False), (4, 512, True)]


@pytest.mark.full  # the whole card runs the same jobs in make test
@pytest.mark.parametrize(("lanes", "axi_data_bits", "karatsuba"), SHAPES)
def test_residue_cluster(lanes: int, axi_data_bits: int, karatsuba: bool) -> None:
    run(lanes, axi_data_bits, karatsuba)


@pytest.mark.full
@pytest.mark.parametrize(("lanes", "axi_data_bits", "karatsuba"), SHAPES)
def test_operations(lanes: int, axi_data_bits: int, karatsuba: bool) -> None:
    run(lanes, axi_data_bits, karatsuba, "every_operation")
