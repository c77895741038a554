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

WIDTHS = {"DigitBits": 17, "ABits": 26, "CBits": 28, "PBits": 44}
TOY = {"DigitBits": 2, "ABits": 3, "CBits": 4, "PBits": 6}


@dataclass
class Slice:
    """The registers of the model."""

    head: bool
    two_stage: bool
    shift: int
    a: int = 0
    b1: int = 0
    b2: int = 0
    c: int = 0
    m: int = 0
    p: int = 0

    def clock(self, inputs: dict[str, int]) -> None:
        self.p = self.m + (self.c if self.head else inputs["p_cas_i"] >> self.shift)
        self.m = self.a * self.b2
        self.a = inputs["a_i" if self.head else "a_cas_i"]
        self.c = 0 if inputs["clear_c_i"] else inputs["c_i"]
        if inputs["ce_b2_i"]:
            self.b2 = self.b1 if self.two_stage else inputs["b_i"]
        if inputs["ce_b1_i"]:
            self.b1 = inputs["b_i"]


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def follows_the_registers(dut: Any) -> None:
    rng = random.Random(cocotb.RANDOM_SEED)
    names = ("DigitBits", "ABits", "CBits", "PBits", "Head", "TwoStageB")
    digit, a_bits, c_bits, p_bits, head, two_stage = (bench_parameter(name) for name in names)
    widths = {
        **dict.fromkeys(("a_i", "a_cas_i"), a_bits),
        **{"b_i": digit, "c_i": c_bits, "p_cas_i": p_bits},
    }
    model = Slice(bool(head), bool(two_stage), digit)
    Clock(dut.clk, 2, "ns").start()

    async def clock(inputs: dict[str, int]) -> None:
        for name, value in inputs.items():
            getattr(dut, name).value = value
        model.clock(inputs)
        await FallingEdge(dut.clk)

    flags = ("ce_b1_i", "ce_b2_i", "clear_c_i")
    await FallingEdge(dut.clk)
    for _ in range(4):
        await clock(dict.fromkeys(widths, 0) | dict.fromkeys(flags, 1))
    for _ in range(1500):
        words = {name: random_word(rng, bits) for name, bits in widths.items()}
        await clock(words | {name: int(rng.random() < 0.3) for name in flags})
        assert int(dut.p_o.value) == int(dut.p_cas_o.value) == model.p
        assert int(dut.a_cas_o.value) == model.a


@pytest.mark.parametrize(
    ("widths", "head", "two_stage"),
    [(WIDTHS, 1, 0), (TOY, 0, 1)],
    ids=["head", "toy-cascade"],
)
def test_residue_dsp(widths: dict[str, int], head: int, two_stage: int) -> None:
    parameters = widths | {"Head": head, "TwoStageB": two_stage}
    run_bench("residue_dsp", __file__, parameters=parameters)


@pytest.mark.parametrize("head", [0, 1])
def test_primitive(head: int) -> None:
    """The DSP48E2 instance of synthesis, on a model of the primitive, passes the same bench."""
    run_bench(
        "residue_dsp",
        __file__,
        parameters=WIDTHS | {"Head": head, "TwoStageB": 1 - head},
        defines=["RESIDUE_DSP48E2"],
        models=[Path(__file__).with_name("DSP48E2.sv")],
    )
