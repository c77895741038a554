"""Logistic regression of several classes: one model for each class against all others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from residue_federated._context import Context, Outcome, Spec, Twin, mean_losses
from residue_federated._data import Table
from residue_federated.errors import ProtocolError
from residue_federated.linear._models import MOST_CLASSES, classes_of, metrics_of_classes

__all__ = ["agree_on_classes", "run_one_vs_rest", "twin_one_vs_rest"]

_Train = Callable[[dict[str, Table]], Twin]


def run_one_vs_rest(
    context: Context,
    epochs: int,
    table: Table | None,
    run: Callable[[Context, Table | None], Outcome],
) -> Outcome:
    """Train a model for each class with `run`; only the guest knows which rows are in it."""
    count = agree_on_classes(context, table, context.others)
    parts: list[Outcome] = []
    total = count * epochs
    for k in range(count):

        def on_progress(_: str, done: int, __: int, loss: float | None, first: int = k) -> None:
            context.progress(first * epochs + done, total, loss)

        part = context.within(f"class-{k}", on_progress)
        parts.append(run(part, None if table is None else _against(table, k)))
    outcome = Outcome(
        model=None if table is None else {"classes": [part.model for part in parts]},
        rounds=sum(part.rounds for part in parts),
        losses=mean_losses([part.losses for part in parts]),
        trace=[step for part in parts for step in part.trace],
        facts={name: [part.facts[name] for part in parts] for name in parts[0].facts},
    )
    if table is not None and table.y is not None:
        outcome.scores = np.stack([_vector(part.scores) for part in parts], axis=1)
        outcome.metrics = metrics_of_classes(table.y, outcome.scores)
    return outcome


def twin_one_vs_rest(guest: str, tables: dict[str, Table], twin: _Train) -> Twin:
    """The same in the clear; `twin` trains one model on tables."""
    y = tables[guest].y
    assert y is not None
    parts = [
        twin({**tables, guest: _against(tables[guest], k)}) for k in range(classes_of(guest, y))
    ]

    def score(other: dict[str, Table]) -> NDArray[np.float64]:
        return np.stack([part.score(other) for part in parts if part.score], axis=1)

    losses = mean_losses([part.losses for part in parts])
    model = {"classes": [part.model for part in parts]}
    return Twin(losses, metrics_of_classes(y, score(tables)), model, score)


def agree_on_classes(context: Context, table: Table | None, peers: Sequence[str]) -> int:
    """The number of classes, which the guest tells `peers`; `table` is None at an arbiter.

    Raises `DataError` at the guest if its label is something else.
    """
    if table is not None and table.y is not None:
        count = classes_of(context.party, table.y)
        for peer in peers:
            context.line.send_record(peer, "classes", count=np.array([count]))
        return count
    record = context.line.receive_record(context.guest, "classes", count=Spec("i8", (1,)))
    count = int(record["count"][0])
    if not 2 <= count <= MOST_CLASSES:
        raise ProtocolError(f"{context.guest} claims {count} classes")
    return count


def _against(table: Table, k: int) -> Table:
    return table if table.y is None else replace(table, y=(table.y == k).astype(np.float64))


def _vector(scores: NDArray[np.float64] | None) -> NDArray[np.float64]:
    assert scores is not None
    return scores
