"""The component ``evaluate``: how good the guest's scores are."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from residue_federated._context import Context, Outcome
from residue_federated._data import Table
from residue_federated.errors import DataError, JobError
from residue_federated.features._config import EvaluateConfig
from residue_federated.features._evaluation import (
    Evaluation,
    evaluate_binary,
    evaluate_multiclass,
    evaluate_regression,
)

__all__ = ["run"]


def run(context: Context, config: EvaluateConfig, table: Table | None) -> Outcome:
    """Metrics, with curves and tables as facts, at the guest.

    Raises:
        DataError: scores and labels do not match, or are not what the task is.
        JobError: no component before gives scores.
    """
    name = _model(context, config)
    context.restored()
    if table is None or table.y is None:
        return Outcome()
    u = context.inputs[name].scores
    if u is None:
        raise JobError(f"components.{context.component}: '{name}' gives no scores")
    if len(u) != len(table.y):
        raise DataError(f"'{name}' scored {len(u)} rows, but the table has {len(table.y)}")
    found = _evaluated(config, table, table.y, u)
    return Outcome(metrics=found.metrics, facts={**found.facts, "rows": len(u), "model": name})


def _evaluated(
    config: EvaluateConfig, table: Table, y: NDArray[np.float64], u: NDArray[np.float64]
) -> Evaluation:
    task = config.task
    if task is None:
        two = np.unique(y).size == 2
        task = "multiclass" if u.ndim == 2 else "binary" if two else "regression"
    if task == "multiclass":
        return evaluate_multiclass(y, u)
    if task == "binary":
        return evaluate_binary(y, u, threshold=config.threshold)
    return evaluate_regression(y if table.y_scaling is None else table.y_scaling.undo(y), u)


def _model(context: Context, config: EvaluateConfig) -> str:
    components = context.job.components
    before = list(components)[: list(components).index(context.component)]
    if config.model is not None:
        if config.model not in before:
            raise JobError(
                f"components.{context.component}.model: no component '{config.model}' before it"
            )
        return config.model
    for name in reversed(before):
        if components[name].trains:
            return name
    raise JobError(f"components.{context.component}: no component before it trains a model")
