"""Whole horizontal jobs over real gRPC with mutual TLS, and what happens when hosts are lost."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from residue_federated import Job
from residue_federated._components import runner_of
from residue_federated._context import Line, Twin
from residue_federated._data import Scaling, load_table
from residue_federated._trial import Event, run_trial
from residue_federated.audit._verify import audit_records
from residue_federated.errors import (
    CheckpointError,
    DataError,
    Diverged,
    PeerFailed,
    PeerLost,
    ProtocolError,
)
from residue_federated.horizontal import _paillier
from residue_federated.horizontal._config import HorizontalConfig
from residue_federated.horizontal._masked import MaskedSummand
from residue_federated.horizontal._models import Network, class_labels, descend
from residue_federated.horizontal._paillier import PaillierSummand
from residue_federated.horizontal._sums import Sum
from residue_federated.proto import v1
from residue_federated.transport import Message
from tests.integration.parties import Run, Staged, run_all

LOGISTIC = {"type": "horizontal_logistic_regression", "rounds": 20, "learning_rate": 0.5}
MLP = {"type": "horizontal_mlp", "rounds": 20, "learning_rate": 0.5, "classes": 10, "hidden": [16]}
BREAST = {"sklearn": "breast_cancer", "split": "rows"}
DIGITS = {"sklearn": "digits", "split": "rows"}
QUICK = {"connect_timeout": 20, "peer_timeout": 2}


def make_job(data: dict[str, Any], hosts: int = 2, **train: Any) -> Job:
    return Job.model_validate(
        {
            "name": "t",
            "guest": {"name": "guest", "data": data},
            "hosts": [{"name": f"h{i}", "data": data} for i in range(hosts)],
            "arbiter": {"name": "arbiter"},
            "key": {"bits": 1024, "insecure_allow_1024": True},
            "components": {"train": train, "quality": {"type": "evaluate"}},
            "transport": QUICK,
        }
    )


def breast(hosts: int = 2, **train: Any) -> Job:
    return make_job(BREAST, hosts, **LOGISTIC | train)


def digits(hosts: int = 2, **train: Any) -> Job:
    return make_job(DIGITS, hosts, **MLP | train)


def softmax(**train: Any) -> Job:
    return make_job(DIGITS, 2, **LOGISTIC | {"classes": 10} | train)


def raw_columns(**train: Any) -> Job:
    return breast(hosts=1, l2=0.1, standardise=False, **train | {"learning_rate": 1e-6})


def generated(
    directory: Path, hosts: int, columns: dict[str, list[str]] | None = None, **train: Any
) -> Job:
    """A job on files of 30 rows a party with a signal in two of three columns."""
    rng, parties = np.random.default_rng(0), []
    for name in ["guest", *(f"h{i}" for i in range(hosts))]:
        frame = pd.DataFrame(rng.normal(size=(30, 3)), columns=["a", "b", "c"])
        label = (frame.a - frame.b + rng.normal(size=30) > 0).astype(int)
        frame.assign(id=range(30), label=label).to_csv(directory / f"{name}.csv", index=False)
        features = (columns or {}).get(name, ["a", "b", "c"])
        file = {"file": directory / f"{name}.csv", "label": "label", "features": features}
        parties.append({"name": name, "data": file})
    changes = {"guest": parties[0], "hosts": parties[1:], "components": {"train": LOGISTIC | train}}
    return Job.model_validate(breast(hosts).model_dump() | changes)


def model_of(directory: Path, party: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((directory / party / "models" / "train.json").read_text())
    return loaded


def twin_of(job: Job) -> Twin:
    tables = {p.name: load_table(job, p.name) for p in (job.guest, *job.hosts)}
    component = job.components["train"]
    twin: Twin = runner_of(component).twin(job, component, tables)
    return twin


def is_about(message: Message, tag: str) -> bool:
    return message.tag == f"train/{tag}"


@pytest.mark.parametrize(
    ("job_of", "aggregation"),
    [
        (breast, "masks"),
        (breast, "paillier"),
        (raw_columns, "masks"),
        (softmax, "paillier"),
        (digits, "masks"),
        (digits, "paillier"),
    ],
)
def test_full_batch_jobs_equal_their_plaintext_twin(
    tmp_path: Path, job_of: Callable[..., Job], aggregation: str
) -> None:
    job = job_of(aggregation=aggregation, rounds=5)
    run, twin = run_all(job, tmp_path), twin_of(job)
    assert run.errors == {}
    for party in ("guest", "h0"):
        report = run.reports[party].component("train")
        assert report.losses == pytest.approx(twin.losses, rel=1e-5)
        assert report.metrics == pytest.approx(twin.metrics, rel=2e-3)
        assert report.facts["clipped"] == 0
        assert report.rounds == 5
    models = [model_of(tmp_path, party.name) for party in (job.guest, *job.hosts)]
    assert all(model["parameters"] == models[0]["parameters"] for model in models)
    assert report.losses[-1] < report.losses[0]


@pytest.mark.parametrize(("job_of", "aggregation"), [(breast, "paillier"), (digits, "masks")])
def test_federated_averaging_is_as_good_as_joined_data(
    tmp_path: Path, job_of: Callable[..., Job], aggregation: str
) -> None:
    job = job_of(aggregation=aggregation, batch_size=8, learning_rate=0.2, local_epochs=2, rounds=6)
    run, twin = run_all(job, tmp_path), twin_of(job)
    assert run.errors == {}
    metrics = run.reports["guest"].component("train").metrics
    assert metrics["accuracy"] == pytest.approx(twin.metrics["accuracy"], rel=0.01)
    assert metrics["accuracy"] > 0.97


@pytest.mark.parametrize("job_of", [softmax, breast])
def test_every_party_predicts_its_rows_by_itself(
    tmp_path: Path, job_of: Callable[..., Job]
) -> None:
    job = job_of(rounds=3)
    run = run_all(job, tmp_path / "trained")
    predicted = run_all(job, tmp_path / "predicted", models=tmp_path / "trained")
    assert run.errors == predicted.errors == {}
    right = rows = 0
    for party in ("guest", "h0", "h1"):
        table = load_table(job, party)
        found = pd.read_csv(tmp_path / "predicted" / party / "train.csv", dtype={"id": str})
        assert found["id"].tolist() == table.ids
        chosen = found["class"] if "class" in found else found["probability"] > 0.5
        right, rows = right + int((chosen == table.y).sum()), rows + len(found)
    accuracy = run.reports["guest"].component("train").metrics["accuracy"]
    assert right / rows == pytest.approx(accuracy, abs=1e-12)


def test_with_paillier_the_arbiter_sees_ciphertexts_only(tmp_path: Path) -> None:
    run = run_all(breast(aggregation="paillier", rounds=2), tmp_path)
    assert run.errors == {}
    seen = run.received["arbiter"]
    kinds = {m.tag: v1.Payload.FromString(m.data).WhichOneof("kind") for m in seen}
    clear = {tag for tag, kind in kinds.items() if kind != "ciphertexts"}
    resume = {f"{component}/resume" for component in ("_job", "train", "quality")}
    assert clear == resume | {"train/key", "train/columns", "_audit/code"}
    assert {f"train/{name}/0" for name in ("mean", "variance", "round/0", "final")} <= kinds.keys()
    received = [v1.Payload.FromString(m.data).ciphertexts for m in seen]
    blocks = [block for ciphertexts in received for block in ciphertexts.blocks]
    assert len(set(blocks)) == len(blocks) > 0


@dataclass
class Recorded:
    """Every vector that a client gave to a sum, by the sum's name, and every sum by client."""

    given: dict[str, dict[str, NDArray[np.int64]]] = field(default_factory=dict)
    sums: dict[str, dict[str, Sum]] = field(default_factory=dict)


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    seen, real = Recorded(), MaskedSummand.sum

    def sum_(self: MaskedSummand, name: str, values: NDArray[np.int64]) -> Sum:
        party = self._member.name
        seen.given.setdefault(name, {})[party] = values.copy()
        seen.sums.setdefault(name, {})[party] = (found := real(self, name, values))
        return found

    monkeypatch.setattr(MaskedSummand, "sum", sum_)
    return seen


