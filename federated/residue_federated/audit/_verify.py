"""The audit after the fact: what the records of a run prove, and what in them is wrong.

Each record is checked for itself (form, chain, signatures, and the same protocol as live), then
against those of the others, life by life: every message that was sent was received once, in order,
with the same hash. Since senders sign every message, a receiver can show what it was sent, so where
two records differ it is known whose is false. Where only one of two can be right and nothing is
signed that shows which, the finding names nobody.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.x509.oid import NameOID

from residue_federated._checkpoint import file_sha256
from residue_federated._components import AnyComponent
from residue_federated._context import WHOLE
from residue_federated._jobs import Job
from residue_federated.audit._code import ENGINE, code_payload
from residue_federated.audit._entries import fault_of
from residue_federated.audit._flow import ROWS_TAG, Breach, Flow, Scene
from residue_federated.audit._live import flow_of
from residue_federated.audit._protocol import APPLIED, CODE_TAG, Protocol, check_randomness
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
from residue_federated.errors import RecordError
from residue_federated.transport import printable

__all__ = ["AuditReport", "Finding", "PartyAudit", "audit_records"]


@dataclass(frozen=True)
class Finding:
    """What a party did wrong, or what is wrong with its record.

    party: None where two records contradict each other and nothing shows which is false. rule:
    ``record``, ``code``, ``control``, ``algorithm`` or ``data``. source: the party whose record
    shows it; entry: at which number.
    """

    party: str | None
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
        return Counter(f.party for f in self.findings if f.party is not None)


def audit_records(job: Job, records: Mapping[str, Path], authority: Path) -> AuditReport:
    """Audit the records of a run.

    Args:
        job: the job that was agreed on.
        records: party -> where its record must be; of as many parties as are to be audited.
        authority: certificate of the authority that signed the parties' own, PEM.

    Raises `RecordError` if a file cannot be read.
    """
    root = _authority(authority)
    report = AuditReport(job.name, job.digest)
    report.missing = [party.name for party in job.parties if party.name not in records]
    witnesses = {}
    for party, path in records.items():
        if path.is_file():
            witnesses[party] = _Witness(job, party, read_record(path), root, report)
        else:
            report.findings.append(Finding(party, "record", "there is no record", party))
    report.parties = [witness.summary for witness in witnesses.values()]
    own = {party: witness for party, witness in witnesses.items() if witness.authentic}
    rows = _agreed_rows(own)
    for witness in own.values():
        witness.follow(rows, own)
    _compare_rows(job, own)
    _compare_code(job, own)
    apart = _compare_runs(own)
    for sender in own.values():
        for receiver in own.values():
            if sender is not receiver:
                known = (sender.party, receiver.party) in apart
                _compare_messages(sender, receiver, apart=known)
    report.findings = list(dict.fromkeys(report.findings))
    return report


def _authority(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except OSError as error:
        raise RecordError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise RecordError(f"{path} is no certificate of an authority in PEM") from error


class _Run:
    """One life of a party, as its record tells it.

    name: that it signed with. job: digest. code: component -> hash. sent: peer -> messages to it.
    got: peer and name of its run -> messages that this run signed. signed: number of the entry of a
    received message -> name of the run that signed it. broken: the record shows a breach of its own
    party here.
    """

    def __init__(self, party: str, entries: list[Entry], root: x509.Certificate) -> None:
        start = entries[0].content
        self.entries = entries
        self.name: str = start["run"]
        self.job: str = start["job"]
        self.code: dict[str, str] = start["code"]
        self.sent: dict[str, list[Entry]] = {}
        self.got: dict[tuple[str, str], list[Entry]] = {}
        self.signed: dict[int, str] = {}
        self.ended = any(entry.event == "end" for entry in entries)
        self.lost = {entry.content["peer"] for entry in entries if entry.event == "lost"}
        self.broken = False
        certificates: dict[str, x509.Certificate | None] = {}
        for entry in entries:
            peer = entry.content.get("peer", "")
            if entry.event == "met":
                certificates[peer] = _certified(entry.content["certificate"], peer, root)
            elif entry.event == "sent":
                self.sent.setdefault(peer, []).append(entry)
            elif entry.event == "received":
                name = _signing_run(self.job, party, entry, certificates.get(peer))
                if name is not None:
                    self.signed[entry.number] = name
                    self.got.setdefault((peer, name), []).append(entry)

    def told_code(self, peer: str, name: str) -> list[Entry]:
        """The messages in which a peer's run told its hashes."""
        return [e for e in self.got.get((peer, name), ()) if e.content["tag"] == CODE_TAG]

    def heard(self, peer: str) -> set[str]:
        """The runs of a peer that signed what was received."""
        return {name for whose, name in self.got if whose == peer}


