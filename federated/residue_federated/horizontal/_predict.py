"""Classes of other rows by a horizontal model, which every client has whole."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from residue_federated._context import Context, Model, Outcome
from residue_federated._data import Scaling, Table
from residue_federated.horizontal._config import HorizontalConfig
from residue_federated.horizontal._models import Network, probabilities

__all__ = ["apply", "predictions"]


def apply(context: Context, config: HorizontalConfig, table: Table | None, model: Model) -> Outcome:
    """Logits of this party's rows; nothing is sent.

    Raises `DataError` if columns lack or values are missing.
    """
    if table is None:
        return Outcome()
    table = table.with_columns(context.party, model["columns"])
    table.require_complete(context.party)
    x = table.x
    if model["scaling"] is not None:
        scaling = Scaling(*(np.array(model["scaling"][name]) for name in ("mean", "deviation")))
        x = scaling.apply(x)
    network = Network(tuple(model["sizes"]))
    return Outcome(scores=network.scores(np.array(model["parameters"]), x))


def predictions(
    config: HorizontalConfig, scores: NDArray[np.float64]
) -> dict[str, NDArray[np.float64]]:
    """What `scores` say of each row, by name: score and probability of class 1, or the class."""
    p = probabilities(scores)
    if scores.ndim == 1:
        return {"score": scores, "probability": p[:, 1]}
    named = {f"probability_{k}": p[:, k] for k in range(p.shape[1])}
    return {"class": p.argmax(axis=1).astype(np.float64), **named}
