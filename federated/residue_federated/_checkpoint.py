"""What a party keeps on disk to go on after it died: states of its components and their results."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from residue_federated.errors import CheckpointError

__all__ = ["Checkpoints", "State", "file_sha256", "write_atomically", "write_json"]

State = Mapping[str, Any]
"""Names to numpy arrays (no objects) and JSON values; floats come back bit by bit."""


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let `write` fill a new file of mode 0600 that is at `path` complete or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def file_sha256(path: Path) -> str:
    """SHA-256 of a file of any size, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, content: Any) -> None:
    """Write `content` as JSON, mode 0600; the file is there complete or not at all."""
    data = json.dumps(content, indent=1).encode()
    write_atomically(path, lambda file: file.write(data))


class Checkpoints:
    """The states of one component of one job in a directory of its own.

    directory: made on the first `save`; None keeps nothing. job: the job's digest, which a state
    carries and must match when it is read. keep: how many states; parties that are not lost are at
    most one round apart, so two are enough and three leave one to spare; None keeps all.
    """

    def __init__(self, directory: Path | None, job: str, *, keep: int | None = 3) -> None:
        self._directory = directory
        self._job = job
        self._keep = keep

    def within(self, part: str) -> Checkpoints:
        """Those of a part of the component."""
        below = None if self._directory is None else self._directory / part
        return Checkpoints(below, self._job, keep=self._keep)

    @property
    def rounds(self) -> list[int]:
        """After how many rounds states were saved, ascending."""
        if self._directory is None or not self._directory.is_dir():
            return []
        return sorted(int(path.stem) for path in self._directory.glob("[0-9]*.npz"))

    def save(self, done: int, state: State) -> None:
        """Keep `state` of the moment after `done` rounds."""
        if self._directory is None:
            return
        arrays = {name: value for name, value in state.items() if isinstance(value, np.ndarray)}
        rest = {name: value for name, value in state.items() if name not in arrays}
        head = json.dumps({"job": self._job, "done": done, "values": rest}).encode()
        buffer = io.BytesIO()
        np.savez(buffer, **{f"a:{n}": a for n, a in arrays.items()}, head=np.frombuffer(head, "u1"))
        content = buffer.getvalue()
        write_atomically(
            self._directory / f"{done}.npz",
            lambda file: file.write(content + hashlib.sha256(content).digest()),
        )
        for old in self.rounds[: -self._keep] if self._keep else []:
            (self._directory / f"{old}.npz").unlink()

    def load(self, done: int) -> dict[str, Any]:
        """The state after `done` rounds.

        Raises `CheckpointError` if it is damaged or of another job.
        """
        assert self._directory is not None
        path = self._directory / f"{done}.npz"
        try:
            data = path.read_bytes()
            content, digest = data[:-32], data[-32:]
            if hashlib.sha256(content).digest() != digest:
                raise CheckpointError(f"{path} is damaged: remove it to go on from an older one")
            with np.load(io.BytesIO(content), allow_pickle=False) as file:
                head = json.loads(file["head"].tobytes())
                state = {n.removeprefix("a:"): file[n] for n in file.files if n != "head"}
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise CheckpointError(f"cannot read {path}: {error}") from error
        if (head["job"], head["done"]) != (self._job, done):
            raise CheckpointError(f"{path} belongs to another job: it cannot be resumed with this")
        return {**state, **head["values"]}

    def drop_after(self, done: int) -> None:
        """Forget states of later rounds, which the others do not have."""
        for later in self.rounds:
            if later > done:
                assert self._directory is not None
                (self._directory / f"{later}.npz").unlink()
