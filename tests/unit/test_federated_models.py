from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from residue_federated._jobs import EarlyStop, Job, Optimiser, Training
from residue_federated._models import Objective, Updater, batches, stops

PARTIES = {
    "guest": {"name": "guest", "data": {"sklearn": "diabetes"}},
    "hosts": [{"name": "host", "data": {"sklearn": "diabetes"}}],
    "arbiter": {"name": "arbiter"},
}


@pytest.mark.parametrize("algorithm", ["logistic_regression", "linear_regression"])
def test_objective_is_the_taylor_loss_and_its_gradient(algorithm: str) -> None:
    job = Job.model_validate({"name": "t", "algorithm": algorithm, **PARTIES})
    objective = Objective.of(job)
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
    job = Job.model_validate({"name": "t", "algorithm": "logistic_regression", **PARTIES})
    objective, u = Objective.of(job), np.array([1e-3])
    d = objective.u_factor * u + objective.y_factor
    expected = np.log1p(np.exp(-u))
    assert objective.offset + objective.square_factor * d**2 == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("rows", "size", "sizes"),
    [(10, None, [10]), (10, 4, [4, 4, 2]), (9, 4, [4, 5]), (8, 4, [4, 4]), (3, 100, [3])],
)
def test_batches_cover_every_row_once(rows: int, size: int | None, sizes: list[int]) -> None:
    training = Training(batch_size=size, shuffle_seed=3)
    for epoch in (0, 1):
        made = list(batches(training, rows, epoch))
        assert [len(batch) for batch in made] == sizes
        assert sorted(np.concatenate(made).tolist()) == list(range(rows))
    one, two = (np.concatenate(list(batches(training, 64, epoch))) for epoch in (0, 1))
    assert one.tolist() != two.tolist()


def test_adam_and_momentum() -> None:
    adam = Updater(Optimiser(name="adam", learning_rate=0.1), 3)
    np.testing.assert_allclose(adam.step(np.array([5.0, -1.0, 0.0])), [0.1, -0.1, 0], rtol=1e-3)
    sgd = Updater(Optimiser(learning_rate=0.1, momentum=0.5), 1)
    assert sgd.step(np.array([1.0])) == pytest.approx(0.1)
    assert sgd.step(np.array([1.0])) == pytest.approx(0.15)


def test_stopping() -> None:
    training = Training(epochs=4, early_stop=EarlyStop(tolerance=0.1))
    assert not stops(training, [1.0])
    assert not stops(training, [1.0, 0.8])
    assert stops(training, [1.0, 0.8, 0.75])
    assert stops(training, [4.0, 3.0, 2.0, 1.0])