def stage(monkeypatch: pytest.MonkeyPatch, party: str, tag: str, act: Callable[[], None]) -> None:
    """`act` when the component of `party` is about to send `tag`."""
    real = Line.send_record

    def send_record(self: Line, peer: str, its_tag: str, **arrays: NDArray[Any]) -> None:
        if self._endpoint._party == party and its_tag == tag:
            act()
        real(self, peer, its_tag, **arrays)

    monkeypatch.setattr(Line, "send_record", send_record)


def die() -> None:
    raise Staged


@pytest.mark.parametrize("step", ["offer", "vector", "shares"])
def test_a_host_that_fails_within_a_round_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recorded: Recorded, step: str
) -> None:
    stage(monkeypatch, "h1", f"round/2/{step}", die)
    run = run_all(breast(hosts=3, rounds=6), tmp_path)
    assert run.errors == {}
    assert set(run.reports) == {"guest", "h0", "h2", "arbiter"}
    left = ("guest", "h0", "h2")
    for name, sums in recorded.sums.items():
        before = name in ("mean", "variance", "round/0", "round/1")
        clients = (
            (*left[:2], "h1", "h2") if before or (name, step) == ("round/2", "shares") else left
        )
        total = sum(recorded.given[name][client] for client in clients)
        assert set(sums) == set(clients) - ({"h1"} if name == "round/2" else set())
        for found in sums.values():
            assert found.clients == clients
            assert np.array_equal(found.values, total)
    assert recorded.sums.keys() >= {"round/5", "final"}
    report = run.reports["guest"].component("train")
    assert report.losses[-1] < report.losses[2] < report.losses[0]
    assert report.facts["clients"] == list(left)
    assert run.reports["h2"].component("quality").metrics["auc"] > 0.95  # what comes after goes on
    lost = run.reports["arbiter"].component("train").facts["lost"]
    assert lost == {"h1": 4 if step == "shares" else 3}


