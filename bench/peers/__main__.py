"""``python -m bench.peers``: measure, print the ratios, write ``peers.json`` and ``peers.html``."""

from __future__ import annotations

import json
import os
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from bench.peers._client import PeerError
from bench.peers._measure import BEST, LIBRARIES, Run, Settings, Spec, measure, start
from bench.peers._page import markdown, page, rate, where
from bench.peers._report import failures, sections
from residue_sim._verilator import cache_dir

app = typer.Typer(add_completion=False)


@app.command()
def main(
    bits: Annotated[list[int] | None, typer.Option(help="Key sizes.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each library.")] = 5,
    turn: Annotated[float, typer.Option(min=0.001, help="Seconds of a turn at least.")] = 0.2,
    core: Annotated[
        int | None, typer.Option(help="CPU number all are pinned to; by default the last.")
    ] = None,
    install: Annotated[
        bool, typer.Option(help="Make environments of peers that have none yet.")
    ] = True,
    only: Annotated[
        list[str] | None,
        typer.Option(help="Only libraries whose names begin so."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("build/bench"),
    as_markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the ratios in Markdown.")
    ] = False,
    show: Annotated[
        Path | None, typer.Option(help="Print and render this peers.json; measure nothing.")
    ] = None,
) -> None:
    """Residue's CPU backend beside phe, HEU, fate_utils, OpenSSL and GMP: one run, one core."""
    console = Console()
    if not console.is_terminal:
        console.width = 132
    try:
        if show is not None:
            run = _load(show)
        else:
            libraries = _libraries(only)
            settings = _settings(tuple(bits or (1024, 2048, 3072)), rounds, turn, core)
            command = shlex.join(["python", "-m", "bench.peers", *sys.argv[1:]])
            # No refreshing thread: it would run on the cores measured.
            with Progress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                TextColumn("{task.completed}/{task.total}"),
                TimeElapsedColumn(),
                console=Console(stderr=True),
                auto_refresh=False,
                transient=True,
            ) as bar:
                task = bar.add_task("", total=None)

                def progress(text: str, done: int, total: int) -> None:
                    bar.update(task, description=text, completed=done, total=total, refresh=True)

                starter = start(cache_dir() / "peers", install=install)
                run = measure(
                    settings, starter, command=command, libraries=libraries, progress=progress
                )
            out.mkdir(parents=True, exist_ok=True)
            (out / "peers.json").write_text(json.dumps(asdict(run), indent=1) + "\n", "utf-8")
        out.mkdir(parents=True, exist_ok=True)
        (out / "peers.html").write_text(page(run), "utf-8")
    except PeerError as error:
        Console(stderr=True).print(f"[red]error:[/] {error}", highlight=False)
        raise typer.Exit(2) from error
    if as_markdown:
        typer.echo(markdown(run))
    else:
        _print(run, console)
        console.print(f"{out / 'peers.html'}", highlight=False)
    if problem := _ours_failed(run):
        Console(stderr=True).print(f"[red]error:[/] {problem}", highlight=False)
        raise typer.Exit(1)


def _libraries(only: list[str] | None) -> list[Spec]:
    for prefix in only or []:
        if not any(spec.name.startswith(prefix) for spec in LIBRARIES):
            names = ", ".join(f"'{spec.name}'" for spec in LIBRARIES)
            raise PeerError(f"no library is named '{prefix}'; there are {names}")
    return [spec for spec in LIBRARIES if only is None or spec.name.startswith(tuple(only))]


def _settings(bits: tuple[int, ...], rounds: int, turn: float, core: int | None) -> Settings:
    allowed = sorted(os.sched_getaffinity(0))
    if core is None:
        core = allowed[-1]
    if core not in allowed:
        raise PeerError(f"CPU {core} is not one of {allowed}, which this process may use")
    for size in bits:
        if not 1024 <= size <= 8192 or size % 128:
            raise PeerError(f"key size {size} is not a multiple of 128 in [1024, 8192]")
    others = [each for each in allowed if each != core]
    return Settings(bits, rounds, turn, core, others[-1] if others else None)


def _load(path: Path) -> Run:
    try:
        return Run.load(json.loads(path.read_text("utf-8")))
    except (OSError, ValueError) as error:
        raise PeerError(f"{path} cannot be read: {error}") from error


def _print(run: Run, console: Console) -> None:
    console.print(where(run), highlight=False)
    for section in sections(run):
        if section.rows:
            table = Table(title=section.title, title_justify="left", box=SIMPLE_HEAD)
            table.add_column("operation")
            for column in ("key", "ours, op/s", "theirs, op/s", "ratio", "least to greatest"):
                table.add_column(column, justify="right")
            table.add_column("theirs", no_wrap=True)
            table.add_column("target", justify="right")
            table.add_column("")
            for row in section.rows:
                assert row.ratio is not None
                table.add_row(
                    row.operation,
                    str(row.bits),
                    rate(row.ours_rate),
                    rate(row.theirs_rate),
                    f"{row.ratio.median:.2f}",
                    f"{row.ratio.low:.2f} to {row.ratio.high:.2f}",
                    row.theirs,
                    "" if row.target is None else str(row.target),
                    row.verdict,
                )
            console.print(table)
        else:
            console.print(section.title, style="italic", highlight=False)
        for note in section.notes:
            console.print(f"  {note}", highlight=False)
    for each in failures(run):
        console.print(f"not measured: {each}", highlight=False)


def _ours_failed(run: Run) -> str | None:
    """Why the run says nothing: Residue itself is missing or wrong."""
    for library in run.libraries:
        if library.name == BEST.name and library.missing is not None:
            return f"{BEST.name}: {library.missing}"
    for cell in run.cells:
        if cell.library.startswith(BEST.name) and cell.missing is not None:
            return f"{cell.library}, {cell.operation} {cell.bits}: {cell.missing}"
    return None


if __name__ == "__main__":
    app()
