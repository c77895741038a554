"""Lives: how parties notice that one of them has died and come back, and begin again together.

A run of a job at a party has a session, a name that it draws, and a life, a number from 0. Calls
carry both, and the session that the caller knows the called one by; answers carry them as well. A
party that comes back has another session than the others know: whoever sees that goes on to the
next life, and calls of a later life take those of earlier ones along. All begin that life from the
last checkpoint that all of them have; no message of a life before is taken in it.

A party that is done keeps its life on disk: started again, it goes on in the same one, and nobody
begins again.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Mapping
from typing import Any

import grpc

from residue_federated.errors import FederatedError, PeerReturned, ProtocolError

__all__ = ["LIFE", "Lives", "life_of"]

LIFE = "residue-life"
_SESSION = "residue-session"
_KNOWN = "residue-known"
_MOST_DIGITS = 9


def life_of(metadata: Mapping[str, str]) -> int:
    """The life that a call or answer says it is of. Raises `ProtocolError` if it says none."""
    text = metadata.get(LIFE, "")
    if not (text.isascii() and text.isdecimal() and len(text) <= _MOST_DIGITS):
        raise ProtocolError("it does not say of which life it is")
    return int(text)


class Lives:
    """One party's life, and the sessions of the others in it. Safe to use from several threads.

    session, known: where it goes on with a life that was kept: its own session, and the others'.
    """

    def __init__(
        self, life: int, session: str | None = None, known: Mapping[str, str] | None = None
    ) -> None:
        self._life = life
        self._session = session or secrets.token_hex(16)
        self._lock = threading.Lock()
        self._known = dict(known or {})

    def kept(self) -> dict[str, Any]:
        """What `Lives` is made of again, as JSON."""
        with self._lock:
            return {"life": self._life, "session": self._session, "known": dict(self._known)}

    @property
    def begun_again(self) -> bool:
        """Whether this is not the first life."""
        return self._life > 0

    def metadata(self, peer: str) -> tuple[tuple[str, str], ...]:
        """What goes with every call of `peer`, and every answer to it."""
        with self._lock:
            known = self._known.get(peer, "")
        return ((LIFE, str(self._life)), (_SESSION, self._session), (_KNOWN, known))

    def answered(self, peer: str, metadata: Mapping[str, str]) -> None:
        """A peer has answered a call. Raises `PeerReturned` if it is another than before.

        Raises `ProtocolError` if the answer is malformed.
        """
        try:
            due = self._due(peer, metadata)
        except ProtocolError as error:
            raise ProtocolError(f"{peer}'s answer is malformed: {error}") from None
        if due > self._life:
            raise PeerReturned(f"{peer} has come back", due)

    def admit(self, peer: str, context: Any, stop: Callable[[FederatedError], None]) -> None:
        """End a call of `peer` that is not of this life; `stop` this one if a later one is due."""
        metadata = dict(context.invocation_metadata())
        try:
            due = self._due(peer, metadata)
        except ProtocolError as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"the call is malformed: {error}")
        there = life_of(metadata) == due
        if there and due == self._life:
            return
        if due > self._life:
            stop(PeerReturned(f"{peer} has come back", due))
        context.set_trailing_metadata(((LIFE, str(due)),))
        # Who is there already waits for this party; who is not goes there.
        code = grpc.StatusCode.UNAVAILABLE if there else grpc.StatusCode.ABORTED
        context.abort(code, "it goes back to the last checkpoint")

    def _due(self, peer: str, metadata: Mapping[str, str]) -> int:
        """The life that a call or answer calls for: this one, or one to go on to.

        Raises `ProtocolError` if the metadata is malformed.
        """
        life, known = life_of(metadata), metadata.get(_KNOWN, "")
        session = metadata.get(_SESSION, "")
        if life != self._life:
            return max(life, self._life)
        with self._lock:
            same = self._known.setdefault(peer, session) == session
        return self._life + (not same or known not in ("", self._session))
