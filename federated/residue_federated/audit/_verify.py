"""The audit after the fact: what the records of a run prove, and what in them is wrong.

Each record is checked for itself (chain, signatures, and the same protocol as live), then against
those of the others: every message that was sent was received once, in order, with the same hash.
Since senders sign every message, a receiver can show what it was sent, so where two records differ
it is known whose is false.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.x509.oid import NameOID

from residue_federated._checkpoint import file_sha256
from residue_federated._components import AnyComponent
from residue_federated._context import WHOLE
from residue_federated._jobs import Job
from residue_federated.audit._code import ENGINE
from residue_federated.audit._flow import Breach, Flow, Scene
from residue_federated.audit._live import flow_of
from residue_federated.audit._protocol import APPLIED, Protocol, check_randomness
from residue_federated.audit._record import (
    FORMAT,
    RUN_BYTES,
    Entry,
    Record,
    from_base64,
    message_part,
    read_record,
    signed_by,
)

__all__ = ["AuditReport", "Finding", "PartyAudit", "audit_records"]


@dataclass(frozen=True)
class Finding:
    """What a party did wrong, or what is wrong with its record.

    rule: ``record``, ``code``, ``control``, ``algorithm`` or ``data``. source: the party whose
    record shows it; entry: at which number.
    """

    party: str
    rule: str
    text: str
    source: str
    entry: int | None = None


@dataclass
class PartyAudit:
    """What one record holds. state: how the run ended at this party, by its own account."""

    party: str
    state: str = "cut off"
    runs: int = 0
    entries: int = 0
    signatures: int = 0
    sent: int = 0
    received: int = 0
    ciphertexts: int = 0


@dataclass
class AuditReport:
    """The outcome of an audit.

    undeclared: components without a declared protocol, whose order was not checked. missing:
    parties without a record.
    """

    job: str
    digest: str
    parties: list[PartyAudit] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    undeclared: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return not self.findings

    @property
    def named(self) -> list[str]:
        """The parties that findings name, the one named most first."""
        return [party for party, _ in self.counts.most_common()]

    @property
    def counts(self) -> Counter[str]:
        """How many findings name each party."""
        return Counter(finding.party for finding in self.findings)


def audit_records(job: Job, records: Mapping[str, Path], authority: Path) -> AuditReport:
    """Audit the records of a run.

    Args:
        job: the job that was agreed on.
        records: party -> where its record must be; of as many parties as are to be audited.
        authority: certificate of the authority that signed the parties' own, PEM.

    Raises `RecordError` if a file cannot be read.
    """
    root = x509.load_pem_x509_certificate(authority.read_bytes())
    report = AuditReport(job.name, job.digest)
    report.missing = [party.name for party in job.parties if party.name not in records]
    witnesses = {}
    for party, path in records.items():
        if path.exists():
            witnesses[party] = _Witness(job, party, read_record(path), root, report)
        else:
            report.findings.append(Finding(party, "record", "there is no record", party))
    rows: dict[str, int] = {}
    for witness in witnesses.values():
        rows |= witness.rows
    report.parties = [witness.summary for witness in witnesses.values()]
    own = {party: witness for party, witness in witnesses.items() if witness.authentic}
    for witness in own.values():
        witness.follow(rows)
    _compare_code(job, own)
    _compare_runs(own)
    for sender in own.values():
        for receiver in own.values():
            if sender is not receiver:
                _compare_messages(sender, receiver)
    report.findings = list(dict.fromkeys(report.findings))
    return report


class _Witness:
    """One party's record."""

    def __init__(
        self, job: Job, party: str, record: Record, root: x509.Certificate, report: AuditReport
    ) -> None:
        self.job = job
        self.party = party
        self.record = record
        self.report = report
        self.summary = PartyAudit(party, entries=len(record.entries))
        self.certificates: dict[str, x509.Certificate] = {}
        self.authentic = True
        self.runs = self._split()
        self._check_chain()
        self._check_certificates(root)
        self._check_end()

    @property
    def rows(self) -> dict[str, int]:
        """Component -> rows of its table."""
        begins = self.record.of("begin")
        return {e.content["component"]: e.content["rows"] for e in begins if e.content.get("rows")}

    @property
    def code(self) -> dict[str, str]:
        """Component -> hash of the code that this party ran in its last run."""
        return self.runs[-1][0].content.get("code", {}) if self.runs else {}

    def find(self, entry: int | None, rule: str, text: str, party: str | None = None) -> None:
        """Add a finding from this record, against its own party if no other is named."""
        finding = Finding(party or self.party, rule, text, self.party, entry)
        self.report.findings.append(finding)

    def follow(self, rows: Mapping[str, int]) -> None:
        """Check what the record tells against job and protocol."""

        def declared(component: AnyComponent, scene: Scene) -> Flow | None:
            name = next(n for n, c in self.job.components.items() if c is component)
            known = rows.get(name) if scene.rows is None else scene.rows
            return flow_of(component, replace(scene, rows=known))

        for run in self.runs:
            applies = run[0].content.get("job") == self.job.digest + APPLIED
            protocol = Protocol(self.job, self.party, declared, applies=applies, own_data=True)
            replay = _Replay(self, protocol)
            for entry, following in zip(run, [*run[1:], None], strict=True):
                try:
                    replay.take(entry, following)
                except Breach as breach:
                    self.find(entry.number, breach.rule, str(breach), breach.party)
                    break  # What follows is out of step.
                except (KeyError, TypeError, ValueError, AttributeError):
                    self.find(entry.number, "record", f"a '{entry.event}' entry is malformed")
                    break
            for name in replay.protocol.undeclared - set(self.report.undeclared):
                self.report.undeclared.append(name)

    def messages(self, event: str, peer: str) -> Iterator[tuple[int, Entry]]:
        """Run and entry of each message sent to, or received from, a peer."""
        for number, run in enumerate(self.runs):
            for entry in run:
                if entry.event == event and entry.content.get("peer") == peer:
                    yield number, entry

    def proves(self, received: Entry) -> bool:
        """Whether the sender of a received message signed it."""
        certificate = self.certificates.get(received.content["peer"])
        data = from_base64(received.content.get("signature"))
        run, signature = data[:RUN_BYTES], data[RUN_BYTES:]
        signed = _signed(self._digest_at(received), run, self.party, received)
        return certificate is not None and signed_by(certificate, signature, signed)

    def runs_of(self, peer: str) -> set[str]:
        """The runs of a peer that signed what this party received."""
        own = (e for e in self.record.of("received") if e.content.get("peer") == peer)
        signatures = (e.content["signature"] for e in own if self.proves(e))
        return {from_base64(signature)[:RUN_BYTES].hex() for signature in signatures}

    def _digest_at(self, entry: Entry) -> str:
        starts = [e.content.get("job") for e in self.record.of("start") if e.number < entry.number]
        return str(starts[-1]) if starts else self.job.digest

    def ended(self, run: int) -> bool:
        """Whether a run came to its end."""
        return any(entry.event == "end" for entry in self.runs[run])

    def _split(self) -> list[list[Entry]]:
        runs: list[list[Entry]] = []
        for entry in self.record.entries:
            if entry.event == "start" or not runs:
                runs.append([])
            runs[-1].append(entry)
        self.summary.runs = len(runs)
        return runs

    def _check_chain(self) -> None:
        for number, text in self.record.faults:
            self.find(number, "record", f"the record was altered at entry {number}: {text}")
        if self.record.torn:
            self.find(None, "record", "the record ends within an entry: it was truncated")
        for run in self.runs:
            start = run[0]
            if start.event != "start" or start.content.get("format") != FORMAT:
                self.find(start.number, "record", f"entry {start.number} starts no run")
            elif start.content.get("job") not in (self.job.digest, self.job.digest + APPLIED):
                self.find(start.number, "control", "the record is of another job")

    def _check_certificates(self, root: x509.Certificate) -> None:
        own: x509.Certificate | None = None
        for entry in self.record.entries:
            if entry.event in ("start", "met"):
                whose = self.party if entry.event == "start" else entry.content.get("peer")
                found = _certified(entry.content.get("certificate"), str(whose), root)
                if found is None:
                    text = f"entry {entry.number} shows no certificate of {whose} by the authority"
                    self.find(entry.number, "record", text)
                    self.authentic &= entry.event != "start"
                elif entry.event == "start":
                    own = found
                else:
                    self.certificates[str(whose)] = found
            elif entry.event == "seal":
                signature = from_base64(entry.content.get("signature"))
                signed = self.record.seals[entry.number]
                if own is None or not signed_by(own, signature, signed):
                    text = f"the signature of entry {entry.number} is not {self.party}'s"
                    self.find(entry.number, "record", text)
                else:
                    self.summary.signatures += 1

    def _check_end(self) -> None:
        last = self.runs[-1] if self.runs else []
        events = {entry.event for entry in last}
        for event in ("end", "violation", "failed"):
            if event in events:
                self.summary.state = {"end": "ended", "violation": "stopped"}.get(event, event)
                break
        if self.record.faults or self.record.torn:
            return
        if self.summary.state == "cut off" or last[-1].event != "seal":
            self.find(
                len(self.record.entries),
                "record",
                "the record has no signed end: it was truncated, or its party was killed",
            )


