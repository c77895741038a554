"""One party of a job, from its certificate to its files."""

from __future__ import annotations

import contextlib
import json
import resource
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from residue.backends import Backend, get_backend
from residue_federated._certificates import Identity
from residue_federated._checkpoint import Checkpoints, file_sha256, write_json
from residue_federated._components import runner_of
from residue_federated._context import WHOLE, Context, Outcome, Progress, Waiting
from residue_federated._data import Table, load_table
from residue_federated._ended import End, forget_end, read_end, telling
from residue_federated._jobs import Job
from residue_federated._models import read_model, write_model, write_predictions
from residue_federated._tally import LifeReport, Tally
from residue_federated._workers import Workers
from residue_federated.audit._live import APPLIED, RECORD, Auditor
from residue_federated.audit._record import now
from residue_federated.errors import CheckpointError, PeerReturned
from residue_federated.partitions import NodesBackend, open_nodes, open_workers
from residue_federated.transport import Door, Endpoint, Lives, Message

__all__ = [
    "ComponentReport",
    "PartyReport",
    "answer_done",
    "has_checkpoints",
    "has_ended",
    "is_done",
    "run_party",
]

_REPORT = "report.json"
_KEEP_SECONDS = 0.2
"""At least so long between two notes on the disk of what a life did."""
_STATUS_SECONDS = 1.0
"""At least so long between two words on how a party is doing."""


@dataclass
class ComponentReport:
    """How one component went at a party.

    seconds: from its first progress to its last, set-up aside, over all lives; timed_rounds: rounds
    done in them, those that a death undid included.
    """

    name: str
    type: str
    rounds: int = 0
    seconds: float = 0.0
    timed_rounds: int = 0
    losses: list[float] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass
class PartyReport:
    """What a party tells about its run; nothing of its data but, at the guest, metrics and losses.

    All is of all its lives together. lives: each by itself, see `LifeReport`.
    operations: one row an operation of its device, from the device's own counters. time: seconds
    of all components, by what they went to: ``encryption`` (operations on ciphertexts), ``waiting``
    (for messages of others, and sending) and ``other``. peak_rss_bytes: most memory of the process.
    files: SHA-256 of each file it wrote, by its path below the party's directory. nodes: what the
    nodes have done that hold its partitions, where it has any: operations on ciphertexts, and tasks
    on plain values. gradients: the
    decrypted integers of the last component that trains, only where a trace was asked for.
    unheard: parties that had not said that they are done, and were out of reach, when this one,
    done before, was started again.
    """

    party: str
    role: str
    device: dict[str, Any]
    rows: int = 0
    components: list[ComponentReport] = field(default_factory=list)
    operations: list[dict[str, Any]] = field(default_factory=list)
    time: dict[str, float] = field(default_factory=dict)
    peak_rss_bytes: int = 0
    messages: int = 0
    bytes: int = 0
    wire_bytes: int = 0
    files: dict[str, str] = field(default_factory=dict)
    nodes: list[dict[str, Any]] = field(default_factory=list)
    gradients: list[list[int]] | None = None
    unheard: list[str] = field(default_factory=list)
    lives: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> PartyReport:
        """The report that was made into `content` by `dataclasses.asdict`."""
        components = [ComponentReport(**component) for component in content["components"]]
        return cls(**{**content, "components": components})

    @property
    def device_name(self) -> str:
        """The device in a word; of one that chose another, both: ``auto: cpu avx512ifma``."""
        facts = self.device
        if "active" not in facts:
            return str(facts["name"])
        chosen = [facts["active"], facts.get("kernel", facts.get("device"))]
        return f"{facts['name']}: {' '.join(str(part) for part in chosen if part)}"

    def component(self, name: str) -> ComponentReport:
        """The report of one component."""
        return next(component for component in self.components if component.name == name)


def has_checkpoints(directory: Path) -> bool:
    """Whether a party left something below `directory` from which it can go on."""
    return any((directory / "states").rglob("[0-9]*.npz"))


def has_ended(job: Job, directory: Path) -> bool:
    """Whether a party has nothing left to do for `job`: it knows that all parties are done."""
    ended = read_end(directory, job.digest)
    return ended is not None and ended.all_done(job)


def is_done(job: Job, directory: Path) -> bool:
    """Whether all that a party leaves is below `directory`; others may still need it."""
    return read_end(directory, job.digest) is not None


def answer_done(
    job: Job, name: str, identity: Identity, door: Door, addresses: Mapping[str, str], files: Path
) -> None:
    """Tell parties of a job that is done, as its `files` say; one of them has called.

    Raises `PeerReturned` if one has begun again, without what it had: this one stays done.
    """
    ended = read_end(files, job.digest)
    if ended is not None:
        end = End(job, name, job.digest, files, ended)
        if ended.all_done(job):
            end.answer(identity, door, addresses)
        else:
            end.again(identity, door, addresses)


