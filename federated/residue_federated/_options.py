"""What command lines of jobs share: options, those that name parties, and warnings."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Annotated

import typer

from residue.errors import InsecureKeyWarning
from residue_federated._jobs import Job
from residue_federated.errors import JobError

__all__ = [
    "AsJson",
    "Device",
    "JobFile",
    "KeyBits",
    "Plain",
    "Processes",
    "Rounds",
    "changed",
    "mapping",
    "warn_of_key",
]

JobFile = Annotated[Path, typer.Argument(help="Job file (YAML).", show_default=False)]
Device = Annotated[
    str | None,
    typer.Option(help="cpu, card, auto, card:ADDRESS; or guest=...,host=...,arbiter=..."),
]
KeyBits = Annotated[int | None, typer.Option(help="Size of n instead of the job's.")]
Rounds = Annotated[
    int | None,
    typer.Option("--epochs", "--trees", help="Number of epochs or trees, not the job's."),
]
AsJson = Annotated[
    bool, typer.Option("--json", help="End with one JSON object on standard output.")
]
Processes = Annotated[
    int | None,
    typer.Option(
        min=0, max=256, help="Worker processes of a party, 0 for none [default: one a core]."
    ),
]
Plain = Annotated[bool, typer.Option("--plain", help="Lines instead of a bar.")]


def changed(job: Job, device: str | None, key_bits: int | None, rounds: int | None) -> Job:
    """The job with what options change of it. Warns where its key is then insecure."""
    devices = None if device is None else _devices_of(job, device)
    job = job.replace(devices=devices, key_bits=key_bits, rounds=rounds)
    warn_of_key(job)
    return job


def _devices_of(job: Job, text: str) -> dict[str, str]:
    """``cpu`` for all parties, or ``guest=card:A,host=cpu``."""
    if "=" not in text:
        return {party.name: text for party in job.parties}
    return mapping("--device", text)


def mapping(option: str, text: str) -> dict[str, str]:
    """``guest=A,host=B``"""
    found = {}
    for item in text.split(","):
        name, separator, value = item.partition("=")
        if not (name and separator and value):
            raise JobError(f"{option}: expected party=value, got '{item}'")
        found[name] = value
    return found


def warn_of_key(job: Job) -> None:
    """Say that the job's key is insecure, if it is."""
    if job.key.insecure:
        warnings.warn(
            f"the job asks for a {job.key.bits}-bit key, which is insecure; "
            "use it for comparisons only",
            InsecureKeyWarning,
            stacklevel=2,
        )
