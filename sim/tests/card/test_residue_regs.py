"""Bench of residue_regs: the register map over AXI4-Lite, with stalls on every channel."""

from __future__ import annotations

import logging
import random
from typing import Any

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, RisingEdge
from cocotbext.axi import AxiLiteBus, AxiLiteMaster

from residue.card import _abi as abi
from residue.card._abi import Register
from residue_sim.harness import run_bench
from residue_sim.stimuli import stalls

CONFIGURATION = {
    "WordBits": 50,
    "DigitsPerWord": 2,
    "Elements": 42,
    "Rings": 6,
    "Masters": 3,
    "AxiDataBits": 256,
    "MaxModulusBits": 4096,
    "MaxExponentBits": 2048,
    "Contexts": 128,
    "MaxWords": 82,
    "TableEntries": 520,
}
COUNTERS = ["busy", "products", "read_bytes", "write_bytes", "stalls", "commands", "errors"]


class Bench:
    def __init__(self, dut: Any, stall: float = 0.3) -> None:
        self.dut = dut
        self.rng = random.Random(cocotb.RANDOM_SEED)
        Clock(dut.clk, 2, "ns").start()
        for name in ("ready_i", "done_i", "head_i", *(f"inc_{name}_i" for name in COUNTERS)):
            getattr(dut, name).value = 0
        dut.idle_i.value = 1
        self.master = AxiLiteMaster(
            AxiLiteBus.from_prefix(dut, "s_axil"), dut.clk, dut.rst_n, False
        )
        for side in (self.master.write_if, self.master.read_if):
            side.log.setLevel(logging.ERROR)
        for channel in (
            self.master.write_if.aw_channel,
            self.master.write_if.w_channel,
            self.master.write_if.b_channel,
            self.master.read_if.ar_channel,
            self.master.read_if.r_channel,
        ):
            channel.set_pause_generator(stalls(self.rng, stall))

    async def reset(self) -> None:
        self.dut.rst_n.value = 0
        await ClockCycles(self.dut.clk, 3)
        self.dut.rst_n.value = 1
        await ClockCycles(self.dut.clk, 2)

    async def read(self, offset: int) -> int:
        return int(await self.master.read_dword(offset))

    async def write(self, offset: int, value: int) -> None:
        await self.master.write_dword(offset, value)

    async def pulse(self, name: str, cycles: int = 1, value: int = 1) -> None:
        getattr(self.dut, name).value = value
        await ClockCycles(self.dut.clk, cycles)
        getattr(self.dut, name).value = 0
        await RisingEdge(self.dut.clk)

    async def counter(self, low: Register) -> int:
        value = await self.read(low)
        return value | await self.read(low + 4) << 32


@cocotb.test(timeout_time=50, timeout_unit="us")
async def identification(dut: Any) -> None:
    """Constants, capabilities, and zero everywhere else after reset."""
    bench = Bench(dut)
    await bench.reset()
    constant = {
        Register.CTRL: abi.CTRL_AP_IDLE.mask,
        Register.ID: abi.CARD_ID,
        Register.VERSION: abi.VERSION_MAJOR.put(abi.ABI_MAJOR)
        | abi.VERSION_MINOR.put(abi.ABI_MINOR),
        Register.CAP0: abi.CAP0_WORD_BITS.put(50)
        | abi.CAP0_ELEMENTS.put(42)
        | abi.CAP0_RINGS.put(6)
        | abi.CAP0_LOG2_AXI_BYTES.put(5),
        Register.CAP1: abi.CAP1_MAX_MODULUS_BITS.put(4096) | abi.CAP1_MAX_EXPONENT_BITS.put(2048),
        Register.CAP2: abi.CAP2_CONTEXTS.put(128) | abi.CAP2_MAX_WORDS.put(82),
        Register.CAP3: abi.CAP3_TABLE_ENTRIES.put(520),
        Register.CAP4: abi.CAP4_DIGITS_PER_WORD.put(2) | abi.CAP4_MASTERS.put(3),
    }
    for offset in range(0, 0x100, 4):
        wanted = constant.get(offset, 0)  # type: ignore[call-overload]
        assert await bench.read(offset) == wanted, f"register {offset:#x}"
    await bench.write(Register.ID, 0)
    await bench.write(Register.HEAD, 5)
    await bench.write(Register.CYCLES_LO, 5)
    await bench.write(0xF00, 5)
    assert await bench.read(Register.ID) == abi.CARD_ID
    assert await bench.read(Register.HEAD) == 0
    assert await bench.read(Register.CYCLES_LO) == 0
    dut.head_i.value = 0xBEEF
    assert await bench.read(Register.HEAD) == 0xBEEF


