"""The bring-up test on modelled boards: a good one passes, each kind of broken one does not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from residue import _boardtest
from residue.card._abi import Opcode
from residue_sim.card_model import CardModel, Command, ModelBoard
from residue_sim.golden import Montgomery
from residue_sim.manifest import configurations

SMALL = configurations()["small"]
CHECKS = {f"{name}, {bits} bits" for bits in (512, 1024) for name in _boardtest.COMMANDS}


class Recording(CardModel):
    """Notes opcodes; computes one opcode wrong, if told."""

    wrong: Opcode | None = None

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.seen: set[Opcode] = set()

    def complete(self, command: Command) -> bytes:
        self.seen.add(Opcode(command.opcode))
        return super().complete(command)

    def _results(self, opcode: Opcode, c: Command, domain: Montgomery) -> Iterator[int]:
        for i, value in enumerate(super()._results(opcode, c, domain)):
            yield value + (opcode is self.wrong and i == c.count - 1)


def board(wrong: Opcode | None = None) -> ModelBoard:
    made = ModelBoard(SMALL, card=Recording)
    assert isinstance(made.card, Recording)
    made.card.wrong = wrong
    return made


def test_a_good_board_passes_and_every_opcode_was_executed() -> None:
    made = board()
    said: list[str] = []
    report = _boardtest.run(
        made, memory_bytes=1 << 16, progress=lambda text, done, total: said.append(text)
    )
    assert report.ok
    assert {check.name for check in report.checks} == {"memory", *CHECKS}
    assert isinstance(made.card, Recording)
    assert made.card.seen == set(Opcode)
    assert {opcode for each in _boardtest.COMMANDS.values() for opcode in each} == set(Opcode)
    assert {rate.operation for rate in report.rates} == {"mul", "pow", "pow_fixed"}
    assert all(0 < rate.utilisation <= 1 for rate in report.rates)
    assert said == ["memory", "commands at 512 bits", "commands at 1024 bits", "throughput"]
    facts = json.loads(json.dumps(report.as_dict()))
    assert facts["ok"] is True
    assert facts["sensors"] == "not reported"
    assert facts["capabilities"]["elements"] == SMALL.elements


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        (Opcode.FROM_MONT, "transfer"),
        (Opcode.MUL, "mul"),
        (Opcode.POW, "pow"),
        (Opcode.POW_FIXED, "pow_fixed"),
        (Opcode.TABLE, "pow_fixed"),
        (Opcode.PROD, "prod"),
        (Opcode.MULTI_POW, "multi_pow"),
        (Opcode.SQR, "multi_pow"),
    ],
)
def test_a_card_that_computes_wrong_is_found(wrong: Opcode, name: str) -> None:
    report = _boardtest.run(board(wrong), memory_bytes=1 << 12)
    assert not report.ok
    found = {check.name: check.detail for check in report.checks if not check.ok}
    assert f"{name}, 1024 bits" in found
    assert found[f"{name}, 1024 bits"]


def test_memory_that_forgets_is_found() -> None:
    made = board()
    write = made.dram.write

    def stuck(address: int, data: bytes) -> None:
        """One data line of the first page reads zero."""
        if address < made.dram.base + 4096:
            data = (np.frombuffer(data, np.uint8) & 0xFE).tobytes()
        write(address, data)

    made.dram.write = stuck  # type: ignore[method-assign]
    report = _boardtest.run(made, memory_bytes=1 << 12)
    (memory,) = (check for check in report.checks if check.name == "memory")
    assert not memory.ok
    assert "pattern number, the first at 0x10000008" in memory.detail
    assert not report.ok


def test_sensors_are_reported_where_there_are_some() -> None:
    made: Any = board()
    made.sensors = lambda: {"hwmon0_temp1_c": 41.5}
    report = _boardtest.run(made, memory_bytes=1 << 12)
    assert report.as_dict()["sensors"] == {"hwmon0_temp1_c": 41.5}
