"""Bench of residue_card: whole programs over its two buses, errors, resets, and constant time."""

from __future__ import annotations

import itertools
import logging
import os
import random
import struct
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import cocotb
import numpy as np
import pytest
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, RisingEdge
from cocotbext.axi import (
    AxiBus,
    AxiLiteBus,
    AxiLiteMaster,
    AxiSlave,
)

from residue.card import _abi as abi
from residue.card._abi import CommandFlag, Opcode, Register, Status
from residue_sim.board._build import card_parameters
from residue_sim.harness import run_bench
from residue_sim.manifest import Configuration, configurations
from residue_sim.scenarios import Program, all_operations, bad_commands
from residue_sim.stimuli import odd_modulus, stalls

BASE = 0xFFFF_F000  # programs cross a 32-bit boundary
TOY = Configuration(
    name="toy",
    element="schoolbook",
    word_bits=6,
    elements=3,
    rings=1,
    masters=1,
    contexts=8,
    max_modulus_bits=64,
    max_exponent_bits=256,
    axi_data_bits=128,
    table_entries=45,
)
WIDE = replace(TOY, name="wide", rings=4, axi_data_bits=512)
WIDE_TESTS = ("all_lanes_work", "all_operations_with_stalls", "leaving_the_window", "queue_wraps")
SMALL_TESTS = ("all_operations_with_stalls", "time_and_addresses_ignore_secrets")
CONFIGURATIONS = {"toy": TOY, "wide": WIDE, "small": configurations()["small"]}
TESTS = {"toy": (), "wide": WIDE_TESTS, "small": SMALL_TESTS}


class Memory:
    """Card memory; answers SLVERR at `faulty` beats, remembers what it should not have seen."""

    def __init__(self, beat: int) -> None:
        self.beat = beat  # bytes that the bus moves for each access
        self.image = bytearray()
        self.faulty: set[int] = set()
        self.strays: list[int] = []
        self.bytes_read = self.bytes_written = 0

    def _at(self, address: int, length: int) -> int:
        if not BASE <= address <= BASE + len(self.image) - length:
            self.strays.append(address)
        if address in self.faulty:
            raise OSError("faulty")
        return address - BASE

    async def read(self, address: int, length: int) -> bytes:
        self.bytes_read += length
        at = self._at(address, length)
        return bytes(self.image[at : at + length])

    async def write(self, address: int, data: bytes) -> None:
        self.bytes_written += self.beat
        at = self._at(address, len(data))
        self.image[at : at + len(data)] = data

    def peek(self, address: int, length: int) -> bytes:
        return bytes(self.image[address - BASE : address - BASE + length])


