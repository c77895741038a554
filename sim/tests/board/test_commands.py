"""`residue board` and `launch`: what a user types, and what goes wrong with it."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from residue.errors import DeviceError
from residue_sim._board_cli import board
from residue_sim.board import launch


def test_files_prints_the_overlay() -> None:
    done = CliRunner().invoke(board, ["files", "--config", "small"])
    assert done.exit_code == 0
    bitstream = Path(done.stdout.strip())
    assert bitstream.is_file()
    assert bitstream.with_suffix(".hwh").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["files", "--config", "r0"], "expected one of"),
        (["serve", "--config", "r0"], "expected one of"),
        (["serve", "--latency", "slow"], "expected fast"),
        (["serve", "--trace", "/nowhere/card.fst"], "no folder"),
    ],
)
def test_wrong_options_are_one_clear_error(arguments: list[str], message: str) -> None:
    done = CliRunner().invoke(board, arguments)
    assert done.exit_code == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_board_that_does_not_start_says_why() -> None:
    with (
        pytest.raises(DeviceError, match=r"(?s)did not start .*expected fast"),
        launch(1, config="small", latency="slow"),
    ):
        pass


def test_traces_are_one_a_board() -> None:
    with pytest.raises(ValueError, match="1 traces for 2 boards"), launch(2, traces=[Path("a")]):
        pass
