"""Training between guest and host alone, over real gRPC with mutual TLS."""

from __future__ import annotations

import re
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import log_loss

import residue
from residue_federated import Job
from residue_federated._data import load_table
from residue_federated.audit._live import RECORD
from residue_federated.audit._verify import audit_records
from residue_federated.errors import AuditViolation, DataError, Diverged, ProtocolError
from residue_federated.linear._models import metrics_of_classes
from residue_federated.planning import plan_job
from residue_federated.proto import v1
from residue_federated.shared._exchange import Exchange
from residue_federated.shared._ring import Integers
from tests.integration import test_federated
from tests.integration.parties import run_all
from tests.integration.test_audit_attacks import disarm, sending
from tests.integration.test_federated import ROWS, model_of, twin_of

Send = Callable[[str, str, v1.Payload], None]
LEAST_SQUARES = "shared_linear_regression"
LOGISTIC = "shared_logistic_regression"
POISSON = "shared_poisson_regression"
SOFTMAX = "shared_softmax_regression"


def make_job(directory: Path, algorithm: str, **training: Any) -> Job:
    transport = {"connect_timeout": 20, "peer_timeout": 5}
    return test_federated.make_job(directory, algorithm, training=training, transport=transport)


def of_classes(job: Job, directory: Path) -> Job:
    """The job, its label of three classes."""
    path = directory / "guest.csv"
    frame = pd.read_csv(path)
    frame.assign(y=np.digitize(frame["a"], [-0.4, 0.4])).to_csv(path, index=False)
    return job


def weights_of(directory: Path, number: int | None = None) -> list[float]:
    """In the twin's order: guest, host, intercept. number: of a class."""
    guest, host = (model_of(directory, party) for party in ("guest", "h0"))
    if number is not None:
        guest, host = guest["classes"][number], host["classes"][number]
    last = [] if guest["intercept"] is None else [guest["intercept"]]
    return [*guest["weights"], *host["weights"], *last]


def audit_of(job: Job, directory: Path) -> Any:
    records = {party.name: directory / party.name / RECORD for party in job.parties}
    return audit_records(job, records, directory / "guest" / "ca.pem")


@pytest.mark.parametrize(
    ("algorithm", "training"),
    [
        (LOGISTIC, {}),
        (LOGISTIC, {"batch_size": 25, "shuffle_seed": 1, "l2": 0.05, "activation": "sine"}),
        (LEAST_SQUARES, {"optimiser": {"learning_rate": 0.1, "momentum": 0.5}, "l2": 0.1}),
        (LEAST_SQUARES, {"intercept": False, "batch_size": 30, "reveal": "none"}),
        (POISSON, {"l2": 0.05, "optimiser": {"learning_rate": 0.1}}),
        (LEAST_SQUARES, {"l1": 0.3, "optimiser": {"learning_rate": 0.1, "momentum": 0.5}}),
    ],
)
def test_jobs_equal_their_plaintext_twin(
    tmp_path: Path, algorithm: str, training: dict[str, Any]
) -> None:
    job = make_job(tmp_path, algorithm, **training)
    run, twin = run_all(job, tmp_path), twin_of(job)
    assert run.errors == {}
    guest = run.reports["guest"].component("train")
    assert guest.metrics == pytest.approx(twin.metrics, rel=5e-3)
    assert (guest.rounds, guest.losses) == (3, [])
    assert twin.model is not None
    if training.get("reveal", "own") == "own":
        weights = weights_of(tmp_path)
        assert weights == pytest.approx(twin.model["weights"], abs=2e-3)
        zeros = [w == 0 for w in weights]
        assert zeros == [w == 0 for w in twin.model["weights"]]
        assert any(zeros) == ("l1" in training)
    else:
        assert "weights" not in model_of(tmp_path, "guest") | model_of(tmp_path, "h0")
    report = audit_of(job, tmp_path)
    assert (report.findings, report.undeclared) == ([], [])


