"""The plaintext twin: the same training on the joined data, in floating point."""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray

from residue_federated._context import Twin
from residue_federated._data import Table
from residue_federated._jobs import Job
from residue_federated.linear._config import LinearConfig
from residue_federated.linear._models import Objective, Updater, batches, label_of, metrics, stops
from residue_federated.linear._one_vs_rest import twin_one_vs_rest

__all__ = ["twin"]


def twin(job: Job, config: LinearConfig, tables: dict[str, Table]) -> Twin:
    """Train on all parties' tables joined."""
    if config.one_vs_rest:
        return twin_one_vs_rest(job.guest.name, tables, partial(_train, job, config))
    return _train(job, config, tables)[0]


def _train(
    job: Job, config: LinearConfig, tables: dict[str, Table]
) -> tuple[Twin, NDArray[np.float64]]:
    """The twin and its scores."""
    guest = tables[job.guest.name]
    assert guest.y is not None
    label = label_of(config, job.guest.name, guest.y)
    columns = [guest.x, *(tables[host.name].x for host in job.hosts)]
    if config.intercept:
        columns.append(np.ones((len(guest.ids), 1)))
    x = np.concatenate(columns, axis=1)
    penalised = np.ones(x.shape[1])
    if config.intercept:
        penalised[-1] = 0.0
    updater = Updater(config.optimiser, x.shape[1])
    weights = np.zeros(x.shape[1])
    losses: list[float] = []
    while not losses or not stops(config, losses):
        total = 0.0
        for rows in batches(config, len(x), len(losses)):
            d, loss = _residuals(config, x[rows] @ weights, label[rows])
            penalty = config.l2 * penalised * weights
            total += len(rows) * (loss + float(weights @ penalty) / 2)
            weights = weights - updater.step(x[rows].T @ d / len(rows) + penalty)
        losses.append(total / len(x))
    u, y = x @ weights, guest.y
    if guest.y_scaling is not None:
        u, y = guest.y_scaling.undo(u), guest.y_scaling.undo(y)
    return Twin(losses, metrics(config, y, u)), u


def _residuals(
    config: LinearConfig, u: NDArray[np.float64], y: NDArray[np.float64]
) -> tuple[NDArray[np.float64], float]:
    """Residuals ``(rows,)`` and the mean loss."""
    if config.type == "poisson_regression":
        mean = np.exp(u)
        return mean - y, float(np.mean(mean - y * u))
    objective = Objective.of(config)
    d = objective.u_factor * u + objective.y_factor * y
    return d, objective.offset + objective.square_factor * float(np.mean(d**2))
