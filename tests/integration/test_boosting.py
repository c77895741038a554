"""Boosted trees of several parties, as threads of this process, against their plaintext twin."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn import datasets

import residue
from residue.backends import Backend
from residue_federated._checkpoint import Checkpoints
from residue_federated._context import Context, Outcome, Waiting
from residue_federated._data import Table
from residue_federated._jobs import Job
from residue_federated.boosting._model import predict, predict_at_host
from residue_federated.boosting._train import run, twin
from residue_federated.errors import DataError, PeerLost, ProtocolError
from residue_federated.proto import v1

Tables = dict[str, Table]
Tamper = Callable[[str, str, v1.Payload], v1.Payload]


class Post:
    """Carries messages between threads. tamper: sees, and may change, each message."""

    def __init__(self, tamper: Tamper = lambda sender, tag, payload: payload) -> None:
        self.mail: dict[tuple[str, str, str], v1.Payload] = {}
        self.sent: list[tuple[str, str, str, v1.Payload]] = []
        self.arrival = threading.Condition()
        self.failed = False
        self.tamper = tamper

    def fail(self) -> None:
        with self.arrival:
            self.failed = True
            self.arrival.notify_all()


class Door:
    """A party's end of a `Post`: what `Endpoint` offers a `Line`."""

    def __init__(self, post: Post, party: str) -> None:
        self.post = post
        self.party = party

    def send(self, peer: str, tag: str, payload: v1.Payload) -> None:
        post = self.post
        payload = post.tamper(self.party, tag, payload)
        with post.arrival:
            post.mail[self.party, peer, tag] = payload
            post.sent.append((self.party, peer, tag, payload))
            post.arrival.notify_all()

    def receive(self, peer: str, tag: str, *, idle: Callable[[], bool] | None = None) -> v1.Payload:
        post, key = self.post, (peer, self.party, tag)
        while idle is not None and key not in post.mail and not post.failed and idle():
            pass
        with post.arrival:
            assert post.arrival.wait_for(lambda: key in post.mail or post.failed, timeout=60), key
            if key not in post.mail:
                raise PeerLost("another party failed")
            return post.mail.pop(key)


class Trial:
    """All parties of a job with one component, `train`, and what they ended with."""

    def __init__(
        self,
        job: Job,
        tables: Tables,
        backend: Backend,
        *,
        directory: Path | None = None,
        tamper: Tamper = lambda sender, tag, payload: payload,
        stop_after: int | None = None,
    ) -> None:
        self.job = job
        self.tables = tables
        self.post = Post(tamper)
        self.outcomes: dict[str, Outcome] = {}
        self.errors: dict[str, residue.ResidueError] = {}
        self.progress: list[tuple[int, float | None]] = []
        self._backend = backend
        self._directory = directory
        self._stop_after = stop_after
        self._each(self._train)

    def predict(self, tables: Tables) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Scores of other rows, from the parties' shares as they would be read from files."""
        scores = []

        def one(name: str) -> None:
            context = self._context(name)
            share = json.loads(json.dumps(self.outcomes[name].model))
            if context.role == "guest":
                scores.append(predict(context.line, share, tables[name]))
            else:
                predict_at_host(context.line, context.guest, share, tables[name])

        self._each(one)
        return scores[0]

    def _each(self, work: Callable[[str], None]) -> None:
        def one(name: str) -> None:
            try:
                work(name)
            except residue.ResidueError as error:
                self.errors[name] = error
                self.post.fail()
            except BaseException:
                self.post.fail()
                raise

        with ThreadPoolExecutor(len(self.job.parties)) as pool:
            list(pool.map(one, [party.name for party in self.job.parties]))

    def _train(self, name: str) -> None:
        config = self.job.components["train"]
        self.outcomes[name] = run(self._context(name), config, self.tables.get(name))  # type: ignore[arg-type]

    def _context(self, name: str) -> Context:
        def on_progress(component: str, done: int, total: int, loss: float | None) -> None:
            if name == self.job.guest.name:
                self.progress.append((done, loss))
            if done == self._stop_after:
                raise PeerLost("killed")

        below = None if self._directory is None else self._directory / name
        return Context(
            self.job,
            name,
            "train",
            Door(self.post, name),  # type: ignore[arg-type]
            self._backend,
            checkpoints=Checkpoints(below, self.job.digest),
            inputs={},
            waiting=Waiting(),
            on_progress=on_progress,
            trace=True,
        )


