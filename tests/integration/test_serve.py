"""Several jobs a party, each party behind one port."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner

import residue
from residue.owner import OwnerBackend
from residue_federated import Identity, Job, TrialAuthority, _devices, _serve, load_job
from residue_federated._cli import app
from residue_federated._devices import Devices
from residue_federated._ended import keep_end, read_end
from residue_federated._models import read_model
from residue_federated._party import has_checkpoints
from residue_federated._serve import Desk, folder_of
from residue_federated.errors import JobError, PeerFailed, PeerRefused, TransportError
from residue_federated.store import Store
from residue_federated.transport import Door, Endpoint
from tests.integration.parties import run_all

PARTIES = ("bank-a", "bank-b", "broker")


@dataclass
class World:
    """Three parties with certificates, doors, desks and data."""

    root: Path
    identities: dict[str, Identity]
    doors: dict[str, Door]
    desks: dict[str, Desk]
    news: list[tuple[str, str, str]] = field(default_factory=list)

    def job_file(self, party: str, name: str, *, into: str = "ready", **changes: Any) -> Path:
        """The job of `name` as `party` has it."""
        content: dict[str, Any] = {
            "name": name,
            "guest": {"name": "bank-a", "data": {"file": str(self.root / "labelled.csv")}},
            "hosts": [{"name": "bank-b", "data": {"file": str(self.root / "others.csv")}}],
            "key": {"bits": 1024, "insecure_allow_1024": True},
            "components": {"train": {"type": "secureboost", "trees": 2, "depth": 2, "bins": 4}},
            "transport": {"peer_timeout": 10, "connect_timeout": 20},
            **changes,
        }
        content["guest"]["data"]["label"] = "y"
        places = [content["guest"], *content["hosts"], content.get("arbiter")]
        for place in filter(None, places):
            place["device"] = "cpu"
            place["address"] = f"127.0.0.1:{self.doors[place['name']].port}"
        folder = self.root / into / party
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(content))
        return path

    def out(self, party: str, job: Job) -> Path:
        return self.root / "runs" / party / folder_of(job)

    def run(self, *parties: str) -> dict[str, list[str]]:
        """Run the desks of parties until their jobs have ended; those that failed, by party."""
        failed: dict[str, list[str]] = {}

        def run(party: str) -> None:
            failed[party] = self.desks[party].run()

        threads = [threading.Thread(target=run, args=(p,), daemon=True) for p in parties]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        return failed


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with made(tmp_path) as found:
        yield found


@contextmanager
def made(root: Path) -> Iterator[World]:
    rng = np.random.default_rng(11)
    ids, x = [f"r{i:02d}" for i in range(48)], rng.normal(size=(48, 5))
    y = (x.sum(axis=1) > 0).astype(int)
    own = pd.DataFrame(x[:, :2], columns=["a", "b"]).assign(id=ids)
    own.assign(y=y).to_csv(root / "labelled.csv", index=False)
    pd.DataFrame(x[:, 2:], columns=["c", "d", "e"]).assign(id=ids).to_csv(
        root / "others.csv", index=False
    )
    authority = TrialAuthority()
    found = World(root, {}, {}, {})
    with ExitStack() as stack:
        for party in PARTIES:
            identity = authority.issue(root / "certificates" / party, party)
            found.identities[party] = identity
            door = stack.enter_context(Door(party, identity, "127.0.0.1:0"))
            found.doors[party] = door
            found.desks[party] = Desk(
                party,
                identity,
                door,
                stack.enter_context(Devices()),
                root / "runs" / party,
                news=telling(found, party),
            )
        yield found


def telling(world: World, party: str) -> Callable[[str, str], None]:
    return lambda job, text: world.news.append((party, job, text))


def logistic() -> dict[str, Any]:
    return {
        "arbiter": {"name": "broker"},
        "components": {"train": {"type": "logistic_regression", "epochs": 2}},
    }


def test_jobs_of_the_same_parties_at_once_give_the_models_of_runs_alone(world: World) -> None:
    swapped = {
        "guest": {"name": "bank-b", "data": {"file": str(world.root / "labelled.csv")}},
        "hosts": [{"name": "bank-a", "data": {"file": str(world.root / "others.csv")}}],
    }
    missing = {"hosts": [{"name": "bank-b", "data": {"file": str(world.root / "nowhere.csv")}}]}
    plans: dict[str, dict[str, Any]] = {
        "trees": {},
        "slopes": logistic(),
        "swapped": swapped,
        "broken": missing,
    }
    orders = {
        "bank-a": ["broken", "trees", "slopes", "swapped"],
        "bank-b": ["swapped", "slopes", "trees", "broken"],
        "broker": ["slopes"],
    }
    jobs: dict[str, Job] = {}
    for party, order in orders.items():
        for name in order:
            file = world.job_file(party, name, **plans[name])
            jobs[name] = load_job(file)
            world.desks[party].submit(file)
    ended = world.run(*PARTIES)
    assert ended == {"bank-a": ["broken"], "bank-b": ["broken"], "broker": []}
    for name in ("trees", "slopes", "swapped"):
        alone = run_all(jobs[name], world.root / "alone" / name)
        assert not alone.errors
        for party in ("bank-a", "bank-b"):
            expected = read_model(world.root / "alone" / name / party, jobs[name], "train")
            assert read_model(world.out(party, jobs[name]), jobs[name], "train") == expected
    for party, order in orders.items():
        states = {run.name: run.state for run in Store.open(world.root / "runs" / party).runs()}
        assert states == {name: "failed" if name == "broken" else "done" for name in order}
    (fault,) = {text for party, job, text in world.news if party == "bank-a" and "failed" in text}
    assert "the job has failed at bank-b: bank-b: cannot read" in fault


def test_an_unknown_job_is_refused_by_name_and_a_late_one_waited_for(world: World) -> None:
    patience: dict[str, Any] = {"transport": {"peer_timeout": 10, "connect_timeout": 1.5}}
    for party in ("bank-a", "bank-b"):
        trees = 2 if party == "bank-a" else 3
        components = {"train": {"type": "secureboost", "trees": trees, "depth": 2, "bins": 4}}
        file = world.job_file(party, "trees", components=components, **patience)
        world.desks[party].submit(file)
    assert world.run("bank-a") == {"bank-a": ["trees"]}
    (fault,) = [text for _, _, text in world.news if "failed" in text]
    assert "bank-b refused bank-a: bank-b has no such job" in fault
    ran = threading.Thread(daemon=True, target=world.run, args=("bank-a",))
    file = world.job_file("bank-a", "late")
    world.desks["bank-a"].submit(file)
    ran.start()
    until(lambda: ("bank-a", "late", "starts") in world.news)
    world.desks["bank-b"].submit(world.job_file("bank-b", "late"))
    stopped = threading.Thread(daemon=True, target=world.run, args=("bank-b",))
    stopped.start()
    ran.join(60)
    assert ("bank-a", "late", "done") in {(p, j, t.partition(",")[0]) for p, j, t in world.news}
    world.desks["bank-b"].stop()
    stopped.join(30)
    assert not stopped.is_alive()


def test_a_watched_folder(world: World) -> None:
    folders = {party: world.root / "jobs" / party for party in ("bank-a", "bank-b")}
    for folder in folders.values():
        folder.mkdir(parents=True)
    threads = [
        threading.Thread(daemon=True, target=world.desks[party].run, args=(folder,))
        for party, folder in folders.items()
    ]
    for thread in threads:
        thread.start()
    hostile = load_job(world.job_file("bank-a", "trees")).model_dump(mode="json")
    hostile["name"] = "../../stolen"
    (folders["bank-a"] / "hostile.yaml").write_text(yaml.safe_dump(hostile))
    (folders["bank-a"] / "half.yaml").write_text("name: [")
    (folders["bank-a"] / ".hidden.yaml").write_text("name: [")
    os.symlink("/nowhere", folders["bank-a"] / "link.yaml")
    for party in folders:
        world.job_file(party, "trees", into="jobs")
    job = load_job(folders["bank-a"] / "trees.yaml")
    until(lambda: sum(text.startswith("done") for _, _, text in world.news) == 2)
    again = folders["bank-a"] / "trees.yaml"
    os.utime(again, ns=(0, 0))
    until(lambda: ("bank-a", "trees", "done before; its 1024-bit key is insecure") in world.news)
    refused = {job for _, job, text in world.news if text.startswith("not taken")}
    assert refused == {"'hostile.yaml'", "'half.yaml'"}
    assert {path.name for path in (world.root / "runs").iterdir()} == set(folders)
    for party in folders:
        kept = {path.name for path in (world.root / "runs" / party).iterdir()}
        assert {name for name in kept if not name.startswith("runs.sqlite")} == {folder_of(job)}
        world.desks[party].stop()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()


def test_what_cannot_be_read_for_a_while_ends_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = world.desks["bank-b"]
    file = world.job_file("bank-b", "trees")
    folder = file.parent
    (folder / "date.yaml").write_text("since: 2026-02-30")

    def denied(*_: Any) -> bool:
        raise PermissionError("not now")

    with monkeypatch.context() as patched:
        patched.setattr(_serve, "has_ended", denied)
        for _ in range(2):
            desk.look(folder)
    refused = dict((job, text) for _, job, text in world.news)
    assert refused["'trees.yaml'"] == "not taken: not now"
    assert "is not YAML" in refused["'date.yaml'"]
    os.utime(file, ns=(0, 0))
    for _ in range(2):
        desk.look(folder)
    taken = world.news[-1]
    assert taken[1:] == ("trees", "waits for its turn; its 1024-bit key is insecure")
    moved = folder.rename(folder.with_name("moved"))
    for _ in range(2):
        desk.look(folder)
    moved.rename(folder)
    for _ in range(2):
        desk.look(folder)
    assert world.news[-1] == taken
    assert len(desk._posts) == 1


def test_jobs_without_a_part_or_an_address_or_twice_are_not_taken(world: World) -> None:
    desk = world.desks["bank-b"]
    file = world.job_file("bank-b", "trees")
    desk.submit(file)
    with pytest.raises(JobError, match="is the same"):
        desk.submit(file)
    with pytest.raises(JobError, match="no party 'broker'"):
        world.desks["broker"].submit(file)
    content = yaml.safe_load(file.read_text())
    del content["guest"]["address"]
    file.write_text(yaml.safe_dump({**content, "name": "unknown"}))
    with pytest.raises(JobError, match="no address for bank-a"):
        desk.submit(file)


def test_a_stranger_to_a_waiting_job_does_not_start_it(world: World) -> None:
    job = load_job(world.job_file("bank-b", "trees"))
    world.desks["bank-b"].submit(world.job_file("bank-b", "trees"))
    address = f"127.0.0.1:{world.doors['bank-b'].port}"
    with (
        Endpoint("broker", job.digest, world.identities["broker"], job.transport) as endpoint,
        pytest.raises(PeerRefused, match="'broker' has no part in the job"),
    ):
        endpoint.connect({"bank-b": address})
    assert ("bank-b", "trees", "starts") not in world.news


def test_the_command_runs_jobs_and_tells_of_failures(world: World) -> None:
    port = world.doors["bank-a"].port
    files = {party: world.job_file(party, "trees") for party in ("bank-a", "bank-b")}
    world.desks["bank-b"].submit(files["bank-b"])
    world.doors["bank-a"].close()
    command = ["serve", "--party", "bank-a", "--listen", f"127.0.0.1:{port}"]
    command += ["--certificates", str(world.root / "certificates" / "bank-a")]
    command += ["--out", str(world.root / "runs" / "bank-a")]
    nothing = CliRunner().invoke(app, command)
    assert isinstance(nothing.exception, JobError)
    other = threading.Thread(daemon=True, target=world.run, args=("bank-b",))
    other.start()
    done = CliRunner().invoke(app, [*command, "--job", str(files["bank-a"])])
    other.join(30)
    assert done.exit_code == 0, done.output
    lines = done.stderr.splitlines()
    assert f"bank-a: serves port {port}" in lines
    assert "trees: train: 1/2" in [line.partition("  loss")[0] for line in lines]
    assert lines[-1].startswith("trees: done, auc ")
    files["bank-b"].unlink()
    broken = world.job_file("bank-a", "broken", transport={"connect_timeout": 0.5})
    assert CliRunner().invoke(app, [*command, "--job", str(broken)]).exit_code == 1


def test_a_job_that_is_done_but_for_the_others_ends_by_itself(world: World) -> None:
    """Host and guest died when they were done; the host's server ends the job, uncalled."""
    patience: dict[str, Any] = {"transport": {"peer_timeout": 10, "connect_timeout": 1.5}}
    for party in ("bank-a", "bank-b"):
        world.desks[party].submit(world.job_file(party, "trees", **patience))
    assert world.run("bank-a", "bank-b") == {"bank-a": [], "bank-b": []}
    job = load_job(world.job_file("bank-b", "trees", **patience))
    folder = world.out("bank-b", job)
    ended = read_end(folder, job.digest)
    assert ended is not None
    assert ended.done == ["bank-a"]
    keep_end(folder, job.digest, replace(ended, done=[]))
    desk = desk_of(world, "bank-b")
    desk.submit(world.root / "ready" / "bank-b" / "trees.yaml")
    world.news.clear()
    assert desk.run() == []
    assert world.news[-1] == ("bank-b", "trees", "done; out of reach: bank-a")
    (run,) = Store.open(world.root / "runs" / "bank-b").runs()
    assert run.state == "done"


