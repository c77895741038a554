"""A party dies and comes back, up to the end; the others wait for it, and are not restarted."""

from __future__ import annotations

import itertools
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

import residue
from residue_federated import (
    Identity,
    Job,
    PartyReport,
    TrialAuthority,
    _ended,
    load_job,
    run_party,
)
from residue_federated._ended import Ended, keep_end, read_end
from residue_federated._models import read_model
from residue_federated._party import has_ended, is_done
from residue_federated.audit._live import RECORD
from residue_federated.audit._record import read_record
from residue_federated.audit._verify import audit_records
from residue_federated.errors import CheckpointError
from residue_federated.store import Store
from residue_federated.transport import Endpoint
from tests.integration.parties import Staged, run_all

PARTIES = ("guest", "host", "arbiter")


def write_job(directory: Path, ports: dict[str, int], epochs: int) -> Path:
    rng = np.random.default_rng(5)
    ids, x = [f"r{i:02d}" for i in range(40)], rng.normal(size=(40, 4))
    y = (x.sum(axis=1) > 0).astype(int)
    pd.DataFrame({"id": ids, "y": y, "a": x[:, 0]}).to_csv(directory / "guest.csv", index=False)
    host = pd.DataFrame(x[:, 1:], columns=["b", "c", "d"]).assign(id=ids)
    host.to_csv(directory / "host.csv", index=False)
    content: dict[str, Any] = {
        "name": "returning",
        "guest": {"name": "guest", "data": {"file": "guest.csv", "label": "y"}},
        "hosts": [{"name": "host", "data": {"file": "host.csv"}}],
        "arbiter": {"name": "arbiter"},
        "key": {"bits": 1024, "insecure_allow_1024": True},
        "components": {
            "scale": {"type": "standardise"},
            "train": {
                "type": "logistic_regression",
                "epochs": epochs,
                "early_stop": None,
            },
        },
        "transport": {"peer_timeout": 60},
    }
    for party in (content["guest"], *content["hosts"], content["arbiter"]):
        party["device"] = "cpu"
        party["address"] = f"127.0.0.1:{ports[party['name']]}"
    path = directory / "job.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


class Processes:
    """Parties as ``residue fl party`` starts them."""

    def __init__(self, directory: Path, job_file: Path, job: Job) -> None:
        self._directory, self._job_file, self._job = directory, job_file, job
        self.running: dict[str, subprocess.Popen[str]] = {}
        self.started: Counter[str] = Counter()
        authority = TrialAuthority()
        for party in PARTIES:
            authority.issue(directory / "certificates" / party, party)

    def start(self, party: str) -> None:
        command = [sys.executable, "-m", "residue_federated", "party", "--party", party]
        command += ["--job", str(self._job_file), "--out", str(self._directory / "out" / party)]
        command += ["--certificates", str(self._directory / "certificates" / party)]
        command += ["--listen", self._job.party(party).address or "", "--resume"]
        self.started[party] += 1
        self.running[party] = subprocess.Popen(
            command,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        )

    def kill(self, party: str) -> None:
        """It may have ended by now."""
        process = self.running[party]
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode in (0, -signal.SIGKILL)

    def rounds(self, party: str) -> int:
        """The last round of training that a party has kept."""
        states = (self._directory / "out" / party / "states" / "train").glob("[0-9]*.npz")
        return max((int(path.stem) for path in states), default=0)

    def end(self) -> dict[str, str]:
        """Wait for all; what they said."""
        said = {}
        for party, process in self.running.items():
            _, said[party] = process.communicate(timeout=120)
            assert process.returncode == 0, said[party]
        return said


def free_ports(directory: Path) -> dict[str, int]:
    import socket

    sockets = {party: socket.socket() for party in PARTIES}
    for each in sockets.values():
        each.bind(("127.0.0.1", 0))
    ports = {party: each.getsockname()[1] for party, each in sockets.items()}
    for each in sockets.values():
        each.close()
    return ports