def test_a_host_that_says_nothing_is_left_out_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recorded: Recorded
) -> None:
    done = threading.Event()

    def sleep() -> None:
        assert done.wait(60)

    def progress(party: str, rounds: int) -> None:
        if (party, rounds) == ("guest", 4):
            done.set()

    stage(monkeypatch, "h0", "round/1/vector", sleep)
    run = run_all(breast(hosts=3, rounds=4, round_timeout=1.5), tmp_path, progress=progress)
    assert set(run.reports) == {"guest", "h1", "h2", "arbiter"}
    assert isinstance(run.errors.pop("h0"), PeerFailed)
    assert run.errors == {}
    total = sum(recorded.given["round/1"][client] for client in ("guest", "h1", "h2"))
    assert np.array_equal(recorded.sums["round/1"]["guest"].values, total)
    assert run.reports["guest"].component("quality").metrics["auc"] > 0.95


def averaged(job: Job, left: dict[int, list[str]]) -> tuple[list[float], float]:
    """Losses and accuracy of full-batch averaging in the clear, over who is left in each round.

    Rounds count from 1; the one after the last measures.
    """
    config = job.components["train"]
    assert isinstance(config, HorizontalConfig)
    tables = {p.name: load_table(job, p.name) for p in (job.guest, *job.hosts)}
    scaling = Scaling.of(np.concatenate([table.x for table in tables.values()]))
    network = Network.of(config, len(scaling.mean))
    parameters, losses = network.initial(config.seed), []
    for number in range(1, config.rounds + 2):
        chosen = [tables[name] for name in left.get(number, list(tables))]
        x = scaling.apply(np.concatenate([table.x for table in chosen]))
        y = np.concatenate([class_labels("", table.y, config.classes) for table in chosen])
        loss, right = network.evaluate(parameters, x, y, config.l2)
        losses.append(loss)
        order = np.random.default_rng(0)
        parameters = descend(network, parameters, x, y, config, order)
    return losses[:-1], right / len(x)


