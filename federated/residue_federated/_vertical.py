"""Vertical linear and logistic regression by the masked four-step flow.

Each batch, with ``[x]`` for x under the arbiter's key:

1. every host sends ``[u]``, its share of the residuals, to the guest;
2. the guest adds them to its own share and sends the residuals ``[d]`` to every host;
3. guest and hosts compute ``[g] = [d] @ X``, pack it, add a secret mask and send it to the arbiter;
   every host sends the guest its share of the loss, ``[g] @ w``; the guest sends the arbiter the
   sum of all shares, which is ``[sum of d**2]``;
4. the arbiter decrypts, returns each its masked gradients, and after the last batch of an epoch
   decides on the loss whether to stop.

The label enters as one more column of the guest with a weight that is never trained, so residuals
and loss need no case of their own for it.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

import residue
from residue.backends import Backend
from residue.errors import InsecureKeyWarning, InvalidCiphertext, KeyMismatch
from residue.paillier import concatenate
from residue_federated._data import Table
from residue_federated._fixed import (
    LOSS_BITS,
    Slots,
    draw_masks,
    encode_residual_share,
    loss_coefficients,
    quantise,
)
from residue_federated._jobs import Job
from residue_federated._models import Objective, Updater, batches, stops
from residue_federated._transport import Endpoint
from residue_federated.errors import DataError, Diverged, ProtocolError
from residue_federated.proto import v1

__all__ = ["Progress", "Trained", "run_arbiter", "run_guest", "run_host"]

_CHUNK = 64
"""Randomness made at a time while waiting: few enough to notice a message soon, and enough that a
card computes longer on a row of its table than it takes to read the row."""

Progress = Callable[[int, float | None], None]
"""Called after every epoch with its number from 1 and, at guest and arbiter, its loss."""


@dataclass
class Trained:
    """What a guest or host has at the end.

    weights: ``(columns,) float64``, for scaled columns. intercept: at the guest, if trained.
    losses: of each epoch, at the guest. scores: ``(rows,) float64``, the linear predictor of all
    parties together, at the guest. gradients: every decrypted gradient, as the integers they are.
    """

    weights: NDArray[np.float64]
    intercept: float | None = None
    losses: list[float] = field(default_factory=list)
    scores: NDArray[np.float64] | None = None
    gradients: list[list[int]] = field(default_factory=list)


@dataclass(frozen=True)
class _Batch:
    """One batch at a guest or host.

    tag: its place in the job. rows: their indices. slots: how its gradients are packed.
    others: ciphertexts that leave the party besides one a row. later: those of the next batch.
    """

    tag: str
    rows: NDArray[np.int64]
    slots: Slots
    others: int
    later: int


class _Side:
    """What guest and host do alike: their columns, their weights, their gradients."""

    def __init__(self, job: Job, table: Table, key: residue.PublicKey) -> None:
        self.job = job
        self.key = key
        self.objective = Objective.of(job)
        columns, weights, penalised = [table.x], [0.0] * table.x.shape[1], table.x.shape[1]
        if table.y is not None:
            if job.training.intercept:
                columns.append(np.ones((len(table.ids), 1)))
                weights.append(0.0)
            columns.append(table.y[:, None])
            weights.append(self.objective.y_factor / self.objective.u_factor)
        self.x = np.concatenate(columns, axis=1)
        self.weights = np.array(weights)
        self.trained = len(weights) - (table.y is not None)
        self.penalised = penalised
        self.columns = quantise(self.x, job.precision.feature_bits)
        self.updater = Updater(job.training.optimiser, self.trained)
        self.gradients: list[list[int]] = []

    def residual_share(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """This party's share of the residuals of `rows`, fixed point."""
        share = self.objective.u_factor * self.x[rows] @ self.weights
        return encode_residual_share(share, self.job.precision)

    def gradients_and_loss(
        self, d: residue.CiphertextArray, rows: NDArray[np.int64]
    ) -> tuple[residue.CiphertextArray, residue.CiphertextArray]:
        """``[g]`` of the trained columns, and the share of the loss."""
        g = d @ self.columns.q[rows]
        coefficients = loss_coefficients(self.objective.u_factor * self.weights, self.columns.scale)
        penalty = self.job.training.l2 / 2 * float(np.sum(self.weights[: self.penalised] ** 2))
        unit = 2.0 ** (self.job.precision.residual_bits + LOSS_BITS)
        constant = round(penalty * len(rows) / self.objective.square_factor * unit)
        return g[: self.trained], (g @ coefficients[:, None]) + constant

    def masked(
        self, g: residue.CiphertextArray, slots: Slots
    ) -> tuple[residue.CiphertextArray, list[int]]:
        """`g` packed, with masks added that only this party knows."""
        ordered = g[slots.order.ravel()].reshape(slots.count, slots.groups)
        packed = ordered[slots.count - 1]
        for t in range(slots.count - 2, -1, -1):
            packed = (packed << slots.width) + ordered[t]
        masks = draw_masks(slots.groups, self.key.bits)
        return packed + np.array(masks, dtype=object), masks

    def batches(self, epoch: int) -> Iterator[_Batch]:
        """The batches of an epoch, from 0."""
        plan = list(batches(self.job.training, len(self.x), epoch))
        for number, rows in enumerate(plan):
            slots = _slots(self.job, self.key, len(rows), self.trained)
            final = epoch + 1 == self.job.training.epochs and number + 1 == len(plan)
            others = slots.groups + 1
            later = 0 if final else len(rows) + others
            yield _Batch(f"{epoch}/{number}", rows, slots, others, later)

    def update(self, gradients: list[int], rows: int) -> None:
        """One step with unmasked gradients."""
        self.gradients.append(gradients)
        unit = 2.0**self.job.precision.residual_bits * rows
        gradient = np.array([float(g) for g in gradients]) / self.columns.scale[: self.trained]
        gradient /= unit
        gradient[: self.penalised] += self.job.training.l2 * self.weights[: self.penalised]
        self.weights[: self.trained] -= self.updater.step(gradient)