@pytest.mark.parametrize("reveal", ["own", pytest.param("none", marks=pytest.mark.full)])
def test_one_vs_rest_equals_its_twin_under_one_key_each(tmp_path: Path, reveal: str) -> None:
    more = {"reveal": reveal, "early_stop": {"tolerance": 1e-6}}
    job = of_classes(make_job(tmp_path, LOGISTIC, one_vs_rest=True, epochs=2, **more), tmp_path)
    run, twin = run_all(job, tmp_path / "run"), twin_of(job)
    assert run.errors == {}
    train = run.reports["guest"].component("train")
    assert twin.model is not None
    assert train.metrics == pytest.approx(twin.metrics, abs=2e-2)  # of 60 rows, one may tip
    assert len(train.facts["moves"]) == len(twin.model["classes"]) == 3
    for k, of_class in enumerate(twin.model["classes"]):
        assert train.facts["moves"][k] == pytest.approx(of_class["moves"], abs=2e-3)
        if reveal == "own":
            weights = weights_of(tmp_path / "run", k)
            assert weights == pytest.approx(of_class["weights"], abs=2e-3)
    assert sum(v1.Payload.FromString(m.data).HasField("public_key") for m in run.messages) == 2
    report = audit_of(job, tmp_path / "run")
    assert (report.findings, report.undeclared) == ([], [])
    applied = run_all(job, tmp_path / "applied", models=tmp_path / "run")
    assert applied.errors == {}
    scores = pd.read_csv(tmp_path / "applied" / "guest" / "train.csv")
    y = load_table(job, "guest").y
    assert y is not None
    found = metrics_of_classes(y, scores[["score_0", "score_1", "score_2"]].to_numpy())
    assert found == pytest.approx(train.metrics)
    assert (scores["class"] == y).mean() == pytest.approx(train.metrics["accuracy"])


@pytest.mark.parametrize(
    "training",
    [
        {"l2": 0.02, "optimiser": {"learning_rate": 0.5, "momentum": 0.5}},
        {"batch_size": 25, "shuffle_seed": 1, "l1": 0.05, "intercept": False},
        {"reveal": "none", "early_stop": {"tolerance": 1e-6}},
    ],
)
def test_softmax_equals_its_twin_and_predicts(tmp_path: Path, training: dict[str, Any]) -> None:
    job = make_job(tmp_path, SOFTMAX, **training)
    run, twin = run_all(job, tmp_path / "run"), twin_of(job)
    assert run.errors == {}
    train = run.reports["guest"].component("train")
    assert twin.model is not None
    assert train.metrics == pytest.approx(twin.metrics, rel=2e-3)
    assert (train.rounds, train.losses) == (3, [])
    guest, host = (model_of(tmp_path / "run", party) for party in ("guest", "h0"))
    if "reveal" in training:
        assert "weights" not in guest | host
        assert train.facts["moves"] == pytest.approx(twin.model["moves"], abs=2e-3)
    else:
        weights = [*np.transpose(guest["weights"]), *np.transpose(host["weights"])]
        weights += [] if guest["intercept"] is None else [guest["intercept"]]
        expected = np.transpose(twin.model["weights"])
        assert np.array(weights) == pytest.approx(expected, abs=2e-3)
        assert np.array_equal(np.equal(weights, 0), expected == 0)
        assert np.any(expected == 0) == ("l1" in training)
    report = audit_of(job, tmp_path / "run")
    assert (report.findings, report.undeclared) == ([], [])
    applied = run_all(job, tmp_path / "applied", models=tmp_path / "run")
    assert applied.errors == {}
    scored = pd.read_csv(tmp_path / "applied" / "guest" / "train.csv")
    y = load_table(job, "guest").y
    assert y is not None
    p = scored[[f"probability_{k}" for k in range(3)]].to_numpy()
    found = {"log_loss": log_loss(y, p), **metrics_of_classes(y, p)}
    assert found == pytest.approx(train.metrics)


def test_early_stop_is_the_twins(tmp_path: Path) -> None:
    job = make_job(tmp_path, LEAST_SQUARES, epochs=30, early_stop={"tolerance": 0.1})
    run, twin = run_all(job, tmp_path), twin_of(job)
    assert run.errors == {}
    guest, host = (run.reports[party].component("train") for party in ("guest", "h0"))
    assert twin.model is not None
    assert 2 < len(twin.model["moves"]) < 30
    assert guest.facts["moves"] == pytest.approx(twin.model["moves"], abs=2e-3)
    assert host.facts == guest.facts
    assert guest.rounds == host.rounds == len(twin.model["moves"])
    assert audit_of(job, tmp_path).findings == []


