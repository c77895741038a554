"""`python -m residue_sim.coverage`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from residue_sim.coverage import read_report

WANTED = 0.95


def main(
    folder: Annotated[
        Path, typer.Argument(help="Where the benches left it.", exists=True, file_okay=False)
    ],
) -> None:
    """Print the RTL's coverage.

    Exit status 1 below 95% of lines, with a bin that was never hit, or a stale exclusion.
    """
    report = read_report(folder)
    typer.echo("\n".join(report.lines()))
    if report.fraction < WANTED or 0 in report.bins.values() or report.stale:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
