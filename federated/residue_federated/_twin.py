"""The plaintext twin: the same training on the joined data, in floating point."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from residue_federated._data import load_table
from residue_federated._jobs import Job
from residue_federated._models import Objective, Updater, batches, metrics, stops

__all__ = ["Twin", "train_in_the_clear"]


@dataclass(frozen=True)
class Twin:
    """What the same training gives without encryption."""

    losses: list[float]
    metrics: dict[str, float]


def train_in_the_clear(job: Job) -> Twin:
    """Train on all parties' data joined. For trials, where one machine may see all of it."""
    guest = load_table(job, job.guest.name)
    assert guest.y is not None
    columns = [guest.x, *(load_table(job, host.name).x for host in job.hosts)]
    if job.training.intercept:
        columns.append(np.ones((len(guest.ids), 1)))
    x = np.concatenate(columns, axis=1)
    penalised = np.ones(x.shape[1])
    if job.training.intercept:
        penalised[-1] = 0.0
    objective, updater = Objective.of(job), Updater(job.training.optimiser, x.shape[1])
    weights = np.zeros(x.shape[1])
    losses: list[float] = []
    while not losses or not stops(job.training, losses):
        total = 0.0
        for rows in batches(job.training, len(x), len(losses)):
            d = objective.u_factor * x[rows] @ weights + objective.y_factor * guest.y[rows]
            penalty = job.training.l2 * penalised * weights
            loss = objective.offset + objective.square_factor * float(np.mean(d**2))
            total += len(rows) * (loss + float(weights @ penalty) / 2)
            weights = weights - updater.step(x[rows].T @ d / len(rows) + penalty)
        losses.append(total / len(x))
    u, y = x @ weights, guest.y
    if guest.y_scaling is not None:
        u, y = guest.y_scaling.undo(u), guest.y_scaling.undo(y)
    return Twin(losses, metrics(job, y, u))
