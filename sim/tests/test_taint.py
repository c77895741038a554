"""Secret bits reach no handshake, state, address or count of the card, and the check would tell."""

from __future__ import annotations

import pytest
from _pytest.mark import ParameterSet

from residue_sim.board._build import card_parameters
from residue_sim.formal import Mutant, TaintPolicy, taint
from residue_sim.manifest import configurations


@pytest.mark.parametrize(
    "name", ["small", *(pytest.param(n, marks=pytest.mark.full) for n in ("small_k", "small4"))]
)
def test_secrets_reach_data_alone(name: str) -> None:
    report = taint(card_parameters(configurations()[name]))
    print(f"{report.bits:,} bits in the cone")
    assert not report.reached
    assert not report.unused, "an exception that nothing needs"


def _mutants() -> list[ParameterSet]:
    listed = TaintPolicy.load().mutants
    return [
        pytest.param(mutant, id=mutant.name, marks=[pytest.mark.full] if i else [])
        for i, mutant in enumerate(listed)
    ]


@pytest.mark.parametrize("mutant", _mutants())
def test_leak_is_noticed(mutant: Mutant) -> None:
    report = taint(card_parameters(configurations()["small"]), mutant=mutant)
    assert report.reached
