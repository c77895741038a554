"""Trial runs: all parties of a job on this machine, each a process with a directory of its own.

A child writes one JSON event a line to its standard output and reads the others' addresses from its
standard input, whose end tells it that the launcher is gone.
"""

from __future__ import annotations

import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import residue.errors
from residue.errors import ResidueError
from residue_federated import errors
from residue_federated._certificates import TrialAuthority
from residue_federated._checkpoint import write_json
from residue_federated._data import Table, load_table, scratch_of
from residue_federated._jobs import Job
from residue_federated._party import PartyReport, has_checkpoints
from residue_federated.errors import FederatedError, JobError, PeerFailed, PeerLost, ProtocolError

__all__ = [
    "Event",
    "default_run_directory",
    "new_run_directory",
    "resumed_run_directory",
    "run_trial",
    "tables_of",
]

_PARTIAL = ".partial"
_GRACE = 3.0
"""Seconds for the others to report after a party blamed another, and for all to end."""
_SETTLE = 0.5
"""Seconds for what a failed party still has to say."""


@dataclass(frozen=True)
class Event:
    """Something a party said. kind: listening, round, status, done, failed, log, ended."""

    party: str
    kind: str
    content: dict[str, Any]


def default_run_directory(job: Job) -> Path:
    """Where a run of now goes, if nobody says where: ``runs/NAME-TIME``."""
    return Path("runs") / f"{job.name}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"


@contextmanager
def new_run_directory(out: Path) -> Iterator[Path]:
    """A directory that becomes `out` if the block succeeds.

    If it does not, it vanishes, unless there are checkpoints in it, or a party broke the protocol:
    then it stays beside `out` as ``NAME.partial``, for `resumed_run_directory` and the audit.
    Raises `JobError` if either exists already.
    """
    partial = out.with_name(out.name + _PARTIAL)
    for path in (out, partial):
        if path.exists():
            how = f"resume it with residue fl resume {path}, " if path == partial else ""
            raise JobError(f"{path} exists already: {how}remove it or choose another --out")
    partial.mkdir(parents=True)
    try:
        with _settled(partial, out):
            yield partial
    except BaseException as error:
        # The records of a breach are evidence.
        if not (_has_checkpoints(partial) or isinstance(error, ProtocolError)):
            shutil.rmtree(partial, ignore_errors=True)
        raise


@contextmanager
def resumed_run_directory(partial: Path) -> Iterator[tuple[Path, Path]]:
    """A directory that an undone run left, and what it becomes if the block succeeds.

    If it does not, the directory stays, whatever is in it. Raises `JobError` if it is none, or what
    it would become exists.
    """
    out = partial.with_name(partial.name.removesuffix(_PARTIAL))
    if not partial.name.endswith(_PARTIAL) or not (partial / "job.json").is_file():
        raise JobError(f"{partial} is no undone run: expected a directory NAME{_PARTIAL}")
    if out.exists():
        raise JobError(f"{out} exists already: remove it first")
    with _settled(partial, out):
        yield partial, out


@contextmanager
def _settled(partial: Path, out: Path) -> Iterator[None]:
    try:
        yield
        partial.rename(out)
    except BaseException as error:
        if _has_checkpoints(partial):
            error.add_note(f"What was done is in {partial}: residue fl resume {partial}")
        raise


def _has_checkpoints(partial: Path) -> bool:
    return any(has_checkpoints(party) for party in partial.iterdir() if party.is_dir())


def run_trial(
    job: Job,
    directory: Path,
    *,
    watch: Callable[[Event], None] = lambda event: None,
    trace: bool = False,
    models: Path | None = None,
) -> dict[str, PartyReport]:
    """Run all parties of `job` below `directory`; returns their reports by name.

    With `models`, a run directory of the same job, its models are applied to the job's data.

    Parties that have run there before go on from the last checkpoint that all of them have.
    Raises the error of the party that failed first, or `PeerLost` for one that vanished.
    """
    if not (directory / "job.json").exists():
        authority = TrialAuthority()
        for party in job.parties:
            authority.issue(directory / party.name, party.name)
        write_json(directory / "job.json", job.model_dump(mode="json"))
    children = _Children(job, directory, models, trace)
    try:
        return children.run(watch)
    finally:
        children.end()


def tables_of(job: Job, directory: Path, component: str) -> dict[str, Table]:
    """The tables that a component took at each party of a finished trial."""
    before = job.input_of(component)
    tables = {}
    for party in (job.guest, *job.hosts):
        own = directory / party.name
        if before is None:
            tables[party.name] = load_table(job, party.name, directory=own)
        else:
            scratch = scratch_of(job, party.name, own)
            tables[party.name] = Table.read(own / "tables" / f"{before}.parquet", scratch)
    return tables


