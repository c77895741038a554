"""What each board's card costs, how deep its logic is, and whether both fit.

The table is kept in docs/resources/resources.json (the figures, and digests of what they were
measured on) and resources.md (the same for people). Synthesis of all boards takes many minutes, so
a quick check compares the digests; the full one measures again.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path as FilePath
from typing import Any

from residue_sim._yosys import yosys_version
from residue_sim.board._build import card_parameters
from residue_sim.boards._facts import Board, Fabric, board_names, find_board
from residue_sim.manifest import bare_code, hw_root, sources_for
from residue_sim.synth._cells import Cells, blocks_of, count_cells
from residue_sim.synth._netlist import Target, synthesise
from residue_sim.synth._paths import Path, longest_paths

__all__ = [
    "LUT_PER_DSP",
    "BoardResources",
    "agree",
    "docs_folder",
    "level_budget",
    "level_nanoseconds",
    "load",
    "measure",
    "measured_boards",
    "out_of_date",
    "save",
    "shortfalls",
    "target_of",
]

_TOP = "residue_card"
LUT_PER_DSP = {"kv260": 60.0}
"""Boards whose card must not need more LUTs a DSP."""

_NOISE = 0.03
"""Of LUTs as logic between two syntheses of the same sources."""

# AMD's allowance for a LUT with the net behind it, by architecture and speed grade, ns:
# report_failfast of the Tcl Store's designutils. -2L at 0.72 V (grade 2LV) is taken as -1.
_LEVEL_NS = {
    ("zynq-7000", "1"): 0.575,
    ("zynq-7000", "2"): 0.500,
    ("zynq-mp", "1"): 0.350,
    ("zynq-mp", "2LV"): 0.350,
    ("zynq-mp", "2"): 0.300,
    ("alveo", "2"): 0.300,
    ("alveo", "2L"): 0.300,
}


@dataclass(frozen=True)
class BlockResources:
    """One kind of block: how often the card has it, its own cells, its longest path."""

    name: str
    times: int
    cells: Cells
    longest: Path | None


@dataclass(frozen=True)
class BoardResources:
    """One card of a board.

    Attributes:
        board: name.
        facts: what the figures depend on besides the RTL.
        cards: cards on the board.
        cells: of one card.
        blocks: of one card.
    """

    board: str
    facts: dict[str, Any]
    cards: int
    cells: Cells
    blocks: tuple[BlockResources, ...]

    @property
    def longest(self) -> Path:
        """The longest path of the card."""
        paths = [block.longest for block in self.blocks if block.longest is not None]
        return max(paths, key=lambda path: path.depth)

    @property
    def lut_per_dsp(self) -> float:
        """LUT sites of the card for each of its DSPs."""
        return self.cells.lut / self.cells.dsp

    def as_dict(self) -> dict[str, Any]:
        """As a JSON object."""
        return {
            "board": self.board,
            "facts": self.facts,
            "cards": self.cards,
            "cells": self.cells.as_dict(),
            "lut_per_dsp": round(self.lut_per_dsp, 1),
            "longest_path": asdict(self.longest),
            "blocks": [
                {
                    "name": block.name,
                    "times": block.times,
                    "cells": block.cells.as_dict(),
                    "longest_path": block.longest and asdict(block.longest),
                }
                for block in self.blocks
            ],
        }

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> BoardResources:
        """From what `as_dict` made."""

        def cells(values: Mapping[str, Any]) -> Cells:
            return Cells(**{key: value for key, value in values.items() if key != "lut"})

        return cls(
            board=saved["board"],
            facts=saved["facts"],
            cards=saved["cards"],
            cells=cells(saved["cells"]),
            blocks=tuple(
                BlockResources(
                    name=block["name"],
                    times=block["times"],
                    cells=cells(block["cells"]),
                    longest=Path(**path) if (path := block["longest_path"]) else None,
                )
                for block in saved["blocks"]
            ),
        )


def measured_boards() -> list[str]:
    """Boards with a part to fit; the virtual one has none."""
    return [name for name in board_names() if find_board(name).family != "virtual"]


def target_of(board: Board) -> Target:
    """What a board's card is synthesised for."""
    family = "xc7" if board.family == "zynq-7000" else "xcup"
    return Target(family, board.dsp_macro.removeprefix("RESIDUE_"), tuple(board.ram_macros))


def level_nanoseconds(board: Board) -> float:
    """AMD's allowance for one logic level on the board's part."""
    grade = re.search(r"-(\d(?:LV|L)?)(?:-|$)", board.part)
    if grade is None or (board.family, grade[1]) not in _LEVEL_NS:
        raise ValueError(f"board {board.name}: no delay of a level known for part {board.part}")
    return _LEVEL_NS[board.family, grade[1]]


def level_budget(board: Board) -> int:
    """Logic levels that fit between two registers at the board's clock."""
    return math.floor(1000 / board.clock_mhz / level_nanoseconds(board))


