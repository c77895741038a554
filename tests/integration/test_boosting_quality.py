"""Boosted trees against xgboost's, trained on the joined data: within one percent.

The plaintext twin stands for the federated run, whose trees are the same (`test_boosting.py`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xgboost
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits
from sklearn.metrics import accuracy_score, r2_score, roc_auc_score

from residue_federated import Job
from residue_federated._data import Table
from residue_federated._generated import credit
from residue_federated.boosting._config import SecureBoostConfig
from residue_federated.boosting._train import twin

WITHIN = 0.01
TREES, DEPTH, RATE = 10, 4, 0.3
BINS = {"multiclass": 17, "binary": 64, "squared_error": 64}  # digits have 17 values a column

Data = tuple[NDArray[np.float64], NDArray[np.float64]]


def credit_like(rows: int) -> Data:
    guest = credit(rows, 50, 0, 0.05, hosts=1, host=None)
    host = credit(rows, 50, 0, 0.05, hosts=1, host=0)
    assert guest.y is not None
    return np.concatenate([guest.x, host.x], axis=1), guest.y


def data_of(name: str) -> tuple[str, Data]:
    if name.startswith("credit"):
        return "binary", credit_like(int(name.removeprefix("credit ").replace(",", "")))
    load, objective = {
        "breast_cancer": (load_breast_cancer, "binary"),
        "digits": (load_digits, "multiclass"),
        "diabetes": (load_diabetes, "squared_error"),
    }[name]
    return objective, load(return_X_y=True)


def ours(objective: str, x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """The quality of the twin, columns shared by a guest and two hosts."""
    names = ["guest", "h0", "h1"]
    ids = [f"{i:06d}" for i in range(len(x))]
    tables = {}
    for name, columns in zip(names, np.array_split(np.arange(x.shape[1]), 3), strict=True):
        label = y.astype(np.float64) if name == "guest" else None
        tables[name] = Table(ids, [f"c{j}" for j in columns], x[:, columns], label)
    data = {"sklearn": "diabetes"}
    config = {"type": "secureboost", "objective": objective, "trees": TREES, "depth": DEPTH}
    job = Job.model_validate(
        {
            "name": "quality",
            "guest": {"name": "guest", "data": data},
            "hosts": [{"name": name, "data": data} for name in names[1:]],
            "components": {"train": config | {"bins": BINS[objective], "learning_rate": RATE}},
        }
    )
    component = job.components["train"]
    assert isinstance(component, SecureBoostConfig)
    metrics = twin(job, component, tables).metrics
    return metrics[{"binary": "auc", "multiclass": "accuracy", "squared_error": "r2"}[objective]]


def quality(objective: str, y: NDArray[np.float64], scores: NDArray[np.float64]) -> float:
    """Of xgboost's scores."""
    if objective == "binary":
        return float(roc_auc_score(y, scores))
    if objective == "multiclass":
        return float(accuracy_score(y, scores.argmax(axis=1)))
    return float(r2_score(y, scores))


DATA = [
    "breast_cancer",
    "digits",
    "diabetes",
    "credit 4,000",
    pytest.param("credit 100,000", marks=pytest.mark.full),
]


@pytest.mark.parametrize("name", DATA)
def test_as_good_as_xgboost(name: str) -> None:
    objective, (x, y) = data_of(name)
    settings: dict[str, Any] = {
        "objective": {
            "binary": "binary:logistic",
            "multiclass": "multi:softmax",
            "squared_error": "reg:squarederror",
        }[objective],
        "tree_method": "hist",
        "max_depth": DEPTH,
        "max_bin": BINS[objective],
        "eta": RATE,
        "nthread": 1,
    }
    if objective == "multiclass":
        settings["num_class"] = int(y.max()) + 1
    else:
        settings["base_score"] = float(y.mean())
    rows = xgboost.DMatrix(x, label=y)
    scores = xgboost.train(settings, rows, TREES).predict(rows, output_margin=True)
    assert ours(objective, x, y) == pytest.approx(quality(objective, y, scores), rel=WITHIN)
