"""The plaintext twin: the same training on the joined data, in floating point."""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray

from residue_federated._context import Model, Twin
from residue_federated._data import Table
from residue_federated._jobs import Job
from residue_federated.linear._config import LinearConfig
from residue_federated.linear._models import (
    Objective,
    Penalty,
    Updater,
    batches,
    classes_of,
    label_of,
    metrics,
    softmax,
    stops,
)
from residue_federated.linear._one_vs_rest import twin_one_vs_rest

__all__ = ["ended", "joined", "twin"]


def twin(job: Job, config: LinearConfig, tables: dict[str, Table]) -> Twin:
    """Train on all parties' tables joined."""
    if config.one_vs_rest:
        return twin_one_vs_rest(job.guest.name, tables, partial(_train, job, config))
    return _train(job, config, tables)


def _train(job: Job, config: LinearConfig, tables: dict[str, Table]) -> Twin:
    guest = tables[job.guest.name]
    assert guest.y is not None
    label = label_of(config, job.guest.name, guest.y)
    x = joined(job, config, tables)
    penalty = Penalty.of(config, x.shape[1] - config.intercept)
    shape: tuple[int, ...] = (x.shape[1],)
    if config.type == "softmax_regression":
        shape = (classes_of(job.guest.name, label), *shape)
    updater, weights = Updater(config.optimiser, shape), np.zeros(shape)
    losses: list[float] = []
    while not losses or not stops(config, losses):
        total = 0.0
        for rows in batches(config, len(x), len(losses)):
            d, loss = _residuals(config, x[rows] @ weights.T, label[rows])
            total += len(rows) * (loss + penalty.value(weights))
            gradient = d.T @ x[rows] / len(rows) + penalty.gradient(weights)
            weights = updater.move(weights, gradient, penalty.thresholds(weights))
        losses.append(total / len(x))
    return ended(job, config, tables, weights, losses)


def ended(
    job: Job,
    config: LinearConfig,
    tables: dict[str, Table],
    weights: NDArray[np.float64],
    losses: list[float],
    model: Model | None = None,
) -> Twin:
    """What training on tables gives that ends with the weights of the columns of `joined`."""
    guest = tables[job.guest.name]
    assert guest.y is not None
    scaling, y = guest.y_scaling, guest.y

    def score(other: dict[str, Table]) -> NDArray[np.float64]:
        u = np.asarray(joined(job, config, other) @ weights.T)
        return u if scaling is None else scaling.undo(u)

    if scaling is not None:
        y = scaling.undo(y)
    return Twin(losses, metrics(config, y, score(tables)), model, score)


def joined(job: Job, config: LinearConfig, tables: dict[str, Table]) -> NDArray[np.float64]:
    """All parties' columns, the guest's first, and one of ones for an intercept."""
    columns = [tables[party.name].x for party in (job.guest, *job.hosts)]
    if config.intercept:
        columns.append(np.ones((len(columns[0]), 1)))
    return np.concatenate(columns, axis=1)


def _residuals(
    config: LinearConfig, u: NDArray[np.float64], y: NDArray[np.float64]
) -> tuple[NDArray[np.float64], float]:
    """Residuals, of the shape of u, and the mean loss."""
    if config.type == "softmax_regression":
        p, at = softmax(u), (np.arange(len(y)), y.astype(np.int64))
        loss = -float(np.mean(np.log(p[at])))
        p[at] -= 1.0
        return p, loss
    if config.type == "poisson_regression":
        mean = np.exp(u)
        return mean - y, float(np.mean(mean - y * u))
    objective = Objective.of(config)
    d = objective.u_factor * u + objective.y_factor * y
    return d, objective.offset + objective.square_factor * float(np.mean(d**2))
