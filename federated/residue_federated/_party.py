"""One party of a job, from its certificate to its files."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from residue.backends import Backend, get_backend
from residue.errors import ResidueError
from residue_federated._certificates import Identity
from residue_federated._data import Scaling, Table, load_table
from residue_federated._jobs import Job
from residue_federated._models import metrics
from residue_federated._transport import Endpoint, Message
from residue_federated._vertical import Progress, Trained, run_arbiter, run_guest, run_host

__all__ = ["PartyReport", "run_party", "write_atomically"]


@dataclass
class PartyReport:
    """What a party tells about its run; nothing of its data but, at the guest, metrics and losses.

    operations: one row an operation of its device, from the device's own counters. seconds: of
    training, without set-up. gradients: every decrypted gradient, only where a trace was asked for.
    """

    party: str
    role: str
    device: dict[str, Any]
    rows: int = 0
    epochs: int = 0
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)
    operations: list[dict[str, Any]] = field(default_factory=list)
    messages: int = 0
    bytes: int = 0
    gradients: list[list[int]] | None = None


def run_party(
    job: Job,
    name: str,
    identity: Identity,
    *,
    listen: str,
    meet: Callable[[int], Mapping[str, str]],
    backend: Backend | None = None,
    progress: Progress = lambda epoch, loss: None,
    observer: Callable[[Message], None] | None = None,
    trace: bool = False,
) -> tuple[PartyReport, dict[str, Any] | None]:
    """Run one party of `job` to its end.

    Args:
        job: the job.
        name: which party.
        identity: its certificate and key.
        listen: ``host:port`` to serve on; port 0 takes a free one.
        meet: gets the port that is served, returns the addresses of all other parties.
        backend: what it computes on; None opens the job's device for it, and closes it in the end.
        progress: called with 0 when training starts and after every epoch.
        observer: sees every message that leaves.
        trace: keep the decrypted gradients in the report.

    Returns:
        The report, and the party's share of the model (None for the arbiter).

    Raises:
        FederatedError: data, peers or the training failed; the peers have been told.
    """
    role = job.role(name)
    table = None if role == "arbiter" else load_table(job, name)
    opened = get_backend(job.party(name).device) if backend is None else None
    backend = backend or opened
    assert backend is not None
    backend.reset_stats()
    times: list[float] = []

    def on_epoch(epoch: int, loss: float | None) -> None:
        times.append(time.perf_counter())
        progress(epoch, loss)

    trained, losses = None, []
    try:
        with (
            Endpoint(
                name, job.digest, identity, job.transport, listen=listen, observer=observer
            ) as endpoint,
            _telling(endpoint),
        ):
            endpoint.connect(meet(endpoint.port))
            if table is None:
                losses = run_arbiter(job, endpoint, backend, on_epoch)
            elif role == "guest":
                trained = run_guest(job, endpoint, table, backend, on_epoch)
                losses = trained.losses
            else:
                trained = run_host(job, name, endpoint, table, backend, on_epoch)
        report = PartyReport(
            name,
            role,
            {"name": backend.name, **backend.describe()},
            rows=0 if table is None else len(table.ids),
            epochs=len(times) - 1,
            seconds=times[-1] - times[0],
            losses=losses,
            operations=[
                {"operation": operation, **asdict(cost)}
                for operation, cost in sorted(backend.stats().items())
            ],
            messages=endpoint.traffic.messages,
            bytes=endpoint.traffic.bytes,
            gradients=trained.gradients if trained is not None and trace else None,
        )
    finally:
        backend.clear_secrets()
        if opened is not None:
            opened.close()
    if table is None or trained is None:
        return report, None
    if trained.scores is not None and table.y is not None:
        y, u = table.y, trained.scores
        if table.y_scaling is not None:
            y, u = table.y_scaling.undo(y), table.y_scaling.undo(u)
        report.metrics = metrics(job, y, u)
    return report, _model(job, name, table, trained)


@contextlib.contextmanager
def _telling(endpoint: Endpoint) -> Iterator[None]:
    """Tell the peers why, before an error leaves."""
    try:
        yield
    except ResidueError as error:
        endpoint.abort(str(error))
        raise
    except BaseException:
        endpoint.abort("internal error")
        raise


def _model(job: Job, name: str, table: Table, trained: Trained) -> dict[str, Any]:
    def scaling(of: Scaling | None) -> dict[str, Any] | None:
        if of is None:
            return None
        return {"mean": of.mean.tolist(), "deviation": of.deviation.tolist()}

    return {
        "version": 1,
        "job": job.name,
        "party": name,
        "algorithm": job.algorithm,
        "columns": table.columns,
        "weights": trained.weights.tolist(),
        "intercept": trained.intercept,
        "scaling": scaling(table.x_scaling),
        "target_scaling": scaling(table.y_scaling),
    }


def write_atomically(path: Path, content: Any) -> None:
    """Write `content` as JSON, mode 0600; the file is there complete or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(content, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
