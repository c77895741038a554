"""Runs a `residue_sim.scenarios.Program` on a board, without the driver."""

from __future__ import annotations

import numpy as np

from residue.card._abi import (
    COMPLETION_DTYPE,
    COMPLETION_OFFSET,
    CTRL_AP_START,
    Register,
    Status,
)
from residue.errors import CommandFailed, DeviceTimeout
from residue_sim.board._board import Board
from residue_sim.scenarios import Program

__all__ = ["run_command", "run_program", "start_program"]


def start_program(board: Board, program: Program) -> None:
    """Lay the program's image into memory and start its queue; a queue before it is forgotten.

    Raises:
        ValueError: the image does not fit the board's memory at ``program.base``.
        DeviceError: the card does not answer.
    """
    image = np.frombuffer(program.image, np.uint8)
    if not (
        board.memory_base <= program.base
        and program.limit <= board.memory_base + board.memory_bytes
    ):
        raise ValueError(f"the program lies outside the board's memory: base 0x{program.base:x}")
    board.memory(program.base, image.size)[:] = image
    board.write32(Register.SOFT_RESET, 1)
    for low, value in (
        (Register.MEM_BASE_LO, program.base),
        (Register.MEM_LIMIT_LO, program.limit),
        (Register.QUEUE_BASE_LO, program.base),
    ):
        board.write32(low, value & 0xFFFF_FFFF)
        board.write32(low + 4, value >> 32)
    board.write32(Register.QUEUE_SIZE, program.queue_size)
    board.write32(Register.TAIL, len(program.expected))
    board.write32(Register.CTRL, CTRL_AP_START.put(1))


def run_program(board: Board, program: Program, timeout: float) -> bool:
    """`start_program`, then wait; whether the card was idle within `timeout` seconds."""
    start_program(board, program)
    return board.wait_idle(timeout)


def run_command(board: Board, program: Program, timeout: float) -> np.void:
    """The completion record of a program's only command.

    Raises:
        DeviceTimeout: it did not complete within `timeout` seconds.
        CommandFailed: it completed with another status than OK.
    """
    name = program.expected[0].name
    if not run_program(board, program, timeout):
        raise DeviceTimeout(f"{name}: not done after {timeout:.0f} s")
    raw = board.memory(program.base + COMPLETION_OFFSET, COMPLETION_DTYPE.itemsize)
    record: np.void = raw.copy().view(COMPLETION_DTYPE)[0]
    if record["status"] != Status.OK:
        raise CommandFailed(f"{name}: completed with {Status(int(record['status'])).name}")
    return record
