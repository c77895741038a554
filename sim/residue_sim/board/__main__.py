"""`python -m residue_sim.board`: serve one board, as `residue board serve` does."""

from __future__ import annotations

import typer

from residue_sim._board_cli import serve

if __name__ == "__main__":
    typer.run(serve)
