"""The audit: what every party records, what is checked live and what the records prove later.

A component declares its protocol with `Flow`, `Step` and `Loop` in a function ``flow(config,
scene)`` of its module. `_live.Auditor` watches one party's run; `_verify.audit_records` checks the
records of a run that is over.
"""

from __future__ import annotations

from residue_federated.audit._flow import SAME_ROWS, Flow, Loop, Scene, Step

__all__ = ["SAME_ROWS", "Flow", "Loop", "Scene", "Step"]
