"""`residue compare`: every device with the same operations, what it costs, on one page."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from residue.errors import CompareError, CorruptResult

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["COMPARE_HELP", "compare"]

COMPARE_HELP = """Measure every device with the same operations, and show what each one buys.

Results are checked against each other; a page (HTML) and its data (JSON) hold operations a \
second, per watt, per purchase price and per cloud hour, small batches and the batch from which \
offload pays, transfers, and what a federated job gains.

Devices that are not here are rows too: boards projected from measured cycles, and published \
figures with their source. Under three minutes; docs/compare.md explains each figure.

    residue compare

    residue compare --quick --key-bits 1024

    residue compare --device cpu --device card:ADDRESS --output runs/card.html

    residue compare --prices mine.toml

A file of prices (TOML) has entries such as these, which go before those of the product:

    \\[\\[device]]

    id = "u250"

    price = { usd = 7200, source = "our order 1187", date = "2026-03" }

Exit code 3 if a device computed something wrong; the page is written all the same, and says so.
"""


def compare(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The page; its data goes beside it, .json.")
    ] = Path("compare.html"),
    device: Annotated[
        list[str] | None,
        typer.Option(
            "--device",
            "--devices",
            help="Only these (repeat, or separate by commas), and the CPU. Default: all found.",
        ),
    ] = None,
    key_bits: Annotated[
        list[int] | None,
        typer.Option(
            help="Key size; repeat for several. Default 1024, 2048. Charts, small batches and "
            "the job are for the largest."
        ),
    ] = None,
    prices: Annotated[
        Path | None, typer.Option(help="TOML file of prices, power, cloud rates of your own.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Few, short turns; no job, no simulated card.")
    ] = False,
    budget: Annotated[
        float, typer.Option(help="Seconds for everything; what does not fit is said.", min=1)
    ] = 170,
    json_output: Annotated[
        bool, typer.Option("--json", help="Print the data as JSON instead of tables.")
    ] = False,
) -> None:
    """Compare devices."""
    from residue._cli import _progress
    from residue._html import require
    from residue.compare._page import page
    from residue.compare._prices import load
    from residue.compare._report import report
    from residue.compare._run import Settings, run

    if output.suffix not in (".html", ".htm"):
        raise typer.BadParameter(f"{output} is not an .html file", param_hint="--output")
    if not output.parent.is_dir():
        raise CompareError(f"no folder {output.parent} for the page")
    if len(names := _names(device or [])) > len(set(names)):
        raise typer.BadParameter("a device is named twice", param_hint="--device")
    settings = Settings(
        devices=tuple(names),
        key_bits=tuple(sorted(set(key_bits or (1024, 2048)))),
        budget=budget,
        quick=quick,
    )
    known = load(prices)
    require(CompareError)
    with _progress(json_output) as step:
        results = run(settings, step)
    found = report(results, known)
    text = page(found)
    data = output.with_suffix(".json")
    _write(data, json.dumps(found, indent=1, allow_nan=False) + "\n")
    _write(output, text)
    if json_output:
        typer.echo(json.dumps(found, indent=1, allow_nan=False))
    else:
        _print(found, output, data)
    if results.wrong:
        raise CorruptResult(f"wrong results: {'; '.join(results.wrong)}")


def _names(given: list[str]) -> list[str]:
    """Names of devices; a comma separates them except within one `cards:A,B`."""
    names: list[str] = []
    for text in given:
        names += [text] if text.startswith(("cards:", "auto:cards:")) else text.split(",")
    return names


def _write(path: Path, text: str) -> None:
    """Write a file that is there as a whole or not at all."""
    handle, part = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(part, 0o666 & ~umask)
        os.replace(part, path)
    except BaseException:
        Path(part).unlink(missing_ok=True)
        raise


def _print(found: Mapping[str, Any], output: Path, data: Path) -> None:
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console = Console(width=120)
    for kind, title in (("same", "The same algorithm"), ("best", "Each device's best algorithm")):
        console.print(_table(found, kind, title))
    for row in found["devices"]:
        if row["state"] == "not measured":
            console.print(f"{row['name']}: not measured: {row['note']}", markup=False)
    console.print(f"{output}\n{data}", soft_wrap=True)


def _table(found: Mapping[str, Any], kind: str, title: str) -> Table:
    """Rates at the main key size, and how many times the CPU encrypts."""
    from rich.box import SIMPLE
    from rich.table import Table

    from residue.compare._page import number
    from residue.compare._workloads import OPERATIONS

    bits = found["settings"]["main_bits"]
    title = f"{title}: operations a second, {bits}-bit key"
    table = Table(title=title, box=SIMPLE, padding=(0, 1), title_justify="left")
    table.add_column("device")
    table.add_column("state", no_wrap=True)
    columns = list(found[kind])
    for column in columns:
        table.add_column(OPERATIONS[column], justify="right", no_wrap=True)
    table.add_column("encrypt, x CPU", justify="right")
    for device in found["devices"]:
        figures = device["figures"].get(str(bits), {}).get(kind)
        if figures and any(figures.values()):
            rates = [figures[c] and figures[c]["rate"] for c in [*columns, "encrypt"]]
            cells = [number(rate["value"]) if rate else "-" for rate in rates[:-1]]
            times = number(rates[-1]["x_cpu"]) if rates[-1] else "-"
            table.add_row(device["name"], device["state"], *cells, times)
    return table
