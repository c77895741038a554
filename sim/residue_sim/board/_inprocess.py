"""The simulated board as the driver's port, without gRPC between them."""

from __future__ import annotations

from residue.card._port import Bytes
from residue.errors import DeviceError
from residue_sim.board._board import Board

__all__ = ["InProcess"]


class _Buffer:
    """Pages of the board's memory."""

    def __init__(self, board: Board, nbytes: int) -> None:
        self._board = board
        self._address: int | None = board.allocate(nbytes)
        self._nbytes = nbytes

    @property
    def physical_address(self) -> int:
        if self._address is None:
            raise DeviceError("the buffer was freed")
        return self._address

    @property
    def nbytes(self) -> int:
        return self._nbytes

    def write(self, offset: int, data: Bytes) -> None:
        self._span(offset, len(data))[:] = data

    def read(self, offset: int, nbytes: int) -> Bytes:
        return self._span(offset, nbytes).copy()

    def free(self) -> None:
        if self._address is not None:
            self._board.free(self._address)
            self._address = None

    def _span(self, offset: int, nbytes: int) -> Bytes:
        if offset < 0 or nbytes < 0 or offset + nbytes > self._nbytes:
            raise DeviceError(
                f"bytes {offset} to {offset + nbytes} lie outside a buffer of {self._nbytes} bytes"
            )
        return self._board.memory(self.physical_address + offset, nbytes)


class InProcess:
    """A `residue.card._port.Port` to a `Board` of this process; closing it closes the board."""

    partial_writes = True
    has_interrupt = True

    def __init__(self, board: Board) -> None:
        self.board = board

    @property
    def name(self) -> str:
        """Which card is simulated."""
        return f"simulated {self.board.configuration.name}"

    def read32(self, offset: int) -> int:
        """Read a register. Raises `DeviceError` if the card does not answer."""
        return self.board.read32(offset)

    def write32(self, offset: int, value: int) -> None:
        """Write a register. Raises `DeviceError` if the card does not answer."""
        self.board.write32(offset, value)

    def allocate(self, nbytes: int) -> _Buffer:
        """Allocate a buffer. Raises `MemoryError` if no such piece is left."""
        return _Buffer(self.board, nbytes)

    def wait_interrupt(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds for the interrupt; whether its line is high."""
        return self.board.wait_interrupt(timeout)

    def close(self) -> None:
        """Close the board; buffers become unusable."""
        self.board.close()
