"""Whole jobs over real gRPC with mutual TLS, the parties as threads of this process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import residue
from residue_federated import (
    Job,
    TrialAuthority,
    load_job,
)
from residue_federated._components import runner_of
from residue_federated._context import Line, Twin
from residue_federated._data import load_table
from residue_federated.errors import (
    DataError,
    Diverged,
    PeerFailed,
    PeerLost,
    PeerRefused,
    ProtocolError,
)
from residue_federated.linear import _train
from residue_federated.proto import v1
from tests.integration.parties import run_all

ROWS = 60
KEY = {"bits": 1024, "insecure_allow_1024": True}


def write_data(directory: Path, hosts: int, algorithm: str) -> None:
    """A small table with a signal in every party's columns, one file a party."""
    rng = np.random.default_rng(7)
    ids = [f"r{i:03d}" for i in range(ROWS)]
    parts = {
        name: rng.normal(size=(ROWS, 3)) for name in ["guest", *(f"h{i}" for i in range(hosts))]
    }
    signal = sum(part @ np.array([1.0, -0.5, 0.25]) for part in parts.values())
    y = signal + rng.normal(scale=0.5, size=ROWS)
    for name, part in parts.items():
        frame = pd.DataFrame(part, columns=["a", "b", "c"]).assign(id=ids)
        if name == "guest":
            frame["y"] = {
                "logistic_regression": (y > 0).astype(int),
                "linear_regression": 50 + 10 * y,
                "poisson_regression": rng.poisson(np.exp(0.4 * signal)),
                "softmax_regression": np.digitize(y, [-0.7, 0.7]),
            }[algorithm]
        frame.sample(frac=1, random_state=len(name)).to_csv(directory / f"{name}.csv", index=False)


def make_job(directory: Path, algorithm: str, hosts: int = 1, **changes: Any) -> Job:
    """A small job; without an arbiter where the algorithm is one of two parties."""
    kind = algorithm.removeprefix("shared_")
    write_data(directory, hosts, kind)
    training = {"epochs": 3, "optimiser": {"learning_rate": 0.3}} | changes.pop("training", {})
    linear = kind == "linear_regression"
    components = {
        "scale": {"type": "standardise", "target": linear},
        "train": {"type": algorithm, **training},
    }
    return Job.model_validate(
        {
            "name": "t",
            "guest": {"name": "guest", "data": {"file": directory / "guest.csv", "label": "y"}},
            "hosts": [
                {"name": f"h{i}", "data": {"file": directory / f"h{i}.csv"}} for i in range(hosts)
            ],
            "arbiter": {"name": "arbiter"} if kind == algorithm else None,
            "key": KEY,
            "components": components,
            "transport": {"connect_timeout": 20, "peer_timeout": 2},
        }
        | changes
    )


