"""Vertical linear, logistic, Poisson and softmax regression by the masked four-step flow.

Each batch, with ``[x]`` for x under the arbiter's key:

1. hosts and guest form the residuals ``[d]`` at the guest (`residue_federated.linear._schemes`);
2. the guest sends ``[d]`` to every host;
3. guest and hosts compute ``[g] = [d] @ X``, pack it, add a secret mask and send it to the arbiter;
   every host sends the guest its share of the loss, the guest sends the arbiter the sum of all;
4. the arbiter decrypts, returns each its masked gradients, and after the last batch of an epoch
   decides on the loss whether to stop.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

import residue
from residue.paillier import concatenate, side_by_side
from residue_federated._context import Context, Outcome, Spec
from residue_federated._data import Table
from residue_federated._slots import Slots, draw_masks
from residue_federated.errors import AuditViolation, Diverged, ProtocolError
from residue_federated.linear._blinding import log_sum, total_loss
from residue_federated.linear._columns import Columns
from residue_federated.linear._config import LinearConfig
from residue_federated.linear._fixed import quantise
from residue_federated.linear._flow import flow
from residue_federated.linear._models import (
    Objective,
    Penalty,
    Updater,
    batches,
    label_of,
    metrics,
    stops,
)
from residue_federated.linear._one_vs_rest import agree_on_classes, run_one_vs_rest
from residue_federated.linear._predict import apply, judge, predictions, with_shares
from residue_federated.linear._schemes import Poisson, Quadratic, ResidualFormat, Scheme
from residue_federated.linear._softmax import Softmax
from residue_federated.linear._twin import twin
from residue_federated.proto import v1

__all__ = ["apply", "flow", "judge", "predictions", "run", "twin"]

_Keys = tuple[residue.PublicKey, residue.PrivateKey | None]


def run(context: Context, config: LinearConfig, table: Table | None) -> Outcome:
    """This party's part of the training.

    Raises `DataError` before anything is encrypted if a host's rows are not the guest's, values are
    missing or the label is not what the model takes; `Diverged` if training leaves its range.
    """
    if config.one_vs_rest:
        once = partial(_run_once, config, _keys(context))
        return run_one_vs_rest(context, config.epochs, table, once)
    return _run_once(config, None, context, table)


def _run_once(
    config: LinearConfig, keys: _Keys | None, context: Context, table: Table | None
) -> Outcome:
    """keys: None to agree on new ones."""
    if table is None:
        return _Arbiter(context, config, keys).train()
    table.require_complete(context.party)
    return (_Guest if context.role == "guest" else _Host)(context, config, table, keys).train()


def _keys(context: Context) -> _Keys:
    """New ones of the arbiter, whole there, the public half elsewhere."""
    arbiter = context.arbiter
    assert arbiter is not None
    if context.party == arbiter:
        return context.make_key(context.others)
    return context.line.receive_key(arbiter, context.job.key.bits), None


@dataclass(frozen=True)
class _Batch:
    """One batch at a guest or host.

    tag: its place in the job. last: whether it ends an epoch. rows: their indices. slots: how its
    gradients are packed. sent, others: ciphertexts that leave the party for the residuals, and
    besides. later: those of the next batch.
    """

    tag: str
    last: bool
    rows: NDArray[np.int64]
    slots: Slots
    sent: int
    others: int
    later: int


class _Side:
    """What guest and host do alike: their columns, their weights, their gradients."""

    def __init__(
        self, context: Context, config: LinearConfig, table: Table, keys: _Keys | None
    ) -> None:
        self.keys = keys
        self.context = context
        self.config = config
        self.line = context.line
        self.table = table
        self.label = None if table.y is None else label_of(config, context.party, table.y)
        self.penalised = table.x.shape[1]
        columns: list[NDArray[np.float64]] = []
        if self.label is not None and config.intercept:
            columns.append(np.ones(len(table.ids)))
        self.trained = self.penalised + len(columns)
        self.weights = np.zeros(self.trained)
        self.format = _format(context, config)
        self.scheme: Scheme
        if self.format.blinding is not None:
            self.scheme = Softmax(self, self.format.blinding)
        elif config.type == "poisson_regression":
            self.scheme = Poisson(self)
        else:
            self.scheme = Quadratic(self)
            if self.label is not None:
                columns.append(self.label)
                objective = Objective.of(config)
                fixed = objective.y_factor / objective.u_factor
                self.weights = np.append(self.weights, fixed)
        self.x = Columns(table.x, *columns)
        self.columns = quantise(self.x, config.precision.feature_bits)
        self.penalty = Penalty.of(config, self.penalised)
        self.gradients: list[list[int]] = []

    def begin(self) -> tuple[int, dict[str, Any]]:
        """Meet the others: same rows, where to go on, the key. Returns epochs done and the state.

        The state is empty at a fresh start.
        """
        assert self.context.arbiter is not None
        done, state = self.context.restored() or (0, {})
        self.context.agree_on_rows(self.table)
        if self.config.type == "softmax_regression":
            classes = agree_on_classes(self.context, self.table, self.context.hosts)
            self.weights = np.zeros((classes, self.trained))
        self.updater = Updater(self.config.optimiser, self.weights[..., : self.trained].shape)
        shape = np.array([len(self.x), self.weights[..., : self.trained].size])
        self.line.send_record(self.context.arbiter, "shape", shape=shape)
        self.key, _ = self.keys or _keys(self.context)
        self.scheme.begin()
        if done:
            self.weights[..., : self.trained] = state["weights"]
            self.updater.restore(state["mean"], state["square"], state["steps"])
        return done, state

    def save(self, done: int, **more: Any) -> None:
        """A checkpoint after `done` epochs."""
        state = {"weights": self.weights[..., : self.trained], **self.updater.state, **more}
        self.context.checkpoint(done, state)

    def masked(
        self, g: residue.CiphertextArray, slots: Slots
    ) -> tuple[residue.CiphertextArray, list[int]]:
        """`g` packed, with masks added that only this party knows."""
        packed = side_by_side(g, slots.width, slots.count)
        masks = draw_masks(slots.groups, self.key.bits)
        return packed + np.array(masks, dtype=object), masks

    def batches(self, epoch: int) -> Iterator[_Batch]:
        """The batches of an epoch, from 0."""
        plan = list(batches(self.config, len(self.x), epoch))
        for number, rows in enumerate(plan):
            size = self.weights[..., : self.trained].size
            slots = _slots(self.format, self.config, self.key, len(rows), size)
            last = number + 1 == len(plan)
            final = epoch + 1 == self.config.epochs and last
            others = slots.groups + 1
            sent = self.scheme.sent(len(rows))
            later = 0 if final else sent + others
            yield _Batch(f"{epoch}/{number}", last, rows, slots, sent, others, later)

    def update(self, gradients: list[int], rows: int) -> None:
        """One step with unmasked gradients."""
        gradients, unit = self.format.kept(gradients)
        if self.context.trace:
            self.gradients.append(gradients)
        weights = self.weights[..., : self.trained]
        gradient = np.array([float(g) for g in gradients]).reshape(weights.shape)
        gradient /= self.columns.scale[: self.trained]
        gradient /= rows / unit
        gradient += self.penalty.gradient(weights)
        thresholds = self.penalty.thresholds(weights)
        self.weights[..., : self.trained] = self.updater.move(weights, gradient, thresholds)

    def unmasked(
        self, tag: str, masks: list[int], slots: Slots, idle: Any = None
    ) -> tuple[list[int], v1.MaskedPlaintexts]:
        """Gradients from the arbiter's answer, masks taken off.

        Raises `AuditViolation` if they are larger than the precision allows.
        """
        arbiter = self.context.arbiter
        assert arbiter is not None
        reply = self.line.receive_payload(arbiter, tag, "masked_plaintexts", idle).masked_plaintexts
        if len(reply.values) != len(masks):
            raise ProtocolError(f"{arbiter} sent {len(reply.values)} values, expected {len(masks)}")
        values = [int.from_bytes(value, "little", signed=True) for value in reply.values]
        plain = [value - mask for value, mask in zip(values, masks, strict=True)]
        bits = slots.width * slots.count
        if any(abs(value) >> bits for value in plain):
            text = f"{arbiter} sent '{tag}' with a gradient out of range: beyond {bits} bits"
            raise AuditViolation(text, arbiter, "data")
        return slots.unpack(plain), reply

    def model(self) -> dict[str, Any]:
        """This party's share of the model, for scaled columns."""
        intercept = self.trained > self.penalised
        return {
            "columns": self.table.columns,
            "weights": self.weights[..., : self.penalised].tolist(),
            "intercept": self.weights[..., self.penalised].tolist() if intercept else None,
            **self.table.scalings(),
        }


