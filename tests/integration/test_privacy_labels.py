"""Differential privacy of the guest's labels: in bins, and by answers for all that comes after."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import optimize, stats

from residue_federated import Job
from residue_federated._checkpoint import Checkpoints
from residue_federated._context import Line
from residue_federated._data import Table, load_table
from residue_federated.errors import CheckpointError
from residue_federated.features import _randomise
from residue_federated.features._bins import Bins, Evidence
from residue_federated.features._private import noise_of
from residue_federated.privacy._config import LabelPrivacy
from tests.integration.parties import Staged, job_of_files, run_all

DATA = {"sklearn": "breast_cancer"}


def binned(**bins: Any) -> Job:
    return Job.model_validate(
        {
            "name": "t",
            "guest": {"name": "guest", "data": DATA},
            "hosts": [{"name": "host", "data": DATA}],
            "arbiter": {"name": "arbiter"},
            "key": {"bits": 1024, "insecure_allow_1024": True},
            "components": {"bin": {"type": "bin", "bins": 5, "transform": "woe", **bins}},
            "transport": {"connect_timeout": 20, "peer_timeout": 2},
        }
    )


def test_hosts_get_weights_with_noise_and_the_same_after_a_death(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    privacy = {"epsilon": 20.0, "delta": 1e-6}
    sent: list[np.ndarray[Any, Any]] = []
    real = Line.send_record
    die = True

    def send_record(self: Line, peer: str, tag: str, **arrays: Any) -> None:
        if tag == "weights":
            sent.append(np.sort(arrays["woe"]))
            real(self, peer, tag, **arrays)
            if die:
                raise Staged
            return
        real(self, peer, tag, **arrays)

    monkeypatch.setattr(Line, "send_record", send_record)
    run_all(binned(privacy=privacy), tmp_path / "private")
    die = False
    run = run_all(binned(privacy=privacy), tmp_path / "private")
    assert run.errors == {}
    assert np.array_equal(sent[0], sent[1])
    facts = run.reports["guest"].component("bin").facts
    assert facts["privacy"] == {"unit": "label", "epsilon": 20.0, "delta": 1e-6}
    model = json.loads((tmp_path / "private" / "host" / "models" / "bin.json").read_text())
    noisy = np.concatenate([column["woe"] for column in model["columns"]])
    guest, host = (load_table(binned(), party) for party in ("guest", "host"))
    assert guest.y is not None
    bins = Bins.of(host.x, 5)
    codes, positive = bins.codes(host.x), guest.y == 1
    counts = np.bincount(codes.ravel())
    positives = np.bincount(codes[positive].ravel(), minlength=counts.size)
    totals = int(positive.sum()), int((~positive).sum())
    exact = Evidence.of(positives, counts, bins.sizes, totals)
    assert not np.isclose(noisy, exact.woe).all()
    assert np.corrcoef(noisy, exact.woe)[0, 1] > 0.9
    model = json.loads((tmp_path / "private" / "guest" / "models" / "bin.json").read_text())
    own = np.concatenate([column["woe"] for column in model["columns"]])
    bins = Bins.of(guest.x, 5)
    codes = bins.codes(guest.x)
    positives = np.bincount(codes[positive].ravel(), minlength=len(own))
    exact = Evidence.of(positives, np.bincount(codes.ravel()), bins.sizes, totals)
    assert not np.isclose(own, exact.woe).all()  # others work on them: correlations, gradients
    table = Table.read(tmp_path / "private" / "guest" / "tables" / "bin.parquet")
    assert set(np.unique(table.x)) <= set(own.tolist())
    assert [column["iv"] for column in model["columns"]] == list(facts["iv"]["guest"].values())


def test_noise_is_not_put_on_other_bins_than_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = binned(privacy={"epsilon": 20.0}, transform=None)
    real = Line.send_record

    def send_record(self: Line, peer: str, tag: str, **arrays: Any) -> None:
        if tag == "weights":
            raise Staged
        real(self, peer, tag, **arrays)

    with monkeypatch.context() as death:
        death.setattr(Line, "send_record", send_record)
        run_all(job, tmp_path)
    (tmp_path / "host" / "states" / "bin" / "order" / "1.npz").unlink()
    run = run_all(job, tmp_path)
    assert isinstance(run.errors["guest"], CheckpointError)
    assert "not those whose weights may have been sent" in str(run.errors["guest"])


@pytest.mark.parametrize("columns", [1, 20])
def test_laplace_noise_is_for_all_columns_together(columns: int) -> None:
    noise = noise_of(LabelPrivacy(epsilon=0.5), columns, 20_000).astype(float)
    e = math.exp(-0.5 / columns)
    expected = 2 * e / (1 - e) ** 2
    assert abs(np.mean(noise**2) / expected - 1) < 5 * math.sqrt(5 / 20_000)  # kurtosis 6


@pytest.mark.parametrize("columns", [1, 20])
def test_gaussian_noise_is_for_all_columns_together(columns: int) -> None:
    """Of the least deviation by Balle and Wang (ICML 2018, theorem 8), or up to a sixth more."""
    noise = noise_of(LabelPrivacy(epsilon=0.5, delta=1e-6), columns, 20_000).astype(float)

    def delta(deviation: float) -> float:
        a, b = 0.5 / deviation, 0.5 * deviation
        return float(stats.norm.cdf(a - b) - math.exp(0.5) * stats.norm.cdf(-a - b))

    least = optimize.brentq(lambda deviation: delta(deviation) - 1e-6, 0.5, 50) * math.sqrt(columns)
    assert 0.97 * least < noise.std() < 1.2 * least


@pytest.mark.parametrize(
    ("component", "words"),
    [
        ({"type": "logistic_regression"}, "every party sees its exact gradient"),
        ({"type": "secureboost"}, "hosts see which rows share a node"),
        ({"type": "correlation"}, "adds no noise"),
    ],
)
def test_what_cannot_be_promised_is_refused(component: dict[str, Any], words: str) -> None:
    content = binned().model_dump() | {"components": {"c": component | {"privacy": {"epsilon": 1}}}}
    with pytest.raises(ValueError, match=f"no differential privacy here: .*{words}"):
        Job.model_validate(content)


ANSWERS = {"type": "randomise_labels", "classes": 2, "epsilon": 2.0}


def answered(directory: Path, labels: Any, components: dict[str, Any]) -> Job:
    """A job of 120 rows with these labels at the guest, alike but for them."""
    random = np.random.default_rng(4)
    frame = pd.DataFrame(random.normal(size=(len(labels), 5)), columns=list("abcde"))
    frame = frame.assign(id=[f"r{i:03d}" for i in range(len(labels))], y=labels)
    directory.mkdir(parents=True, exist_ok=True)
    frame[["id", "a", "b", "y"]].to_csv(directory / "guest.csv", index=False)
    frame[["id", "c", "d", "e"]].to_csv(directory / "host.csv", index=False)
    return job_of_files(directory, components)


LABELS = (np.arange(120) * 7 % 10 < 4).astype(int)


def test_what_comes_after_the_answers_depends_on_them_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two tables with other labels and, by chance, the same answers: all else is the same."""
    told = 1.0 - np.roll(LABELS, 5)
    monkeypatch.setattr(_randomise, "_randomised", lambda *_: told)
    components = {
        "answers": ANSWERS,
        "part": {"type": "split", "part": "train", "stratify": True},
        "bins": {"type": "bin", "bins": 4, "transform": "woe"},
        "line": {"type": "logistic_regression", "epochs": 2, "input": "part"},
        "trees": {"type": "secureboost", "trees": 2, "depth": 2, "input": "part"},
    }
    found = []
    for name, labels in (("one", LABELS), ("other", 1 - LABELS)):
        run = run_all(answered(tmp_path / name, labels, components), tmp_path / name)
        assert run.errors == {}
        paths = sorted((tmp_path / name).glob("*/models/*.json"))
        assert len(paths) >= 6
        models = {str(path.relative_to(tmp_path / name)): path.read_text() for path in paths}
        sent = sorted((m.sender, m.receiver, m.tag) for m in run.messages)
        found.append((models, run.reports["guest"].component("line").losses, sent))
    assert found[0] == found[1]