@pytest.mark.parametrize("reveal", ["own", "none"])
def test_predictions_are_the_scores_of_training(tmp_path: Path, reveal: str) -> None:
    job = make_job(tmp_path, LEAST_SQUARES, reveal=reveal)
    trained = run_all(job, tmp_path / "trained")
    applied = run_all(job, tmp_path / "applied", models=tmp_path / "trained")
    assert trained.errors == applied.errors == {}
    frame = pd.read_csv(tmp_path / "applied" / "guest" / "train.csv")
    y = load_table(job, "guest").y
    assert y is not None
    metrics = trained.reports["guest"].component("train").metrics
    found = np.sqrt(np.mean((frame["value"] - y) ** 2))
    assert found == pytest.approx(metrics["rmse"], rel=1e-6)
    assert not (tmp_path / "applied" / "h0" / "train.csv").exists()


def test_a_resumed_run_ends_with_the_same_bits(tmp_path: Path) -> None:
    """The last state of both parties is taken away: they do two epochs again."""
    optimiser = {"learning_rate": 0.3, "momentum": 0.5}
    job = make_job(tmp_path, LOGISTIC, optimiser=optimiser, batch_size=30, l1=0.01)
    first = run_all(job, tmp_path / "run")
    shutil.copytree(tmp_path / "run", tmp_path / "again")
    for party in ("guest", "h0"):
        states = tmp_path / "again" / party / "states"
        (states / "_job" / "2.npz").unlink()
        (states / "_job" / "ended").unlink()
        for later in (2, 3):
            (states / "train" / f"{later}.npz").unlink()
        (tmp_path / "again" / party / "models" / "train.json").unlink()
        assert stat.S_IMODE((states / "train" / "1.npz").stat().st_mode) == 0o600
    again = run_all(job, tmp_path / "again")
    assert first.errors == again.errors == {}
    assert {m.tag for m in again.messages if "/d/" in m.tag} == {
        f"train/d/{epoch}/{batch}" for epoch in (1, 2) for batch in (0, 1)
    }
    for party in ("guest", "h0"):
        assert model_of(tmp_path / "again", party) == model_of(tmp_path / "run", party)
    # What left the parties carries the same masks under other randomness and another key.
    sent = [{m.tag: m.data for m in r.messages if "/g/" in m.tag} for r in (first, again)]
    assert all(sent[1][tag] != sent[0][tag] for tag in sent[1])


def test_softmax_resumes_to_the_same_bits(tmp_path: Path) -> None:
    """As after a death in the second epoch; comparisons and divisions are done again."""
    job = make_job(tmp_path, SOFTMAX, epochs=2, batch_size=30, l1=0.01)
    first = run_all(job, tmp_path / "run")
    shutil.copytree(tmp_path / "run", tmp_path / "again")
    for party in ("guest", "h0"):
        states = tmp_path / "again" / party / "states"
        (states / "_job" / "2.npz").unlink()
        (states / "_job" / "ended").unlink()
        (states / "train" / "2.npz").unlink()
        (tmp_path / "again" / party / "models" / "train.json").unlink()
    again = run_all(job, tmp_path / "again")
    assert first.errors == again.errors == {}
    done = {m.tag: m.data for m in again.messages if re.match("train/[cmpsrq]/", m.tag)}
    assert {tag.split("/")[2] for tag in done} == {"1"}
    before = {m.tag: m.data for m in first.messages}
    assert all(before[tag] != data for tag, data in done.items())
    for party in ("guest", "h0"):
        assert model_of(tmp_path / "again", party) == model_of(tmp_path / "run", party)
    assert audit_of(job, tmp_path / "again").findings == []


@pytest.mark.full
def test_one_vs_rest_goes_on_in_its_class(tmp_path: Path) -> None:
    job = of_classes(make_job(tmp_path, LOGISTIC, one_vs_rest=True, l1=0.01), tmp_path)
    assert run_all(job, tmp_path / "run").errors == {}
    shutil.copytree(tmp_path / "run", tmp_path / "again")
    for party in ("guest", "h0"):
        states = tmp_path / "again" / party / "states"
        (states / "_job" / "2.npz").unlink()
        (states / "_job" / "ended").unlink()
        shutil.rmtree(states / "train" / "class-2")
        for later in (2, 3):
            (states / "train" / "class-1" / f"{later}.npz").unlink()
        (tmp_path / "again" / party / "models" / "train.json").unlink()
    again = run_all(job, tmp_path / "again")
    assert again.errors == {}
    assert {m.tag for m in again.messages if "/c/" in m.tag} == {
        f"train/class-{k}/c/{epoch}/0" for k in (1, 2) for epoch in range(3) if k + epoch > 1
    }
    for party in ("guest", "h0"):
        assert model_of(tmp_path / "again", party) == model_of(tmp_path / "run", party)
    assert audit_of(job, tmp_path / "again").findings == []