class _Guest(_Side):
    """Labels, residuals, scores."""

    def train(self) -> Outcome:
        """All epochs, then the scores of all parties together."""
        context = self.context
        done, state = self.begin()
        losses: list[float] = state["losses"] if done else []
        stop = bool(losses) and stops(self.config, losses)
        context.progress(done, self.config.epochs, losses[-1] if losses else None)
        while not stop:
            reply, loss = v1.MaskedPlaintexts(), None
            for batch in self.batches(len(losses)):
                reply, loss = self._batch(batch, loss)
            if not reply.HasField("loss"):
                raise ProtocolError(f"{context.arbiter} did not send the loss of an epoch")
            losses.append(reply.loss)
            stop = reply.stop
            self.save(len(losses), losses=losses)
            context.progress(len(losses), self.config.epochs, reply.loss)
        scores = self.x[:, : self.trained] @ self.weights[..., : self.trained].T
        scores = with_shares(context, scores)
        y, u = self.table.y, scores
        assert y is not None
        if self.table.y_scaling is not None:
            y, u = self.table.y_scaling.undo(y), self.table.y_scaling.undo(u)
        return Outcome(
            model=self.model(),
            rounds=len(losses),
            losses=losses,
            metrics=metrics(self.config, y, u),
            scores=u,
            trace=self.gradients,
        )

    def _batch(
        self, batch: _Batch, before: residue.CiphertextArray | None
    ) -> tuple[v1.MaskedPlaintexts, residue.CiphertextArray]:
        """The arbiter's answer, and the loss of the epoch so far; `before` without this batch.

        The arbiter gets the loss with the last batch alone: that of a few rows tells of them.
        """
        line, hosts, arbiter = self.line, self.context.hosts, self.context.arbiter
        assert arbiter is not None
        tag, rows, key = batch.tag, batch.rows, self.key
        d = self.scheme.residuals(tag, rows, batch.sent + batch.others)
        line.broadcast(hosts, f"d/{tag}", d)
        g = d.T @ self.columns.q[rows]
        loss = self.scheme.loss(d, g, rows)
        masked, masks = self.masked(g[..., : self.trained].ravel(), batch.slots)
        idle = line.precompute(key, batch.others + batch.later)
        for host in hosts:
            loss = loss + line.receive(host, f"loss/{tag}", key, (1,), idle=idle)[0]
        if before is not None:
            loss = loss + before
        line.send(arbiter, f"g/{tag}", masked, *([loss] if batch.last else []))
        # Not a moment to prepare more: arbiter and hosts may share this machine's cores, and the
        # wait for the hosts' next shares is longer.
        gradients, reply = self.unmasked(f"g/{tag}", masks, batch.slots)
        self.update(gradients, len(rows))
        return reply, loss


