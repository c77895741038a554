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

import residue
from residue.backends import Backend
from residue.backends._card import CardBackend
from residue_federated._checkpoint import Checkpoints
from residue_federated._context import Context, Outcome, Waiting
from residue_federated._data import Table, load_table
from residue_federated._jobs import Job
from residue_federated.boosting._config import SecureBoostConfig
from residue_federated.boosting._train import apply, predictions, run, twin
from residue_federated.errors import DataError, PeerLost, ProtocolError
from residue_federated.proto import v1
from residue_sim.card_model import ModelBoard
from residue_sim.manifest import configurations
from tests.integration.parties import run_all

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
        self.lost: dict[str, str] = {}

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


def config_of(job: Job) -> SecureBoostConfig:
    config = job.components["train"]
    assert isinstance(config, SecureBoostConfig)
    return config


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
        self._config = config_of(job)
        self._backend = backend
        self._directory = directory
        self._stop_after = stop_after
        self._each(self._train)

    def predict(self, tables: Tables) -> Any:
        """Scores of other rows, from the parties' shares as they would be read from files.

        None if a party failed.
        """
        scores: list[Any] = []

        def one(name: str) -> None:
            share = json.loads(json.dumps(self.outcomes[name].model or {}))
            outcome = apply(self._context(name), self._config, tables.get(name), share)
            if outcome.scores is not None:
                scores.append(outcome.scores)

        self._each(one)
        return scores[0] if scores else None

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
        self.outcomes[name] = run(self._context(name), self._config, self.tables.get(name))

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
            "hosts": [{"name": f"h{i}", "data": {"sklearn": "diabetes"}} for i in range(hosts)],
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
    expected = twin(job, config_of(job), tables)
    assert shares_of(trial) == expected.model
    guest = trial.outcomes["guest"]
    assert guest.losses == expected.losses
    assert guest.metrics == expected.metrics
    assert guest.losses[-1] < guest.losses[0]
    owners = {o for trees in guest.model["trees"] for tree in trees for o in tree["owner"]}  # type: ignore[index]
    assert owners == set(range(-1, 1 + hosts))


def test_scoring_together_gives_the_scores_of_training(backend: Backend) -> None:
    job = job_of(2, objective="multiclass", depth=2)
    tables = tables_of("multiclass", 2, missing=0.1)
    trial = Trial(job, tables, backend)
    assert (trial.predict(tables) == trial.outcomes["guest"].scores).all()
    assert trial.errors == {}
    others = tables_of("multiclass", 2, rows=40, missing=0.3, seed=8)
    scores = trial.predict(others)
    assert scores.shape == (40, 3)
    # The same trees on joined columns.
    records = {name: o.model["records"] for name, o in trial.outcomes.items()}  # type: ignore[index]
    names = ["guest", "h0", "h1"]
    model = trial.outcomes["guest"].model
    assert model is not None
    for row in range(40):
        expected = np.array(model["start"])
        for trees in model["trees"]:
            for k, tree in enumerate(trees):
                node = 0
                while (owner := tree["owner"][node]) >= 0:
                    party, at = names[owner], tree["record"][node]
                    column = others[party].columns.index(records[party]["column"][at])
                    value = others[party].x[row, column]
                    left = (
                        records[party]["missing_left"][at]
                        if np.isnan(value)
                        else value <= records[party]["threshold"][at]
                    )
                    node = tree["left" if left else "right"][node]
                expected[k] += tree["value"][node]
        assert (scores[row] == expected).all()


def test_scores_are_in_the_labels_own_units(backend: Backend) -> None:
    job = job_of(objective="squared_error", trees=6)
    tables = tables_of("squared_error")
    tables["guest"] = tables["guest"].standardised(target=True)
    trial = Trial(job, tables, backend)
    scores = trial.outcomes["guest"].scores
    assert scores is not None
    assert scores.mean() == pytest.approx(50, abs=3)
    assert trial.outcomes["guest"].metrics["rmse"] > 3
    assert trial.predict(tables) == pytest.approx(scores, rel=1e-12)


