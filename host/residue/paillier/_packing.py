"""Several fixed-point numbers in one plaintext.

A plaintext is cut into slots. A slot holds ``mantissa + 2**(bits - 1)``, non-negative and below
``2**bits``; `guard_bits` above it take the carries of up to ``2**guard_bits`` summands. Every
summand adds one offset, so a packed array counts its summands, and refuses to exceed them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from residue.errors import EncodingError, EncodingOverflow
from residue.paillier._ciphertext import CiphertextArray
from residue.paillier._encoding import Encoded, decode, encode
from residue.paillier._formats import BOUND_STEP
from residue.paillier._keys import PrivateKey, PublicKey

__all__ = ["PackedArray", "Packer", "side_by_side", "slot_order"]


def side_by_side(c: CiphertextArray, width: int, slots: int) -> CiphertextArray:
    """``(n,)`` numbers of at most `width` bits in ``(ceil(n / slots),)`` ciphertexts, n >= 1.

    They lie as `slot_order` says. Horner's scheme: a shift and a product a slot.
    """
    order = slot_order(len(c), slots)
    packed = c[order[-1]]
    for part in order[-2::-1]:
        packed = (packed << width) + c[part]
    return packed


def slot_order(count: int, slots: int) -> NDArray[np.int64]:
    """``(used, groups)``: which of `count` numbers is in which slot of which ciphertext.

    With g ciphertexts, number ``t * g + i`` is slot t of ciphertext i, and ``ceil(count / g)``
    slots are used; those left over repeat the last number.
    """
    groups = -(-count // slots)
    used = -(-count // groups)
    return np.minimum(np.arange(used * groups), count - 1).reshape(used, groups)


class Packer:
    """Packs vectors of numbers of one fixed-point format.

    Args:
        public_key: key of the ciphertexts.
        bits: size of a signed mantissa: ``-2**(bits-1) <= mantissa < 2**(bits-1)``.
        guard_bits: room for ``2**guard_bits`` summands.
        exponent: base-16 exponent of the numbers.

    Raises:
        EncodingOverflow: not even one slot fits the key.
    """

    def __init__(
        self, public_key: PublicKey, *, bits: int, guard_bits: int, exponent: int = 0
    ) -> None:
        if bits < 2 or guard_bits < 0:
            raise EncodingError("packing takes bits >= 2 and guard_bits >= 0")
        self._key = public_key
        self._bits = bits
        self._guard_bits = guard_bits
        self._exponent = exponent
        self._width = bits + guard_bits
        # Sums of packed arrays that were sent, whose bounds are rounded up, must fit as well.
        room = public_key.max_mantissa.bit_length() - 1 - guard_bits
        self._slots = (room // BOUND_STEP * BOUND_STEP + guard_bits) // self._width
        if not self._slots:
            raise EncodingOverflow(
                f"a slot of {self._width} bits does not fit a {public_key.bits}-bit key"
            )

    @property
    def slots(self) -> int:
        """Numbers in one plaintext."""
        return self._slots

    @property
    def most_summands(self) -> int:
        """How many packed arrays may be added."""
        return 1 << self._guard_bits

    def encrypt(self, x: Any) -> PackedArray:
        """Encrypt a vector of n numbers as ``ceil(n / slots)`` ciphertexts.

        Raises:
            EncodingOverflow: a number does not fit `bits`.
            EncodingError: not a vector of numbers.
        """
        encoded = encode(x, exponent=self._exponent)
        if encoded.mantissas.ndim != 1:
            raise EncodingError("packing takes a vector")
        half = 1 << (self._bits - 1)
        values = encoded.mantissas.tolist()
        if any(not -half <= v < half for v in values):
            raise EncodingOverflow(f"a number does not fit a slot of {self._bits} bits")
        plaintexts = np.empty(self._ciphertexts(len(values)), dtype=object)
        for i in range(len(plaintexts)):
            packed = 0
            for value in reversed(values[i * self._slots : (i + 1) * self._slots]):
                packed = packed << self._width | (value + half)
            plaintexts[i] = packed
        bound = 1 << (self._slots * self._width - self._guard_bits)
        c = self._key.encrypt_encoded(Encoded(plaintexts, self._exponent, bound))
        return PackedArray(self, c, len(values), 1)

    def wrap(self, c: CiphertextArray, count: int, summands: int) -> PackedArray:
        """Ciphertexts of this packing that came from elsewhere.

        Args:
            c: one-dimensional sum of packed ciphertexts.
            count: how many numbers are packed.
            summands: how many packed arrays were added.
        """
        return PackedArray(self, c, count, summands)

    def decrypt(self, key: PrivateKey, packed: PackedArray) -> NDArray[Any]:
        """The numbers of a packed array; dtype as of `PrivateKey.decrypt`.

        Raises:
            EncodingError: made by another packing.
            EncodingOverflow: a plaintext is no sum of packed vectors.
        """
        if not self._agrees(packed.packer):
            raise EncodingError("the ciphertexts were packed in another format")
        c = packed.ciphertexts
        key.public_key.require_same(c.public_key)
        mask, offset = (1 << self._width) - 1, packed.summands << (self._bits - 1)
        values: list[int] = []
        for plaintext in key.decrypt_mantissas(c.to_limbs()):
            if plaintext < 0 or plaintext >> (self._slots * self._width):
                raise EncodingOverflow("a plaintext is no sum of packed vectors")
            values += [
                ((plaintext >> (i * self._width)) & mask) - offset for i in range(self._slots)
            ]
        return decode(values[: packed.count], self._exponent)

    def _ciphertexts(self, count: int) -> int:
        return -(-count // self._slots)

    def _agrees(self, other: Packer) -> bool:
        return (self._key, self._bits, self._guard_bits, self._exponent) == (
            other._key,
            other._bits,
            other._guard_bits,
            other._exponent,
        )


class PackedArray:
    """Ciphertexts of packed numbers and how many summands they hold. Supports ``+`` alone."""

    def __init__(self, packer: Packer, c: CiphertextArray, count: int, summands: int) -> None:
        if not 1 <= summands <= packer.most_summands:
            raise EncodingOverflow(
                f"{summands} summands; the guard bits allow {packer.most_summands}"
            )
        packer._key.require_same(c.public_key)
        if c.shape != (packer._ciphertexts(count),) or c.exponent != packer._exponent:
            raise EncodingError("the ciphertexts do not have the shape or exponent of this packing")
        self.packer = packer
        self.ciphertexts = c
        self.count = count
        self.summands = summands

    def __len__(self) -> int:
        return self.count

    def __add__(self, other: PackedArray) -> PackedArray:
        if not self.packer._agrees(other.packer) or self.count != other.count:
            raise EncodingError("packed arrays of different formats or lengths cannot be added")
        summands = self.summands + other.summands
        if summands > self.packer.most_summands:
            raise EncodingOverflow(
                f"{summands} summands; the guard bits allow {self.packer.most_summands}"
            )
        return PackedArray(self.packer, self.ciphertexts + other.ciphertexts, self.count, summands)

    def __repr__(self) -> str:
        return f"PackedArray({self.count} numbers, {self.summands} summands, {self.ciphertexts!r})"