def die_and_return(directory: Path, party: str, epochs: int, deaths: list[float | int]) -> int:
    """Kill one party again and again, start only it again; returns the lives of the others.

    deaths: an integer is the round after whose checkpoint it dies, a float seconds after its start.
    """
    job_file = write_job(directory, free_ports(directory), epochs)
    job = load_job(job_file)
    processes = Processes(directory, job_file, job)
    try:
        for each in PARTIES:
            processes.start(each)
        for death in deaths:
            began, pause = time.monotonic(), 0.01
            if isinstance(death, int):
                while processes.rounds(party) < death:
                    assert time.monotonic() < began + 60
                    time.sleep(pause)
            else:
                time.sleep(death)
            processes.kill(party)
            processes.start(party)
        processes.end()
    finally:
        for process in processes.running.values():
            process.kill()
            process.communicate()
    others = [each for each in PARTIES if each != party]
    assert processes.started == {party: 1 + len(deaths), others[0]: 1, others[1]: 1}
    check_models(directory, job)
    check_records(directory, job)
    runs = Store.open(directory / "out").runs()
    assert sorted((run.party, run.state) for run in runs) == sorted((p, "done") for p in PARTIES)
    return min(len(starts(directory, each)) for each in others)


def check_models(directory: Path, job: Job) -> None:
    """They are those of a run that nothing disturbed, bit for bit."""
    undisturbed = run_all(job, directory / "undisturbed")
    assert not undisturbed.errors
    for party in ("guest", "host"):
        model = read_model(directory / "out" / party, job, "train")
        assert model == read_model(directory / "undisturbed" / party, job, "train")


def starts(directory: Path, party: str) -> list[str]:
    """The runs in a party's record, one a life."""
    record = read_record(directory / "out" / party / RECORD)
    return [entry.content["run"] for entry in record.of("start")]


def check_records(directory: Path, job: Job) -> None:
    """The audit has nothing to say; in the last life nothing was lost, in none taken twice."""
    records = {party: directory / "out" / party / RECORD for party in PARTIES}
    ca = directory / "certificates" / "guest" / "ca.pem"
    report = audit_records(job, records, ca)
    assert report.ok, report.findings
    lost = twice = 0
    for sender, receiver in itertools.permutations(PARTIES, 2):
        sent = messages(records[sender], "sent", receiver)
        received = messages(records[receiver], "received", sender)
        lost += sum((Counter(sent[-1]) - Counter(received[-1])).values())
        twice += sum(sum((Counter(life) - Counter(set(life))).values()) for life in received)
        assert sent[-1]
    assert (lost, twice) == (0, 0)


def messages(path: Path, event: str, peer: str) -> list[list[tuple[int, str]]]:
    """Sequence number and hash of the messages of each life."""
    lives: list[list[tuple[int, str]]] = []
    for entry in read_record(path).entries:
        if entry.event == "start":
            lives.append([])
        elif entry.event == event and entry.content["peer"] == peer:
            lives[-1].append((entry.content["sequence"], entry.content["sha256"]))
    return lives


@pytest.mark.parametrize(
    "mortal", ["guest", "host", pytest.param("arbiter", marks=pytest.mark.full)]
)
def test_who_vanishes_comes_back_and_the_others_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mortal: str
) -> None:
    """In one process; a party that vanishes closes its door and says nothing."""
    told: list[str] = []

    def tell(self: Endpoint, reason: str) -> None:
        if self._party != mortal:
            told.append(reason)

    monkeypatch.setattr(Endpoint, "abort", tell)
    job = load_job(write_job(tmp_path, free_ports(tmp_path), 4))
    authority = TrialAuthority()
    begun: Counter[str] = Counter()

    def party(name: str) -> PartyReport:
        begun[name] += 1
        first = begun[name] == 1

        def progress(component: str, done: int, total: int, loss: float | None) -> None:
            if name == mortal and first and done == 2:
                raise Staged

        return run_party(
            job,
            name,
            Identity.load(tmp_path / "certificates" / name, name),
            listen=job.party(name).address or "",
            meet=lambda port: {p.name: p.address or "" for p in job.parties if p.name != name},
            directory=tmp_path / "out" / name,
            backend=residue.get_backend("cpu"),
            progress=progress,
        )

    for name in PARTIES:
        authority.issue(tmp_path / "certificates" / name, name)
    with ThreadPoolExecutor(4) as pool:
        runs = {name: pool.submit(party, name) for name in PARTIES}
        with pytest.raises(Staged):
            runs[mortal].result(60)
        runs[mortal] = pool.submit(party, mortal)
        reports = {name: run.result(60) for name, run in runs.items()}
    assert not told
    assert begun == {name: 1 + (name == mortal) for name in PARTIES}
    assert all(report.component("train").rounds == 4 for report in reports.values())
    check_models(tmp_path, job)
    check_records(tmp_path, job)
    for name in PARTIES:
        report, sent = reports[name], read_record(tmp_path / "out" / name / RECORD).of("sent")
        assert len(report.lives) == len(starts(tmp_path, name)) >= 2
        sizes = [entry.content["size"] for entry in sent]
        assert (report.messages, report.bytes) == (len(sizes), sum(sizes))
        assert report.component("train").timed_rounds >= 4
    assert len(reports["guest"].component("train").losses) == 4


