"""Attacks on a job, each by a real party over real gRPC or on a real record: all are caught.

An attacker is a party with one function replaced, its own live checks switched off. Each attack
must stop the run with an error that names the attacker, and the records that are left must name it
again, and nobody else.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import struct
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import residue
from residue.paillier._ciphertext import Randomness
from residue_federated import Identity, Job, TrialAuthority
from residue_federated._checkpoint import write_json
from residue_federated._cli import app
from residue_federated._context import Line
from residue_federated._data import Table
from residue_federated.audit import _code, _verify
from residue_federated.audit._flow import Breach
from residue_federated.audit._live import RECORD, Auditor
from residue_federated.audit._record import (
    RUN_BYTES,
    Signer,
    message_part,
    read_record,
    signed_by,
)
from residue_federated.audit._verify import AuditReport, audit_records
from residue_federated.errors import (
    AuditViolation,
    FederatedError,
    PeerFailed,
    PeerLost,
    RecordError,
)
from residue_federated.linear import _schemes, _train
from residue_federated.linear._fixed import quantise
from residue_federated.proto import v1
from residue_federated.transport import Endpoint
from tests.integration.parties import run_all
from tests.integration.test_federated import make_job

Send = Callable[[str, str, v1.Payload], None]
WITHHELD_SECONDS = 2  # how long the others wait for a message that never comes


def audited(job: Job, directory: Path) -> AuditReport:
    records = {party.name: directory / party.name / RECORD for party in job.parties}
    return audit_records(job, records, directory / job.guest.name / "ca.pem")


# --- live: how each attacker departs from the protocol -------------------------------------------


def sending(patch: pytest.MonkeyPatch, party: str, act: Callable[..., None]) -> None:
    """Let `party` send as `act(send, peer, tag, payload)` does."""
    original = Endpoint.send

    def send(self: Endpoint, peer: str, tag: str, payload: v1.Payload) -> None:
        if self._party != party:
            return original(self, peer, tag, payload)
        act(lambda *message: original(self, *message), peer, tag, payload)

    patch.setattr(Endpoint, "send", send)


def swapped_component(patch: pytest.MonkeyPatch, directory: Path) -> None:
    copy = directory / "package"
    shutil.copytree(Path(_code.__file__).parents[1], copy)
    with open(copy / "linear" / "_schemes.py", "a") as file:
        file.write("\n# leaks\n")
    here = threading.local()
    start, hashed = Auditor.__init__, _code.code_of

    def init(self: Auditor, job: Job, digest: str, party: str, *rest: Any) -> None:
        here.party = party
        start(self, job, digest, party, *rest)

    patch.setattr(Auditor, "__init__", init)
    patch.setattr(
        "residue_federated.audit._live.code_of",
        lambda job: hashed(job, copy) if here.party == "h0" else hashed(job),
    )


def skipped_batch(patch: pytest.MonkeyPatch, directory: Path) -> None:
    original = _train._Side.batches
    patch.setattr(_train._Host, "batches", lambda self, epoch: list(original(self, epoch))[1:])


def withheld_message(patch: pytest.MonkeyPatch, directory: Path) -> None:
    def act(send: Send, peer: str, tag: str, payload: v1.Payload) -> None:
        if tag != "train/loss/0/0":
            send(peer, tag, payload)
        if tag == "train/g/0/0":
            time.sleep(2 * WITHHELD_SECONDS)  # the others give up first

    sending(patch, "h0", act)


def replayed_message(patch: pytest.MonkeyPatch, directory: Path) -> None:
    def act(send: Send, peer: str, tag: str, payload: v1.Payload) -> None:
        send(peer, tag, payload)
        if tag == "train/u/0/0":
            send(peer, tag, payload)

    sending(patch, "h0", act)


def replayed_ciphertexts(patch: pytest.MonkeyPatch, directory: Path) -> None:
    old: list[v1.Payload] = []

    def act(send: Send, peer: str, tag: str, payload: v1.Payload) -> None:
        old.extend([payload] if tag == "train/u/0/0" else [])
        send(peer, tag, old[0] if tag == "train/u/1/0" else payload)

    sending(patch, "h0", act)


def replayed_answer(patch: pytest.MonkeyPatch, directory: Path) -> None:
    old: list[v1.Payload] = []

    def act(send: Send, peer: str, tag: str, payload: v1.Payload) -> None:
        if peer == "h0" and tag == "train/g/0/0":
            old.append(payload)
        send(peer, tag, old[0] if peer == "h0" and tag == "train/g/0/1" else payload)

    sending(patch, "arbiter", act)


def reordered_messages(patch: pytest.MonkeyPatch, directory: Path) -> None:
    """The guest tells its rows before it says where to resume, not after."""
    early: list[v1.Payload] = []

    def act(send: Send, peer: str, tag: str, payload: v1.Payload) -> None:
        if tag != "train/rows" or not early:
            send(peer, tag, payload)
        early.extend([payload] if tag == "train/rows" else [])

    def begin(self: Any) -> Any:
        digest = np.frombuffer(self.table.digest(self.context.job.digest), np.uint8)
        count = np.array([len(self.table.ids)])
        self.line.send_record("h0", "rows", count=count, digest=digest)
        return _train._Side.begin(self)

    sending(patch, "guest", act)
    patch.setattr(_train._Guest, "begin", begin)


def short_key(bits: int) -> Callable[[pytest.MonkeyPatch, Path], None]:
    def install(patch: pytest.MonkeyPatch, directory: Path) -> None:
        make = residue.keygen
        patch.setattr(
            residue,
            "keygen",
            lambda bits, **how: make(1024, **how | {"insecure_allow_1024": True}),
        )
        limbs = -(-bits // 64)
        n = (1 << bits - 1) + 1
        data = struct.pack("<8sHHI", b"RSDUPUBK", 1, 0, bits) + n.to_bytes(8 * limbs, "little")
        payload = v1.Payload(public_key=v1.PublicKey(data=data))
        patch.setattr(
            Line, "send_key", lambda self, peer, key: self.send_payload(peer, "key", payload)
        )

    return install


def encrypting(patch: pytest.MonkeyPatch, randomness: Callable[..., Any]) -> None:
    """Let the host encrypt its shares with randomness of its own making."""

    def share(self: Any, tag: str, rows: Any) -> None:
        key, values = self._side.key, self._encoded(rows)
        residues = randomness(key, key.plain_residues(values))
        bound = int(np.abs(values).max())
        out = residue.CiphertextArray(
            key, residues, values.shape, 0, bound, Randomness(unused=True)
        )
        self._side.context.line.send("guest", f"u/{tag}", out)

    patch.setattr(_schemes.Quadratic, "share", share)


def unobfuscated(patch: pytest.MonkeyPatch, directory: Path) -> None:
    encrypting(patch, lambda key, plain: plain)


def one_unobfuscated(patch: pytest.MonkeyPatch, directory: Path) -> None:
    def randomness(key: residue.PublicKey, plain: Any) -> Any:
        fresh = key.backend.mul(plain, key.zeros(len(plain)))
        both = key.backend.concat([fresh, plain])
        return key.backend.take(both, np.array([*range(len(plain) - 1), 2 * len(plain) - 1]))

    encrypting(patch, randomness)


def unobfuscated_residuals(patch: pytest.MonkeyPatch, directory: Path) -> None:
    """The guest knows the residuals of a first batch: it may as well say them in the clear."""

    def act(send: Send, peer: str, tag: str, payload: v1.Payload) -> None:
        if tag == "train/d/0/0":
            block = bytearray(payload.ciphertexts.blocks[0])
            block[-256:] = (1).to_bytes(256, "little")
            payload = v1.Payload(ciphertexts=v1.Ciphertexts(blocks=[bytes(block)]))
        send(peer, tag, payload)

    sending(patch, "guest", act)


def one_randomness(patch: pytest.MonkeyPatch, directory: Path) -> None:
    """A single r for the whole batch: the ciphertexts differ, their differences are readable."""

    def randomness(key: residue.PublicKey, plain: Any) -> Any:
        r = key.backend.take(key.zeros(1), np.zeros(len(plain), dtype=np.int64))
        return key.backend.mul(plain, r)

    encrypting(patch, randomness)


def ciphertext_out_of_range(patch: pytest.MonkeyPatch, directory: Path) -> None:
    def act(send: Send, peer: str, tag: str, payload: v1.Payload) -> None:
        if tag == "train/u/0/0":
            block = bytearray(payload.ciphertexts.blocks[0])
            block[-256:] = b"\xff" * 256
            payload = v1.Payload(ciphertexts=v1.Ciphertexts(blocks=[bytes(block)]))
        send(peer, tag, payload)

    sending(patch, "h0", act)


def gradient_out_of_range(patch: pytest.MonkeyPatch, directory: Path) -> None:
    def act(send: Send, peer: str, tag: str, payload: v1.Payload) -> None:
        if peer == "guest" and tag == "train/g/0/0":
            answer = payload.masked_plaintexts
            value = int.from_bytes(answer.values[0], "little", signed=True) + (1 << 300)
            changed = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
            answer = v1.MaskedPlaintexts(values=[changed, *answer.values[1:]])
            payload = v1.Payload(masked_plaintexts=answer)
        send(peer, tag, payload)

    sending(patch, "arbiter", act)


def share_out_of_range(patch: pytest.MonkeyPatch, directory: Path) -> None:
    def share(self: Any, tag: str, rows: Any) -> None:
        values = self._encoded(rows) + (1 << 40)
        self._side.context.line.send("guest", f"u/{tag}", self._side.key.encrypt(values))

    patch.setattr(_schemes.Quadratic, "share", share)


def null_scores(patch: pytest.MonkeyPatch, directory: Path) -> None:
    def act(send: Send, peer: str, tag: str, payload: v1.Payload) -> None:
        if tag == "train/scores":
            array = payload.record.arrays["scores"]
            array.data = np.full(len(array.data) // 8, np.nan).tobytes()
        send(peer, tag, payload)

    sending(patch, "h0", act)


def null_in_a_column(patch: pytest.MonkeyPatch, directory: Path) -> None:
    """The host trains with it all the same."""
    path = directory / "h0.csv"
    frame = pd.read_csv(path)
    frame.loc[3, "b"] = np.nan
    frame.to_csv(path, index=False)
    patch.setattr(Table, "require_complete", lambda self, party: None)
    patch.setattr(
        "residue_federated.linear._train.quantise",
        lambda x, bits: quantise(np.nan_to_num(x), bits),
    )


def unsigned_message(patch: pytest.MonkeyPatch, directory: Path) -> None:
    leaving = Auditor.leaving

    def forged(self: Auditor, message: Any) -> bytes:
        signature = leaving(self, message)
        return b"" if self._party == "h0" and message.tag == "train/u/0/0" else signature

    patch.setattr(Auditor, "leaving", forged)


def unsigned_first_message(patch: pytest.MonkeyPatch, directory: Path) -> None:
    leaving = Auditor.leaving

    def forged(self: Auditor, message: Any) -> bytes:
        signature = leaving(self, message)
        return b"short" if self._party == "h0" else signature

    patch.setattr(Auditor, "leaving", forged)


def code_of_another_kind(patch: pytest.MonkeyPatch, directory: Path) -> None:
    def act(send: Send, peer: str, tag: str, payload: v1.Payload) -> None:
        answer = v1.MaskedPlaintexts(values=[b"\x01"])
        send(peer, tag, v1.Payload(masked_plaintexts=answer) if "_audit" in tag else payload)

    sending(patch, "h0", act)


@dataclass(frozen=True)
class Attack:
    """An attack by `attacker`; `text` is in the error of a party that catches it."""

    install: Callable[[pytest.MonkeyPatch, Path], None]
    attacker: str
    text: str
    error: type[FederatedError] = AuditViolation
    changes: dict[str, Any] = field(default_factory=dict)


LIVE = {
    "swapped component": Attack(swapped_component, "h0", "h0 runs other code for 'train'"),
    "skipped step": Attack(skipped_batch, "h0", r"h0 sent 'u/0/1'.*expected 'u/0/0'"),
    "withheld message": Attack(
        withheld_message,
        "h0",
        # The honest party that gives up first may blame one who waits itself: only the records
        # name the attacker.
        "is alive but has not sent",
        PeerLost,
        {
            "transport": {
                "connect_timeout": 20,
                "peer_timeout": WITHHELD_SECONDS,
                "message_timeout": WITHHELD_SECONDS,
            }
        },
    ),
    "replayed message": Attack(replayed_message, "h0", "h0 sent 'u/0/0'.*expected 'loss/0/0'"),
    "replayed ciphertexts": Attack(replayed_ciphertexts, "h0", "h0 sent.*used before"),
    "replayed answer": Attack(replayed_answer, "arbiter", "arbiter sent 'g/0/1'.*out of range"),
    "re-ordered messages": Attack(
        reordered_messages, "guest", "guest sent 'rows'.*expected 'resume'"
    ),
    **{
        f"{bits}-bit key": Attack(
            short_key(bits),
            "arbiter",
            f"arbiter sent a key of {bits} bits where 2048 were agreed",
            changes={"key": {"bits": 2048}},
        )
        for bits in (128, 1024, 2025)
    },
    "unobfuscated ciphertexts": Attack(unobfuscated, "h0", "h0 sent.*30 of 30.*unobfuscated"),
    "one unobfuscated ciphertext": Attack(one_unobfuscated, "h0", "1 of 30.*unobfuscated"),
    "unobfuscated residuals": Attack(unobfuscated_residuals, "guest", "guest.*unobfuscated"),
    "one randomness for all": Attack(one_randomness, "h0", "h0 sent.*29 of 30.*used before"),
    "ciphertext out of range": Attack(ciphertext_out_of_range, "h0", r"h0.*outside \(0, n\*\*2\)"),
    "gradient out of range": Attack(gradient_out_of_range, "arbiter", "arbiter.*out of range"),
    "share out of range": Attack(share_out_of_range, "h0", "h0 sent.*up to 64 bits, not 32"),
    "null scores": Attack(
        null_scores, "h0", "h0 sent 'train/scores' with 60 numbers in 'scores' that are null"
    ),
    "null in a required column": Attack(null_in_a_column, "h0", "h0 stopped: ", PeerFailed),
    "no signature from the start": Attack(
        unsigned_first_message, "h0", "h0 sent '_audit/code' without signing"
    ),
    "no hashes of code": Attack(code_of_another_kind, "h0", "h0 sent 'code'.*expected 'code'"),
    "unsigned message": Attack(unsigned_message, "h0", "h0 sent 'train/u/0/0' without signing"),
}


def disarm(patch: pytest.MonkeyPatch, party: str) -> None:
    """Switch off an attacker's checks of itself and of others; its record goes on."""
    guarded = Auditor._guarded

    def lenient(self: Auditor, check: Any, *arguments: Any) -> None:
        if self._party != party:
            return guarded(self, check, *arguments)
        try:
            check(*arguments)
        except Breach:
            return

    patch.setattr(Auditor, "_guarded", lenient)