@pytest.mark.full
def test_two_runs_have_nothing_in_common_but_the_model(tmp_path: Path) -> None:
    job = make_job(tmp_path, LOGISTIC, epochs=2, reveal="none")
    for name in ("one", "two"):
        assert run_all(job, tmp_path / name).errors == {}
    one, two = (model_of(tmp_path / name, "guest")["shares"] for name in ("one", "two"))
    assert one["bits"] == two["bits"]
    assert not set(one["own"] + one["peers"]) & set(two["own"] + two["peers"])


def shares_seen(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Integers]]:
    """What each party decrypts, by tag and without the offset, while jobs run."""
    seen: dict[str, list[Integers]] = {}
    collect = Exchange.collect

    def watched(self: Exchange, tag: str, *rest: Any, **how: Any) -> Integers:
        values = collect(self, tag, *rest, **how)
        seen.setdefault(tag.partition("/")[0], []).append(values)
        return values

    monkeypatch.setattr(Exchange, "collect", watched)
    return seen


def test_what_a_party_decrypts_is_a_mask_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first predictors are all 0, so what is decrypted is masks: none twice, of full size."""
    seen = shares_seen(monkeypatch)
    run = run_all(make_job(tmp_path, LOGISTIC, epochs=1), tmp_path)
    assert run.errors == {}
    masks = np.concatenate(seen["z"])
    assert len(masks) == len(set(masks.tolist())) == 2 * ROWS
    width = int(max(masks)).bit_length()
    high = np.array([m >> (width - 2) for m in masks], dtype=np.int64)
    assert set(high.tolist()) == {0, 1, 2, 3}
    assert width > 64 + 128


def test_every_ciphertext_that_leaves_carries_fresh_randomness(tmp_path: Path) -> None:
    run = run_all(make_job(tmp_path, POISSON, epochs=2, batch_size=30), tmp_path)
    assert run.errors == {}
    keys = {}
    for m in run.messages:
        if m.tag == "train/key":
            data = v1.Payload.FromString(m.data).public_key.data
            keys[m.sender] = residue.PublicKey.from_bytes(data, device="cpu")
    assert set(keys) == {"guest", "h0"}
    residues: dict[int, set[int]] = {key.n: set() for key in keys.values()}
    count = 0
    for message in run.messages:
        for block in v1.Payload.FromString(message.data).ciphertexts.blocks:
            (key,) = (k for k in keys.values() if k.fingerprint == block[16:48])
            limbs = key.ciphertexts_from_bytes(block).to_limbs()
            values = [int.from_bytes(row.astype("<u8").tobytes(), "little") for row in limbs]
            assert all(c % key.n != 1 for c in values)
            residues[key.n] |= {c % key.n for c in values}
            count += len(values)
    assert count > 2 * 2 * 3 * 30
    assert sum(map(len, residues.values())) == count


@pytest.mark.parametrize(
    ("algorithm", "party", "change", "expected"),
    [
        (LEAST_SQUARES, "h0", lambda f: f.assign(a=f["a"] * 0 + 99.0), "h0: column 'a' has val"),
        (
            POISSON,
            "guest",
            lambda f: f.assign(y=f["y"] - 1),
            "guest: labels must be from 0 to below 64",
        ),
        (SOFTMAX, "guest", lambda f: f.assign(y=f["y"] + 0.5), "guest: labels of several classes"),
    ],
)
def test_data_that_training_cannot_take(
    tmp_path: Path, algorithm: str, party: str, change: Any, expected: str
) -> None:
    job = make_job(tmp_path, algorithm)
    train = {"train": job.components["train"].model_dump()}  # nothing that standardises
    job = Job.model_validate(job.model_dump() | {"components": train})
    path = tmp_path / f"{party}.csv"
    change(pd.read_csv(path)).to_csv(path, index=False)
    run = run_all(job, tmp_path)
    assert isinstance(run.errors[party], DataError)
    assert str(run.errors[party]).startswith(expected)
    assert not any(v1.Payload.FromString(m.data).HasField("ciphertexts") for m in run.messages)


@pytest.mark.parametrize(
    ("algorithm", "reveal"),
    [
        (LEAST_SQUARES, "own"),
        (SOFTMAX, "own"),
        pytest.param(LEAST_SQUARES, "none", marks=pytest.mark.full),
        pytest.param(SOFTMAX, "none", marks=pytest.mark.full),
    ],
)
def test_divergence_is_an_error(tmp_path: Path, algorithm: str, reveal: str) -> None:
    training = {"epochs": 4, "optimiser": {"learning_rate": 1000.0}, "reveal": reveal}
    run = run_all(make_job(tmp_path, algorithm, **training), tmp_path)
    assert "guest" not in run.reports
    assert any(isinstance(error, Diverged) for error in run.errors.values())


@pytest.mark.full
def test_softmax_costs_what_is_planned(tmp_path: Path) -> None:
    """Messages and bytes, comparisons and rounds of divisions counted by their steps."""
    job = make_job(tmp_path, SOFTMAX, epochs=6, batch_size=40)
    (planned,) = (c for c in plan_job(job, within=0.0).components if c.name == "train")
    run = run_all(job, tmp_path / "run")
    assert run.errors == {}
    sent = [m for m in run.messages if m.tag.startswith("train/")]
    assert sum(send.messages for send in planned.sends) == len(sent)
    size = sum(len(m.data) for m in sent)
    assert sum(send.bytes for send in planned.sends) == pytest.approx(size, rel=0.02)
    steps = {s.step: s.messages for s in planned.sends if s.sender == "h0"}
    assert steps["c/{epoch}/{batch}/{level}"] == steps["m/{epoch}/{batch}/{level}"] == 2 * 12
    assert steps["r/{epoch}/{batch}/{round}"] == 3 * 12


# --- attacks, all by the host --------------------------------------------------------------------


def block_changed(tag: str, change: Callable[[bytes], bytes]) -> Callable[..., None]:
    def act(send: Send, peer: str, name: str, payload: v1.Payload) -> None:
        if name == tag:
            block = change(payload.ciphertexts.blocks[0])
            payload = v1.Payload(ciphertexts=v1.Ciphertexts(blocks=[block]))
        send(peer, name, payload)

    return lambda patch: sending(patch, "h0", act)


def answered_with_more(place: str, by: str = "h0") -> Callable[[pytest.MonkeyPatch], None]:
    """More than a number and a mask can be: it would tell which of two things it was added to."""

    def install(patch: pytest.MonkeyPatch) -> None:
        answer = Exchange.answer

        def more(self: Exchange, tag: str, c: Any, slots: Any, *rest: Any, **how: Any) -> Integers:
            if self.lead == (by == "guest") and tag == place:
                c = c + (1 << slots.used * slots.width)
            return answer(self, tag, c, slots, *rest, **how)

        patch.setattr(Exchange, "answer", more)

    return install


def offered(
    place: str, change: Callable[[Integers], Integers]
) -> Callable[[pytest.MonkeyPatch], None]:
    """The host offers something else there."""

    def install(patch: pytest.MonkeyPatch) -> None:
        offer = Exchange.offer

        def other(self: Exchange, tag: str, numbers: Integers) -> None:
            offer(self, tag, numbers if self.lead or tag != place else change(numbers))

        patch.setattr(Exchange, "offer", other)

    return install


def counted_otherwise(place: str) -> Callable[[pytest.MonkeyPatch], None]:
    """One number less."""
    return offered(place, lambda numbers: numbers[:, :-1])


def offered_too_large(place: str) -> Callable[[pytest.MonkeyPatch], None]:
    return offered(place, lambda numbers: numbers + (1 << 1000))


def replayed(patch: pytest.MonkeyPatch) -> None:
    old: list[v1.Payload] = []

    def act(send: Send, peer: str, tag: str, payload: v1.Payload) -> None:
        old.extend([payload] if tag == "train/d/0/0" else [])
        send(peer, tag, old[0] if tag == "train/d/1/0" else payload)

    sending(patch, "h0", act)


def skipped(patch: pytest.MonkeyPatch) -> None:
    def act(send: Send, peer: str, tag: str, payload: v1.Payload) -> None:
        send(peer, "train/d/0/0" if tag == "train/z/0/0" else tag, payload)

    sending(patch, "h0", act)


def shares_of_other_shape(patch: pytest.MonkeyPatch) -> None:
    def act(send: Send, peer: str, tag: str, payload: v1.Payload) -> None:
        if tag == "train/weights":
            array = payload.record.arrays["shares"]
            array.shape[0] -= 1
            array.data = array.data[: 4 * array.shape[0] * array.shape[1]]
        send(peer, tag, payload)

    sending(patch, "h0", act)


ATTACKS: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], type[Exception], str]] = {
    "answer out of range": (
        answered_with_more("g/0/0"),
        AuditViolation,
        "'g/0/0' with shares out of range",
    ),
    "offer out of range": (
        offered_too_large("d/0/0"),
        AuditViolation,
        "'train/d/0/0' with numbers of up",
    ),
    "bits out of range": (
        offered_too_large("c/0/0"),
        AuditViolation,
        "'train/c/0/0' with numbers of up",
    ),
    "offer out of a slot": (
        offered_too_large("w/1/0"),
        AuditViolation,
        "'w/1/0' with shares out of range",
    ),
    "replayed ciphertexts": (replayed, AuditViolation, "used before"),
    "skipped step": (skipped, AuditViolation, "sent 'd/0/0'.*expected 'z/0/0'"),
    "unobfuscated": (
        block_changed("train/w/0/0", lambda b: b[:-256] + (1).to_bytes(256, "little")),
        AuditViolation,
        "unobfuscated",
    ),
    "shares of another shape": (shares_of_other_shape, ProtocolError, "sent a bad 'shares'"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_caught_and_the_attacker_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    install, error, text = ATTACKS[name]
    job = make_job(tmp_path, LOGISTIC, epochs=2, l1=0.01)
    install(monkeypatch)
    disarm(monkeypatch, "h0")
    run = run_all(job, tmp_path)
    monkeypatch.undo()
    found = run.errors["guest"]
    assert isinstance(found, error), found
    assert re.match(f"h0 .*{text}", str(found))
    if error is AuditViolation:
        assert isinstance(found, AuditViolation)
        assert found.party == "h0"
        assert audit_of(job, tmp_path).named == ["h0"]


SOFTMAX_ATTACKS: dict[str, tuple[Any, str, type[Exception], str]] = {
    "factor out of range": (
        offered_too_large("p/0/0"),
        "h0",
        AuditViolation,
        "'train/p/0/0' with numbers of up",
    ),
    "error out of range": (
        offered_too_large("r/0/0/1"),
        "h0",
        AuditViolation,
        "'train/r/0/0/1' with numbers of up",
    ),
    "one reciprocal less": (
        counted_otherwise("q/0/0"),
        "h0",
        ProtocolError,
        "ciphertexts of shapes .* as 'q/0/0'",
    ),
    "a round left out": (
        lambda patch: sending(
            patch,
            "h0",
            lambda send, peer, tag, payload: send(
                peer, "train/q/0/0" if tag == "train/r/0/0/0" else tag, payload
            ),
        ),
        "h0",
        AuditViolation,
        "sent 'q/0/0'.*expected 'r/0/0/0'",
    ),
    "answer out of range": (
        answered_with_more("s/0/0", "guest"),
        "guest",
        AuditViolation,
        "'s/0/0' with shares out of range",
    ),
    "another number of classes": (
        lambda patch: sending(patch, "guest", classes_claimed),
        "guest",
        ProtocolError,
        "claims 1001 classes",
    ),
}


def classes_claimed(send: Send, peer: str, tag: str, payload: v1.Payload) -> None:
    if tag == "train/classes":
        payload.record.arrays["count"].data = (1001).to_bytes(8, "little")
    send(peer, tag, payload)


@pytest.mark.parametrize("name", SOFTMAX_ATTACKS)
def test_an_attack_on_softmax_is_caught_and_the_attacker_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    install, attacker, error, text = SOFTMAX_ATTACKS[name]
    job = make_job(tmp_path, SOFTMAX, epochs=1)
    install(monkeypatch)
    disarm(monkeypatch, attacker)
    run = run_all(job, tmp_path)
    monkeypatch.undo()
    found = run.errors["h0" if attacker == "guest" else "guest"]
    assert isinstance(found, error), found
    assert re.match(f"{attacker} .*{text}", str(found))
    if isinstance(found, AuditViolation):
        assert found.party == attacker
        assert audit_of(job, tmp_path).named == [attacker]
