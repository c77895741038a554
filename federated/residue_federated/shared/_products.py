"""The products of a training: of a party's own columns with shared weights and residuals.

Each party computes what its columns and its own shares give, and has the other's shares multiplied
in by `Exchange`. Bounds, with V for the bits of a number before it is masked: a feature is below
``2**(feature_bits + integer_bits)``, a share below ``2**bits`` of the ring, so a sum of k products
is below ``2**V`` for ``V = feature_bits + integer_bits + bits + bit_length(k)``.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt, prod

import numpy as np
from numpy.typing import NDArray

from residue_federated.shared._config import SharedPrecision
from residue_federated.shared._exchange import Exchange, Slots
from residue_federated.shared._ring import Integers, Ring, integers

__all__ = ["Products"]


@dataclass(frozen=True)
class Products:
    """Those of one party. own, peers: how many columns this party and the other have."""

    exchange: Exchange
    ring: Ring
    precision: SharedPrecision
    own: int
    peers: int

    def predictors(
        self, tag: str, x: NDArray[np.int64], own: Integers, peers: Integers
    ) -> Integers:
        """Shares of ``x @ w`` over both parties' columns, ``(..., rows)``.

        x: this party's columns. own, peers: this party's shares of its own and of the other's
        weights, ``(..., columns)``: one vector, or ``(classes, columns)``. Of the latter it offers
        ``used`` copies, each moved to the place of a slot, so that the other's matrix product gives
        packed numbers.
        """
        exchange, ring = self.exchange, self.ring
        mine, theirs = (self._forward(len(x), columns) for columns in (self.own, self.peers))
        stack = own.shape[:-1]
        copies = theirs.places[:, None] * peers[..., None, :]
        exchange.offer(f"w/{tag}", copies.reshape(*stack, -1))
        bits = ring.bits + (mine.used - 1) * mine.width
        c = exchange.take(f"w/{tag}", (*stack, mine.used * self.own), bits, ahead=len(x))
        matrix = x[mine.order].transpose(0, 2, 1).reshape(-1, mine.groups)
        part = exchange.answer(f"z/{tag}", c @ matrix, mine)
        rest = exchange.collect(f"z/{tag}", theirs, ahead=len(x), stack=stack)
        return ring.reduced(ring.product(x, own) + part + rest)

    def gradients(self, tag: str, x: NDArray[np.int64], d: Integers) -> tuple[Integers, Integers]:
        """Shares of ``x.T @ d`` for this party's columns, and of the same for the other's.

        d: this party's shares of the residuals, ``(..., rows)``; the products ``(..., columns)``.
        """
        exchange, ring, stack = self.exchange, self.ring, d.shape[:-1]
        sizes = [prod(stack) * columns for columns in (self.own, self.peers)]
        mine, theirs = (self._backward(len(x), size) for size in sizes)
        exchange.offer(f"d/{tag}", d)
        c = exchange.take(f"d/{tag}", d.shape, ring.bits, ahead=len(x))
        part = exchange.answer(f"g/{tag}", mine.packed((c @ x).ravel()), mine)
        rest = exchange.collect(f"g/{tag}", theirs, ahead=len(x))
        own = ring.product(x.T, d) + part.reshape(*stack, -1)
        return ring.reduced(own), ring.reduced(rest.reshape(*stack, -1))

    def square(self, tag: str, values: Integers) -> Integers:
        """Shares ``(1,)`` of the sum of squares of shared ``(n,)``, in the same order at both.

        The lead multiplies: ``(s + t)**2 = s**2 + 2 s t + t**2``.
        """
        exchange, ring = self.exchange, self.ring
        bits = 2 * ring.bits + 1 + len(values).bit_length()
        slots = Slots.plan(1, bits, exchange.key_bits)
        part = exchange.crossed(
            tag, values, ring.bits, slots, lambda c: c.multiply(2 * values).sum()
        )
        return ring.reduced(integers([int((values**2).sum())]) + part)

    def _forward(self, rows: int, columns: int) -> Slots:
        """A slot more costs its owner's peer an encryption a column and saves it decryptions."""
        bits = self._bits(columns)
        most = max(1, isqrt(rows // columns))
        return Slots.plan(rows, bits, self.exchange.key_bits, most)

    def _backward(self, rows: int, products: int) -> Slots:
        return Slots.plan(products, self._bits(rows), self.exchange.key_bits)

    def _bits(self, summands: int) -> int:
        feature = self.precision.feature_bits + self.precision.integer_bits
        return self.ring.bits + feature + summands.bit_length()