def model_of(directory: Path, party: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((directory / party / "models" / "train.json").read_text())
    return loaded


def twin_of(job: Job) -> Twin:
    tables = {p.name: load_table(job, p.name) for p in (job.guest, *job.hosts)}
    target = job.components["scale"].model_dump()["target"]
    tables = {name: table.standardised(target=target) for name, table in tables.items()}
    component = job.components["train"]
    twin: Twin = runner_of(component).twin(job, component, tables)
    return twin


@pytest.mark.parametrize(
    ("algorithm", "hosts", "training"),
    [
        ("logistic_regression", 1, {}),
        ("logistic_regression", 2, {"batch_size": 25, "shuffle_seed": 1, "l2": 0.05}),
        (
            "linear_regression",
            1,
            {"optimiser": {"name": "adam", "learning_rate": 0.2}, "intercept": False},
        ),
        ("linear_regression", 3, {"optimiser": {"learning_rate": 0.1, "momentum": 0.5}}),
        ("logistic_regression", 1, {"intercept": False, "batch_size": 30}),
        ("poisson_regression", 1, {"l2": 0.05}),
        ("poisson_regression", 3, {"batch_size": 25, "shuffle_seed": 1, "intercept": False}),
        ("poisson_regression", 2, {"batch_size": 30}),
        ("poisson_regression", 2, {"precision": {"residual_bits": 32}}),
        ("poisson_regression", 5, {}),
    ],
)
def test_jobs_equal_their_plaintext_twin(
    tmp_path: Path, algorithm: str, hosts: int, training: dict[str, Any]
) -> None:
    job = make_job(tmp_path, algorithm, hosts, training=training)
    run, twin = run_all(job, tmp_path), twin_of(job)
    assert run.errors == {}
    guest = run.reports["guest"].component("train")
    assert guest.losses == pytest.approx(twin.losses, abs=1e-3)
    assert guest.losses == run.reports["arbiter"].component("train").losses
    assert guest.losses[-1] < guest.losses[0]
    assert guest.metrics == pytest.approx(twin.metrics, rel=2e-3)
    assert guest.rounds == 3
    of_hosts = [report for report in run.reports.values() if report.role == "host"]
    assert [report.component("train").losses for report in of_hosts] == [[]] * hosts
    intercept = model_of(tmp_path, "guest")["intercept"]
    assert (intercept is not None) == training.get("intercept", True)
    assert not (tmp_path / "arbiter" / "models").exists()
    assert all(report.operations for report in run.reports.values())


def test_early_stop_is_the_twins(tmp_path: Path) -> None:
    training = {"epochs": 40, "early_stop": {"tolerance": 0.02}}
    job = make_job(tmp_path, "logistic_regression", training=training)
    run, twin = run_all(job, tmp_path), twin_of(job)
    assert 2 < len(twin.losses) < 40
    rounds = {report.component("train").rounds for report in run.reports.values()}
    assert rounds == {len(twin.losses)}


def test_decrypted_gradients_are_reproducible_integers(tmp_path: Path) -> None:
    job = make_job(tmp_path, "logistic_regression", training={"epochs": 2})
    one = run_all(job, tmp_path / "one").reports
    two = run_all(job, tmp_path / "two").reports
    assert [len(step) for step in one["guest"].gradients or []] == [4, 4]
    assert one["guest"].gradients == two["guest"].gradients
    assert one["h0"].gradients == two["h0"].gradients


def test_every_ciphertext_that_leaves_carries_fresh_randomness(tmp_path: Path) -> None:
    job = make_job(tmp_path, "logistic_regression", 2, training={"epochs": 2, "batch_size": 30})
    run = run_all(job, tmp_path)
    assert run.errors == {}
    sent = [v1.Payload.FromString(m.data) for m in run.messages if m.tag == "train/key"]
    keys = [payload.public_key.data for payload in sent]
    key = residue.PublicKey.from_bytes(keys[0], device="cpu")
    seen: dict[str, list[int]] = {}
    for message in run.messages:
        for block in v1.Payload.FromString(message.data).ciphertexts.blocks:
            limbs = key.ciphertexts_from_bytes(block).to_limbs()
            values = [int.from_bytes(row.astype("<u8").tobytes(), "little") for row in limbs]
            seen.setdefault(message.receiver, []).extend(values)
    assert set(seen) == {"guest", "h0", "h1", "arbiter"}
    for values in seen.values():
        assert len(values) == len(set(values))
        assert all((c - 1) % key.n != 0 for c in values)
    # Two batches of 30 rows, two epochs: u from two hosts and d to each, a loss from each.
    assert len(seen["guest"]) == 4 * 2 * (30 + 1)
    assert len(seen["h0"]) == 4 * 30


def test_the_first_residual_share_is_zero_and_does_not_look_it(tmp_path: Path) -> None:
    """All weights start at 0, so a host encrypts 60 equal plaintexts."""
    job = make_job(tmp_path, "logistic_regression", training={"epochs": 1})
    run = run_all(job, tmp_path)
    (message,) = [m for m in run.messages if m.tag == "train/u/0/0"]
    data = v1.Payload.FromString(message.data).ciphertexts.blocks[0]
    body = data[-ROWS * 256 :]
    assert len({body[at : at + 256] for at in range(0, len(body), 256)}) == ROWS


def test_masks_hide_gradients_from_the_arbiter(tmp_path: Path) -> None:
    job = make_job(tmp_path, "logistic_regression", training={"epochs": 1})
    run = run_all(job, tmp_path)
    (message,) = [
        m for m in run.messages if m.sender == "arbiter" and m.receiver == "h0" and "/g/" in m.tag
    ]
    (value,) = v1.Payload.FromString(message.data).masked_plaintexts.values
    masked = int.from_bytes(value, "little", signed=True)
    gradients = run.reports["h0"].gradients
    assert gradients is not None
    assert all(abs(g) < 1 << 42 for g in gradients[0])
    assert abs(masked) >> 900


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda frame: frame[1:], r"row counts differ: guest has 60, h0 has 59"),
        (lambda frame: frame.assign(id=["x", *frame["id"][1:]]), "other identifiers"),
        (lambda frame: frame.assign(a=[np.nan, *frame["a"][1:]]), "column 'a' has 1 missing"),
    ],
)
def test_bad_data_ends_every_party_before_training(
    tmp_path: Path, change: Any, expected: str
) -> None:
    job = make_job(tmp_path, "logistic_regression")
    path = tmp_path / "h0.csv"
    change(pd.read_csv(path)).to_csv(path, index=False)
    run = run_all(job, tmp_path)
    assert run.reports == {}
    assert any(
        isinstance(error, DataError) and pytest.raises(DataError, match=expected)
        for error in run.errors.values()
    )
    assert not any(m.tag.startswith(("train/u", "train/d", "train/g")) for m in run.messages)


@pytest.mark.parametrize("label", [-1.0, 64.0])
def test_labels_that_poisson_regression_cannot_take(tmp_path: Path, label: float) -> None:
    job = make_job(tmp_path, "poisson_regression")
    path = tmp_path / "guest.csv"
    frame = pd.read_csv(path)
    frame.assign(y=[label, *frame["y"][1:]]).to_csv(path, index=False)
    run = run_all(job, tmp_path)
    assert run.reports == {}
    assert isinstance(run.errors["guest"], DataError)
    assert "guest: the labels of Poisson regression must be from 0 to below 64" in str(
        run.errors["guest"]
    )