@pytest.fixture(params=["bank-a", "bank-b"])
def served(world: World, request: pytest.FixtureRequest) -> Iterator[tuple[World, Job, str, str]]:
    """A job that is done at both parties. The first of them has a server, which goes on."""
    here = request.param
    there = "bank-b" if here == "bank-a" else "bank-a"
    folder = world.root / "jobs" / here
    folder.mkdir(parents=True)
    job = load_job(world.job_file(here, "trees", into="jobs"))
    thread = threading.Thread(daemon=True, target=world.desks[here].run, args=(folder,))
    thread.start()
    world.desks[there].submit(world.job_file(there, "trees"))
    assert world.run(there) == {there: []}
    until(lambda: any(p == here and t.startswith("done") for p, _, t in world.news))
    world.news.clear()
    yield world, job, here, there
    world.desks[here].stop()
    thread.join(30)
    assert not thread.is_alive()


def desk_of(world: World, party: str) -> Desk:
    """A new one, as after a death, at the same door."""
    runs = world.root / "runs" / party
    door, identity = world.doors[party], world.identities[party]
    return Desk(party, identity, door, Devices(), runs, news=telling(world, party))


def test_a_server_that_is_done_tells_a_late_party(served: tuple[World, Job, str, str]) -> None:
    """It died when it was done and did not know of the others."""
    world, job, here, there = served
    folder = world.out(there, job)
    ended = read_end(folder, job.digest)
    assert ended is not None
    before = contents(world.out(here, job))
    for _ in range(3):
        keep_end(folder, job.digest, replace(ended, done=[]))
        desk = desk_of(world, there)
        desk.submit(world.root / "ready" / there / "trees.yaml")
        start = time.monotonic()
        assert desk.run() == []
        assert time.monotonic() - start < 10  # connect_timeout is 20
        assert "out of reach" not in world.news[-1][2]
        found = read_end(folder, job.digest)
        assert found is not None
        assert found.done == [here]
    assert contents(world.out(here, job)) == before
    assert not [text for party, _, text in world.news if party == here]