@pytest.mark.full
def test_a_killed_host_does_not_stop_the_job(tmp_path: Path) -> None:
    job = generated(tmp_path, hosts=3, rounds=20)
    pids: dict[str, int] = {}

    def watch(event: Event) -> None:
        if event.kind == "listening":
            pids[event.party] = event.content["pid"]
        if (event.kind, event.party) == ("round", "h2") and event.content["done"] == 3:
            os.kill(pids["h2"], signal.SIGKILL)

    reports = run_trial(job, tmp_path, watch=watch)
    assert set(reports) == {"guest", "h0", "h1", "arbiter"}
    report = reports["guest"].component("train")
    assert report.rounds == 20
    assert report.facts["clients"] == ["guest", "h0", "h1"]
    lost = reports["arbiter"].component("train").facts["lost"]
    assert lost.keys() == {"h2"}
    assert lost["h2"] >= 4
    losses, accuracy = averaged(
        job, {round_: ["guest", "h0", "h1"] for round_ in range(lost["h2"], 22)}
    )
    assert report.losses == pytest.approx(losses, rel=1e-5)
    assert report.metrics["accuracy"] == pytest.approx(accuracy, rel=2e-3)
    assert not (tmp_path / "h2" / "report.json").exists()


@pytest.mark.parametrize(
    ("lost", "changes"),
    [("h1", {"min_clients": 4}), ("guest", {}), ("h1", {"aggregation": "paillier"})],
)
def test_some_losses_stop_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: str, changes: dict[str, Any]
) -> None:
    if "aggregation" in changes:
        monkeypatch.setattr(PaillierSummand, "sum", fail_as(lost, PaillierSummand.sum))
    else:
        stage(monkeypatch, lost, "round/1/vector", die)
    run = run_all(breast(hosts=3, rounds=4, **changes), tmp_path)
    assert run.reports == {}
    assert all(isinstance(error, PeerFailed | PeerLost) for error in run.errors.values())
    assert len(run.errors) == 4
    if lost == "h1" and "min_clients" in changes:
        fault = str(run.errors["arbiter"])
        assert "without h1 (internal error): 3 of 4 clients are left, min_clients is 4" in fault


def fail_as(party: str, real: Callable[..., Sum]) -> Callable[..., Sum]:
    def sum_(self: PaillierSummand, name: str, values: NDArray[np.int64]) -> Sum:
        if self._context.party == party and name == "round/1":
            raise Staged
        return real(self, name, values)

    return sum_


@pytest.mark.parametrize("aggregation", ["masks", pytest.param("paillier", marks=pytest.mark.full)])
def test_a_resumed_job_ends_with_the_same_bits(tmp_path: Path, aggregation: str) -> None:
    job = breast(aggregation=aggregation, rounds=5, batch_size=64, learning_rate=0.1)
    undisturbed, resumed = tmp_path / "undisturbed", tmp_path / "resumed"
    whole = run_all(job, undisturbed)
    assert whole.errors == {}

    def interrupt(party: str, done: int) -> None:
        if (party, done) == ("guest", 3):
            raise Staged

    assert run_all(job, resumed, progress=interrupt).reports == {}
    run, done = went_on(job, resumed)
    assert done in (2, 3)
    for party in ("guest", "h0", "h1"):
        assert model_of(resumed, party) == model_of(undisturbed, party)
    one, other = (r.reports["guest"].component("train") for r in (whole, run))
    assert (one.losses, one.metrics, one.facts) == (other.losses, other.metrics, other.facts)


