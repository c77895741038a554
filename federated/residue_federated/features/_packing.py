"""Several sums in one plaintext."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

import residue
from residue_federated.features._blocks import BOUND_STEP

__all__ = ["SumSlots"]


@dataclass(frozen=True)
class SumSlots:
    """Sums in ``[0, 2**width)``; number ``t * groups + g`` is slot t of plaintext g.

    size: how many there are. count: slots of a plaintext. groups: plaintexts.
    """

    width: int
    size: int
    count: int
    groups: int

    @classmethod
    def plan(cls, key: residue.PublicKey, most: int, size: int) -> SumSlots:
        """For `size` sums of at most `most` bits that arrived as ciphertexts bounded by 2**32."""
        width = most.bit_length()
        room = key.max_mantissa.bit_length() - 1 - (BOUND_STEP + width + 1)
        count = max(1, min(size, 1 + room // width))
        return cls(width, size, count, -(-size // count))

    def packed(self, sums: residue.CiphertextArray) -> residue.CiphertextArray:
        """``(groups,)`` ciphertexts of `size` sums; the last one fills slots left over."""
        flat = np.minimum(np.arange(self.count * self.groups), self.size - 1)
        ordered = sums[flat].reshape(self.count, self.groups)
        packed = ordered[self.count - 1]
        for t in range(self.count - 2, -1, -1):
            packed = (packed << self.width) + ordered[t]
        return packed

    def unpack(self, plaintexts: Sequence[int]) -> list[int]:
        """The sums, of decrypted plaintexts; what exceeds the slots goes to the last of them."""
        mask = (1 << self.width) - 1
        last = self.count - 1
        flat = [
            value >> t * self.width if t == last else (value >> t * self.width) & mask
            for t in range(self.count)
            for value in plaintexts
        ]
        return flat[: self.size]