def die_of_answers(job: Job, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run up to the moment in which the answers are on the disk."""
    real = Checkpoints.save

    def save(self: Checkpoints, *arguments: Any, **more: Any) -> None:
        real(self, *arguments, **more)
        if "labels" in arguments[1]:
            raise Staged

    with monkeypatch.context() as death:
        death.setattr(Checkpoints, "save", save)
        run_all(job, directory)


def test_answers_are_the_same_after_a_death_and_others_in_another_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = answered(tmp_path / "data", LABELS, {"answers": ANSWERS})
    die_of_answers(job, tmp_path / "first", monkeypatch)
    kept = tmp_path / "first" / "guest" / "states" / "answers" / "given" / "1.npz"
    with np.load(kept) as state:
        labels = state["a:labels"]
    tables = []
    for name in ("first", "second"):
        run = run_all(job, tmp_path / name)
        assert run.errors == {}
        y = Table.read(tmp_path / name / "guest" / "tables" / "answers.parquet").y
        assert y is not None
        tables.append(y)
    assert np.array_equal(tables[0], labels)
    assert not np.array_equal(tables[0], tables[1])
    changed = [float(np.mean(y != LABELS)) for y in tables]
    assert all(0 < share < 0.3 for share in changed)  # 0.12 expected
    assert Table.read(tmp_path / "first" / "host" / "tables" / "answers.parquet").y is None
    privacy = run.reports["guest"].component("answers").facts["privacy"]
    assert privacy == {
        "unit": "label",
        "epsilon": 2.0,
        "delta": 0.0,
        "kept": 1 / (1 + math.exp(-2)),
    }
    assert "privacy" not in run.reports["host"].component("answers").facts


def test_answers_are_not_put_on_other_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = answered(tmp_path / "data", LABELS, {"answers": ANSWERS})
    die_of_answers(job, tmp_path / "run", monkeypatch)
    for party in ("guest", "host"):
        path = tmp_path / "data" / f"{party}.csv"
        path.write_text(path.read_text().replace("r007", "r777"))
    run = run_all(job, tmp_path / "run")
    assert isinstance(run.errors["guest"], CheckpointError)
    assert "not those whose labels may have been told" in str(run.errors["guest"])


@pytest.mark.parametrize(
    ("labels", "components", "words"),
    [
        ([0, 1, 2, 1], {"a": ANSWERS}, "labels of 2 classes must be 0 to 1 or -1 and 1"),
        ([0, 1, -1, 1], {"a": ANSWERS}, "labels of 2 classes must be 0 to 1 or -1 and 1"),
        ([0, 1, 0.5, 1], {"a": ANSWERS | {"classes": 3}}, "labels of 3 classes must be 0 to 2"),
        (
            [0, 1, 0, 1],
            {"scale": {"type": "standardise", "target": True}, "a": ANSWERS},
            "put 'a' before standardise",
        ),
    ],
)
def test_labels_that_cannot_be_answered(
    tmp_path: Path, labels: list[float], components: dict[str, Any], words: str
) -> None:
    run = run_all(answered(tmp_path, labels, components), tmp_path)
    assert words in str(run.errors["guest"])
    assert not list(tmp_path.glob("guest/tables/a.*"))


@pytest.mark.parametrize(
    ("labels", "settings", "expected"),
    [
        ([-1, 1] * 60, {}, {0.0, 1.0}),
        ([1] * 120, {}, {0.0, 1.0}),
        ([0, 1, 2] * 40, {"classes": 3}, {0.0, 1.0, 2.0}),
        ([0, 1, 2] * 40, {"classes": None, "range": [0, 4], "cut": True}, {0.0, 4.0}),
    ],
)
def test_answers_have_one_coding_whatever_the_labels_have(
    tmp_path: Path, labels: list[float], settings: dict[str, Any], expected: set[float]
) -> None:
    component = ANSWERS | {"epsilon": 0.5} | settings
    run = run_all(answered(tmp_path, labels, {"a": component}), tmp_path)
    assert run.errors == {}
    y = Table.read(tmp_path / "guest" / "tables" / "a.parquet").y
    assert y is not None
    if "range" in settings:
        assert expected <= set(y.tolist())
        assert np.ptp(y) == 4.0
    else:
        assert set(y.tolist()) == expected