def run_party(
    job: Job,
    name: str,
    identity: Identity,
    *,
    listen: str = "127.0.0.1:0",
    door: Door | None = None,
    meet: Callable[[int], Mapping[str, str]],
    directory: Path | None = None,
    backend: Backend | None = None,
    models: Path | None = None,
    progress: Progress = lambda component, done, total, loss: None,
    status: Callable[[PartyReport], None] = lambda report: None,
    observer: Callable[[Message], None] | None = None,
    trace: bool = False,
    resume: bool = True,
) -> PartyReport:
    """Run one party of `job` to its end, from the last checkpoint that all parties have.

    If another one dies and comes back, all go back to such a checkpoint, and on from there. A party
    ends when all have said that they are done. One that was done before only waits for that.

    With `models`, the job's components are not run but applied to other rows.

    A large table starts worker processes: a script calls this below ``if __name__ == "__main__"``.

    Args:
        job: the job.
        name: which party.
        identity: its certificate and key.
        listen: ``host:port`` to serve on; port 0 takes a free one.
        door: through which it is reached instead, where several jobs share one.
        meet: gets the port that is served, returns the addresses of all other parties.
        directory: for its checkpoints, tables, shares of models and report; None keeps nothing.
        models: the party's directory of a finished run of the same job; the guest's predictions
            are written into `directory`.
        backend: what it computes on; None opens the job's device for it, and closes it in the end.
        progress: called when a component starts its work and after every round.
        status: called after a round, once a second at most, with what the report would be, without
            components and files.
        observer: sees every message that leaves or is taken.
        trace: keep decrypted integers in the report.
        resume: whether a party that was done below `directory` is done now.

    Raises:
        FederatedError: data, peers or the training failed; the peers have been told.
    """
    own, number = job.party(name), 0
    digest = job.digest if models is None else f"{job.digest}{APPLIED}"
    ended = read_end(directory, digest) if resume and not _loses_parties(job) else None
    with contextlib.ExitStack() as stack:

        def opened() -> Door:
            keep_alive = job.transport.keep_alive
            return stack.enter_context(
                Door(name, identity, listen, single=True, keep_alive=keep_alive)
            )

        addresses: Mapping[str, str] | None = None
        if ended is not None and directory is not None:
            report, door = _report_of(directory), door or opened()
            addresses = meet(door.port)
            try:
                end = End(job, name, digest, directory, ended)
                return replace(report, unheard=end.again(identity, door, addresses))
            except PeerReturned as returned:
                number = returned.life
        workers = stack.enter_context(contextlib.closing(open_workers(own)))
        table = None
        if job.role(name) != "arbiter":
            labelled = models is None
            table = load_table(job, name, labelled=labelled, directory=directory, workers=workers)
        if backend is None:
            backend = stack.enter_context(contextlib.closing(get_backend(own.device)))
        stack.callback(backend.clear_secrets)
        backend.reset_stats()
        nodes = open_nodes(own)
        if nodes is not None:
            stack.callback(nodes.close)
        tally = Tally(directory, digest, RECORD, resume=resume)
        life = _Life(
            job,
            name,
            table,
            backend,
            nodes,
            workers,
            directory,
            models,
            progress,
            status,
            trace,
            tally,
        )
        door = door or opened()
        addresses = addresses if addresses is not None else meet(door.port)
        while True:
            try:
                return life.run(number, digest, identity, door, addresses, observer)
            except PeerReturned as returned:
                number = returned.life
                backend.clear_secrets()
                backend.reset_stats()


def _longest(work: list[dict[str, Any]]) -> float:
    """Seconds of the node that worked longest."""
    return max((float(node["seconds"]) for node in work), default=0.0)


def _loses_parties(job: Job) -> bool:
    """Whether the job goes on without parties that die: they do not come back."""
    return any(job.may_lose(party.name) for party in job.parties)


def _report_of(directory: Path) -> PartyReport:
    """The report of a party that was done. Raises `CheckpointError` if it is not there."""
    path = directory / _REPORT
    try:
        return PartyReport.of(json.loads(path.read_bytes()))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error


