"""What a party sends to one other: in order, many messages at a time, until each has arrived.

`Outbox.put` returns at once as long as the window has room: a bounded number of messages and bytes
on their way. A thread of its own sends them on one stream and takes the acknowledgements. If the
stream breaks, it opens another, hears which message arrived last, and goes on after that one. What
goes wrong is raised by the next call of `put` or `flush`, and told to the endpoint.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import grpc

from residue_federated.errors import FederatedError, PeerLost, TransportError
from residue_federated.proto import v1

__all__ = ["Outbox", "Parcel"]

_MOST_UNDERWAY = 128
"""Messages; fewer than a receiver keeps for a party that does not take them."""
_LOOK = 0.5
"""Seconds between looks at what nobody notifies of."""
_PAUSE = 0.1
"""Seconds between two tries to open a stream."""


@dataclass(frozen=True)
class Parcel:
    """One message on its way, from sequence number 1; data as it travels."""

    header: v1.Header
    data: bytes


class Outbox:
    """Messages to one peer; safe to use from several threads.

    Args:
        peer: to whom.
        opening: the first thing on every stream.
        call: opens a stream: chunks there, acknowledgements back.
        judge: the error that a broken call means; None if it is worth another try.
        check: raises what else stopped the party.
        heard: called whenever the peer acknowledges.
        failed: called once, when the peer is given up.
        lost: the error of a peer that was out of reach for so many seconds.
        window: bytes on their way at most; a single larger message may go alone.
        chunk: bytes of a chunk.
        patience: seconds that the peer may be out of reach.
        most_wait: seconds that it may hold messages back while it is there.
    """

    def __init__(
        self,
        peer: str,
        opening: v1.HelloRequest,
        *,
        call: Callable[[Iterator[v1.Chunk]], Any],
        judge: Callable[[grpc.RpcError], FederatedError | None],
        check: Callable[[], None],
        heard: Callable[[], None],
        failed: Callable[[FederatedError], None],
        lost: Callable[[float], PeerLost],
        window: int,
        chunk: int,
        patience: float,
        most_wait: float,
    ) -> None:
        self._peer, self._opening, self._call = peer, opening, call
        self._judge, self._check, self._lost = judge, check, lost
        self._on_heard, self._on_failed = heard, failed
        self._window, self._step = window, chunk
        self._patience, self._most_wait = patience, most_wait
        self._changed = threading.Condition()
        self._underway: deque[Parcel] = deque()
        self._bytes = 0
        self._last = 0
        self._furthest = 0
        self._stream = 0
        self._answers = 0
        self._error: FederatedError | None = None
        self._closed = False
        self.repeated = 0
        self._thread = threading.Thread(target=self._work, name=f"to {peer}", daemon=True)

    def put(self, size: int, make: Callable[[int], Parcel]) -> None:
        """Send one message of `size` bytes, which `make` makes of its sequence number.

        Waits for room in the window. Raises what stopped the party or the messages before.
        """
        with self._changed:
            self._wait_until(lambda: self._has_room(size))
            parcel = make(self._last + 1)
            self._last += 1
            self._underway.append(parcel)
            self._bytes += len(parcel.data)
            self._changed.notify_all()
            if self._thread.ident is None:
                self._thread.start()

    def flush(self, within: float | None = None) -> None:
        """Wait until everything has arrived, or so many seconds. Raises as `put`."""
        with self._changed:
            self._wait_until(lambda: not self._underway, within)

    def close(self) -> None:
        """End the stream; what has not arrived is forgotten."""
        with self._changed:
            self._closed = True
            self._underway.clear()
            self._changed.notify_all()

    def _has_room(self, size: int) -> bool:
        room = self._bytes + size <= self._window and len(self._underway) < _MOST_UNDERWAY
        return room or not self._underway

    def _wait_until(self, met: Callable[[], bool], within: float | None = None) -> None:
        start, answers = time.monotonic(), self._answers
        while True:
            if self._error is not None:
                raise self._error
            self._check()
            if met() or self._closed:
                return
            waited = time.monotonic() - start
            if within is not None and waited > within:
                return
            if answers != self._answers:
                start, answers = time.monotonic() if within is None else start, self._answers
            elif waited > self._most_wait:
                raise PeerLost(
                    f"{self._peer} is alive but has not taken a message within "
                    f"{self._most_wait:g} s (transport.message_timeout)"
                )
            self._changed.wait(_LOOK if within is None else min(_LOOK, within))

    # In the thread.

    def _work(self) -> None:
        try:
            fault = self._fault()
        except Exception as error:  # whatever it is, nobody waits for this thread in vain
            fault = TransportError(f"sending to {self._peer} failed: {error!r}")
            fault.__cause__ = error
        if fault is None or not self._has_work(wait=False):
            return
        with self._changed:
            self._error = fault
            self._changed.notify_all()
        self._on_failed(fault)

    def _fault(self) -> FederatedError | None:
        """Send until the outbox is closed, or what ends it before."""
        broken: float | None = None
        while self._has_work():
            answers = self._answers
            error = self._send()
            if not self._has_work(wait=False):
                broken = None
                continue
            fault = None if error is None else self._judge(error)
            now = time.monotonic()
            if broken is None or answers != self._answers:
                broken = now
            elif fault is None and now > broken + self._patience:
                fault = self._lost(self._patience)
            if fault is not None:
                return fault
            with self._changed:
                self._changed.wait(_PAUSE)
        return None

    def _has_work(self, *, wait: bool = True) -> bool:
        with self._changed:
            while wait and not self._underway and not self._closed:
                self._changed.wait()
            return bool(self._underway)

    def _send(self) -> grpc.RpcError | None:
        """One stream, until it breaks or the outbox is closed."""
        with self._changed:
            self._stream += 1
            call = self._call(self._chunks(self._stream, resumed=self._furthest > 0))
        try:
            for ack in call:
                self._arrived(ack.sequence)
        except grpc.RpcError as error:
            return error
        finally:
            with self._changed:  # ends the chunks of this stream
                self._stream += 1
                self._changed.notify_all()
        return None

    def _arrived(self, sequence: int) -> None:
        with self._changed:
            while self._underway and self._underway[0].header.sequence <= sequence:
                self._bytes -= len(self._underway.popleft().data)
            self._answers += 1
            self._changed.notify_all()
        self._on_heard()

    def _chunks(self, stream: int, *, resumed: bool) -> Iterator[v1.Chunk]:
        """What goes over a stream; gRPC asks for more in a thread of its own."""
        with self._changed:
            before = self._answers  # the answer may be there before this goes on
        yield v1.Chunk(open=self._opening)
        if resumed:  # hear what has arrived before anything is repeated
            self._wait_for_answer(stream, before)
        sent = 0
        while (parcel := self._next(stream, sent)) is not None:
            sent = parcel.header.sequence
            step, data = self._step, parcel.data
            yield v1.Chunk(header=parcel.header, data=data[:step])
            for at in range(step, len(data), step):
                yield v1.Chunk(data=data[at : at + step])

    def _wait_for_answer(self, stream: int, before: int) -> None:
        with self._changed:
            while stream == self._stream and before == self._answers:
                self._changed.wait()

    def _next(self, stream: int, sent: int) -> Parcel | None:
        """The message after `sent`, as soon as there is one; None when the stream is over."""
        with self._changed:
            while stream == self._stream and not self._closed:
                if self._last > sent and self._underway:
                    first = self._underway[0].header.sequence
                    place = max(0, sent + 1 - first)
                    if place < len(self._underway):
                        parcel = self._underway[place]
                        self.repeated += parcel.header.sequence <= self._furthest
                        self._furthest = max(self._furthest, parcel.header.sequence)
                        return parcel
                self._changed.wait()
        return None