@cocotb.test(timeout_time=50, timeout_unit="us")
async def storage(dut: Any) -> None:
    """Each writable register drives its port, byte by byte, and nothing else."""
    bench = Bench(dut)
    await bench.reset()
    words = [
        Register.QUEUE_BASE_LO,
        Register.QUEUE_BASE_HI,
        Register.MEM_BASE_LO,
        Register.MEM_BASE_HI,
        Register.MEM_LIMIT_LO,
        Register.MEM_LIMIT_HI,
    ]
    values = {register: bench.rng.randrange(1 << 32) for register in words}
    halves = [Register.QUEUE_SIZE, Register.TAIL]
    values |= {register: bench.rng.randrange(1 << 16) for register in halves}
    order = list(values)
    bench.rng.shuffle(order)
    for register in order:
        for byte in bench.rng.sample(range(4), 4):
            piece = values[register].to_bytes(4, "little")[byte : byte + 1]
            await bench.master.write(register + byte, piece)
    for register, value in values.items():
        assert await bench.read(register) == value, register.name
    for port, low in (
        (dut.queue_base_o, Register.QUEUE_BASE_LO),
        (dut.mem_base_o, Register.MEM_BASE_LO),
        (dut.mem_limit_o, Register.MEM_LIMIT_LO),
    ):
        assert int(port.value) == values[low] | values[Register(low + 4)] << 32
    assert int(dut.queue_size_o.value) == values[Register.QUEUE_SIZE]
    assert int(dut.tail_o.value) == values[Register.TAIL]


@cocotb.test(timeout_time=50, timeout_unit="us")
async def start_and_done(dut: Any) -> None:
    """ap_start holds until taken; ap_done and ap_ready hold until read; idle follows the card."""
    bench = Bench(dut)
    await bench.reset()
    await bench.write(Register.CTRL, abi.CTRL_AP_START.mask)
    assert dut.start_o.value == 1
    assert await bench.read(Register.CTRL) == abi.CTRL_AP_START.mask  # not idle any more
    await bench.write(Register.CTRL, 0)
    assert dut.start_o.value == 1
    dut.idle_i.value = 0
    await bench.pulse("ready_i")
    assert dut.start_o.value == 0
    assert await bench.read(Register.CTRL) == abi.CTRL_AP_READY.mask
    assert await bench.read(Register.CTRL) == 0
    await bench.pulse("done_i")
    dut.idle_i.value = 1
    assert await bench.read(Register.TAIL) == 0  # reading another register clears nothing
    assert await bench.read(Register.CTRL) == abi.CTRL_AP_DONE.mask | abi.CTRL_AP_IDLE.mask
    assert await bench.read(Register.CTRL) == abi.CTRL_AP_IDLE.mask


@cocotb.test(timeout_time=50, timeout_unit="us")
async def done_is_never_lost(dut: Any) -> None:
    """A done in the very cycle in which CTRL is read is seen by this read or the next."""
    bench = Bench(dut, stall=0.0)
    await bench.reset()
    for delay in range(12):
        read = cocotb.start_soon(bench.read(Register.CTRL))
        await ClockCycles(dut.clk, delay + 1)
        await bench.pulse("done_i")
        seen = [await read, await bench.read(Register.CTRL), await bench.read(Register.CTRL)]
        assert sum(abi.CTRL_AP_DONE.get(value) for value in seen) == 1, f"delay {delay}"


