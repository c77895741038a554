"""Commands that the simulation adds to `residue`: what its entry points name."""

from __future__ import annotations

from residue_sim._board_cli import board
from residue_sim._report_cli import rtl_report

__all__ = ["board", "rtl_report"]
