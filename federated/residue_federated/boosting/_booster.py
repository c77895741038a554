"""What is the same with encryption and without: scores, samples, rounds, and when to stop.

All that is drawn follows from the job's seed and the number of the round, so training goes on after
a restart as if there had been none.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from residue_federated.boosting._config import SecureBoostConfig
from residue_federated.boosting._objective import Objective
from residue_federated.boosting._packing import MAX_SUM_BITS, Quantised, quantise
from residue_federated.boosting._tree import Rule, Tree
from residue_federated.errors import DataError

__all__ = ["Booster", "columns_of"]

Bools = NDArray[np.bool_]

_VALIDATION, _ROWS, _COLUMNS = range(3)
"""What a stream of random numbers is for."""


class Booster:
    """The rounds so far of whoever has the label: the guest, and the twin.

    y: ``(rows,)``, coded for the objective. parties: how many have columns. scores:
    ``(rows, outputs)``, all begin as `start`. trees: one for each output a round.

    Raises `DataError` if sums over so many rows are not exact at the job's precision.
    """

    def __init__(
        self,
        config: SecureBoostConfig,
        objective: Objective,
        y: NDArray[np.float64],
        parties: int,
    ) -> None:
        if (len(y) << (config.precision_bits + 1)).bit_length() > MAX_SUM_BITS:
            raise DataError(
                f"sums over {len(y)} rows need more than {MAX_SUM_BITS} bits: lower precision_bits"
            )
        self.config = config
        self.objective = objective
        self.rule = Rule(*(getattr(config, field.name) for field in dataclasses.fields(Rule)))
        self.trees: list[list[Tree]] = []
        self.losses: list[float] = []
        self.y = y
        self._parties = parties
        self._watched: list[float] = []
        self._held_out = self._validation()
        self.start = objective.start(y[~self._held_out])
        self.scores = np.tile(self.start, (len(y), 1))

    @property
    def done(self) -> int:
        """Rounds."""
        return len(self.trees)

    @property
    def stopped(self) -> bool:
        """Whether training has ended."""
        if self.done >= self.config.trees:
            return True
        if self.config.early_stop is None:
            return False
        best, since = np.inf, 0
        for loss in self._watched:
            since += 1
            if loss < best - self.config.early_stop.tolerance:
                best, since = loss, 0
        return since >= self.config.early_stop.rounds

    def splits_of(self, party: int) -> int:
        """How many nodes a party has split."""
        return sum(tree.owner.count(party) for trees in self.trees for tree in trees)

    @property
    def owners(self) -> list[int]:
        """Whose columns may split in the coming round, ascending: 0 for the guest, the hosts."""
        if self.config.mixed_period is not None:
            return [self.done // self.config.mixed_period % self._parties]
        if self.done + 1 in self.config.guest_trees:
            return [0]
        return list(range(self._parties))

    def sample(self) -> tuple[Quantised, Bools]:
        """Gradients and curvatures of the coming round, and the rows to grow on."""
        g, h = self.objective.gradients(self.y, self.scores)
        selected, factor = self._selected(g)
        g, h = ((values * factor[:, None]).T for values in (g, h))
        # What is not selected has no part in the scale.
        q = quantise(
            np.where(selected, g, 0.0), np.where(selected, h, 0.0), self.config.precision_bits
        )
        return q, selected

    def add(self, trees: list[Tree], added: NDArray[np.float64]) -> float:
        """The round's trees and what they add to scores, ``(outputs, rows)``; returns the loss."""
        self.trees.append(trees)
        self.scores = self.scores + added.T
        trained = ~self._held_out
        self.losses.append(self.objective.loss(self.y[trained], self.scores[trained]))
        watched = self._held_out if self._held_out.any() else trained
        self._watched.append(self.objective.loss(self.y[watched], self.scores[watched]))
        return self.losses[-1]

    @property
    def state(self) -> dict[str, Any]:
        """All that `restore` needs."""
        return {
            "scores": self.scores,
            "losses": self.losses,
            "watched": self._watched,
            "trees": [[tree.to_dict() for tree in trees] for trees in self.trees],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a `state`."""
        self.scores = state["scores"]
        self.losses, self._watched = state["losses"], state["watched"]
        self.trees = [[Tree(**tree) for tree in trees] for trees in state["trees"]]

    def _validation(self) -> Bools:
        held_out = np.zeros(len(self.y), np.bool_)
        if self.config.early_stop is not None:
            count = int(self.config.early_stop.validation * len(self.y))
            order = np.random.default_rng([self.config.seed, _VALIDATION]).permutation(len(self.y))
            held_out[order[:count]] = True
        return held_out

    def _selected(self, g: NDArray[np.float64]) -> tuple[Bools, NDArray[np.float64]]:
        """The rows of the round, and what their gradients count."""
        config, factor = self.config, np.ones(len(g))
        rows = np.flatnonzero(~self._held_out)
        rng = np.random.default_rng([config.seed, _ROWS, self.done])
        if config.subsample < 1:
            rows = rng.permutation(rows)[: max(2, round(config.subsample * len(rows)))]
        elif config.goss is not None:
            order = rows[np.argsort(-np.abs(g[rows]).sum(axis=1), kind="stable")]
            top, other = (
                max(1, round(share * len(rows))) for share in (config.goss.top, config.goss.other)
            )
            drawn = rng.permutation(order[top:])[:other]
            factor[drawn] = (len(rows) - top) / max(1, len(drawn))
            rows = np.concatenate([order[:top], drawn])
        selected = np.zeros(len(g), np.bool_)
        selected[rows] = True
        return selected, factor


def columns_of(config: SecureBoostConfig, done: int, party: int, columns: int) -> NDArray[np.int64]:
    """The columns, ascending, that a party uses in the round after `done` others."""
    if config.column_subsample == 1:
        return np.arange(columns)
    rng = np.random.default_rng([config.seed, _COLUMNS, done, party])
    chosen = rng.permutation(columns)[: max(1, round(config.column_subsample * columns))]
    return np.sort(chosen)