def deaths(rounds: dict[str, int]) -> Callable[[str, int], None]:
    """Each of these parties dies when it has done so many rounds."""

    def progress(party: str, done: int) -> None:
        if rounds.get(party) == done:
            raise Staged

    return progress


def trained(directory: Path, party: str) -> Any:
    """What is common to all parties' models."""
    model = model_of(directory, party)
    return model["parameters"], model["scaling"]


def states_of(directory: Path, party: str) -> list[str]:
    return sorted(path.name for path in (directory / party / "states" / "train").glob("*.npz"))


def findings(job: Job, directory: Path) -> list[Any]:
    records = {party.name: directory / party.name / "audit.jsonl" for party in job.parties}
    return list(audit_records(job, records, directory / "guest" / "ca.pem").findings)


def went_on(job: Job, directory: Path) -> tuple[Run, int]:
    """Another run of all parties, and the round after which all of them went on."""
    started: dict[str, int] = {}

    def progress(party: str, done: int) -> None:
        started.setdefault(party, done)

    run = run_all(job, directory, progress=progress)
    assert run.errors == {}
    assert findings(job, directory) == []
    (done,) = set(started.values())
    return run, done


@pytest.mark.parametrize("standardise", [True, False])
def test_a_lost_host_is_handed_the_state_when_all_resume(tmp_path: Path, standardise: bool) -> None:
    job = generated(tmp_path, hosts=2, rounds=9, standardise=standardise)
    assert run_all(job, tmp_path, progress=deaths({"h1": 1, "guest": 6})).reports == {}
    assert states_of(tmp_path, "h1") == ["1.npz"]
    run, done = went_on(job, tmp_path)
    assert done in (5, 6)
    handed = [(m.sender, m.receiver) for m in run.messages if is_about(m, "state")]
    assert handed == [("guest", "h1")]
    reports = {name: run.reports[name].component("train") for name in ("guest", "h0", "h1")}
    for name, report in reports.items():
        assert report.losses == reports["guest"].losses
        assert report.facts["clients"] == ["guest", "h0", "h1"]
        assert trained(tmp_path, name) == trained(tmp_path, "guest")
    if standardise:
        absent = {number: ["guest", "h0"] for number in range(2, done + 1)}
        losses, accuracy = averaged(job, absent)
        assert report.losses == pytest.approx(losses, rel=1e-5)
        assert report.metrics["accuracy"] == pytest.approx(accuracy)


def test_a_host_that_was_lost_gets_the_model_of_a_job_that_is_done(tmp_path: Path) -> None:
    """The others have finished all components; none of their training is repeated."""
    job = breast(rounds=5)
    first = run_all(job, tmp_path, progress=deaths({"h1": 1}))
    assert set(first.reports) == {"guest", "h0", "arbiter"}
    model = trained(tmp_path, "guest")
    run, done = went_on(job, tmp_path)
    assert done == 5
    assert trained(tmp_path, "h1") == trained(tmp_path, "guest") == model
    assert run.reports["h1"].component("quality").metrics["auc"] > 0.95


def test_a_state_that_cannot_be_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = breast(rounds=6)
    run_all(job, tmp_path, progress=deaths({"h1": 1, "guest": 5}))
    tampered(monkeypatch, "guest", "state", lambda a: a | {"rows": a["rows"] * 0})
    run = run_all(job, tmp_path)
    assert isinstance(run.errors["h1"], ProtocolError)
    assert "guest handed over a state that cannot be" in str(run.errors["h1"])