class _Witness:
    """One party's record. runs: its lives in this job."""

    def __init__(
        self, job: Job, party: str, record: Record, root: x509.Certificate, report: AuditReport
    ) -> None:
        self.job = job
        self.party = party
        self.record = record
        self.report = report
        self._cut()
        self.summary = PartyAudit(party, entries=len(record.entries))
        self.authentic = True
        lives = self._split()
        self._check_chain()
        self._check_certificates(root)
        self._check_end(lives[-1] if lives else [])
        self.last_end = max((entry.number for entry in record.of("end")), default=None)
        self.runs = list(self._runs(lives, root))

    @property
    def whole(self) -> bool:
        """Whether the record can be read to its end."""
        return not (self.record.faults or self.record.torn)

    def find(self, entry: int | None, rule: str, text: str, party: str | None = None) -> None:
        """Add a finding from this record, against its own party if no other is named."""
        finding = Finding(party or self.party, rule, printable(text), self.party, entry)
        self.report.findings.append(finding)

    def doubt(self, text: str) -> None:
        """Add a finding that this record and another cannot both be right."""
        self.report.findings.append(Finding(None, "record", printable(text), self.party))

    def follow(
        self, rows: Mapping[tuple[str, str], int], witnesses: Mapping[str, _Witness]
    ) -> None:
        """Check what the record tells against job and protocol."""
        for run in self.runs:

            def declared(component: AnyComponent, scene: Scene, job: str = run.job) -> Flow | None:
                name = next(n for n, c in self.job.components.items() if c is component)
                return flow_of(component, replace(scene, rows=rows.get((job, name))))

            applies = run.job == self.job.digest + APPLIED
            protocol = Protocol(self.job, self.party, declared, applies=applies, own_data=True)
            replay = _Replay(self, run, protocol, witnesses)
            for entry, following in zip(run.entries, [*run.entries[1:], None], strict=True):
                try:
                    replay.take(entry, following)
                except Breach as breach:
                    run.broken |= breach.party == self.party
                    self.find(entry.number, breach.rule, str(breach), breach.party)
                    break  # What follows is out of step.
                except (LookupError, TypeError, ValueError, ArithmeticError):
                    run.broken = True
                    self.find(entry.number, "record", f"a '{entry.event}' entry is malformed")
                    break
            for name in replay.protocol.undeclared - set(self.report.undeclared):
                self.report.undeclared.append(name)

    def run_of(self, names: set[str]) -> _Run | None:
        """The run of one of these names, if the record has one."""
        return next((run for run in self.runs if run.name in names), None)

    def got(self, peer: str, name: str) -> Iterator[Entry]:
        """The messages that a run of a peer signed, in order."""
        for run in self.runs:
            yield from run.got.get((peer, name), ())

    def heard(self, peer: str) -> set[str]:
        """The runs of a peer that signed what this party received."""
        return {name for run in self.runs for name in run.heard(peer)}

    def rows(self, *, agreed: bool = False) -> dict[tuple[str, str], set[int]]:
        """Job and component -> rows of its table; or only where the parties agreed on them."""
        found: dict[tuple[str, str], set[int]] = {}
        for run in self.runs:
            finished = {e.content["component"] for e in run.entries if e.event == "finish"}
            sent = {e.content["tag"] for entries in run.sent.values() for e in entries}
            for entry in run.entries:
                if entry.event == "begin" and entry.content["rows"] is not None:
                    name = entry.content["component"]
                    if not agreed or (name in finished and f"{name}/{ROWS_TAG}" in sent):
                        found.setdefault((run.job, name), set()).add(entry.content["rows"])
        return found

    def _cut(self) -> None:
        """Leave out what follows the first entry that is malformed."""
        parties = {party.name for party in self.job.parties}
        for entry in self.record.entries:
            fault = fault_of(entry.event, entry.content, parties)
            if fault is None and entry.content.get("peer") == self.party:
                fault = f"its '{entry.event}' is about a message to itself"
            if fault is not None:
                self.record.faults = [(entry.number, fault)]
                del self.record.entries[entry.number :]
                break

    def _split(self) -> list[list[Entry]]:
        lives: list[list[Entry]] = []
        for entry in self.record.entries:
            if entry.event == "start" or not lives:
                lives.append([])
            lives[-1].append(entry)
        self.summary.runs = len(lives)
        return lives

    def _runs(self, lives: list[list[Entry]], root: x509.Certificate) -> Iterator[_Run]:
        """Those that are of this job, each once."""
        names = set()
        for entries in lives:
            start = entries[0]
            if start.event != "start" or start.content["format"] != FORMAT:
                self.find(start.number, "record", f"entry {start.number} starts no run")
            elif start.content["job"] not in (self.job.digest, self.job.digest + APPLIED):
                self.find(start.number, "control", "the record is of another job")
            elif start.content["run"] in names:
                text = f"entry {start.number} starts a run that the record has already"
                self.find(start.number, "record", text)
            elif self.authentic:
                names.add(start.content["run"])
                yield _Run(self.party, entries, root)

    def _check_chain(self) -> None:
        for number, text in self.record.faults:
            self.find(number, "record", f"the record was altered at entry {number}: {text}")
        if self.record.torn:
            self.find(None, "record", "the record ends within an entry: it was truncated")

    def _check_certificates(self, root: x509.Certificate) -> None:
        own: x509.Certificate | None = None
        for entry in self.record.entries:
            if entry.event in ("start", "met"):
                whose = self.party if entry.event == "start" else entry.content["peer"]
                found = _certified(entry.content["certificate"], whose, root)
                if found is None:
                    text = f"entry {entry.number} shows no certificate of {whose} by the authority"
                    self.find(entry.number, "record", text)
                    self.authentic &= entry.event != "start"
                elif entry.event == "start":
                    own = found
            elif entry.event == "seal":
                signature = from_base64(entry.content["signature"])
                signed = self.record.seals[entry.number]
                if own is None or not signed_by(own, signature, signed):
                    text = f"the signature of entry {entry.number} is not {self.party}'s"
                    self.find(entry.number, "record", text)
                else:
                    self.summary.signatures += 1

    def _check_end(self, last: list[Entry]) -> None:
        events = {entry.event for entry in last}
        for event in ("end", "violation", "failed"):
            if event in events:
                self.summary.state = {"end": "ended", "violation": "stopped"}.get(event, event)
                break
        if not self.whole:
            return
        if self.summary.state == "cut off" or last[-1].event != "seal":
            self.find(
                len(self.record.entries),
                "record",
                "the record has no signed end: it was truncated, or its party was killed",
            )