@cocotb.test(timeout_time=50, timeout_unit="us")
async def interrupt(dut: Any) -> None:
    """The line is high while enabled and ISR is set; ISR is set where IER is, cleared by a one."""
    bench = Bench(dut)
    await bench.reset()
    await bench.pulse("done_i")
    assert await bench.read(Register.ISR) == 0  # not enabled
    await bench.write(Register.IER, abi.IER_DONE.mask)
    await bench.pulse("done_i")
    assert await bench.read(Register.ISR) == abi.ISR_DONE.mask
    assert dut.interrupt_o.value == 0
    await bench.write(Register.GIE, abi.GIE_ENABLE.mask)
    assert dut.interrupt_o.value == 1
    await bench.write(Register.ISR, 0)
    assert dut.interrupt_o.value == 1
    await bench.write(Register.ISR, abi.ISR_DONE.mask)
    assert dut.interrupt_o.value == 0
    await bench.write(Register.ISR, abi.ISR_DONE.mask)
    assert dut.interrupt_o.value == 0
    await bench.pulse("done_i")
    assert dut.interrupt_o.value == 1
    await bench.write(Register.GIE, 0)
    assert dut.interrupt_o.value == 0


@cocotb.test(timeout_time=50, timeout_unit="us")
async def soft_reset(dut: Any) -> None:
    """One pulse; start, done, ISR, TAIL and counters go, configuration stays."""
    bench = Bench(dut)
    await bench.reset()
    kept = {
        Register.QUEUE_BASE_LO: 0x1000,
        Register.QUEUE_SIZE: 64,
        Register.MEM_BASE_HI: 0x12,
        Register.MEM_LIMIT_LO: 0x8000,
        Register.GIE: 1,
        Register.IER: 1,
    }
    for register, value in kept.items():
        await bench.write(register, value)
    await bench.write(Register.TAIL, 7)
    await bench.write(Register.CTRL, abi.CTRL_AP_START.mask)
    await bench.pulse("inc_commands_i", 5)
    await bench.pulse("done_i")
    await bench.write(Register.SOFT_RESET, 0)
    assert await bench.read(Register.TAIL) == 7
    pulses = 0

    async def count() -> None:
        nonlocal pulses
        while True:
            await RisingEdge(dut.clk)
            pulses += int(dut.soft_reset_o.value)

    counting = cocotb.start_soon(count())
    await bench.write(Register.SOFT_RESET, abi.SOFT_RESET_RESET.mask)
    assert await bench.read(Register.TAIL) == 0
    counting.cancel()
    assert pulses == 1
    assert (dut.start_o.value, dut.tail_o.value, dut.interrupt_o.value) == (0, 0, 0)
    assert await bench.read(Register.CTRL) == abi.CTRL_AP_IDLE.mask
    assert await bench.counter(Register.COMMANDS_LO) == 0
    for register, value in kept.items():
        assert await bench.read(register) == value


@cocotb.test(timeout_time=50, timeout_unit="us")
async def counters(dut: Any) -> None:
    """Each counter counts its own events, several in a cycle where there are several sources."""
    bench = Bench(dut)
    await bench.reset()
    wanted = {"cycles": bench.rng.randrange(1, 300)}
    dut.idle_i.value = 0
    await ClockCycles(dut.clk, wanted["cycles"])
    dut.idle_i.value = 1
    for name in COUNTERS:
        cycles = bench.rng.randrange(1, 300)
        several = {"commands": 1, "errors": 1, "read_bytes": 640, "write_bytes": 64}.get(name, 6)
        await bench.pulse(f"inc_{name}_i", cycles, several)
        wanted[name] = several * cycles
    for low, value in (
        (Register.CYCLES_LO, wanted["cycles"]),
        (Register.BUSY_LO, wanted["busy"]),
        (Register.PRODUCTS_LO, wanted["products"]),
        (Register.READ_BYTES_LO, wanted["read_bytes"]),
        (Register.WRITE_BYTES_LO, wanted["write_bytes"]),
        (Register.STALLS_LO, wanted["stalls"]),
        (Register.COMMANDS_LO, wanted["commands"]),
        (Register.ERRORS_LO, wanted["errors"]),
    ):
        assert await bench.counter(low) == value, low.name


def test_residue_regs() -> None:
    run_bench("residue_regs", __file__, parameters=CONFIGURATION)