def test_the_arbiter_sees_losses_of_epochs_and_not_of_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That of a batch of two rows would be a function of their labels."""
    sizes: list[list[int]] = []
    together = _train._decrypt_together

    def watched(
        secret: residue.PrivateKey, arrays: list[residue.CiphertextArray]
    ) -> list[list[int]]:
        sizes.append([array.size for array in arrays])
        return together(secret, arrays)

    monkeypatch.setattr(_train, "_decrypt_together", watched)
    job = make_job(tmp_path, "linear_regression", training={"batch_size": 20, "epochs": 2})
    assert run_all(job, tmp_path).errors == {}
    gradients = [1, 1]  # of guest and host, packed
    epoch = [gradients, gradients, [1, 1, 1]]
    assert sizes == [*epoch, *epoch]


@pytest.mark.parametrize("algorithm", ["logistic_regression", "poisson_regression"])
def test_announced_sizes_tell_nothing_of_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, algorithm: str
) -> None:
    """The bound of a share of the loss would follow from the largest weight otherwise."""
    bits: list[int] = []
    send = Line.send

    def watched(line: Line, peer: str, tag: str, *arrays: residue.CiphertextArray) -> None:
        if tag.startswith("loss/"):
            bits.append(arrays[0].bound.bit_length())
        return send(line, peer, tag, *arrays)

    monkeypatch.setattr(Line, "send", watched)
    for rate in (1e-6, 0.3):
        training = {"epochs": 2, "optimiser": {"learning_rate": rate}}
        directory = tmp_path / str(rate)
        directory.mkdir()
        assert run_all(make_job(directory, algorithm, training=training), directory).errors == {}
    assert len(bits) == 4
    assert len(set(bits)) == 1


@pytest.mark.parametrize(
    "fault", ["other key", "not coprime", "wrong shape", "garbage", "fractions"]
)
def test_unusable_ciphertexts_name_the_sender(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    job = make_job(tmp_path, "logistic_regression", training={"epochs": 1})
    other, _ = residue.keygen(1024, insecure_allow_1024=True, device="cpu")
    send = Line.send

    def tampered(line: Any, peer: str, tag: str, *arrays: residue.CiphertextArray) -> None:
        if tag != "u/0/0":
            return send(line, peer, tag, *arrays)
        if fault == "other key":
            data = other.encrypt(np.zeros(ROWS, dtype=int)).to_bytes()
        elif fault == "not coprime":
            data = arrays[0].to_bytes()[:-256] + arrays[0].public_key.n.to_bytes(256, "little")
        elif fault == "wrong shape":
            data = arrays[0][1:].to_bytes()
        elif fault == "fractions":
            data = (arrays[0] * 0.5).to_bytes()
        else:
            data = b"garbage"
        payload = v1.Payload(ciphertexts=v1.Ciphertexts(blocks=[data]))
        line.send_payload(peer, tag, payload)

    monkeypatch.setattr(Line, "send", tampered)
    run = run_all(job, tmp_path)
    assert run.reports == {}
    assert isinstance(run.errors["guest"], ProtocolError)
    assert str(run.errors["guest"]).startswith("h0 sent")


def test_divergence_is_an_error_at_every_party(tmp_path: Path) -> None:
    training = {"epochs": 50, "optimiser": {"learning_rate": 100.0}}
    run = run_all(make_job(tmp_path, "linear_regression", training=training), tmp_path)
    assert run.reports == {}
    assert {type(e) for e in run.errors.values()} == {Diverged, PeerFailed}


def test_a_party_of_another_authority_never_takes_part(tmp_path: Path) -> None:
    job = make_job(tmp_path, "logistic_regression", transport={"connect_timeout": 3})
    stranger = TrialAuthority().issue(tmp_path / "stranger", "h0")
    run = run_all(job, tmp_path, identities={"h0": stranger})
    assert run.reports == {}
    refusals = [e for e in run.errors.values() if isinstance(e, PeerRefused)]
    assert refusals
    assert all("must be signed by the job's authority" in str(e) for e in refusals)
    assert run.messages == []


def test_parties_of_different_jobs_never_start(tmp_path: Path) -> None:
    job = make_job(tmp_path, "logistic_regression", transport={"connect_timeout": 3})
    run = run_all(job, tmp_path, changed={"h0": job.replace(rounds=7)})
    assert run.reports == {}
    assert any("runs another job" in str(error) for error in run.errors.values())
    assert {type(e) for e in run.errors.values()} <= {PeerRefused, PeerLost, PeerFailed}


def test_breast_example_has_the_auc_of_its_twin(tmp_path: Path) -> None:
    example = Path(__file__).parents[2] / "examples" / "breast_lr.yaml"
    job = load_job(example).replace(rounds=3)
    run, twin = run_all(job, tmp_path), twin_of(job)
    assert run.reports["guest"].rows == 569
    train = run.reports["guest"].component("train")
    assert train.metrics["auc"] == pytest.approx(twin.metrics["auc"], abs=1e-4)
    assert train.losses == pytest.approx(twin.losses, abs=1e-4)