class _Host(_Side):
    """Its share of the residuals."""

    def train(self) -> Outcome:
        """All epochs, then its share of the scores."""
        context, line, guest = self.context, self.line, self.context.guest
        arbiter = context.arbiter
        assert arbiter is not None
        epoch, state = self.begin()
        stop = bool(state.get("stop", False))
        context.progress(epoch, self.config.epochs)
        while not stop:
            for batch in self.batches(epoch):
                tag, rows, key = batch.tag, batch.rows, self.key
                self.scheme.share(tag, rows)
                idle = line.precompute(key, batch.others + batch.later)
                shape = (len(rows), *self.weights.shape[:-1])
                (d,) = line.receive(guest, f"d/{tag}", key, shape, idle=idle)
                g = d.T @ self.columns.q[rows]
                line.send(guest, f"loss/{tag}", self.scheme.loss(d, g, rows))
                masked, masks = self.masked(g.ravel(), batch.slots)
                line.send(arbiter, f"g/{tag}", masked)
                idle = line.precompute(key, batch.later)
                gradients, reply = self.unmasked(f"g/{tag}", masks, batch.slots, idle)
                self.update(gradients, len(rows))
                stop = reply.stop
            epoch += 1
            self.save(epoch, stop=stop)
            context.progress(epoch, self.config.epochs)
        line.send_record(guest, "scores", scores=self.x @ self.weights.T)
        return Outcome(model=self.model(), rounds=epoch, trace=self.gradients)


