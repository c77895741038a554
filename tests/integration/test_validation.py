"""Cross-validation and the judgement of unseen rows, as whole jobs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from residue_federated import Job
from residue_federated._components import runner_of
from residue_federated._context import Line
from residue_federated._data import Table
from residue_federated._trial import tables_of
from residue_federated.audit._live import RECORD
from residue_federated.audit._verify import audit_records
from residue_federated.errors import DataError, JobError, ProtocolError
from tests.integration.parties import Run, Staged, job_of_files, run_all

ROWS = 60
LOGISTIC = {"type": "logistic_regression", "epochs": 2, "optimiser": {"learning_rate": 0.3}}
TREES = {"type": "secureboost", "trees": 2, "depth": 2}


def make_job(directory: Path, components: dict[str, Any], classes: int = 2) -> Job:
    random = np.random.default_rng(4)
    x = random.normal(size=(ROWS, 6))
    signal = x @ np.array([1.0, -0.5, 0.25, 1.0, -0.5, 0.25])
    y = np.digitize(signal, np.quantile(signal, np.arange(1, classes) / classes))
    frame = pd.DataFrame(x, columns=list("abcdef")).assign(id=[f"r{i:02d}" for i in range(ROWS)])
    frame[["id", "a", "b", "c"]].assign(y=y).to_csv(directory / "guest.csv", index=False)
    frame[["id", "d", "e", "f"]].to_csv(directory / "host.csv", index=False)
    return job_of_files(directory, components)


def crossed(trainer: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "scale": {"type": "standardise"},
        "cv": {"type": "cross_validate", "folds": 3, "trainer": trainer, **changes},
        "judge": {"type": "evaluate"},
    }


def require_clean(job: Job, directory: Path) -> None:
    records = {party.name: directory / party.name / RECORD for party in job.parties}
    report = audit_records(job, records, directory / "guest" / "ca.pem")
    assert (report.findings, report.undeclared) == ([], [])


def judged(run: Run, component: str = "judge") -> dict[str, float]:
    assert run.errors == {}
    return run.reports["guest"].component(component).metrics


@pytest.mark.parametrize(
    ("trainer", "classes"),
    [
        (LOGISTIC, 2),
        (TREES, 2),
        (LOGISTIC | {"one_vs_rest": True, "epochs": 1}, 3),
        (TREES | {"objective": "multiclass", "trees": 1}, 3),
    ],
)
def test_folds_are_judged_as_by_the_twin(
    tmp_path: Path, trainer: dict[str, Any], classes: int
) -> None:
    job = make_job(tmp_path, crossed(trainer), classes)
    run = run_all(job, tmp_path)
    assert run.errors == {}
    component = job.components["cv"]
    tables = tables_of(job, tmp_path, "cv")
    expected = runner_of(component).twin(job, component, tables)
    guest = run.reports["guest"].component("cv")
    assert guest.metrics == pytest.approx(expected.metrics, rel=1e-2, abs=1e-3)
    assert guest.losses == pytest.approx(expected.losses, rel=2e-3)
    folds = guest.facts["folds"]
    assert len(folds) == 3
    for name in folds[0]:
        values = [fold[name] for fold in folds]
        assert guest.metrics[name] == pytest.approx(np.mean(values))
        assert guest.metrics[f"{name}_std"] == pytest.approx(np.std(values))
    assert run.reports["host"].component("cv").metrics == {}
    assert judged(run)["accuracy"] > 1 / classes  # out of fold, all rows
    require_clean(job, tmp_path)


def test_a_killed_party_goes_on_in_its_fold(tmp_path: Path) -> None:
    job = make_job(tmp_path, crossed(LOGISTIC | {"epochs": 3}))
    whole = run_all(job, tmp_path / "whole")
    assert whole.errors == {}
    seen: list[int] = []

    def dies(party: str, done: int) -> None:
        if party == "host" and done == 5:  # of the second fold, the second epoch
            raise Staged

    def watched(party: str, done: int) -> None:
        if party == "host":
            seen.append(done)

    torn = tmp_path / "torn"
    assert "host" not in run_all(job, torn, progress=dies).reports
    run = run_all(job, torn, progress=watched)
    assert run.errors == {}
    assert seen[0] == 3  # the first fold is not trained again
    assert seen[1] in (4, 5)  # nor the first epoch of the second
    again, guest = (r.reports["guest"].component("cv") for r in (run, whole))
    assert again.metrics == guest.metrics
    assert again.losses == guest.losses
    assert judged(run) == judged(whole)
    require_clean(job, torn)


def test_folds_of_other_sizes_name_the_guest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = Line.send_record

    def lies(self: Line, peer: str, tag: str, **arrays: Any) -> None:
        if tag == "folds":
            arrays["folds"] = np.zeros_like(arrays["folds"])
        send(self, peer, tag, **arrays)

    monkeypatch.setattr(Line, "send_record", lies)
    run = run_all(make_job(tmp_path, crossed(TREES)), tmp_path)
    assert isinstance(run.errors["host"], ProtocolError)
    assert "guest sent folds of sizes that were not agreed" in str(run.errors["host"])


def test_too_few_rows_of_a_class_end_the_job(tmp_path: Path) -> None:
    run = run_all(make_job(tmp_path, crossed(TREES, folds=31)), tmp_path)
    assert isinstance(run.errors["guest"], DataError)
    assert "are too few for 31 folds" in str(run.errors["guest"])


def held_out(trainer: dict[str, Any], scale: str | None = "scale") -> dict[str, Any]:
    """A trainer on a part of the rows, judged on the other."""
    components: dict[str, Any] = {
        "scale": {"type": "standardise"},
        "some": {"type": "split", "part": "train", "stratify": True},
        "train": trainer,
        "rest": {"type": "split", "part": "test", "stratify": True, "input": scale},
        "judge": {"type": "evaluate", "input": "rest"},
        "seen": {"type": "evaluate", "input": "some"},
    }
    if scale is None:  # the rows to judge as they came
        components = {"raw": {"type": "impute"}, **components}
        components["scale"]["input"] = components["rest"]["input"] = "raw"
    return components


@pytest.mark.parametrize("trainer", [LOGISTIC, TREES])
def test_evaluation_of_rows_that_the_model_has_not_seen(
    tmp_path: Path, trainer: dict[str, Any]
) -> None:
    job = make_job(tmp_path, held_out(trainer))
    run = run_all(job, tmp_path)
    found, seen = judged(run), judged(run, "seen")
    guest = run.reports["guest"]
    assert guest.component("judge").facts["rows"] == 12
    assert guest.component("seen").facts["rows"] == 48
    assert seen["auc"] == guest.component("train").metrics["auc"]
    if trainer is LOGISTIC:
        u, y = 0.0, np.zeros(0)
        for party in ("guest", "host"):
            table = Table.read(tmp_path / party / "tables" / "rest.parquet")
            model = json.loads((tmp_path / party / "models" / "train.json").read_text())
            u = u + table.x @ np.array(model["weights"]) + (model["intercept"] or 0.0)
            y = y if table.y is None else table.y
        assert found["auc"] == pytest.approx(roc_auc_score(y, u))
    require_clean(job, tmp_path)


def test_unseen_rows_must_be_scaled_alike(tmp_path: Path) -> None:
    run = run_all(make_job(tmp_path, held_out(LOGISTIC, scale=None)), tmp_path)
    texts = [str(error) for error in run.errors.values() if isinstance(error, DataError)]
    assert any("standardise before the split" in text for text in texts), run.errors


def test_cross_validation_leaves_no_model_for_unseen_rows(tmp_path: Path) -> None:
    components = crossed(TREES)
    components["judge"]["input"] = "rest"
    order = ("scale", "cv", "rest", "judge")
    components["rest"] = {"type": "split", "part": "test", "input": "scale"}
    job = make_job(tmp_path, {name: components[name] for name in order})
    run = run_all(job, tmp_path)
    assert any("keeps no model" in str(e) for e in run.errors.values() if isinstance(e, JobError))
