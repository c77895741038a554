"""Open synthesis: what it counts, what it calls deep, and the committed table of all boards."""

from __future__ import annotations

import json
from pathlib import Path as FilePath
from typing import Any

import pytest
from typer.testing import CliRunner

from residue_sim._board_cli import board as board_app
from residue_sim.boards._facts import find_board
from residue_sim.manifest import hw_root
from residue_sim.synth import (
    Cells,
    Path,
    Target,
    level_budget,
    longest_paths,
    out_of_date,
    shortfalls,
    synthesise,
    target_of,
)
from residue_sim.synth._cells import blocks_of, count_cells
from residue_sim.synth._netlist import SynthesisError, declaration, share_equal_modules
from residue_sim.synth._place import place_element
from residue_sim.synth._resources import (
    BoardResources,
    agree,
    load,
    measure,
    measured_boards,
    save,
)

# ---- Equal modules ---------------------------------------------------------------------------

_LEAF = r"""attribute \src "x.sv:{line}"
module \leaf$top.{name}
  wire input 1 \a
  wire $procmux${number}_Y
  cell $not $not${other}
    connect \A \a
    connect \Y $procmux${number}_Y
  end
end
"""


def test_modules_equal_but_for_their_names_are_one() -> None:
    rtlil = (
        _LEAF.format(line=1, name="i_x", number=17, other=18)
        + _LEAF.format(line=2, name="i_y", number=40, other=41)
        + "attribute \\blackbox 1\nmodule \\DSP48E2\nend\n"
        + "module \\top\n  cell \\leaf$top.i_x \\i_x\n  end\n"
        + "  cell \\leaf$top.i_y \\i_y\n  end\n  cell \\DSP48E2 \\u\n  end\nend\n"
    )
    shared = share_equal_modules(rtlil)
    assert list(shared) == ["\\leaf", "\\top"]
    assert shared["\\top"].count("cell \\leaf ") == 2


def test_modules_that_differ_stay_apart() -> None:
    one = _LEAF.format(line=1, name="i_x", number=1, other=2)
    rtlil = one + one.replace("i_x", "i_y").replace("input 1", "width 2 input 1")
    assert list(share_equal_modules(rtlil)) == ["\\leaf", "\\leaf$1"]


@pytest.mark.parametrize("name", ["DSP48E1", "DSP48E2"])
def test_primitives_are_declared_without_their_models(name: str) -> None:
    text = declaration(name, "xilinx/cells_xtra.v", "xilinx/cells_sim.v")
    assert text.startswith(f"(* blackbox *)\nmodule {name}")
    assert "parameter integer PREG = 1;" in text
    assert "always" not in text
    with pytest.raises(SynthesisError, match="NOPE"):
        declaration("NOPE", "xilinx/cells_xtra.v")


# ---- Cells -----------------------------------------------------------------------------------


def test_cells_count_sites() -> None:
    kinds = {"LUT6": 3, "INV": 9, "SRL16E": 2, "RAM64M8": 1, "FDRE": 5, "DSP48E2": 1}
    cells = Cells.of(kinds | {"RAMB36E2": 1, "RAMB18E2": 1, "URAM288": 2, "CARRY4": 4})
    assert cells == Cells(3, 2, 8, 5, 1, 1.5, 2)
    assert cells.lut == 13


# ---- Paths -----------------------------------------------------------------------------------


class _Netlist:
    """Modules of a mapped netlist, written down net by net."""

    def __init__(self) -> None:
        self.modules: dict[str, Any] = {}

    def module(self, name: str, inputs: str = "", outputs: str = "") -> dict[str, Any]:
        ports = {port: ("input", net) for port, net in _nets(inputs)}
        ports |= {port: ("output", net) for port, net in _nets(outputs)}
        module: dict[str, Any] = {
            "ports": {p: {"direction": d, "bits": [n]} for p, (d, n) in ports.items()},
            "cells": {},
            "netnames": {},
        }
        self.modules[name] = module
        return module


