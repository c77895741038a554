"""The audit of one party while it runs: a record of everything, and a stop at the first breach.

Three kinds of checks, each of which names a party:

- control: every party runs the same code; every message is signed by who it comes from;
- algorithm: every message has its place in the protocol that the component declares;
- data: the key has the agreed width, ciphertexts belong to it, carry randomness of their own and
  declare plaintexts within the bound of their step, numbers are finite.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from cryptography import x509

import residue
from residue.errors import ResidueError
from residue_federated._certificates import Identity
from residue_federated._components import runner_of
from residue_federated._data import Table
from residue_federated._jobs import Job
from residue_federated._transport import Endpoint, Message
from residue_federated.audit._code import code_of
from residue_federated.audit._facts import MalformedPayload, facts_of
from residue_federated.audit._flow import Breach, Step
from residue_federated.audit._freshness import Freshness, unobfuscated
from residue_federated.audit._protocol import CODE, Protocol, data_breach
from residue_federated.audit._record import FORMAT, Recorder, Signer, signed_by
from residue_federated.errors import AuditViolation
from residue_federated.proto import v1

__all__ = ["Auditor"]


class Auditor:
    """Records and checks one run of a party. Use as a context manager around the run.

    Args:
        job: the job.
        party: whose run it is.
        identity: with which it signs.
        path: of the record, which is continued if it is there; None keeps none.
    """

    def __init__(self, job: Job, party: str, identity: Identity, path: Path | None) -> None:
        self._job = job
        self._party = party
        self._lock = threading.RLock()
        self._signer = Signer(identity)
        self._recorder = None if path is None else Recorder(path, self._signer)
        self._protocol = Protocol(job, party, runner_of)
        self._freshness: dict[bytes, Freshness] = {}
        self._certificates: dict[str, x509.Certificate] = {}
        self._violation: AuditViolation | None = None
        self._code = code_of(job)
        self._note(
            "start",
            format=FORMAT,
            job=job.digest,
            party=party,
            role=job.role(party),
            certificate=self._signer.certificate,
            code={name: digest.hex() for name, digest in self._code.items()},
        )

    def __enter__(self) -> Auditor:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: Any) -> None:
        if error is None:
            self._note("end")
        elif self._violation is None:
            # Only messages of our own errors are free of data.
            text = str(error) if isinstance(error, ResidueError) else ""
            self._note("failed", error=type(error).__name__, text=text)
        if self._recorder is not None:
            self._recorder.seal()
            self._recorder.close()

    # Messages, called by the endpoint.

    def leaving(self, message: Message) -> str:
        """Check and record a message before it leaves; returns its signature."""
        with self._lock:
            facts = facts_of(message.payload)
            self._note("sent", **_address(message, message.receiver), **facts)
            self._check(message, facts)
        return self._signer.sign(signed_part(self._job.digest, message))

    def arrived(self, message: Message, signature: str, certificate: bytes) -> None:
        """Check and record a message as it arrives.

        signature: as the sender's `leaving` made it. certificate: the sender's, PEM, from the
        connection. Raises `AuditViolation`.
        """
        sender = message.sender
        with self._lock:
            try:
                facts = facts_of(message.payload)
            except MalformedPayload as error:
                self._break("data", sender, f"{sender} sent a bad '{message.tag}': {error}")
            self._note("received", **_address(message, sender), signature=signature, **facts)
            if sender not in self._certificates:
                self._certificates[sender] = x509.load_pem_x509_certificate(certificate)
            signed = signed_part(self._job.digest, message)
            if not signed_by(self._certificates[sender], signature, signed):
                self._break("control", sender, f"{sender} did not sign '{message.tag}'")
            self._check(message, facts)

    def took(self, peer: str, tag: str, arrays: Sequence[residue.CiphertextArray]) -> None:
        """Check the randomness of ciphertexts that were received and loaded.

        Raises `AuditViolation`.
        """
        with self._lock:
            bare = again = count = 0
            for array in arrays:
                marks = array.randomness_marks
                assert marks is not None
                fingerprint = array.public_key.fingerprint
                freshness = self._freshness.setdefault(fingerprint, Freshness())
                bare += unobfuscated(marks)
                again += freshness.repeated(marks)
                count += marks.size
            self._note(
                "checked", peer=peer, tag=tag, count=count, unobfuscated=bare, repeated=again
            )
            if bare:
                self._break(
                    "data",
                    peer,
                    f"{peer} sent '{tag}' with {bare} of {count} ciphertexts unobfuscated: "
                    "anybody can read them",
                )
            if again:
                self._break(
                    "data",
                    peer,
                    f"{peer} sent '{tag}' with {again} of {count} ciphertexts under randomness "
                    "that was used before",
                )

    # What the party does.

    def agree_on_code(self, endpoint: Endpoint, peers: Sequence[str]) -> None:
        """See that all parties run the same code. Raises `AuditViolation`."""
        record = v1.Record()
        for name, digest in self._code.items():
            record.arrays[name].CopyFrom(v1.Array(dtype="|u1", shape=[32], data=digest))
        for peer in peers:
            endpoint.send(peer, CODE, v1.Payload(record=record))
        for peer in peers:
            theirs = endpoint.receive(peer, CODE).record.arrays
            for name, digest in self._code.items():
                if name not in theirs or theirs[name].data != digest:
                    self._break(
                        "control",
                        peer,
                        f"{peer} runs other code for '{name}' than {self._party}: both need the "
                        "same release",
                    )

    def begin(self, component: str, table: Table | None) -> None:
        """A component starts, with this table."""
        with self._lock:
            rows = None if table is None else len(table.ids)
            facts: dict[str, Any] = {}
            if table is not None:
                nulls = np.count_nonzero(np.isnan(table.x), axis=0)
                facts = {"rows": rows, "columns": table.x.shape[1], "nulls": int(nulls.sum())}
            self._note("begin", component=component, **facts)
            self._guarded(lambda: self._protocol.begin(component, rows))
            accepts = self._job.components[component].accepts_missing
            if facts.get("nulls") and not accepts:
                self._break(
                    "data",
                    self._party,
                    f"{self._party} has {facts['nulls']} missing values in columns that "
                    f"'{component}' needs complete",
                )

    def resumed(self, component: str, done: int) -> None:
        """The parties agreed to go on after `done` rounds of a component."""
        with self._lock:
            self._note("resumed", component=component, done=done)
            self._guarded(lambda: self._protocol.resumed(component, done))

    def checkpoint(self, component: str, done: int) -> None:
        """A component has kept its state after `done` rounds; the record is signed up to here."""
        with self._lock:
            self._note("checkpoint", component=component, done=done)
            if self._recorder is not None:
                self._recorder.seal()

    def finish(self, component: str) -> None:
        """A component ends. Raises `AuditViolation` if its protocol is not complete."""
        with self._lock:
            self._guarded(lambda: self._protocol.finish(component))
            self._note("finish", component=component)

    # Within.

    def _check(self, message: Message, facts: dict[str, Any]) -> None:
        """A message against the job, then against the protocol."""
        self._guarded(lambda: self._protocol.message(message, facts))

    def _guarded(self, check: Any) -> None:
        try:
            check()
        except Breach as breach:
            self._break(breach.rule, breach.party, str(breach))

    def _break(self, rule: str, party: str, text: str) -> NoReturn:
        violation = AuditViolation(text, party, rule)
        if self._violation is None:
            self._violation = violation
            self._note("violation", rule=rule, party=party, text=text)
        raise violation

    def _note(self, event: str, **content: Any) -> None:
        if self._recorder is not None:
            self._recorder.add(event, **content)
