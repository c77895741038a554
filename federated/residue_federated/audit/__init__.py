"""The audit: what every party records, what is checked live and what the records prove later.

A component declares its protocol with `Flow`, `Step` and `Loop` in a function ``flow`` of its
module; `Auditor` watches one party's run; `audit_records` checks the records of a run that is over.
"""

from __future__ import annotations

from residue_federated.audit._flow import SAME_ROWS, Flow, Loop, Scene, Step
from residue_federated.audit._live import RECORD, Auditor
from residue_federated.audit._verify import AuditReport, Finding, audit_records

__all__ = [
    "RECORD",
    "SAME_ROWS",
    "AuditReport",
    "Auditor",
    "Finding",
    "Flow",
    "Loop",
    "Scene",
    "Step",
    "audit_records",
]