@pytest.fixture(scope="module")
def tally(request: pytest.FixtureRequest) -> Iterator[dict[str, bool]]:
    """Attack -> whether it was caught; the counts are printed when all are done."""
    caught: dict[str, bool] = {}
    yield caught
    text = f"\nattacks: {len(caught)}, missed: {list(caught.values()).count(False)}"
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print(text)


@pytest.mark.parametrize("name", LIVE)
def test_an_attack_is_caught_and_the_attacker_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tally: dict[str, bool], name: str
) -> None:
    attack = LIVE[name]
    tally[name] = False
    training = {"epochs": 2, "batch_size": 30}
    job = make_job(tmp_path, "logistic_regression", training=training, **attack.changes)
    attack.install(monkeypatch, tmp_path)
    disarm(monkeypatch, attack.attacker)
    run = run_all(job, tmp_path)
    monkeypatch.undo()
    honest = [error for party, error in run.errors.items() if party != attack.attacker]
    seen = [e for e in honest if isinstance(e, attack.error) and re.search(attack.text, str(e))]
    assert seen, run.errors
    assert {e.party for e in seen if isinstance(e, AuditViolation)} <= {attack.attacker}
    assert attack.attacker == "guest" or "guest" not in run.reports
    report = audited(job, tmp_path)
    assert report.named == [attack.attacker], report.findings
    tally[name] = True


