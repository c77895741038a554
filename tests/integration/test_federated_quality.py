"""Federated models against scikit-learn's, trained on the joined data: within one percent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression, PoissonRegressor
from sklearn.metrics import d2_tweedie_score, r2_score, roc_auc_score
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from residue_federated import Job, load_job
from residue_federated._generated import credit
from residue_federated.linear._models import metrics_of_classes
from tests.integration.parties import run_all

KEY = {"bits": 1024, "insecure_allow_1024": True}
WITHIN = 0.01
EXAMPLES = Path(__file__).parents[2] / "examples"


def job_of(guest: Any, host: Any, algorithm: str, **training: Any) -> Job:
    """Without an arbiter where the algorithm is one of two parties."""
    arbiter = None if algorithm.startswith("shared_") else {"name": "arbiter"}
    target = algorithm.endswith("linear_regression")
    return Job.model_validate(
        {
            "name": "quality",
            "guest": {"name": "guest", "data": guest},
            "hosts": [{"name": "host", "data": host}],
            "arbiter": arbiter,
            "key": KEY,
            "components": {
                "scale": {"type": "standardise", "target": target},
                "train": {"type": algorithm, **training},
            },
        }
    )


def metrics_of(job: Job, directory: Path) -> dict[str, float]:
    run = run_all(job, directory)
    assert run.errors == {}
    return run.reports["guest"].component("train").metrics


def scaled(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(StandardScaler().fit_transform(x))


def test_logistic_regression(tmp_path: Path) -> None:
    data = {"sklearn": "breast_cancer"}
    adam = {"name": "adam", "learning_rate": 0.1}
    job = job_of(data, data, "logistic_regression", epochs=25, optimiser=adam)
    x, y = load_breast_cancer(return_X_y=True)
    model = LogisticRegression(max_iter=1000).fit(scaled(x), y)
    expected = roc_auc_score(y, model.decision_function(scaled(x)))
    assert metrics_of(job, tmp_path)["auc"] == pytest.approx(expected, rel=WITHIN)


@pytest.mark.parametrize(
    ("rows", "epochs"), [(2_000, 10), pytest.param(100_000, 5, marks=pytest.mark.full)]
)
def test_logistic_regression_of_credit_with_missing_values(
    tmp_path: Path, rows: int, epochs: int
) -> None:
    example = load_job(EXAMPLES / "credit_lr.yaml").model_dump()
    for party in (example["guest"], *example["hosts"]):
        party["data"]["rows"] = rows
    momentum = {"name": "sgd", "learning_rate": 0.3, "momentum": 0.9}
    changes = {"epochs": epochs, "batch_size": rows // 10, "optimiser": momentum}
    example["components"]["train"].update(changes)
    job = Job.model_validate(example)
    parts = [credit(rows, 50, 0, 0.02, hosts=1, host=host) for host in (None, 0)]
    x, y = np.hstack([part.x for part in parts]), parts[0].y
    model = make_pipeline(StandardScaler(), SimpleImputer(), LogisticRegression(max_iter=1000))
    expected = roc_auc_score(y, model.fit(x, y).decision_function(x))
    assert metrics_of(job, tmp_path)["auc"] == pytest.approx(expected, rel=WITHIN)


def r2_of_diabetes() -> float:
    """That of scikit-learn's model."""
    x, y = load_diabetes(return_X_y=True)
    return float(r2_score(y, LinearRegression().fit(x, y).predict(x)))


@pytest.mark.full
def test_linear_regression(tmp_path: Path) -> None:
    data = {"sklearn": "diabetes"}
    adam = {"name": "adam", "learning_rate": 0.1}
    job = job_of(data, data, "linear_regression", epochs=60, optimiser=adam)
    assert metrics_of(job, tmp_path)["r2"] == pytest.approx(r2_of_diabetes(), rel=WITHIN)


def counts(directory: Path) -> tuple[dict[str, Any], dict[str, Any], float]:
    """Data of guest and host, and the d2 of scikit-learn's model."""
    rng = np.random.default_rng(11)
    x = rng.normal(size=(400, 6))
    y = rng.poisson(np.exp(x @ np.array([0.3, -0.2, 0.1, 0.4, -0.3, 0.2]) + 0.5))
    frame = pd.DataFrame(x, columns=list("abcdef")).assign(y=y)
    model = PoissonRegressor(alpha=0.0, max_iter=1000).fit(scaled(x), y)
    data = written(directory, frame[["e", "f", "y"]], frame[["a", "b", "c", "d"]])
    return *data, float(d2_tweedie_score(y, model.predict(scaled(x)), power=1))


def written(
    directory: Path, guest: pd.DataFrame, host: pd.DataFrame
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Data of guest and host, in files; the label is y."""
    ids = [f"r{i:03d}" for i in range(len(guest))]
    for name, frame in (("guest", guest), ("host", host)):
        frame.assign(id=ids).to_csv(directory / f"{name}.csv", index=False)
    return {"file": directory / "guest.csv", "label": "y"}, {"file": directory / "host.csv"}


def test_poisson_regression(tmp_path: Path) -> None:
    guest, host, expected = counts(tmp_path)
    optimiser = {"learning_rate": 0.2}
    job = job_of(guest, host, "poisson_regression", epochs=30, optimiser=optimiser)
    assert metrics_of(job, tmp_path)["d2"] == pytest.approx(expected, rel=WITHIN)


def digits(directory: Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, float]]:
    """Data of guest and host, four classes; the metrics of scikit-learn's one-vs-rest."""
    x, y = load_digits(n_class=4, return_X_y=True)
    x, y = x[:150], y[:150]
    frame = pd.DataFrame(x, columns=[f"p{j}" for j in range(64)]).assign(y=y)
    model = OneVsRestClassifier(LogisticRegression(max_iter=1000)).fit(scaled(x), y)
    data = written(directory, frame[frame.columns[32:]], frame[frame.columns[:32]])
    return *data, metrics_of_classes(y.astype(float), model.decision_function(scaled(x)))


@pytest.mark.full
def test_one_versus_rest(tmp_path: Path) -> None:
    """Four classes: accuracy and AUC of scikit-learn's one-vs-rest on the same rows."""
    guest, host, expected = digits(tmp_path)
    adam = {"name": "adam", "learning_rate": 0.05}
    training = {"one_vs_rest": True, "epochs": 12, "optimiser": adam}
    job = job_of(guest, host, "logistic_regression", **training)
    assert metrics_of(job, tmp_path) == pytest.approx(expected, rel=WITHIN)
