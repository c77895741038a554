"""All parties of a job as threads of this process, over real gRPC with mutual TLS."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sklearn.metrics  # noqa: F401  # what a guest imports at its end would hold up all threads

import residue
from residue.backends import Backend
from residue_federated import Identity, Job, PartyReport, TrialAuthority, run_party
from residue_federated.transport import Message

__all__ = ["Run", "Staged", "job_of_files", "run_all"]


@dataclass
class Run:
    """What all parties of a job ended with. messages: as they left; received: as they came in."""

    reports: dict[str, PartyReport] = field(default_factory=dict)
    errors: dict[str, residue.ResidueError] = field(default_factory=dict)
    messages: list[Message] = field(default_factory=list)
    received: dict[str, list[Message]] = field(default_factory=dict)


class Staged(Exception):
    """A death that a test stages."""


def job_of_files(directory: Path, components: dict[str, Any]) -> Job:
    """Of guest, host and arbiter, on ``guest.csv`` with the label ``y`` and ``host.csv``."""
    return Job.model_validate(
        {
            "name": "t",
            "guest": {"name": "guest", "data": {"file": directory / "guest.csv", "label": "y"}},
            "hosts": [{"name": "host", "data": {"file": directory / "host.csv"}}],
            "arbiter": {"name": "arbiter"},
            "key": {"bits": 1024, "insecure_allow_1024": True},
            "components": components,
            "transport": {"connect_timeout": 20, "peer_timeout": 2},
        }
    )


def run_all(
    job: Job,
    directory: Path,
    *,
    identities: dict[str, Identity] | None = None,
    backend: Backend | None = None,
    models: Path | None = None,
    progress: Callable[[str, int], None] = lambda party, done: None,
    status: Callable[[PartyReport], None] = lambda report: None,
    changed: dict[str, Job] | None = None,
) -> Run:
    """Run every party in a thread, all on one backend, by default the CPU.

    models: the directory of the run whose models predict. progress: called with party and rounds
    done; a `Staged` that it raises ends the party without a word. status: as `run_party` has it.
    changed: jobs of their own.
    """
    authority, run = TrialAuthority(), Run()
    ports: dict[str, int] = {}
    met = threading.Barrier(len(job.parties), timeout=60)
    device = backend or residue.get_backend("cpu")

    def observe(message: Message) -> None:
        if message.party == message.sender:
            run.messages.append(message)
        else:
            run.received.setdefault(message.receiver, []).append(message)

    def one(name: str) -> None:
        def meet(port: int) -> dict[str, str]:
            ports[name] = port
            met.wait()
            return {other: f"127.0.0.1:{port}" for other, port in ports.items() if other != name}

        own = directory / name
        if (own / "key.pem").exists():  # of a run before this one
            identity = Identity.load(own, name)
        else:
            identity = (identities or {}).get(name) or authority.issue(own, name)
        try:
            run.reports[name] = run_party(
                (changed or {}).get(name, job),
                name,
                identity,
                listen="127.0.0.1:0",
                meet=meet,
                backend=device,
                directory=directory / name,
                models=models and models / name,
                progress=lambda component, done, total, loss: progress(name, done),
                status=status,
                observer=observe,
                trace=True,
            )
        except residue.ResidueError as error:
            run.errors[name] = error
            met.abort()
        except (Staged, threading.BrokenBarrierError):
            return

    with ThreadPoolExecutor(len(job.parties)) as pool:
        list(pool.map(one, [party.name for party in job.parties]))
    return run
