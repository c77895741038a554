"""The record of one party: what it sent, received and did, chained and signed.

A record is a file of JSON lines. Every line holds the SHA-256 of the line before, so that nothing
can be changed, dropped or moved without breaking the chain; at every checkpoint and at the end a
line carries a signature with the party's TLS key, which covers all lines up to itself. A line is
handed to the operating system before what it tells of happens: a party that is killed loses none
that a peer could have noticed.

A record holds sizes, shapes, names and hashes. It never holds a number of anybody's data.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
from base64 import b64decode, b64encode
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from residue_federated._certificates import Identity
from residue_federated.errors import CertificateError, RecordError

__all__ = [
    "FORMAT",
    "RUN_BYTES",
    "Entry",
    "Record",
    "Recorder",
    "Signer",
    "from_base64",
    "message_part",
    "now",
    "read_record",
    "signed_by",
]

FORMAT = 1
RUN_BYTES = 16
"""A party draws the name of its run; it stands before the signature of each of its messages."""
_GENESIS = "0" * 64
_FIXED = {"number": int, "time": str, "event": str}
"""Fields of every entry, besides the hash of the one before."""
_CONTEXT = b"residue audit 1\0"
"""Before everything that is signed, so that no signature means something in another protocol."""
_PSS = padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.DIGEST_LENGTH)


class Signer:
    """Signs with a party's private key: ECDSA, or RSA-PSS, over SHA-256."""

    def __init__(self, identity: Identity) -> None:
        key = serialization.load_pem_private_key(identity.key.read_bytes(), password=None)
        if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
            raise CertificateError(f"{identity.key}: records are signed with an EC or an RSA key")
        self._key = key
        self.certificate = identity.certificate.read_text(encoding="ascii")

    def sign(self, data: bytes) -> bytes:
        """A signature of `data`."""
        if isinstance(self._key, rsa.RSAPrivateKey):
            return self._key.sign(_CONTEXT + data, _PSS, hashes.SHA256())
        return self._key.sign(_CONTEXT + data, ec.ECDSA(hashes.SHA256()))


def signed_by(certificate: x509.Certificate, signature: bytes, data: bytes) -> bool:
    """Whether `signature` is that of `data` by the holder of `certificate`."""
    key = certificate.public_key()
    try:
        if isinstance(key, rsa.RSAPublicKey):
            key.verify(signature, _CONTEXT + data, _PSS, hashes.SHA256())
        elif isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, _CONTEXT + data, ec.ECDSA(hashes.SHA256()))
        else:
            return False
    except InvalidSignature:
        return False
    return True