def measure(name: str, *, progress: Callable[[str], None] = lambda what: None) -> BoardResources:
    """Synthesise a board's card.

    Args:
        name: the board.
        progress: called with a line that says what is done next.

    Raises:
        BoardError: no such board.
        YosysError: a tool failed.
    """
    board = find_board(name)
    netlist = synthesise(_TOP, card_parameters(board.config), target_of(board), progress=progress)
    longest = longest_paths(netlist, _TOP)
    return BoardResources(
        board=name,
        facts=_facts(board),
        cards=len(board.cards),
        cells=count_cells(netlist, _TOP),
        blocks=tuple(
            BlockResources(block, times, cells, next(iter(longest[block]), None))
            for block, (times, cells) in sorted(blocks_of(netlist, _TOP).items())
        ),
    )


def shortfalls(found: BoardResources) -> list[str]:
    """What of a board's card does not fit: resources first, then paths, one line each."""
    board = find_board(found.board)
    lines = []
    for cards, limit, whose in (
        (1, board.available, "available to a card"),
        (found.cards, board.totals, "on the part"),
    ):
        for resource in ("lut", "flip_flops", "dsp", "bram36", "uram"):
            used = cards * getattr(found.cells, resource)
            if used > (most := _limit(limit, resource)):
                lines.append(f"{found.board}: {used:g} {resource} of {most} {whose}")
    allowed = LUT_PER_DSP.get(found.board, math.inf)
    if found.lut_per_dsp > allowed:
        lines.append(f"{found.board}: {found.lut_per_dsp:.1f} LUT a DSP, {allowed:g} allowed")
    budget = level_budget(board)
    lines += [
        f"{found.board}: {block.name}: {_path(block.longest)}, {budget} levels allowed"
        for block in found.blocks
        if block.longest is not None and block.longest.depth > budget
    ]
    return lines


def agree(one: BoardResources, other: BoardResources) -> bool:
    """Whether two measurements of a card are the same but for the noise of logic synthesis.

    Blocks that are synthesised in one run share a counter of generated names, and the order of
    names moves the mapper by about a percent in LUTs; nothing else may differ.
    """
    hard = ("dsp", "bram36", "uram", "shift_registers", "lut_ram", "flip_flops")
    return (
        one.facts == other.facts
        and one.cards == other.cards
        and [(b.name, b.times) for b in one.blocks] == [(b.name, b.times) for b in other.blocks]
        and all(getattr(one.cells, name) == getattr(other.cells, name) for name in hard)
        and abs(one.cells.logic - other.cells.logic) <= _NOISE * other.cells.logic
    )


def _limit(fabric: Fabric, resource: str) -> int:
    value: int = getattr(fabric, {"flip_flops": "ff"}.get(resource, resource))
    return value


def _path(path: Path) -> str:
    return (
        f"{path.depth:.1f} levels ({path.luts} LUT, {path.carry_bits} carry bits) "
        f"from {path.start} to {path.end}"
    )


# ---- The committed table ---------------------------------------------------------------------


def docs_folder() -> FilePath:
    """docs/resources of this checkout."""
    return hw_root().parent / "docs" / "resources"


def load() -> dict[str, BoardResources]:
    """The committed figures by board."""
    saved = json.loads((docs_folder() / "resources.json").read_text(encoding="utf-8"))
    return {entry["board"]: BoardResources.from_dict(entry) for entry in saved["boards"]}


def save(found: Mapping[str, BoardResources]) -> None:
    """Write the table from figures that were measured on the present sources."""
    folder = docs_folder()
    folder.mkdir(parents=True, exist_ok=True)
    ordered = [found[name] for name in sorted(found)]
    value = {
        "measured_on": _digests(),
        "boards": [entry.as_dict() for entry in ordered],
    }
    (folder / "resources.json").write_text(_lines(value, 4) + "\n", encoding="utf-8")
    (folder / "resources.md").write_text(_markdown(ordered), encoding="utf-8")


def _lines(value: Any, depth: int) -> str:
    """JSON with a line for each item down to `depth` levels, what lies deeper in the item's line.

    Four levels give each block of a card its line.
    """
    if not depth or not isinstance(value, (dict, list)):
        return json.dumps(value)
    if isinstance(value, list):
        items = [_lines(item, depth - 1) for item in value]
    else:
        items = [f"{json.dumps(key)}: {_lines(item, depth - 1)}" for key, item in value.items()]
    begin, end = "[]" if isinstance(value, list) else "{}"
    inside = ",\n".join(items).replace("\n", "\n ")
    return f"{begin}\n {inside}\n{end}"


