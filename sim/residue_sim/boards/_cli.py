"""`residue board build | load | test | table | measure`: physical boards from the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from residue.errors import BackendError
from residue_sim.boards._facts import Board, BoardError, board_names, find_board
from residue_sim.manifest import configurations, hw_root

__all__ = [
    "build_for",
    "known_configuration",
    "list_boards",
    "load_overlay",
    "measure",
    "run_test",
    "table",
]

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
_Board = Annotated[str, typer.Argument(help="A board of hw/boards.", metavar="BOARD")]
_Target = Annotated[
    str, typer.Argument(help="A board of hw/boards, or a .bit or .xclbin file.", metavar="BOARD")
]
_Address = Annotated[
    str | None,
    typer.Option(help="Of a board that serves PYNQ.remote; #N at the end: card N of several."),
]
_Config = Annotated[
    str | None, typer.Option(help="Configuration that the virtual board simulates.")
]


def list_boards(as_json: Json = False) -> None:
    """List the boards: part, cards, rings, assumed clock."""
    rows = [
        {
            "board": name,
            "title": board.title,
            "part": board.part,
            "configuration": board.configuration,
            "cards": len(board.cards),
            "rings": board.rings,
            "clock_mhz": board.clock_mhz,
            "clock_closed": board.clock_closed,
        }
        for name, board in ((name, find_board(name)) for name in board_names())
    ]
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    typer.echo("board      part                   cards  rings   MHz (assumed)  configuration")
    for row in rows:
        typer.echo(
            f"{row['board']:<10} {row['part']:<22} {row['cards']:>5} {row['rings']:>6} "
            f"{row['clock_mhz']:>15.6g}  {row['configuration']}"
        )


def build_for(
    name: _Board,
    folder: Annotated[
        Path | None, typer.Option(help="Where to build; default build/boards/BOARD.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Write RTL and scripts, run no vendor tool.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Build what a board loads: a .bit and .hwh (Zynq) or an .xclbin (Alveo).

    Says exactly what is missing where the vendor's tools cannot run. A build that was interrupted
    goes on after the last step that ended well.
    """
    from residue_sim.boards import _build

    board = find_board(name)
    made = _build.bundle(board)
    folder = folder or _folder(board)
    if dry_run:
        state = _build.find_tool(board)
        facts: dict[str, Any] = {
            "board": name,
            "folder": str(_build.write_bundle(made, folder)),
            "files": sorted(made.files),
            "commands": [" ".join(step.command) for step in made.steps],
            "tools": state.versions,
            "missing": list(state.missing),
            "licence": _build.licence_hint(board),
        }
        _report(as_json, facts)
        return
    with _Status(as_json) as step:
        results = _build.build(made, folder, progress=step)
    _report(as_json, {"board": name, "results": [str(path) for path in results]})


def load_overlay(
    target: _Target, address: _Address = None, config: _Config = None, as_json: Json = False
) -> None:
    """Load a board's overlay, and say which card answers."""
    from residue.backends._card import CardBackend
    from residue.card._pynq import open_board

    overlay = _overlay(target, config)
    with _Status(as_json) as step:
        step(f"loading {overlay.name}", 0, 1)
        backend = CardBackend(open_board(address, str(overlay)))
    try:
        _report(as_json, {"overlay": str(overlay), **backend.describe()})
    finally:
        backend.close()


def run_test(
    target: _Target,
    address: _Address = None,
    config: _Config = None,
    memory_mib: Annotated[int, typer.Option(min=1, help="MiB of memory to test.")] = 16,
    seed: Annotated[int, typer.Option(help="Of operands.")] = 1,
    as_json: Json = False,
) -> None:
    """Load a board's overlay and test memory, every command, throughput; read sensors.

    Exit code 3 if anything is wrong.
    """
    from residue import _boardtest
    from residue.card._pynq import open_board

    overlay = _overlay(target, config)
    with _Status(as_json) as step:
        step(f"loading {overlay.name}", 0, 1)
        port = open_board(address, str(overlay))
        report = _boardtest.run(port, memory_bytes=memory_mib << 20, seed=seed, progress=step)
    wrong = _not_as_described(target, config, report.capabilities)
    if as_json:
        facts = report.as_dict()
        facts |= {"ok": report.ok and not wrong, "overlay": str(overlay), "differs": wrong}
        typer.echo(json.dumps(facts, indent=1))
    else:
        for check in report.checks:
            state = "ok" if check.ok else "WRONG"
            typer.echo(f"{check.name:<32} {state:<6} {check.seconds:8.3f} s  {check.detail}")
        for rate in report.rates:
            typer.echo(
                f"{rate.operation:<12} {rate.modulus_bits} bits: {rate.products:,} products in "
                f"{rate.device_cycles:,} cycles, rings {rate.utilisation:.1%} full; "
                f"{rate.elements / rate.seconds:,.1f} results/s by the clock on the wall"
            )
        for sensor, value in report.sensors.items():
            typer.echo(f"{sensor}: {value:g}")
        if not report.sensors:
            typer.echo("temperature and power: not reported by this board")
    if wrong:
        raise BackendError(f"the card is not the one that {target} describes: {', '.join(wrong)}")
    if not report.ok:
        raise BackendError(f"the board at {report.device} failed: do not use it")