@pytest.mark.parametrize(
    ("aggregation", "missing"),
    [("masks", ["arbiter"]), ("masks", ["h0", "h1"]), ("paillier", ["h1"])],
)
def test_nobody_loses_states_that_others_lack(
    tmp_path: Path, aggregation: str, missing: list[str]
) -> None:
    job = breast(rounds=6, aggregation=aggregation)
    assert run_all(job, tmp_path, progress=deaths({"guest": 4})).reports == {}
    for party in missing:
        shutil.rmtree(tmp_path / party / "states" / "train")
    before = {party.name: states_of(tmp_path, party.name) for party in job.parties}
    run = run_all(job, tmp_path)
    assert run.reports == {}
    assert isinstance(run.errors["guest"], CheckpointError)
    fault = str(run.errors["guest"])
    assert "'train' cannot go on" in fault
    assert f"is missing at {' and '.join(missing)}: put back what states/train held" in fault
    assert {party.name: states_of(tmp_path, party.name) for party in job.parties} == before


def test_who_died_before_its_first_state_starts_afresh_with_all(tmp_path: Path) -> None:
    job = breast(rounds=3, aggregation="paillier")
    run_all(job, tmp_path, progress=deaths({"guest": 1}))
    shutil.rmtree(tmp_path / "h1" / "states" / "train", ignore_errors=True)
    run = run_all(job, tmp_path)
    assert run.errors == {}
    assert run.reports["h1"].component("train").rounds == 3


def test_columns_must_be_the_same(tmp_path: Path) -> None:
    run = run_all(generated(tmp_path, hosts=2, columns={"h1": ["b", "a", "c"]}), tmp_path)
    assert isinstance(run.errors["guest"], DataError)
    assert "guest and h1 do not have the same columns" in str(run.errors["guest"])
    assert all(isinstance(run.errors[party], PeerFailed) for party in ("h0", "h1", "arbiter"))


def test_labels_outside_the_classes_stop_the_job(tmp_path: Path) -> None:
    run = run_all(digits(classes=9), tmp_path)
    assert {type(error) for error in run.errors.values()} <= {DataError, PeerFailed, PeerLost}
    assert any("none of the classes 0 to 8" in str(error) for error in run.errors.values())


@pytest.mark.parametrize("rate", [1e30, 1e200])  # a loss too large to add, and none at all
def test_training_that_diverges_says_so(tmp_path: Path, rate: float) -> None:
    run = run_all(digits(learning_rate=rate, clip=rate, rounds=4), tmp_path)
    assert run.reports == {}
    assert any(
        isinstance(error, Diverged) and "lower the learning rate" in str(error)
        for error in run.errors.values()
    )


def test_columns_too_large_to_add_are_refused(tmp_path: Path) -> None:
    job = generated(tmp_path, hosts=1)
    file = tmp_path / "h0.csv"
    pd.read_csv(file).assign(b=1e300).to_csv(file, index=False)
    run = run_all(job, tmp_path)
    assert isinstance(run.errors["h0"], DataError)
    assert "h0: the columns' values are too large to add up" in str(run.errors["h0"])


def test_updates_that_exceed_the_clip_are_counted(tmp_path: Path) -> None:
    run = run_all(breast(rounds=3, clip=1e-3), tmp_path)
    assert run.errors == {}
    assert run.reports["guest"].component("train").facts["clipped"] > 0
    parameters = np.array(model_of(tmp_path, "guest")["parameters"])
    assert np.abs(parameters).max() <= 3 * 3 * 1e-3 * 1.01


def tampered(
    monkeypatch: pytest.MonkeyPatch,
    party: str,
    tag: str,
    change: Callable[[dict[str, NDArray[Any]]], dict[str, NDArray[Any]]],
) -> None:
    """`party` sends something else as `tag`."""
    real = Line.send_record

    def send_record(self: Line, peer: str, its_tag: str, **arrays: NDArray[Any]) -> None:
        wrong = self._endpoint._party == party and its_tag == tag
        real(self, peer, its_tag, **(change(arrays) if wrong else arrays))

    monkeypatch.setattr(Line, "send_record", send_record)


