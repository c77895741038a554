"""What vertical linear models share, encrypted or in the clear: loss, steps, batches, metrics."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from residue_federated._jobs import Job, Optimiser, Training

__all__ = ["Objective", "Updater", "batches", "metrics", "stops"]


@dataclass(frozen=True)
class Objective:
    """A loss that is quadratic in the linear predictor u and the label y.

    The residual ``d = u_factor * u + y_factor * y`` of a row is at once the gradient of its loss
    with respect to u, and gives the loss itself: ``offset + square_factor * d**2``.
    """

    u_factor: float
    y_factor: float
    offset: float
    square_factor: float

    @classmethod
    def of(cls, job: Job) -> Objective:
        """Least squares, or the logistic loss to second order around u = 0 with y = -1 or 1.

        The latter, ``log 2 - y u / 2 + u**2 / 8``, is ``log 2 - 1/2 + 2 d**2`` with
        ``d = u / 4 - y / 2``.
        """
        if job.algorithm == "linear_regression":
            return cls(1.0, -1.0, 0.0, 0.5)
        return cls(0.25, -0.5, math.log(2) - 0.5, 2.0)


class Updater:
    """Turns gradients into steps, element by element, so every party runs its own."""

    def __init__(self, optimiser: Optimiser, size: int) -> None:
        self._optimiser = optimiser
        self._mean = np.zeros(size)
        self._square = np.zeros(size)
        self._steps = 0

    def step(self, gradient: NDArray[np.float64]) -> NDArray[np.float64]:
        """What to subtract from the weights."""
        rate = self._optimiser.learning_rate
        self._steps += 1
        if self._optimiser.name == "adam":
            self._mean = 0.9 * self._mean + 0.1 * gradient
            self._square = 0.999 * self._square + 0.001 * gradient**2
            mean = self._mean / (1 - 0.9**self._steps)
            square = self._square / (1 - 0.999**self._steps)
            return np.asarray(rate * mean / (np.sqrt(square) + 1e-8))
        self._mean = self._optimiser.momentum * self._mean + gradient
        return np.asarray(rate * self._mean)


def batches(training: Training, rows: int, epoch: int) -> Iterator[NDArray[np.int64]]:
    """Row indices of each batch of an epoch, the same at every party.

    A last batch of one row is joined to the one before.
    """
    order = np.arange(rows, dtype=np.int64)
    if training.shuffle_seed is not None:
        order = np.random.default_rng([training.shuffle_seed, epoch]).permutation(order)
    size = training.batch_size or rows
    starts = list(range(0, rows, size))
    if len(starts) > 1 and rows - starts[-1] == 1:
        starts.pop()
    for at, end in zip(starts, [*starts[1:], rows], strict=True):
        yield order[at:end]


def stops(training: Training, losses: list[float]) -> bool:
    """Whether training ends after the epochs whose losses these are."""
    if len(losses) >= training.epochs:
        return True
    stop = training.early_stop
    return stop is not None and len(losses) > 1 and abs(losses[-1] - losses[-2]) < stop.tolerance


def metrics(job: Job, y: NDArray[np.float64], u: NDArray[np.float64]) -> dict[str, float]:
    """Quality on the training rows; y and u in the label's own units."""
    if job.algorithm == "linear_regression":
        square = float(np.mean((y - u) ** 2))
        return {"rmse": math.sqrt(square), "r2": 1.0 - square / float(np.var(y))}
    from sklearn.metrics import roc_auc_score

    return {
        "auc": float(roc_auc_score(y, u)),
        "accuracy": float(np.mean((u > 0) == (y > 0))),
    }