def _nets(text: str) -> list[tuple[str, int]]:
    return [(port, int(net)) for port, net in (item.split("=") for item in text.split())]


def _cell(module: dict[str, Any], kind: str, inputs: str, outputs: str, **parameters: str) -> None:
    name = f"c{len(module['cells'])}"
    module["cells"][name] = {
        "type": kind,
        "parameters": parameters,
        "port_directions": {
            **{port: "input" for port, _ in _nets(inputs)},
            **{port: "output" for port, _ in _nets(outputs)},
        },
        "connections": {port: [net] for port, net in _nets(f"{inputs} {outputs}")},
    }


def test_path_counts_luts_between_registers() -> None:
    netlist = _Netlist()
    top = netlist.module("top")
    top["netnames"] = {"a_q": {"bits": [2]}, "b_q": {"bits": [5]}}
    _cell(top, "FDRE", "C=1 D=9", "Q=2")
    _cell(top, "LUT2", "I0=2", "O=3")
    _cell(top, "LUT2", "I0=3 I1=2", "O=4")
    _cell(top, "FDRE", "C=1 D=4", "Q=5")
    (path,) = longest_paths(netlist.modules, "top")["top"]
    assert path == Path(depth=2, luts=2, start="a_q", end="b_q")


def test_path_crosses_blocks_and_ends_in_the_enable() -> None:
    netlist = _Netlist()
    leaf = netlist.module("leaf", "i=1", "o=2")
    _cell(leaf, "LUT1", "I0=1", "O=2")
    top = netlist.module("top")
    _cell(top, "FDRE", "C=1 D=9", "Q=2")
    _cell(top, "leaf", "i=2", "o=3")
    _cell(top, "leaf", "i=3", "o=4")
    _cell(top, "FDRE", "C=1 D=9 CE=4", "Q=5")
    paths = longest_paths(netlist.modules, "top")
    assert paths["leaf"] == []
    assert (paths["top"][0].depth, paths["top"][0].luts) == (3, 2)


def test_path_through_carry_bits() -> None:
    netlist = _Netlist()
    top = netlist.module("top")
    _cell(top, "FDRE", "C=1 D=9", "Q=2")
    top["cells"]["carry"] = {
        "type": "CARRY4",
        "parameters": {},
        "port_directions": {"S": "input", "O": "output", "CO": "output"},
        "connections": {"S": [2, "0", "0", "0"], "O": [10, 11, 12, 13], "CO": [14, 15, 16, 17]},
    }
    _cell(top, "CARRY4", "CI=17", "O=20")
    _cell(top, "FDRE", "C=1 D=20", "Q=30")
    (path,) = longest_paths(netlist.modules, "top")["top"]
    assert (path.luts, path.carry_bits, path.depth) == (0, 5, 5 / 16)


@pytest.mark.parametrize(
    ("registers", "depth"),
    [
        ({"AREG": "1", "MREG": "1", "PREG": "1"}, 1),
        ({"AREG": "0", "MREG": "1", "PREG": "1"}, 3),
        ({"AREG": "0", "MREG": "0", "PREG": "1"}, 5),
        ({"AREG": "0", "MREG": "0", "PREG": "0"}, 5),
    ],
)
def test_path_through_a_dsp_without_registers(registers: dict[str, str], depth: int) -> None:
    netlist = _Netlist()
    top = netlist.module("top")
    _cell(top, "FDRE", "C=1 D=9", "Q=2")
    _cell(top, "DSP48E2", "CLK=1 A=2", "P=3", **registers)
    _cell(top, "FDRE", "C=1 D=3", "Q=4")
    assert longest_paths(netlist.modules, "top")["top"][0].depth == depth


