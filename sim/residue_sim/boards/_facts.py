"""What `hw/boards/NAME/board.yaml` says of a board, typed and checked."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from typing import Any, Literal, TypeVar, get_args

import yaml

from residue.errors import ResidueError
from residue_sim.manifest import Configuration, configurations, hw_root

__all__ = [
    "DSPS",
    "Addresses",
    "Board",
    "BoardError",
    "CardPlace",
    "Fabric",
    "board_names",
    "find_board",
]

DSPS = {"schoolbook": 12, "karatsuba": 36}
"""DSP slices of a processing element, by kind."""

Family = Literal["zynq-7000", "zynq-mp", "alveo", "virtual"]
# The vendor tool, and what a master is connected to.
_FLOWS = {
    "zynq-7000": ("vivado", r"S_AXI_HP[0-3]"),
    "zynq-mp": ("vivado", r"S_AXI_HP[0-3]_FPD"),
    "alveo": ("v++", r"(HBM|DDR)\[\d+(:\d+)?\]"),
    "virtual": ("none", r"S_AXI_HP[0-3]_FPD"),
}
_T = TypeVar("_T")


class BoardError(ResidueError):
    """A board's description, or a request about a board, is wrong."""


@dataclass(frozen=True)
class Fabric:
    """Resources: DSP slices, 6-input LUTs, flip-flops, 36-Kbit block RAMs, UltraRAMs."""

    dsp: int
    lut: int
    ff: int
    bram36: int
    uram: int


@dataclass(frozen=True)
class CardPlace:
    """Where one `residue_card` lies.

    Attributes:
        memory: what each of its masters is connected to, in order: a port of the processing system,
            or a memory bank (or a range of them) of the platform.
        slr: super logic region that holds it, and so all its rings.
    """

    memory: tuple[str, ...]
    slr: str | None = None


@dataclass(frozen=True)
class MemoryFacts:
    """A board's memory; `gigabytes_per_second` is the peak of all banks, both directions."""

    kind: str
    bytes: int
    port_bits: int
    gigabytes_per_second: float
    source: str


@dataclass(frozen=True)
class Addresses:
    """Windows in the processor's address space, in bytes: registers of the card, shared memory."""

    card_base: int
    card_bytes: int
    memory_base: int
    memory_bytes: int


@dataclass(frozen=True)
class ToolFacts:
    """The vendor tool that builds for a board, and the versions its flow was written for."""

    name: str
    least: str
    most: str


@dataclass(frozen=True)
class RuntimeFacts:
    """What runs beside the card: the board's system image and its `pynq`."""

    image: str
    pynq: str


@dataclass(frozen=True)
class Board:
    """One board.

    Attributes:
        name: folder in `hw/boards`.
        title: as people call it.
        family: which flow builds for it.
        part: vendor's part string.
        board_part: Vivado board definition (Zynq).
        platform: Vitis platform (Alveo).
        configuration: entry of `hw/configs.yaml`, of each card.
        totals: resources of the part.
        available: resources that one card may use, from `available_source`.
        clock_mhz: clock of the cards; assumed unless `clock_closed`, for `clock_argument`.
        cards: one entry a card.
        memory: the board's memory.
        addresses: windows of the card (Zynq and virtual).
        tool: vendor tool.
        runtime: software on the board.
    """

    name: str
    title: str
    family: Family
    part: str
    configuration: str
    totals: Fabric
    available: Fabric
    available_source: str
    clock_mhz: float
    clock_closed: bool
    clock_argument: str
    cards: tuple[CardPlace, ...]
    memory: MemoryFacts
    tool: ToolFacts
    runtime: RuntimeFacts
    board_part: str | None = None
    platform: str | None = None
    addresses: Addresses | None = None

    @property
    def config(self) -> Configuration:
        """The configuration of each of its cards."""
        return configurations()[self.configuration]

    @property
    def rings(self) -> int:
        """Rings of all its cards."""
        return len(self.cards) * self.config.rings

    @property
    def dsp_macro(self) -> str:
        """Macro that chooses the part's DSP slice in the RTL."""
        return "RESIDUE_DSP48E1" if self.family == "zynq-7000" else "RESIDUE_DSP48E2"

    @property
    def ram_macros(self) -> list[str]:
        """Macros that put the table stores, then all operand stores, into UltraRAM."""
        macros = ("RESIDUE_ULTRA_RAM", "RESIDUE_ULTRA_STORES")
        # A lane's tables take at most 16 UltraRAMs, its three or four other stores at most 4 each.
        lane = (16, 28 + 4 * self.config.karatsuba)
        needed = (uram * self.config.rings for uram in lane)
        fits = zip(macros, needed, strict=True)
        return [macro for macro, uram in fits if self.available.uram >= uram]


def board_names() -> list[str]:
    """Names of all boards: the folders of `hw/boards`."""
    return sorted(path.parent.name for path in (hw_root() / "boards").glob("*/board.yaml"))