def test_columns_that_a_model_needs_must_be_there(backend: Backend) -> None:
    trial = Trial(job_of(trees=1), tables_of("binary"), backend)
    tables = tables_of("binary")
    h0 = tables["h0"]
    tables["h0"] = Table(h0.ids, ["w", "x", "y", "z"], h0.x)
    assert trial.predict(tables) is None
    assert isinstance(trial.errors["h0"], DataError)
    assert "h0: no column a, b, c, d" in str(trial.errors["h0"])


@pytest.mark.parametrize("stop_after", [0, 2])
def test_a_killed_job_goes_on_to_the_same_model(
    stop_after: int, backend: Backend, tmp_path: Path
) -> None:
    config: dict[str, Any] = {"goss": {"top": 0.3, "other": 0.3}, "guest_trees": [2]}
    job = job_of(2, trees=4, column_subsample=0.7, **config)
    tables = tables_of("binary", 2, missing=0.1)
    undisturbed = Trial(job, tables, backend)
    killed = Trial(job, tables, backend, directory=tmp_path, stop_after=stop_after)
    assert set(killed.errors) == {"guest", "h0", "h1"}
    resumed = Trial(job, tables, backend, directory=tmp_path)
    assert resumed.errors == {}
    assert shares_of(resumed) == shares_of(undisturbed)
    # From the last tree that all have: others may have had the last one's end still before them.
    assert max(0, stop_after - 1) <= resumed.progress[0][0] <= stop_after
    guests = resumed.outcomes["guest"], undisturbed.outcomes["guest"]
    assert guests[0].losses == guests[1].losses
    assert np.array_equal(*(guest.scores for guest in guests))  # type: ignore[arg-type]


def test_an_arbiter_of_other_components_looks_on(backend: Backend, tmp_path: Path) -> None:
    job, tables = job_of(arbiter=True), tables_of("binary")
    trial = Trial(job, tables, backend, directory=tmp_path)
    assert trial.errors == {}
    assert trial.outcomes["arbiter"].rounds == 3
    assert trial.outcomes["arbiter"].model is None
    received = {tag for _, peer, tag, payload in trial.post.sent if peer == "arbiter"}
    assert received == {"train/resume", *(f"train/{r}/round" for r in range(4))}
    assert Checkpoints(tmp_path / "arbiter", job.digest).rounds == [1, 2, 3]


# --- what leaves a party --------------------------------------------------------------------------


def test_every_ciphertext_that_leaves_carries_fresh_randomness(backend: Backend) -> None:
    trial = Trial(job_of(2), tables_of("binary", 2), backend)
    payloads = [p for _, _, tag, p in trial.post.sent if tag == "train/key"]
    key = residue.PublicKey.from_bytes(payloads[0].public_key.data, device="cpu")
    seen: dict[str, list[int]] = {}
    for _, peer, _, payload in trial.post.sent:
        for block in payload.ciphertexts.blocks:
            limbs = key.ciphertexts_from_bytes(block).to_limbs()
            values = [int.from_bytes(row.astype("<u8").tobytes(), "little") for row in limbs]
            seen.setdefault(peer, []).extend(values)
    assert set(seen) == {"guest", "h0", "h1"}
    assert len(seen["h0"]) == len(seen["h1"]) == 3 * 120
    for values in seen.values():
        assert len(values) == len(set(values))
        assert all((c - 1) % key.n != 0 for c in values)


def test_hosts_learn_rows_and_candidates_alone(backend: Backend) -> None:
    trial = Trial(job_of(2), tables_of("binary", 2), backend)
    to_hosts = {
        (tag.split("/")[2] if tag.count("/") > 1 else tag.split("/")[1]): payload
        for sender, peer, tag, payload in trial.post.sent
        if sender == "guest"
    }
    assert set(to_hosts) == {
        *("resume", "rows", "key", "outputs", "round", "gradients", "build", "divide")
    }
    records = {name: set(p.record.arrays) for name, p in to_hosts.items() if p.record.arrays}
    assert records["build"] == {"split", "left", "build"}
    assert records["divide"] == {"nodes", "ties", "candidates"}
    assert records["round"] == {"part", "selected"}
    model = trial.outcomes["h0"].model
    assert model is not None
    assert set(model) == {"columns", "records"}
    guest = trial.outcomes["guest"].model
    assert guest is not None
    assert guest["records"]["column"]
    assert set(guest["records"]["column"]) <= set(guest["columns"])