def _error(kind: str, message: str) -> ResidueError:
    """An error that a child told of."""
    for module in (errors, residue.errors):
        found = getattr(module, kind, None)
        if isinstance(found, type) and issubclass(found, ResidueError):
            return found(message)
    return FederatedError(message)


class _Children:
    def __init__(self, job: Job, directory: Path, models: Path | None, trace: bool) -> None:
        self._models = models
        self._events: queue.Queue[Event] = queue.Queue()
        self._readers: list[threading.Thread] = []
        self._processes = {
            party.name: self._start(party.name, directory, trace) for party in job.parties
        }
        self._job = job
        self._failures: list[ResidueError] = []

    def _start(self, party: str, directory: Path, trace: bool) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "residue_federated", "party"]
        command += ["--job", str(directory / "job.json"), "--party", party]
        command += ["--certificates", str(directory / party), "--out", str(directory / party)]
        command += ["--listen", "127.0.0.1:0", "--events", "--resume"]
        if self._models is not None:
            command += ["--predict", str(self._models / party)]
        process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            [*command, "--trace"] if trace else command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # an interrupt reaches the launcher, which ends the children
            env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        )
        assert process.stdout is not None
        assert process.stderr is not None
        out = threading.Thread(target=self._read_events, args=(party, process.stdout), daemon=True)
        log = threading.Thread(target=self._read_log, args=(party, process.stderr), daemon=True)
        for thread in (out, log):
            thread.start()
            self._readers.append(thread)
        return process

    def _read_events(self, party: str, lines: IO[str]) -> None:
        with lines:
            for line in lines:
                try:
                    content = json.loads(line)
                    self._events.put(Event(party, content.pop("event"), content))
                except (ValueError, KeyError, AttributeError):  # a library that prints
                    self._events.put(Event(party, "log", {"text": line.rstrip()}))
        self._events.put(Event(party, "ended", {}))

    def _read_log(self, party: str, lines: IO[str]) -> None:
        with lines:
            for line in lines:
                self._events.put(Event(party, "log", {"text": line.rstrip()}))

    def run(self, watch: Callable[[Event], None]) -> dict[str, PartyReport]:
        ports: dict[str, int] = {}
        reports: dict[str, PartyReport] = {}
        failed: set[str] = set()
        running = set(self._processes)
        certain = False  # that the failure which started it all is among those told
        fatal = False  # that one of a party that the job cannot do without is among them
        deadline: float | None = None
        while running:
            patience = None if deadline is None else max(0.0, deadline - time.monotonic())
            try:
                event = self._events.get(timeout=patience)
            except queue.Empty:
                break
            party, content = event.party, event.content
            watch(event)
            spared = len(ports) == len(self._processes) and self._job.may_lose(party)
            if event.kind == "listening":
                ports[party] = content["port"]
                if len(ports) == len(self._processes):
                    self._introduce(ports)
            elif event.kind == "done":
                reports[party] = PartyReport.of(content)
            elif event.kind == "failed":
                failed.add(party)
                failure = _error(content["type"], content["message"])
                self._failures.append(failure)
                certain |= not isinstance(failure, PeerFailed | PeerLost)
                fatal |= not spared
            elif event.kind == "ended":
                running.discard(party)
                if party not in reports and party not in failed:
                    code = self._processes[party].wait()
                    how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
                    self._failures.insert(0, PeerLost(f"{party} ended without a word ({how})"))
                    certain = True
                    fatal |= not spared
            if fatal:
                end = time.monotonic() + (_SETTLE if certain else _GRACE)
                deadline = min(deadline or end, end)
        if fatal:
            # What others say about the one that failed comes after what it says itself.
            raise min(self._failures, key=lambda failure: isinstance(failure, PeerFailed))
        return reports

    def _introduce(self, ports: dict[str, int]) -> None:
        for party, process in self._processes.items():
            others = {name: f"127.0.0.1:{port}" for name, port in ports.items() if name != party}
            assert process.stdin is not None
            try:
                process.stdin.write(json.dumps(others) + "\n")
                process.stdin.flush()
            except BrokenPipeError:
                continue  # its end is an event of its own

    def end(self) -> None:
        """Close the children's inputs, which ends them, and see that they are gone."""
        for process in self._processes.values():
            assert process.stdin is not None
            try:
                process.stdin.close()
            except BrokenPipeError:
                continue
        for process in self._processes.values():
            try:
                process.wait(timeout=_GRACE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for reader in self._readers:
            reader.join(timeout=_GRACE)
