"""The errors of the federated engine; `residue.errors.ResidueError` is their root.

::

    FederatedError
     +- JobError               the job file is malformed or contradicts itself
     +- DataError              missing values, wrong label, rows that do not match
     +- CheckpointError        a checkpoint is damaged, missing or of another job
     +- ModelError             a share of a model cannot be read, or is another job's
     +- CertificateError       a certificate or key is missing, unreadable or of another party
     +- RecordError            a record of a run is missing, unreadable or cannot be continued
     +- ConsoleError           the console of runs cannot start
     +- StoreError             a store of runs is missing, unreadable or a newer release's
     |   +- UnknownRun         a store has no run of that number
     +- TransportError
     |   +- PeerRefused        a party is not who it should be, or does not accept us
     |   +- PeerLost           a party stopped answering
     |   +- PeerReturned       a party came back after it died: all go back to a checkpoint
     |   +- PeerFailed         a party stopped on an error of its own and said so
     |   +- MessageTooLarge    a message exceeds the job's bound
     |   +- ProtocolError      a party sent something out of order or malformed
     |       +- AuditViolation a party broke the protocol: the audit saw it while it happened
     +- Diverged               the model left the range that the job's precision can carry
     +- WorkerLost             a worker process of a party ended
"""

from __future__ import annotations

from residue.errors import FederatedError

__all__ = [
    "AuditViolation",
    "CertificateError",
    "CheckpointError",
    "ConsoleError",
    "DataError",
    "Diverged",
    "FederatedError",
    "JobError",
    "MessageTooLarge",
    "ModelError",
    "PeerFailed",
    "PeerLost",
    "PeerRefused",
    "PeerReturned",
    "ProtocolError",
    "RecordError",
    "StoreError",
    "StoreWarning",
    "TransportError",
    "UnknownRun",
    "WorkerLost",
]


class JobError(FederatedError):
    """The job file is malformed or contradicts itself."""


class DataError(FederatedError):
    """A party's data cannot be used: missing values, wrong label, rows that do not match."""


class CheckpointError(FederatedError):
    """A checkpoint is damaged, belongs to another job, or is missing where others have theirs."""


class ModelError(FederatedError):
    """A share of a model cannot be read, or was made by another job."""


class CertificateError(FederatedError):
    """A certificate or its key is missing, unreadable or belongs to another party."""


class RecordError(FederatedError):
    """A record of a run is missing, unreadable or cannot be continued."""


class ConsoleError(FederatedError):
    """The console of runs cannot start."""


class StoreError(FederatedError):
    """A store of runs is missing, unreadable, no store at all or a newer release's."""


class UnknownRun(StoreError):
    """A store has no run of that number."""


class StoreWarning(UserWarning):
    """A run goes on although it cannot be noted in the store of runs."""


class TransportError(FederatedError):
    """Communication between parties failed."""


class PeerRefused(TransportError):
    """A party is not who it should be, or does not accept us."""


class PeerLost(TransportError):
    """A party stopped answering."""


class PeerReturned(TransportError):
    """A party came back after it died: all go back to the last checkpoint that they share.

    life: the number of the life that they begin.
    """

    def __init__(self, message: str, life: int) -> None:
        super().__init__(message)
        self.life = life


class PeerFailed(TransportError):
    """A party stopped on an error of its own and said so."""


class MessageTooLarge(TransportError):
    """A message exceeds the size bound of the job."""


class ProtocolError(TransportError):
    """A party sent something out of order, malformed or of another protocol version."""


class AuditViolation(ProtocolError):
    """A party broke the protocol, and the audit saw it while it happened.

    party: who broke it, None where an error was passed on as text. rule: ``code``, ``control``,
    ``algorithm`` or ``data``.
    """

    def __init__(self, message: str, party: str | None = None, rule: str | None = None) -> None:
        super().__init__(message)
        self.party = party
        self.rule = rule


class Diverged(FederatedError):
    """Training left the range of numbers that the job's precision can carry."""


class WorkerLost(FederatedError):
    """A worker process of a party ended before its work: killed, by the system or by hand."""
