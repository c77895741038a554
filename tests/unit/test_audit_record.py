"""Records: what a reader says of a chain that somebody touched."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from residue_federated._certificates import Identity, TrialAuthority
from residue_federated.audit._record import (
    Record,
    Recorder,
    Signer,
    from_base64,
    read_record,
    signed_by,
)
from residue_federated.errors import RecordError


@pytest.fixture
def identity(tmp_path: Path) -> Identity:
    return TrialAuthority().issue(tmp_path / "identity", "guest")


def written(path: Path, identity: Identity, entries: int = 5) -> Path:
    with Recorder(path, Signer(identity)) as recorder:
        for i in range(entries):
            recorder.add("sent", tag=f"t/{i}")
        recorder.seal()
    return path


def sealed_by(identity: Identity, record: Record) -> bool:
    """Whether the only seal of a record is that of an identity."""
    certificate = x509.load_pem_x509_certificate(identity.certificate.read_bytes())
    (seal,) = record.of("seal")
    signature = from_base64(seal.content["signature"])
    return signed_by(certificate, signature, record.seals[seal.number])


def test_a_record_reads_as_it_was_written(tmp_path: Path, identity: Identity) -> None:
    record = read_record(written(tmp_path / "a.jsonl", identity))
    assert record.faults == []
    assert not record.torn
    assert [e.number for e in record.entries] == list(range(6))
    assert [e.content["tag"] for e in record.of("sent")] == [f"t/{i}" for i in range(5)]
    assert sealed_by(identity, record)
    assert (tmp_path / "a.jsonl").stat().st_mode & 0o777 == 0o600


def test_every_seal_covers_itself(tmp_path: Path, identity: Identity) -> None:
    path = written(tmp_path / "a.jsonl", identity)
    *lines, last = path.read_text().splitlines()
    seal = json.loads(last)
    seal["time"] = "2000-01-01T00:00:00.000000+00:00"
    changed = json.dumps(seal, sort_keys=True, separators=(",", ":"))
    path.write_text("\n".join([*lines, changed, ""]))
    record = read_record(path)
    assert record.faults == []
    assert not sealed_by(identity, record)


def test_another_key_signs_in_vain(tmp_path: Path, identity: Identity) -> None:
    record = read_record(written(tmp_path / "a.jsonl", identity))
    other = TrialAuthority().issue(tmp_path / "other", "guest")
    assert not sealed_by(other, record)
    assert from_base64("no base64!") == from_base64(None) == b""


def swap(lines: list[str]) -> list[str]:
    lines[2], lines[3] = lines[3], lines[2]
    return lines


@pytest.mark.parametrize(
    ("change", "number", "text"),
    [
        (lambda x: x[:2] + x[3:], 2, "entries are missing"),
        (swap, 2, "order was changed"),
        (lambda x: [*x[:3], x[2], *x[3:]], 3, "order was changed"),
        (lambda x: [*x[:2], x[2].replace("t/2", "t/9"), *x[3:]], 2, "was changed"),
        (lambda x: [*x[:2], x[2] + " ", *x[3:]], 2, "not an entry"),
        (lambda x: [*x[:2], "[]", *x[3:]], 2, "not an entry"),
        (lambda x: [*x[:2], x[2].replace('"number":2', '"number":NaN'), *x[3:]], 2, "not an entry"),
        (lambda x: x[1:], 0, "entries are missing"),
    ],
)
def test_a_touched_chain_is_described(
    tmp_path: Path,
    identity: Identity,
    change: Callable[[list[str]], list[str]],
    number: int,
    text: str,
) -> None:
    path = written(tmp_path / "a.jsonl", identity)
    path.write_text("\n".join(change(path.read_text().splitlines())) + "\n")
    ((where, what),) = read_record(path).faults
    assert where == number
    assert text in what


def test_a_killed_writer_loses_a_torn_line_at_most(tmp_path: Path, identity: Identity) -> None:
    path = tmp_path / "a.jsonl"
    with Recorder(path, Signer(identity)) as recorder:
        for i in range(3):
            recorder.add("sent", tag=str(i))
            # Flushed: another reader sees it although nothing was closed.
            assert len(read_record(path).entries) == i + 1
    whole = path.read_bytes()
    path.write_bytes(whole[:-7])
    assert read_record(path).torn
    assert len(read_record(path).entries) == 2
    with Recorder(path, Signer(identity)) as again:
        assert again.continued
        again.add("start")
    record = read_record(path)
    assert (record.faults, record.torn) == ([], False)
    assert [e.event for e in record.entries] == ["sent", "sent", "start"]


def test_a_damaged_record_is_not_continued(tmp_path: Path, identity: Identity) -> None:
    path = written(tmp_path / "a.jsonl", identity)
    path.write_text(path.read_text().replace("t/2", "t/9"))
    with pytest.raises(RecordError, match="entry 2: it was changed"):
        Recorder(path, Signer(identity))


def test_what_cannot_be_written_leaves_no_trace(
    tmp_path: Path, identity: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full within a line, and has room again later."""
    path, write = tmp_path / "a.jsonl", os.pwrite
    room = [1000]

    def limited(handle: int, data: bytes, at: int) -> int:
        if not room[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        done = write(handle, data[: room[0]], at)
        room[0] -= done
        return done

    monkeypatch.setattr(os, "pwrite", limited)
    with Recorder(path, Signer(identity)) as recorder:
        recorder.add("start")
        room[0] = 60
        before = path.read_bytes()
        for _ in range(2):
            with pytest.raises(RecordError, match=r"cannot write .*a\.jsonl: No space left"):
                recorder.add("sent", tag="x" * 40)
            assert path.read_bytes() == before
        room[0] = 10_000
        recorder.add("failed")
        recorder.seal()
    record = read_record(path)
    assert record.faults == []
    assert [entry.event for entry in record.entries] == ["start", "failed", "seal"]
    assert sealed_by(identity, record)
    with Recorder(path, Signer(identity)) as recorder:
        assert recorder.continued


def test_a_line_that_is_written_in_pieces_is_whole(
    tmp_path: Path, identity: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda handle, data, at: write(handle, data[:7], at))
    record = read_record(written(tmp_path / "a.jsonl", identity))
    assert (record.faults, len(record.entries)) == ([], 6)


def test_threads_write_one_chain(tmp_path: Path, identity: Identity) -> None:
    path = tmp_path / "a.jsonl"
    with Recorder(path, Signer(identity)) as recorder, ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda i: recorder.add("sent", tag=str(i)), range(200)))
    record = read_record(path)
    assert record.faults == []
    assert len(record.entries) == 200


def test_a_forged_chain_needs_a_signature(tmp_path: Path, identity: Identity) -> None:
    """Whoever recomputes all hashes after a change is stopped by the signature alone."""
    path = written(tmp_path / "a.jsonl", identity)
    previous, lines = "0" * 64, []
    for line in path.read_text().splitlines():
        content: dict[str, Any] = json.loads(line)
        content["previous"] = previous
        if content.get("tag") == "t/2":
            content["tag"] = "t/9"
        lines.append(json.dumps(content, sort_keys=True, separators=(",", ":")))
        previous = hashlib.sha256(lines[-1].encode()).hexdigest()
    path.write_text("\n".join([*lines, ""]))
    record = read_record(path)
    assert record.faults == []
    assert not sealed_by(identity, record)
