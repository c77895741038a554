"""Reciprocals of encrypted numbers, by an arbiter that does not see the numbers.

The guest has ``[S]`` for positive integers S, the arbiter the private key. The guest multiplies
each by a secret factor and adds a secret rest, ``N = rho S + delta``, and sends the ``[N]`` in an
order that it draws anew. The arbiter decrypts and returns ``[floor(2**shift / N)]``; times rho,
that is ``[2**shift / S]`` but for a relative error below ``2**-EXACT``.

log2 of rho is uniform over `spread` bits, so to the arbiter two sums whose ratio is ``2**x`` differ
by a statistical distance of ``x / spread``, and it cannot tell which row a number belongs to. delta
is below ``rho / 2**EXACT`` and yet larger than S, so that N is no multiple of S to factor.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import gmpy2
import numpy as np
from numpy.typing import NDArray

import residue
from residue_federated.errors import Diverged, JobError

__all__ = ["EXACT", "LOG_BITS", "LOW", "Blind", "Blinding", "log_sum", "total_loss"]

EXACT = 88
"""What depends on rho is below this binary place, what the parties keep is far above it: models are
the same to the last bit whatever rho is, but for a chance below ``2**-20`` a job."""
LOW = 8
"""Sums of less than ``2**-LOW`` have no reciprocal here."""
LOG_BITS = 100
"""Fractional bits of a sum of logarithms."""
_LOSS_BITS = 40
"""Of them, those that a loss keeps."""
_HIDDEN = 40
"""delta has so many bits more than S: N modulo S is uniform within ``2**-_HIDDEN``."""
_MOST_SPREAD = 256
_LEAST_SPREAD = 64


@dataclass(frozen=True)
class Blinding:
    """Sizes of what the guest and the arbiter exchange.

    fraction: a sum S stands for ``S / 2**fraction``, ``2**-LOW`` at least. sum_bits: S has no more.
    later_bits: nor has what the reciprocals are multiplied with. spread: bits of the range of
    rho.
    """

    fraction: int
    sum_bits: int
    later_bits: int
    spread: int

    @classmethod
    def plan(cls, *, fraction: int, sum_bits: int, later_bits: int, key_bits: int) -> Self:
        """As much spread as the key leaves room for, up to 256 bits.

        Raises `JobError` if it is less than 64 bits.
        """
        without = cls(fraction, sum_bits, later_bits, 0)
        spread = min(_MOST_SPREAD, (key_bits - 8 - without.bound_bits) // 2)
        if spread < _LEAST_SPREAD:
            raise JobError(
                f"a key of {key_bits} bits is too short for softmax regression with these parties "
                "and this precision: take a longer one or fewer residual_bits and integer_bits"
            )
        return cls(fraction, sum_bits, later_bits, spread)

    @property
    def lowest(self) -> int:
        """rho is ``2**lowest`` at least."""
        return self.sum_bits + EXACT + _HIDDEN

    @property
    def most_bits(self) -> int:
        """N is below ``2**most_bits``."""
        return self.lowest + self.spread + self.sum_bits + 1

    @property
    def shift(self) -> int:
        """Reciprocals have so many fractional bits."""
        return self.most_bits + EXACT

    @property
    def bound_bits(self) -> int:
        """Of the bound of such a product: of the largest reciprocal times the largest rho."""
        return self.reciprocal_bits + self.lowest + self.spread + 1 + self.later_bits

    @property
    def reciprocal_bits(self) -> int:
        """Of the largest reciprocal of an N."""
        return self.shift - self.lowest - self.fraction + LOW + 1

    def fits(self, values: Sequence[int]) -> bool:
        """Whether the guest can have made these N."""
        return all(0 <= value < 1 << self.most_bits for value in values)

    def reciprocals(self, values: Sequence[int]) -> NDArray[np.object_]:
        """``floor(2**shift / N)`` of each N, at the arbiter.

        Raises `Diverged` for one that is of too small a sum, whatever hides it.
        """
        if min(values) < 1 << (self.lowest + self.fraction - LOW):
            raise Diverged(
                "the parties' scores of a row contradict each other too much: raise "
                "precision.integer_bits and residual_bits, or lower the learning rate"
            )
        return np.array([(1 << self.shift) // value for value in values], dtype=object)


class Blind:
    """The guest's secrets of one batch of `rows` sums."""

    def __init__(self, blinding: Blinding, rows: int) -> None:
        self._blinding = blinding
        self._order = np.array(secrets.SystemRandom().sample(range(rows), rows), dtype=np.int64)
        self._factors = np.array([_draw(blinding) for _ in range(rows)], dtype=object)

    def hide(self, sums: residue.CiphertextArray) -> residue.CiphertextArray:
        """``[N]`` of sums ``(rows,)``, in another order."""
        rests = [secrets.randbelow(int(rho) >> EXACT) for rho in self._factors]
        hidden = sums.multiply(self._factors) + np.array(rests, dtype=object)
        return self._said(sums, hidden)[self._order]

    def reveal(self, reciprocals: residue.CiphertextArray) -> residue.CiphertextArray:
        """``[2**shift / S]`` from the arbiter's reciprocals of the N."""
        return self._said(reciprocals, reciprocals[np.argsort(self._order)].multiply(self._factors))

    def _said(
        self, before: residue.CiphertextArray, after: residue.CiphertextArray
    ) -> residue.CiphertextArray:
        """`after` with a bound that tells nothing of rho, which a window of 32 bits would."""
        blinding = self._blinding
        return after.widened(before.bound.bit_length() + blinding.lowest + blinding.spread + 1)

    @property
    def log_sum(self) -> int:
        """Of log N less log S, summed over rows, in units of ``2**-LOG_BITS``."""
        return log_sum(self._factors.tolist())


def log_sum(values: Sequence[int]) -> int:
    """The sum of natural logarithms, in units of ``2**-LOG_BITS``."""
    with gmpy2.context(precision=256):
        total = sum((gmpy2.log(value) for value in values), gmpy2.mpfr(0))
        return int(gmpy2.rint(gmpy2.mul_2exp(total, LOG_BITS)))


def total_loss(fixed: int) -> float:
    """A sum in units of ``2**-LOG_BITS``, without the places that depend on what hid it."""
    dropped = LOG_BITS - _LOSS_BITS
    return ((fixed + (1 << (dropped - 1))) >> dropped) * 2.0**-_LOSS_BITS


def _draw(blinding: Blinding) -> int:
    """rho: its logarithm uniform, all its bits random."""
    octave, place = secrets.randbelow(blinding.spread), secrets.randbits(53) * 2.0**-53
    lead, low = int(2.0 ** (52 + place)), blinding.lowest + octave - 52
    return (lead << low) | secrets.randbits(low)
