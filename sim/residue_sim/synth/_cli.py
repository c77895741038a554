"""`residue board resources` and `residue board place`."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console

from residue_sim._verilator import VerilatorError
from residue_sim._yosys import YosysError
from residue_sim.boards._facts import BoardError
from residue_sim.synth._place import place_element
from residue_sim.synth._resources import (
    BoardResources,
    agree,
    docs_folder,
    load,
    measure,
    measured_boards,
    out_of_date,
    save,
    shortfalls,
)

__all__ = ["place", "resources"]

_Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


def resources(
    boards: Annotated[
        list[str] | None, typer.Argument(help="Boards; all of them by default.", metavar="BOARD")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Compare with the committed table; write nothing.")
    ] = False,
    as_json: _Json = False,
) -> None:
    """Synthesise each board's card with open tools: cells against the part, longest paths.

    Writes docs/resources, for all boards. Minutes a board the first time; cached by block.
    Exit code 1 if a card does not fit, its paths are too long, or --check finds a difference.
    """
    known = measured_boards()
    names = boards or known
    if unknown := sorted(set(names) - set(known)):
        raise typer.BadParameter(f"unknown {', '.join(unknown)}; expected one of {known}")
    if not check and set(names) != set(known) and out_of_date():
        raise typer.BadParameter(
            "the committed figures of the other boards are out of date: measure all, or --check"
        )
    console = Console(stderr=True)
    found: dict[str, BoardResources] = {}
    try:
        for name in names:
            with console.status(name) as status:

                def show(what: str, name: str = name) -> None:
                    status.update(f"{name}: {what}")

                found[name] = measure(name, progress=show)
    except (BoardError, YosysError, VerilatorError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
    failing = [line for entry in found.values() for line in shortfalls(entry)]
    if check:
        saved = load()
        failing += [
            f"{name}: differs from docs/resources; run residue board resources"
            for name, entry in found.items()
            if name not in saved or not agree(saved[name], entry)
        ]
    else:
        save((load() if set(names) != set(known) else {}) | found)
    if as_json:
        typer.echo(json.dumps([entry.as_dict() for entry in found.values()], indent=1))
    else:
        for entry in found.values():
            cells, path = entry.cells, entry.longest
            typer.echo(
                f"{entry.board}: {cells.lut} LUT, {cells.flip_flops} FF, {cells.dsp} DSP, "
                f"{cells.bram36:g} BRAM36, {cells.uram} URAM, {entry.lut_per_dsp:.1f} LUT a DSP; "
                f"longest path {path.depth:.1f} levels"
            )
        if not check:
            typer.echo(f"wrote {docs_folder()}")
    for line in failing:
        typer.echo(line, err=True)
    if failing:
        raise typer.Exit(1)


def place(
    seeds: Annotated[int, typer.Option(help="How many seeds.", min=1)] = 3,
    as_json: _Json = False,
) -> None:
    """Place and route one element for an ECP5 with nextpnr; its highest clock for each seed.

    Writes docs/resources/place.json.
    """
    with Console(stderr=True).status("placing and routing one element"):
        try:
            found = place_element(range(1, seeds + 1))
        except (YosysError, VerilatorError) as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(1) from error
    text = json.dumps(asdict(found), indent=1)
    (docs_folder() / "place.json").write_text(text + "\n", encoding="utf-8")
    if as_json:
        typer.echo(text)
        return
    clocks = ", ".join(f"{value:g} (seed {seed})" for seed, value in found.megahertz.items())
    typer.echo(
        f"ECP5-5G 85k -8, W = {found.word_bits}: {clocks} MHz; {found.multipliers} MULT18X18D, "
        f"{found.luts} LUT4, {found.flip_flops} FF with the harness"
    )
