"""A party's partitions on the nodes of a Ray cluster: two nodes of this machine."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import residue
from residue_federated import Job, _scratch, load_job
from residue_federated._jobs import Party
from residue_federated._scratch import Scratch
from residue_federated._workers import LocalWorkers, Workers
from residue_federated.errors import PeerFailed, PeerLost, WorkerLost
from residue_federated.partitions import open_workers
from tests.integration.parties import run_all
from tests.unit.test_workers import X, learnt

pytestmark = [
    pytest.mark.full,
    pytest.mark.timeout(900),
    # Ray leaves sockets and processes to its own exit handlers.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

EXAMPLES = Path("examples")


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Two nodes, of a processor each."""
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    made = _started()
    yield made
    made.shutdown()


def _started() -> Any:
    """Ray gives a node half a minute to start, which a busy machine may not have at once."""
    from ray.cluster_utils import Cluster

    for again in (True, True, False):
        made: Any = Cluster()
        try:
            made.add_node(num_cpus=1, object_store_memory=200 << 20, include_dashboard=False)
            made.add_node(num_cpus=1, object_store_memory=200 << 20)
            made.wait_for_nodes()
            return made
        except Exception as error:
            made.shutdown()
            if not again or "timed out during startup" not in str(error):
                raise
    raise AssertionError


@pytest.fixture
def workers(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workers]:
    """Of a party on the cluster, and tables of many partitions."""
    monkeypatch.setattr(_scratch, "_PARTITION", 200)
    with closing(open_workers(Party(name="host", ray=cluster.address))) as made:
        yield made


def job_of(name: str, rays: dict[str, str], rounds: int = 2) -> Job:
    job = load_job(EXAMPLES / f"{name}.yaml").replace(key_bits=1024, rounds=rounds, rays=rays)
    return job.replace(devices={party.name: "cpu" for party in job.parties})


def models_of(directory: Path) -> dict[str, str]:
    found = directory.glob("*/models/*.json")
    return {str(path.relative_to(directory)): path.read_text() for path in found}


@pytest.mark.parametrize("name", ["breast_lr", "breast_sbt"])
def test_jobs_give_the_same_model_on_two_nodes(
    tmp_path: Path, cluster: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_scratch, "_PARTITION", 569)  # a column: tables have many
    plain = run_all(job_of(name, {}), tmp_path / "plain")
    job = job_of(name, {"host": cluster.address, "guest": cluster.address})
    there = run_all(job, tmp_path / "ray")
    assert not plain.errors
    assert not there.errors
    models = models_of(tmp_path / "plain")
    assert len(models) >= 2
    assert models == models_of(tmp_path / "ray")
    used = {party: there.reports[party].nodes for party in ("guest", "host")}
    # The guest of boosted trees has the key itself: nobody else's ciphertexts come to it.
    for party in ("guest", "host") if name == "breast_lr" else ("host",):
        assert len({node["node"] for node in used[party]}) == 2
        assert all(node["elements"] > 100 for node in used[party])
        # Quantiles and bins of trees; a linear model does nothing by columns.
        assert (sum(node["tasks"] for node in used[party]) > 30) == (name == "breast_sbt")
    assert not plain.reports["host"].nodes


def test_a_job_that_lost_a_node_says_so_and_goes_on_with_the_others(
    tmp_path: Path, cluster: Any
) -> None:
    epochs = 60  # an epoch takes less than a node's end
    assert not run_all(job_of("breast_lr", {}, epochs), tmp_path / "plain").errors
    job = job_of("breast_lr", {"host": cluster.address}, epochs)
    second = cluster.list_all_nodes()[1]
    killed = threading.Event()

    def kill(party: str, done: int) -> None:
        if party == "host" and done == 2 and not killed.is_set():
            killed.set()
            cluster.remove_node(second, allow_graceful=False)

    broken = run_all(job, tmp_path / "ray", progress=kill)
    assert killed.is_set()
    assert isinstance(broken.errors["host"], residue.errors.DeviceError)
    assert "is lost with its part of the ciphertexts: resume the job" in str(broken.errors["host"])
    assert isinstance(broken.errors["guest"], PeerFailed | PeerLost)
    again = run_all(job, tmp_path / "ray")
    assert not again.errors
    assert len(again.reports["host"].nodes) == 1
    assert models_of(tmp_path / "ray") == models_of(tmp_path / "plain")


def test_a_node_has_one_owner_of_a_party(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from residue_federated.partitions import _ray

    monkeypatch.setattr(_ray, "_TAKEN", 1.0)
    first = _ray.RayExecutor(cluster.address, "host", "cpu")
    assert len(first.nodes) == 2
    with pytest.raises(residue.errors.DeviceError, match="another job of this party has it"):
        _ray.RayExecutor(cluster.address, "host", "cpu")
    other = _ray.RayExecutor(cluster.address, "guest", "cpu")
    assert other.nodes == first.nodes
    for executor in (other, first):
        executor.close()


def test_plain_values_are_worked_on_by_all_nodes(workers: Workers) -> None:
    assert workers.count == 2
    assert learnt(X, Scratch(workers=workers)) == learnt(X, Scratch())
    assert sum(workers.done.values()) > 20
    assert list(workers.each(time.sleep, [(0.5,)] * 8)) == [None] * 8
    assert len(workers.done) == 2
    found = workers.each(int, ((text,) for text in "012x4567"))
    assert [next(found) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="invalid literal"):
        next(found)


def test_a_task_whose_process_is_lost_is_done_again(workers: Workers, tmp_path: Path) -> None:
    once = f"mkdir {tmp_path}/$0 && kill -9 $PPID; exit $0"
    tasks = ((["sh", "-c", once, str(number)],) for number in range(4))
    assert list(workers.each(subprocess.call, tasks)) == list(range(4))
    assert len(list(tmp_path.iterdir())) == 4


def test_the_nodes_that_are_left_do_the_tasks(cluster: Any, workers: Workers) -> None:
    second = cluster.list_all_nodes()[1]
    for number, _ in enumerate(workers.each(time.sleep, [(0.5,)] * 12)):
        if number == 2:
            cluster.remove_node(second, allow_graceful=False)
    assert sum(workers.done.values()) == 12


def test_a_task_that_cannot_be_done_is_told(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    from residue_federated.partitions import _ray_tasks

    monkeypatch.setattr(_ray_tasks, "_RETRIES", 0)
    with pytest.raises(WorkerLost, match=r"a task of the Ray cluster at .* was lost: .*; resume"):
        list(workers.each(os._exit, [(1,)]))
    with pytest.raises(WorkerLost, match=r"was lost: .*No module named 'tests"):
        list(workers.each(job_of, [("nodes have this package, and none of its tests", {})]))


def test_processes_keep_plain_values_on_the_partys_machine() -> None:
    chosen = open_workers(Party(name="host", ray="127.0.0.1:1", processes=3))
    assert isinstance(chosen, LocalWorkers)
    assert chosen.count == 3


def test_a_cluster_that_is_not_there(tmp_path: Path) -> None:
    ray = pytest.importorskip("ray")
    from residue_federated.partitions._ray import RayExecutor

    assert not ray.is_initialized()
    with pytest.raises(residue.errors.DeviceError, match=r"no Ray cluster at 127\.0\.0\.1:1"):
        RayExecutor("127.0.0.1:1", "host", "cpu")
    with pytest.raises(residue.errors.DeviceError, match=r"no Ray cluster at 127\.0\.0\.1:1"):
        open_workers(Party(name="host", ray="127.0.0.1:1"))
