"""Descriptions of boards: those in hw/boards hold together, and wrong ones are refused clearly."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from residue_sim.boards import BoardError, board_names, find_board
from residue_sim.boards._facts import DSPS, parse_board
from residue_sim.manifest import hw_root

# The most of a card's DSPs that its rings may take.
MOST = 0.95


@pytest.mark.parametrize("name", board_names())
def test_a_board_holds_its_cards(name: str) -> None:
    board = find_board(name)
    dsp = board.config.rings * board.config.elements * DSPS[board.config.element]
    assert dsp <= MOST * board.available.dsp
    assert board.available.dsp * len(board.cards) <= board.totals.dsp
    assert (board.config.word_bits == 48) == (board.dsp_macro == "RESIDUE_DSP48E1")
    assert board.memory.port_bits <= 512


def test_all_boards_are_there_and_no_clock_is_closed() -> None:
    physical = {"pynq-z2", "ultra96v2", "kv260", "zcu104", "u50", "u55c", "u250"}
    assert set(board_names()) == physical | {"virtual"}
    for name in board_names():
        board = find_board(name)
        assert not board.clock_closed
        assert len(board.clock_argument) > 50


def _set(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(facts: dict[str, Any]) -> None:
        *outer, last = path.split(".")
        for key in outer:
            facts = facts[int(key)] if key.isdecimal() else facts[key]  # type: ignore[index]
        facts[last] = value

    return change


def _drop(key: str) -> Callable[[dict[str, Any]], None]:
    def change(facts: dict[str, Any]) -> None:
        del facts[key]

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_drop("part"), "part is missing"),
        (_set("colour", "red"), "unknown field colour"),
        (_set("clock_mhz", "fast"), "clock_mhz must be float, not 'fast'"),
        (_set("clock_closed", 1), "clock_closed must be bool"),
        (_set("totals.dsp", True), "dsp must be int"),
        (_set("totals", 3), "totals: expected a mapping"),
        (_set("clock_mhz", 0), "clock_mhz must be positive"),
        (_set("family", "versal"), "family must be one of"),
        (_set("configuration", "r99"), "no configuration 'r99'"),
        (_set("available.lut", 10**9), "lut: 1000000000 available of"),
        (_set("cards", []), "an entry for each card"),
        (_set("cards", [{"slr": "SLR0"}]), "needs a list `memory`"),
        (_set("cards.0.memory", ["DDR[0]", "DDR[1]"]), "has 1 masters, but memory"),
        (_set("cards.0.memory", ["bank0"]), "memory of masters"),
        (_set("cards.0.memory", ["S_AXI_HP0"]), "memory of masters"),
        (_set("tool.name", "vivado"), "the tool of alveo is v++"),
        (_set("cards.1.slr", "SLR0"), "one card an SLR"),
        (_set("cards.1.slr", None), "slr must be str"),
        (_set("platform", None), "platform must be str"),
        (_drop("platform"), "platform is for alveo boards"),
        (_set("board_part", "a:b:c:1"), "board_part is for Zynq boards"),
    ],
)
def test_a_wrong_description_is_refused(
    change: Callable[[dict[str, Any]], None], message: str
) -> None:
    facts = yaml.safe_load((hw_root() / "boards" / "u250" / "board.yaml").read_text())
    facts = copy.deepcopy(facts)
    change(facts)
    with pytest.raises(BoardError) as caught:
        parse_board("u250", facts)
    assert message in str(caught.value)
    assert "boards/u250/board.yaml" in str(caught.value)


def test_an_unknown_board_and_a_file_that_is_no_mapping() -> None:
    with pytest.raises(BoardError, match="no board 'u999': expected one of kv260"):
        find_board("u999")
    with pytest.raises(BoardError, match="expected a mapping"):
        parse_board("u250", [1])


@pytest.mark.parametrize("name", board_names())
def test_a_board_has_its_page(name: str) -> None:
    page = (hw_root().parent / "docs" / "boards" / f"{name}.md").read_text()
    board = find_board(name)
    for command in ("load", "test"):
        assert f"residue board {command} {name} " in page
    assert set(re.findall(r"residue board (?:build|load|test) (\S+)", page)) <= {name, "and", "are"}
    if board.family != "virtual":
        assert f"residue board build {name}\n" in page.replace("  ", "\n")
        assert "## Never run" in page
        assert f"{board.tool.least} to {board.tool.most}" in page
        assert f"`pynq` {board.runtime.pynq}" in page
    if board.platform is not None:
        assert board.platform in page


def test_the_overview_lists_every_board() -> None:
    text = (hw_root().parent / "docs" / "boards" / "README.md").read_text()
    assert {name for name in board_names() if f"[{name}.md]({name}.md)" in text} == set(
        board_names()
    )
    for name in board_names():
        if name != "virtual":
            board = find_board(name)
            assert re.search(
                rf"\| {len(board.cards)} x {board.config.rings}[ ,|][^|]*\|[^|]*\| \[{name}\.md\]",
                text,
            )
