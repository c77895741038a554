"""Cross-validation: a trainer on all folds of the rows but one, judged on the one, for each."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from residue_federated._components import runner_of
from residue_federated._context import Context, Outcome, Twin, mean_losses
from residue_federated._data import Table
from residue_federated._jobs import Job
from residue_federated.validation._config import CrossValidateConfig
from residue_federated.validation._flow import flow
from residue_federated.validation._folds import agreed_folds, drawn_folds

__all__ = ["flow", "predictions", "run", "twin"]

Floats = NDArray[np.float64]


def run(context: Context, config: CrossValidateConfig, table: Table | None) -> Outcome:
    """This party's part of all trainings; the arbiter, where there is one, has no rows.

    A fold is a part of the component with checkpoints of its own: a run that was cut off goes on in
    the round of the fold where it was.

    Raises `DataError` if the parties' rows differ or are too few, and what the trainer raises.
    """
    done, state = context.restored() or (0, {})
    folds = None if table is None else agreed_folds(context, config, table)
    results = _Results(config, table, state)
    runner, each = runner_of(config.trainer), config.trainer.most_rounds
    context.progress(done * each, config.most_rounds)
    for k in range(done, config.folds):

        def on_progress(_: str, rounds: int, __: int, loss: float | None, first: int = k) -> None:
            context.progress(first * each + rounds, config.most_rounds, loss)

        kept = out = None
        held = np.zeros(0, np.bool_)
        if table is not None and folds is not None:
            held = folds == k
            kept, out = _apart(table, held)
        trained = runner.run(context.within(f"fold-{k}", on_progress), config.trainer, kept)
        part = context.within(f"held-out-{k}", lambda *_: None)
        applied = runner.apply(part, config.trainer, out, trained.model or {})
        results.add(trained, held, applied.scores)
        context.checkpoint(k + 1, results.state)
    return results.outcome


def twin(job: Job, config: CrossValidateConfig, tables: dict[str, Table]) -> Twin:
    """The same with the trainer's twin."""
    guest = tables[job.guest.name]
    folds = drawn_folds(config, job.guest.name, guest)
    results = _Results(config, guest, {})
    runner = runner_of(config.trainer)
    for k in range(config.folds):
        held = folds == k
        parts = {name: _apart(table, held) for name, table in tables.items()}
        trained: Twin = runner.twin(
            job, config.trainer, {n: kept for n, (kept, _) in parts.items()}
        )
        assert trained.score is not None
        results.add(trained, held, trained.score({n: out for n, (_, out) in parts.items()}))
    return Twin(results.outcome.losses, results.outcome.metrics)


def _apart(table: Table, held: NDArray[np.bool_]) -> tuple[Table, Table]:
    """The rows that are not held out, and those that are."""
    return table.take(np.flatnonzero(~held)), table.take(np.flatnonzero(held))


def predictions(config: CrossValidateConfig, scores: Floats) -> dict[str, Floats]:
    """What `scores` say of each row: what they say of the trainer's."""
    named: dict[str, Floats] = runner_of(config.trainer).predictions(config.trainer, scores)
    return named


class _Results:
    """What the folds so far ended with."""

    def __init__(
        self, config: CrossValidateConfig, table: Table | None, state: dict[str, Any]
    ) -> None:
        self._config = config
        self._table = table
        self._losses: list[list[float]] = state.get("losses", [])
        self._metrics: list[dict[str, float]] = state.get("metrics", [])
        self._scores: Floats | None = state.get("scores")
        self.rounds: int = state.get("rounds", 0)
        self._trace: list[list[int]] = []

    @property
    def state(self) -> dict[str, Any]:
        """What another of its kind takes."""
        state = {"losses": self._losses, "metrics": self._metrics, "rounds": self.rounds}
        return state if self._scores is None else {**state, "scores": self._scores}

    def add(self, trained: Outcome | Twin, held: NDArray[np.bool_], scores: Floats | None) -> None:
        """A fold. held: its rows; scores: of them, at the guest."""
        self._losses.append(trained.losses)
        if isinstance(trained, Outcome):
            self.rounds += trained.rounds
            self._trace += trained.trace
        table = self._table
        if scores is None or table is None or table.y is None:
            return
        if self._scores is None:
            self._scores = np.zeros((len(held), *scores.shape[1:]))
        self._scores[held] = scores
        y = table.y if table.y_scaling is None else table.y_scaling.undo(table.y)
        judge = runner_of(self._config.trainer).judge
        self._metrics.append(judge(self._config.trainer, y[held], scores))

    @property
    def outcome(self) -> Outcome:
        """Of all folds. A metric's mean has its name, its deviation over folds ends in ``_std``."""
        metrics = {}
        for name in self._metrics[0] if self._metrics else ():
            values = np.array([fold[name] for fold in self._metrics])
            metrics[name], metrics[f"{name}_std"] = float(values.mean()), float(values.std())
        return Outcome(
            rounds=self.rounds,
            losses=mean_losses(self._losses),
            metrics=metrics,
            scores=self._scores,
            trace=self._trace,
            facts={"folds": self._metrics} if self._metrics else {},
        )