@pytest.mark.full
def test_one_party_is_killed_and_only_that_one_started_again(tmp_path: Path) -> None:
    assert die_and_return(tmp_path, "host", 6, [2]) >= 2


@pytest.mark.full
@pytest.mark.parametrize("party", PARTIES)
def test_random_deaths(tmp_path: Path, party: str) -> None:
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    deaths: list[float | int] = [rng.uniform(0.5, 4) for _ in range(4)]
    # So many epochs that the last deaths may come when the job is over for the others.
    die_and_return(tmp_path, party, 60, deaths)


@dataclass
class Ending:
    """Parties of a job as threads, of which one dies, once, at a moment of its end."""

    directory: Path
    job: Job
    mortal: str
    begun: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        authority = TrialAuthority()
        for name in PARTIES:
            authority.issue(self.directory / "certificates" / name, name)

    def party(self, name: str, **more: Any) -> PartyReport:
        self.begun[name] += 1
        return run_party(
            self.job,
            name,
            Identity.load(self.directory / "certificates" / name, name),
            listen=self.job.party(name).address or "",
            meet=lambda port: {p.name: p.address or "" for p in self.job.parties if p.name != name},
            directory=self.directory / "out" / name,
            backend=residue.get_backend("cpu"),
            **more,
        )

    def run(self, between: float = 0.0) -> dict[str, PartyReport]:
        """Let it die and start it again, after a while."""
        with ThreadPoolExecutor(4) as pool:
            runs = {name: pool.submit(self.party, name) for name in PARTIES}
            with pytest.raises(Staged):
                runs[self.mortal].result(60)
            time.sleep(between)
            runs[self.mortal] = pool.submit(self.party, self.mortal)
            return {name: run.result(60) for name, run in runs.items()}


MOMENTS = ("written", "kept", "said", "heard", "noted", "told")
"""All is written; kept for the end; said to one; all have said so; that is noted; and told."""


def die_at(monkeypatch: pytest.MonkeyPatch, mortal: str, moment: str) -> None:
    """Let a party vanish, the first time, at a moment of its end."""
    dead: list[str] = []

    def die(party: str, *now: str) -> None:
        calls = threading.current_thread().name.startswith("residue-exchange")
        if party == mortal and moment in now and not dead and not calls:
            dead.append(party)
            raise Staged

    def keep(directory: Path, job: str, ended: Ended, files: Iterable[str] = ()) -> None:
        die(directory.name, "heard" if ended.done else "written")
        keep_end(directory, job, ended, files)
        if not ended.done:
            die(directory.name, "kept")

    def call(self: Endpoint, peer: str) -> bool | None:
        answered = real_call(self, peer)
        die(self._party, "said")
        return answered

    def part(self: Endpoint, within: float) -> None:
        die(self._party, "heard", "noted")
        real_part(self, within)
        die(self._party, "told")

    def abort(self: Endpoint, reason: str) -> None:
        if self._party not in dead:
            real_abort(self, reason)

    real_call, real_part, real_abort = Endpoint._call, Endpoint.part, Endpoint.abort
    monkeypatch.setattr(_ended, "keep_end", keep)
    monkeypatch.setattr(Endpoint, "_call", call)
    monkeypatch.setattr(Endpoint, "part", part)
    monkeypatch.setattr(Endpoint, "abort", abort)


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("mortal", ["guest", pytest.param("host", marks=pytest.mark.full)])
def test_who_dies_at_its_end_ends_by_starting_again_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mortal: str, moment: str
) -> None:
    die_at(monkeypatch, mortal, moment)
    ending = Ending(tmp_path, load_job(write_job(tmp_path, free_ports(tmp_path), 2)), mortal)
    began = time.monotonic()
    reports = ending.run()
    assert time.monotonic() - began < 30  # half of what they would wait for one that stays away
    assert ending.begun == {name: 1 + (name == mortal) for name in PARTIES}
    assert all(report.component("train").rounds == 2 for report in reports.values())
    assert not any(report.unheard for report in reports.values())
    assert all(has_ended(ending.job, tmp_path / "out" / name) for name in PARTIES)
    check_models(tmp_path, ending.job)
    check_records(tmp_path, ending.job)
    again = moment == "written"  # only then the others have to go back for it
    lives = [len(starts(tmp_path, name)) for name in PARTIES]
    assert lives == [len(reports[name].lives) for name in PARTIES]
    assert min(lives) >= 2 if again else lives == [1, 1, 1]


