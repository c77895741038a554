"""Quality against epsilon of vertical models whose labels were randomised, as Markdown.

``python -m bench.private_labels`` trains the plaintext twins of vertical models, which are the
federated models' equals, on 70% of the rows with the answers of ``randomise_labels`` as labels, and
judges by the exact labels of the others. The answers are by the operating system's randomness, so
each figure is the mean of several trainings with its standard deviation.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import r2_score, roc_auc_score
from sklearn.model_selection import train_test_split

from residue_federated import Job
from residue_federated._components import runner_of
from residue_federated._data import Table, load_table
from residue_federated.privacy._labels import noisy_numbers, randomised_response

EPSILONS = [0.5, 1.0, 2.0, 4.0]
PARTIES = ("guest", "host")

Array = NDArray[np.float64]
Tables = dict[str, Table]


@dataclass(frozen=True)
class Case:
    """A model of a set. quality: its name, and what gives it of labels and scores."""

    data: dict[str, Any]
    train: dict[str, Any]
    name: str
    quality: tuple[str, Callable[[Array, Array], float]]
    classes: int = 0
    range: tuple[float, float] = (0.0, 0.0)

    def answers(self, y: Array, epsilon: float) -> Array:
        """As ``randomise_labels`` gives them."""
        if self.classes:
            drawn = randomised_response(y.astype(np.int64), self.classes, epsilon)
            return drawn.astype(np.float64)
        return noisy_numbers(y, *self.range, epsilon, cut=False)


def accuracy(y: Array, u: Array) -> float:
    return float(np.mean(u.argmax(axis=1) == y))


def area(y: Array, u: Array) -> float:
    return float(roc_auc_score(y, u))


def r2(y: Array, u: Array) -> float:
    return float(r2_score(y, u))


BREAST, DIGITS = {"sklearn": "breast_cancer"}, {"sklearn": "digits"}
CREDIT = {"generated": "credit", "rows": 20_000, "missing": 0.0}
LOGISTIC = {"type": "logistic_regression", "epochs": 30, "optimiser": {"learning_rate": 0.3}}
LOGISTIC |= {"l2": 0.05}
TREES = {"type": "secureboost", "trees": 20, "depth": 3}
SOFTMAX = {"type": "softmax_regression", "epochs": 60, "optimiser": {"learning_rate": 1.0}}
SOFTMAX |= {"l2": 0.01}
LINEAR = {"type": "linear_regression", "epochs": 200, "optimiser": {"learning_rate": 0.1}}
CASES = [
    Case(BREAST, LOGISTIC, "breast_cancer, logistic regression", ("AUC", area), 2),
    Case(BREAST, TREES, "breast_cancer, boosted trees", ("AUC", area), 2),
    Case(CREDIT, LOGISTIC, "credit, logistic regression", ("AUC", area), 2),
    Case(CREDIT, TREES, "credit, boosted trees", ("AUC", area), 2),
    Case(DIGITS, SOFTMAX, "digits, softmax regression", ("accuracy", accuracy), 10),
    Case({"sklearn": "diabetes"}, LINEAR, "diabetes, linear regression", ("R2", r2), 0, (25, 346)),
]


def quality_of(case: Case, job: Job, train: Tables, rest: Tables, y: Array) -> float:
    """Of a model of `train` with labels `y`, on the exact labels of `rest`."""
    guest = replace(train["guest"], y=y)
    if not case.classes:  # after the answers, as in a job
        mean, deviation = y.mean(), y.std()
        guest = replace(guest, y=(y - mean) / deviation)
    component = job.components["train"]
    twin = runner_of(component).twin(job, component, train | {"guest": guest})
    u = twin.score(rest)
    if not case.classes:
        u = u * deviation + mean
    exact = rest["guest"].y
    assert exact is not None
    return case.quality[1](exact, u)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=10)
    repeats = parser.parse_args().repeats
    print("| model | | exact labels |", *(f"epsilon {e:g} |" for e in EPSILONS))
    print("|---|---|---|" + "---|" * len(EPSILONS))
    for case in CASES:
        job = Job.model_validate(
            {
                "name": "t",
                "guest": {"name": "guest", "data": case.data},
                "hosts": [{"name": "host", "data": case.data}],
                "arbiter": {"name": "arbiter"},
                "components": {"train": case.train},
            }
        )
        tables = {name: load_table(job, name).standardised(target=False) for name in PARTIES}
        rows = np.arange(len(tables["guest"].ids))
        a, b = (np.sort(part) for part in train_test_split(rows, test_size=0.3, random_state=0))
        train, rest = ({n: t.take(part) for n, t in tables.items()} for part in (a, b))
        y = train["guest"].y
        assert y is not None
        cells = [f"{quality_of(case, job, train, rest, y):.3f}"]
        for epsilon in EPSILONS:
            found = [
                quality_of(case, job, train, rest, case.answers(y, epsilon)) for _ in range(repeats)
            ]
            cells.append(f"{np.mean(found):.3f} ± {np.std(found, ddof=1):.3f}")
        print(f"| {case.name}, {len(a):,} rows | {case.quality[0]} |", " | ".join(cells), "|")


if __name__ == "__main__":
    main()