# --- after the fact: what is done to a record ----------------------------------------------------


@dataclass(frozen=True)
class Honest:
    """A run that nobody attacked."""

    job: Job
    directory: Path


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Honest:
    directory = tmp_path_factory.mktemp("honest")
    training, patient = {"epochs": 2, "batch_size": 30}, {"connect_timeout": 60, "peer_timeout": 30}
    job = make_job(directory, "logistic_regression", 2, training=training, transport=patient)
    run = run_all(job, directory)
    assert run.errors == {}
    return Honest(job, directory)


Line_ = dict[str, Any]


def lines_of(path: Path) -> list[str]:
    return path.read_text().splitlines()


def write_lines(path: Path, lines: list[str]) -> None:
    path.write_text("".join(line + "\n" for line in lines))


def number_of(path: Path, event: str, tag: str = "") -> int:
    """The first entry of an event and, if it is given, a tag."""
    entries = read_record(path).entries
    return next(e.number for e in entries if e.event == event and tag in ("", e.content.get("tag")))


def torn(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def cut_after(event: str) -> Callable[[Path], None]:
    def cut(path: Path) -> None:
        write_lines(path, lines_of(path)[: number_of(path, event) + 1])

    return cut


def edited(path: Path) -> None:
    lines = lines_of(path)
    at = number_of(path, "sent", "train/u/0/0")
    lines[at] = re.sub('"sha256":"..', '"sha256":"00', lines[at])
    write_lines(path, lines)


def dropped(path: Path) -> None:
    lines = lines_of(path)
    del lines[number_of(path, "sent", "train/u/0/0")]
    write_lines(path, lines)


def swapped(path: Path) -> None:
    lines = lines_of(path)
    at = number_of(path, "sent", "train/u/0/0")
    lines[at], lines[at + 1] = lines[at + 1], lines[at]
    write_lines(path, lines)


def rewritten(change: Callable[[list[Line_]], list[Line_]]) -> Callable[[Path], None]:
    """As the party itself can: the chain is made anew and signed with its own key."""

    def rewrite(path: Path) -> None:
        signer = Signer(Identity.load(path.parent, path.parent.name))
        entries = change([json.loads(line) for line in lines_of(path)])
        previous, lines = "0" * 64, []
        for number, entry in enumerate(entries):
            entry.pop("signature", None) if entry["event"] == "seal" else None
            entry |= {"number": number, "previous": previous}
            if entry["event"] == "seal":
                unsigned = json.dumps(entry, sort_keys=True, separators=(",", ":")).encode()
                entry["signature"] = b64encode(signer.sign(unsigned)).decode()
            lines.append(json.dumps(entry, sort_keys=True, separators=(",", ":")))
            previous = hashlib.sha256(lines[-1].encode()).hexdigest()
        write_lines(path, lines)

    return rewrite


def entry_of(entries: list[Line_], event: str, tag: str) -> Line_:
    return next(e for e in entries if e["event"] == event and e.get("tag") == tag)


def other_hash(event: str, tag: str) -> Callable[[list[Line_]], list[Line_]]:
    def change(entries: list[Line_]) -> list[Line_]:
        entry_of(entries, event, tag)["sha256"] = "00" * 32
        return entries

    return change


def without(event: str, tag: str) -> Callable[[list[Line_]], list[Line_]]:
    def change(entries: list[Line_]) -> list[Line_]:
        entries.remove(entry_of(entries, event, tag))
        return entries

    return change


def renamed_run(entries: list[Line_]) -> list[Line_]:
    entries[0]["run"] = "00" * 16
    return entries


def another_run(path: Path) -> None:
    """The guest shows what h0 signed in some other run of the job, which looked the same."""
    signer = Signer(Identity.load(path.parent.parent / "h0", "h0"))

    def change(entries: list[Line_]) -> list[Line_]:
        job, run = entries[0]["job"], bytes(RUN_BYTES)
        for entry in entries:
            if entry["event"] == "received" and entry["peer"] == "h0":
                digest = bytes.fromhex(entry["sha256"])
                place = ("h0", "guest", entry["sequence"], entry["tag"])
                signature = signer.sign(message_part(job, run, *place, digest))
                entry["signature"] = b64encode(run + signature).decode()
        return entries

    rewritten(change)(path)


def unchecked(entries: list[Line_]) -> list[Line_]:
    return [e for e in entries if e["event"] != "checked"]


def component_left_out(entries: list[Line_]) -> list[Line_]:
    return [e for e in entries if e.get("component") != "scale"]


def another_signer(path: Path) -> None:
    """A record of a party that is right in itself, by a certificate of another authority."""
    directory = path.parent
    other = directory.with_name("stranger")
    TrialAuthority().issue(other, directory.name)
    for name in ("key.pem", "cert.pem"):
        shutil.copy(other / name, directory / name)
    shutil.copy(other / "ca.pem", directory / "ca.pem")
    certificate = (directory / "cert.pem").read_text()

    def change(entries: list[Line_]) -> list[Line_]:
        for entry in entries:
            if entry["event"] == "start":
                entry["certificate"] = certificate
        return entries

    rewritten(change)(path)


def anothers_record(path: Path) -> None:
    shutil.copy(path.parent.parent / "h1" / RECORD, path)


def other_model(path: Path) -> None:
    model = path.parent / "models" / "train.json"
    model.write_text(model.read_text().replace("1", "2"))


def lost_to_it(entries: list[Line_]) -> list[Line_]:
    """It answers before it was asked, and says that it had given up who asks."""
    at = entries.index(entry_of(entries, "sent", "train/loss/0/1"))
    early = entries.pop(at)
    entries.insert(entries.index(entry_of(entries, "received", "train/d/0/1")), early)
    time = entries[0]["time"]
    return [entries[0], {"event": "lost", "time": time, "peer": "guest"}, *entries[1:]]


def twice(entries: list[Line_]) -> list[Line_]:
    return [*entries, *(dict(entry) for entry in entries)]


RECORDS: dict[str, tuple[Callable[[Path], None], str]] = {
    "truncated within an entry": (torn, "ends within an entry"),
    "truncated at an entry": (cut_after("begin"), "no signed end"),
    "truncated at a signature": (cut_after("seal"), "no signed end"),
    "deleted": (Path.unlink, "there is no record"),
    "edited entry": (edited, "it was changed"),
    "dropped entry": (dropped, "entries are missing"),
    "swapped entries": (swapped, "the order was changed"),
    "own hash rewritten and signed": (
        rewritten(other_hash("sent", "train/u/0/0")),
        "guest holds a signed 'train/u/0/0' of h0",
    ),
    "received hash rewritten and signed": (
        rewritten(other_hash("received", "train/d/0/0")),
        "'train/d/0/0' is not what guest signed",
    ),
    "own message taken out and signed": (
        rewritten(without("sent", "train/loss/0/1")),
        "without 'loss/0/1'",
    ),
    "received message taken out and signed": (
        rewritten(without("received", "train/scores")),
        r"the record lacks 'train/scores', which h\d sent",
    ),
    "received step taken out and signed": (
        rewritten(without("received", "train/d/0/1")),
        "without 'd/0/1' of guest",
    ),
    "received in another run and signed": (
        another_run,
        "it holds messages of another run of h0",
    ),
    "own run renamed and signed": (rewritten(renamed_run), "of a run that its record does not"),
    "checks taken out and signed": (rewritten(unchecked), "did not check the randomness"),
    "component taken out and signed": (rewritten(component_left_out), "began 'train'"),
    "signed by a stranger": (another_signer, "no certificate of h0 by the authority"),
    "another party's record": (anothers_record, "no certificate of h0"),
    "a peer given up in a job that loses none": (rewritten(lost_to_it), "h0 gave up guest"),
    "a run shown twice": (rewritten(twice), "starts a run that the record has already"),
    "another model": (other_model, "models/train.json is not the file"),
}


def test_the_records_of_an_honest_run_hold_nothing_against_anybody(honest: Honest) -> None:
    report = audited(honest.job, honest.directory)
    assert report.findings == []
    assert (report.missing, report.undeclared) == ([], [])
    assert {p.state for p in report.parties} == {"ended"}
    sent, received = (sum(getattr(p, n) for p in report.parties) for n in ("sent", "received"))
    assert sent == received > 0
    for party in honest.job.parties:  # One record alone is enough for what is in it.
        records = {party.name: honest.directory / party.name / RECORD}
        alone = audit_records(honest.job, records, honest.directory / "guest" / "ca.pem")
        assert alone.findings == []
        assert len(alone.missing) == 3


def test_components_of_all_vertical_families_keep_to_what_they_declare(tmp_path: Path) -> None:
    components = {
        "align": {"type": "psi"},
        "part": {"type": "split", "part": "train", "stratify": True},
        "scale": {"type": "standardise"},
        "woe": {"type": "bin", "bins": 3},
        "alike": {"type": "correlation", "input": "scale"},
        "trees": {"type": "secureboost", "trees": 2, "depth": 2, "mixed_period": 1},
        "classes": {
            "type": "logistic_regression",
            "one_vs_rest": True,
            "epochs": 1,
            "input": "scale",
        },
        "quality": {"type": "evaluate", "model": "trees"},
    }
    job = make_job(tmp_path, "logistic_regression", 2, components=components)
    run = run_all(job, tmp_path)
    assert run.errors == {}
    report = audited(job, tmp_path)
    assert report.findings == []
    assert report.undeclared == []
    keys = {m.tag for m in run.messages if re.match("classes/.*key", m.tag)}
    assert keys == {"classes/key"}  # one for all classes


@pytest.mark.parametrize("name", RECORDS)
def test_a_forged_record_is_told_and_its_party_named(
    tmp_path: Path, honest: Honest, tally: dict[str, bool], name: str
) -> None:
    forge, text = RECORDS[name]
    tally[name] = False
    directory = shutil.copytree(honest.directory, tmp_path / "run")
    party = (
        "guest"
        if "scores" in name or name.startswith(("received message", "received in"))
        else "h0"
    )
    forge(directory / party / RECORD)
    report = audited(honest.job, directory)
    assert any(f.party == party and re.search(text, f.text) for f in report.findings), report
    assert report.named == [party], report.findings
    tally[name] = True


def setting(event: str, /, **fields: Any) -> Callable[[Path], None]:
    """The party's own record with other fields in the first entry of an event; None drops one."""

    def change(entries: list[Line_]) -> list[Line_]:
        entry = next(e for e in entries if e["event"] == event)
        entry.update(fields)
        for name in [name for name, value in fields.items() if value is None]:
            del entry[name]
        return entries

    return rewritten(change)


def adding(event: str, /, **fields: Any) -> Callable[[Path], None]:
    def change(entries: list[Line_]) -> list[Line_]:
        entry = {"event": event, "time": entries[0]["time"], **fields}
        return [*entries[:-1], entry, entries[-1]]

    return rewritten(change)


def with_line(line: str, at: int) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        lines = lines_of(path)
        write_lines(path, [*lines[:at], line, *lines[at:]])

    return change


def linked(path: Path) -> None:
    """A file of the run that is another party's."""
    (path.parent / "own.pem").symlink_to(path.parent.parent / "guest" / "key.pem")
    setting("end", files={"own.pem": "00" * 32})(path)


def numbered_by_text(path: Path) -> None:
    lines = lines_of(path)
    lines[3] = lines[3].replace('"number":3', '"number":"3"')
    write_lines(path, lines)


def no_file(path: Path) -> None:
    path.unlink()
    path.mkdir()


HOSTILE: dict[str, tuple[Callable[[Path], None], str]] = {
    "emptied": (partial(write_lines, lines=[]), "no signed end"),
    "a directory": (no_file, "there is no record"),
    "first line in another form": (with_line('{"event": "start"}', 0), "entry 0: it is not an"),
    "nested beyond reading": (with_line("[" * 200_000, 5), "entry 5: it is not an entry"),
    "event a list": (setting("finish", event=["x"]), "it is not an entry"),
    "event unknown": (setting("finish", event="protocol"), "it is no event of a record"),
    "number a string": (numbered_by_text, "it is not an entry"),
    "begin without component": (setting("begin", component=None), "'begin' is malformed"),
    "component a list": (setting("begin", component=[]), "'begin' is malformed: component"),
    "rows a string": (setting("begin", rows="60"), "'begin' is malformed: rows"),
    "rows negative": (setting("begin", rows=-5), "'begin' is malformed: rows"),
    "rows beyond measure": (setting("begin", rows=10**30), "'begin' is malformed: rows"),
    "rounds negative": (setting("resumed", done=-(10**9)), "'resumed' is malformed: done"),
    "hash of no bytes": (setting("received", sha256="zz"), "'received' is malformed: sha256"),
    "received without hash": (setting("received", sha256=None), "'received' is malformed"),
    "sent without tag": (setting("sent", tag=None), "'sent' is malformed: tag"),
    "sent to a stranger": (setting("sent", peer="h7"), "a party that the job does not have"),
    "sent to itself": (setting("sent", peer="h0"), "a message to itself"),
    "another kind of message": (setting("sent", kind=["x"]), "'sent' is malformed: kind"),
    "blocks in a record": (setting("sent", blocks=[1]), "'sent' is malformed: record.blocks"),
    "code a list": (setting("start", code=[]), "'start' is malformed: code"),
    "code null": (setting("start", code=None), "'start' is malformed: code"),
    "no text": (setting("start", certificate="\ud800"), "shows no certificate of h0"),
    "violation of a list": (
        adding("violation", party=[], rule="data", text="x"),
        "'violation' is malformed: party",
    ),
    "files a directory": (setting("end", files={"models": "00"}), "'models' is no file below"),
    "files without end": (setting("end", files={"/dev/zero": "00"}), "'/dev/zero' is no file"),
    "files of another": (setting("end", files={"../guest/key.pem": "00"}), "is no file below"),
    "files by a link": (linked, "'own.pem' is no file below the directory of h0"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_record_of_any_form_is_audited_and_names_its_owner_alone(
    tmp_path: Path, honest: Honest, name: str
) -> None:
    forge, text = HOSTILE[name]
    directory = shutil.copytree(honest.directory, tmp_path / "run")
    forge(directory / "h0" / RECORD)
    report = audited(honest.job, directory)
    assert any(f.party == "h0" and text in f.text for f in report.findings), report.findings
    assert report.named == ["h0"], report.findings


def begun_with(rows: int) -> Callable[[list[Line_]], list[Line_]]:
    def change(entries: list[Line_]) -> list[Line_]:
        for entry in entries:
            if entry["event"] == "begin" and entry["component"] == "train":
                entry["rows"] = rows
        return entries

    return change


@pytest.mark.parametrize("rows", [29, 90, 1 << 40])
def test_a_false_number_of_rows_is_held_against_nobody_honest(
    tmp_path: Path, honest: Honest, rows: int
) -> None:
    directory = shutil.copytree(honest.directory, tmp_path / "run")
    rewritten(begun_with(rows))(directory / "h1" / RECORD)
    report = audited(honest.job, directory)
    assert (report.named, report.ok) == ([], False)
    assert "another number of rows of 'train' than h1's" in report.findings[0].text
    records = {"h1": directory / "h1" / RECORD}
    alone = audit_records(honest.job, records, directory / "guest" / "ca.pem")
    assert alone.findings == []


def test_an_end_that_one_denies_and_another_claims_is_open(tmp_path: Path, honest: Honest) -> None:
    """The guest cuts its record before the scores, and says that it failed there."""

    def change(entries: list[Line_]) -> list[Line_]:
        at = entries.index(entry_of(entries, "received", "train/scores"))
        time = entries[0]["time"]
        failed = {"event": "failed", "time": time, "error": "PeerLost", "text": ""}
        return [*entries[:at], failed, {"event": "seal", "time": time}]

    directory = shutil.copytree(honest.directory, tmp_path / "run")
    rewritten(change)(directory / "guest" / RECORD)
    report = audited(honest.job, directory)
    assert (report.named, report.ok) == ([], False)
    assert {f.text for f in report.findings} == {
        f"it ends before 'train/scores', which {host} says it sent: one of the two is false"
        for host in ("h0", "h1")
    }
    write_json(directory / "job.json", honest.job.model_dump(mode="json"))
    told = CliRunner().invoke(app, ["audit", str(directory)])
    assert told.exit_code == 1
    assert "one of two: record: it ends before 'train/scores'" in told.output
    assert "named: nobody" in told.output


def test_a_message_is_proven_once(honest: Honest, monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[bytes] = []

    def counted(certificate: Any, signature: bytes, data: bytes) -> bool:
        checked.append(data)
        return signed_by(certificate, signature, data)

    monkeypatch.setattr(_verify, "signed_by", counted)
    report = audited(honest.job, honest.directory)
    assert len(checked) == sum(p.received + p.signatures for p in report.parties)


def telling_code(entries: list[Line_], code: dict[str, str], peer: str = "") -> list[Line_]:
    """With these hashes in its messages, or in those received from a peer."""
    for entry in entries:
        event = "received" if peer else "sent"
        if (entry["event"], entry.get("tag")) == (event, "_audit/code"):
            entry["code"] = code if peer in ("", entry["peer"]) else entry["code"]
    return entries


def test_hashes_of_code_that_one_record_says_another_sent(
    tmp_path: Path, honest: Honest, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = shutil.copytree(honest.directory, tmp_path / "run")
    other = {"engine": "00" * 32}
    rewritten(partial(telling_code, code=other, peer="h1"))(directory / "h0" / RECORD)
    report = audited(honest.job, directory)
    assert report.named == ["h0"]
    assert "it has other hashes of h1's code than h1 signed" in report.findings[0].text
    # Where messages are written otherwise, by another release, their hash shows nothing.
    monkeypatch.setattr(_verify, "code_payload", lambda code: v1.Payload())
    report = audited(honest.job, directory)
    assert (report.named, report.ok) == ([], False)
    assert audited(honest.job, honest.directory).ok


def test_a_false_hash_of_code_in_a_record_hides_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The party that ran other code writes the others' hashes into its record afterwards."""
    job = make_job(tmp_path, "logistic_regression", training={"epochs": 1})
    swapped_component(monkeypatch, tmp_path)
    disarm(monkeypatch, "h0")
    assert isinstance(run_all(job, tmp_path).errors["guest"], AuditViolation)
    monkeypatch.undo()
    (start,) = read_record(tmp_path / "guest" / RECORD).of("start")
    setting("start", code=start.content["code"])(tmp_path / "h0" / RECORD)
    report = audited(job, tmp_path)
    assert report.named == ["h0"]
    texts = {f.text for f in report.findings if f.rule == "code"}
    assert "the hashes of its code are not those that it sent to guest" in texts
    assert "h0 runs other code for 'train' than guest: both need the same release" in texts
    # Nor does it help to write them into what it sent: the others hold its signature.
    path = tmp_path / "h0" / RECORD
    own = path.read_bytes()
    rewritten(partial(telling_code, code=start.content["code"]))(path)
    report = audited(job, tmp_path)
    assert report.named == ["h0"]
    assert any("not those that it sent to guest" in f.text for f in report.findings)
    path.write_bytes(own)
    # The next life with the right code does not undo what was run in the first.
    assert run_all(job, tmp_path).errors == {}
    assert audited(job, tmp_path).named == ["h0"]


def test_a_false_accusation_about_code_names_the_accuser(tmp_path: Path, honest: Honest) -> None:
    directory = shutil.copytree(honest.directory, tmp_path / "run")
    text = "h1 runs other code for 'train' than h0: both need the same release"
    adding("violation", party="h1", rule="code", text=text)(directory / "h0" / RECORD)
    report = audited(honest.job, directory)
    assert report.named == ["h0"]
    assert any("h1 signed the same hashes" in f.text for f in report.findings)


def test_a_message_that_never_left_before_a_death_is_held_against_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job(
        tmp_path,
        "logistic_regression",
        training={"epochs": 1},
        transport={"connect_timeout": 60, "peer_timeout": 30},
    )
    leaving = Auditor.leaving

    def dies(self: Auditor, message: Any) -> bytes:
        signature = leaving(self, message)
        if (self._party, message.receiver, message.tag) == ("guest", "h0", "_audit/code"):
            raise FederatedError("the power is gone")
        return signature

    monkeypatch.setattr(Auditor, "leaving", dies)
    assert run_all(job, tmp_path).reports == {}
    monkeypatch.undo()
    assert run_all(job, tmp_path).errors == {}
    report = audited(job, tmp_path)
    assert report.findings == []
    assert [p.runs for p in report.parties] == [2, 2, 2]


def test_a_party_that_was_killed_and_resumed_is_not_blamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job(tmp_path, "logistic_regression", training={"epochs": 4, "batch_size": 30})
    save = _train._Host.save

    def dies(self: Any, done: int, **more: Any) -> None:
        if done == 3:
            raise FederatedError("the power is gone")
        save(self, done, **more)

    monkeypatch.setattr(_train._Host, "save", dies)
    assert run_all(job, tmp_path).reports == {}
    monkeypatch.undo()
    path = tmp_path / "h0" / RECORD
    # Killed: its last words are not in its record, and the last entry is torn.
    write_lines(path, lines_of(path)[: number_of(path, "failed")])
    path.write_bytes(path.read_bytes() + b'{"certificate":"')
    assert audited(job, tmp_path).named == ["h0"]
    run = run_all(job, tmp_path)
    assert run.errors == {}
    report = audited(job, tmp_path)
    assert report.findings == []
    assert [p.runs for p in report.parties] == [2, 2, 2]
    resumed = list(read_record(path).of("resumed"))
    assert resumed[-1].content["done"] == 2

    # One of the two hides the first life, and cannot make it the other's fault.
    def hidden(entries: list[Line_]) -> list[Line_]:
        return entries[[e["event"] for e in entries].index("start", 1) :]

    rewritten(hidden)(tmp_path / "guest" / RECORD)
    report = audited(job, tmp_path)
    assert (report.named, report.ok) == ([], False)
    assert "a run of guest that guest's record does not have" in report.findings[0].text


def test_the_command_says_what_is_wrong_and_exits_with_1(tmp_path: Path, honest: Honest) -> None:
    directory = shutil.copytree(honest.directory, tmp_path / "run")
    write_json(directory / "job.json", honest.job.model_dump(mode="json"))
    good = CliRunner().invoke(app, ["audit", str(directory)])
    assert good.exit_code == 0
    assert "nothing is wrong" in good.output
    edited(directory / "h1" / RECORD)
    bad = CliRunner().invoke(app, ["audit", str(directory)])
    assert bad.exit_code == 1
    assert "h1: record: the record was altered at entry" in bad.output
    assert "named: h1" in bad.output
    told = CliRunner().invoke(app, ["audit", str(directory), "--json"])
    assert told.exit_code == 1
    report = json.loads(told.output)
    assert (report["ok"], report["named"]) == (False, ["h1"])
    assert {finding["party"] for finding in report["findings"]} == {"h1"}


def test_the_parties_must_have_the_authority_in_common(tmp_path: Path, honest: Honest) -> None:
    """A party that brings an authority of its own making could accuse all others with it."""
    directory = shutil.copytree(honest.directory, tmp_path / "run")
    write_json(directory / "job.json", honest.job.model_dump(mode="json"))
    TrialAuthority().issue(tmp_path / "other", "guest")
    shutil.copy(tmp_path / "other" / "ca.pem", directory / "guest" / "ca.pem")
    refused = CliRunner().invoke(app, ["audit", str(directory)])
    assert isinstance(refused.exception, RecordError)
    assert "have different ca.pem: give the authority's with --authority" in str(refused.exception)
    given = ["--authority", str(directory / "h0" / "ca.pem")]
    assert CliRunner().invoke(app, ["audit", str(directory), *given]).exit_code == 0


@pytest.mark.parametrize(
    ("content", "text"), [(b"garbage", "is no certificate of an authority"), (None, "cannot read")]
)
def test_an_authority_that_is_none_is_an_error(
    tmp_path: Path, honest: Honest, content: bytes | None, text: str
) -> None:
    if content is not None:
        (tmp_path / "ca.pem").write_bytes(content)
    records = {"guest": honest.directory / "guest" / RECORD}
    with pytest.raises(RecordError, match=text):
        audit_records(honest.job, records, tmp_path / "ca.pem")


@pytest.mark.parametrize("what", ["parties", "authority"])
def test_a_directory_that_cannot_be_audited_is_an_error(
    tmp_path: Path, honest: Honest, what: str
) -> None:
    write_json(tmp_path / "job.json", honest.job.model_dump(mode="json"))
    if what == "authority":
        (tmp_path / "h0").mkdir()
    result = CliRunner().invoke(app, ["audit", str(tmp_path)])
    assert isinstance(result.exception, RecordError)
    assert {"parties": "no directory of any party", "authority": "no ca.pem"}[what] in str(
        result.exception
    )
