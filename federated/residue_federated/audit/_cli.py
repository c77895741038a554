"""The command ``residue fl audit``."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from residue_federated.errors import RecordError

if TYPE_CHECKING:
    from residue_federated.audit._verify import AuditReport

__all__ = ["audit"]


def audit(
    directory: Annotated[
        Path,
        typer.Argument(
            help="A run's directory, or one with a directory a party.", show_default=False
        ),
    ],
    job_file: Annotated[
        Path | None, typer.Option("--job", help="Job file [default: DIRECTORY/job.json].")
    ] = None,
    authority: Annotated[
        Path | None,
        typer.Option(help="Certificate of the job's authority [default: a party's ca.pem]."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object on standard output.")
    ] = False,
) -> None:
    """Check the records of a run: chains, signatures, protocol and data, party against party.

    Exit code 1 if anything is wrong.
    """
    from residue_federated._jobs import load_job
    from residue_federated.audit._live import RECORD
    from residue_federated.audit._verify import audit_records

    job = load_job(job_file or directory / "job.json")
    records = {}
    for party in job.parties:
        path = directory / party.name / RECORD
        if path.parent.is_dir():
            records[party.name] = path
    if not records:
        raise RecordError(f"{directory} has no directory of any party of {job.name}")
    report = audit_records(job, records, authority or _own_authority(directory, list(records)))
    if as_json:
        typer.echo(json.dumps({"ok": report.ok, "named": report.named, **asdict(report)}))
    else:
        _show(report)
    if not report.ok:
        raise typer.Exit(1)


def _own_authority(directory: Path, parties: list[str]) -> Path:
    """The certificate that all of the parties' directories have, of those that have one.

    Raises `RecordError` if none has, or if they differ: then one may be a party's own.
    """
    found = [path for p in parties if (path := directory / p / "ca.pem").is_file()]
    if not found:
        raise RecordError(f"{directory} has no ca.pem: give the authority's with --authority")
    try:
        contents = {path.read_bytes() for path in found}
    except OSError as error:
        raise RecordError(f"cannot read {error.filename}: {error.strerror}") from error
    if len(contents) > 1:
        raise RecordError(
            f"the parties in {directory} have different ca.pem: give the authority's with "
            "--authority"
        )
    return found[0]


def _show(report: AuditReport) -> None:
    from residue_federated._display import console_of, table_of
    from residue_federated.transport import printable

    console = console_of()
    table = table_of(f"Audit of {report.job}", "party", "run", "entries", "signatures", "sent",
                     "received", "ciphertexts")  # fmt: skip
    for p in report.parties:
        counts = (p.entries, p.signatures, p.sent, p.received, p.ciphertexts)
        table.add_row(p.party, p.state, *(f"{count:,}" for count in counts))
    console.print(table)
    for missing in report.missing:
        console.print(f"no record of {missing} to compare with", highlight=False)
    for component in report.undeclared:
        console.print(f"{component} declares no protocol: its order was not checked")
    for finding in report.findings:
        where = f"{finding.source}'s record"
        where += "" if finding.entry is None else f", entry {finding.entry}"
        text = f"{finding.party or 'one of two'}: {finding.rule}: {finding.text} ({where})"
        console.print(printable(text), markup=False, highlight=False, soft_wrap=True)
    verdict = f"named: {', '.join(report.named) or 'nobody'}"
    verdict = "nothing is wrong" if report.ok else verdict
    console.print(verdict, highlight=False)
