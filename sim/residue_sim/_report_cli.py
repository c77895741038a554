"""`residue rtl-report`: what a ring costs and how fast it is."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from residue_sim._report import CONFIGURATIONS, ReportError, ReportRow, mark_best, report
from residue_sim._verilator import VerilatorError
from residue_sim.manifest import configurations

__all__ = ["rtl_report"]


def rtl_report(
    config: Annotated[
        list[str] | None,
        typer.Option(help=f"Named configuration; {', '.join(CONFIGURATIONS)} by default."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON array.")] = False,
) -> None:
    """Measure the rings: cycles in simulation, cells by synthesis, fraction of the ideal.

    The best of the reported configurations at each modulus size is marked.

    The first run takes minutes (Yosys is prepared, models are built); results are cached.
    """
    names = config or list(CONFIGURATIONS)
    if unknown := sorted(set(names) - configurations().keys()):
        known = ", ".join(configurations())
        raise typer.BadParameter(f"unknown {', '.join(unknown)}; expected one of {known}")
    rows: list[ReportRow] = []
    console = Console(stderr=True)
    try:
        for name in names:
            with console.status(f"{name}: simulating and synthesising its ring"):
                rows += report([name])
    except (ReportError, VerilatorError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
    rows = mark_best(rows)
    if as_json:
        typer.echo(json.dumps([row.as_dict() for row in rows], indent=2))
    else:
        Console().print(_table(rows))


def _table(rows: list[ReportRow]) -> Table:
    table = Table(
        title="Rings: Verilator cycles on a full pipeline, Yosys cells",
        caption="LUT includes shift registers (SRL). Fraction of ideal: "
        "2*ceil(b/17)*ceil(b/26) / (DSP * cycles); best published: 0.648. *: best of its size.",
    )
    titles = (
        *("config", "modulus", "cycles/product", "DSP", "LUT", "SRL", "FF", "BRAM36", "LUT/DSP"),
        "ideal",
    )
    for title in titles:
        table.add_column(title, justify="left" if title == "config" else "right")
    for row in rows:
        table.add_row(
            row.config,
            str(row.modulus_bits),
            f"{row.cycles_per_product:.1f}",
            str(row.dsp_per_ring),
            str(row.lut_per_ring),
            str(row.srl_per_ring),
            str(row.ff_per_ring),
            f"{row.bram36_per_ring:g}",
            f"{row.lut_per_dsp:.1f}",
            f"{row.fraction_of_ideal:.3f}{'*' if row.best else ' '}",
        )
    return table
