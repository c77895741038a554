"""What the harness adds to a bench so that it counts what it covers."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from residue_sim.manifest import hw_root

__all__ = ["CoverageFolder"]


@dataclass(frozen=True)
class CoverageFolder:
    """Where benches leave their counts."""

    path: Path
    BUILD_ARGUMENTS: ClassVar[tuple[str, ...]] = ("--coverage-line", "--coverage-user")

    @classmethod
    def from_environment(cls) -> CoverageFolder | None:
        """The folder that `$RESIDUE_COVERAGE` names; none without it, and none for mutants."""
        named = os.environ.get("RESIDUE_COVERAGE")
        return cls(Path(named)) if named and "RESIDUE_HW" not in os.environ else None

    def bins(self, sources: Iterable[Path]) -> list[Path]:
        """The files of named bins (hw/bins) that bind to modules among the sources."""
        folder = hw_root() / "bins"
        candidates = [folder / f"{source.stem}_bins.sv" for source in sources]
        return [path for path in candidates if path.is_file()]

    def keep(self, run: Path, toplevel: str) -> None:
        """Take over the counts of a run."""
        self.path.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(run / "coverage.dat", self.path / f"{toplevel}-{uuid.uuid4().hex}.dat")