class _Replay:
    """One run of a record, entry by entry."""

    def __init__(self, witness: _Witness, protocol: Protocol) -> None:
        self._witness = witness
        self._summary = witness.summary
        self._party = witness.party
        self._job = witness.job
        self.protocol = protocol
        self._due = list(witness.job.components)
        self._unchecked: set[tuple[str, str]] = set()

    def take(self, entry: Entry, following: Entry | None) -> None:
        """Check one entry. Raises `Breach`."""
        self._stopped = following is not None and following.event == "violation"
        take = getattr(self, f"_{entry.event}", None)
        if take is not None:
            take(dict(entry.content), entry)

    def _sent(self, content: dict[str, Any], entry: Entry) -> None:
        self._summary.sent += 1
        self.protocol.message(self._party, content["peer"], content["tag"], content)

    def _received(self, content: dict[str, Any], entry: Entry) -> None:
        self._summary.received += 1
        peer, tag = content["peer"], content["tag"]
        if not self._stopped and not self._witness.proves(entry):
            text = f"'{tag}' is not what {peer} signed"
            self._witness.find(entry.number, "record", text)
        if content["kind"] == "ciphertexts":
            self._unchecked.add((peer, tag))
        self.protocol.message(peer, self._party, tag, content)

    def _checked(self, content: dict[str, Any], entry: Entry) -> None:
        self._summary.ciphertexts += content["count"]
        self._unchecked.discard((content["peer"], content["tag"]))
        check_randomness(
            content["peer"], content["tag"], content["count"], content["bare"], content["again"]
        )

    def _resumed(self, content: dict[str, Any], entry: Entry) -> None:
        if content["component"] == WHOLE:
            self._due = self._due[content["done"] :]
        else:
            self.protocol.resumed(content["component"], content["done"])

    def _begin(self, content: dict[str, Any], entry: Entry) -> None:
        name = content["component"]
        if self._due[:1] != [name]:
            expected = f"'{self._due[0]}'" if self._due else "nothing more"
            text = f"{self._party} began '{name}', expected {expected}"
            raise Breach(self._party, text, "control")
        if content["nulls"] and not self._job.components[name].accepts_missing:
            text = f"{self._party} had {content['nulls']} null values in what '{name}' requires"
            raise Breach(self._party, text, "data")
        self.protocol.begin(name, content["rows"])

    def _finish(self, content: dict[str, Any], entry: Entry) -> None:
        name = content["component"]
        if self._due[:1] != [name]:
            raise Breach(self._party, f"{self._party} ended '{name}' before it began", "control")
        try:
            self.protocol.finish(self._due.pop(0))
        except Breach as breach:  # Nobody can end so who has what the others sent.
            text = f"{self._party} ended '{name}', although {breach}"
            raise Breach(self._party, text, breach.rule) from breach
        for peer, tag in sorted(self._unchecked):
            text = f"{self._party} did not check the randomness of '{tag}' of {peer}"
            raise Breach(self._party, text, "data")

    def _end(self, content: dict[str, Any], entry: Entry) -> None:
        if self._due:
            text = f"{self._party} ended without having finished '{self._due[0]}'"
            raise Breach(self._party, text, "control")
        self.protocol.end()
        if entry != list(self._witness.record.of("end"))[-1]:
            return  # another party came back, and what it needed was made again
        directory = self._witness.record.path.parent
        for name, digest in content["files"].items():
            path = directory / name
            if path.exists() and file_sha256(path) != digest:
                text = f"{name} is not the file that the run ended with"
                self._witness.find(entry.number, "record", text)

    def _lost(self, content: dict[str, Any], entry: Entry) -> None:
        self.protocol.lost.add(content["peer"])

    def _violation(self, content: dict[str, Any], entry: Entry) -> None:
        known = content["party"] not in self._witness.report.missing
        if content["rule"] == "code" and known:
            return  # Who differs, and from how many, is seen from all records.
        raise Breach(content["party"], content["text"], content["rule"])


