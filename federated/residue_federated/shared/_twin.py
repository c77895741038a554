"""The plaintext twin: the same training on the joined data, in floating point."""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray

from residue_federated._context import Twin
from residue_federated._data import Table
from residue_federated._jobs import Job
from residue_federated.linear._config import Optimiser
from residue_federated.linear._models import (
    Objective,
    Penalty,
    Updater,
    batches,
    classes_of,
    label_of,
    softmax,
)
from residue_federated.linear._one_vs_rest import twin_one_vs_rest
from residue_federated.linear._twin import ended, joined
from residue_federated.shared._config import SharedConfig
from residue_federated.shared._residuals import sine_series, sines

__all__ = ["twin"]


def twin(job: Job, config: SharedConfig, tables: dict[str, Table]) -> Twin:
    """Train on both parties' tables joined."""
    if config.one_vs_rest:
        return twin_one_vs_rest(job.guest.name, tables, partial(_train, job, config))
    return _train(job, config, tables)


def _train(job: Job, config: SharedConfig, tables: dict[str, Table]) -> Twin:
    y, plain = tables[job.guest.name].y, config.plain
    assert y is not None
    label, x = label_of(plain, job.guest.name, y), joined(job, plain, tables)
    penalty = Penalty.of(plain, x.shape[1] - config.intercept)
    stack = (classes_of(job.guest.name, y),) if config.softmax else ()
    weights = np.zeros((*stack, x.shape[1]))
    updater = Updater(Optimiser.model_validate(config.optimiser.model_dump()), weights.shape)
    moves: list[float] = []
    for epoch in range(config.epochs):
        before = weights
        for rows in batches(plain, len(x), epoch):
            d = _residuals(config, x[rows] @ weights.T, label[rows])
            gradient = d.T @ x[rows] / len(rows) + penalty.gradient(weights)
            weights = updater.move(weights, gradient, penalty.thresholds(weights))
        moves.append(float(np.linalg.norm(weights - before)))
        if config.early_stop is not None and moves[-1] < config.early_stop.tolerance:
            break
    model = {"weights": weights.tolist(), "moves": moves}
    return ended(job, plain, tables, weights, [], model)


def _residuals(
    config: SharedConfig, u: NDArray[np.float64], y: NDArray[np.float64]
) -> NDArray[np.float64]:
    if config.softmax:
        return np.asarray(softmax(u) - (y[:, None] == np.arange(u.shape[1])))
    if config.type == "shared_poisson_regression":
        return np.exp(u) - y
    if config.activation == "sine":
        return np.asarray(sines(u) @ sine_series() - y / 2)
    objective = Objective.of(config.plain)
    return objective.u_factor * u + objective.y_factor * y
