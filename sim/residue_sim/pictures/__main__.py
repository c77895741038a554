"""`python -m residue_sim.pictures`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from residue.errors import DeviceError
from residue_sim._verilator import VerilatorError
from residue_sim.pictures import PICTURES, check, draw, measure

_FOLDER = Path(__file__).resolve().parents[3] / "docs" / "pictures"


def main(
    names: Annotated[list[str] | None, typer.Argument(help="Which pictures; all.")] = None,
    anew: Annotated[
        bool, typer.Option("--measure", help="Take their data anew: builds and simulates.")
    ] = False,
    only_check: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit 1 if a picture is not its data's.")
    ] = False,
    folder: Annotated[Path, typer.Option(help="Where the files are.")] = _FOLDER,
) -> None:
    """Draw the pictures of docs/card.md from the data beside them."""
    names = names or list(PICTURES)
    if unknown := [name for name in names if name not in PICTURES]:
        raise typer.BadParameter(f"unknown {', '.join(unknown)}; there are {', '.join(PICTURES)}")
    failed = False
    for name in names:
        if not only_check:
            try:
                if anew:
                    measure(name, folder)
                draw(name, folder)
            except (VerilatorError, DeviceError, FileNotFoundError) as error:
                typer.echo(f"error: {name}: {error}", err=True)
                raise typer.Exit(1) from error
        for finding in check(name, folder):
            failed = failed or not finding.stale
            typer.echo(f"{'note' if finding.stale else 'error'}: {finding.text}", err=True)
    if failed:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
