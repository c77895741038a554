"""Sums that the arbiter decrypts: several side by side in a plaintext, each under a mask."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from residue_federated.errors import JobError
from residue_federated.linear._config import Precision

__all__ = ["Slots", "draw_masks"]


@dataclass(frozen=True)
class Slots:
    """Several gradients in one plaintext, laid out as `residue.paillier.side_by_side` says.

    width: bits a slot, enough for the sum over `rows` rows of residuals up to `magnitude`.
    count: slots a plaintext; groups: plaintexts; gradients: how many there are in all.
    """

    width: int
    count: int
    groups: int
    gradients: int

    @classmethod
    def plan(
        cls,
        precision: Precision,
        *,
        key_bits: int,
        rows: int,
        magnitude: int,
        gradients: int,
        bound_bits: int = 0,
    ) -> Slots:
        """The packing that the job's precision asks for, less where the key is too short for it.

        At least 128 bits of the plaintext space stay free, so a mask hides the rest but for a
        statistical distance below 2**-120. bound_bits: of what is known of a gradient's size, where
        that is more than a slot.

        Raises `JobError` if not even one gradient leaves so many.
        """
        largest = rows * magnitude << (precision.feature_bits - 1)
        width = largest.bit_length() + 1
        room = min((key_bits - 136) // width, 1 + (key_bits - 8 - bound_bits) // width)
        if room < 1:
            raise JobError(
                f"a gradient of {width} bits and its mask do not fit a {key_bits}-bit key: take "
                "a longer one or less precision"
            )
        count = min(precision.pack, gradients, room)
        return cls(width, count, -(-gradients // count), gradients)

    def unpack(self, plaintexts: Sequence[int]) -> list[int]:
        """The gradients, from `groups` signed plaintexts."""
        columns = [self._slots_of(value) for value in plaintexts]
        flat = [columns[g][t] for t in range(self.count) for g in range(self.groups)]
        return flat[: self.gradients]

    def _slots_of(self, value: int) -> list[int]:
        half, out = 1 << (self.width - 1), []
        for _ in range(self.count):
            digit = ((value + half) & (2 * half - 1)) - half
            out.append(digit)
            value = (value - digit) >> self.width
        return out


def draw_masks(count: int, key_bits: int) -> list[int]:
    """`count` secret integers, uniform in ``(-2**(key_bits - 4), 2**(key_bits - 4))``."""
    bound = 1 << (key_bits - 4)
    return [secrets.randbelow(2 * bound - 1) - bound + 1 for _ in range(count)]