def now() -> str:
    """The time, as records have it."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def message_part(
    job: str, run: bytes, sender: str, receiver: str, sequence: int, tag: str, sha256: bytes
) -> bytes:
    """What the sender of a message signs: job and run, who to whom, which, its payload."""
    place = json.dumps(["message", job, run.hex(), sender, receiver, sequence, tag])
    return place.encode() + b"\0" + sha256


def from_base64(text: Any) -> bytes:
    """Bytes of an entry; none if it holds none."""
    try:
        return b64decode(text, validate=True)
    except (ValueError, TypeError):
        return b""


@dataclass(frozen=True)
class Entry:
    """One line of a record: `number` from 0, `time` in UTC, what happened and its particulars."""

    number: int
    time: str
    event: str
    content: dict[str, Any]


@dataclass
class Record:
    """A record as it was read.

    entries: those before the first fault of the chain. faults: what is wrong with the chain, each
    with the number of the entry. seals: numbers of the entries that carry a signature. torn: the
    file ends within a line.
    """

    path: Path
    entries: list[Entry] = field(default_factory=list)
    faults: list[tuple[int, str]] = field(default_factory=list)
    seals: dict[int, bytes] = field(default_factory=dict)
    head: str = _GENESIS
    length: int = 0
    torn: bool = False

    def of(self, *events: str) -> Iterator[Entry]:
        """The entries of these events, in order."""
        return (entry for entry in self.entries if entry.event in events)


class Recorder:
    """Appends to a record; safe to use from several threads, and a context manager.

    A file that is there already is continued: a torn last line, the trace of a killed process, is
    cut off. Raises `RecordError` if the file is damaged in any other way, and wherever an entry
    cannot be written: then nothing of it stays in the file.
    """

    def __init__(self, path: Path, signer: Signer) -> None:
        self._lock = threading.Lock()
        self._signer = signer
        path.parent.mkdir(parents=True, exist_ok=True)
        before = read_record(path) if path.exists() else Record(path)
        if before.faults:
            number, text = before.faults[0]
            raise RecordError(f"{path} cannot be continued: entry {number}: {text}")
        self._path = path
        self._file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b", buffering=0)
        self._file.truncate(before.length)
        self._length = before.length
        self._number, self._head = len(before.entries), before.head
        self._sealed = False
        self.continued = bool(before.entries)

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add(self, event: str, **content: Any) -> None:
        """Append one entry; it is in the operating system's hands when this returns."""
        with self._lock:
            self._append(self._line(event, content))

    def seal(self) -> None:
        """Sign all entries so far, unless they are, and wait until they are on the disk."""
        with self._lock:
            if self._sealed:
                return
            unsigned = self._line("seal", {})
            content = json.loads(unsigned)
            content["signature"] = b64encode(self._signer.sign(unsigned)).decode()
            self._append(_canonical(content))
            try:
                os.fsync(self._file.fileno())
            except OSError as error:
                raise self._unwritten(error) from error
            self._sealed = True

    def close(self) -> None:
        """Close the file; nothing can be added any more."""
        with self._lock:
            self._file.close()

    def _line(self, event: str, content: dict[str, Any]) -> bytes:
        fixed = {"number": self._number, "time": now(), "event": event, "previous": self._head}
        return _canonical(content | fixed)

    def _append(self, line: bytes) -> None:
        left, at = memoryview(line + b"\n"), self._length
        try:
            while left:
                written = os.pwrite(self._file.fileno(), left, at)
                left, at = left[written:], at + written
        except OSError as error:
            with contextlib.suppress(OSError):
                self._file.truncate(self._length)
            raise self._unwritten(error) from error
        self._length = at
        self._sealed = False
        self._number += 1
        self._head = hashlib.sha256(line).hexdigest()

    def _unwritten(self, error: OSError) -> RecordError:
        return RecordError(f"cannot write {self._path}: {error.strerror}")


def read_record(path: Path) -> Record:
    """Read a record and check its chain, not its signatures: those need a certificate.

    Raises `RecordError` if the file cannot be read.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RecordError(f"cannot read {path}: {error.strerror}") from error
    record = Record(path)
    lines = data.split(b"\n")
    record.torn = bool(lines.pop())
    for line in lines:
        number = len(record.entries)
        try:
            content = _parsed(line)
            previous = content.pop("previous")
            found, time, event = (content.pop(name) for name in _FIXED)
            if not all(map(isinstance, (found, time, event), _FIXED.values())):
                raise TypeError("its fixed fields are of other types")
            entry = Entry(found, time, event, content)
        except (ValueError, KeyError, TypeError, RecursionError):
            record.faults.append((number, "it is not an entry: the line was changed"))
            break
        if entry.number != number:
            here = f'"number":{number},'.encode()
            moved = entry.number < number or any(here in later for later in lines[number + 1 :])
            how = "the order was changed" if moved else "entries are missing"
            record.faults.append((number, f"its place holds entry {entry.number}: {how}"))
            break
        if previous != record.head:
            where = number - 1
            record.faults.append((where, "it was changed after the entry that follows it"))
            break
        if entry.event == "seal":
            unsigned = _parsed(line)
            unsigned.pop("signature", None)
            record.seals[number] = _canonical(unsigned)
        record.entries.append(entry)
        record.head = hashlib.sha256(line).hexdigest()
        record.length += len(line) + 1
    return record


def _canonical(content: dict[str, Any]) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _parsed(line: bytes) -> dict[str, Any]:
    content = json.loads(line, parse_constant=_refuse)
    if not isinstance(content, dict) or _canonical(content) != line:
        raise ValueError("not in canonical form")
    return content


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")
