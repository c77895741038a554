"""The two ports of a board, as the driver sees them: registers and buffers.

Everything the driver does to a card goes through these protocols, so the same driver runs on a
board under `pynq`, on a co-simulated card and on a functional model.

The buffer protocol is as narrow as the narrowest board: the PYNQ.remote server copies from and to
the *start* of a buffer and nowhere else. A port that can do better says so by `partial_writes`.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Buffer", "Bytes", "Port"]

Bytes = NDArray[np.uint8]
"""``(n,) uint8``, C-contiguous."""


class Buffer(Protocol):
    """Memory that the host and the card share: contiguous in the card's physical addresses.

    Transfers are coherent: what `write` copied is seen by every command started afterwards, and
    `read` sees what a completed command wrote.
    """

    @property
    def physical_address(self) -> int:
        """Where the card finds the buffer; a multiple of 64. Costs no round trip."""

    @property
    def nbytes(self) -> int:
        """Size in bytes."""

    def write(self, offset: int, data: Bytes) -> None:
        """Copy `data` to ``[offset, offset + len(data))``.

        `offset` is 0 on a port without `Port.partial_writes`; bytes past the data stay as they are.

        Raises:
            DeviceError: the board refused or does not answer.
        """

    def read(self, offset: int, nbytes: int) -> Bytes:
        """Return a copy of ``[offset, offset + nbytes)``.

        A remote board sends the whole buffer whatever is asked.

        Raises:
            DeviceError: the board refused or does not answer.
        """

    def free(self) -> None:
        """Give the memory back; a second call does nothing. The card must not use it any more."""


class Port(Protocol):
    """One card on one board."""

    @property
    def name(self) -> str:
        """Where the board is, for people: an address or a board's name."""

    @property
    def partial_writes(self) -> bool:
        """Whether `Buffer.write` takes any offset; if not, only 0."""

    @property
    def has_interrupt(self) -> bool:
        """Whether `wait_interrupt` works; if not, the driver polls."""

    def read32(self, offset: int) -> int:
        """Read the 32-bit register at byte `offset`.

        Raises:
            DeviceError: the board does not answer.
        """

    def write32(self, offset: int, value: int) -> None:
        """Write the 32-bit register at byte `offset`.

        Raises:
            DeviceError: the board does not answer.
        """

    def allocate(self, nbytes: int) -> Buffer:
        """Allocate a buffer.

        Raises:
            MemoryError: the board has no such piece of memory left.
            DeviceError: the board does not answer.
        """

    def wait_interrupt(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds for the card's interrupt; whether it came."""

    def close(self) -> None:
        """Leave the board; buffers become unusable."""
