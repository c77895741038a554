"""The component ``randomise_labels``: the guest's labels, private for all that comes after it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from residue_federated._context import Context, Outcome
from residue_federated._data import Table
from residue_federated.errors import CheckpointError, DataError
from residue_federated.features._config import RandomiseLabelsConfig
from residue_federated.features._flows import quiet as flow
from residue_federated.privacy._labels import (
    kept_share,
    noise_scale,
    noisy_numbers,
    randomised_response,
)

__all__ = ["flow", "run"]


def run(context: Context, config: RandomiseLabelsConfig, table: Table | None) -> Outcome:
    """The guest's table with other labels; the hosts' as they are.

    What was drawn is kept, so that a job that goes on after a death tells the same.

    Raises:
        DataError: a label is no class from 0 on, or scaled by what depends on all exact ones.
        CheckpointError: the rows are not those of the run that this one goes on from.
    """
    context.restored()
    if table is None or table.y is None:
        return Outcome(table=table)
    if table.y_scaling is not None:
        raise DataError(
            f"{context.party}: the label was scaled by its exact mean and variance: put "
            f"'{context.component}' before standardise"
        )
    digest = np.frombuffer(table.digest(context.job.digest), np.uint8)
    journal = context.journal("given")
    if journal.rounds:
        kept = journal.load(1)
        if not np.array_equal(kept["rows"], digest):
            raise CheckpointError("the rows are not those whose labels may have been told")
        labels = np.asarray(kept["labels"])
    else:
        labels = _randomised(context.party, config, table.y)
        journal.save(1, {"rows": digest, "labels": labels})
    return Outcome(table=replace(table, y=labels), facts={"privacy": _told(config)})


def _randomised(
    party: str, config: RandomiseLabelsConfig, y: NDArray[np.float64]
) -> NDArray[np.float64]:
    if config.range is not None:
        return noisy_numbers(y, *config.range, config.epsilon, cut=config.cut)
    assert config.classes is not None
    binary = config.classes == 2
    # One coding of the answers whatever the labels are: it would say whether a -1 is among them.
    codes = np.where(y == -1, 0, y) if binary and not bool(np.any(y == 0)) else y
    if not bool(np.isin(codes, np.arange(config.classes)).all()):
        either = " or -1 and 1" if binary else ""
        raise DataError(
            f"{party}: labels of {config.classes} classes must be 0 to {config.classes - 1}{either}"
        )
    drawn = randomised_response(codes.astype(np.int64), config.classes, config.epsilon)
    return drawn.astype(np.float64)


def _told(config: RandomiseLabelsConfig) -> dict[str, Any]:
    """What the report says. kept: the chance of a label to stay; scale: of Laplace noise."""
    told: dict[str, Any] = {"unit": "label", "epsilon": config.epsilon, "delta": 0.0}
    if config.range is not None:
        return told | {"scale": noise_scale(*config.range, config.epsilon)}
    assert config.classes is not None
    return told | {"kept": kept_share(config.classes, config.epsilon)}