@pytest.fixture(scope="module")
def backend() -> Backend:
    return residue.get_backend("cpu")


def job_of(hosts: int = 1, *, arbiter: bool = False, **config: Any) -> Job:
    defaults = {"trees": 3, "depth": 3, "bins": 8, "learning_rate": 0.5}
    return Job.model_validate(
        {
            "name": "boost",
            "guest": {"name": "guest", "data": {"sklearn": "diabetes"}},
            "hosts": [
                {"name": f"h{i}", "data": {"sklearn": "diabetes"}} for i in range(hosts)
            ],
            "arbiter": {"name": "arbiter"} if arbiter else None,
            "key": {"bits": 1024, "insecure_allow_1024": True},
            "components": {"train": {"type": "secureboost"} | defaults | config},
        }
    )


def tables_of(
    objective: str, hosts: int = 1, rows: int = 120, missing: float = 0.0, seed: int = 3
) -> Tables:
    """Tables with signal in all parties' columns; some of these have few values, some are equal."""
    rng = np.random.default_rng(seed)
    names = ["guest", *(f"h{i}" for i in range(hosts))]
    parts = {name: rng.normal(size=(rows, 4)) for name in names}
    signal = sum(np.sin(2 * part[:, 0]) + part[:, 1] * (part[:, 2] > 0) for part in parts.values())
    signal = np.asarray(signal) + rng.normal(scale=0.3, size=rows)
    if objective == "binary":
        y = (signal > 0).astype(np.float64)
    elif objective == "multiclass":
        y = np.digitize(signal, np.quantile(signal, [0.3, 0.6])).astype(np.float64)
    else:
        y = 50 + 10 * signal
    ids = [f"{i:04d}" for i in range(rows)]
    tables = {}
    for name, part in parts.items():
        part[:, 2] = np.round(part[:, 2])
        part[:, 3] = part[:, 1]  # splits of equal gain
        part[rng.random(part.shape) < missing] = np.nan
        tables[name] = Table(ids, ["a", "b", "c", "d"], part, y if name == "guest" else None)
    return tables


def shares_of(trial: Trial) -> dict[str, Any]:
    return {name: o.model for name, o in trial.outcomes.items() if o.model is not None}


CASES: dict[str, tuple[dict[str, Any], int, float]] = {
    "binary": ({}, 1, 0.0),
    "multiclass": ({"objective": "multiclass", "depth": 2}, 1, 0.0),
    "regression": ({"objective": "squared_error", "reg_lambda": 0.0}, 1, 0.0),
    "missing": ({"min_leaf_rows": 3}, 1, 0.2),
    "two hosts": ({"gamma": 0.05}, 2, 0.1),
    "subsampling": ({"subsample": 0.6, "column_subsample": 0.5, "seed": 4}, 2, 0.0),
    "goss": ({"goss": {"top": 0.3, "other": 0.2}}, 1, 0.1),
    "guest trees": ({"guest_trees": [1, 3], "trees": 4}, 2, 0.0),
    "mixed": ({"mixed_period": 1, "trees": 4}, 2, 0.0),
    "held out": ({"early_stop": {"rounds": 2, "validation": 0.3}, "trees": 8}, 1, 0.0),
    "many bins": ({"bins": 255, "min_child_weight": 0.0, "depth": 5, "trees": 2}, 1, 0.05),
}


@pytest.mark.parametrize("case", CASES)
def test_trees_are_those_of_the_plaintext_twin_node_by_node(case: str, backend: Backend) -> None:
    config, hosts, missing = CASES[case]
    job = job_of(hosts, **config)
    tables = tables_of(config.get("objective", "binary"), hosts, missing=missing)
    trial = Trial(job, tables, backend)
    assert trial.errors == {}
    expected = twin(job, job.components["train"], tables)  # type: ignore[arg-type]
    assert shares_of(trial) == expected.model
    guest = trial.outcomes["guest"]
    assert guest.losses == expected.losses
    assert guest.metrics == expected.metrics
    assert guest.losses[-1] < guest.losses[0]
    owners = {o for trees in guest.model["trees"] for tree in trees for o in tree["owner"]}  # type: ignore[index]
    assert owners == set(range(-1, 1 + hosts))
