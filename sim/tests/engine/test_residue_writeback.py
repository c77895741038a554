"""Bench of residue_writeback: rows of words, where they go, and when a result retires."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import cocotb
import pytest
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge

from residue_sim.harness import bench_parameter, run_bench

WORD_BITS, ACC_ROW_BITS, TAB_ROW_BITS = 6, 5, 7


@dataclass
class Result:
    """One result with its product's tag."""

    words: list[int]
    words_a_row: int
    acc_row: int
    tab_row: int
    to_acc: bool
    to_table: bool
    emit: bool
    last_of_round: bool
    last_of_group: bool

    @classmethod
    def random(cls, rng: random.Random) -> Result:
        rows = rng.randrange(1, 6)
        words_a_row = 1 if bench_parameter("Karatsuba") else 2
        bits = 2 * WORD_BITS // words_a_row
        return cls(
            [rng.getrandbits(bits) for _ in range(words_a_row * rows)],
            words_a_row,
            rng.randrange((1 << ACC_ROW_BITS) - rows),
            rng.randrange((1 << TAB_ROW_BITS) - rows),
            *(rng.random() < 0.5 for _ in range(5)),
        )

    @property
    def written(self) -> bool:
        return self.to_acc or self.to_table or self.emit

    def effects(self, index: int) -> tuple[object, ...]:
        """What the outputs show the cycle after word `index`."""
        if (index + 1) % self.words_a_row:
            return IDLE
        row, last = index // self.words_a_row, index + 1 == len(self.words)
        low = self.words[index - 1] if self.words_a_row == 2 else 0
        return (
            self.acc_row + row if self.to_acc else None,
            self.tab_row + row if self.to_table else None,
            self.emit,
            self.words[index] << WORD_BITS * (self.words_a_row - 1) | low if self.written else None,
            (last, last and self.last_of_round, last and self.last_of_group),
        )


IDLE: tuple[object, ...] = (None, None, False, None, (False, False, False))


def outputs(dut: Any) -> tuple[object, ...]:
    targets = (dut.acc_wen_o, dut.tab_wen_o, dut.emit_wen_o)
    writes = any(int(target.value) for target in targets)
    pulses = (dut.retire_o, dut.retire_round_o, dut.retire_group_o)
    return (
        int(dut.acc_wrow_o.value) if int(dut.acc_wen_o.value) else None,
        int(dut.tab_wrow_o.value) if int(dut.tab_wen_o.value) else None,
        bool(int(dut.emit_wen_o.value)),
        int(dut.wdata_o.value) if writes else None,
        tuple(bool(int(pulse.value)) for pulse in pulses),
    )


@cocotb.test(timeout_time=200, timeout_unit="us")
@cocotb.parametrize(gaps=[0.0, 0.4])
async def writes_rows(dut: Any, gaps: float) -> None:
    rng = random.Random(cocotb.RANDOM_SEED)
    Clock(dut.clk, 2, "ns").start()
    dut.rst_n.value, dut.clear_i.value, dut.res_valid_i.value = 0, 0, 0
    await FallingEdge(dut.clk)
    await FallingEdge(dut.clk)
    dut.rst_n.value = 1
    for number in range(200):
        result = Result.random(rng)
        for index, word in enumerate(result.words):
            while rng.random() < gaps:
                dut.res_valid_i.value = 0
                dut.res_last_i.value = rng.randrange(2)
                await FallingEdge(dut.clk)
                assert outputs(dut) == IDLE
            dut.res_valid_i.value = 1
            dut.res_first_i.value = index == 0
            dut.res_last_i.value = index + 1 == len(result.words)
            dut.res_data_i.value = word
            dut.res_acc_row_i.value = result.acc_row
            dut.res_to_acc_i.value = result.to_acc
            dut.res_to_table_i.value = result.to_table
            dut.res_tab_row_i.value = result.tab_row
            dut.res_emit_i.value = result.emit
            dut.res_last_of_round_i.value = result.last_of_round
            dut.res_last_of_group_i.value = result.last_of_group
            await FallingEdge(dut.clk)
            assert outputs(dut) == result.effects(index), f"result {number}, word {index}"
    dut.res_valid_i.value, dut.clear_i.value = 0, 1
    await FallingEdge(dut.clk)
    assert int(dut.wdata_o.value) == 0
    assert result.words_a_row == 1 or int(dut.g_pair.low_q.value) == 0


@pytest.mark.parametrize("karatsuba", [0, 1], ids=["words", "rows"])
def test_residue_writeback(karatsuba: int) -> None:
    run_bench(
        "residue_writeback",
        __file__,
        parameters={
            "WordBits": WORD_BITS,
            "Karatsuba": karatsuba,
            "AccRowBits": ACC_ROW_BITS,
            "TabRowBits": TAB_ROW_BITS,
        },
    )
