"""Vectors of small signed integers in few large plaintexts, and their sums back out.

A slot holds ``value + 2**(bits - 1)`` and leaves room for the carries of all clients. Above the
slots a plaintext has a one, so that every plaintext has the same size, and the sum of several says
how many they were.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from residue.paillier import BOUND_STEP

__all__ = ["Packing"]


@dataclass(frozen=True)
class Packing:
    """bits: size of a value, sign included. clients: most summands. slots: values a plaintext."""

    bits: int
    clients: int
    slots: int

    @classmethod
    def plan(cls, bits: int, clients: int, key_bits: int) -> Packing:
        """As many slots as leave room for the sum in the signed third of a key's plaintexts."""
        carry = (clients - 1).bit_length()
        room = (key_bits - 3 - carry) // BOUND_STEP * BOUND_STEP
        return cls(bits, clients, (room - 1) // (bits + carry))

    @property
    def width(self) -> int:
        """Bits of a slot; at most 64."""
        return self.bits + (self.clients - 1).bit_length()

    def plaintexts(self, size: int) -> int:
        """How many plaintexts hold `size` values."""
        return -(-size // self.slots)

    def pack(self, values: NDArray[np.int64]) -> NDArray[Any]:
        """Plaintexts ``(plaintexts(n),)``, Python integers, of ``(n,)`` values of `bits` bits.

        Slots left over at the end hold the least value.
        """
        half = 1 << (self.bits - 1)
        assert len(values)
        assert -half <= values.min()
        assert values.max() < half
        padded = np.zeros(self.plaintexts(len(values)) * self.slots, dtype="<u8")
        padded[: len(values)] = values + half
        bits = np.unpackbits(padded.view(np.uint8).reshape(-1, 8), axis=1, bitorder="little")
        rows = bits[:, : self.width].reshape(-1, self.slots * self.width)
        rows = np.packbits(rows, axis=1, bitorder="little")
        marker = 1 << self.slots * self.width
        packed = np.empty(len(rows), dtype=object)
        packed[:] = [marker | int.from_bytes(row.tobytes(), "little") for row in rows]
        return packed

    def unpack(self, sums: NDArray[Any]) -> NDArray[np.int64]:
        """What is in all slots of sums of all clients' plaintexts, ``(len(sums) * slots,)``.

        Raises `ValueError` if a plaintext is not the sum of one of each client.
        """
        below = self.slots * self.width
        if any(plaintext >> below != self.clients for plaintext in sums):
            raise ValueError(f"a plaintext is not the sum of {self.clients} packed ones")
        data = b"".join(
            (plaintext & ((1 << below) - 1)).to_bytes(-(-below // 8), "little")
            for plaintext in sums
        )
        rows = np.frombuffer(data, dtype=np.uint8).reshape(len(sums), -1)
        bits = np.unpackbits(rows, axis=1, count=below, bitorder="little")
        slots = np.zeros((len(sums) * self.slots, 64), dtype=np.uint8)
        slots[:, : self.width] = bits.reshape(-1, self.width)
        values = np.packbits(slots, axis=1, bitorder="little").view("<u8").ravel()
        return values.astype(np.int64) - (self.clients << (self.bits - 1))
