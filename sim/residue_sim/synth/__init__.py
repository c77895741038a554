"""Open synthesis of the whole card: resources of every board, logic depth, place and route."""

from __future__ import annotations

from residue_sim.synth._cells import Cells
from residue_sim.synth._netlist import SynthesisError, Target, synthesise
from residue_sim.synth._paths import Path, longest_paths
from residue_sim.synth._resources import (
    BoardResources,
    level_budget,
    measure,
    out_of_date,
    shortfalls,
    target_of,
)

__all__ = [
    "BoardResources",
    "Cells",
    "Path",
    "SynthesisError",
    "Target",
    "level_budget",
    "longest_paths",
    "measure",
    "out_of_date",
    "shortfalls",
    "synthesise",
    "target_of",
]