def test_a_loop_of_luts_ends() -> None:
    netlist = _Netlist()
    top = netlist.module("top")
    _cell(top, "FDRE", "C=1 D=9", "Q=2")
    _cell(top, "LUT2", "I0=2 I1=4", "O=3")
    _cell(top, "LUT1", "I0=3", "O=4")
    _cell(top, "FDRE", "C=1 D=4", "Q=5")
    assert longest_paths(netlist.modules, "top")["top"][0].luts == 2


# ---- Boards ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "target", "levels"),
    [
        ("pynq-z2", Target("xc7", "DSP48E1"), 12),
        ("ultra96v2", Target("xcup", "DSP48E2"), 9),
        ("kv260", Target("xcup", "DSP48E2", ("RESIDUE_ULTRA_RAM",)), 9),
        ("u250", Target("xcup", "DSP48E2", ("RESIDUE_ULTRA_RAM", "RESIDUE_ULTRA_STORES")), 8),
    ],
)
def test_target_and_budget_of_a_board(name: str, target: Target, levels: int) -> None:
    assert target_of(find_board(name)) == target
    assert level_budget(find_board(name)) == levels


def _resources(**cells: float) -> BoardResources:
    counted: Any = {"logic": 100, "dsp": 10, **cells}
    return BoardResources("kv260", {}, 1, Cells(**counted), ())


def test_what_does_not_fit_is_named() -> None:
    assert shortfalls(_resources()) == []
    (one, part) = shortfalls(_resources(uram=65))
    assert "65 uram of 64" in one
    assert "on the part" in part
    assert "61.0 LUT a DSP" in shortfalls(_resources(logic=610))[0]


def test_noise_of_synthesis_is_no_difference() -> None:
    assert agree(_resources(logic=1000), _resources(logic=1010))
    assert not agree(_resources(logic=1000), _resources(logic=1100))
    assert not agree(_resources(flip_flops=1), _resources(flip_flops=2))


def test_ring_is_synthesised_and_closes_its_budget() -> None:
    """The flow itself, on a ring small enough for every run; the boards' rings differ in length."""
    parameters = {"WordBits": 51, "Elements": 3, "MaxWords": 22}
    netlist = synthesise("residue_ring", parameters, Target("xcup", "DSP48E2"))
    cells = count_cells(netlist, "residue_ring")
    assert cells.dsp == 3 * 12
    assert blocks_of(netlist, "residue_ring")["residue_pe"][0] == 3
    longest = longest_paths(netlist, "residue_ring")
    assert longest["residue_pe"][0].depth <= level_budget(find_board("u250"))
    assert longest["residue_ring"][0].depth <= level_budget(find_board("kv260"))


def test_figures_survive_the_file(tmp_path: FilePath, monkeypatch: pytest.MonkeyPatch) -> None:
    found = load()
    monkeypatch.setattr("residue_sim.synth._resources.docs_folder", lambda: tmp_path)
    save(found)
    assert load() == found
    lines = (tmp_path / "resources.json").read_text().splitlines()
    blocks = sum(len(entry.blocks) for entry in found.values())
    assert sum('"times"' in line for line in lines) == blocks


def test_committed_table_is_that_of_these_sources() -> None:
    assert out_of_date() == [], "run residue board resources"


@pytest.mark.parametrize("name", measured_boards())
def test_committed_card_fits_and_closes_its_budget(name: str) -> None:
    assert shortfalls(load()[name]) == []


def test_command_refuses_an_unknown_board() -> None:
    result = CliRunner().invoke(board_app, ["resources", "nope"])
    assert result.exit_code == 2
    assert "kv260" in result.output


@pytest.mark.full
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", measured_boards())
def test_synthesis_gives_the_committed_figures(name: str) -> None:
    assert agree(load()[name], measure(name))


@pytest.mark.full
@pytest.mark.timeout(3600)
def test_element_can_be_placed_and_routed() -> None:
    placed = place_element(seeds=(1,))
    assert placed.multipliers == 12
    committed = json.loads((hw_root().parent / "docs" / "resources" / "place.json").read_text())
    assert committed["megahertz"]["1"] == placed.megahertz[1]
