"""Horizontal training by federated averaging over secure sums.

B. McMahan et al., "Communication-efficient learning of deep networks from decentralized data",
AISTATS 2017: in every round each client descends from the common parameters on its own rows, and
the parameters move by the mean of what all clients moved, weighted by their numbers of rows. That
mean, the loss and the statistics of the columns are secure sums; nothing else leaves a client.
With differential privacy neither loss nor statistics are summed, and what is has noise: `_private`.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from residue_federated._context import Context, Outcome, Spec, Standing
from residue_federated._data import Scaling, Table
from residue_federated.errors import DataError, Diverged, ProtocolError
from residue_federated.horizontal._budget import Given, agree_on_releases
from residue_federated.horizontal._config import HorizontalConfig
from residue_federated.horizontal._flow import flow
from residue_federated.horizontal._masked import MaskedAdder, MaskedSummand
from residue_federated.horizontal._masks import Circle
from residue_federated.horizontal._models import Network, class_labels, descend
from residue_federated.horizontal._paillier import PaillierAdder, PaillierSummand
from residue_federated.horizontal._predict import apply, predictions
from residue_federated.horizontal._private import (
    MOST_ROWS,
    Plan,
    contribution,
    public_scaling,
    report,
    step,
)
from residue_federated.horizontal._quantise import (
    WIDE_LIMIT,
    FixedPoint,
    decode_wide,
    encode_wide,
    wide_integers,
)
from residue_federated.horizontal._sums import Adder, Sum, Summand
from residue_federated.horizontal._twin import twin

__all__ = ["apply", "flow", "predictions", "run", "twin"]

Array = NDArray[np.float64]

_MEASURES = 3
"""Wide numbers in the sum of a round: rows, the sum of their losses, how many are right."""


def run(context: Context, config: HorizontalConfig, table: Table | None) -> Outcome:
    """This party's part of the training.

    Raises `DataError` before anything is summed if columns differ, values are missing or labels
    are none of the classes; `Diverged` if parameters leave the range of numbers; `PeerLost` if more
    clients are lost than the job can do without.
    """
    if table is None:
        return _Arbiter(context, config).train()
    table.require_complete(context.party)
    if table.x_scaling is not None:
        raise DataError(
            f"{context.party}: the columns were standardised by each party for itself: leave that "
            "component out, this one does it for all rows together"
        )
    return _Client(context, config, table).train()


def _circle(context: Context, config: HorizontalConfig, bits: int) -> Circle:
    assert context.arbiter is not None
    clients = (context.guest, *context.hosts)
    return Circle(clients, context.arbiter, config.least_clients(len(clients)), bits)


def _plan(context: Context, config: HorizontalConfig, size: int) -> Plan | None:
    """Of the noise, where the job asks for it. Raises `JobError` if it is too much."""
    if config.privacy is None:
        return None
    clients = 1 + len(context.hosts)
    plan = Plan.of(config, clients, size)
    plan.check(clients)
    return plan


class _Client:
    """Guest or host: they do the same, but that the guest compares everyone's columns."""

    def __init__(self, context: Context, config: HorizontalConfig, table: Table) -> None:
        self.context = context
        self.config = config
        self.table = table
        self.x = table.x
        self.y = class_labels(context.party, table.y, config.classes)
        self.network = Network.of(config, table.x.shape[1])
        self.plan = _plan(context, config, self.network.count)
        self.bits = config.bits if self.plan is None else self.plan.bits
        self.fixed = FixedPoint(config.bits, config.clip)
        self.place = [context.guest, *context.hosts].index(context.party)
        self.sums: Summand
        self.clients: tuple[str, ...] = ()
        self.cut = 0
        self.trace: list[list[int]] = []
        self.given = Given(context, config)
        self.spent: list[float] = []

    def train(self) -> Outcome:
        config, context = self.config, self.context
        standing = context.standing(config.noisy_clients(1 + len(context.hosts)))
        done, released = standing.done, 0
        self._agree_on_columns()
        state = self._hand_over(standing)
        last = config.rounds
        if self.plan is not None:
            self._check_rows()
            released = agree_on_releases(context, config, done)
            last = self.plan.last(done, released, config.rounds)
        self.sums = (
            MaskedSummand(context, _circle(context, config, self.bits))
            if config.aggregation == "masks"
            else PaillierSummand(context, self.bits)
        )
        if state is None:
            losses = list[float]()
            parameters = self.network.initial(config.seed)
            rows, mean, variance = self._statistics()
        else:
            losses, rows, self.cut = state["losses"], state["rows"], state["cut"]
            parameters, mean, variance = state["parameters"], state["mean"], state["variance"]
            self.spent = state["spent"]
        scaling = self._scaling(mean, variance)
        if scaling is not None:
            self.x = scaling.apply(self.x)
        context.progress(done, config.rounds)
        for number in range(done, last):
            if self.plan is None:
                parameters, loss = self._round(number, parameters, rows)
            else:
                released += 1
                parameters, loss = self._private_round(number, released, parameters, self.plan)
            losses.append(loss)
            state = {"parameters": parameters, "losses": losses, "rows": rows, "cut": self.cut}
            state |= {"mean": mean, "variance": variance, "spent": self.spent}
            context.checkpoint(number + 1, state)
            context.progress(number + 1, config.rounds, loss)
        count, loss_sum, right = (
            self._sum_wide("final", self._measures(parameters))
            if self.plan is None
            else self._own_measures(parameters)
        )
        facts: dict[str, Any] = {"clients": list(self.clients), "clipped": self.cut}
        model = self._model(parameters, scaling)
        if self.plan is not None:
            told = report(self.plan, released, self.spent, rows, last < config.rounds)
            model["privacy"] = facts["privacy"] = told
        return Outcome(
            model=model,
            rounds=max(done, last),
            losses=losses,
            metrics={"accuracy": right / count, "loss": loss_sum / count},
            scores=self.network.scores(parameters, self.x),
            trace=self.trace,
            facts=facts,
        )

    def _hand_over(self, standing: Standing) -> dict[str, Any] | None:
        """The state to go on from, None afresh. A host that lacks it gets it from the guest.

        Losses with privacy and the count of what was cut are each party's own: they do not leave
        it, and a host goes on from those that it had.
        """
        context, done, state = self.context, standing.done, standing.state
        private = self.plan is not None
        for host in standing.lacking:
            assert state is not None
            context.line.send_record(
                host,
                "state",
                parameters=state["parameters"],
                losses=np.array([] if private else state["losses"], dtype=np.float64),
                rows=np.array([state["rows"]]),
                mean=state["mean"],
                variance=state["variance"],
                spent=np.array(state["spent"], dtype=np.float64),
            )
        if not done or state is not None:
            return state
        moments = Spec("f8", (self.x.shape[1] if self.config.standardise else 0,))
        record = context.line.receive_record(
            context.guest,
            "state",
            parameters=Spec("f8", (self.network.count,)),
            losses=Spec("f8", (0 if private else done,)),
            rows=Spec("f8", (1,)),
            mean=moments,
            variance=moments,
            spent=Spec("f8", (done if private else 0,)),
        )
        rows, least = float(record["rows"][0]), int(self.plan is None or self.plan.counts)
        if rows < least or bool(np.any(record["variance"] < 0)):
            raise ProtocolError(f"{context.guest} handed over a state that cannot be")
        before = standing.before or {"losses": [], "cut": 0}
        state = dict(record) | {"rows": rows, "spent": record["spent"].tolist()}
        state["losses"] = before["losses"] if private else record["losses"].tolist()
        state["cut"] = before["cut"]
        context.checkpoint(done, state)
        return state

    def _check_rows(self) -> None:
        if len(self.x) > MOST_ROWS:
            raise DataError(
                f"{self.context.party} has {len(self.x)} rows: with privacy {MOST_ROWS} at most"
            )

    def _scaling(self, mean: Array, variance: Array) -> Scaling | None:
        """Of the columns, by all rows or by what the job says of them."""
        privacy = self.config.privacy
        if privacy is not None:
            return public_scaling(privacy, self.context.party, self.table.columns)
        return Scaling.of_moments(mean, variance) if self.config.standardise else None

    def _round(self, number: int, start: Array, rows: float) -> tuple[Array, float]:
        """One round: new parameters, and the loss of those before."""
        config = self.config
        order = np.random.default_rng([config.seed, number, self.place])
        with np.errstate(over="ignore", invalid="ignore"):
            moved = descend(self.network, start, self.x, self.y, config, order) - start
        if not bool(np.all(np.isfinite(moved))):
            raise Diverged("the parameters left the range of numbers: lower the learning rate")
        update, cut = self.fixed.encode(moved * (len(self.x) / rows))
        self.cut += cut
        measures = encode_wide(self._measures(start), config.bits)
        total = self._sum(f"round/{number}", np.concatenate([update, measures]))
        moves, measured = np.split(total.values, [len(update)])
        count, loss, _ = self._wide(measured, total.sender)
        return start + self.fixed.decode(moves) * (rows / count), loss / count

    def _private_round(
        self, number: int, release: int, start: Array, plan: Plan
    ) -> tuple[Array, float]:
        """One round with noise: new parameters, and the loss of those before on this party's rows.

        Of the counts of rows, only that of all who are in the sum is known to anybody.
        """
        order = np.random.default_rng([self.config.seed, number, self.place])

        def make() -> tuple[NDArray[np.int64], int]:
            return contribution(plan, self.network, self.config, start, self.x, self.y, order)

        vector, cut = self.given.give(number, release, start, make)
        self.cut += cut
        if plan.counts:
            rows = encode_wide(np.array([float(len(self.x))]), self.bits)
            vector = np.concatenate([vector, rows])
        total = self._sum(f"round/{number}", vector)
        moves, rows = np.split(total.values, [self.network.count])
        count = self._wide(rows, total.sender)[0] if plan.counts else len(total.clients)
        self.spent.append(plan.epsilon(release))
        after = step(plan, self.network, self.config, start, moves * plan.unit, count)
        if not bool(np.all(np.isfinite(after))):
            raise Diverged("the parameters left the range of numbers: lower the learning rate")
        rows_, loss, _ = self._own_measures(start)
        return after, loss / rows_

    def _own_measures(self, parameters: Array) -> tuple[int, float, int]:
        """As `_measures`, for this party alone: no row of its own can end the job."""
        with np.errstate(over="ignore", invalid="ignore"):
            loss, right = self.network.evaluate(parameters, self.x, self.y, self.config.l2)
        return len(self.x), float(np.nan_to_num(len(self.x) * loss, nan=WIDE_LIMIT)), right

    def _measures(self, parameters: Array) -> Array:
        """Rows, the sum of their losses, and how many are classified right."""
        with np.errstate(over="ignore", invalid="ignore"):
            loss, right = self.network.evaluate(parameters, self.x, self.y, self.config.l2)
        if not len(self.x) * loss < WIDE_LIMIT:  # not a number, or too large for a sum
            raise Diverged("the loss left the range of numbers: lower the learning rate")
        return np.array([len(self.x), len(self.x) * loss, right])

    def _statistics(self) -> tuple[float, Array, Array]:
        """Rows of all clients, and mean and variance of their columns (none if not asked for)."""
        if self.plan is not None and not self.plan.counts:
            return 0.0, np.zeros(0), np.zeros(0)
        count = np.array([float(len(self.x))])
        x = self.x if self.config.standardise else self.x[:, :0]
        with np.errstate(over="ignore"):
            totals = x.sum(axis=0)
        rows, *sums = self._sum_wide("mean", np.concatenate([count, totals]))
        mean = np.array(sums) / rows
        if not self.config.standardise:
            return rows, mean, mean
        with np.errstate(over="ignore"):
            squares = ((x - mean) ** 2).sum(axis=0)
        rows, *sums = self._sum_wide("variance", np.concatenate([count, squares]))
        return rows, mean, np.maximum(sums, 0.0) / rows

    def _sum_wide(self, name: str, numbers: Array) -> list[float]:
        try:
            encoded = encode_wide(numbers, self.bits)
        except OverflowError as error:
            raise DataError(
                f"{self.context.party}: the columns' values are too large to add up: scale them"
            ) from error
        total = self._sum(name, encoded)
        return self._wide(total.values, total.sender)

    def _wide(self, sums: NDArray[np.int64], sender: str) -> list[float]:
        """Sums of wide numbers, of which the first is that of rows."""
        numbers: list[float] = decode_wide(sums, self.bits).tolist()
        if numbers[0] < len(self.x):
            raise ProtocolError(
                f"{sender} sent a sum over fewer rows than {self.context.party} has"
            )
        return numbers

    def _sum(self, name: str, values: NDArray[np.int64]) -> Sum:
        total = self.sums.sum(name, values)
        self.clients = total.clients
        if self.context.trace:
            self.trace.append(total.values.tolist())
        return total

    def _agree_on_columns(self) -> None:
        """All clients have the same columns in the same order; the arbiter learns how many."""
        context, line = self.context, self.context.line
        text = json.dumps([context.job.digest, *self.table.columns])
        digest = np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8)
        spec = Spec(np.uint8, digest.shape)
        if context.role == "host":
            line.send_record(context.guest, "columns", digest=digest)
            line.receive_record(context.guest, "columns", digest=spec)
            return
        for host in context.hosts:
            theirs = line.receive_record(host, "columns", digest=spec)["digest"]
            if not np.array_equal(theirs, digest):
                raise DataError(
                    f"{context.party} and {host} do not have the same columns in the same order: "
                    "horizontal training needs them"
                )
        for host in context.hosts:
            line.send_record(host, "columns", digest=digest)
        assert context.arbiter is not None
        line.send_record(context.arbiter, "columns", count=np.array([len(self.table.columns)]))

    def _model(self, parameters: Array, scaling: Scaling | None) -> dict[str, Any]:
        return {
            "columns": self.table.columns,
            "classes": self.config.classes,
            "sizes": list(self.network.sizes),
            "parameters": parameters.tolist(),
            "scaling": scaling
            and {"mean": scaling.mean.tolist(), "deviation": scaling.deviation.tolist()},
        }


