"""The commands ``residue fl runs``: what ran here, one run, and whether its files are the same."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from residue_federated.store import Details, Store

__all__ = ["app"]

app = typer.Typer(help="Runs of a directory: what ran, how far it is, what it left.")

_Json = Annotated[bool, typer.Option("--json", help="JSON on standard output.")]
_Directory = Annotated[
    Path | None,
    typer.Option(
        "--dir", help="Directory that holds the run directories [default: runs].", metavar="DIR"
    ),
]
_Number = Annotated[int, typer.Argument(help="Number of the run.", show_default=False)]


@app.callback(invoke_without_command=True)
def runs(context: typer.Context, directory: _Directory = None, as_json: _Json = False) -> None:
    """List the runs of a directory, the last begun first."""
    context.obj = directory
    if context.invoked_subcommand is not None:
        return
    found = _store(context, None).runs()
    if as_json:
        typer.echo(json.dumps([asdict(run) for run in found]))
        return
    _table(
        ("run", "job", "party", "kind", "state", "started", "seconds", "directory"),
        [
            (run.id, run.name, run.party or "all", run.kind, run.state, _time(run.started),
             _seconds(run.started, run.ended), run.folder)
            for run in found
        ],
    )  # fmt: skip


@app.command()
def show(
    context: typer.Context, number: _Number, directory: _Directory = None, as_json: _Json = False
) -> None:
    """Show one run: components, parties, files."""
    store = _store(context, directory)
    details = store.run(number)
    if as_json:
        typer.echo(json.dumps(asdict(details)))
        return
    run = details.run
    typer.echo(f"{run.name}, run {run.id}: {run.state}, {store.folder_of(run)}")
    if run.error:
        typer.echo(f"  {run.error}")
    _show(details)


@app.command()
def verify(
    context: typer.Context, number: _Number, directory: _Directory = None, as_json: _Json = False
) -> None:
    """Hash the files of a run again. Exit code 1 if one is missing or was changed."""
    checked = _store(context, directory).verify(number)
    if as_json:
        typer.echo(json.dumps([{**asdict(c.artefact), "state": c.state} for c in checked]))
    else:
        for check in checked:
            if check.state != "same":
                typer.echo(f"{check.artefact.path}: {check.state}")
        counts = Counter(check.state for check in checked)
        typer.echo(", ".join(f"{counts[s]} {s}" for s in ("same", "changed", "missing")))
    if any(check.state != "same" for check in checked):
        raise typer.Exit(1)


def _store(context: typer.Context, directory: Path | None) -> Store:
    from residue_federated.store import Store

    return Store.open(directory or context.obj or Path("runs"))


def _show(details: Details) -> None:
    last: Mapping[str, float] = {r.component: r.loss for r in details.rounds if r.loss is not None}
    _table(
        ("component", "type", "state", "rounds", "of", "seconds", "loss"),
        [
            (c.name, c.type, c.state, c.rounds, c.total, _seconds(c.started, c.ended),
             f"{last[c.name]:.6f}" if c.name in last else "-")
            for c in details.components
        ],
    )  # fmt: skip
    _table(
        ("party", "role", "device", "messages", "bytes", "encryption", "waiting", "other",
         "memory", "audit"),
        [
            (p.party, p.role, p.device, f"{p.messages:,}", f"{p.bytes:,}", f"{p.encryption:.1f} s",
             f"{p.waiting:.1f} s", f"{p.other:.1f} s", f"{p.peak_rss / 2**20:,.0f} MiB",
             "-" if p.audit_findings is None else f"{p.audit_findings} finding(s)")
            for p in details.parties
        ],
    )  # fmt: skip
    _table(
        ("file", "bytes", "sha256"),
        [(a.path, f"{a.bytes:,}", a.sha256) for a in details.artefacts],
    )


def _table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print rows, if there are any."""
    from residue_federated._display import console_of, table_of

    if not rows:
        return
    table = table_of(None, *columns)
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    console_of().print(table, markup=False)


def _time(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%SZ}"


def _seconds(started: float | None, ended: float | None) -> str:
    return "-" if started is None or ended is None else f"{ended - started:.1f}"
