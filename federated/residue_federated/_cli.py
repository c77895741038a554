"""The commands of ``residue fl``."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from residue.errors import ResidueError
from residue_federated._display import Display, console_of, table_of
from residue_federated._jobs import Job, load_job
from residue_federated._options import (
    AsJson,
    Device,
    JobFile,
    KeyBits,
    Plain,
    Processes,
    Rounds,
    changed,
    mapping,
    warn_of_key,
)
from residue_federated._serve_cli import serve
from residue_federated.audit._cli import audit
from residue_federated.console._cli import ui
from residue_federated.errors import CertificateError, JobError
from residue_federated.planning._cli import plan, tell_plan
from residue_federated.store._cli import app as runs

if TYPE_CHECKING:
    from residue_federated._party import PartyReport
    from residue_federated.store import RunWriter

__all__ = ["app"]

app = typer.Typer(
    help="Federated learning on encrypted data.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

app.command()(audit)
app.command()(plan)
app.command()(ui)
app.command()(serve)
app.add_typer(runs, name="runs")


@app.command()
def run(
    job_file: JobFile,
    device: Device = None,
    ray: Annotated[
        str | None,
        typer.Option(help="Address of a Ray cluster, as party=ADDRESS,...; see docs/scale.md."),
    ] = None,
    processes: Processes = None,
    key_bits: KeyBits = None,
    epochs: Rounds = None,
    out: Annotated[
        Path | None, typer.Option(help="Run directory to make [default: runs/NAME-TIME].")
    ] = None,
    as_json: AsJson = False,
    plain: Plain = False,
    verify_cpu: Annotated[
        bool,
        typer.Option(
            "--verify-cpu", help="Repeat on the CPU and compare every decrypted gradient."
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only estimate what it costs: residue fl plan.")
    ] = False,
) -> None:
    """Run all parties of a job on this machine, each as a process of its own.

    A run that is interrupted or loses a party stays as NAME.partial: see residue fl resume.
    """
    from residue_federated._trial import default_run_directory, new_run_directory
    from residue_federated.store import recorded

    job = load_job(job_file)
    rays = None if ray is None else mapping("--ray", ray)
    workers = None if processes is None else {party.name: processes for party in job.parties}
    job = changed(job.replace(rays=rays, processes=workers), device, key_bits, epochs)
    if verify_cpu and job.trainer is not None and not job.components[job.trainer].core.repeats:
        raise JobError(
            f"--verify-cpu: what {job.trainer} decrypts is hidden by masks that differ from run to "
            "run, so there is nothing to compare"
        )
    if dry_run:
        return tell_plan(job, as_json=as_json, plain=plain)
    target = out or default_run_directory(job)
    with (
        _offer_to_resume(),
        new_run_directory(target) as directory,
        recorded(job, directory, target=target) as record,
    ):
        result = _run_trial(
            job, directory, record, as_json=as_json, plain=plain, verify_cpu=verify_cpu
        )
    _tell(result, target, as_json=as_json)


@app.command()
def resume(
    directory: Annotated[
        Path, typer.Argument(help="What an undone run left: NAME.partial.", show_default=False)
    ],
    as_json: AsJson = False,
    plain: Plain = False,
) -> None:
    """Go on with a run from the last checkpoint that all its parties have."""
    from residue_federated._trial import resumed_run_directory
    from residue_federated.store import recorded

    with _offer_to_resume(), resumed_run_directory(directory) as (partial, target):
        job = load_job(partial / "job.json")
        warn_of_key(job)
        with recorded(job, partial, target=target, resumed=True) as record:
            result = _run_trial(
                job, partial, record, as_json=as_json, plain=plain, verify_cpu=False
            )
    _tell(result, target, as_json=as_json)


@app.command()
def predict(
    directory: Annotated[
        Path, typer.Argument(help="Run directory of a finished job.", show_default=False)
    ],
    data: Annotated[str, typer.Option(help="New files: guest=new_guest.csv,host=new_host.csv.")],
    out: Annotated[Path, typer.Option(help="Directory to make for the predictions.")],
    as_json: AsJson = False,
) -> None:
    """Apply the models of a finished job to new rows, all parties on this machine.

    The guest's predictions are in OUT/GUEST/COMPONENT.csv. For parties on machines of their own:
    residue fl party --predict.
    """
    from residue_federated._runs import both
    from residue_federated._trial import new_run_directory, run_trial
    from residue_federated.store import recorded

    if not (directory / "result.json").is_file():
        raise JobError(f"{directory} is no directory of a finished run")
    job = load_job(directory / "job.json")
    files = {name: Path(file).resolve() for name, file in mapping("--data", data).items()}
    job = job.replace(files=files)
    console = console_of(stderr=as_json)
    with (
        new_run_directory(out) as made,
        recorded(job, made, target=out, kind="predict") as record,
        Display(console, job, "", True) as display,
    ):
        watch = both(display.watch, record.event)
        reports = run_trial(job, made, watch=watch, models=directory.resolve())
    guest = job.guest.name
    written = [str(out / guest / file) for file in reports[guest].files]
    rows = reports[guest].rows
    if as_json:
        typer.echo(json.dumps({"rows": rows, "files": written}))
    else:
        console.print(f"{rows} rows: {', '.join(written)}", soft_wrap=True)


@contextmanager
def _offer_to_resume() -> Iterator[None]:
    """When a run ends early and left something to go on from, say how."""
    try:
        yield
    except BaseException as error:
        for note in getattr(error, "__notes__", []):
            typer.echo(note, err=True)
        raise


@app.command()
def report(
    directory: Annotated[
        Path, typer.Argument(help="Run directory of a finished job.", show_default=False)
    ],
    out: Annotated[
        Path | None, typer.Option(help="HTML file to write [default: DIRECTORY/report.html].")
    ] = None,
) -> None:
    """Write a run as one self-contained HTML page: curves, time, traffic, audit."""
    from residue_federated._report import write_report_of

    path = out or directory / "report.html"
    write_report_of(directory, path)
    typer.echo(str(path))


def _run_trial(
    job: Job,
    directory: Path,
    record: RunWriter,
    *,
    as_json: bool,
    plain: bool,
    verify_cpu: bool,
) -> dict[str, Any]:
    """All parties below `directory`, and what they ended with."""
    from residue_federated._checkpoint import write_json
    from residue_federated._results import compare_gradients
    from residue_federated._runs import both, concluded
    from residue_federated._trial import run_trial

    console = console_of(stderr=as_json)
    with Display(console, job, "", plain) as display:
        watch = both(display.watch, record.event)
        reports = run_trial(job, directory, watch=watch, trace=verify_cpu)
    result = concluded(job, directory, reports, record)
    if job.trainer is not None and "plaintext_metrics" not in result:
        console.print("A table is larger than memory: no comparison in the clear.")
    if verify_cpu:
        on_cpu = job.replace(devices={party.name: "cpu" for party in job.parties})
        with Display(console, job, "verification on the CPU: ", plain) as display:
            again = run_trial(on_cpu, directory / "verification", watch=display.watch, trace=True)
        result["verified_gradients"] = compare_gradients(job, reports, again)
    write_json(directory / "result.json", result)
    record.artefact("result.json")
    return result


def _tell(result: dict[str, Any], target: Path, *, as_json: bool) -> None:
    from residue_federated._results import show_result

    if as_json:
        typer.echo(json.dumps(result))
        return
    console = console_of()
    show_result(console, result)
    console.print(
        f"Everything is in {target}; a page of it: residue fl report {target}", soft_wrap=True
    )


@app.command()
def party(
    job_file: Annotated[Path, typer.Option("--job", help="Job file (YAML).")],
    name: Annotated[
        str, typer.Option("--party", "--role", help="Which party of the job this one is.")
    ],
    certificates: Annotated[
        Path, typer.Option(help="Directory with key.pem, cert.pem and ca.pem.")
    ],
    out: Annotated[
        Path, typer.Option(help="Directory for this party's report, models and checkpoints.")
    ],
    listen: Annotated[str, typer.Option(help="Address to serve on, host:port.")],
    events: Annotated[
        bool,
        typer.Option(
            "--events",
            help="For a launcher: events as JSON lines on standard output, the others' addresses "
            "from standard input.",
        ),
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the checkpoints in --out.")
    ] = False,
    predict_with: Annotated[
        Path | None,
        typer.Option("--predict", help="Apply the models in this directory, an earlier --out."),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="This party's file, in place of the job's.")
    ] = None,
    ray: Annotated[
        str | None, typer.Option(help="Address of this party's Ray cluster, or auto.")
    ] = None,
    processes: Processes = None,
    trace: Annotated[
        bool, typer.Option("--trace", help="Keep this party's decrypted integers in its report.")
    ] = False,
) -> None:
    """Run one party of a job. Without --events, addresses come from the job file."""
    from residue_federated._certificates import Identity
    from residue_federated._party import PartyReport, has_checkpoints, run_party
    from residue_federated.store import recorded

    if has_checkpoints(out) and not resume:
        raise JobError(f"{out} holds checkpoints of a run: go on with --resume, or remove them")

    def run_with(
        job: Job,
        meet: Callable[[int], Mapping[str, str]],
        progress: _Progress,
        status: Callable[[PartyReport], None],
    ) -> dict[str, Any]:
        identity = Identity.load(certificates, name)
        if data is not None:
            job = job.replace(files={name: data.resolve()})
        if ray is not None:
            job = job.replace(rays={name: ray})
        if processes is not None:
            job = job.replace(processes={name: processes})
        report = run_party(
            job,
            name,
            identity,
            listen=listen,
            meet=meet,
            directory=out,
            models=predict_with,
            progress=progress,
            status=status,
            trace=trace,
            resume=resume,
        )
        return asdict(report)

    if events:
        raise typer.Exit(_run_for_launcher(job_file, run_with))
    job = load_job(job_file)
    warn_of_key(job)
    job.party(name)
    addresses = {p.name: p.address for p in job.parties if p.name != name}
    unknown = [other for other, address in addresses.items() if address is None]
    if unknown:
        raise JobError(f"the job gives no address for {', '.join(unknown)}")
    known = {other: address for other, address in addresses.items() if address is not None}

    def show(component: str, done: int, total: int, loss: float | None) -> None:
        record.round(name, component, done, total, loss)
        text = f"{component}: {done}/{total}" if done else f"{component}: starts"
        typer.echo(text if loss is None else f"{text}  loss {loss:.6f}", err=True)

    kind: Literal["train", "predict"] = "predict" if predict_with else "train"
    with recorded(job, out, name, kind=kind, resumed=resume) as record:
        report = run_with(job, lambda port: known, show, record.status)
        record.party(PartyReport.of(report))
    found = {k: v for component in report["components"] for k, v in component["metrics"].items()}
    figures = "".join(f", {metric} {value:.4f}" for metric, value in found.items())
    typer.echo(f"{name}: done{figures}; see {out}")
    if report["unheard"]:
        typer.echo(
            f"{name} was done before it was started again; out of reach: "
            f"{', '.join(report['unheard'])}. Should one not have ended, start both again with "
            "--resume",
            err=True,
        )


@app.command()
def certs(
    directory: Annotated[Path, typer.Argument(help="Where to put one directory a party.")],
    parties: Annotated[list[str], typer.Argument(help="Names of the parties, as in the job.")],
) -> None:
    """Make trial certificates: a new authority, and a key and certificate for each party."""
    from pydantic import TypeAdapter, ValidationError

    from residue_federated._certificates import TrialAuthority
    from residue_federated._schema import Name

    for name in parties:
        try:
            TypeAdapter(Name).validate_python(name)
        except ValidationError:
            raise CertificateError(
                f"{name!r} is no party's name: a lower-case letter, and up to 62 of these, digits "
                "and hyphens"
            ) from None
    authority = TrialAuthority()
    for name in parties:
        authority.issue(directory / name, name)
        typer.echo(str(directory / name))


@app.command()
def check(
    job_file: JobFile,
    as_json: Annotated[bool, typer.Option("--json", help="The checked job as JSON.")] = False,
) -> None:
    """Check a job file and the data it names, and show what would run."""
    from residue_federated._data import load_table

    job = load_job(job_file)
    tables = {p.name: load_table(job, p.name) for p in (job.guest, *job.hosts)}
    if as_json:
        typer.echo(json.dumps({**job.model_dump(mode="json"), "digest": job.digest}))
        return
    console = console_of()
    table = table_of(job.name, "party", "role", "device", "rows", "features")
    for p in job.parties:
        held = tables.get(p.name)
        sizes = ("-", "-") if held is None else (str(len(held.ids)), str(held.x.shape[1]))
        table.add_row(p.name, job.role(p.name), p.device, *sizes)
    console.print(table)
    for component_name, component in job.components.items():
        takes = job.input_of(component_name) or "the parties' data"
        console.print(
            f"{component_name}: {component.type} of {takes}, {component.most_rounds} round(s) at "
            "most"
        )
    console.print(f"{job.key.bits}-bit key")


@app.command()
def schema() -> None:
    """Print the JSON schema of job files, for editors that complete and check YAML by it."""
    typer.echo(json.dumps(Job.model_json_schema(), indent=1))


_Meet = Callable[[int], Mapping[str, str]]
_Progress = Callable[[str, int, int, float | None], None]
_Status = Callable[["PartyReport"], None]
_RunWith = Callable[[Job, _Meet, _Progress, _Status], dict[str, Any]]


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
            load_job(job_file),
            meet,
            lambda component, done, total, loss: say(
                "round", component=component, done=done, total=total, loss=loss
            ),
            lambda report: say("status", **asdict(report)),
        )
    except ResidueError as error:
        say("failed", type=type(error).__name__, message=str(error))
        return 1
    say("done", **report)
    return 0


def _end_with_launcher() -> None:
    sys.stdin.read()
    os._exit(1)
