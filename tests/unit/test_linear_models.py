from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from residue_federated.errors import DataError
from residue_federated.linear._config import EarlyStop, LinearConfig, Optimiser
from residue_federated.linear._models import (
    Objective,
    Updater,
    batch_count,
    batches,
    label_of,
    stops,
)


def config(algorithm: str = "logistic_regression", **fields: Any) -> LinearConfig:
    return LinearConfig.model_validate({"type": algorithm, **fields})


@pytest.mark.parametrize("algorithm", ["logistic_regression", "linear_regression"])
def test_objective_is_the_taylor_loss_and_its_gradient(algorithm: str) -> None:
    objective = Objective.of(config(algorithm))
    u, y = np.linspace(-2, 2, 9), np.array([1.0, -1.0, 1.0] * 3)

    def loss(u: NDArray[np.float64]) -> NDArray[np.float64]:
        if algorithm == "linear_regression":
            return np.asarray((u - y) ** 2 / 2)
        return np.asarray(np.log(2) - y * u / 2 + u**2 / 8)

    d = objective.u_factor * u + objective.y_factor * y
    np.testing.assert_allclose(objective.offset + objective.square_factor * d**2, loss(u))
    step = 1e-6
    np.testing.assert_allclose(d, (loss(u + step) - loss(u - step)) / (2 * step), atol=1e-8)


def test_logistic_loss_is_second_order_exact() -> None:
    objective, u = Objective.of(config()), np.array([1e-3])
    d = objective.u_factor * u + objective.y_factor
    expected = np.log1p(np.exp(-u))
    assert objective.offset + objective.square_factor * d**2 == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("rows", "size", "sizes"),
    [(10, None, [10]), (10, 4, [4, 4, 2]), (9, 4, [4, 5]), (8, 4, [4, 4]), (3, 100, [3])],
)
def test_batches_cover_every_row_once(rows: int, size: int | None, sizes: list[int]) -> None:
    training = config(batch_size=size, shuffle_seed=3)
    for epoch in (0, 1):
        made = list(batches(training, rows, epoch))
        assert [len(batch) for batch in made] == sizes
        assert sorted(np.concatenate(made).tolist()) == list(range(rows))
    assert batch_count(training, rows) == len(sizes)
    one, two = (np.concatenate(list(batches(training, 64, epoch))) for epoch in (0, 1))
    assert one.tolist() != two.tolist()


def test_adam_and_momentum() -> None:
    adam = Updater(Optimiser(name="adam", learning_rate=0.1), 3)
    moved = adam.move(np.zeros(3), np.array([5.0, -1.0, 0.0]))
    np.testing.assert_allclose(moved, [-0.1, 0.1, 0], rtol=1e-3)
    sgd = Updater(Optimiser(learning_rate=0.1, momentum=0.5), 1)
    weights = sgd.move(np.zeros(1), np.array([1.0]))
    assert weights == pytest.approx(-0.1)
    assert sgd.move(weights, np.array([1.0])) == pytest.approx(-0.25)


@pytest.mark.parametrize(
    "optimiser",
    [
        Optimiser(learning_rate=0.5),
        Optimiser(learning_rate=0.1, momentum=0.8),
        Optimiser(name="adam", learning_rate=0.01),
    ],
)
def test_every_optimiser_ends_where_the_penalised_loss_is_least(optimiser: Optimiser) -> None:
    """Of ``sum((w - c)**2) / 2 + l1 @ |w|``: c, nearer to zero by l1, or zero exactly."""
    centre, l1 = np.array([2.0, -0.5, 0.2, -0.1, 0.05]), np.array([0.3, 0.3, 0.3, 0.3, 0.0])
    updater, weights = Updater(optimiser, 5), np.zeros(5)
    for _ in range(1500):
        weights = updater.move(weights, weights - centre, l1)
    np.testing.assert_allclose(weights, [1.7, -0.2, 0, 0, 0.05], atol=5e-3)
    assert weights[2:4].tolist() == [0.0, 0.0]


def test_stopping() -> None:
    training = config(epochs=4, early_stop=EarlyStop(tolerance=0.1))
    assert not stops(training, [1.0])
    assert not stops(training, [1.0, 0.8])
    assert stops(training, [1.0, 0.8, 0.75])
    assert stops(training, [4.0, 3.0, 2.0, 1.0])


def test_an_updater_goes_on_where_another_was() -> None:
    optimiser = Optimiser(name="adam", learning_rate=0.1)
    whole, first, second = (Updater(optimiser, 2) for _ in range(3))
    steps = [np.array([1.0, -2.0]), np.array([0.5, 3.0]), np.array([-1.0, 0.1])]
    weights = np.zeros(2)
    expected = [weights := whole.move(weights, g) for g in steps]
    middle = first.move(np.zeros(2), steps[0])
    second.restore(**first.state)
    assert [(middle := second.move(middle, g)).tobytes() for g in steps[1:]] == [
        e.tobytes() for e in expected[1:]
    ]


def test_labels_of_a_classifier() -> None:
    assert label_of(config(), "guest", np.array([0.0, 1.0])).tolist() == [-1, 1]
    with pytest.raises(DataError, match="guest: labels must be two classes"):
        label_of(config(), "guest", np.array([0.0, 1.0, 2.0]))


@pytest.mark.parametrize(
    "algorithm",
    ["logistic_regression", "linear_regression", "poisson_regression", "softmax_regression"],
)
def test_a_constant_label_is_refused(algorithm: str) -> None:
    config = LinearConfig.model_validate({"type": algorithm})
    with pytest.raises(DataError, match="the label is the same in every row"):
        label_of(config, "guest", np.full(5, 1.0))
