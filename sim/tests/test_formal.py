"""Every proof of hw/formal holds, and fails on each of its mutants."""

from __future__ import annotations

import pytest
from _pytest.mark import ParameterSet

from residue_sim.formal import Mutant, Proof, proofs


def _cases() -> list[ParameterSet]:
    """Proofs and their mutants; `make test` runs the quick ones, each with its first mutant."""
    cases = []
    for proof in proofs():
        for i, mutant in enumerate((None, *proof.mutants)):
            marks = [pytest.mark.full] if proof.full or i > 1 else []
            name = proof.name if mutant is None else f"{proof.name}-{mutant.name}"
            cases.append(pytest.param(proof, mutant, id=name, marks=marks))
    return cases


@pytest.mark.timeout(3600)  # the long ones
@pytest.mark.parametrize(("proof", "mutant"), _cases())
def test_proof(proof: Proof, mutant: Mutant | None) -> None:
    result = proof.run(mutant)
    if mutant is None:
        assert result.failed is None, f"{result.failed} does not hold"
    else:
        assert result.failed is not None, "the proof did not notice the mutant"
