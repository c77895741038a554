"""What a party keeps on its disk once it is done, so that it can end although it dies before."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from residue_federated._checkpoint import write_json
from residue_federated._context import WHOLE
from residue_federated._jobs import Job
from residue_federated.errors import CheckpointError
from residue_federated.transport import Lives

__all__ = ["Ended", "forget_end", "keep_end", "read_end"]

_FILE = Path("states") / WHOLE / "ended"


@dataclass(frozen=True)
class Ended:
    """The life in which a party was done, and what it had received of each peer by then.

    done: the others that it knew to be done.
    """

    life: int
    session: str
    known: dict[str, str]
    received: dict[str, int]
    done: list[str] = field(default_factory=list)

    def all_done(self, job: Job) -> bool:
        """Whether the party knew that all were done."""
        return len(set(self.done)) == len(job.parties) - 1

    @property
    def lives(self) -> Lives:
        """The same life, to go on in."""
        return Lives(self.life, self.session, self.known)


def keep_end(directory: Path, job: str, ended: Ended, files: Iterable[str] = ()) -> None:
    """Note on the disk that a party is done, after `files` below `directory` are on it.

    job: the digest of the run.
    """
    paths = [directory / file for file in files]
    for path in {*paths, *(path.parent for path in paths), directory}:
        _to_disk(path)
    write_json(directory / _FILE, {"job": job, **vars(ended)})
    _to_disk((directory / _FILE).parent)


def read_end(directory: Path | None, job: str) -> Ended | None:
    """What `keep_end` noted, if it did.

    Raises `CheckpointError` if it is damaged or of another job.
    """
    if directory is None or not (directory / _FILE).exists():
        return None
    path = directory / _FILE
    try:
        content: dict[str, Any] = json.loads(path.read_bytes())
        whose = content.pop("job")
        ended = Ended(**content)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is damaged: remove it, and all parties resume") from error
    if whose != job:
        raise CheckpointError(f"{path} belongs to another job: it cannot be resumed with this")
    return ended


def forget_end(directory: Path | None) -> None:
    """The party is at work again."""
    if directory is not None:
        (directory / _FILE).unlink(missing_ok=True)


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
