"""All parties of a job as threads of this process, over real gRPC with mutual TLS."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import residue
from residue.backends import Backend
from residue_federated import Identity, Job, PartyReport, TrialAuthority, run_party
from residue_federated._transport import Message

__all__ = ["Run", "run_all"]


@dataclass
class Run:
    """What all parties of a job ended with."""

    reports: dict[str, PartyReport] = field(default_factory=dict)
    errors: dict[str, residue.ResidueError] = field(default_factory=dict)
    messages: list[Message] = field(default_factory=list)


def run_all(
    job: Job,
    directory: Path,
    identities: dict[str, Identity] | None = None,
    backend: Backend | None = None,
    **changed: Job,
) -> Run:
    """Run every party in a thread, all on one backend, by default the CPU.

    `changed` gives a party a job of its own.
    """
    authority, run = TrialAuthority(), Run()
    ports: dict[str, int] = {}
    met = threading.Barrier(len(job.parties), timeout=60)
    device = backend or residue.get_backend("cpu")

    def observe(message: Message) -> None:
        if message.party == message.sender:
            run.messages.append(message)

    def one(name: str) -> None:
        def meet(port: int) -> dict[str, str]:
            ports[name] = port
            met.wait()
            return {other: f"127.0.0.1:{port}" for other, port in ports.items() if other != name}

        identity = (identities or {}).get(name) or authority.issue(directory / name, name)
        try:
            run.reports[name] = run_party(
                changed.get(name, job),
                name,
                identity,
                listen="127.0.0.1:0",
                meet=meet,
                backend=device,
                directory=directory / name,
                observer=observe,
                trace=True,
            )
        except residue.ResidueError as error:
            run.errors[name] = error
            met.abort()
        except threading.BrokenBarrierError:
            return

    with ThreadPoolExecutor(len(job.parties)) as pool:
        list(pool.map(one, [party.name for party in job.parties]))
    return run