class _Arbiter:
    """It adds, and knows no more than how many numbers there are to add."""

    def __init__(self, context: Context, config: HorizontalConfig) -> None:
        self.context = context
        self.config = config

    def train(self) -> Outcome:
        config, context = self.config, self.context
        done = context.standing(config.noisy_clients(1 + len(context.hosts))).done
        guest = context.guest
        record = context.line.receive_record(guest, "columns", count=Spec(np.int64, (1,)))
        columns = int(record["count"][0])
        if columns < 1:
            raise ProtocolError(f"{guest} announced {columns} columns")
        size = Network.of(config, columns).count
        last, bits, measures = config.rounds, config.bits, _MEASURES
        plan = _plan(context, config, size)
        if plan is not None:
            released = agree_on_releases(context, config, done)
            last, bits, measures = plan.last(done, released, last), plan.bits, int(plan.counts)
        adder: Adder = (
            MaskedAdder(context, _circle(context, config, bits), config.round_timeout)
            if config.aggregation == "masks"
            else PaillierAdder(context, bits)
        )
        lost: dict[str, int] = {}
        wide = wide_integers(bits)
        if not done and measures:
            statistics = 1 + columns if config.standardise else 1
            adder.sum("mean", statistics * wide)
            if config.standardise:
                adder.sum("variance", statistics * wide)
        size += measures * wide
        context.progress(done, config.rounds)
        clients = (guest, *context.hosts)
        for number in range(done, last):
            present = adder.sum(f"round/{number}", size)
            for client in set(clients) - set(present) - lost.keys():
                lost[client] = number + 1
            context.checkpoint(number + 1, {})
            context.progress(number + 1, config.rounds)
        if plan is None:
            adder.sum("final", measures * wide)
        return Outcome(rounds=max(done, last), facts={"lost": lost})
