"""How the parties form encrypted residuals and losses: for quadratic losses, and for Poisson's.

A scheme belongs to one party and one training. It knows the party's columns and reads its weights,
which change.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

import residue
from residue.paillier import BOUND_STEP
from residue_federated._context import Context
from residue_federated.errors import DataError
from residue_federated.linear._blinding import LOG_BITS, Blinding
from residue_federated.linear._columns import Columns
from residue_federated.linear._config import LinearConfig
from residue_federated.linear._fixed import (
    LOSS_BITS,
    LOSS_WIDTH,
    Quantised,
    encode_residual_share,
    loss_coefficients,
)
from residue_federated.linear._models import MOST_CLASSES, Objective, Penalty

__all__ = [
    "Moments",
    "Poisson",
    "Quadratic",
    "ResidualFormat",
    "Scheme",
    "Side",
    "loss_bits",
    "multiplied",
    "penalty_of",
    "share_bits",
]

Ciphertexts = residue.CiphertextArray

_ROW_BITS = 31
_LABEL_BITS = 36
"""Fractional bits of a label that are kept; those that a finer unit has beyond are zeros."""
_SPARE = 12
"""Fractional bits of a softmax gradient beyond those of a factor."""


@dataclass(frozen=True)
class ResidualFormat:
    """Fixed point of residuals and of the loss.

    A residual has `fraction` fractional bits and is no larger than `magnitude` in that unit; the
    label, where it is encrypted, has `label` fractional bits; the loss has `loss`. Of a decrypted
    gradient the last `dropped` bits are rounded away. blinding: where an arbiter inverts sums.
    """

    fraction: int
    magnitude: int
    label: int
    dropped: int = 0
    blinding: Blinding | None = None

    @property
    def loss(self) -> int:
        """Fractional bits of the loss: a label or residual times a coefficient of the loss."""
        return self.label + LOSS_BITS

    def kept(self, gradients: Sequence[int]) -> tuple[list[int], float]:
        """Decrypted gradients in fewer bits, and their unit."""
        if not self.dropped:
            return list(gradients), 2.0**-self.fraction
        half = 1 << (self.dropped - 1)
        return [(g + half) >> self.dropped for g in gradients], 2.0 ** (
            self.dropped - self.fraction
        )

    @classmethod
    def of(cls, config: LinearConfig, parties: int, key_bits: int) -> ResidualFormat:
        """The format of a model that so many parties with data train.

        Quadratic losses add the parties' shares; Poisson's and softmax multiply factors.
        """
        fraction = config.precision.residual_bits
        whole = fraction + config.precision.integer_bits
        if config.type == "softmax_regression":
            rounding = (parties + 3) * BOUND_STEP  # of a bound, at every message on the way
            blinding = Blinding.plan(
                fraction=parties * fraction,
                sum_bits=parties * whole + MOST_CLASSES.bit_length(),
                later_bits=parties * whole + config.precision.feature_bits + _ROW_BITS + rounding,
                key_bits=key_bits,
            )
            shift = blinding.shift
            dropped = shift - fraction - _SPARE
            return cls(shift, 2 << shift, LOG_BITS - LOSS_BITS, dropped, blinding)
        if config.type != "poisson_regression":
            return cls(fraction, parties << whole, fraction)
        fine = parties * fraction
        largest = (1 << parties * whole) + (1 << fine + config.precision.integer_bits)
        # So fine a label that its share of the loss has a unit that the others' can be brought to.
        return cls(fine, largest, max(fraction, fine - LOSS_BITS))


class Side(Protocol):
    """What a scheme knows of its party."""

    context: Context
    config: LinearConfig
    key: residue.PublicKey
    x: Columns
    weights: NDArray[np.float64]
    trained: int
    penalised: int
    columns: Quantised
    label: NDArray[np.float64] | None
    format: ResidualFormat


class Scheme(Protocol):
    """One way to form residuals."""

    def begin(self) -> None:
        """What is exchanged once, before the first batch."""

    def sent(self, rows: int) -> int:
        """Ciphertexts that leave this party until the residuals of so many rows are everywhere."""

    def share(self, tag: str, rows: NDArray[np.int64]) -> None:
        """A host's part of the residuals of `rows`, sent to whom it concerns."""

    def residuals(self, tag: str, rows: NDArray[np.int64], prepared: int) -> Ciphertexts:
        """At the guest: the residuals ``(rows,)``, from the hosts' parts and its own.

        prepared: how much randomness to make ready while waiting.
        """

    def loss(self, d: Ciphertexts, g: Ciphertexts, rows: NDArray[np.int64]) -> Ciphertexts:
        """This party's share ``(1,)`` of the loss summed over `rows`, in `ResidualFormat.loss`.

        d: residuals; g: gradients of all columns of ``columns.q``.
        """


