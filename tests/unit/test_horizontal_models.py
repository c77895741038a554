from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from residue_federated.errors import DataError
from residue_federated.horizontal._config import HorizontalLogisticConfig, HorizontalMlpConfig
from residue_federated.horizontal._models import (
    Network,
    batches,
    class_labels,
    descend,
    probabilities,
)


def logistic(**changes: Any) -> HorizontalLogisticConfig:
    return HorizontalLogisticConfig.model_validate(
        {"type": "horizontal_logistic_regression", **changes}
    )


def mlp(**changes: Any) -> HorizontalMlpConfig:
    return HorizontalMlpConfig.model_validate({"type": "horizontal_mlp", **changes})


def rows(
    classes: int, count: int = 40, columns: int = 5
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    rng = np.random.default_rng(3)
    return rng.normal(size=(count, columns)), rng.integers(0, classes, count)


@pytest.mark.parametrize("l2", [0.0, 0.3])
@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("hidden", [(), (6,), (6, 3)])
def test_gradient_is_the_slope_of_the_loss(
    hidden: tuple[int, ...], classes: int, l2: float
) -> None:
    network = Network((5, *hidden, 1 if classes == 2 else classes))
    x, y = rows(classes)
    at = np.random.default_rng(1).normal(scale=0.5, size=network.count)
    step = 1e-6
    slopes = [
        (
            network.evaluate(at + step * unit, x, y, l2)[0]
            - network.evaluate(at - step * unit, x, y, l2)[0]
        )
        / (2 * step)
        for unit in np.eye(network.count)
    ]
    np.testing.assert_allclose(network.gradient(at, x, y, l2), slopes, atol=1e-7)


@pytest.mark.parametrize("classes", [2, 4])
def test_probabilities_give_loss_and_choice(classes: int) -> None:
    network = Network.of(mlp(classes=classes, hidden=[7]), columns=5)
    x, y = rows(classes)
    at = network.initial(seed=5)
    p = probabilities(network.scores(at, x))
    assert p.shape == (len(x), classes)
    np.testing.assert_allclose(p.sum(axis=1), 1.0)
    loss, right = network.evaluate(at, x, y, 0.0)
    assert loss == pytest.approx(-np.mean(np.log(p[np.arange(len(y)), y])))
    assert right == np.count_nonzero(p.argmax(axis=1) == y)


def test_extreme_logits_stay_finite() -> None:
    for outputs in (1, 3):
        network = Network((1, outputs))
        at = np.full(network.count, 1e4)
        x, y = np.array([[1.0], [-1.0]]), np.array([0, 0])
        assert np.isfinite(network.evaluate(at, x, y, 0.0)[0])
        assert np.all(np.isfinite(network.gradient(at, x, y, 0.0)))
        assert np.all(np.isfinite(probabilities(network.scores(at, x))))


def test_first_parameters_follow_the_seed() -> None:
    network = Network((30, 50, 4))
    one, again, other = network.initial(1), network.initial(1), network.initial(2)
    assert one.tobytes() == again.tobytes() != other.tobytes()
    assert np.std(one[: 30 * 50]) == pytest.approx(np.sqrt(2 / 30), rel=0.1)
    assert not np.any(Network((30, 4)).initial(1))


def test_average_of_full_batch_steps_is_the_step_on_all_rows() -> None:
    config = mlp(classes=3, hidden=[4], l2=0.1)
    network = Network.of(config, columns=5)
    x, y = rows(3)
    start, order = network.initial(0), np.random.default_rng(0)
    parts = [slice(0, 7), slice(7, 20), slice(20, 40)]
    steps = [descend(network, start, x[part], y[part], config, order) for part in parts]
    average = sum(len(x[part]) / len(x) * step for part, step in zip(parts, steps, strict=True))
    np.testing.assert_allclose(average, descend(network, start, x, y, config, order), atol=1e-14)


def test_passes_and_batches() -> None:
    order = np.random.default_rng(0)
    sizes = [len(batch) for batch in batches(10, 4, order)]
    assert sizes == [4, 4, 2]
    seen = np.concatenate(list(batches(10, 4, order)))
    assert sorted(seen.tolist()) == list(range(10)) != seen.tolist()
    assert [batch.tolist() for batch in batches(3, None, order)] == [[0, 1, 2]]
    x, y = rows(2)
    once, twice = logistic(batch_size=8), logistic(batch_size=8, local_epochs=2)
    network = Network.of(once, columns=5)
    start = network.initial(0)
    order = np.random.default_rng(9)
    step = descend(network, start, x, y, once, order)
    step = descend(network, step, x, y, once, order)
    assert np.array_equal(step, descend(network, start, x, y, twice, np.random.default_rng(9)))


@pytest.mark.parametrize(
    ("labels", "classes", "expected"),
    [([0, 1, 1], 2, [0, 1, 1]), ([-1, 1, 1], 2, [0, 1, 1]), ([0, 2, 1], 3, [0, 2, 1])],
)
def test_labels(labels: list[float], classes: int, expected: list[int]) -> None:
    assert class_labels("host", np.array(labels, dtype=float), classes).tolist() == expected


@pytest.mark.parametrize(
    ("labels", "classes"), [([0, 2], 2), ([-1, 0, 1], 2), ([0.5, 1], 2), ([3, 0], 3), ([-1, 0], 3)]
)
def test_labels_outside_the_classes_are_refused(labels: list[float], classes: int) -> None:
    with pytest.raises(DataError, match=r"host: 1 label\(s\) are none of the classes"):
        class_labels("host", np.array(labels, dtype=float), classes)


def test_labels_are_needed() -> None:
    with pytest.raises(DataError, match="needs a label at every party"):
        class_labels("host", None, 2)