class _Arbiter:
    """Keys, decryption, the decision to stop.

    It decrypts what the algorithm asks for and no more: per batch the masked gradients of each
    party, in the number of ciphertexts that follows from the job, and one loss.
    """

    def __init__(self, context: Context, config: LinearConfig, keys: _Keys | None) -> None:
        self.keys = keys
        self.context = context
        self.config = config
        self.format = _format(context, config)

    def train(self) -> Outcome:
        """All epochs."""
        context, config, line = self.context, self.config, self.context.line
        done, state = context.restored() or (0, {})
        losses: list[float] = state["losses"] if done else []
        sizes = self._sizes()
        rows = sizes[context.guest][0]
        _, secret = self.keys or _keys(context)
        assert secret is not None
        context.progress(done, config.epochs, losses[-1] if losses else None)
        while not losses or not stops(config, losses):
            plan = list(batches(config, rows, len(losses)))
            logs = 0
            for number, batch in enumerate(plan):
                place = f"{len(losses)}/{number}"
                logs += self._invert(f"s/{place}", len(batch), secret)
                tag = f"g/{place}"
                last = number == len(plan) - 1
                answers, loss = self._decrypted(tag, len(batch), sizes, secret, last=last)
                if last:
                    losses.append(self._loss(loss, logs, rows) / rows)
                    if not math.isfinite(losses[-1]):
                        raise Diverged("the loss is not finite: lower the learning rate")
                for peer, values in answers.items():
                    reply = v1.MaskedPlaintexts(
                        values=[_signed_bytes(value) for value in values],
                        stop=last and stops(config, losses),
                        loss=losses[-1] if last and peer == context.guest else None,
                    )
                    line.send_payload(peer, tag, v1.Payload(masked_plaintexts=reply))
            context.checkpoint(len(losses), {"losses": losses})
            context.progress(len(losses), config.epochs, losses[-1])
        return Outcome(rounds=len(losses), losses=losses)

    def _sizes(self) -> dict[str, tuple[int, int]]:
        """Rows and number of gradients of each party with data, guest first."""
        sizes = {}
        for peer in (self.context.guest, *self.context.hosts):
            record = self.context.line.receive_record(peer, "shape", shape=Spec("i8", (2,)))
            rows, columns = record["shape"].tolist()
            if not (2 <= rows <= _MOST_ROWS and 1 <= columns <= _MOST_COLUMNS):
                raise ProtocolError(f"{peer} claims a table of {rows} rows and {columns} columns")
            sizes[peer] = (rows, columns)
        if len({rows for rows, _ in sizes.values()}) > 1:
            raise ProtocolError("the parties claim tables of different numbers of rows")
        return sizes

    def _invert(self, tag: str, rows: int, secret: residue.PrivateKey) -> int:
        """Softmax only: reciprocals of the guest's hidden sums; the sum of their logarithms."""
        blinding, line, guest = self.format.blinding, self.context.line, self.context.guest
        if blinding is None:
            return 0
        (sums,) = line.receive(guest, tag, secret.public_key, (rows,))
        values = secret.decrypt(sums, dtype=object).tolist()
        if not blinding.fits(values):
            text = f"{guest} sent '{tag}' with a sum out of range: beyond {blinding.most_bits} bits"
            raise AuditViolation(text, guest, "data")
        answer = secret.encrypt(blinding.reciprocals(values))
        line.send(guest, tag, answer.widened(blinding.reciprocal_bits))
        return log_sum(values)

    def _decrypted(
        self,
        tag: str,
        rows: int,
        sizes: dict[str, tuple[int, int]],
        secret: residue.PrivateKey,
        *,
        last: bool,
    ) -> tuple[dict[str, list[int]], int]:
        """Masked gradients by party, and with the last batch of an epoch its loss, else 0."""
        context = self.context
        packed: list[residue.CiphertextArray] = []
        for peer, (_, columns) in sizes.items():
            slots = _slots(self.format, self.config, secret.public_key, rows, columns)
            shapes = [(slots.groups,), *([(1,)] if last and peer == context.guest else [])]
            packed += context.line.receive(peer, tag, secret.public_key, *shapes)
        plain = _decrypt_together(secret, packed)
        loss = plain.pop(1)[0] if last else 0
        return dict(zip([context.guest, *context.hosts], plain, strict=True)), loss

    def _loss(self, fixed: int, logs: int, rows: int) -> float:
        """The sum of the loss over all rows. logs: of softmax, those of the hidden sums."""
        if self.format.blinding is not None:
            return total_loss(fixed + logs)
        loss = fixed / 2.0**self.format.loss
        if self.config.type == "poisson_regression":
            return loss
        objective = Objective.of(self.config)
        return objective.offset * rows + objective.square_factor * loss


_MOST_ROWS = 1 << 31
_MOST_COLUMNS = 1 << 20


def _decrypt_together(
    secret: residue.PrivateKey, arrays: list[residue.CiphertextArray]
) -> list[list[int]]:
    """Exact plaintexts of several arrays, decrypted as one batch."""
    joined = concatenate([a.ravel() for a in arrays])
    values = secret.decrypt(joined, dtype=object).tolist()
    ends = np.cumsum([a.size for a in arrays]).tolist()
    return [values[end - a.size : end] for a, end in zip(arrays, ends, strict=True)]


def _signed_bytes(value: int) -> bytes:
    return value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)


def _format(context: Context, config: LinearConfig) -> ResidualFormat:
    return ResidualFormat.of(config, 1 + len(context.hosts), context.job.key.bits)


def _slots(
    form: ResidualFormat, config: LinearConfig, key: residue.PublicKey, rows: int, gradients: int
) -> Slots:
    return Slots.plan(
        config.precision,
        key_bits=key.bits,
        rows=rows,
        magnitude=form.magnitude,
        gradients=gradients,
        bound_bits=0 if form.blinding is None else form.blinding.bound_bits,
    )
