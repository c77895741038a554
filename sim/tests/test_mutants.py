"""Each mutant of mutants/*.yaml must fail the bench of its module.

A file lists mutants of one RTL file: `file` (relative to hw/), `bench` (relative to this folder),
the pytest function to `run` with its `arguments`, and for each mutant its `name`, the exact `line`
(without indentation, occurring once) and what it `becomes`. `make test` runs the first of each
file of the arithmetic, `make test-full` all of them.
"""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from _pytest.mark import ParameterSet

from residue_sim.manifest import hw_root

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Mutant:
    """One changed line and the bench that must notice."""

    file: str
    bench: str
    run: str
    arguments: dict[str, Any]
    name: str
    line: str
    becomes: str

    def __str__(self) -> str:
        return f"{Path(self.file).stem}-{self.name}"

    def apply(self, root: Path) -> None:
        path = root / self.file
        lines = path.read_text().splitlines()
        found = [i for i, line in enumerate(lines) if line.strip() == self.line]
        assert len(found) == 1, f"{self}: the line occurs {len(found)} times in {self.file}"
        lines[found[0]] = self.becomes
        path.write_text("\n".join(lines) + "\n")

    def test(self, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
        path = HERE / self.bench
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, path.stem, module)
        spec.loader.exec_module(module)
        function: Callable[..., None] = getattr(module, self.run)
        return function


def _mutants() -> list[ParameterSet]:
    mutants = []
    for path in sorted((HERE / "mutants").glob("*.yaml")):
        listed = yaml.safe_load(path.read_text())
        entries = listed.pop("mutants")
        for i, entry in enumerate(entries):
            mutant = Mutant(**listed, **entry)
            quick = i == 0 and Path(listed["file"]).parent.name == "arith"
            marks = [] if quick else [pytest.mark.full]
            mutants.append(pytest.param(mutant, id=str(mutant), marks=marks))
    return mutants


@pytest.mark.parametrize("mutant", _mutants())
def test_mutant_fails_its_bench(
    mutant: Mutant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "hw"
    shutil.copytree(hw_root(), root)
    mutant.apply(root)
    monkeypatch.setenv("RESIDUE_HW", str(root))
    monkeypatch.setenv("COCOTB_MAX_FAILURES", "1")
    with pytest.raises(AssertionError, match="a bench failed"):
        mutant.test(monkeypatch)(**mutant.arguments)