@functools.cache
def find_board(name: str) -> Board:
    """The board of that name.

    Raises:
        BoardError: there is none, or its description is not as it must be.
    """
    if name not in board_names():
        raise BoardError(f"no board {name!r}: expected one of {', '.join(board_names())}")
    text = (hw_root() / "boards" / name / "board.yaml").read_text(encoding="utf-8")
    return parse_board(name, yaml.safe_load(text))


def parse_board(name: str, facts: Any) -> Board:
    """A board from the mapping in its `board.yaml`.

    Raises:
        BoardError: a field is missing, unknown, of a wrong type or contradicts another one.
    """
    where = f"boards/{name}/board.yaml"
    if not isinstance(facts, dict):
        raise BoardError(f"{where}: expected a mapping")
    nested: dict[str, Callable[[str, Any], Any]] = {
        "totals": lambda at, value: _typed(Fabric, at, value),
        "available": lambda at, value: _typed(Fabric, at, value),
        "memory": lambda at, value: _typed(MemoryFacts, at, value),
        "addresses": lambda at, value: _typed(Addresses, at, value),
        "tool": lambda at, value: _typed(ToolFacts, at, value),
        "runtime": lambda at, value: _typed(RuntimeFacts, at, value),
        "cards": _places,
    }
    plain = {key: value for key, value in facts.items() if key not in nested}
    built = {
        key: make(f"{where}, {key}", facts[key]) for key, make in nested.items() if key in facts
    }
    board = _typed(Board, where, {"name": name, **plain}, built)
    _check(where, board)
    return board


def _places(where: str, value: Any) -> tuple[CardPlace, ...]:
    if not isinstance(value, list) or not value:
        raise BoardError(f"{where}: expected a list with an entry for each card")
    places = []
    for entry in value:
        memory = entry.get("memory") if isinstance(entry, dict) else None
        if not isinstance(memory, list) or not all(isinstance(port, str) for port in memory):
            raise BoardError(f"{where}: each card needs a list `memory`, an entry for each master")
        places.append(
            _typed(CardPlace, where, {**entry, "memory": None}, {"memory": tuple(memory)})
        )
    return tuple(places)


_KINDS: dict[str, tuple[type, ...]] = {
    "int": (int,), "float": (int, float), "bool": (bool,), "str": (str,), "Family": (str,),
    "str | None": (str,),
}  # fmt: skip


def _typed(kind: type[_T], where: str, value: Any, built: dict[str, Any] | None = None) -> _T:
    """A dataclass from a mapping: every field present, none unknown, each of its type."""
    built = built or {}
    if not isinstance(value, dict):
        raise BoardError(f"{where}: expected a mapping")
    known = {field.name: field for field in fields(kind)}  # type: ignore[arg-type]
    given = value | built
    if unknown := given.keys() - known.keys():
        raise BoardError(f"{where}: unknown field {', '.join(sorted(unknown))}")
    needed = {key for key, field in known.items() if field.default is MISSING}
    if missing := needed - given.keys():
        raise BoardError(f"{where}: {', '.join(sorted(missing))} is missing")
    for key in given.keys() - built.keys():
        wanted = _KINDS[str(known[key].type)]
        if not isinstance(given[key], wanted) or (
            isinstance(given[key], bool) and bool not in wanted
        ):
            raise BoardError(f"{where}: {key} must be {wanted[-1].__name__}, not {given[key]!r}")
    return kind(**given)


def _check(where: str, board: Board) -> None:
    """Raise `BoardError` unless the board's fields agree with each other and its configuration."""

    def require(holds: bool, text: str) -> None:
        if not holds:
            raise BoardError(f"{where}: {text}")

    require(
        board.family in get_args(Family),
        f"family must be one of {', '.join(get_args(Family))}, not {board.family!r}",
    )
    require(
        board.configuration in configurations(),
        f"no configuration {board.configuration!r} in configs.yaml",
    )
    config = board.config
    tool, master = _FLOWS[board.family]
    require(board.tool.name == tool, f"the tool of {board.family} is {tool}")
    masters = [name for place in board.cards for name in place.memory]
    require(all(re.fullmatch(master, name) for name in masters), f"memory of masters: {masters}")
    require(board.clock_mhz > 0, "clock_mhz must be positive")
    require(board.memory.gigabytes_per_second > 0, "gigabytes_per_second must be positive")
    for field in fields(Fabric):
        total, share = (getattr(f, field.name) for f in (board.totals, board.available))
        require(0 <= share <= total, f"{field.name}: {share} available of {total}")
    for place in board.cards:
        require(
            len(place.memory) == config.masters,
            f"a card of configuration {config.name} has {config.masters} masters, but memory "
            f"{list(place.memory)}",
        )
    alveo = board.family == "alveo"
    require((board.platform is not None) == alveo, "platform is for alveo boards, and only them")
    require(
        (board.board_part is not None) == board.family.startswith("zynq"),
        "board_part is for Zynq boards, and only them",
    )
    require((board.addresses is None) == alveo, "addresses are for all boards but alveo ones")
    if alveo:
        slrs = [place.slr for place in board.cards]
        require(None not in slrs, "every card of an alveo board needs its slr")
        require(len(set(slrs)) == len(slrs), "one card an SLR")
    else:
        require(len(board.cards) == 1, "one card")
