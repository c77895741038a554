"""The command ``residue fl plan``."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from residue_federated._options import (
    AsJson,
    Device,
    JobFile,
    KeyBits,
    Plain,
    Rounds,
    changed,
    mapping,
)
from residue_federated.errors import JobError

if TYPE_CHECKING:
    from residue_federated._jobs import Job
    from residue_federated._trial import Event
    from residue_federated.planning._stage import Size

__all__ = ["plan", "tell_plan"]

WITHIN = 30.0
"""Seconds that rehearsals may take."""


def plan(
    job_file: JobFile,
    device: Device = None,
    key_bits: KeyBits = None,
    epochs: Rounds = None,
    rows: Annotated[
        str | None, typer.Option(help="Of tables that are not here: host=100000,host-2=90000.")
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option(
            help="Of tables that are not here, where the job does not name them: host=40."
        ),
    ] = None,
    within: Annotated[
        float, typer.Option(min=0, help="Seconds that rehearsals may take, about.")
    ] = WITHIN,
    as_json: AsJson = False,
    plain: Plain = False,
) -> None:
    """Estimate what a job costs: time, messages, bytes, memory; who sends what to whom.

    The job is rehearsed on this machine with fewer rows and rounds. Nothing is sent to anybody.
    """
    from residue_federated._jobs import load_job

    job = changed(load_job(job_file), device, key_bits, epochs)
    tell_plan(job, _sizes(rows, columns), within=within, as_json=as_json, plain=plain)


def tell_plan(
    job: Job,
    sizes: dict[str, Size] | None = None,
    *,
    within: float = WITHIN,
    as_json: bool,
    plain: bool,
) -> None:
    """Print the plan of a job."""
    from residue_federated._display import Display, console_of
    from residue_federated.planning._plan import plan_job
    from residue_federated.planning._show import show_plan

    console = console_of(stderr=as_json)
    with ExitStack() as shown:

        def watch(rows: int, smaller: Job) -> Callable[[Event], None]:
            shown.close()  # of the rehearsal before
            title = f"rehearsal with {rows:,} rows: "
            return shown.enter_context(Display(console, smaller, title, plain)).watch

        planned = plan_job(job, sizes, within=within, watch=watch)
    if as_json:
        typer.echo(json.dumps(asdict(planned)))
    else:
        show_plan(console, planned)


def _sizes(rows: str | None, columns: str | None) -> dict[str, Size]:
    from residue_federated.planning._stage import Size

    height, width = (
        {} if text is None else _numbers(option, text)
        for option, text in (("--rows", rows), ("--columns", columns))
    )
    alone = width.keys() - height.keys()
    if alone:
        raise JobError(f"--columns without --rows of {', '.join(sorted(alone))}")
    return {name: Size(count, width.get(name)) for name, count in height.items()}


def _numbers(option: str, text: str) -> dict[str, int]:
    try:
        return {name: int(value) for name, value in mapping(option, text).items()}
    except ValueError as error:
        raise JobError(f"{option}: expected party=number, got '{text}'") from error
