"""Models of two parties without an arbiter against scikit-learn's on the joined data: within 1%."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris, load_wine
from sklearn.linear_model import Lasso, LogisticRegression
from sklearn.metrics import accuracy_score, log_loss, roc_auc_score
from sklearn.preprocessing import StandardScaler
from typer.testing import CliRunner

from residue_federated import Job, load_job
from residue_federated._cli import app
from residue_federated._trial import Event, new_run_directory, run_trial
from residue_federated.errors import PeerLost
from tests.integration.test_federated import model_of, twin_of
from tests.integration.test_federated_quality import (
    WITHIN,
    counts,
    digits,
    job_of,
    metrics_of,
    r2_of_diabetes,
    scaled,
    written,
)
from tests.integration.test_shared import LEAST_SQUARES, LOGISTIC, POISSON, SOFTMAX

EXAMPLE = Path(__file__).parents[2] / "examples" / "breast_shared_lr.yaml"


def breast_cancer() -> tuple[float, float]:
    """AUC and accuracy of scikit-learn's model."""
    x, y = load_breast_cancer(return_X_y=True)
    x = StandardScaler().fit_transform(x)
    u = LogisticRegression(max_iter=1000).fit(x, y).decision_function(x)
    return float(roc_auc_score(y, u)), float(accuracy_score(y, u > 0))


def test_the_example_has_the_metrics_of_its_twin_and_of_the_joined_data(tmp_path: Path) -> None:
    job = load_job(EXAMPLE).replace(rounds=3)
    metrics, twin = metrics_of(job, tmp_path), twin_of(job)
    assert metrics == pytest.approx(twin.metrics, abs=1e-3)
    assert metrics["auc"] == pytest.approx(breast_cancer()[0], rel=WITHIN)


@pytest.mark.full
def test_logistic_regression_with_a_sine_activation(tmp_path: Path) -> None:
    data = {"sklearn": "breast_cancer"}
    optimiser = {"learning_rate": 0.3, "momentum": 0.5}
    job = job_of(data, data, LOGISTIC, epochs=25, activation="sine", optimiser=optimiser, l2=0.01)
    metrics = metrics_of(job, tmp_path)
    auc, accuracy = breast_cancer()
    assert metrics["auc"] == pytest.approx(auc, rel=WITHIN)
    assert metrics["accuracy"] == pytest.approx(accuracy, rel=WITHIN)


@pytest.mark.full
def test_linear_regression(tmp_path: Path) -> None:
    data = {"sklearn": "diabetes"}
    optimiser = {"learning_rate": 0.2, "momentum": 0.7}
    job = job_of(data, data, LEAST_SQUARES, epochs=30, optimiser=optimiser)
    assert metrics_of(job, tmp_path)["r2"] == pytest.approx(r2_of_diabetes(), rel=WITHIN)


@pytest.mark.full
def test_linear_regression_with_l1(tmp_path: Path) -> None:
    """The weights that are zero are scikit-learn's, and the others close to its."""
    data = {"sklearn": "diabetes"}
    optimiser = {"learning_rate": 0.2, "momentum": 0.7}
    job = job_of(data, data, LEAST_SQUARES, epochs=40, optimiser=optimiser, l1=0.05)
    metrics, models = metrics_of(job, tmp_path), [model_of(tmp_path, p) for p in ("host", "guest")]
    x, y = load_diabetes(return_X_y=True, as_frame=True)
    columns = [name for model in models for name in model["columns"]]
    x, target = scaled(x[columns].to_numpy()), scaled(y.to_numpy()[:, None])[:, 0]
    lasso = Lasso(alpha=0.05).fit(x, target)
    weights = np.concatenate([model["weights"] for model in models])
    assert metrics["r2"] == pytest.approx(lasso.score(x, target), rel=WITHIN)
    assert weights == pytest.approx(lasso.coef_, abs=0.005)
    assert 0 < np.sum(weights == 0) == np.sum(lasso.coef_ == 0)


@pytest.mark.full
def test_one_versus_rest(tmp_path: Path) -> None:
    guest, host, expected = digits(tmp_path)
    training = {"one_vs_rest": True, "epochs": 12, "optimiser": {"learning_rate": 0.1}}
    job = job_of(guest, host, LOGISTIC, **training)
    assert metrics_of(job, tmp_path) == pytest.approx(expected, rel=WITHIN)


def of_classes(directory: Path, load: Any, epochs: int) -> tuple[Job, Any, Any]:
    """A softmax regression of a set of scikit-learn's, half of its columns each; x and y."""
    frame, y = load(return_X_y=True, as_frame=True)
    frame.columns, half = [f"c{j}" for j in range(frame.shape[1])], frame.shape[1] // 2
    data = written(directory, frame.iloc[:, :half].assign(y=y), frame.iloc[:, half:])
    optimiser = {"learning_rate": 1.0, "momentum": 0.9}
    job = job_of(*data, SOFTMAX, epochs=epochs, optimiser=optimiser, l2=1 / len(frame))
    return job, frame.to_numpy(), y


@pytest.mark.full
@pytest.mark.parametrize(("load", "epochs"), [(load_iris, 100), (load_wine, 60)])
def test_softmax(tmp_path: Path, load: Any, epochs: int) -> None:
    """Accuracy and log loss of its twin, and of scikit-learn's model, which has converged."""
    job, x, y = of_classes(tmp_path, load, epochs)
    metrics, twin = metrics_of(job, tmp_path), twin_of(job)
    assert metrics == pytest.approx(twin.metrics, rel=1e-3)
    z = scaled(x)
    model = LogisticRegression(max_iter=5000).fit(z, y)
    assert metrics["accuracy"] == pytest.approx(model.score(z, y), rel=WITHIN)
    assert metrics["log_loss"] == pytest.approx(log_loss(y, model.predict_proba(z)), rel=WITHIN)


@pytest.mark.full
def test_poisson_regression(tmp_path: Path) -> None:
    guest, host, expected = counts(tmp_path)
    optimiser = {"learning_rate": 0.2, "momentum": 0.5}
    job = job_of(guest, host, POISSON, epochs=20, optimiser=optimiser)
    metrics, twin = metrics_of(job, tmp_path), twin_of(job)
    assert metrics["d2"] == pytest.approx(expected, rel=WITHIN)
    assert metrics == pytest.approx(twin.metrics, rel=1e-3)


@pytest.mark.full
@pytest.mark.parametrize(
    ("kind", "party"), [("logistic", "guest"), ("logistic", "host"), ("softmax", "host")]
)
def test_a_killed_run_can_only_end_one_way(tmp_path: Path, kind: str, party: str) -> None:
    """Two copies of what a kill -9 left are resumed, under new keys: the same model, bit by bit."""
    pids: dict[str, int] = {}

    def watch(event: Event) -> None:
        if event.kind == "listening":
            pids[event.party] = event.content["pid"]
        if event.kind == "round" and event.party == "guest" and event.content["done"] == 3:
            os.kill(pids[party], signal.SIGKILL)

    job = load_job(EXAMPLE) if kind == "logistic" else of_classes(tmp_path, load_iris, epochs=6)[0]
    with pytest.raises(PeerLost), new_run_directory(tmp_path / "run") as directory:
        run_trial(job, directory, watch=watch)
    shutil.copytree(tmp_path / "run.partial", tmp_path / "copy.partial")
    for name in ("run", "copy"):
        arguments = ["resume", str(tmp_path / f"{name}.partial"), "--json"]
        CliRunner().invoke(app, arguments, catch_exceptions=False)
    for name in ("guest", "host"):
        assert model_of(tmp_path / "run", name) == model_of(tmp_path / "copy", name)
