"""The virtual board: the Verilated card, its memory, and what makes `pynq` take it for a board.

`Board` simulates in this process and `InProcess` is the driver's port to it. `launch` starts boards
as processes of their own, which an unmodified `pynq` reaches under the addresses it yields;
`residue_sim.board.server` is what answers there. `board_files` writes the overlay to download: a
`.bit` and its `.hwh`.

`pynq` is not imported here: it looks for devices, and at PYNQ_REMOTE_DEVICES, when it is.
"""

from __future__ import annotations

from residue_sim.board._board import Board
from residue_sim.board._handoff import board_files
from residue_sim.board._inprocess import InProcess
from residue_sim.board._launch import FAULTS_FILE, launch
from residue_sim.board._platform import Platform, platform
from residue_sim.board._program import run_program, start_program
from residue_sim.board.model import Card, Fault, FaultKind, Latency, Store

__all__ = [
    "FAULTS_FILE",
    "Board",
    "Card",
    "Fault",
    "FaultKind",
    "InProcess",
    "Latency",
    "Platform",
    "Store",
    "board_files",
    "launch",
    "platform",
    "run_program",
    "start_program",
]
