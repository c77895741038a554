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

__all__ = [
    "MOST_CLASSES",
    "Objective",
    "Penalty",
    "Updater",
    "batch_count",
    "batches",
    "classes_of",
    "label_of",
    "metrics",
    "metrics_of_classes",
    "softmax",
    "stops",
]

MOST_CLASSES = 1000
"""Labels with more kinds than this are numbers, not classes."""


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


@dataclass(frozen=True)
class Penalty:
    """Of weights ``(..., count + 1)`` or ``(..., count)``: the last is an intercept, which is free.

    Its smooth part, ``l2 / 2 * sum of w**2``, has a gradient; ``l1 * sum of |w|`` is for
    `Updater.move`.
    """

    l1: float
    l2: float
    count: int

    @classmethod
    def of(cls, config: LinearConfig, count: int) -> Penalty:
        """The penalty on the weights of `count` columns."""
        return cls(config.l1, config.l2, count)

    def value(self, weights: NDArray[np.float64]) -> float:
        """What it adds to the mean loss of a row."""
        w = weights[..., : self.count]
        return self.l2 / 2 * float(np.sum(w**2)) + self.l1 * float(np.sum(np.abs(w)))

    def gradient(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Of the smooth part, of the weights' shape."""
        return np.asarray(self.l2 * weights * self._penalised(weights), dtype=np.float64)

    def thresholds(self, weights: NDArray[np.float64]) -> NDArray[np.float64] | None:
        """L1 of each weight, None if there is none."""
        return self.l1 * self._penalised(weights) if self.l1 else None

    def _penalised(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(np.arange(weights.shape[-1]) < self.count, dtype=np.float64)


class Updater:
    """Turns gradients into new weights, element by element, so every party runs its own.

    With an L1 penalty each gradient step is followed by the penalty's proximal step, a soft
    threshold, which makes weights exactly zero (ISTA, Beck and Teboulle, 2009, section 1.4). Its
    size is that of the step: ``rate * l1`` with sgd. With momentum the inertia is that of the
    weights as they moved, thresholds included (iPiano, Ochs et al., 2014, algorithm 1). With adam
    it is ``rate * l1 / (sqrt(square) + 1e-8)``, the proximal step in the metric of its own step
    (ProxGen, Yun et al., 2021, section 3). So all of them stop where the penalised loss is least.
    """

    def __init__(self, optimiser: Optimiser, shape: int | tuple[int, ...]) -> None:
        self._optimiser = optimiser
        self._mean = np.zeros(shape)
        self._square = np.zeros(shape)
        self._steps = 0

    @property
    def state(self) -> dict[str, Any]:
        """What `restore` takes."""
        return {"mean": self._mean, "square": self._square, "steps": self._steps}

    def restore(self, mean: NDArray[np.float64], square: NDArray[np.float64], steps: int) -> None:
        """Go on where another updater of the same optimiser was."""
        self._mean, self._square, self._steps = mean, square, steps

    def move(
        self,
        weights: NDArray[np.float64],
        gradient: NDArray[np.float64],
        l1: NDArray[np.float64] | None = None,
    ) -> NDArray[np.float64]:
        """New weights. l1: penalty of each one's magnitude, None for none at all."""
        rate = self._optimiser.learning_rate
        self._steps += 1
        adam = self._optimiser.name == "adam"
        rates: float | NDArray[np.float64] = rate
        if adam:
            self._mean = 0.9 * self._mean + 0.1 * gradient
            self._square = 0.999 * self._square + 0.001 * gradient**2
            mean = self._mean / (1 - 0.9**self._steps)
            scale = np.sqrt(self._square / (1 - 0.999**self._steps)) + 1e-8
            moved = np.asarray(weights - rate * mean / scale)
            rates = rate / scale
        else:
            self._mean = self._optimiser.momentum * self._mean + gradient
            moved = np.asarray(weights - rate * self._mean)
        if l1 is None:
            return moved
        least = rates * l1
        moved = np.where(np.abs(moved) > least, moved - np.sign(moved) * least, 0.0)
        if not adam:
            self._mean = (weights - moved) / rate
        return moved


def batches(config: LinearConfig, rows: int, epoch: int) -> Iterator[NDArray[np.int64]]:
    """Row indices of each batch of an epoch, the same at every party.

    A last batch of one row is joined to the one before.
    """
    order = np.arange(rows, dtype=np.int64)
    if config.shuffle_seed is not None:
        order = np.random.default_rng([config.shuffle_seed, epoch]).permutation(order)
    size, count = config.batch_size or rows, batch_count(config, rows)
    for number in range(count):
        yield order[number * size : None if number + 1 == count else (number + 1) * size]


def batch_count(config: LinearConfig, rows: int) -> int:
    """How many batches `batches` makes of so many rows."""
    size = config.batch_size or max(rows, 1)
    count = -(-rows // size)
    return count - 1 if count > 1 and rows - (count - 1) * size == 1 else count


def label_of(config: LinearConfig, party: str, y: NDArray[np.float64]) -> NDArray[np.float64]:
    """The label as the objective takes it: -1 and 1 for a classifier of two classes.

    Raises `DataError` for labels that the model does not know, or that are all the same.
    """
    if np.ptp(y) == 0:
        raise DataError(f"{party}: the label is the same in every row: there is nothing to learn")
    if config.type == "softmax_regression":
        classes_of(party, y)
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
    if config.type == "softmax_regression":
        from sklearn.metrics import log_loss

        p = softmax(u)  # the scores of different rows are not comparable
        loss = float(log_loss(y, p, labels=np.arange(u.shape[1])))
        return {"log_loss": loss, **metrics_of_classes(y, p)}
    from sklearn.metrics import roc_auc_score

    return {
        "auc": float(roc_auc_score(y, u)),
        "accuracy": float(np.mean((u > 0) == (y > 0))),
    }


def metrics_of_classes(y: NDArray[np.float64], scores: NDArray[np.float64]) -> dict[str, float]:
    """Share of rows whose class has the highest of its ``(rows, classes)`` scores; mean AUC."""
    from sklearn.metrics import roc_auc_score

    areas = [roc_auc_score(y == k, scores[:, k]) for k in range(scores.shape[1])]
    return {
        "accuracy": float(np.mean(scores.argmax(axis=1) == y)),
        "auc_one_vs_rest": float(np.mean(areas)),
    }


def classes_of(party: str, y: NDArray[np.float64]) -> int:
    """How many classes 0, 1, ... there are. Raises `DataError` if the label is something else."""
    kinds = np.unique(y)
    if not (2 <= len(kinds) <= MOST_CLASSES and (kinds == np.arange(len(kinds))).all()):
        raise DataError(
            f"{party}: labels of several classes must be 0, 1, ..., of 2 to {MOST_CLASSES} classes"
        )
    return len(kinds)


def softmax(u: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probabilities of classes from their scores, ``(rows, classes)``."""
    p = np.exp(u - u.max(axis=1, keepdims=True))
    return np.asarray(p / p.sum(axis=1, keepdims=True))
