"""Which code a party runs: a hash of the sources of every component, agreed before the run.

This finds a component that was replaced or has another version. A party that lies about its own
hash is not found by it, but by what it sends.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from residue_federated._components import packages_of
from residue_federated._jobs import Job
from residue_federated.proto import v1

__all__ = ["ENGINE", "code_of", "code_payload", "told_code"]

ENGINE = "engine"
"""Under this name the modules that all components share are hashed."""
_ROOT = Path(__file__).resolve().parents[1]
_SHARED = (".", "audit", "partitions", "privacy", "proto", "transport")
"""Where those modules are."""


def code_of(job: Job, root: Path = _ROOT) -> dict[str, bytes]:
    """SHA-256 of the engine's own modules, and of the packages of each component of `job`.

    root: the installed package ``residue_federated``.
    """
    packages = {name: packages_of(component) for name, component in job.components.items()}
    every = {package for used in packages.values() for package in used}
    hashed = {package: _hash_of(root / package) for package in every}
    engine = b"".join(_hash_of(root / package) for package in _SHARED)
    return {ENGINE: hashlib.sha256(engine).digest()} | {
        name: hashlib.sha256(b"".join(hashed[package] for package in used)).digest()
        for name, used in packages.items()
    }


def code_payload(code: Mapping[str, bytes]) -> v1.Payload:
    """The message in which a party tells its hashes."""
    record = v1.Record()
    for name, digest in code.items():
        record.arrays[name].CopyFrom(v1.Array(dtype="|u1", shape=[len(digest)], data=digest))
    return v1.Payload(record=record)


def told_code(payload: v1.Payload) -> dict[str, str]:
    """The hashes, hexadecimal, that such a message tells."""
    arrays, size = payload.record.arrays, hashlib.sha256().digest_size
    return {name: arrays[name].data.hex() for name in arrays if len(arrays[name].data) == size}


def _hash_of(directory: Path) -> bytes:
    """Of names and contents of the modules in a directory, not of those below it."""
    digest = hashlib.sha256()
    for path in sorted(directory.glob("*.py")):
        digest.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return digest.digest()
