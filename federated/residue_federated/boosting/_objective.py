"""Losses that trees are grown for: their gradients, their values, the quality they give."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray

from residue_federated.errors import DataError

__all__ = ["Objective", "objective"]

Floats = NDArray[np.float64]

_LEAST_CURVATURE = 1e-16
_RAREST = 1e-6
"""Share of rows that a class counts for at least, should the rows to train on have none of it."""


class Objective(ABC):
    """A loss of scores ``(rows, outputs)`` and a label ``(rows,)`` coded by `labels`.

    outputs: scores a row, hence trees a round.
    """

    outputs: int = 1

    @classmethod
    @abstractmethod
    def labels(cls, y: Floats) -> tuple[Objective, Floats]:
        """The objective for a raw label, and the label as it codes it. Raises `DataError`."""

    @abstractmethod
    def start(self, y: Floats) -> Floats:
        """``(outputs,)``: the constant scores that fit best."""

    @abstractmethod
    def gradients(self, y: Floats, scores: Floats) -> tuple[Floats, Floats]:
        """First and second derivative of each row's loss by its scores, ``(rows, outputs)``."""

    @abstractmethod
    def loss(self, y: Floats, scores: Floats) -> float:
        """Mean loss."""

    @abstractmethod
    def metrics(self, y: Floats, scores: Floats) -> dict[str, float]:
        """Quality of scores, ``(rows,)`` where there is one a row."""


class _Binary(Objective):
    """Logistic loss, labels 0 and 1."""

    @classmethod
    def labels(cls, y: Floats) -> tuple[Objective, Floats]:
        kinds = set(np.unique(y).tolist())
        if kinds not in ({0.0, 1.0}, {-1.0, 1.0}):
            raise DataError("labels must be two classes, coded 0 and 1 or -1 and 1")
        return cls(), (y > 0).astype(np.float64)

    def start(self, y: Floats) -> Floats:
        mean = np.clip(np.mean(y), _RAREST, 1 - _RAREST)
        return np.array([np.log(mean / (1 - mean))])

    def gradients(self, y: Floats, scores: Floats) -> tuple[Floats, Floats]:
        p = _sigmoid(scores)
        return p - y[:, None], np.maximum(p * (1 - p), _LEAST_CURVATURE)

    def loss(self, y: Floats, scores: Floats) -> float:
        u = scores[:, 0]
        return float(np.mean(np.logaddexp(0.0, u) - y * u))

    def metrics(self, y: Floats, scores: Floats) -> dict[str, float]:
        from sklearn.metrics import roc_auc_score

        return {
            "auc": float(roc_auc_score(y, scores)),
            "accuracy": float(np.mean((scores > 0) == (y > 0))),
        }


class _Multiclass(Objective):
    """Softmax loss, labels 0, 1, ... outputs - 1."""

    def __init__(self, outputs: int) -> None:
        self.outputs = outputs

    @classmethod
    def labels(cls, y: Floats) -> tuple[Objective, Floats]:
        kinds = np.unique(y)
        if len(kinds) < 2 or not np.array_equal(kinds, np.arange(len(kinds))):
            raise DataError("labels must be two classes or more, coded 0, 1, 2 and so on")
        return cls(len(kinds)), y

    def start(self, y: Floats) -> Floats:
        shares = np.bincount(y.astype(np.int64), minlength=self.outputs) / len(y)
        return np.asarray(np.log(np.maximum(shares, _RAREST)))

    def gradients(self, y: Floats, scores: Floats) -> tuple[Floats, Floats]:
        p = np.exp(scores - scores.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        g = p.copy()
        g[np.arange(len(y)), y.astype(np.int64)] -= 1.0
        # Twice the diagonal of the Hessian, which bounds it (as xgboost does).
        return g, np.maximum(2.0 * p * (1 - p), _LEAST_CURVATURE)

    def loss(self, y: Floats, scores: Floats) -> float:
        shifted = scores - scores.max(axis=1, keepdims=True)
        chosen = shifted[np.arange(len(y)), y.astype(np.int64)]
        return float(np.mean(np.log(np.exp(shifted).sum(axis=1)) - chosen))

    def metrics(self, y: Floats, scores: Floats) -> dict[str, float]:
        return {
            "accuracy": float(np.mean(scores.argmax(axis=1) == y)),
            "log_loss": self.loss(y, scores),
        }


class _SquaredError(Objective):
    """Half the squared error."""

    @classmethod
    def labels(cls, y: Floats) -> tuple[Objective, Floats]:
        return cls(), y

    def start(self, y: Floats) -> Floats:
        return np.array([np.mean(y)])

    def gradients(self, y: Floats, scores: Floats) -> tuple[Floats, Floats]:
        return scores - y[:, None], np.ones_like(scores)

    def loss(self, y: Floats, scores: Floats) -> float:
        return float(np.mean((scores[:, 0] - y) ** 2) / 2)

    def metrics(self, y: Floats, scores: Floats) -> dict[str, float]:
        square = float(np.mean((scores - y) ** 2))
        variance = float(np.var(y))
        return {"rmse": square**0.5, "r2": 1.0 - square / variance if variance else 0.0}


def objective(name: str, y: Floats) -> tuple[Objective, Floats]:
    """The objective ``binary``, ``multiclass`` or ``squared_error`` for a label, and its coding.

    Raises `DataError` if it does not know these labels.
    """
    kinds: dict[str, type[Objective]] = {
        "binary": _Binary,
        "multiclass": _Multiclass,
        "squared_error": _SquaredError,
    }
    return kinds[name].labels(y)


def _sigmoid(u: Floats) -> Floats:
    return np.asarray(0.5 + 0.5 * np.tanh(0.5 * u))
