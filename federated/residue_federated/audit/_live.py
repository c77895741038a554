"""The audit of one party while it runs: a record of everything, and a stop at the first breach.

Four kinds of checks, each of which names a party:

- code: all parties run the same;
- control: every message is signed by the party it comes from;
- algorithm: every message has its place in the protocol that the component declares;
- data: the key has the agreed width, ciphertexts belong to it, carry randomness of their own and
  announce plaintexts within the bound of their step, columns and numbers are complete.
"""

from __future__ import annotations

import secrets
import threading
from base64 import b64encode
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

from cryptography import x509

import residue
from residue.errors import ResidueError
from residue_federated._certificates import Identity
from residue_federated._components import AnyComponent, runner_of
from residue_federated._data import Table
from residue_federated._jobs import Job
from residue_federated.audit._code import code_of, code_payload, told_code
from residue_federated.audit._facts import MalformedPayload, facts_of
from residue_federated.audit._flow import Breach, Flow, Scene
from residue_federated.audit._freshness import Freshness, unobfuscated
from residue_federated.audit._protocol import APPLIED, CODE_TAG, Protocol, check_randomness
from residue_federated.audit._record import (
    FORMAT,
    RUN_BYTES,
    Recorder,
    Signer,
    message_part,
    signed_by,
)
from residue_federated.errors import AuditViolation
from residue_federated.transport import Endpoint, Message

__all__ = ["APPLIED", "RECORD", "Auditor", "flow_of"]

RECORD = "audit.jsonl"
"""Name of a record in its party's directory."""


def flow_of(component: AnyComponent, scene: Scene) -> Flow | None:
    """The protocol that a component declares, None if it declares none."""
    declare = getattr(runner_of(component), "flow", None)
    flow: Flow | None = None if declare is None else declare(component, scene)
    return flow