def _certified(pem: Any, party: str, root: x509.Certificate) -> x509.Certificate | None:
    """The certificate, if the authority issued it to `party`."""
    try:
        certificate = x509.load_pem_x509_certificate(str(pem).encode())
        certificate.verify_directly_issued_by(root)
    except (ValueError, TypeError, InvalidSignature):
        return None
    names = [a.value for a in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    return certificate if names == [party] else None


def _signed(digest: str, run: bytes, receiver: str, entry: Entry) -> bytes:
    content = entry.content
    payload = bytes.fromhex(content["sha256"])
    return message_part(
        digest, run, content["peer"], receiver, content["sequence"], content["tag"], payload
    )


def _compare_code(job: Job, witnesses: Mapping[str, _Witness]) -> None:
    """Who ran other code than most; where there is no majority, all who differ."""
    for name in (ENGINE, *job.components):
        hashes = {party: str(witness.code.get(name)) for party, witness in witnesses.items()}
        counts = Counter(hashes.values())
        if len(counts) < 2:
            continue
        (common, most), (_, second) = counts.most_common(2)
        for party, digest in hashes.items():
            if most == second or digest != common:
                text = f"{party} ran other code for '{name}' than the others"
                witnesses[party].find(witnesses[party].runs[-1][0].number, "code", text)


def _compare_runs(witnesses: Mapping[str, _Witness]) -> None:
    """Whether the messages that were received are of runs that their sender had.

    Where all receivers hold those of another run, the sender's record is false, else theirs.
    """
    for party, sender in witnesses.items():
        had = {str(entry.content.get("run")) for entry in sender.record.of("start")}
        others = [w for w in witnesses.values() if w is not sender and w.runs_of(party)]
        strange = [w for w in others if not w.runs_of(party) <= had]
        if strange and len(strange) == len(others):
            sender.find(None, "record", "its messages are of a run that its record does not have")
        if strange and (len(others) == 1 or len(strange) < len(others)):
            for receiver in strange:
                text = f"it holds messages of another run of {party}"
                receiver.find(None, "record", text)


def _compare_messages(sender: _Witness, receiver: _Witness) -> None:
    """What one record has as sent must be what the other has as received, in order."""
    sent = list(sender.messages("sent", receiver.party))
    at = 0
    for _, got in receiver.messages("received", sender.party):
        place = next((i for i in range(at, len(sent)) if _same(sent[i][1], got, _PLACE)), None)
        if place is None or not _same(sent[place][1], got, _PAYLOAD):
            tag = got.content["tag"]
            if receiver.proves(got):
                text = f"{receiver.party} holds a signed '{tag}' of {sender.party}"
                sender.find(None, "record", f"{text} that its own record does not have")
            else:
                text = f"it has a '{tag}' that {sender.party} never signed"
                receiver.find(got.number, "record", text)
        if place is not None:
            _account_for(sent[at:place], sent[place][0], sender, receiver)
            at = place + 1
    if receiver.summary.state == "ended":  # One that did not may have been away already.
        _account_for(sent[at:], None, sender, receiver)


def _account_for(
    skipped: Sequence[tuple[int, Entry]],
    following: int | None,
    sender: _Witness,
    receiver: _Witness,
) -> None:
    """Messages that were sent and not received: the last ones of a run that was cut off may be.

    following: the run of the message that was received after them.
    """
    for run, entry in skipped:
        if sender.ended(run) or run == following:
            text = f"the record lacks '{entry.content['tag']}', which {sender.party} sent"
            receiver.find(None, "record", text)


_PLACE = ("sequence", "tag")
_PAYLOAD = ("size", "sha256")


def _same(sent: Entry, received: Entry, facts: Sequence[str]) -> bool:
    return all(sent.content.get(fact) == received.content.get(fact) for fact in facts)