def test_a_hosts_columns_come_in_another_order_each_round(backend: Backend) -> None:
    tables = tables_of("binary", rows=60)
    x = np.random.default_rng(5).normal(size=(60, 40))
    x[:, 0] = np.nan  # seen from afar: all its rows are in the last bin
    tables["h0"] = Table(tables["h0"].ids, [f"c{j}" for j in range(40)], x)
    trial = Trial(job_of(trees=6, depth=1), tables, backend)
    places = [
        int(np.frombuffer(p.record.arrays["n"].data, "<u4").reshape(40, 9)[:, -1].argmax())
        for _, _, tag, p in trial.post.sent
        if tag.endswith("/counts/0")
    ]
    assert len(places) == 6
    assert len(set(places)) > 1


def test_decrypted_sums_are_the_same_in_every_run(backend: Backend) -> None:
    job, tables = job_of(trees=2), tables_of("binary")
    runs = [Trial(job, tables, backend).outcomes["guest"].trace for _ in range(2)]
    assert runs[0] == runs[1]
    assert len(runs[0]) >= 4
    assert any(value < 0 for value in runs[0][0])


def test_a_card_gives_the_same_integers_and_trees(backend: Backend) -> None:
    job, tables = job_of(trees=1, depth=2), tables_of("binary", rows=40)
    card = CardBackend(ModelBoard(configurations()["r21"]), check_rate=0.0)
    on_card, on_cpu = Trial(job, tables, card), Trial(job, tables, backend)
    assert card.stats()["prod"].elements > 0
    assert on_card.errors == {}
    assert on_card.outcomes["guest"].trace == on_cpu.outcomes["guest"].trace
    assert shares_of(on_card) == shares_of(on_cpu)


# --- what a party does not accept -----------------------------------------------------------------


def without_signal(guest: Table) -> Table:
    """A column that says nothing, so that hosts have all splits."""
    return Table(guest.ids, ["a"], np.zeros((len(guest.ids), 1)), guest.y)


def tampered(sender: str, what: str, change: Callable[[v1.Payload], None]) -> Tamper:
    """Change the first message of a sender whose tag holds `what`."""
    done: list[str] = []

    def tamper(by: str, tag: str, payload: v1.Payload) -> v1.Payload:
        if by == sender and what in tag and not done:
            done.append(tag)
            payload = v1.Payload.FromString(payload.SerializeToString())
            change(payload)
        return payload

    return tamper


def numbers(name: str, dtype: str, change: Callable[[Any], Any]) -> Callable[[v1.Payload], None]:
    """Change an array of a record."""

    def apply(payload: v1.Payload) -> None:
        array = payload.record.arrays[name]
        values = change(np.frombuffer(array.data, dtype).reshape(tuple(array.shape)).copy())
        array.data, array.shape[:] = values.tobytes(), values.shape

    return apply


def bump(values: Any) -> Any:
    values.flat[0] += 1
    return values


def swap(values: Any) -> Any:
    """Move a row from one bin to another."""
    flat = values.reshape(-1, values.shape[-1])
    filled = np.flatnonzero(flat[0])
    flat[0, filled[0]] -= 1
    flat[0, filled[1]] += 1
    return values


def of_other_numbers(payload: v1.Payload) -> None:
    """Ciphertexts of the same key, shape and bound, but of other numbers."""
    block = bytearray(payload.ciphertexts.blocks[0])
    size = 2 * 1024 // 8
    first, second = block[-size:], block[-2 * size : -size]
    block[-2 * size : -size], block[-size:] = first, second
    payload.ciphertexts.blocks[0] = bytes(block)


