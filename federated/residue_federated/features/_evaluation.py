"""How good scores are: metrics, tables and curves, by scikit-learn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve

from residue_federated.errors import DataError

__all__ = ["POINTS", "Evaluation", "evaluate_binary", "evaluate_multiclass", "evaluate_regression"]

POINTS = 200
"""A curve has no more of them."""
_GROUPS = 10
"""Rows of a lift or calibration table."""


@dataclass(frozen=True)
class Evaluation:
    """metrics: name -> number. facts: curves and tables, JSON-able; no row of the data is in them.

    facts of a binary label: ``curves`` (``roc``: fpr, tpr; ``pr``: recall, precision; ``lift``:
    depth, lift; ``calibration``: predicted, observed), ``lift`` (a row for each tenth of the rows,
    best scores first), ``confusion`` (tn, fp, fn, tp) and ``threshold``. Of several classes:
    ``classes``, ``confusion`` (rows are true classes) and ``by_class``. Of a regression:
    ``curves.calibration``, means of tenths.
    """

    metrics: dict[str, float]
    facts: dict[str, Any]


def evaluate_binary(
    y: NDArray[np.float64], u: NDArray[np.float64], *, threshold: float = 0.5
) -> Evaluation:
    """Scores of a binary label.

    Args:
        y: ``(rows,)`` labels of two kinds, the larger one positive.
        u: ``(rows,)`` log-odds.
        threshold: probability from which on a row counts as positive.

    Raises:
        DataError: y has not both kinds of labels, or a score is not finite.
    """
    _require(u, len(y))
    kinds = np.unique(y)
    if len(kinds) != 2:
        raise DataError(f"binary evaluation needs labels of two kinds, not {len(kinds)}")
    truth = (y == kinds[1]).astype(np.int64)
    p = (1 + np.tanh(u / 2)) / 2
    fpr, tpr, _ = sk.roc_curve(truth, u, drop_intermediate=False)
    precision, recall, _ = sk.precision_recall_curve(truth, u)
    chosen = (p >= threshold).astype(np.int64)
    tn, fp, fn, tp = sk.confusion_matrix(truth, chosen, labels=[0, 1]).ravel().tolist()
    observed, predicted = calibration_curve(truth, p, n_bins=_GROUPS, strategy="quantile")
    depth = tpr * truth.mean() + fpr * (1 - truth.mean())
    lift = np.divide(tpr[1:], depth[1:])
    return Evaluation(
        {
            "auc": float(sk.roc_auc_score(truth, u)),
            "ks": float((tpr - fpr).max()),
            "pr_auc": float(sk.average_precision_score(truth, u)),
            "log_loss": float(sk.log_loss(truth, p)),
            "accuracy": float(sk.accuracy_score(truth, chosen)),
            "precision": float(sk.precision_score(truth, chosen, zero_division=0.0)),
            "recall": float(sk.recall_score(truth, chosen)),
            "f1": float(sk.f1_score(truth, chosen, zero_division=0.0)),
        },
        {
            "curves": {
                "roc": _curve(fpr + tpr, fpr=fpr, tpr=tpr),
                "pr": _curve(recall[::-1], recall=recall[::-1], precision=precision[::-1]),
                "lift": _curve(depth[1:], depth=depth[1:], lift=lift),
                "calibration": {
                    "predicted": predicted.tolist(),
                    "observed": observed.tolist(),
                },
            },
            "lift": _lift_table(depth, tpr, len(truth), int(truth.sum())),
            "confusion": {"tn": tn, "fp": fp, "fn": fn, "tp": tp},
            "threshold": threshold,
        },
    )


def evaluate_multiclass(y: NDArray[np.float64], u: NDArray[np.float64]) -> Evaluation:
    """Scores of several classes.

    Args:
        y: ``(rows,)`` labels.
        u: ``(rows, classes)`` logits, columns in ascending order of label.

    Raises:
        DataError: not as many classes as columns, fewer than three, or a score is not finite.
    """
    classes = np.unique(y)
    if len(classes) < 3:
        raise DataError("evaluation of several classes needs three or more")
    _require(u, len(y), len(classes))
    p = np.exp(u - u.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    chosen = classes[np.argmax(u, axis=1)]
    precision, recall, f1, support = sk.precision_recall_fscore_support(
        y, chosen, labels=classes, zero_division=0.0
    )
    return Evaluation(
        {
            "accuracy": float(sk.accuracy_score(y, chosen)),
            "auc": float(sk.roc_auc_score(y, p, multi_class="ovr", labels=classes)),
            "log_loss": float(sk.log_loss(y, p, labels=classes)),
            "f1_macro": float(f1.mean()),
        },
        {
            "classes": classes.tolist(),
            "confusion": sk.confusion_matrix(y, chosen, labels=classes).tolist(),
            "by_class": [
                {"class": c, "precision": a, "recall": b, "f1": f, "rows": n}
                for c, a, b, f, n in zip(
                    classes.tolist(),
                    precision.tolist(),
                    recall.tolist(),
                    f1.tolist(),
                    support.tolist(),
                    strict=True,
                )
            ],
        },
    )


def evaluate_regression(y: NDArray[np.float64], predicted: NDArray[np.float64]) -> Evaluation:
    """Predictions of a number; both ``(rows,)``, in the label's own units, at least two rows.

    Raises:
        DataError: a prediction is not finite.
    """
    _require(predicted, len(y))
    groups = np.array_split(np.argsort(predicted, kind="stable"), min(_GROUPS, len(y)))
    means = [(float(predicted[rows].mean()), float(y[rows].mean())) for rows in groups]
    return Evaluation(
        {
            "rmse": float(sk.root_mean_squared_error(y, predicted)),
            "mae": float(sk.mean_absolute_error(y, predicted)),
            "r2": float(sk.r2_score(y, predicted)),
        },
        {
            "curves": {
                "calibration": {
                    "predicted": [a for a, _ in means],
                    "observed": [b for _, b in means],
                }
            }
        },
    )


def _require(u: NDArray[np.float64], *shape: int) -> None:
    if u.shape != shape or not np.isfinite(u).all():
        raise DataError(f"scores must be finite and of shape {shape}, not {u.shape}")


def _curve(position: NDArray[np.float64], **arrays: NDArray[np.float64]) -> dict[str, list[float]]:
    """At most `POINTS` points of a curve, evenly spread over `position`, which never falls."""
    places = np.linspace(position[0], position[-1], POINTS)
    chosen = np.unique(np.minimum(np.searchsorted(position, places), len(position) - 1))
    return {name: array[chosen].tolist() for name, array in arrays.items()}


def _lift_table(
    depth: NDArray[np.float64], captured: NDArray[np.float64], rows: int, positives: int
) -> list[dict[str, float]]:
    """A row for each tenth of the rows; rows of equal scores share their positives evenly."""
    ends = np.linspace(0, 1, _GROUPS + 1)
    share = np.interp(ends, depth, captured)
    return [
        {
            "depth": float(end),
            "rows": rows / _GROUPS,
            "positives": float(positives * (after - before)),
            "lift": float((after - before) * _GROUPS),
            "cumulative_lift": float(after / end),
            "captured": float(after),
        }
        for end, before, after in zip(ends[1:], share[:-1], share[1:], strict=True)
    ]