def penalty_of(side: Side) -> float:
    """What the penalty of this party's weights adds to the mean loss."""
    return Penalty.of(side.config, side.penalised).value(side.weights)


def share_bits(side: Side) -> int:
    """Of a party's share of a residual, or of its factor, whatever it is."""
    precision = side.config.precision
    return precision.residual_bits + precision.integer_bits + 1


def multiplied(side: Side, before: Ciphertexts, factor: NDArray[np.int64]) -> Ciphertexts:
    """`before` times this party's factors, with a bound that does not depend on them."""
    return before.multiply(factor).widened(before.bound.bit_length() + share_bits(side))


def loss_bits(side: Side, bound: int, rows: int) -> int:
    """Of a share of the loss over so many rows, whatever the columns and weights are.

    bound: of what they are multiplied with, residuals or labels.
    """
    features = side.config.precision.feature_bits + side.weights.shape[-1].bit_length()
    return bound.bit_length() + rows.bit_length() + features + LOSS_WIDTH


class Moments:
    """``[y] @ X`` of batches of rows, from the label under encryption, at a host."""

    def __init__(self, side: Side, label: Ciphertexts) -> None:
        self._side = side
        self._label = label
        self._known: dict[str, Ciphertexts] = {}
        self.bound = label.bound

    def of(self, rows: NDArray[np.int64]) -> Ciphertexts:
        """Of one batch, ``(columns,)`` or ``(classes, columns)``; kept where no epoch shuffles."""
        place = f"{rows[0]}:{len(rows)}"
        moments = self._known.get(place)
        if moments is None:
            moments = self._label[rows].T.matmul(self._side.columns.q[rows])
            if self._side.config.shuffle_seed is None:
                self._known[place] = moments
        return moments