@pytest.mark.parametrize("served", ["bank-b"], indirect=True)  # a host waits to be called
def test_a_server_that_is_done_does_not_begin_again(served: tuple[World, Job, str, str]) -> None:
    """The other one has lost all that it had."""
    world, job, here, there = served
    before = contents(world.out(here, job))
    shutil.rmtree(world.out(there, job))
    desk = desk_of(world, there)
    desk.submit(world.root / "ready" / there / "trees.yaml")
    assert desk.run() == ["trees"]
    (fault,) = [text for party, _, text in world.news if party == there and "failed" in text]
    assert f"the job is done at {here}; to do it again, remove {folder_of(job)} there" in fault
    assert contents(world.out(here, job)) == before


@dataclass
class Held:
    """A desk with one job of a watched folder, whose threads stop at a gate."""

    desk: Desk
    door: Door
    file: Path
    job: Job
    call: Callable[[], str]
    busy: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    go_on: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def wait(self) -> None:
        self.busy.release()
        assert self.go_on.acquire(timeout=60)

    def fail(self, *_: Any) -> Any:
        self.wait()
        raise PeerFailed("bank-a stopped: killed")

    def look(self) -> None:
        for _ in range(2):
            self.desk.look(self.file.parent)

    def start(self) -> None:
        """Until its thread is at the gate."""
        self.call()
        with self.desk._changed:
            self.desk._start()
        assert self.busy.acquire(timeout=60)

    def end(self) -> None:
        """Let the thread go on, and see it end."""
        (thread,) = [post.thread for post in self.desk._posts.values()]
        assert thread is not None
        self.go_on.release()
        thread.join(60)

    def withdraw(self) -> None:
        """Remove the file while the thread is at the gate: the job is forgotten when it ends."""
        self.file.unlink()
        self.look()
        self.end()
        assert self.desk._posts == {}
        assert "has no such job" in self.call()