def table(
    board: Annotated[
        list[str] | None, typer.Option(help="One board; repeat for several. Default: all.")
    ] = None,
    write: Annotated[
        bool, typer.Option("--write", help="Write the page in docs/boards instead.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Print projected operations a second of each board, with their arithmetic (--json)."""
    from residue_sim.boards._pages import projected_page, projected_path
    from residue_sim.boards._table import table as rows_of

    with _Status(as_json) as step:
        step("recording the driver's commands", 0, 1)
        if write:
            projected_path.write_text(projected_page(), encoding="utf-8")
        else:
            rows = rows_of(board)
    if write:
        typer.echo(projected_path)
        return
    if as_json:
        typer.echo(json.dumps([row.as_dict() for row in rows], indent=1))
        return
    typer.echo("Projected: no board has run this; clocks are assumed. --json has the arithmetic.")
    typer.echo("board       key  operation  scheme        ops/s   cycles/op  rings   MHz  bound")
    for row in rows:
        rate = f"{row.ops_per_second:,.0f}" if row.ops_per_second >= 1000 else row.ops_per_second
        typer.echo(
            f"{row.board:<10} {row.key_bits:>4}  {row.operation:<9}  {row.scheme:<7} {rate:>11} "
            f"{row.cycles:>11,.0f} {row.rings:>6} {row.clock_mhz:>5.0f}  {row.bound}"
        )


def measure(
    utilisation: Annotated[
        str | None, typer.Option(help="Configuration to simulate as a whole for utilisation.")
    ] = None,
) -> None:
    """Measure in simulation what the table rests on: docs/boards/measured.json. Takes minutes."""
    from residue_sim.boards import _measured

    if utilisation is not None:
        known_configuration(utilisation)
    with _Status(False) as step:
        step("simulating rings", 0, 1)
        text = json.dumps(asdict(_measured.measure(utilisation)), indent=1) + "\n"
    path = _measured.docs_root() / "measured.json"
    path.write_text(text, encoding="utf-8")
    typer.echo(path)


def known_configuration(name: str) -> str:
    """`name`, if it is an entry of `hw/configs.yaml`."""
    if name not in configurations():
        raise typer.BadParameter(f"expected one of {', '.join(sorted(configurations()))}")
    return name


def _folder(board: Board) -> Path:
    return hw_root().parent / "build" / "boards" / board.name


def _overlay(target: str, config: str | None) -> Path:
    """The file to load for a board's name, or the file itself."""
    if Path(target).suffix in (".bit", ".xclbin"):
        if not Path(target).is_file():
            raise BoardError(f"no file {target}")
        return Path(target)
    board = find_board(target)
    if board.family == "virtual":
        from residue_sim.board import board_files

        return board_files(known_configuration(config or board.configuration))
    if config is not None:
        raise typer.BadParameter("--config is for the virtual board", param_hint="--config")
    suffix = ".xclbin" if board.family == "alveo" else ".bit"
    path = _folder(board) / f"{board.name}{suffix}"
    if not path.is_file():
        raise BoardError(
            f"no {path}: make it with residue board build {board.name}, or name a file"
        )
    return path


def _not_as_described(target: str, config: str | None, found: dict[str, int]) -> list[str]:
    """Capabilities of the card that differ from the board's configuration."""
    if Path(target).suffix:
        return []
    wanted = asdict(configurations()[config or find_board(target).configuration])
    return [
        f"{name} is {found[name]}, expected {wanted[name]}"
        for name in sorted(found.keys() & wanted.keys())
        if found[name] != wanted[name]
    ]


class _Status:
    """A status line on stderr where somebody watches."""

    def __init__(self, quiet: bool) -> None:
        self._line = Console(stderr=True, quiet=quiet).status("starting")

    def __enter__(self) -> Callable[[str, int, int], None]:
        self._line.start()
        return lambda text, done, total: self._line.update(f"{text} ({done + 1} of {total})")

    def __exit__(self, *_: object) -> None:
        self._line.stop()


def _report(as_json: bool, facts: dict[str, Any]) -> None:
    if as_json:
        typer.echo(json.dumps(facts, indent=1))
        return
    for name, value in facts.items():
        if isinstance(value, list):
            typer.echo(f"{name}:")
            for line in value:
                typer.echo(f"  {line}")
        elif isinstance(value, dict):
            typer.echo(f"{name}: {', '.join(f'{k} {v}' for k, v in value.items()) or 'none'}")
        else:
            typer.echo(f"{name.replace('_', ' ')}: {value}")