def _ciphertexts(*arrays: residue.CiphertextArray) -> v1.Payload:
    """The only way a ciphertext leaves a party: `to_bytes` re-randomises what is not fresh."""
    return v1.Payload(ciphertexts=v1.Ciphertexts(blocks=[a.to_bytes() for a in arrays]))


def _take(payload: v1.Payload, kind: str, sender: str) -> v1.Payload:
    if payload.WhichOneof("kind") != kind:
        raise ProtocolError(f"{sender} sent {payload.WhichOneof('kind')}, expected {kind}")
    return payload


class _Line:
    """An endpoint and a key: ciphertexts in, ciphertexts out."""

    def __init__(self, endpoint: Endpoint, key: residue.PublicKey) -> None:
        self.endpoint = endpoint
        self.key = key

    def send(self, peer: str, tag: str, *arrays: residue.CiphertextArray) -> None:
        self.endpoint.send(peer, tag, _ciphertexts(*arrays))

    def broadcast(self, peers: list[str], tag: str, array: residue.CiphertextArray) -> None:
        """The same ciphertexts to several peers, re-randomised once."""
        payload = _ciphertexts(array)
        for peer in peers:
            self.endpoint.send(peer, tag, payload)

    def precompute(self, count: int) -> Callable[[], bool]:
        """Work for idle moments: randomness for the next `count` ciphertexts, a few at a time."""

        def some() -> bool:
            missing = count - self.key.prepared
            if missing > 0:
                self.key.prepare(min(missing, _CHUNK))
            return missing > _CHUNK

        return some

    def receive(
        self, peer: str, tag: str, *shapes: tuple[int, ...], idle: Callable[[], bool] | None = None
    ) -> list[residue.CiphertextArray]:
        """Ciphertext arrays of the shapes that the algorithm expects; else `ProtocolError`."""
        payload = _take(self.endpoint.receive(peer, tag, idle=idle), "ciphertexts", peer)
        blocks = payload.ciphertexts.blocks
        try:
            arrays = [self.key.ciphertexts_from_bytes(block) for block in blocks]
        except (InvalidCiphertext, KeyMismatch) as error:
            raise ProtocolError(f"{peer} sent unusable ciphertexts as '{tag}': {error}") from error
        if [a.shape for a in arrays] != list(shapes):
            raise ProtocolError(
                f"{peer} sent ciphertexts of shapes {[a.shape for a in arrays]} as '{tag}', "
                f"expected {list(shapes)}"
            )
        return arrays

    def unmasked(
        self,
        peer: str,
        tag: str,
        masks: list[int],
        idle: Callable[[], bool] | None = None,
    ) -> tuple[list[int], v1.MaskedPlaintexts]:
        """The arbiter's answer, masks taken off."""
        payload = _take(self.endpoint.receive(peer, tag, idle=idle), "masked_plaintexts", peer)
        reply = payload.masked_plaintexts
        if len(reply.values) != len(masks):
            raise ProtocolError(f"{peer} sent {len(reply.values)} values, expected {len(masks)}")
        values = [int.from_bytes(value, "little", signed=True) for value in reply.values]
        return [value - mask for value, mask in zip(values, masks, strict=True)], reply


