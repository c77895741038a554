"""The rows of a store. All times are Unix seconds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["Artefact", "Component", "ComponentState", "Kind", "Party", "Round", "Run", "RunState"]

RunState = Literal["running", "done", "failed", "stopped"]
ComponentState = Literal["waiting", "running", "done"]
Kind = Literal["train", "predict"]


@dataclass(frozen=True)
class Run:
    """One run of a job.

    party: None for a trial of all parties on one machine. folder: relative to the store, without a
    ``..``. job: as JSON. state: ``stopped`` if it was interrupted, or its process is gone.
    """

    id: int
    name: str
    party: str | None
    kind: Kind
    folder: str
    job: dict[str, Any]
    digest: str
    state: RunState
    started: float
    ended: float | None
    pid: int
    error: str | None

    @property
    def parties(self) -> list[str]:
        """Names of the job's parties, as far as it tells them, in its order."""
        hosts = self.job.get("hosts")
        told = [self.job.get("guest"), *(hosts if isinstance(hosts, list) else [])]
        found = [*told, self.job.get("arbiter")]
        return [str(p["name"]) for p in found if isinstance(p, dict) and "name" in p]


@dataclass(frozen=True)
class Component:
    """How far a component is; `started` and `ended` are None where it did not tell."""

    name: str
    type: str
    state: ComponentState
    started: float | None
    ended: float | None
    rounds: int
    total: int


@dataclass(frozen=True)
class Round:
    """A party has done `done` of at most `total` rounds; the loss where it knows it."""

    party: str
    component: str
    done: int
    total: int
    loss: float | None
    at: float


@dataclass(frozen=True)
class Party:
    """What a party did so far.

    encryption, waiting, other: seconds. peak_rss: bytes. operations: one row an operation of its
    device. audit_findings: that name it; None where no audit was made.
    """

    party: str
    role: str
    device: str
    messages: int
    bytes: int
    encryption: float
    waiting: float
    other: float
    peak_rss: int
    operations: list[dict[str, Any]]
    audit_findings: int | None


@dataclass(frozen=True)
class Artefact:
    """A file that a run left; `path` is relative to its folder, party None if it is of all."""

    party: str | None
    path: str
    sha256: str
    bytes: int
