"""What vertical linear models share, encrypted or in the clear: loss, steps, batches, metrics."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from residue_federated.errors import DataError
from residue_federated.linear._config import LinearConfig, Optimiser

__all__ = ["Objective", "Updater", "batches", "label_of", "metrics", "stops"]


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
    def of(cls, config: LinearConfig) -> Objective:
        """Least squares, or the logistic loss to second order around u = 0 with y = -1 or 1.

        The latter, ``log 2 - y u / 2 + u**2 / 8``, is ``log 2 - 1/2 + 2 d**2`` with
        ``d = u / 4 - y / 2``.
        """
        if config.type == "linear_regression":
            return cls(1.0, -1.0, 0.0, 0.5)
        return cls(0.25, -0.5, math.log(2) - 0.5, 2.0)


class Updater:
    """Turns gradients into steps, element by element, so every party runs its own."""

    def __init__(self, optimiser: Optimiser, size: int) -> None:
        self._optimiser = optimiser
        self._mean = np.zeros(size)
        self._square = np.zeros(size)
        self._steps = 0

    @property
    def state(self) -> dict[str, Any]:
        """What `restore` takes."""
        return {"mean": self._mean, "square": self._square, "steps": self._steps}

    def restore(self, mean: NDArray[np.float64], square: NDArray[np.float64], steps: int) -> None:
        """Go on where another updater of the same optimiser was."""
        self._mean, self._square, self._steps = mean, square, steps

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


def batches(config: LinearConfig, rows: int, epoch: int) -> Iterator[NDArray[np.int64]]:
    """Row indices of each batch of an epoch, the same at every party.

    A last batch of one row is joined to the one before.
    """
    order = np.arange(rows, dtype=np.int64)
    if config.shuffle_seed is not None:
        order = np.random.default_rng([config.shuffle_seed, epoch]).permutation(order)
    size = config.batch_size or rows
    starts = list(range(0, rows, size))
    if len(starts) > 1 and rows - starts[-1] == 1:
        starts.pop()
    for at, end in zip(starts, [*starts[1:], rows], strict=True):
        yield order[at:end]


def label_of(config: LinearConfig, party: str, y: NDArray[np.float64]) -> NDArray[np.float64]:
    """The label as the objective takes it: -1 and 1 for a classifier.

    Raises `DataError` for labels that the model does not know.
    """
    if config.type != "logistic_regression":
        return y
    kinds = set(np.unique(y).tolist())
    if kinds not in ({0.0, 1.0}, {-1.0, 1.0}):
        raise DataError(f"{party}: labels must be two classes, coded 0 and 1 or -1 and 1")
    return np.where(y > 0, 1.0, -1.0)


def stops(config: LinearConfig, losses: list[float]) -> bool:
    """Whether training ends after the epochs whose losses these are."""
    if len(losses) >= config.epochs:
        return True
    stop = config.early_stop
    return stop is not None and len(losses) > 1 and abs(losses[-1] - losses[-2]) < stop.tolerance


def metrics(
    config: LinearConfig, y: NDArray[np.float64], u: NDArray[np.float64]
) -> dict[str, float]:
    """Quality on the training rows; y and u in the label's own units, u on the scale of links."""
    if config.type == "linear_regression":
        square = float(np.mean((y - u) ** 2))
        return {"rmse": math.sqrt(square), "r2": 1.0 - square / float(np.var(y))}
    if config.type == "poisson_regression":
        from sklearn.metrics import d2_tweedie_score, mean_poisson_deviance

        mean = np.exp(u)
        return {
            "poisson_deviance": float(mean_poisson_deviance(y, mean)),
            "d2": float(d2_tweedie_score(y, mean, power=1)),
        }
    from sklearn.metrics import roc_auc_score

    return {
        "auc": float(roc_auc_score(y, u)),
        "accuracy": float(np.mean((u > 0) == (y > 0))),
    }