@pytest.fixture
def held(world: World, monkeypatch: pytest.MonkeyPatch) -> Held:
    """At bank-b, which waits to be called by bank-a."""
    file = world.job_file("bank-b", "trees", transport={"connect_timeout": 0.1})
    job, door = load_job(file), world.doors["bank-b"]

    def call() -> str:
        caller = Endpoint("bank-a", job.digest, world.identities["bank-a"], job.transport)
        with caller, pytest.raises(TransportError) as caught:
            caller.connect({"bank-b": f"127.0.0.1:{door.port}"})
        return str(caught.value)

    found = Held(world.desks["bank-b"], door, file, job, call)
    monkeypatch.setattr(found.desk, "_run", found.fail)
    monkeypatch.setattr(_serve, "answer_done", found.fail)
    found.look()
    return found


def test_a_job_whose_file_is_removed_while_it_runs_is_not_run_again(held: Held) -> None:
    held.start()
    held.withdraw()


def test_a_job_whose_file_is_touched_while_it_runs_waits_on(held: Held) -> None:
    held.start()
    os.utime(held.file, ns=(0, 0))
    held.look()
    held.end()
    held.start()
    held.end()


def test_a_file_that_is_touched_while_a_late_party_is_answered(held: Held) -> None:
    (post,) = held.desk._posts.values()
    post.state = "done"
    held.start()
    os.utime(held.file, ns=(0, 0))
    held.look()
    held.end()
    held.start()  # whoever is at the door now is the one that the desk knows
    held.withdraw()