class Bench:
    def __init__(self, dut: Any, *, address: float = 0.0, data: float = 0.0) -> None:
        """Stall probabilities of the address channels and of the data and response channels."""
        self.dut = dut
        self.rng = random.Random(cocotb.RANDOM_SEED)
        self.configuration = CONFIGURATIONS[os.environ["CARD"]]
        self.memory = Memory(self.configuration.axi_data_bits // 8)
        Clock(dut.clk, 2, "ns").start()
        bus = AxiBus.from_prefix(dut, "m_axi")
        self.slave = AxiSlave(bus, dut.clk, dut.rst_n, self.memory, reset_active_level=False)
        self.axil = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "s_axil"), dut.clk, dut.rst_n, False)
        reads, writes = self.slave.read_if, self.slave.write_if
        for side in (reads, writes, self.axil.read_if, self.axil.write_if):
            side.log.setLevel(logging.ERROR)  # faults are meant
        for probability, channels in (
            (address, (reads.ar_channel, writes.aw_channel)),
            (data, (reads.r_channel, writes.w_channel, writes.b_channel)),
        ):
            for channel in channels if probability else ():
                channel.set_pause_generator(
                    stalls(self.rng, probability * self.rng.uniform(0.5, 1))
                )

    async def reset(self) -> None:
        self.dut.rst_n.value = 0
        await ClockCycles(self.dut.clk, 3)
        self.dut.rst_n.value = 1
        await ClockCycles(self.dut.clk, 2)

    async def read(self, register: Register) -> int:
        return int(await self.axil.read_dword(register))

    async def write(self, register: Register, value: int) -> None:
        await self.axil.write_dword(register, value)

    async def write64(self, low: Register, value: int) -> None:
        await self.write(low, value & 0xFFFF_FFFF)
        await self.write(Register(low + 4), value >> 32)

    async def counter(self, name: str) -> int:
        low = Register[f"{name}_LO"]
        return await self.read(low) | await self.read(Register(low + 4)) << 32

    def program(self, queue_size: int = 64) -> Program:
        return Program(self.configuration, BASE, queue_size)

    async def load(self, program: Program) -> None:
        self.memory.image[:] = program.image
        await self.write64(Register.QUEUE_BASE_LO, BASE)
        await self.write(Register.QUEUE_SIZE, program.queue_size)
        await self.write64(Register.MEM_BASE_LO, BASE)
        await self.write64(Register.MEM_LIMIT_LO, program.limit)
        await self.write(Register.GIE, abi.GIE_ENABLE.mask)
        await self.write(Register.IER, abi.IER_DONE.mask)

    async def start(self, tail: int) -> None:
        await self.write(Register.TAIL, tail)
        await self.write(Register.CTRL, abi.CTRL_AP_START.mask)

    async def finish(self) -> None:
        """Wait for the interrupt and take it back."""
        if not int(self.dut.interrupt_o.value):
            await RisingEdge(self.dut.interrupt_o)
        await self.write(Register.ISR, abi.ISR_DONE.mask)

    async def run(self, program: Program) -> None:
        """A fresh program from reset state to its end; memory is compared."""
        await self.load(program)
        await self.start(len(program.expected))
        await self.finish()
        program.check(self.memory.peek)
        assert not self.memory.strays
        assert await self.read(Register.HEAD) == len(program.expected)

    async def soft_reset(self) -> None:
        await self.write(Register.SOFT_RESET, abi.SOFT_RESET_RESET.mask)
        while not abi.CTRL_AP_IDLE.get(await self.read(Register.CTRL)):
            pass


def moduli(configuration: Configuration, rng: random.Random) -> list[int]:
    """Of three sizes, the largest last: 9, 37, 64 bits on the toy, 512, 640, 1024 on the small."""
    sizes = (512, 640, 1024) if configuration.name == "small" else (9, 37, 64)
    return [odd_modulus(rng, bits) for bits in sizes]


def squaring(
    program: Program, modulus: int, values: Sequence[int], status: Status = Status.OK
) -> tuple[int, int]:
    """Append a command that squares Montgomery forms; addresses of operands and results."""
    domain, _ = program.domain(modulus)
    inverse = pow(domain.r, -1, domain.n_tilde)
    src, stride = program.residues(values, domain)
    expect = [v * v * inverse for v in values]
    dst = program.place(bytes(stride * len(values)))
    program.add(Opcode.SQR, modulus, expect=expect, status=status, dst=dst, src_a=src,
                stride_a=stride, count=len(values), length=1)  # fmt: skip
    return src, dst


