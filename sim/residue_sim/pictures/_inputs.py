"""What data was measured from."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from residue_sim.manifest import bare_code

__all__ = ["code"]


def code(files: Iterable[Path]) -> list[str]:
    """Names and texts of SystemVerilog or C++ files without comments and spacing."""
    return [f"{path.name} {bare_code(path)}" for path in files]
