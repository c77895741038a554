"""Every module is lint-clean as its own top, and the card in every configuration."""

from __future__ import annotations

import pytest

from residue_sim._verilator import lint
from residue_sim.board._build import card_parameters
from residue_sim.manifest import Configuration, configurations, hw_root, source_files, sources_for

TOPS = [path.stem for path in source_files() if not path.stem.endswith("_pkg")]


@pytest.fixture(scope="module")
def waivers() -> list[str]:
    return [str(path) for path in sorted((hw_root() / "lint").glob("*.vlt"))]


@pytest.mark.parametrize("top", TOPS)
def test_module_is_clean(top: str, waivers: list[str]) -> None:
    lint(top, sources_for(top), arguments=waivers)


# The rest are the same modules in other numbers.
QUICK = {"r22", "k11", "small", "small4", "small_k", "pynq-z2", "kv260"}


@pytest.mark.parametrize(
    "configuration",
    [
        pytest.param(c, id=name, marks=() if name in QUICK else pytest.mark.full)
        for name, c in configurations().items()
    ],
)
def test_card_is_clean(configuration: Configuration, waivers: list[str]) -> None:
    parameters = card_parameters(configuration)
    lint("residue_card", sources_for("residue_card"), parameters=parameters, arguments=waivers)
