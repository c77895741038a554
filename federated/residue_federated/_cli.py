"""The commands ``residue fl run | party | certs | check``."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from residue.errors import InsecureKeyWarning, ResidueError
from residue_federated._jobs import Job, load_job
from residue_federated.errors import JobError

__all__ = ["app"]

app = typer.Typer(
    help="Federated learning on encrypted data.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

_JobFile = Annotated[Path, typer.Argument(help="Job file (YAML).", show_default=False)]


@app.command()
def run(
    job_file: _JobFile,
    device: Annotated[
        str | None,
        typer.Option(help="cpu, card, auto, card:ADDRESS; or guest=...,host=...,arbiter=..."),
    ] = None,
    key_bits: Annotated[int | None, typer.Option(help="Size of n instead of the job's.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Number of epochs, not the job's.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Run directory to make [default: runs/NAME-TIME].")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="End with one JSON object on standard output.")
    ] = False,
    plain: Annotated[bool, typer.Option("--plain", help="Lines instead of a bar.")] = False,
    verify_cpu: Annotated[
        bool,
        typer.Option(
            "--verify-cpu", help="Repeat on the CPU and compare every decrypted gradient."
        ),
    ] = False,
) -> None:
    """Run all parties of a job on this machine, each as a process of its own."""
    from residue_federated._party import write_atomically
    from residue_federated._results import compare_gradients, result_of, show_result
    from residue_federated._trial import new_run_directory, run_trial
    from residue_federated._twin import train_in_the_clear

    console = _console(stderr=as_json)
    job = load_job(job_file)
    devices = None if device is None else _devices(job, device)
    job = job.replace(devices=devices, key_bits=key_bits, epochs=epochs)
    _warn_of_key(job)
    target = out or Path("runs") / f"{job.name}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    with new_run_directory(target) as directory:
        with _Display(console, job, "training", plain) as display:
            reports = run_trial(job, directory, watch=display.watch, trace=verify_cpu)
        result = result_of(job, reports, train_in_the_clear(job))
        if verify_cpu:
            on_cpu = job.replace(devices={party.name: "cpu" for party in job.parties})
            with _Display(console, job, "verification on the CPU", plain) as display:
                again = run_trial(
                    on_cpu, directory / "verification", watch=display.watch, trace=True
                )
            result["verified_gradients"] = compare_gradients(job, reports, again)
        write_atomically(directory / "result.json", result)
    if as_json:
        typer.echo(json.dumps(result))
    else:
        show_result(console, result)
        console.print(f"Everything is in {target}", soft_wrap=True)


@app.command()
def party(
    job_file: Annotated[Path, typer.Option("--job", help="Job file (YAML).")],
    name: Annotated[
        str, typer.Option("--party", "--role", help="Which party of the job this one is.")
    ],
    certificates: Annotated[
        Path, typer.Option(help="Directory with key.pem, cert.pem and ca.pem.")
    ],
    out: Annotated[Path, typer.Option(help="Directory for this party's report and model.")],
    listen: Annotated[str, typer.Option(help="Address to serve on, host:port.")],
    events: Annotated[
        bool,
        typer.Option(
            "--events",
            help="For a launcher: events as JSON lines on standard output, the others' addresses "
            "from standard input.",
        ),
    ] = False,
    trace: Annotated[
        bool, typer.Option("--trace", help="Keep this party's decrypted gradients in its report.")
    ] = False,
) -> None:
    """Run one party of a job. Without --events, addresses come from the job file."""
    from residue_federated._certificates import Identity
    from residue_federated._party import run_party, write_atomically

    def run_with(
        job: Job,
        meet: Callable[[int], Mapping[str, str]],
        progress: Callable[[int, float | None], None],
    ) -> dict[str, Any]:
        identity = Identity.load(certificates, name)
        report, model = run_party(
            job, name, identity, listen=listen, meet=meet, progress=progress, trace=trace
        )
        if model is not None:
            write_atomically(out / "model.json", model)
        write_atomically(out / "report.json", asdict(report))
        return asdict(report)

    if events:
        raise typer.Exit(_run_for_launcher(job_file, run_with))
    job = load_job(job_file)
    _warn_of_key(job)
    job.party(name)
    addresses = {p.name: p.address for p in job.parties if p.name != name}
    unknown = [other for other, address in addresses.items() if address is None]
    if unknown:
        raise JobError(f"the job gives no address for {', '.join(unknown)}")
    known = {other: address for other, address in addresses.items() if address is not None}

    def show(epoch: int, loss: float | None) -> None:
        text = f"epoch {epoch}/{job.training.epochs}" if epoch else "training starts"
        typer.echo(text if loss is None else f"{text}  loss {loss:.6f}", err=True)

    run_with(job, lambda port: known, show)
    typer.echo(f"{name}: done, see {out}")


def _warn_of_key(job: Job) -> None:
    if job.key.insecure:
        warnings.warn(
            f"the job asks for a {job.key.bits}-bit key, which is insecure; "
            "use it for comparisons only",
            InsecureKeyWarning,
            stacklevel=2,
        )


@app.command()
def certs(
    directory: Annotated[Path, typer.Argument(help="Where to put one directory a party.")],
    parties: Annotated[list[str], typer.Argument(help="Names of the parties, as in the job.")],
) -> None:
    """Make trial certificates: a new authority, and a key and certificate for each party."""
    from residue_federated._certificates import TrialAuthority

    authority = TrialAuthority()
    for name in parties:
        authority.issue(directory / name, name)
        typer.echo(str(directory / name))


@app.command()
def check(
    job_file: _JobFile,
    as_json: Annotated[bool, typer.Option("--json", help="The checked job as JSON.")] = False,
) -> None:
    """Check a job file and the data it names, and show what would run."""
    from residue_federated._data import load_table

    job = load_job(job_file)
    tables = {p.name: load_table(job, p.name) for p in (job.guest, *job.hosts)}
    if as_json:
        typer.echo(json.dumps({**job.model_dump(mode="json"), "digest": job.digest}))
        return
    console = _console()
    table = Table("party", "role", "device", "rows", "features", title=job.name)
    for p in job.parties:
        held = tables.get(p.name)
        sizes = ("-", "-") if held is None else (str(len(held.ids)), str(held.x.shape[1]))
        table.add_row(p.name, job.role(p.name), p.device, *sizes)
    console.print(table)
    training = job.training
    batch = "full batch" if training.batch_size is None else f"batches of {training.batch_size}"
    console.print(
        f"{job.algorithm}, {job.key.bits}-bit key, at most {training.epochs} epochs, {batch}"
    )


def _console(*, stderr: bool = False) -> Console:
    """A console; without a terminal its lines are long enough for every table."""
    console = Console(stderr=stderr)
    return console if console.is_terminal else Console(stderr=stderr, width=120)


def _devices(job: Job, text: str) -> dict[str, str]:
    """``cpu`` for all parties, or ``guest=card:A,host=cpu``."""
    if "=" not in text:
        return {party.name: text for party in job.parties}
    devices = {}
    for item in text.split(","):
        name, separator, device = item.partition("=")
        if not (name and separator and device):
            raise JobError(f"--device: expected party=device, got '{item}'")
        devices[name] = device
    return devices


class _Display:
    """Progress of a trial: a bar on a terminal, else a line an epoch."""

    def __init__(self, console: Console, job: Job, title: str, plain: bool) -> None:
        self._console = console
        self._guest = job.guest.name
        self._epochs = job.training.epochs
        self._title = title
        self._started = time.monotonic()
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
            self._task = self._bar.add_task(f"{title}: starting", total=self._epochs, loss="")

    def __enter__(self) -> _Display:
        if self._bar is not None:
            self._bar.start()
        else:
            self._say("starting the parties")
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def watch(self, event: Any) -> None:
        """Show an event of a party."""
        if event.kind == "log" and event.content["text"]:
            self._console.print(f"{event.party}: {event.content['text']}", markup=False)
        if event.kind != "epoch" or event.party != self._guest:
            return
        epoch, loss = event.content["epoch"], event.content["loss"]
        if self._bar is not None:
            text = "" if loss is None else f"loss {loss:.6f}"
            self._bar.update(self._task, description=self._title, completed=epoch, loss=text)
        elif epoch == 0:
            self._started = time.monotonic()
            self._say("keys are made, training starts")
        else:
            took = time.monotonic() - self._started
            left = took / epoch * (self._epochs - epoch)
            self._say(f"epoch {epoch}/{self._epochs}  loss {loss:.6f}  {left:.0f} s left at most")

    def _say(self, text: str) -> None:
        self._console.print(f"{self._title}: {text}", markup=False, highlight=False)


_Meet = Callable[[int], Mapping[str, str]]
_RunWith = Callable[[Job, _Meet, Callable[[int, float | None], None]], dict[str, Any]]


def _run_for_launcher(job_file: Path, run_with: _RunWith) -> int:
    """A party as a launcher's child: see `residue_federated._trial`. Returns the exit code."""

    def say(event: str, **content: Any) -> None:
        print(json.dumps({"event": event, **content}), flush=True)

    def meet(port: int) -> Mapping[str, str]:
        say("listening", port=port, pid=os.getpid())
        line = sys.stdin.readline()
        if not line:  # the launcher is gone
            raise typer.Exit(1)
        addresses: dict[str, str] = json.loads(line)
        threading.Thread(target=_end_with_launcher, daemon=True).start()
        return addresses

    try:
        report = run_with(
            load_job(job_file), meet, lambda epoch, loss: say("epoch", epoch=epoch, loss=loss)
        )
    except ResidueError as error:
        say("failed", type=type(error).__name__, message=str(error))
        return 1
    say("done", **report)
    return 0


def _end_with_launcher() -> None:
    sys.stdin.read()
    os._exit(1)
