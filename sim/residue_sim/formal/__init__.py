"""Proofs over the RTL with open tools: `python -m residue_sim.formal` runs them all."""

from residue_sim.formal._proofs import FormalError, Mutant, Proof, Result, proofs
from residue_sim.formal._taint import TaintPolicy, TaintReport, taint

__all__ = [
    "FormalError",
    "Mutant",
    "Proof",
    "Result",
    "TaintPolicy",
    "TaintReport",
    "proofs",
    "taint",
]
