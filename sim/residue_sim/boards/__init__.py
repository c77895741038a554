"""Boards: what `hw/boards` says of them, how they are built for, what they are expected to do.

`find_board` gives the facts. `_build` writes what the vendors' tools need and runs them; `_table`
computes projected operations a second, from the commands that `_counting` records and from what
`_measured` keeps.
"""

from __future__ import annotations

from residue_sim.boards._facts import Board, BoardError, board_names, find_board

__all__ = ["Board", "BoardError", "board_names", "find_board"]