@dataclass
class _Life:
    """What every life of a party in a run begins with; see `Lives`."""

    job: Job
    name: str
    table: Table | None
    backend: Backend
    nodes: NodesBackend | None
    workers: Workers
    directory: Path | None
    models: Path | None
    progress: Progress
    status: Callable[[PartyReport], None]
    trace: bool
    tally: Tally

    def run(
        self,
        number: int,
        digest: str,
        identity: Identity,
        door: Door,
        addresses: Mapping[str, str],
        observer: Callable[[Message], None] | None,
    ) -> PartyReport:
        """Run from the last checkpoint that all parties have to the end, or the next life."""
        job, name, directory = self.job, self.name, self.directory
        forget_end(directory)
        lives = None if _loses_parties(job) else Lives(number)
        end = End(job, name, digest, directory)
        with (
            Auditor(job, digest, name, identity, directory and directory / RECORD) as auditor,
            Endpoint(
                name,
                digest,
                identity,
                job.transport,
                door=door,
                observer=observer,
                gate=auditor,
                proxy=job.party(name).proxy,
                lives=lives,
            ) as endpoint,
            telling(endpoint),
            _Run(self, auditor, endpoint) as run,
        ):
            endpoint.connect(addresses)
            auditor.agree_on_code(endpoint)
            if self.models is None:
                run.components(endpoint)
            else:
                run.apply(endpoint)
            endpoint.flush()
            report = run.report()
            auditor.end(report.files)
            end.reach(endpoint, lives, [*report.files, _REPORT, RECORD])
            return report