@pytest.mark.parametrize(
    ("sender", "what", "change", "expected"),
    [
        ("h0", "columns", numbers("columns", "<i8", lambda v: v * 0), "table of 0 columns"),
        ("h0", "counts", numbers("n", "<u4", bump), "do not add up"),
        ("h0", "counts", numbers("n", "<u4", lambda v: v[:, 1:]), "bad 'n'"),
        ("h0", "counts", numbers("n", "<u4", swap), "sent"),
        ("h0", "sums", of_other_numbers, "sent"),
        ("h0", "left", numbers("left", "u1", lambda v: ~v), "other than by its best split"),
        ("h0", "left", numbers("left", "u1", lambda v: v[1:]), "bad 'left'"),
        ("guest", "outputs", numbers("outputs", "<i8", lambda v: v * 0), "wants 0 trees"),
        ("guest", "round", numbers("selected", "u1", lambda v: v[1:]), "another table"),
        ("guest", "round", numbers("selected", "u1", lambda v: v * 0), "selected no rows"),
        ("guest", "build/0", numbers("build", "<i4", bump), "nodes that do not exist"),
        ("guest", "build/1", numbers("build", "<i4", lambda v: v - 9), "nodes that do not exist"),
        ("guest", "build/1", numbers("split", "<i4", bump), "nodes that do not exist"),
        ("guest", "build/1", numbers("left", "u1", lambda v: v[1:]), "division of other rows"),
        ("guest", "build/1", numbers("left", "u1", lambda v: v * 0), "sums of no rows"),
        ("guest", "divide", numbers("candidates", "<i4", lambda v: v - 999), "splits that do not"),
        ("guest", "divide", numbers("ties", "<i4", bump), "splits that do not"),
    ],
)
def test_what_cannot_be_is_refused_and_its_sender_named(
    sender: str,
    what: str,
    change: Callable[[v1.Payload], None],
    expected: str,
    backend: Backend,
) -> None:
    tables = tables_of("binary", rows=60)
    tables["guest"] = without_signal(tables["guest"])
    trial = Trial(job_of(trees=1, depth=2), tables, backend, tamper=tampered(sender, what, change))
    refuser = "h0" if sender == "guest" else "guest"
    error = trial.errors[refuser]
    assert isinstance(error, ProtocolError), error
    assert str(error).startswith(sender)
    assert expected in str(error)


def test_unusable_labels_stop_the_job_before_it_starts(backend: Backend) -> None:
    tables = tables_of("multiclass")
    trial = Trial(job_of(objective="binary"), tables, backend)
    assert isinstance(trial.errors["guest"], DataError)
    assert str(trial.errors["guest"]).startswith("guest: labels must be two classes")
    assert not any(payload.ciphertexts.blocks for *_, payload in trial.post.sent)


def test_what_scores_say() -> None:
    def named(objective: str, scores: Any) -> dict[str, list[float]]:
        told = predictions(config_of(job_of(objective=objective)), np.array(scores))
        return {name: np.round(values, 6).tolist() for name, values in told.items()}

    assert named("squared_error", [1.5]) == {"value": [1.5]}
    assert named("binary", [0.0, np.log(3)])["probability"] == [0.5, 0.75]
    classes = named("multiclass", [[0.0, np.log(2), 800.0], [np.log(2), 0.0, 0.0]])
    assert classes == {
        "class": [2.0, 0.0],
        "probability_0": [0.0, 0.5],
        "probability_1": [0.0, 0.25],
        "probability_2": [1.0, 0.25],
    }


def test_a_host_refuses_to_tell_of_splits_that_are_not(backend: Backend) -> None:
    tables = tables_of("binary", rows=60)
    tables["guest"] = without_signal(tables["guest"])
    for name in ("rows", "records"):
        change = tampered("guest", "/walk/0/0", numbers(name, "<i4", lambda v: v - 1000))
        trial = Trial(job_of(trees=1), tables, backend, tamper=change)
        assert trial.errors == {}
        assert trial.predict(tables) is None
        assert "guest asks for rows or splits that do not exist" in str(trial.errors["h0"])


def test_jobs_run_over_the_wire(tmp_path: Path) -> None:
    """gRPC, mutual TLS, files: what the threads above leave out."""
    job = job_of(2, objective="squared_error", trees=2, bins=16)
    tables = {party.name: load_table(job, party.name) for party in job.parties}
    expected = twin(job, config_of(job), tables)
    run = run_all(job, tmp_path)
    assert run.errors == {}
    for name, share in (expected.model or {}).items():
        model = json.loads((tmp_path / name / "models" / "train.json").read_text())
        assert {key: model[key] for key in share} == share
    report = run.reports["guest"].component("train")
    assert report.losses == expected.losses
    assert report.metrics == expected.metrics
    assert set(report.facts["importance"]["party_gain"]) == {"guest", "h0", "h1"}
    assert run.reports["h0"].component("train").facts["importance"]["splits"]