def test_threads_that_end_while_the_desk_stops(held: Held) -> None:
    class Ending(threading.Thread):
        def join(self, timeout: float | None = None) -> None:
            post.thread = None

    class Post(_serve._Post):
        """Its thread ends as soon as it has been looked at."""

        def __getattribute__(self, name: str) -> Any:
            value = super().__getattribute__(name)
            if name == "thread" and isinstance(value, Ending):
                self.thread = None
            return value

    post = Post(held.file, held.job, {}, state="running", thread=Ending())
    held.desk._posts = {held.job.digest: post}
    held.desk._stopping = True
    assert held.desk.run() == []


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.full
def test_a_killed_server_goes_on_with_its_jobs_and_the_other_waits(world: World) -> None:
    trees = {"type": "secureboost", "trees": 12, "depth": 2, "bins": 4}
    patient = {"peer_timeout": 60, "connect_timeout": 60}
    names = ("one", "two")
    jobs = {}
    for party in ("bank-a", "bank-b"):
        for name in names:
            file = world.job_file(party, name, components={"train": trees}, transport=patient)
            jobs[name] = load_job(file)
    port = world.doors["bank-b"].port
    world.doors["bank-b"].close()
    command = [sys.executable, "-m", "residue_federated", "serve", "--party", "bank-b"]
    command += ["--listen", f"127.0.0.1:{port}", "--out", str(world.root / "runs" / "bank-b")]
    command += ["--certificates", str(world.root / "certificates" / "bank-b")]
    for name in names:
        command += ["--job", str(world.root / "ready" / "bank-b" / f"{name}.yaml")]
        world.desks["bank-a"].submit(world.root / "ready" / "bank-a" / f"{name}.yaml")
    path = os.pathsep.join(p for p in sys.path if p)

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path})

    ended: dict[str, list[str]] = {}
    other = threading.Thread(daemon=True, target=lambda: ended.update(world.run("bank-a")))
    other.start()
    server = start()
    until(lambda: all(has_checkpoints(world.out("bank-b", job)) for job in jobs.values()))
    server.kill()
    server.wait()
    server = start()
    other.join(120)
    assert server.wait(60) == 0
    assert ended == {"bank-a": []}
    assert [job for _, job, text in world.news if text == "starts"] == list(names)
    for name, job in jobs.items():
        alone = run_all(job, world.root / "alone" / name)
        assert not alone.errors
        for party in ("bank-a", "bank-b"):
            expected = read_model(world.root / "alone" / name / party, job, "train")
            assert read_model(world.out(party, job), job, "train") == expected
    states = [(r.name, r.state) for r in Store.open(world.root / "runs" / "bank-b").runs()]
    assert sorted(states) == [(name, "done") for name in names]


def test_jobs_on_one_accelerator_have_sessions_of_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_devices, "available_backends", lambda: ["cpu", "card", "auto"])
    with Devices() as devices:
        one, other = devices.open("auto"), devices.open("auto")
        assert isinstance(one, OwnerBackend)
        assert isinstance(other, OwnerBackend)
        public, _ = residue.keygen(1024, insecure_allow_1024=True, device=one)
        public.encrypt([1, 2])
        assert one.stats()
        assert not other.stats()
        one.close()
        residue.keygen(1024, insecure_allow_1024=True, device=other)
        other.close()


def until(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.02)
