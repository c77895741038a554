"""How a party ends: with what it keeps on its disk once it is done, should it die before."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from residue.errors import ResidueError
from residue_federated._certificates import Identity
from residue_federated._checkpoint import write_json
from residue_federated._context import WHOLE
from residue_federated._jobs import Job
from residue_federated.errors import AuditViolation, CheckpointError, PeerReturned
from residue_federated.transport import Door, Endpoint, Lives, Message

__all__ = ["End", "Ended", "forget_end", "keep_end", "read_end", "telling"]

_LAST_WORDS = 2.0
"""Seconds for telling others, who may have left, that all are done, after that was known before."""
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


@dataclass
class End:
    """The end of a party's part in a life. ended: of one that was done before."""

    job: Job
    name: str
    digest: str
    directory: Path | None
    ended: Ended | None = None

    def reach(self, endpoint: Endpoint, lives: Lives | None, files: Iterable[str]) -> None:
        """All that the party leaves has been written: see that it is on the disk, and end.

        lives: None where the others are not waited for.
        """
        others = [p.name for p in self.job.parties if p.name != self.name]
        kept = Lives(0).kept() if lives is None else lives.kept()
        known = others if lives is None else []
        self.ended = Ended(**kept, received=endpoint.received, done=known)
        if self.directory is not None:
            keep_end(self.directory, self.digest, self.ended, files)
        if lives is not None:
            endpoint.done(len(others), self._keep)
            endpoint.end()

    def again(self, identity: Identity, door: Door, addresses: Mapping[str, str]) -> list[str]:
        """End in the life in which the party was done; who is out of reach, and may not be done.

        Raises `PeerReturned` if another one is not, and needs this one.
        """
        assert self.ended is not None
        with self._reached(identity, door, addresses) as endpoint:
            if not self.ended.all_done(self.job):
                return endpoint.end(again=True)
            endpoint.part(_LAST_WORDS)
            return []

    def answer(self, identity: Identity, door: Door, addresses: Mapping[str, str]) -> None:
        """Tell who calls late that this party knew all to be done.

        Raises `PeerReturned` if one has begun again, without what it had.
        """
        with self._reached(identity, door, addresses) as endpoint:
            for fault in endpoint.part(_LAST_WORDS):
                if isinstance(fault, PeerReturned):
                    raise fault

    @contextlib.contextmanager
    def _reached(
        self, identity: Identity, door: Door, addresses: Mapping[str, str]
    ) -> Iterator[Endpoint]:
        """An endpoint that says how far the party is, in the life in which it was done."""
        assert self.ended is not None
        with (
            Endpoint(
                self.name,
                self.digest,
                identity,
                self.job.transport,
                door=door,
                gate=_Done(),
                proxy=self.job.party(self.name).proxy,
                lives=self.ended.lives,
                received=self.ended.received,
            ) as endpoint,
            telling(endpoint),
        ):
            endpoint.done(len(addresses), self._keep, self.ended.done)
            endpoint.connect(addresses, wait=False)
            yield endpoint

    def _keep(self, done: list[str]) -> None:
        assert self.ended is not None
        if self.directory is not None:
            keep_end(self.directory, self.digest, replace(self.ended, done=done))


class _Done:
    """The gate of a party whose part is over: no message is due any more."""

    def leaving(self, message: Message) -> bytes:
        raise AssertionError

    def arrived(self, message: Message, signature: bytes, certificate: bytes) -> None:
        text = f"{message.sender} sent '{message.tag}' to {message.receiver}, which is done"
        raise AuditViolation(text, message.sender, "algorithm")

    def lost(self, peer: str) -> None:
        raise AssertionError


@contextlib.contextmanager
def telling(endpoint: Endpoint) -> Iterator[None]:
    """Tell the peers why, before an error leaves."""
    try:
        yield
    except PeerReturned:
        raise  # they notice by themselves
    except ResidueError as error:
        endpoint.abort(str(error))
        raise
    except BaseException:
        endpoint.abort("internal error")
        raise
