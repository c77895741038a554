"""`python -m residue_sim.formal`."""

from __future__ import annotations

from typing import Annotated

import typer

from residue_sim.formal import proofs


def main(
    names: Annotated[list[str] | None, typer.Argument(help="Which proofs; all.")] = None,
) -> None:
    """Run proofs and their mutants; print the depth and time of each.

    Exit status 1 if a proof fails or a mutant passes.
    """
    known = {proof.name: proof for proof in proofs()}
    if unknown := [name for name in names or () if name not in known]:
        raise typer.BadParameter(f"unknown {', '.join(unknown)}; there are {', '.join(known)}")
    wrong = 0
    for proof in map(known.__getitem__, names or known):
        depth = f"depth {proof.depth}"
        if proof.induction:
            depth += f", induction over {proof.induction}"
        for mutant in (None, *proof.mutants):
            result = proof.run(mutant)
            wrong += (result.failed is None) != (mutant is None)
            what = proof.name if mutant is None else f"{proof.name}, mutant {mutant.name}"
            outcome = "holds" if result.failed is None else f"{result.failed} fails"
            typer.echo(f"{what}: {outcome} ({depth}, {result.seconds:.1f} s)")
    if wrong:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