class Quadratic:
    """Shares of the residual add up: ``d = u_factor * u + y_factor * y``.

    The label is one more column of the guest with a weight that is never trained, so residuals and
    loss need no case of their own for it: ``sum of d**2 = sum over parties of g @ w``.
    """

    def __init__(self, side: Side) -> None:
        self._side = side
        self._objective = Objective.of(side.config)

    def begin(self) -> None:
        """Nothing."""

    def sent(self, rows: int) -> int:
        """One a row."""
        return rows

    def share(self, tag: str, rows: NDArray[np.int64]) -> None:
        """Its share, encrypted, to the guest."""
        side = self._side
        share = side.key.encrypt(self._encoded(rows)).widened(share_bits(side))
        side.context.line.send(side.context.guest, f"u/{tag}", share)

    def residuals(self, tag: str, rows: NDArray[np.int64], prepared: int) -> Ciphertexts:
        """The sum of all shares."""
        side, line = self._side, self._side.context.line
        idle = line.precompute(side.key, prepared)
        shape = (len(rows),)
        shares = [
            line.receive(host, f"u/{tag}", side.key, shape, idle=idle)[0]
            for host in side.context.hosts
        ]
        d = sum(shares[1:], shares[0]) + self._encoded(rows)
        return d.widened(share_bits(side) + BOUND_STEP + len(shares).bit_length())

    def loss(self, d: Ciphertexts, g: Ciphertexts, rows: NDArray[np.int64]) -> Ciphertexts:
        """A product of the gradients with this party's own weights."""
        side, objective = self._side, self._objective
        weights = objective.u_factor * side.weights
        unit = 2.0**side.format.loss
        constant = round(len(rows) * penalty_of(side) / objective.square_factor * unit)
        share = (g @ loss_coefficients(weights, side.columns.scale)[:, None]) + constant
        return share.widened(loss_bits(side, d.bound, len(rows)))

    def _encoded(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        side = self._side
        share = self._objective.u_factor * side.x[rows] @ side.weights
        return encode_residual_share(share, side.config.precision)


class Poisson:
    """Shares of the mean multiply: ``d = product over parties of exp(u_p) - y``.

    The first host encrypts its factor, each further one and the guest multiply theirs in, so the
    mean is formed without a Taylor series. The loss of a row is ``exp(u) - y u``: the guest has the
    sum of the first term, and each party's part of the second is ``w_p @ (X_p.T @ y)``, for which
    the guest sends the label encrypted, once.
    """

    def __init__(self, side: Side) -> None:
        self._side = side
        self._format = side.format
        self._moments: Moments | None = None

    def begin(self) -> None:
        """The encrypted label, from the guest to all hosts."""
        side, line = self._side, self._side.context.line
        if side.label is None:
            shape = (len(side.x),)
            (label,) = line.receive(side.context.guest, "y", side.key, shape)
            self._moments = Moments(side, label)
            return
        limit = 1 << side.config.precision.integer_bits
        if not bool(np.all((side.label >= 0) & (side.label < limit))):
            raise DataError(
                f"{side.context.party}: the labels of Poisson regression must be from 0 to below "
                f"{limit}, the bound of precision.integer_bits"
            )
        label = side.key.encrypt(self._encoded_label())
        bits = side.format.label + side.config.precision.integer_bits
        line.broadcast(side.context.hosts, "y", label.widened(bits))

    def sent(self, rows: int) -> int:
        """One a row."""
        return rows

    def share(self, tag: str, rows: NDArray[np.int64]) -> None:
        """The factors so far, to the next host or the guest."""
        side, line = self._side, self._side.context.line
        chain = [*side.context.hosts, side.context.guest]
        at = chain.index(side.context.party)
        factor = self._factor(rows)
        if at == 0:
            line.send(chain[1], f"u/{tag}", side.key.encrypt(factor).widened(share_bits(side)))
            return
        (before,) = line.receive(chain[at - 1], f"u/{tag}", side.key, (len(rows),))
        line.send(chain[at + 1], f"u/{tag}", multiplied(side, before, factor))

    def residuals(self, tag: str, rows: NDArray[np.int64], prepared: int) -> Ciphertexts:
        """The mean of all parties, less the label."""
        side, line = self._side, self._side.context.line
        assert side.label is not None
        idle = line.precompute(side.key, prepared)
        last = side.context.hosts[-1]
        (before,) = line.receive(last, f"u/{tag}", side.key, (len(rows),), idle=idle)
        product = multiplied(side, before, self._factor(rows))
        d = product - self._finest_label(rows)
        return d.widened(product.bound.bit_length() + 1)

    def loss(self, d: Ciphertexts, g: Ciphertexts, rows: NDArray[np.int64]) -> Ciphertexts:
        """At the guest the sum of the means; everywhere the label's part and the penalty."""
        side = self._side
        unit = self._format.loss
        if side.label is None:
            assert self._moments is not None
            moments = self._moments.of(rows)
            coefficients = loss_coefficients(-side.weights, side.columns.scale)[:, None]
            constant = round(math.ldexp(len(rows) * penalty_of(side), unit))
            share = (moments @ coefficients) + constant
            return share.widened(loss_bits(side, self._moments.bound, len(rows)))
        y = side.label[rows]
        rest = len(rows) * penalty_of(side) - float(y @ (side.x[rows] @ side.weights))
        shift = unit - self._format.fraction
        constant = round(math.ldexp(rest, unit)) + (int(self._finest_label(rows).sum()) << shift)
        return (d.sum() << shift).reshape(1) + constant

    def _factor(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        side = self._side
        with np.errstate(over="ignore"):  # an infinite factor is refused in words
            share = np.exp(side.x[rows] @ side.weights)
        return encode_residual_share(share, side.config.precision)

    def _encoded_label(self) -> NDArray[Any]:
        """The label as the hosts get it, encrypted: integers, which may pass 64 bits."""
        assert self._side.label is not None
        # Below 2**16 * 2**36: a float64 has all of its bits, and an int64 room.
        short = min(self._format.label, _LABEL_BITS)
        steps = np.rint(np.ldexp(self._side.label, short)).astype(np.int64)
        rest = self._format.label - short
        return np.asarray(steps.astype(object) << rest if rest else steps)

    def _finest_label(self, rows: NDArray[np.int64]) -> NDArray[np.object_]:
        """The label in the residual's unit, which may pass 64 bits."""
        finer = 1 << (self._format.fraction - self._format.label)
        return np.asarray(self._encoded_label()[rows].astype(object) * finer)