def powers(
    program: Program,
    modulus: int,
    opcode: Opcode,
    values: Sequence[int],
    exponents: Sequence[int],
    bits: int,
) -> None:
    """Append a POW, POW_FIXED or MULTI_POW of which only the course matters, not the result."""
    domain, block = program.domain(modulus)
    src_a, stride_a = program.residues(values, domain)
    strings, stride_e = program.strings(exponents, bits)
    window = 4 if opcode == Opcode.POW else 2
    rng = random.Random(bits)
    table, stride_b = program.residues(
        [rng.randrange(domain.n_tilde) for _ in range(bits // window << window)], domain
    )
    dst = program.place(bytes(stride_a * len(values)))
    program.add(opcode, block=block, window=window, count=len(values), exponents=strings,
                length=bits if opcode == Opcode.POW else bits // window, stride_e=stride_e,
                flags=CommandFlag.INIT_FROM_A, src_a=src_a, stride_a=stride_a, src_b=table,
                stride_b=stride_b, dst=dst, stride_dst=stride_a)  # fmt: skip


def completion(bench: Bench, index: int) -> dict[str, int]:
    """Completion record of a queue entry."""
    at = BASE + index * abi.DESCRIPTOR_BYTES + abi.COMPLETION_OFFSET
    raw = bench.memory.peek(at, abi.COMPLETION_DTYPE.itemsize)
    (record,) = np.frombuffer(raw, abi.COMPLETION_DTYPE)
    return {name: int(record[name]) for name in abi.COMPLETION_DTYPE.names or ()}


@cocotb.test(timeout_time=500, timeout_unit="us")
@cocotb.parametrize(stall=[0.0, 0.5])
async def bad_commands_disturb_nothing(dut: Any, stall: float) -> None:
    """Every error a command can carry completes with its code; the good ones between are right."""
    bench = Bench(dut, address=stall, data=stall)
    await bench.reset()
    program = bench.program()
    bad_commands(program, moduli(bench.configuration, bench.rng)[-1], bench.rng)
    await bench.run(program)
    bad = sum(expected.status != Status.OK for expected in program.expected)
    assert await bench.counter("ERRORS") == bad
    assert await bench.counter("COMMANDS") == len(program.expected)


@cocotb.test(timeout_time=500, timeout_unit="us")
@cocotb.parametrize(stall=[0.0, 0.5])
async def bus_errors(dut: Any, stall: float) -> None:
    """SLVERR anywhere ends the command with its code, and the next command is right."""
    bench = Bench(dut, address=stall, data=stall)
    await bench.reset()
    program = bench.program()
    rng = bench.rng
    count = bench.configuration.contexts + 3
    modulus, other = moduli(bench.configuration, rng)[:2]
    domain, _ = program.domain(modulus)
    size = 8 * domain.k
    values = [rng.randrange(domain.n_tilde) for _ in range(count)]
    faulty = bench.memory.faulty

    def good() -> None:
        squaring(program, modulus, values[:2])

    for element in (0, count // 2, count - 1):  # operand, result
        src, _ = squaring(program, modulus, values, Status.READ_ERROR)
        faulty.add(src + element * size + rng.randrange(size // 16) * 16)
        good()
        _, dst = squaring(program, modulus, values, Status.WRITE_ERROR)
        faulty.add(dst + element * size)
        good()
    wide, block = program.domain(other)
    step = 8 * wide.k
    for offset in (8 * abi.MODULUS_HEADER_WORDS + step, 0):  # in N, in the header
        faulty_block = program.place(bytes(program.image[block - BASE :][: 8 * len(wide.block())]))
        faulty.add(faulty_block + offset)
        program.add(Opcode.TO_MONT, block=faulty_block, status=Status.READ_ERROR, count=1,
                    src_a=block, stride_a=step, dst=block, stride_dst=step)  # fmt: skip
        good()
    for opcode in (Opcode.POW, Opcode.POW_FIXED, Opcode.PROD):
        index = program.place(struct.pack("<4I", 0, 1, 2, 0))
        dst = program.place(bytes(2 * size))
        src, stride = program.residues(values[:8], domain)
        table, _ = program.residues(values[:4], domain)
        if opcode == Opcode.POW_FIXED:
            faulty.add(table + 3 * size)
        else:
            faulty.add(index)
        program.add(opcode, modulus, status=Status.READ_ERROR, dst=dst, stride_dst=size,
                    window=2 if opcode == Opcode.POW_FIXED else 4, count=2, length=1,
                    exponents=index, stride_e=16, src_a=src, stride_a=stride, src_b=table,
                    stride_b=stride)  # fmt: skip
        good()
    await bench.run(program)


@cocotb.test(timeout_time=500, timeout_unit="us")
async def unreadable_descriptor(dut: Any) -> None:
    """A descriptor that cannot be read has no record; HEAD passes it and ERRORS counts it."""
    bench = Bench(dut)
    await bench.reset()
    program = bench.program()
    modulus = moduli(bench.configuration, bench.rng)[0]
    for _ in range(3):
        squaring(program, modulus, [1, 2])
    await bench.load(program)
    bench.memory.faulty.add(BASE + abi.DESCRIPTOR_BYTES + 16)
    await bench.start(3)
    await bench.finish()
    assert await bench.read(Register.HEAD) == 3
    assert [completion(bench, i)["status"] for i in range(3)] == [Status.OK, 0, Status.OK]
    assert await bench.counter("ERRORS") == 1
    assert await bench.counter("COMMANDS") == 3


@cocotb.test(timeout_time=500, timeout_unit="us")
async def leaving_the_window(dut: Any) -> None:
    """Operands and results that cross the window's end: nothing outside is touched."""
    bench = Bench(dut)
    await bench.reset()
    program = bench.program()
    rng = bench.rng
    modulus = moduli(bench.configuration, rng)[1]
    domain, block = program.domain(modulus)
    size = 8 * domain.k
    n = 3 * bench.configuration.contexts
    src, stride = program.residues([rng.randrange(domain.n_tilde) for _ in range(n)], domain)
    program.place(bytes(n * size))
    end = program.limit
    common: dict[str, Any] = {
        "block": block,
        "count": n,
        "length": 1,
        "stride_a": stride,
        "stride_dst": stride,
    }
    for last in (1, n // 2, n - 1):  # elements that lie inside
        for src_a, dst in ((end - last * size, src), (src, end - last * size + 16)):
            fields = common | {"src_a": src_a, "dst": dst}
            program.add(Opcode.SQR, status=Status.OUT_OF_WINDOW, **fields)
    await bench.load(program)
    await bench.start(len(program.expected))
    await bench.finish()
    program.check(bench.memory.peek)
    assert not bench.memory.strays


@cocotb.test(timeout_time=500, timeout_unit="us")
async def queue_wraps(dut: Any) -> None:
    """HEAD and TAIL run on past the queue's size and past 16 bits."""
    bench = Bench(dut)
    await bench.reset()
    program = bench.program(queue_size=4)
    modulus = moduli(bench.configuration, bench.rng)[0]
    for i in range(4):
        squaring(program, modulus, [i + 2, i + 3])
    await bench.load(program)
    tail = 0
    for batch in (4, 4, 3, 1, 2, 4, 2):
        if batch == 1:  # a jump to just below 2^16, where entry 3 is due as well
            tail = 0xFFFF
            dut.i_commands.head_q.value = tail
        bench.memory.image[:] = program.image
        first, tail = tail % 4, tail + batch & 0xFFFF
        await bench.start(tail)
        await bench.finish()
        assert await bench.read(Register.HEAD) == tail
        done = [completion(bench, i)["status"] == Status.OK for i in range(4)]
        assert done == [(i - first) % 4 < batch for i in range(4)]
        if batch == 4:
            program.check(bench.memory.peek)


@cocotb.test(timeout_time=500, timeout_unit="us")
async def tail_is_read_again(dut: Any) -> None:
    """Commands appended while the card works are done before it says so."""
    bench = Bench(dut)
    await bench.reset()
    program = bench.program()
    modulus = moduli(bench.configuration, bench.rng)[0]
    for _ in range(4):
        squaring(program, modulus, [1, 2, 3])
    await bench.load(program)
    await bench.start(1)
    await bench.write(Register.TAIL, 3)
    await bench.write(Register.TAIL, 4)
    await bench.finish()
    program.check(bench.memory.peek)
    assert await bench.read(Register.HEAD) == 4


@cocotb.test(timeout_time=500, timeout_unit="us")
async def start_done_and_interrupt(dut: Any) -> None:
    """ap_idle, ap_ready, ap_done (cleared by reading) and the interrupt's two enables."""
    bench = Bench(dut)
    await bench.reset()
    program = bench.program()
    squaring(program, moduli(bench.configuration, bench.rng)[0], [5])
    await bench.load(program)

    async def control() -> tuple[int, int, int]:
        word = await bench.read(Register.CTRL)
        return (
            abi.CTRL_AP_DONE.get(word),
            abi.CTRL_AP_IDLE.get(word),
            abi.CTRL_AP_READY.get(word),
        )

    async def until_idle() -> None:
        while int(dut.i_regs.idle_i.value) == 0:
            await RisingEdge(dut.clk)
        await ClockCycles(dut.clk, 2)

    assert await control() == (0, 1, 0)
    await bench.start(1)
    assert await control() == (0, 0, 1)
    await until_idle()
    assert int(dut.interrupt_o.value) == 1
    assert await control() == (1, 1, 0)
    assert await control() == (0, 1, 0)
    await bench.finish()
    assert int(dut.interrupt_o.value) == 0
    for gie, ier in ((0, 1), (1, 0), (0, 0)):
        await bench.write(Register.GIE, gie)
        await bench.write(Register.IER, ier)
        await bench.start(1)  # HEAD = TAIL: done at once
        await until_idle()
        assert int(dut.interrupt_o.value) == 0
        assert await bench.read(Register.ISR) == ier
        assert (await control())[0] == 1
        await bench.write(Register.ISR, ier)


async def run_all_operations(bench: Bench, count: int) -> None:
    """Every operation with several moduli in one queue; the counters agree with the records."""
    await bench.reset()
    program = bench.program()
    for modulus in moduli(bench.configuration, bench.rng):
        all_operations(program, modulus, bench.rng, count=count, exponent_bits=5)
    await bench.run(program)
    records = [completion(bench, i) for i in range(len(program.expected))]
    assert await bench.counter("PRODUCTS") == sum(record["products"] for record in records)
    assert await bench.counter("BUSY") == sum(record["busy"] for record in records)
    assert await bench.counter("STALLS") == sum(record["stalls"] for record in records)
    assert await bench.counter("CYCLES") > sum(record["cycles"] for record in records)
    assert await bench.counter("COMMANDS") == len(records)
    assert await bench.counter("ERRORS") == 0
    read = sum(record["read_bytes"] for record in records)
    written = sum(record["write_bytes"] for record in records)
    assert await bench.counter("READ_BYTES") == bench.memory.bytes_read == read
    assert await bench.counter("WRITE_BYTES") == bench.memory.bytes_written
    assert bench.memory.bytes_written == written + abi.COMPLETION_DTYPE.itemsize * len(records)
    for before, after in itertools.pairwise(records):
        assert after["started"] > before["started"] + before["cycles"]


@cocotb.test(timeout_time=500, timeout_unit="us")
@cocotb.parametrize(
    (("address", "data", "count"), [(0, 0, 9), (0.8, 0, 2), (0, 0.6, 2)])  # 9: several groups
)
async def all_operations_mixed(dut: Any, address: float, data: float, count: int) -> None:
    await run_all_operations(Bench(dut, address=address, data=data), count)


@cocotb.test(timeout_time=500, timeout_unit="us")
async def all_operations_with_stalls(dut: Any) -> None:
    await run_all_operations(Bench(dut, address=0.6, data=0.4), count=2)


@cocotb.test(timeout_time=500, timeout_unit="us", skip=True)  # but with several lanes
async def all_lanes_work(dut: Any) -> None:
    await run_all_operations(Bench(dut, address=0.1, data=0.1), count=9)


@cocotb.test(timeout_time=200, timeout_unit="us")
@cocotb.parametrize(stall=[0.0, 0.6])
async def soft_reset_anywhere(dut: Any, stall: float) -> None:
    """A reset at any moment leaves a fresh card: registers, counters, and the next program."""
    bench = Bench(dut, address=stall, data=stall)
    await bench.reset()
    rng = bench.rng
    program = bench.program()
    modulus = moduli(bench.configuration, rng)[1]
    all_operations(program, modulus, rng, count=3, exponent_bits=5)
    for _ in range(8):
        await bench.load(program)
        await bench.start(len(program.expected))
        await ClockCycles(dut.clk, rng.randrange(4000))
        await bench.soft_reset()
        assert not int(dut.interrupt_o.value)
        for register in (Register.HEAD, Register.TAIL, Register.ISR):
            assert await bench.read(register) == 0, register.name
        # CYCLES, READ_BYTES and WRITE_BYTES count on until the bus has drained.
        for name in ("BUSY", "PRODUCTS", "STALLS", "COMMANDS", "ERRORS"):
            assert await bench.counter(name) == 0, name
    await bench.run(program)


def rows_of(store: Any) -> list[int]:
    """Content of a residue_ram."""
    return [int(row.value) for row in store.mem_q]


@cocotb.test(timeout_time=500, timeout_unit="us")
async def clear_leaves_no_secret(dut: Any) -> None:
    """CLEAR zeroes the engine's stores; what follows is right."""
    bench = Bench(dut)
    await bench.reset()
    rng = bench.rng
    modulus = moduli(bench.configuration, rng)[-1]
    bits = 24
    program = bench.program()
    domain, _ = program.domain(modulus)
    values = [rng.randrange(domain.n_tilde) for _ in range(bench.configuration.contexts)]
    powers(program, modulus, Opcode.POW_FIXED, values, [(1 << bits) - 1] * len(values), bits)
    powers(program, modulus, Opcode.POW, values[:3], [rng.getrandbits(9) for _ in range(3)], 9)
    await bench.run(program)
    lane = dut.g_cluster[0].i_cluster.g_lane[0].i_lane
    engine = lane.i_engine
    stores = (engine.i_accumulators, engine.i_tables, engine.i_exponents, engine.i_modulus)
    assert all(any(rows_of(store)) for store in stores)
    await bench.soft_reset()
    clear = bench.program()
    clear.add(Opcode.CLEAR)
    await bench.run(clear)
    assert not any(row for store in stores for row in rows_of(store))
    await bench.soft_reset()
    await bench.run(program)


@cocotb.test(timeout_time=500, timeout_unit="us")
async def time_and_addresses_ignore_secrets(dut: Any) -> None:
    """Exponents and residues of any value: every address in the same cycle, every count equal."""
    bench = Bench(dut)
    await bench.reset()
    rng = bench.rng
    modulus = moduli(bench.configuration, rng)[-1 if bench.configuration is TOY else 0]
    domain, _ = bench.program().domain(modulus)
    count, bits = 3, 8
    ones, top = (1 << bits) - 1, 2 * domain.n_tilde - 1
    secrets: list[tuple[Callable[[], int], Callable[[], int]]] = [
        (lambda: 0, lambda: 0),
        (lambda: ones, lambda: top),
        (lambda: 0, lambda: rng.randrange(top)),
        (lambda: rng.getrandbits(bits), lambda: domain.one),
        (lambda: rng.getrandbits(bits), lambda: rng.randrange(top)),
    ]
    for opcode in (Opcode.POW, Opcode.POW_FIXED, Opcode.MULTI_POW):
        courses = []
        for exponent, residue in secrets:
            program = bench.program()
            values = [residue() for _ in range(count)]
            powers(program, modulus, opcode, values, [exponent() for _ in range(count)], bits)
            await bench.load(program)
            await bench.start(1)
            course = await trace(dut)
            await bench.finish()
            program.check(bench.memory.peek)
            record = completion(bench, 0)
            courses.append((course, record["cycles"], record["busy"], record["products"]))
            assert len(course) > count
            await bench.soft_reset()
        assert all(course == courses[0] for course in courses), opcode.name


async def trace(dut: Any) -> list[tuple[int, str, int, int]]:
    """Addresses and lengths on the bus until the interrupt, with cycles from the first one."""
    seen: list[tuple[int, str, int, int]] = []
    cycle = 0
    while not int(dut.interrupt_o.value):
        await RisingEdge(dut.clk)
        cycle += 1
        for name, valid, ready, address, length in (
            ("ar", dut.m_axi_arvalid, dut.m_axi_arready, dut.m_axi_araddr, dut.m_axi_arlen),
            ("aw", dut.m_axi_awvalid, dut.m_axi_awready, dut.m_axi_awaddr, dut.m_axi_awlen),
        ):
            if int(valid.value) and int(ready.value):
                seen.append((cycle, name, int(address.value), int(length.value)))
    return [(at - seen[0][0], name, address, length) for at, name, address, length in seen]


@pytest.mark.full  # make test has the card under its driver: tests/conformance, on a small one
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_residue_card(name: str) -> None:
    run_bench(
        "residue_card",
        __file__,
        parameters=card_parameters(CONFIGURATIONS[name]),
        environment={"CARD": name},
        tests=TESTS[name],
        visible=("residue_commands.head_q", "residue_regs.idle_i"),
    )
