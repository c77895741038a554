"""Folds, and the plaintext twin of cross-validation against scikit-learn's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_diabetes, load_iris
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.model_selection import PredefinedSplit, cross_val_score

from residue_federated import Job
from residue_federated._components import runner_of
from residue_federated._context import Twin
from residue_federated._data import Table
from residue_federated.audit import Scene
from residue_federated.audit._code import code_of
from residue_federated.errors import DataError, JobError
from residue_federated.validation._config import CrossValidateConfig
from residue_federated.validation._cross import _apart
from residue_federated.validation._flow import flow
from residue_federated.validation._folds import drawn_folds, fold_sizes

LOGISTIC = {"type": "logistic_regression"}


def config(**changes: Any) -> CrossValidateConfig:
    return CrossValidateConfig.model_validate(
        {"type": "cross_validate", "trainer": LOGISTIC, "folds": 4} | changes
    )


def table(labels: list[int]) -> Table:
    rows = len(labels)
    x = np.arange(2.0 * rows).reshape(rows, 2)
    return Table([f"{i:03d}" for i in range(rows)], ["a", "b"], x, np.array(labels, np.float64))


def test_folds_are_stratified_and_of_even_size() -> None:
    made = table([0] * 21 + [1] * 9 + [2] * 5)
    folds = drawn_folds(config(), "guest", made)
    assert np.bincount(folds).tolist() == fold_sizes(35, 4).tolist() == [9, 9, 9, 8]
    for label, least in ((0, 5), (1, 2), (2, 1)):
        counts = np.bincount(folds[made.y == label], minlength=4)
        assert counts.min() == least
        assert counts.max() == least + 1
    assert np.array_equal(folds, drawn_folds(config(), "guest", made))
    assert not np.array_equal(folds, drawn_folds(config(seed=1), "guest", made))


def test_folds_of_a_number_take_no_notice_of_it() -> None:
    made = table(list(range(300)))
    regression = config(trainer={"type": "linear_regression"})
    assert not regression.stratified
    assert np.bincount(drawn_folds(regression, "guest", made)).tolist() == [75] * 4
    forest = {"type": "secureboost", "objective": "squared_error"}
    assert not config(trainer=forest).stratified
    assert config(trainer=forest, stratify=True).stratified


def test_rows_held_out_and_those_that_are_not() -> None:
    kept, out = _apart(table([0, 1, 0, 1]), np.array([False, True, True, False]))
    assert (kept.ids, kept.x.tolist()) == (["000", "003"], [[0.0, 1.0], [6.0, 7.0]])
    assert out.ids == ["001", "002"]
    assert kept.y is not None
    assert kept.y.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("labels", "stratify", "text"),
    [
        ([0] * 20 + [1] * 3, True, "guest: 3 rows of a class are too few for 4 folds"),
        ([0, 1, 0, 1, 0], False, "guest: 5 rows are too few for 4 folds"),
    ],
)
def test_too_few_rows(labels: list[int], stratify: bool, text: str) -> None:
    with pytest.raises(DataError, match=text):
        drawn_folds(config(stratify=stratify), "guest", table(labels))


def job(trainer: dict[str, Any], **changes: Any) -> Job:
    file = {"file": "a.csv"}
    return Job.model_validate(
        {
            "name": "t",
            "guest": {"name": "guest", "data": file | {"label": "y"}},
            "hosts": [{"name": "host", "data": file}],
            "arbiter": {"name": "arbiter"},
            "components": {"cv": {"type": "cross_validate", "folds": 4, "trainer": trainer}},
        }
        | changes
    )


def cross_validated(x: Any, y: Any, trainer: dict[str, Any]) -> tuple[Twin, Any]:
    """The twin on standardised columns, and the folds that it had."""
    made = job(trainer)
    component = made.components["cv"]
    ids = [f"{i:04d}" for i in range(len(x))]
    target = trainer["type"] == "linear_regression"
    tables = {
        "guest": Table(ids, ["a", "b"], x[:, :2], y).standardised(target=target),
        "host": Table(ids, [f"c{j}" for j in range(x.shape[1] - 2)], x[:, 2:]),
    }
    tables["host"] = tables["host"].standardised(target=False)
    folds = drawn_folds(component, "guest", tables["guest"])  # type: ignore[arg-type]
    return runner_of(component).twin(made, component, tables), folds


def test_a_regression_is_judged_as_by_scikit_learn() -> None:
    x, y = load_diabetes(return_X_y=True)
    optimiser = {"learning_rate": 0.2, "momentum": 0.95}
    trainer = {"type": "linear_regression", "epochs": 1000, "optimiser": optimiser}
    found, folds = cross_validated(x, y, trainer)
    expected = cross_val_score(LinearRegression(), x, y, cv=PredefinedSplit(folds), scoring="r2")
    assert found.metrics["r2"] == pytest.approx(expected.mean(), rel=0.01)
    assert found.metrics["r2_std"] == pytest.approx(expected.std(), rel=0.01)


def test_a_classifier_is_judged_as_by_scikit_learn() -> None:
    x, y = load_iris(return_X_y=True)
    optimiser = {"learning_rate": 1.0, "momentum": 0.9}
    l2 = 1 / 112.5  # of the mean over a fold's rows, where scikit-learn has the sum
    trainer = {"type": "softmax_regression", "epochs": 200, "optimiser": optimiser, "l2": l2}
    found, folds = cross_validated(x, y, trainer)
    z = (x - x.mean(axis=0)) / x.std(axis=0)
    for name, scoring in (("log_loss", "neg_log_loss"), ("accuracy", "accuracy")):
        model = LogisticRegression(C=1.0, max_iter=2000)
        expected = cross_val_score(model, z, y, cv=PredefinedSplit(folds), scoring=scoring)
        assert found.metrics[name] == pytest.approx(abs(expected.mean()), rel=0.01)


def test_it_needs_what_its_trainer_needs() -> None:
    with pytest.raises(ValueError, match="cross_validate needs an arbiter"):
        job(LOGISTIC, arbiter=None)
    assert job({"type": "secureboost"}, arbiter=None).takes_missing_values
    assert not job(LOGISTIC).takes_missing_values
    with pytest.raises(ValueError, match="set input there"):
        job(LOGISTIC | {"input": "scale"})
    shorter = job(LOGISTIC).replace(rounds=2).components["cv"]
    assert shorter.most_rounds == 8
    with pytest.raises(JobError, match=r"trainer\.logistic_regression\.epochs"):
        job(LOGISTIC).replace(rounds=0)


def test_the_protocol_of_each_fold_is_the_trainers() -> None:
    declared = flow(config(folds=3), Scene(["host"], 10))
    assert sorted(declared.parts) == sorted(
        f"{p}-{k}" for p in ("fold", "held-out") for k in range(3)
    )
    assert declared.part("fold-1") is declared.parts["fold-1"]
    assert declared.part("fold-3") is None
    trained, applied = declared.parts["fold-0"], declared.parts["held-out-0"]
    assert (trained.agrees, applied.agrees) == (True, False)


def test_the_code_that_parties_agree_on_is_the_trainers_too(tmp_path: Path) -> None:
    for package in ("validation", "linear"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "_train.py").write_text("")
    before = code_of(job(LOGISTIC), tmp_path)
    (tmp_path / "linear" / "_train.py").write_text("other")
    after = code_of(job(LOGISTIC), tmp_path)
    assert after["engine"] == before["engine"]
    assert after["cv"] != before["cv"]