class _Replay:
    """One run of a record, entry by entry."""

    def __init__(
        self, witness: _Witness, run: _Run, protocol: Protocol, witnesses: Mapping[str, _Witness]
    ) -> None:
        self._witness = witness
        self._run = run
        self._witnesses = witnesses
        self._summary = witness.summary
        self._party = witness.party
        self._job = witness.job
        self.protocol = protocol
        self._due = list(witness.job.components)
        self._unchecked: set[tuple[str, str]] = set()
        self._sent_to: Counter[str] = Counter()
        self._last: dict[str, Entry] = {}

    def take(self, entry: Entry, following: Entry | None) -> None:
        """Check one entry. Raises `Breach`."""
        self._stopped = following is not None and following.event == "violation"
        take = getattr(self, f"_on_{entry.event}", None)
        if take is not None:
            take(entry.content, entry)

    def _on_sent(self, content: dict[str, Any], entry: Entry) -> None:
        self._summary.sent += 1
        peer, tag = content["peer"], content["tag"]
        self._sent_to[peer] += 1
        if content["sequence"] != self._sent_to[peer]:
            self._run.broken = True
            text = f"'{tag}' is not message {self._sent_to[peer]} to {peer}, which is due"
            self._witness.find(entry.number, "record", text)
            self._sent_to[peer] = content["sequence"]
        if tag == CODE_TAG and content.get("code", self._run.code) != self._run.code:
            self._run.broken = True
            text = f"the hashes of its code are not those that it sent to {peer}"
            self._witness.find(entry.number, "code", text)
        self.protocol.message(self._party, peer, tag, content)

    def _on_received(self, content: dict[str, Any], entry: Entry) -> None:
        self._summary.received += 1
        peer, tag = content["peer"], content["tag"]
        if entry.number not in self._run.signed:
            if self._stopped:
                return
            raise Breach(self._party, f"'{tag}' is not what {peer} signed", "record")
        last = self._last.get(peer)
        number = 0 if last is None else last.content["sequence"]
        if last is not None and content["sequence"] <= number:
            if content["sequence"] == number and not _same(last, entry):
                text = f"{peer} signed two messages as number {number} to {self._party}"
                raise Breach(peer, text, "control")
            return  # sent again
        if content["sequence"] != number + 1:
            text = f"the record has no message {number + 1} of {peer}, but '{tag}' after it"
            raise Breach(self._party, text, "record")
        self._last[peer] = entry
        if content["kind"] == "ciphertexts":
            self._unchecked.add((peer, tag))
        self.protocol.message(peer, self._party, tag, content)

    def _on_checked(self, content: dict[str, Any], entry: Entry) -> None:
        self._summary.ciphertexts += content["count"]
        self._unchecked.discard((content["peer"], content["tag"]))
        check_randomness(
            content["peer"], content["tag"], content["count"], content["bare"], content["again"]
        )

    def _on_resumed(self, content: dict[str, Any], entry: Entry) -> None:
        if content["component"] == WHOLE:
            self._due = self._due[content["done"] :]
        else:
            self.protocol.resumed(content["component"], content["done"])

    def _on_begin(self, content: dict[str, Any], entry: Entry) -> None:
        name = content["component"]
        if self._due[:1] != [name]:
            expected = f"'{self._due[0]}'" if self._due else "nothing more"
            text = f"{self._party} began '{name}', expected {expected}"
            raise Breach(self._party, text, "control")
        if content["nulls"] and not self._job.components[name].accepts_missing:
            text = f"{self._party} had {content['nulls']} null values in what '{name}' requires"
            raise Breach(self._party, text, "data")
        self.protocol.begin(name, content["rows"])

    def _on_finish(self, content: dict[str, Any], entry: Entry) -> None:
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

    def _on_end(self, content: dict[str, Any], entry: Entry) -> None:
        if self._due:
            text = f"{self._party} ended without having finished '{self._due[0]}'"
            raise Breach(self._party, text, "control")
        self.protocol.end()
        if entry.number != self._witness.last_end:
            return  # another party came back, and what it needed was made again
        directory = self._witness.record.path.parent.resolve()
        for name, digest in content["files"].items():
            path = _file_below(directory, name)
            if path is None:
                text = f"'{name}' is no file below the directory of {self._party}"
                self._witness.find(entry.number, "record", text)
            elif path.exists() and file_sha256(path) != digest:
                text = f"{name} is not the file that the run ended with"
                self._witness.find(entry.number, "record", text)

    def _on_lost(self, content: dict[str, Any], entry: Entry) -> None:
        peer = content["peer"]
        if not self._job.may_lose(peer):
            text = f"{self._party} gave up {peer}, without which the job cannot go on"
            raise Breach(self._party, text, "control")
        self.protocol.lost.add(peer)

    def _on_violation(self, content: dict[str, Any], entry: Entry) -> None:
        party, run = content["party"], self._run
        if content["rule"] == "code":
            other = self._witnesses.get(party)
            life = None if other is None else other.run_of(run.heard(party))
            if life is not None and life.code != run.code:
                return  # Who differs, and from how many, is seen from all records.
            told = [e for name in run.heard(party) for e in run.told_code(party, name)]
            if any(_tells(entry, run.code) for entry in told):
                text = f"{self._party} says that {party} runs other code, but {party} signed the"
                raise Breach(self._party, f"{text} same hashes", "record")
        raise Breach(party, content["text"], content["rule"])


