"""Vertical linear models between guest and host alone: no arbiter, weights shared throughout.

Each batch, all numbers but the features and the label being shares:

1. predictors ``u = X w`` over both parties' columns (`Products.predictors`);
2. residuals of u and the label (`residue_federated.shared._residuals`);
3. gradients ``X.T d`` of both parties' columns (`Products.gradients`);
4. a step, computed by each party on its shares alone;
5. with L1, a soft threshold (`residue_federated.shared._rectify`).

The products follow C. Chen et al., "When homomorphic encryption marries secret sharing" (CAESAR),
KDD 2021, sections 4.2 and 4.3.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from residue_federated._context import Context, Outcome, Spec
from residue_federated._data import Table
from residue_federated.errors import DataError, Diverged, ProtocolError
from residue_federated.linear._models import batches, label_of, metrics
from residue_federated.linear._one_vs_rest import agree_on_classes, run_one_vs_rest
from residue_federated.shared._config import SharedConfig
from residue_federated.shared._exchange import Exchange, Keys
from residue_federated.shared._flow import flow
from residue_federated.shared._format import (
    MOST_COLUMNS,
    encoded_features,
    gains,
    ring_of,
    threshold_of,
)
from residue_federated.shared._predict import (
    apply,
    opened_scores,
    predictions,
    scores_of_own,
)
from residue_federated.shared._products import Products
from residue_federated.shared._rectify import Rectifier
from residue_federated.shared._residuals import residuals_of
from residue_federated.shared._ring import Integers, integers
from residue_federated.shared._twin import twin

__all__ = ["apply", "flow", "predictions", "run", "twin"]


def run(context: Context, config: SharedConfig, table: Table | None) -> Outcome:
    """This party's part of the training.

    Raises `DataError` before anything is encrypted if the host's rows are not the guest's, values
    are missing or too large, or the label is not what the model takes; `Diverged` if the weights
    that are revealed, or the scores, have left their range.
    """
    assert table is not None  # a job with an arbiter has no such component
    table.require_complete(context.party)
    if not config.one_vs_rest:
        return _train(config, None, context, table)
    keys = Keys.agree(context)
    return run_one_vs_rest(context, config.epochs, table, partial(_train, config, keys))


def _train(
    config: SharedConfig, keys: Keys | None, context: Context, table: Table | None
) -> Outcome:
    assert table is not None
    return _Side(context, config, table, keys).train()


class _Side:
    """A party: its columns, and its shares of all weights and of the last step, by owner.

    Weights and steps are ``(columns,)``, or ``(classes, columns)`` of softmax.

    keys: None to agree on new ones.
    """

    def __init__(
        self, context: Context, config: SharedConfig, table: Table, keys: Keys | None
    ) -> None:
        self.keys = keys
        self.context, self.config, self.table = context, config, table
        self.x = encoded_features(config, context, table)
        self.ring = ring_of(config, len(self.x))
        self.label = None if context.role == "host" else _label(config, context.party, table)
        self.stopped = False
        self.moves: list[float] = []

    def begin(self) -> int:
        """Meet the other: same rows, where to go on, columns, keys. Returns the epochs done."""
        context, line = self.context, self.context.line
        done, state = context.restored() or (0, {})
        context.agree_on_rows(self.table)
        peer = context.others[0]
        line.send_record(peer, "columns", count=np.array([self.x.shape[1]]))
        count = line.receive_record(peer, "columns", count=Spec("i8", (1,)))["count"]
        columns = {context.party: self.x.shape[1], peer: int(count[0])}
        if not 1 <= columns[peer] <= MOST_COLUMNS:
            raise ProtocolError(f"{peer} claims {columns[peer]} columns")
        stack: tuple[int, ...] = ()
        if self.config.softmax:
            stack = (agree_on_classes(context, self.table, context.others),)
        keys = self.keys or Keys.agree(context)
        if done:  # of one class, it is the secret of those after it as well
            keys.secret = state["masks"].tobytes()
        self.exchange = Exchange(context, keys)
        self.products = Products(
            self.exchange, self.ring, self.config.precision, columns[context.party], columns[peer]
        )
        self.residuals = residuals_of(self.config, self.exchange, self.ring)
        bits = self.config.precision.weight_bits + self.config.precision.integer_bits + 1
        self.rectifier = Rectifier(self.exchange, self.ring, bits)
        self.weights = {
            name: integers(np.zeros((*stack, size), np.int64)) for name, size in columns.items()
        }
        self.steps = dict(self.weights)
        self.penalised = {name: integers([1] * size) for name, size in columns.items()}
        if self.config.intercept:
            self.penalised[context.guest][-1] = 0
        if done:
            for kind, shares in (("weights", self.weights), ("steps", self.steps)):
                for name in columns:
                    shares[name] = self.ring.of_words(state[f"{kind}:{name}"])
            self.stopped, self.moves = state["stopped"], state["moves"]
        return done

    def train(self) -> Outcome:
        """All epochs, then what the job reveals."""
        context, config = self.context, self.config
        done = self.begin()
        context.progress(done, config.epochs)
        while done < config.epochs and not self.stopped:
            before = dict(self.weights)
            plan = batches(config.plain, len(self.x), done)
            for number, rows in enumerate(plan):
                self._batch(f"{done}/{number}", rows)
            if config.early_stop is not None:
                self.moves.append(self._moved(f"{done}", before))
                self.stopped = self.moves[-1] < config.early_stop.tolerance
            done += 1
            self._save(done)
            context.progress(done, config.epochs)
        facts = {"moves": self.moves} if config.early_stop is not None else {}
        model = self._model()
        if config.reveal == "own":
            u = scores_of_own(context, self.table, model)
        else:
            own, peers = self.weights[context.party], self.weights[self.exchange.peer]
            u = opened_scores(config, self.products, self.x, own, peers)
        outcome = Outcome(model=model, rounds=done, facts=facts)
        if u is not None:
            y = self.table.y
            assert y is not None
            if self.table.y_scaling is not None:
                y, u = self.table.y_scaling.undo(y), self.table.y_scaling.undo(u)
            outcome.metrics, outcome.scores = metrics(config.plain, y, u), u
        return outcome

    def _batch(self, tag: str, rows: NDArray[np.int64]) -> None:
        party, peer = self.context.party, self.exchange.peer
        x = self.x[rows]
        u = self.products.predictors(tag, x, self.weights[party], self.weights[peer])
        label = None if self.label is None else self.label[rows]
        d = self.residuals(tag, u, label)
        own, peers = self.products.gradients(tag, x, d)
        scale = gains(self.config, len(rows))
        moved = {}
        for name, gradient in ((party, own), (peer, peers)):
            w = self.weights[name]
            total = gradient * scale.gradient + self.steps[name] * scale.step
            total = self.ring.reduced(total + w * self.penalised[name] * scale.weight)
            step = self.ring.truncated(total, scale.shift, lead=self.exchange.lead)
            moved[name] = self.ring.reduced(w - step)
        if self.config.l1:
            self._shrink(tag, moved)
        for name, w in moved.items():
            self.steps[name] = self.ring.reduced(self.weights[name] - w)
        self.weights = moved

    def _shrink(self, tag: str, weights: dict[str, Integers]) -> None:
        """The soft threshold of an L1 penalty, in place: the guest's weights, then the host's."""
        names = (self.context.guest, *self.context.hosts)
        chosen = {name: self.penalised[name].astype(bool) for name in names}
        parts = [weights[name][..., chosen[name]] for name in names]
        shares = np.concatenate([part.ravel() for part in parts])
        shares = self.rectifier.soft(tag, shares, threshold_of(self.config))
        for name, part, new in zip(names, parts, np.split(shares, [parts[0].size]), strict=True):
            weights[name][..., chosen[name]] = new.reshape(part.shape)

    def _moved(self, tag: str, before: dict[str, Integers]) -> float:
        """How far an epoch has moved the weights, opened to both."""
        context, ring = self.context, self.ring
        names = (context.guest, *context.hosts)
        change = [ring.reduced(self.weights[n] - before[n]).ravel() for n in names]
        share = self.products.square(f"moved/{tag}", np.concatenate(change))
        self.exchange.show(f"norm/{tag}", ring, share)
        theirs = self.exchange.shown(f"norm/{tag}", ring, (1,))
        square = int(ring.reduced(share + theirs)[0])
        precision = self.config.precision
        most = sum(map(len, change)) << 2 * (precision.integer_bits + 1 + precision.weight_bits)
        if square > most:
            raise Diverged("the weights moved past all bounds: lower the learning rate")
        return float(np.ldexp(np.sqrt(float(square)), -precision.weight_bits))

    def _save(self, done: int) -> None:
        """A checkpoint: shares and the secret of the masks, in a file that others cannot read."""
        words = {
            f"{kind}:{name}": self.ring.words(values)
            for kind, shares in (("weights", self.weights), ("steps", self.steps))
            for name, values in shares.items()
        }
        masks = np.frombuffer(self.exchange.keys.secret, np.uint8)
        self.context.checkpoint(
            done, {**words, "masks": masks, "stopped": self.stopped, "moves": self.moves}
        )

    def _model(self) -> dict[str, Any]:
        """This party's part: its weights if they are revealed to it, else its shares of all."""
        context, config, ring = self.context, self.config, self.ring
        party, peer = context.party, self.exchange.peer
        head = {"columns": self.table.columns, **self.table.scalings()}
        if config.reveal == "none":
            return head | {
                "shares": {
                    "own": _in_hex(self.weights[party]),
                    "peers": _in_hex(self.weights[peer]),
                    "bits": ring.bits,
                }
            }
        self.exchange.show("weights", ring, self.weights[peer])
        theirs = self.exchange.shown("weights", ring, self.weights[party].shape)
        whole = ring.centred(self.weights[party] + theirs)
        if abs(whole).max() >> (config.precision.weight_bits + config.precision.integer_bits):
            raise Diverged(
                "a weight left the range of precision.integer_bits: lower the learning rate, "
                "standardise the data or raise integer_bits"
            )
        weights = np.ldexp(whole.astype(np.float64), -config.precision.weight_bits)
        intercept = context.role == "guest" and config.intercept
        columns = len(self.table.columns)
        return head | {
            "weights": weights[..., :columns].tolist(),
            "intercept": weights[..., -1].tolist() if intercept else None,
        }


def _in_hex(shares: Integers) -> Any:
    """A nested list of the shares' digits."""
    return np.array([hex(s) for s in shares.ravel()]).reshape(shares.shape).tolist()


def _label(config: SharedConfig, party: str, table: Table) -> NDArray[np.float64]:
    assert table.y is not None
    label = label_of(config.plain, party, table.y)
    if config.softmax:
        return label
    limit = 1 << config.precision.integer_bits
    least = 0 if config.type == "shared_poisson_regression" else 1 - limit
    if not bool(np.all((label >= least) & (label < limit))):
        raise DataError(
            f"{party}: labels must be from {least} to below {limit}, the bound of "
            "precision.integer_bits: standardise them or raise that"
        )
    return label
