"""`residue profile`: run a command, show where its time and the card's cycles went."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from residue._trace import PROFILE_VARIABLE
from residue.errors import ProfileError

if TYPE_CHECKING:
    from residue.profile import Profile

__all__ = ["PROFILE_HELP", "profile"]

PROFILE_HELP = """Run COMMAND and show where its time and the card's cycles went.

Writes profile.html, a page that needs no network, and trace.json for ui.perfetto.dev. COMMAND is a
sub-command of residue, or any program that uses it:

    residue profile fl run examples/breast_lr.yaml --device card:ADDRESS

    residue profile --out runs/p1 -- python my_job.py

Without COMMAND the profile that is in the folder is shown again.
"""


def profile(
    command: Annotated[list[str] | None, typer.Argument(help="What to run.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("profile"),
    json_output: Annotated[
        bool, typer.Option("--json", help="Print the sums as JSON instead of tables.")
    ] = False,
) -> None:
    """Run a command and show where its time and the card's cycles went."""
    events = out / "events"
    code = 0
    if command:
        if events.exists():
            raise ProfileError(f"{out} holds a profile already: remove it or name another --out")
        events.mkdir(parents=True)
        environment = {**os.environ, PROFILE_VARIABLE: str(events.resolve())}
        try:
            code = subprocess.run(  # noqa: S603
                _resolve(command),
                env=environment,
                check=False,
                stdout=sys.stderr if json_output else None,
            ).returncode
        except OSError as error:
            events.rmdir()
            raise ProfileError(f"{command[0]} cannot be started: {error.strerror}") from error
        (out / "command.txt").write_text(shlex.join(command) + "\n")
    from residue.profile import load, page, trace_events

    found = load(events)
    title = (out / "command.txt").read_text().strip() if (out / "command.txt").exists() else "?"
    _write(out / "trace.json", json.dumps(trace_events(found)))
    _write(out / "profile.html", page(found, title))
    if json_output:
        typer.echo(json.dumps(_sums(found, out), indent=2))
    else:
        _print(found, out)
    if code:
        raise typer.Exit(code if 0 < code < 126 else 1)


def _resolve(command: list[str]) -> list[str]:
    """The command line; sub-commands of residue run with this Python."""
    from residue._cli import command_names

    return [sys.executable, "-m", "residue", *command] if command[0] in command_names() else command


def _write(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def _sums(found: Profile, out: Path) -> dict[str, object]:
    from residue.profile import summarise

    return {
        "page": str(out / "profile.html"),
        "trace": str(out / "trace.json"),
        "processes": [
            {
                "pid": process.pid,
                "program": process.program,
                "complete": process.complete,
                "dropped": process.dropped,
                "devices": [asdict(summarise(device)) for device in process.devices],
            }
            for process in found.processes
        ],
    }


def _print(found: Profile, out: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    from residue.profile import summarise

    console = Console()
    for process in found.processes:
        for device in process.devices:
            if not (device.operations or device.commands):
                continue
            s = summarise(device)
            table = Table(
                title=f"{s.name} of {process.program} ({process.pid})", title_justify="left"
            )
            table.add_column("operation")
            numbers = ["calls", "results", "host s"]
            numbers += ["products", "card cycles", "ring use", "waiting"] if s.rings else []
            for column in numbers:
                table.add_column(column, justify="right")
            for o in s.operations:
                cells = [f"{o.calls:,}", f"{o.elements:,}", f"{o.host_seconds:.3f}"]
                if s.rings:
                    cells += [f"{o.products:,}", f"{o.cycles:,}"]
                    cells += [f"{o.ring_use:.1%}", f"{o.waiting:.1%}"]
                table.add_row(o.operation, *cells)
            console.print(table)
    console.print(f"{out / 'profile.html'}\n{out / 'trace.json'}  (open in ui.perfetto.dev)")