class Auditor:
    """Records and checks one run of a party, as a context manager around it and as its `Gate`.

    Every method may raise `AuditViolation`, the first time for what it sees and from then on for
    that.

    Args:
        job: the job.
        digest: of the run: the job's own, or with `APPLIED` where it is applied to other rows.
        party: whose run it is.
        identity: with which it signs.
        path: of the record, which is continued if it is there; None keeps none.
    """

    def __init__(
        self, job: Job, digest: str, party: str, identity: Identity, path: Path | None
    ) -> None:
        self._job = job
        self._digest = digest
        self._party = party
        self._lock = threading.RLock()
        self._signer = Signer(identity)
        applies = digest.endswith(APPLIED)
        # What this party sends, it has made itself: its place is checked, its data by the others.
        self._protocol = Protocol(job, party, flow_of, applies=applies, own_data=False)
        self._freshness: dict[bytes, Freshness] = {}
        self._run = secrets.token_bytes(RUN_BYTES)
        self._met: dict[str, tuple[bytes, x509.Certificate]] = {}
        self._violation: AuditViolation | None = None
        self._code = code_of(job)
        self._recorder = None if path is None else Recorder(path, self._signer)
        self._note(
            "start",
            format=FORMAT,
            job=digest,
            party=party,
            run=self._run.hex(),
            certificate=self._signer.certificate,
            code={name: digest.hex() for name, digest in self._code.items()},
        )

    @property
    def run(self) -> str:
        """The name of this run in the record, which is one life of the party."""
        return self._run.hex()

    def __enter__(self) -> Auditor:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._lock:
            if isinstance(error, AuditViolation) and self._violation is None and error.party:
                # Seen by the component itself.
                self._note("violation", party=error.party, rule=error.rule, text=str(error))
            elif error is not None and self._violation is None:
                # Only messages of our own errors are free of data.
                text = str(error) if isinstance(error, ResidueError) else ""
                self._note("failed", error=type(error).__name__, text=text)
            self._seal()
            if self._recorder is not None:
                self._recorder.close()
                self._recorder = None

    # Messages: the endpoint's gate.

    def leaving(self, message: Message) -> bytes:
        """Record a message before it leaves, check it, sign it."""
        with self._lock:
            self._go_on()
            try:
                facts = _facts_of(message)
            except MalformedPayload:  # its receiver refuses it
                facts = {"kind": "malformed"}
            self._note("sent", peer=message.receiver, **_particulars(message), **facts)
            if facts["kind"] != "malformed":
                self._protocol_of(message, facts)
        return self._run + self._signer.sign(_signed(self._digest, self._run, message))

    def arrived(self, message: Message, signature: bytes, certificate: bytes) -> None:
        """Record a message as it arrives, check whose it is and whether it belongs here."""
        sender, tag = message.sender, message.tag
        with self._lock:
            self._go_on()
            try:
                facts = _facts_of(message)
            except MalformedPayload as error:
                self._break(Breach(sender, f"{sender} sent a bad '{tag}': {error}", "data"))
            run, signed = (
                signature[:RUN_BYTES],
                _signed(self._digest, signature[:RUN_BYTES], message),
            )
            if sender not in self._met:
                self._met[sender] = run, x509.load_pem_x509_certificate(certificate)
                pem = certificate.decode("ascii")
                self._note("met", peer=sender, run=run.hex(), certificate=pem)
            self._note(
                "received",
                peer=sender,
                signature=b64encode(signature).decode(),
                **_particulars(message),
                **facts,
            )
            known, holder = self._met[sender]
            if run != known or not signed_by(holder, signature[RUN_BYTES:], signed):
                self._break(Breach(sender, f"{sender} sent '{tag}' without signing it", "control"))
            self._protocol_of(message, facts)

    def lost(self, peer: str) -> None:
        """The job goes on without a peer: nothing of or to it is due any more."""
        with self._lock:
            self._note("lost", peer=peer)
            self._protocol.lost.add(peer)

    def took(self, peer: str, tag: str, arrays: Sequence[residue.CiphertextArray]) -> None:
        """Check the randomness of ciphertexts that were received and loaded."""
        with self._lock:
            bare = again = count = 0
            for array in arrays:
                marks = array.randomness_marks
                assert marks is not None
                key = array.public_key.fingerprint
                bare += unobfuscated(marks)
                again += self._freshness.setdefault(key, Freshness()).repeated(marks)
                count += marks.size
            self._note("checked", peer=peer, tag=tag, count=count, bare=bare, again=again)
            self._guarded(check_randomness, peer, tag, count, bare, again)

    # What the party does.

    def agree_on_code(self, endpoint: Endpoint) -> None:
        """See that all parties run the same code."""
        payload = code_payload(self._code)
        peers = [party.name for party in self._job.parties if party.name != self._party]
        for peer in peers:
            endpoint.send(peer, CODE_TAG, payload)
        theirs = {peer: endpoint.receive(peer, CODE_TAG).record.arrays for peer in peers}
        for peer, arrays in theirs.items():
            for name, digest in self._code.items():
                if name not in arrays or arrays[name].data != digest:
                    text = f"{peer} runs other code for '{name}' than {self._party}"
                    with self._lock:
                        self._break(Breach(peer, f"{text}: both need the same release", "code"))

    def begin(self, component: str, table: Table | None) -> None:
        """A component starts on a table; None at the arbiter."""
        rows = None if table is None else len(table.ids)
        nulls = 0 if table is None else int(table.missing().sum())
        columns = None if table is None else table.x.shape[1]
        with self._lock:
            self._note("begin", component=component, rows=rows, columns=columns, nulls=nulls)
            self._guarded(self._protocol.begin, component, rows)

    def resumed(self, component: str, done: int) -> None:
        """The parties agreed to go on after `done` rounds of a component."""
        with self._lock:
            self._note("resumed", component=component, done=done)
            self._guarded(self._protocol.resumed, component, done)

    def checkpoint(self, component: str, done: int) -> None:
        """A component has kept its state after `done` rounds; the record is signed up to here."""
        with self._lock:
            self._note("checkpoint", component=component, done=done)
            self._seal()

    def finish(self, component: str) -> None:
        """A component ends: its protocol must be complete."""
        with self._lock:
            self._guarded(self._protocol.finish, component)
            self._note("finish", component=component)

    def end(self, files: Mapping[str, str]) -> None:
        """The run ends well, with these files: path below the party's directory -> SHA-256.

        The record is signed, and on the disk, when this returns.
        """
        with self._lock:
            self._guarded(self._protocol.end)
            self._note("end", files=dict(files))
            self._seal()

    # Within.

    def _protocol_of(self, message: Message, facts: dict[str, Any]) -> None:
        self._guarded(self._protocol.message, message.sender, message.receiver, message.tag, facts)

    def _go_on(self) -> None:
        """After a violation there is nothing more to record."""
        if self._violation is not None:
            raise self._violation

    def _guarded(self, check: Any, *arguments: Any) -> None:
        self._go_on()
        try:
            check(*arguments)
        except Breach as breach:
            self._break(breach)

    def _break(self, breach: Breach) -> NoReturn:
        self._violation = AuditViolation(str(breach), breach.party, breach.rule)
        self._note("violation", party=breach.party, rule=breach.rule, text=str(breach))
        self._seal()
        raise self._violation

    def _note(self, event: str, **content: Any) -> None:
        if self._recorder is not None:
            self._recorder.add(event, **content)

    def _seal(self) -> None:
        if self._recorder is not None:
            self._recorder.seal()


def _facts_of(message: Message) -> dict[str, Any]:
    facts = facts_of(message.payload)
    if message.tag == CODE_TAG and facts["kind"] == "record":
        facts["code"] = told_code(message.payload)
    return facts


def _particulars(message: Message) -> dict[str, Any]:
    return {
        "tag": message.tag,
        "sequence": message.sequence,
        "size": len(message.data),
        "sha256": message.sha256.hex(),
    }


def _signed(digest: str, run: bytes, message: Message) -> bytes:
    return message_part(
        digest, run, message.sender, message.receiver, message.sequence, message.tag, message.sha256
    )