class _Run:
    """The components of a job at one party, in order, each finished one kept on disk."""

    def __init__(self, life: _Life, auditor: Auditor, endpoint: Endpoint) -> None:
        self._life, self._auditor, self._endpoint = life, auditor, endpoint
        self._job, self._name, self._directory = life.job, life.name, life.directory
        self._outcomes: dict[str, Outcome] = {}
        self._reports: list[ComponentReport] = []
        self._files: dict[str, str] = {}
        self._waiting = Waiting()
        self._start = self._told = self._kept = time.perf_counter()
        self._began = now()
        self._done = False
        self._timed: dict[str, tuple[float, int]] = {}
        self._nodes_before = _longest(self._work())

    def __enter__(self) -> _Run:
        self._keep_tally()
        return self

    def __exit__(self, *_: object) -> None:
        if not self._done:
            self._keep_tally()

    def components(self, endpoint: Endpoint) -> None:
        """Run what is not finished yet at all parties."""
        results = self._checkpoints(WHOLE, keep=None)
        whole = self._context(WHOLE, endpoint, results)
        finished, _ = whole.restored() or (0, {})
        for number, (name, component) in enumerate(self._job.components.items(), 1):
            report = ComponentReport(name, component.type)
            if number <= finished:
                outcome = self._load(name, results.load(number))
            else:
                context = self._context(name, endpoint, self._checkpoints(name))
                table = self._input(name)
                self._auditor.begin(name, table)
                outcome = runner_of(component).run(context, component, table)
                self._auditor.finish(name)
                self._keep(name, outcome)
                whole.checkpoint(number, _result_of(outcome))
            report.rounds, report.losses = outcome.rounds, outcome.losses
            report.metrics, report.facts = outcome.metrics, outcome.facts
            self._outcomes[name] = outcome
            self._reports.append(report)

    def apply(self, endpoint: Endpoint) -> None:
        """Put other rows through the components, by the models of a finished run."""
        assert self._life.models is not None
        for name, component in self._job.components.items():
            table, runner = self._input(name), runner_of(component)
            self._auditor.begin(name, table)
            if hasattr(runner, "apply"):
                context = self._context(name, endpoint, Checkpoints(None, self._job.digest))
                model = {} if table is None else read_model(self._life.models, self._job, name)
                outcome: Outcome = runner.apply(context, component, table, model)
            else:
                outcome = Outcome(table=table if component.gives_table else None)
            self._auditor.finish(name)
            self._outcomes[name] = outcome
            self._reports.append(ComponentReport(name, component.type))
            if outcome.scores is not None and self._directory is not None:
                assert table is not None
                columns = runner.predictions(component, outcome.scores)
                write_predictions(self._directory / f"{name}.csv", table.ids, columns)
                self._note(f"{name}.csv")

    def report(self, *, final: bool = True) -> PartyReport:
        """What this party tells so far, or in the end: then also written into its directory."""
        work, tally = self._keep_tally(), self._life.tally
        trainer = self._job.trainer if final else None
        for component in self._reports if final else []:
            component.seconds, component.timed_rounds = tally.component(component.name)
        report = PartyReport(
            self._name,
            self._job.role(self._name),
            {"name": self._life.backend.name, **self._life.backend.describe()},
            rows=0 if self._life.table is None else len(self._life.table.ids),
            components=self._reports,
            operations=tally.operations,
            time=tally.time,
            peak_rss_bytes=max(life.peak_rss_bytes for life in tally.lives),
            messages=tally.sum("messages"),
            bytes=tally.sum("bytes"),
            wire_bytes=tally.sum("wire_bytes"),
            files=self._files,
            nodes=work,
            gradients=self._outcomes[trainer].trace if self._life.trace and trainer else None,
            lives=[life.told() for life in tally.lives],
        )
        self._done = final
        if final and self._directory is not None:
            write_json(self._directory / _REPORT, asdict(report))
        return report

    def _keep_tally(self) -> list[dict[str, Any]]:
        """Keep what this life did so far. Returns what its nodes did."""
        work = self._work()
        stats, traffic = self._life.backend.stats(), self._endpoint.traffic
        encryption = sum(cost.host_seconds for cost in stats.values())
        encryption += _longest(work) - self._nodes_before
        waiting = self._waiting.seconds
        other = max(0.0, time.perf_counter() - self._start - encryption - waiting)
        life = LifeReport(
            self._auditor.run,
            self._began,
            now(),
            messages=traffic.messages,
            bytes=traffic.bytes,
            wire_bytes=traffic.wire_bytes,
            time={"encryption": encryption, "waiting": waiting, "other": other},
            operations=[{"operation": o, **asdict(cost)} for o, cost in sorted(stats.items())],
            peak_rss_bytes=_peak_rss_bytes(),
            components=dict(self._timed),
        )
        self._life.tally.keep(life)
        return work

    def _work(self) -> list[dict[str, Any]]:
        nodes, tasks = self._life.nodes, self._life.workers.done
        work = [] if nodes is None else nodes.work()
        return [{**node, "tasks": tasks[node["node"]]} for node in work]

    def _checkpoints(self, component: str, keep: int | None = 3) -> Checkpoints:
        below = None if self._directory is None else self._directory / "states" / component
        return Checkpoints(below, self._job.digest, keep=keep)

    def _context(
        self,
        component: str,
        endpoint: Endpoint,
        checkpoints: Checkpoints,
    ) -> Context:
        first: list[tuple[float, int]] = []

        def on_progress(name: str, done: int, total: int, loss: float | None) -> None:
            at = time.perf_counter()
            if not first:
                first.append((at, done))
            self._timed[component] = at - first[0][0], done - first[0][1]
            self._life.progress(name, done, total, loss)
            if at - self._told >= _STATUS_SECONDS:
                self._told = self._kept = at
                self._life.status(replace(self.report(final=False), components=[], files={}))
            elif at - self._kept >= _KEEP_SECONDS:
                self._kept = at
                self._keep_tally()

        return Context(
            self._job,
            self._name,
            component,
            endpoint,
            self._life.backend,
            checkpoints=checkpoints,
            inputs=dict(self._outcomes),
            waiting=self._waiting,
            on_progress=on_progress,
            nodes=self._life.nodes,
            trace=self._life.trace,
            auditor=self._auditor,
        )

    def _input(self, name: str) -> Table | None:
        before = self._job.input_of(name)
        return self._life.table if before is None else self._outcomes[before].table

    def _keep(self, name: str, outcome: Outcome) -> None:
        """Table and model of a finished component, as files."""
        if self._directory is None:
            return
        if outcome.table is not None:
            outcome.table.write(self._directory / "tables" / f"{name}.parquet")
            self._note(f"tables/{name}.parquet")
        if outcome.model is not None:
            write_model(self._directory, self._job, self._name, name, outcome.model)
            self._note(f"models/{name}.json")

    def _load(self, name: str, state: dict[str, Any]) -> Outcome:
        """The outcome of a component that was finished before."""
        has_table = state.pop("has_table")
        outcome = Outcome(**state)
        assert self._directory is not None
        if has_table:
            assert self._life.table is not None
            path = self._directory / "tables" / f"{name}.parquet"
            outcome.table = Table.read(path, self._life.table.scratch)
            self._note(f"tables/{name}.parquet")
        if outcome.model is not None:
            self._note(f"models/{name}.json")
        return outcome

    def _note(self, path: str) -> None:
        assert self._directory is not None
        self._files[path] = file_sha256(self._directory / path)


def _peak_rss_bytes() -> int:
    """Most memory of this process; where Linux does not tell, the launcher's may count as well."""
    with contextlib.suppress(OSError), open("/proc/self/status", encoding="ascii") as status:
        for line in status:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _result_of(outcome: Outcome) -> dict[str, Any]:
    """An outcome as a state: its table is a file of its own."""
    state = {key: value for key, value in vars(outcome).items() if key != "table"}
    return {**state, "has_table": outcome.table is not None}
