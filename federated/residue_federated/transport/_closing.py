"""How a job ends: a party leaves when it knows that nobody needs anything more of it.

A party is at work; then it is done: all that it leaves is on its disk. Once every other has said
that it is done, it knows that all are. Calls and answers tell how far their sender is. A party
leaves when each of the others has answered a call that said that all are known to be done, or has
made such a call; who answers one has noted on its disk that the caller is done. Whoever waits in
vain for the last of these knows all the same that all are done: who is missing has left or died,
and has all that it needs on its disk.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum

from residue_federated.errors import FederatedError, PeerLost

__all__ = ["Closing"]

_STAGE = "residue-stage"
_PAUSE = 0.1
"""Seconds between two calls of a party that is out of reach."""
_LOOK = 2.0
"""Seconds between two calls of one that is still at work; it calls by itself when it is done."""

Call = Callable[[str], bool | None]
"""Calls a peer once: True if it answers, None if it will, False if it is out of reach."""
Keep = Callable[[list[str]], None]
"""Notes on the disk which peers are known to be done."""


class _Stage(IntEnum):
    WORK = 0
    DONE = 1
    ALL_DONE = 2


class Closing:
    """How far a party and its peers are; safe to use from several threads.

    changed: guards what is here, and is notified when a peer goes on.
    """

    def __init__(self, changed: threading.Condition) -> None:
        self._changed = changed
        self._stage = _Stage.WORK
        self._said: dict[str, int] = {}
        self._parted: set[str] = set()
        self._noted: set[str] = set()
        self._keep: Keep = lambda done: None

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What goes with every call and every answer."""
        return ((_STAGE, str(int(self._stage))),)

    def hears(self, peer: str, metadata: Mapping[str, str], *, calling: bool = False) -> None:
        """What a peer said with an answer, or with a call of its own.

        Where it may leave once this is answered, it is on the disk before that it is done.
        """
        text = metadata.get(_STAGE, "")
        stage = int(text) if text in ("1", "2") else 0
        with self._changed:
            self._said[peer] = max(stage, self._said.get(peer, 0))
            if calling and stage == _Stage.ALL_DONE:
                if self._stage == _Stage.DONE:
                    self._note([peer])
                self._parted.add(peer)
            self._changed.notify_all()

    def begin(self, peers: int, keep: Keep, known: Sequence[str]) -> None:
        """This party is done.

        peers: how many. keep: notes on the disk which of them are; known: those noted before.

        A peer is noted when it says that all are done, or with all others. One that was done before
        its death begins before its peers can call it.
        """
        with self._changed:
            self._keep, self._noted = keep, set(known)
            self._said |= {peer: max(_Stage.DONE, self._said.get(peer, 0)) for peer in known}
            if len(known) < peers:
                self._parted.update(known)
            self._stage = _Stage.DONE

    def gather(
        self,
        peers: Sequence[str],
        call: Call,
        check: Callable[[], None],
        *,
        patience: float,
        most_wait: float,
        spare: bool,
    ) -> list[str]:
        """Say that this party is done, and wait until all others have said so.

        check: raises what else stopped the party. With `spare` those are returned that have been
        out of reach for `patience` seconds, once nobody else is waited for; without, `PeerLost` is
        raised. It is raised as well if one is not done within `most_wait` seconds.
        """
        until = time.monotonic() + most_wait

        def lacking() -> list[str]:
            check()
            lacking = [peer for peer in peers if self._said.get(peer, 0) < _Stage.DONE]
            if lacking and time.monotonic() > until:
                raise PeerLost(
                    f"{lacking[0]} is alive but has not said that it is done within "
                    f"{most_wait:g} s (transport.message_timeout)"
                )
            return lacking

        for peer in peers:
            if self._said.get(peer, 0) >= _Stage.DONE:  # it waits for this one
                call(peer)
        missing = self._attend(lacking, call, patience)
        if missing and not spare:
            raise PeerLost(
                f"{missing[0]} has not answered for {patience:g} s, and has not said that it is "
                "done: this party is; start both again with --resume"
            )
        if not missing:
            with self._changed:
                self._note(peers)
        return missing

    def part(
        self, peers: Sequence[str], call: Call, check: Callable[[], None], *, patience: float
    ) -> list[FederatedError]:
        """Say that all are known to be done, to all that have not called to say the same.

        What stops the party, which `check` raises, only ends this sooner. That, and what peers
        answered that take no part any more, is returned.
        """
        self._stage = _Stage.ALL_DONE
        faults: list[FederatedError] = []

        def lacking() -> list[str]:
            try:
                check()
            except FederatedError as error:
                faults.append(error)
                return []
            return [peer for peer in peers if peer not in self._parted]

        def tell(peer: str) -> bool | None:
            try:
                answered = call(peer)
            except FederatedError as error:  # it does not matter any more
                faults.append(error)
                answered = True
            if answered:
                with self._changed:
                    self._parted.add(peer)
            return answered

        self._attend(lacking, tell, patience)
        return faults

    def _note(self, peers: Sequence[str]) -> None:
        """Under the lock."""
        noted = self._noted.union(peers)
        if noted != self._noted:
            self._keep(sorted(noted))
            self._noted = noted

    def _attend(self, lacking: Callable[[], list[str]], call: Call, patience: float) -> list[str]:
        """Call who is lacking again and again, until nobody is.

        Or until all who are have been out of reach for `patience` seconds: those are returned.
        """
        start = time.monotonic()
        seen: dict[str, float] = {}
        due: dict[str, float] = {}
        while True:
            with self._changed:
                open_, now = lacking(), time.monotonic()
                if all(now > seen.get(peer, start) + patience for peer in open_):
                    return open_
                soonest = min(due.get(peer, start) for peer in open_)
                if soonest > now:
                    self._changed.wait(soonest - now)
                    continue
            for peer in [peer for peer in open_ if due.get(peer, start) <= now]:
                answered = call(peer)
                now = time.monotonic()
                if answered is not False:
                    seen[peer] = now
                due[peer] = now + (_LOOK if answered else _PAUSE)