def out_of_date() -> list[str]:
    """What changed since the table was written; empty if nothing did."""
    path = docs_folder() / "resources.json"
    if not path.is_file():
        return ["docs/resources/resources.json is missing"]
    saved = json.loads(path.read_text(encoding="utf-8"))
    now, then = _digests(), saved["measured_on"]
    names = sorted(now.keys() | then.keys())
    changed = [name for name in names if now.get(name) != then.get(name)]
    boards = {entry["board"]: entry["facts"] for entry in saved["boards"]}
    for name in sorted(boards.keys() | set(measured_boards())):
        known = name in measured_boards()
        if not known or boards.get(name) != _facts(find_board(name)):
            changed.append(f"board {name}")
    if (docs_folder() / "resources.md").read_text(encoding="utf-8") != _markdown(
        [BoardResources.from_dict(entry) for entry in saved["boards"]]
    ):
        changed.append("docs/resources/resources.md")
    return changed


def _facts(board: Board) -> dict[str, Any]:
    """What the figures of a board, or their meaning, depend on besides the RTL."""
    return {
        "part": board.part,
        "clock_mhz": board.clock_mhz,
        "configuration": asdict(board.config),
        "macros": target_of(board).macros,
        "totals": asdict(board.totals),
        "available": asdict(board.available),
    }


def _digests() -> dict[str, str]:
    """Digests of the RTL without comments and of the flow; the version of Yosys."""
    root = hw_root()
    digests = {str(path.relative_to(root)): _digest(bare_code(path)) for path in sources_for(_TOP)}
    here = FilePath(__file__).parent
    for name in ("_netlist.py", "_cells.py", "_paths.py"):
        digests[f"synth/{name}"] = _digest((here / name).read_text(encoding="utf-8"))
    digests["yosys"] = yosys_version()
    return digests


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _markdown(boards: Sequence[BoardResources]) -> str:
    lines = [
        "# Resources and logic depth",
        "",
        "Generated by `residue board resources`: figures of Yosys, no vendor tool was run. How",
        "they come about, what they do not show: [ADR 0014](../adr/0014-open-synthesis.md).",
        "",
        "## One card against what the board leaves for it",
        "",
        "LUT = logic + shift registers + LUT RAM, one a site. Percent of what a card may use",
        "(`available` in board.yaml), then percent of the part for all cards of the board.",
        "",
        "| board | configuration | cards | LUT | logic | SRL | RAM | FF | DSP | BRAM36 | URAM "
        "| LUT/DSP |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for found in boards:
        board, cells = find_board(found.board), found.cells

        def share(resource: str, board: Board = board, found: BoardResources = found) -> str:
            used = getattr(found.cells, resource)
            if not used:
                return "0"
            one = 100 * used / max(1, _limit(board.available, resource))
            part = 100 * found.cards * used / max(1, _limit(board.totals, resource))
            return f"{used:g} ({one:.0f}%, {part:.0f}%)"

        row = [
            found.board,
            found.facts["configuration"]["name"],
            str(found.cards),
            share("lut"),
            str(cells.logic),
            str(cells.shift_registers),
            str(cells.lut_ram),
            *(share(resource) for resource in ("flip_flops", "dsp", "bram36", "uram")),
            f"{found.lut_per_dsp:.1f}",
        ]
        lines.append(f"| {' | '.join(row)} |")
    lines += [
        "",
        "## Longest register-to-register path",
        "",
        "| board | clock MHz (assumed) | ns a level | levels allowed | longest | LUT | carry bits "
        "| from | to |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for found in boards:
        board, path = find_board(found.board), found.longest
        row = [
            found.board,
            f"{board.clock_mhz:g}",
            f"{level_nanoseconds(board):g}",
            str(level_budget(board)),
            f"{path.depth:.1f}",
            str(path.luts),
            str(path.carry_bits),
            f"`{path.start}`",
            f"`{path.end}`",
        ]
        lines.append(f"| {' | '.join(row)} |")
    for found in boards:
        lines += _block_table(found)
    failing = [line for found in boards for line in shortfalls(found)]
    lines += ["", "## Shortfalls", ""]
    lines += [f"- {line}" for line in failing] or ["None."]
    return "\n".join(lines) + "\n"


def _block_table(found: BoardResources) -> list[str]:
    lines = [
        "",
        f"## {found.board}: blocks of a card",
        "",
        "Own cells of one block, without the blocks inside it; the depth of the longest path that",
        "lies in it and the blocks inside it.",
        "",
        "| block | times | LUT | SRL | RAM | FF | DSP | BRAM36 | URAM | levels | LUT | carry |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for block in found.blocks:
        cells, path = block.cells, block.longest
        numbers = (
            block.times, cells.lut, cells.shift_registers, cells.lut_ram, cells.flip_flops,
            cells.dsp, f"{cells.bram36:g}", cells.uram,
        )  # fmt: skip
        depth = (f"{path.depth:.1f}", path.luts, path.carry_bits) if path else ("", "", "")
        lines.append(f"| {' | '.join(map(str, (block.name, *numbers, *depth)))} |")
    return lines
