"""Vertical federated learning on Paillier ciphertexts, on any of residue's backends.

Guest, hosts and arbiter are separate processes that speak gRPC with mutual TLS. `load_job` reads a
job file, `run_trial` runs all its parties on this machine, `run_party` one of them for real.

Names are imported on first use, so that the command line starts fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from residue_federated._certificates import Identity, TrialAuthority
    from residue_federated._jobs import Job, load_job
    from residue_federated._party import PartyReport, run_party
    from residue_federated._results import result_of
    from residue_federated._trial import run_trial

__all__ = [
    "Identity",
    "Job",
    "PartyReport",
    "TrialAuthority",
    "load_job",
    "result_of",
    "run_party",
    "run_trial",
]

_HOMES = {
    "Identity": "_certificates",
    "TrialAuthority": "_certificates",
    "Job": "_jobs",
    "load_job": "_jobs",
    "PartyReport": "_party",
    "run_party": "_party",
    "result_of": "_results",
    "run_trial": "_trial",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'residue_federated' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"residue_federated.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
