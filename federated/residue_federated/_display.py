"""What the commands show on a console: tables, and the progress of a trial."""

from __future__ import annotations

import time
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from residue_federated._jobs import Job

__all__ = ["Display", "console_of", "table_of"]

_WORDS = frozenset(
    [
        "audit",
        "began",
        "component",
        "device",
        "directory",
        "ended",
        "file",
        "from",
        "job",
        "kind",
        "message",
        "metric",
        "operation",
        "party",
        "role",
        "run",
        "sha256",
        "started",
        "state",
        "to",
        "type",
    ]
)
"""Columns that are read from the left; all others hold numbers."""


def console_of(*, stderr: bool = False) -> Console:
    """A console; without a terminal its lines are long enough for every table."""
    console = Console(stderr=stderr)
    return console if console.is_terminal else Console(stderr=stderr, width=160)


def table_of(title: str | None, *columns: str) -> Table:
    """A table of these columns without rows."""
    table = Table(title=title, box=SIMPLE, padding=(0, 1), title_justify="left")
    for column in columns:
        table.add_column(column, justify="left" if column in _WORDS else "right", no_wrap=True)
    return table


class Display:
    """Progress of a trial: a bar a component on a terminal, else a line a round."""

    def __init__(self, console: Console, job: Job, title: str, plain: bool) -> None:
        self._console = console
        self._guest = job.guest.name
        self._title = title
        self._started: dict[str, tuple[float, int]] = {}
        self._tasks: dict[str, TaskID] = {}
        self._bar: Progress | None = None
        if console.is_terminal and not plain:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[loss]}"),
                TimeRemainingColumn(),
                console=console,
            )

    def __enter__(self) -> Display:
        self._say("starting the parties")
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def watch(self, event: Any) -> None:
        """Show an event of a party."""
        if event.kind == "log" and event.content["text"]:
            self._console.print(f"{event.party}: {event.content['text']}", markup=False)
        if event.kind != "round" or event.party != self._guest:
            return
        name, done, total = (event.content[key] for key in ("component", "done", "total"))
        loss = event.content["loss"]
        text = "" if loss is None else f"loss {loss:.6f}"
        now = time.monotonic()
        since, first = self._started.setdefault(name, (now, done))
        if self._bar is not None:
            if name not in self._tasks:
                self._tasks[name] = self._bar.add_task(self._title + name, total=total, loss="")
            self._bar.update(self._tasks[name], completed=done, loss=text)
        elif done == first:
            self._say(f"{name} starts" if done == 0 else f"{name} goes on after {done}/{total}")
        else:
            left = (now - since) / (done - first) * (total - done)
            self._say(f"{name} {done}/{total}  {text}  {left:.0f} s left at most")

    def _say(self, text: str) -> None:
        self._console.print(f"{self._title}{text}", markup=False, highlight=False)