def _file_below(directory: Path, name: str) -> Path | None:
    """The file of that name, which need not be there; None if it is none, or elsewhere."""
    try:
        path = (directory / name).resolve()
        inside = path != directory and path.is_relative_to(directory)
        return path if inside and (path.is_file() or not path.exists()) else None
    except (OSError, ValueError):
        return None


def _certified(pem: Any, party: str, root: x509.Certificate) -> x509.Certificate | None:
    """The certificate, if the authority issued it to `party`."""
    try:
        certificate = x509.load_pem_x509_certificate(str(pem).encode())
        certificate.verify_directly_issued_by(root)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return None
    names = [a.value for a in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    return certificate if names == [party] else None


def _signing_run(
    job: str, receiver: str, received: Entry, certificate: x509.Certificate | None
) -> str | None:
    """The run of its sender that signed a received message, None if none did."""
    content = received.content
    data = from_base64(content["signature"])
    run, signature = data[:RUN_BYTES], data[RUN_BYTES:]
    sha256 = bytes.fromhex(content["sha256"])
    signed = message_part(
        job, run, content["peer"], receiver, content["sequence"], content["tag"], sha256
    )
    proven = certificate is not None and signed_by(certificate, signature, signed)
    return run.hex() if proven else None


def _agreed_rows(witnesses: Mapping[str, _Witness]) -> dict[tuple[str, str], int]:
    """Job and component -> rows of its table, where two records say so and none another number.

    A single record may say anything of its own rows, and what follows from it would be held against
    the others.
    """
    told: dict[tuple[str, str], dict[str, set[int]]] = {}
    for party, witness in witnesses.items():
        for where, rows in witness.rows().items():
            told.setdefault(where, {})[party] = rows
    agreed = {}
    for where, by_party in told.items():
        numbers = set().union(*by_party.values())
        if len(by_party) > 1 and len(numbers) == 1:
            (agreed[where],) = numbers
    return agreed


def _compare_rows(job: Job, witnesses: Mapping[str, _Witness]) -> None:
    """Whether hosts finished components with the guest's number of rows, where they compare it."""
    guest = witnesses.get(job.guest.name)
    if guest is None:
        return
    ours = guest.rows(agreed=True)
    for host in job.hosts:
        theirs = {} if host.name not in witnesses else witnesses[host.name].rows(agreed=True)
        for job_, component in ours.keys() & theirs.keys():
            if ours[job_, component] != theirs[job_, component]:
                text = f"it has another number of rows of '{component}' than {host.name}'s record"
                guest.doubt(f"{text}: one of the two is false")


def _compare_code(job: Job, witnesses: Mapping[str, _Witness]) -> None:
    """Who ran other code than most of those it met; where there is no majority, all who differ."""
    runs = {(party, run.name): run for party, w in witnesses.items() for run in w.runs}
    groups: list[set[tuple[str, str]]] = []
    for place, run in runs.items():
        linked = {place, *run.got} & runs.keys()
        met = [group for group in groups if group & linked]
        groups = [group for group in groups if not group & linked]
        groups.append(linked.union(*met))
    for group in groups:
        told = [place for place in runs if place in group and not _refuted(*place, runs)]
        for name in (ENGINE, *job.components):
            hashes = {place: runs[place].code.get(name) for place in told}
            counts = Counter(hashes.values())
            if len(counts) < 2:
                continue
            (common, most), (_, second) = counts.most_common(2)
            for place, digest in hashes.items():
                if most == second or digest != common:
                    party, start = place[0], runs[place].entries[0]
                    text = f"{party} ran other code for '{name}' than the others"
                    witnesses[party].find(start.number, "code", text)


def _refuted(party: str, name: str, runs: Mapping[tuple[str, str], _Run]) -> bool:
    """Whether somebody holds a signed message with other hashes than a run's record has."""
    own = runs[party, name].code
    told = [entry for run in runs.values() for entry in run.told_code(party, name)]
    return any(e.content.get("code", own) != own and _tells(e, e.content["code"]) for e in told)


def _tells(entry: Entry, code: Mapping[str, str]) -> bool:
    """Whether what was signed is sure to be these hashes; others may be written in several ways."""
    payload = code_payload({name: bytes.fromhex(text) for name, text in code.items()})
    data = payload.SerializeToString(deterministic=True)
    return bool(hashlib.sha256(data).hexdigest() == entry.content["sha256"])


def _compare_told(run: _Run, entry: Entry, sender: _Witness, receiver: _Witness) -> None:
    """The hashes of a run's code against those that a receiver was told."""
    told = entry.content.get("code", run.code)
    if told == run.code:
        return
    if _tells(entry, told):
        text = f"the hashes of its code are not those that it sent to {receiver.party}"
        sender.find(run.entries[0].number, "code", text)
    elif _tells(entry, run.code):
        text = f"it has other hashes of {sender.party}'s code than {sender.party} signed"
        receiver.find(entry.number, "record", text)
    else:
        text = f"it has other hashes of {sender.party}'s code than {sender.party}'s record"
        receiver.doubt(f"{text}: one of the two is false")


def _compare_runs(witnesses: Mapping[str, _Witness]) -> set[tuple[str, str]]:
    """Whether the messages that were received are of runs that their sender had.

    Where all who met the sender hold those of another run, the sender's record is false, else
    theirs; with a single one, or a life of which the sender's record has nothing, nobody knows.
    Returns sender and receiver of such messages.
    """
    apart = set()
    for party, sender in witnesses.items():
        had = {run.name for run in sender.runs}
        others = [w for w in witnesses.values() if w is not sender and w.heard(party)]
        strange = []
        for receiver in others:
            lives = [run for run in receiver.runs if not run.heard(party) <= had]
            met = sender.heard(receiver.party)
            if lives:
                apart.add((party, receiver.party))
            if any(run.name in met for run in lives) and len(others) > 1:
                strange.append(receiver)
            elif lives and sender.whole and receiver.whole:
                text = f"it holds messages of a run of {party} that {party}'s record does not have"
                receiver.doubt(f"{text}: one of the two is false")
        if strange and len(strange) == len(others):
            sender.find(None, "record", "its messages are of a run that its record does not have")
        else:
            for receiver in strange:
                receiver.find(None, "record", f"it holds messages of another run of {party}")
    return apart


def _compare_messages(sender: _Witness, receiver: _Witness, *, apart: bool) -> None:
    """What one record has as sent must be what the other has as received, run by run.

    apart: they are known to differ about the sender's runs.
    """
    for run in sender.runs:
        sent = {entry.content["sequence"]: entry for entry in run.sent.get(receiver.party, ())}
        got: dict[int, Entry] = {}
        for entry in receiver.got(sender.party, run.name):
            number, tag = entry.content["sequence"], entry.content["tag"]
            got.setdefault(number, entry)
            if number not in sent or not _same(sent[number], entry):
                text = f"{receiver.party} holds a signed '{tag}' of {sender.party}"
                sender.find(None, "record", f"{text} that its own record does not have")
            elif not _same(sent[number], entry, _FACTS):
                text = f"it has '{tag}' of {sender.party} otherwise than {sender.party} has it"
                receiver.doubt(f"{text}: one of the two is false")
            if tag == CODE_TAG:
                _compare_told(run, entry, sender, receiver)
        last = max(got, default=0)
        late = [entry for number, entry in sent.items() if number > last]
        for number, entry in sent.items():
            if number < last and number not in got:
                _lacks(entry, sender, receiver)
        # The last ones of a run that was cut off may never have left.
        if not late or apart or not run.ended or receiver.party in run.lost:
            continue
        over = any(r.ended for r in receiver.runs if run.name in r.heard(sender.party))
        if over and not run.broken:
            for entry in late:
                _lacks(entry, sender, receiver)
        elif receiver.whole and not run.broken:
            text = f"it ends before '{late[0].content['tag']}', which {sender.party} says it sent"
            receiver.doubt(f"{text}: one of the two is false")


def _lacks(entry: Entry, sender: _Witness, receiver: _Witness) -> None:
    text = f"the record lacks '{entry.content['tag']}', which {sender.party} sent"
    receiver.find(None, "record", text)


_SIGNED = ("tag", "sha256")
_FACTS = ("size", "kind", "count", "bits", "key", "blocks", "arrays")
"""What follows from the payload, of which both have the hash."""


def _same(one: Entry, other: Entry, facts: tuple[str, ...] = _SIGNED) -> bool:
    return all(one.content.get(fact) == other.content.get(fact) for fact in facts)
