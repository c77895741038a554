"""Bench of residue_dsp: the slice's registers, cycle by cycle, as head and behind it."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cocotb
import pytest
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge

from residue_sim.harness import bench_parameter, run_bench
from residue_sim.stimuli import random_word

WIDTHS = {"DigitBits": 17, "ABits": 26, "CBits": 29, "PBits": 45}
NARROW = {"DigitBits": 17, "ABits": 24, "CBits": 27, "PBits": 43}
TOY = {"DigitBits": 2, "ABits": 3, "CBits": 4, "PBits": 7}


def signed(value: int, bits: int) -> int:
    """The two's complement number that `bits` bits of `value` stand for."""
    value &= (1 << bits) - 1
    return value - (value >> (bits - 1) << bits)


@dataclass
class Slice:
    """The registers of the model."""

    head: bool
    two_stage: bool
    difference: bool
    digit_bits: int
    c_bits: int
    p_bits: int
    a: int = 0
    d: int = 0
    ad: int = 0
    b1: int = 0
    b2: int = 0
    c: int = 0
    m: int = 0
    p: int = 0

    def clock(self, inputs: dict[str, int]) -> None:
        cascade = signed(inputs["p_cas_i"], self.p_bits) >> self.digit_bits
        self.p = (self.m + (self.c if self.head else cascade)) % (1 << self.p_bits)
        digit = signed(self.b2, self.digit_bits + 1) if self.difference else self.b2
        self.m = (self.ad if self.difference else self.a) * digit
        self.ad = self.d - self.a
        self.a = inputs["a_i" if self.head else "a_cas_i"]
        self.d = inputs["d_i"]
        self.c = 0 if inputs["clear_c_i"] else signed(inputs["c_i"], self.c_bits)
        if inputs["ce_b2_i"]:
            self.b2 = self.b1 if self.two_stage else inputs["b_i"]
        if inputs["ce_b1_i"]:
            self.b1 = inputs["b_i"]


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def follows_the_registers(dut: Any) -> None:
    rng = random.Random(cocotb.RANDOM_SEED)
    names = ("DigitBits", "ABits", "CBits", "PBits", "Head", "TwoStageB", "Difference")
    digit, a_bits, c_bits, p_bits, head, two_stage, difference = map(bench_parameter, names)
    widths = {
        **dict.fromkeys(("a_i", "a_cas_i", "d_i"), a_bits),
        **{"b_i": digit + difference, "c_i": c_bits, "p_cas_i": p_bits},
    }
    model = Slice(bool(head), bool(two_stage), bool(difference), digit, c_bits, p_bits)
    Clock(dut.clk, 2, "ns").start()

    async def clock(inputs: dict[str, int]) -> None:
        for name, value in inputs.items():
            getattr(dut, name).value = value
        model.clock(inputs)
        await FallingEdge(dut.clk)

    flags = ("ce_b1_i", "ce_b2_i", "clear_c_i")
    await FallingEdge(dut.clk)
    for _ in range(5):
        await clock(dict.fromkeys(widths, 0) | dict.fromkeys(flags, 1))
    for _ in range(1500):
        words = {name: random_word(rng, bits) for name, bits in widths.items()}
        await clock(words | {name: int(rng.random() < 0.3) for name in flags})
        assert int(dut.p_o.value) == int(dut.p_cas_o.value) == model.p
        assert int(dut.a_cas_o.value) == model.a


@pytest.mark.parametrize(
    ("widths", "head", "two_stage", "difference"),
    [(WIDTHS, 1, 0, 0), (TOY, 0, 1, 0), (TOY, 1, 1, 1)],
    ids=["head", "toy-cascade", "toy-difference"],
)
def test_residue_dsp(widths: dict[str, int], head: int, two_stage: int, difference: int) -> None:
    parameters = widths | {"Head": head, "TwoStageB": two_stage, "Difference": difference}
    run_bench("residue_dsp", __file__, parameters=parameters)


@pytest.mark.parametrize(
    ("family", "head", "difference"),
    [("DSP48E2", 0, 0), ("DSP48E2", 1, 1), ("DSP48E1", 0, 0), ("DSP48E1", 1, 0)],
)
def test_primitive(family: str, head: int, difference: int) -> None:
    """The instance of synthesis, on a model of the primitive, passes the same bench."""
    widths = WIDTHS if family == "DSP48E2" else NARROW
    parameters = {"Head": head, "TwoStageB": 1 - head, "Difference": difference}
    run_bench(
        "residue_dsp",
        __file__,
        parameters=widths | parameters,
        defines=[f"RESIDUE_{family}"],
        models=[Path(__file__).with_name("DSP48.sv")],
    )
