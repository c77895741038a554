"""Residuals and loss of softmax regression, exact: no series stands for the exponentials.

Of a row, u_k is the sum over parties of ``x_p @ W_p[k]``. Each party p has the factors
``e_pk = exp(u_pk - c_p)``, where no probability depends on c_p: the mean of its u_pk over classes,
or more where a factor would leave its range. Then, per batch:

1. the hosts multiply their factors one after the other, as in Poisson's chain, and the guest its
   own, which gives ``[E_k]``, and their sum over classes ``[S]``; were all c_p means, it would be
   the number of classes at least;
2. the arbiter returns ``[1 / S]``, of sums that the guest has hidden (`Blinding`);
3. the same chain, begun with ``[1 / S]`` by the guest, gives the probabilities ``[p_k]``, and the
   guest subtracts the label.

The loss of a row is ``log S + sum_p (c_p - u_py)``, y its class. The arbiter has the sum of all
``log N``, the guest what its factors add to it, and each party the rest as in Poisson's.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

import residue
from residue_federated.errors import Diverged
from residue_federated.linear._blinding import LOG_BITS, Blind, Blinding
from residue_federated.linear._fixed import LOSS_BITS, encode_residual_share, loss_coefficients
from residue_federated.linear._schemes import (
    Moments,
    Side,
    loss_bits,
    multiplied,
    penalty_of,
    share_bits,
)

__all__ = ["Softmax"]

Ciphertexts = residue.CiphertextArray


class Softmax:
    """The scheme of one party: weights ``(classes, columns)``, residuals ``(rows, classes)``."""

    def __init__(self, side: Side, blinding: Blinding) -> None:
        self._side = side
        self._blinding = blinding
        self._moments: Moments | None = None
        self._blind: Blind | None = None

    def begin(self) -> None:
        """The encrypted label, a column of 0 and 1 for each class, from the guest to all hosts."""
        side, line = self._side, self._side.context.line
        if side.label is None:
            shape = (len(side.x), len(side.weights))
            (label,) = line.receive(side.context.guest, "y", side.key, shape)
            self._moments = Moments(side, label)
        else:
            label = side.key.encrypt(self._indicator(np.arange(len(side.x))))
            line.broadcast(side.context.hosts, "y", label)

    def sent(self, rows: int) -> int:
        """The guest: hidden sums, reciprocals, residuals; a host: its place in both chains."""
        each = len(self._side.weights) * rows
        return 2 * each if self._side.label is None else 2 * rows + each

    def share(self, tag: str, rows: NDArray[np.int64]) -> None:
        """This host's place in both chains."""
        side, line = self._side, self._side.context.line
        factor = self._factor(rows)
        chain = [*side.context.hosts, side.context.guest]
        at = chain.index(side.context.party)
        if at == 0:
            line.send(chain[1], f"u/{tag}", side.key.encrypt(factor).widened(share_bits(side)))
            (inverse,) = line.receive(side.context.guest, f"p/{tag}", side.key, (len(rows),))
            before = inverse.reshape(-1, 1)
        else:
            (before,) = line.receive(chain[at - 1], f"u/{tag}", side.key, factor.shape)
            line.send(chain[at + 1], f"u/{tag}", multiplied(side, before, factor))
            (before,) = line.receive(chain[at - 1], f"p/{tag}", side.key, factor.shape)
        line.send(chain[at + 1], f"p/{tag}", multiplied(side, before, factor))

    def residuals(self, tag: str, rows: NDArray[np.int64], prepared: int) -> Ciphertexts:
        """Probabilities less the label."""
        side, line, hosts = self._side, self._side.context.line, self._side.context.hosts
        arbiter = side.context.arbiter
        assert arbiter is not None
        factor, idle = self._factor(rows), line.precompute(side.key, prepared)
        self._blind = Blind(self._blinding, len(rows))
        (before,) = line.receive(hosts[-1], f"u/{tag}", side.key, factor.shape, idle=idle)
        sums = multiplied(side, before, factor).sum(axis=1)
        line.send(arbiter, f"s/{tag}", self._blind.hide(sums))
        (inverse,) = line.receive(arbiter, f"s/{tag}", side.key, sums.shape, idle=idle)
        line.send(hosts[0], f"p/{tag}", self._blind.reveal(inverse))
        (before,) = line.receive(hosts[-1], f"p/{tag}", side.key, factor.shape, idle=idle)
        one = 1 << self._blinding.shift
        return multiplied(side, before, factor) - self._indicator(rows).astype(object) * one

    def loss(self, d: Ciphertexts, g: Ciphertexts, rows: NDArray[np.int64]) -> Ciphertexts:
        """Its ``c_p - u_py`` and penalty; the guest's less what hides the sums and their unit."""
        side = self._side
        u, c = self._scores(rows)
        plain = float(c.sum()) + len(rows) * penalty_of(side)
        if self._moments is not None:
            coefficients = loss_coefficients(-side.weights, side.columns.scale).reshape(-1, 1)
            own = self._moments.of(rows).ravel() @ coefficients
            shift = LOG_BITS - LOSS_BITS
            share = (own << shift) + round(math.ldexp(plain, LOG_BITS))
            classes = len(side.weights).bit_length()
            return share.widened(loss_bits(side, self._moments.bound, len(rows)) + classes + shift)
        assert self._blind is not None
        plain -= float(u[self._indicator(rows).astype(np.bool_)].sum())
        plain -= len(rows) * self._blinding.fraction * math.log(2)
        constant = round(math.ldexp(plain, LOG_BITS)) - self._blind.log_sum
        return side.key.encrypt(np.array([constant], dtype=object))

    def _factor(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        u, c = self._scores(rows)
        return encode_residual_share(np.exp(u - c), self._side.config.precision)

    def _scores(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """This party's u ``(rows, classes)`` and c ``(rows, 1)``. Raises `Diverged`."""
        side = self._side
        u = side.x[rows] @ side.weights.T
        if not bool(np.isfinite(u).all()):
            raise Diverged("the scores left the range of numbers: lower the learning rate")
        largest = (side.config.precision.integer_bits - 2.0**-10) * math.log(2)
        mean = u.mean(axis=1, keepdims=True)
        return u, np.maximum(mean, u.max(axis=1, keepdims=True) - largest)

    def _indicator(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """``(rows, classes)``: 1 at a row's class."""
        assert self._side.label is not None
        classes = np.arange(len(self._side.weights))
        return np.asarray(self._side.label[rows, None] == classes, dtype=np.int64)
