"""Runs the named proofs (all by default) and their mutants; prints depth and time of each."""

from __future__ import annotations

import sys

from residue_sim.formal import proofs


def main(names: list[str]) -> int:
    """Exit status 1 if a proof fails or a mutant passes."""
    wrong = 0
    for proof in proofs():
        if names and proof.name not in names:
            continue
        depth = f"depth {proof.depth}"
        if proof.induction:
            depth += f", induction over {proof.induction}"
        for mutant in (None, *proof.mutants):
            result = proof.run(mutant)
            wrong += (result.failed is None) != (mutant is None)
            what = proof.name if mutant is None else f"{proof.name}, mutant {mutant.name}"
            outcome = "holds" if result.failed is None else f"{result.failed} fails"
            print(f"{what}: {outcome} ({depth}, {result.seconds:.1f} s)", flush=True)
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