def run_guest(
    job: Job, endpoint: Endpoint, table: Table, device: str | Backend, progress: Progress
) -> Trained:
    """The guest's part: labels, residuals, scores.

    Raises `DataError` before training if a host's rows are not the guest's.
    """
    hosts, arbiter = [host.name for host in job.hosts], job.arbiter.name
    ours = _rows(job, table)
    for host in hosts:
        theirs = _take(endpoint.receive(host, "rows"), "rows", host).rows
        if theirs.count != ours.rows.count:
            raise DataError(
                f"row counts differ: {job.guest.name} has {ours.rows.count}, {host} has "
                f"{theirs.count}: align the tables first"
            )
        if theirs.digest != ours.rows.digest:
            raise DataError(
                f"{job.guest.name} and {host} have the same number of rows but other identifiers: "
                "align the tables first"
            )
    for peer in (*hosts, arbiter):
        endpoint.send(peer, "rows", ours)
    line = _open_line(endpoint, arbiter, device)
    side = _Side(job, table, line.key)
    losses: list[float] = []
    stop = False
    progress(0, None)
    while not stop:
        reply = v1.MaskedPlaintexts()
        for batch in side.batches(len(losses)):
            tag, rows, slots = batch.tag, batch.rows, batch.slots
            idle = line.precompute(len(rows) + batch.others)
            shares = [line.receive(h, f"u/{tag}", (len(rows),), idle=idle)[0] for h in hosts]
            d = sum(shares[1:], shares[0]) + side.residual_share(rows)
            line.broadcast(hosts, f"d/{tag}", d)
            g, loss = side.gradients_and_loss(d, rows)
            masked, masks = side.masked(g, slots)
            idle = line.precompute(batch.others + batch.later)
            for host in hosts:
                loss = loss + line.receive(host, f"loss/{tag}", (1,), idle=idle)[0]
            line.send(arbiter, f"g/{tag}", masked, loss)
            # Not a moment to prepare more: arbiter and hosts may share this machine's cores, and
            # the wait for the hosts' next shares is longer.
            plain, reply = line.unmasked(arbiter, f"g/{tag}", masks)
            side.update(slots.unpack(plain), len(rows))
        if not reply.HasField("loss"):
            raise ProtocolError(f"{arbiter} did not send the loss of an epoch")
        losses.append(reply.loss)
        stop = reply.stop
        progress(len(losses), reply.loss)
    scores = side.x[:, : side.trained] @ side.weights[: side.trained]
    for host in hosts:
        values = _take(endpoint.receive(host, "scores"), "scores", host).scores.values
        if len(values) != len(scores):
            raise ProtocolError(f"{host} sent {len(values)} scores, expected {len(scores)}")
        scores = scores + np.array(values)
    return Trained(
        side.weights[: side.penalised],
        float(side.weights[side.penalised]) if job.training.intercept else None,
        losses,
        scores,
        side.gradients,
    )


