"""Several sums in one plaintext."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import residue
from residue.paillier import BOUND_STEP, side_by_side

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
        groups = -(-size // count)
        return cls(width, size, -(-size // groups), groups)

    def packed(self, sums: residue.CiphertextArray) -> residue.CiphertextArray:
        """``(groups,)`` ciphertexts of `size` sums; the last one fills slots left over."""
        return side_by_side(sums, self.width, self.count)

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