def swapped(offers: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The arbiter passes h0's offer off as h1's, and the other way round."""
    return {name: values[[0, 2, 1]] for name, values in offers.items()}


@pytest.mark.parametrize(
    ("liar", "tag", "change", "victim", "words"),
    [
        ("h0", "vector", lambda a: {"vector": a["vector"][:-1]}, "arbiter", "h0 sent a bad 'vect"),
        (
            "h0",
            "vector",
            lambda a: {"vector": a["vector"].astype(np.float64)},
            "arbiter",
            "h0 sent a bad 'vector'",
        ),
        (
            "h0",
            "offer",
            lambda a: a | {"public": a["public"][:31]},
            "arbiter",
            "h0 sent a bad 'pub",
        ),
        ("h0", "shares", lambda a: {"shares": a["shares"] | 0xFF}, "arbiter", "sent a wrong one"),
        ("h0", "shares", lambda a: {"shares": a["shares"] ^ 1}, "arbiter", "sent a wrong one"),
        ("arbiter", "offers", swapped, "h0", "is not"),
        ("arbiter", "left", lambda a: {"left": ~a["left"]}, "h0", "must not unmask"),
        (
            "arbiter",
            "sum",
            lambda a: {"sum": a["sum"] ^ np.uint32(2**30)},
            "h0",
            "outside the range",
        ),
        (
            "arbiter",
            "sum",
            lambda a: {"sum": a["sum"] * 0},
            "h0",
            "arbiter sent a sum over fewer rows",
        ),
    ],
)
def test_a_party_that_departs_from_the_masks_is_named(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    liar: str,
    tag: str,
    change: Callable[[dict[str, NDArray[Any]]], dict[str, NDArray[Any]]],
    victim: str,
    words: str,
) -> None:
    tampered(monkeypatch, liar, f"round/1/{tag}", change)
    run = run_all(breast(rounds=3, round_timeout=5, min_clients=3), tmp_path)
    assert run.reports == {}
    faults = [str(e) for e in run.errors.values() if isinstance(e, ProtocolError)]
    assert any(words in fault and (liar in fault or victim in fault) for fault in faults), faults


def test_a_guest_that_returns_an_impossible_sum_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tampered(monkeypatch, "guest", "round/1/sum", lambda a: {"sum": a["sum"] - 2**40})
    run = run_all(breast(rounds=3, aggregation="paillier"), tmp_path)
    fault = run.errors["h0"] if isinstance(run.errors["h0"], ProtocolError) else run.errors["h1"]
    assert isinstance(fault, ProtocolError)
    assert "guest sent a sum outside the range of 3 summands" in str(fault)


def test_a_vector_of_several_messages_is_summed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = digits(aggregation="paillier", rounds=1)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert run_all(job, whole).errors == {}
    monkeypatch.setattr(_paillier, "_CHUNK", 7)
    run = run_all(job, cut)
    assert run.errors == {}
    assert model_of(cut, "h0") == model_of(whole, "h0")
    sent = {m.tag for m in run.messages if m.sender == "h0"}
    assert {"train/round/0/0", "train/round/0/7", "train/round/0/28"} <= sent


@pytest.mark.parametrize("cheat", ["left out", "added twice"])
def test_a_sum_that_is_not_of_all_clients_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cheat: str
) -> None:
    real = Line.receive

    def receive(self: Line, peer: str, tag: str, *rest: Any, **more: Any) -> Any:
        (c,) = real(self, peer, tag, *rest, **more)
        if (self._endpoint._party, peer, tag) == ("arbiter", "h0", "round/1/0"):
            c = c - c if cheat == "left out" else c + c
        return [c]

    monkeypatch.setattr(Line, "receive", receive)
    run = run_all(breast(rounds=3, aggregation="paillier"), tmp_path)
    assert isinstance(run.errors["guest"], ProtocolError)
    assert "arbiter sent 'round/1/sum/0', which is no sum" in str(run.errors["guest"])