def test_who_is_done_and_dies_while_others_work_is_not_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The arbiter is done and dies; guest and host work on, and end when it is there again."""
    real, back = Endpoint.flush, threading.Event()

    def flush(self: Endpoint) -> None:
        if self._party != "arbiter":
            assert back.wait(60)
        real(self)

    monkeypatch.setattr(Endpoint, "flush", flush)
    die_at(monkeypatch, "arbiter", "said")
    ending = Ending(tmp_path, load_job(write_job(tmp_path, free_ports(tmp_path), 2)), "arbiter")
    threading.Timer(4, back.set).start()
    ending.run(between=1)
    assert ending.begun == {"guest": 1, "host": 1, "arbiter": 2}
    check_models(tmp_path, ending.job)
    check_records(tmp_path, ending.job)
    assert {len(starts(tmp_path, name)) for name in PARTIES} == {1}


def test_who_died_when_it_was_done_needs_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others wait in vain for the guest, which did not note that they are done, and leave."""
    die_at(monkeypatch, "guest", "heard")
    path = write_job(tmp_path, free_ports(tmp_path), 2)
    content = yaml.safe_load(path.read_text())
    content["transport"] = {"peer_timeout": 1, "connect_timeout": 4}
    path.write_text(yaml.safe_dump(content))
    ending = Ending(tmp_path, load_job(path), "guest")
    with ThreadPoolExecutor(3) as pool:
        runs = {name: pool.submit(ending.party, name) for name in PARTIES}
        for name, run in runs.items():
            if name == "guest":
                with pytest.raises(Staged):
                    run.result(60)
            else:
                run.result(60)
    report = ending.party("guest")
    known = read_end(tmp_path / "out" / "guest", ending.job.digest)
    assert known is not None
    assert set(report.unheard) == {"host", "arbiter"} - set(known.done)
    assert report.component("train").rounds == 2
    check_records(tmp_path, ending.job)
    check_models(tmp_path, ending.job)


@pytest.mark.full
@pytest.mark.parametrize("mortal", PARTIES)
def test_one_is_killed_when_another_is_done(tmp_path: Path, mortal: str) -> None:
    """Wherever in its end that finds it, it is the only one that is started again."""
    other = next(party for party in PARTIES if party != mortal)
    for number, delay in enumerate([0.0, 0.02]):
        directory = tmp_path / str(number)
        directory.mkdir()
        job_file = write_job(directory, free_ports(directory), 3)
        processes = Processes(directory, job_file, load_job(job_file))
        for party in PARTIES:
            processes.start(party)
        until = time.monotonic() + 60
        while not is_done(processes._job, directory / "out" / other):
            assert time.monotonic() < until
            time.sleep(0.001)
        time.sleep(delay)
        processes.kill(mortal)
        print(f"{mortal}: {processes.running[mortal].returncode}")
        processes.start(mortal)
        said = processes.end()
        assert not [text for text in said.values() if "out of reach" in text]
        check_models(directory, processes._job)
        check_records(directory, processes._job)
        assert {run.state for run in Store.open(directory / "out").runs()} == {"done"}
        assert len(Store.open(directory / "out").runs()) == 3


@pytest.mark.parametrize("content", ["", "[]", '{"job": "x"}', '{"job": "x", "life": 0}'])
def test_a_damaged_end_is_named(tmp_path: Path, content: str) -> None:
    keep_end(tmp_path, "digest", Ended(0, "s", {}, {}))
    (path,) = tmp_path.rglob("ended")
    path.write_text(content)
    with pytest.raises(CheckpointError, match="ended is damaged"):
        read_end(tmp_path, "digest")


def test_the_end_of_another_job_is_not_taken(tmp_path: Path) -> None:
    keep_end(tmp_path, "digest", Ended(0, "s", {}, {}))
    with pytest.raises(CheckpointError, match="belongs to another job"):
        read_end(tmp_path, "other")
