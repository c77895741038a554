"""Ciphertexts of a party on the nodes of a Ray cluster: two nodes of this machine."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import residue
from residue_federated import Job, load_job
from residue_federated.errors import PeerFailed, PeerLost
from tests.integration.parties import run_all

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


def job_of(name: str, rays: dict[str, str], rounds: int = 2) -> Job:
    job = load_job(EXAMPLES / f"{name}.yaml").replace(key_bits=1024, rounds=rounds, rays=rays)
    return job.replace(devices={party.name: "cpu" for party in job.parties})


def models_of(directory: Path) -> dict[str, str]:
    found = directory.glob("*/models/*.json")
    return {str(path.relative_to(directory)): path.read_text() for path in found}


@pytest.mark.parametrize("name", ["breast_lr", "breast_sbt"])
def test_jobs_give_the_same_model_on_two_nodes(tmp_path: Path, cluster: Any, name: str) -> None:
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


def test_a_cluster_that_is_not_there(tmp_path: Path) -> None:
    ray = pytest.importorskip("ray")
    from residue_federated.partitions._ray import RayExecutor

    assert not ray.is_initialized()
    with pytest.raises(residue.errors.DeviceError, match=r"no Ray cluster at 127\.0\.0\.1:1"):
        RayExecutor("127.0.0.1:1", "host", "cpu")