def run_host(
    job: Job,
    name: str,
    endpoint: Endpoint,
    table: Table,
    device: str | Backend,
    progress: Progress,
) -> Trained:
    """A host's part."""
    guest, arbiter = job.guest.name, job.arbiter.name
    for peer in (guest, arbiter):
        endpoint.send(peer, "rows", _rows(job, table))
    _take(endpoint.receive(guest, "rows"), "rows", guest)
    line = _open_line(endpoint, arbiter, device)
    side = _Side(job, table, line.key)
    epoch, stop = 0, False
    progress(0, None)
    while not stop:
        for batch in side.batches(epoch):
            tag, rows, slots = batch.tag, batch.rows, batch.slots
            line.send(guest, f"u/{tag}", line.key.encrypt(side.residual_share(rows)))
            idle = line.precompute(batch.others + batch.later)
            (d,) = line.receive(guest, f"d/{tag}", (len(rows),), idle=idle)
            g, loss = side.gradients_and_loss(d, rows)
            line.send(guest, f"loss/{tag}", loss)
            masked, masks = side.masked(g, slots)
            line.send(arbiter, f"g/{tag}", masked)
            idle = line.precompute(batch.later)
            plain, reply = line.unmasked(arbiter, f"g/{tag}", masks, idle)
            side.update(slots.unpack(plain), len(rows))
            stop = reply.stop
        epoch += 1
        progress(epoch, None)
    scores = side.x @ side.weights
    endpoint.send(guest, "scores", v1.Payload(scores=v1.Scores(values=scores.tolist())))
    return Trained(side.weights, gradients=side.gradients)


def run_arbiter(
    job: Job, endpoint: Endpoint, device: str | Backend, progress: Progress
) -> list[float]:
    """The arbiter's part: keys, decryption, the decision to stop. Returns the losses.

    It decrypts what the algorithm asks for and no more: per batch the masked gradients of each
    party, in the number of ciphertexts that follows from the job, and one loss.
    """
    guest, hosts = job.guest.name, [host.name for host in job.hosts]
    objective = Objective.of(job)
    unit = 2.0 ** (job.precision.residual_bits + LOSS_BITS)
    tables = {p: _take(endpoint.receive(p, "rows"), "rows", p).rows for p in (guest, *hosts)}
    rows = tables[guest].count
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InsecureKeyWarning)  # the command line has said so
        public, secret = residue.keygen(
            job.key.bits, insecure_allow_1024=job.key.insecure_allow_1024, device=device
        )
    for peer in tables:
        endpoint.send(peer, "key", v1.Payload(public_key=v1.PublicKey(data=public.to_bytes())))
    line = _Line(endpoint, public)
    losses: list[float] = []
    progress(0, None)
    while not losses or not stops(job.training, losses):
        total = 0.0
        for number, batch in enumerate(plan := list(batches(job.training, rows, len(losses)))):
            tag = f"g/{len(losses)}/{number}"
            last = number == len(plan) - 1
            packed = []
            for peer, table in tables.items():
                slots = _slots(job, public, len(batch), table.columns)
                shapes = [(slots.groups,), (1,)] if peer == guest else [(slots.groups,)]
                packed += line.receive(peer, tag, *shapes)
            plain = _decrypt_together(secret, packed)
            answers = {guest: plain.pop(0)}
            square = plain.pop(0)[0] / unit
            answers |= dict(zip(hosts, plain, strict=True))
            total += objective.offset * len(batch) + objective.square_factor * square
            if last:
                losses.append(total / rows)
                if not math.isfinite(losses[-1]):
                    raise Diverged("the loss is not finite: lower the learning rate")
            for peer, values in answers.items():
                reply = v1.MaskedPlaintexts(
                    values=[_signed_bytes(value) for value in values],
                    stop=last and stops(job.training, losses),
                    loss=losses[-1] if last and peer == guest else None,
                )
                endpoint.send(peer, tag, v1.Payload(masked_plaintexts=reply))
        progress(len(losses), losses[-1])
    return losses


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


def _rows(job: Job, table: Table) -> v1.Payload:
    """What aligned tables agree on, and how many gradients this party will ask for."""
    columns = table.x.shape[1] + (table.y is not None and job.training.intercept)
    digest = table.digest(job.digest)
    return v1.Payload(rows=v1.Rows(count=len(table.ids), digest=digest, columns=columns))


def _slots(job: Job, key: residue.PublicKey, rows: int, gradients: int) -> Slots:
    return Slots.plan(
        job.precision,
        key_bits=key.bits,
        rows=rows,
        parties=1 + len(job.hosts),
        gradients=gradients,
    )


def _open_line(endpoint: Endpoint, arbiter: str, device: str | Backend) -> _Line:
    """Wait for the arbiter's public key."""
    payload = _take(endpoint.receive(arbiter, "key"), "public_key", arbiter)
    key = residue.PublicKey.from_bytes(payload.public_key.data, device=device)
    return _Line(endpoint, key)
