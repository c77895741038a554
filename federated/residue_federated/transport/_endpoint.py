"""Messages between parties: gRPC with mutual TLS, at least once, de-duplicated, bounded.

Every party runs one `Endpoint`, which serves the others and calls them. `send` hands a message to
the peer's `Outbox`, which repeats it under the same sequence number until the peer has it, so the
peer keeps one copy; `flush` waits until all have arrived. `receive` waits for the message of a
given peer and tag, and while it waits asks a silent peer now and then whether it is alive. A party
that does not take its messages soon lets no more in, and the sender's `send` waits.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any

from residue_federated._certificates import Identity
from residue_federated._jobs import Transport
from residue_federated.errors import (
    FederatedError,
    MessageTooLarge,
    PeerFailed,
    PeerLost,
)
from residue_federated.proto import v1
from residue_federated.transport import _compression
from residue_federated.transport._closing import Closing
from residue_federated.transport._connection import SERVICE, Connection, grpc, printable
from residue_federated.transport._door import Door, call_metadata, handlers_of, job_of
from residue_federated.transport._lives import Lives
from residue_federated.transport._messages import Gate, Message
from residue_federated.transport._receiving import Inbox
from residue_federated.transport._sending import Outbox, Parcel

__all__ = ["PROTOCOL_VERSION", "Endpoint", "Traffic"]

PROTOCOL_VERSION = 2
_HEARTBEAT = 2.0
"""Seconds between questions to a peer that is being waited for."""
_RPC_TIMEOUT = 10.0
_LAST_WORDS = 2.0
"""Seconds for what is on its way, and for saying why, before a party stops on an error."""
_MAX_REASON = 500
_MOST_UNOPENED = 16
"""Calls of one peer that may be there at once without having said anything."""


@dataclass
class Traffic:
    """What one party has sent: messages and bytes of payload, repetitions not counted.

    wire_bytes: what the payloads were as they travelled, compressed where that pays.
    """

    messages: int = 0
    bytes: int = 0
    wire_bytes: int = 0


class Endpoint:
    """A party's messages of one job. Use as a context manager; safe to use from several threads.

    It is reached through `door`, or one of its own that listens at `listen`. Leaving the context
    without an error waits until all that was sent has arrived. proxy: through which the others are
    reached, see `_proxies`. lives: of the party and its peers, where one that dies may come back:
    everything then may raise `PeerReturned`. received: the number of each peer's last message, of a
    party that goes on in a life that it kept.
    """

    def __init__(
        self,
        party: str,
        job: str,
        identity: Identity,
        settings: Transport,
        *,
        listen: str = "127.0.0.1:0",
        door: Door | None = None,
        observer: Callable[[Message], None] | None = None,
        gate: Gate | None = None,
        proxy: str | None = None,
        lives: Lives | None = None,
        received: Mapping[str, int] | None = None,
    ) -> None:
        self._party = party
        self._job = job
        self._identity = identity
        self._settings = settings
        self._observer = observer
        self._gate = gate
        self._max_bytes = int(settings.max_message_mib * 2**20)
        self._window = int(settings.window_mib * 2**20)
        self._proxy = proxy
        self._lives = lives
        self._peers: dict[str, str] = {}
        self._connections: dict[str, Connection] = {}
        self._outboxes: dict[str, Outbox] = {}
        self._arrival = threading.Condition()
        self._closing = Closing(self._arrival)
        self._heard: dict[str, float] = {}
        self._aborted: FederatedError | None = None
        self._spared: set[str] = set()
        self._gone: dict[str, str] = {}
        self._unopened: Counter[str] = Counter()
        self._inbox = Inbox(
            party,
            max_bytes=self._max_bytes,
            window=self._window,
            gate=gate,
            changed=self._arrival,
            heard=self._hears,
            broken=self._stop,
            received=received or {},
        )
        self.traffic = Traffic()
        self._owns_door = door is None
        self._door = door or Door(
            party, identity, listen, single=True, keep_alive=settings.keep_alive
        )
        self.port = self._door.port
        self._door.admit(job, self._handlers(), self._stop)

    def __enter__(self) -> Endpoint:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self.flush()
        finally:
            self.close()

    def connect(self, peers: Mapping[str, str], *, wait: bool = True) -> None:
        """Name the peers and their addresses, and with `wait` wait until each has answered.

        Raises `PeerRefused` if one is not who it should be, does not accept us or runs another
        job; `PeerLost` if one has not answered within ``connect_timeout``.
        """
        with self._arrival:
            self._peers = dict(peers)
        for peer, address in peers.items():
            connection = Connection(
                self._party,
                peer,
                address,
                self._identity,
                metadata=partial(self._metadata, peer),
                keep_alive=self._settings.keep_alive,
                proxy=self._proxy,
            )
            self._connections[peer] = connection
            self._outboxes[peer] = self._outbox(peer, connection)
        if not wait:
            return
        patience = self._settings.connect_timeout
        if self._lives is not None and self._lives.begun_again:
            patience = max(patience, self._settings.peer_timeout)
        for peer in peers:
            self._ask(peer, patience)

    def send(self, peer: str, tag: str, payload: v1.Payload) -> None:
        """Send one message; returns as soon as there is room for it among those on their way.

        What goes wrong later is raised by the next call. Raises `MessageTooLarge` before sending
        anything over the job's bound, else as `receive`.
        """
        data = payload.SerializeToString(deterministic=True)
        if len(data) > self._max_bytes:
            raise MessageTooLarge(
                f"{self._party}: message '{tag}' to {peer} has {len(data):,} bytes, more than the "
                f"job's bound of {self._max_bytes:,}: raise transport.max_message_mib or lower "
                "the batch_size of its component"
            )
        digest = hashlib.sha256(data).digest()
        packing = _compression.pack if self._settings.compress else _compression.plain
        encoding, packed = packing(payload, data)
        me, sent = self._party, list[Message]()

        def parcel(sequence: int) -> Parcel:
            message = Message(me, me, peer, tag, sequence, payload, data, digest)
            header = v1.Header(
                sequence=sequence,
                tag=tag,
                size=len(data),
                sha256=digest,
                signature=b"" if self._gate is None else self._gate.leaving(message),
                encoding=encoding,
                wire_size=len(packed),
            )
            sent.append(message)
            return Parcel(header, packed)

        self._outboxes[peer].put(len(packed), parcel)
        with self._arrival:
            self.traffic.messages += 1
            self.traffic.bytes += len(data)
            self.traffic.wire_bytes += len(packed)
        if self._observer is not None:
            self._observer(*sent)

    def flush(self) -> None:
        """Wait until all that was sent has arrived; to peers that were given up, nothing is due.

        Raises as `receive`.
        """
        for peer, outbox in self._outboxes.items():
            try:
                outbox.flush()
            except FederatedError:
                if self._aborted is not None or peer not in self.lost:
                    raise

    def receive(self, peer: str, tag: str, *, idle: Callable[[], bool] | None = None) -> v1.Payload:
        """The message `tag` of `peer`, waiting for it if need be.

        `idle` is called again and again while there is nothing to receive, until it returns False;
        a call should take well under a second.

        Raises `PeerFailed` if any party stopped on an error, `PeerLost` if `peer` stops answering
        for ``peer_timeout`` or does not send within ``message_timeout``, and what the gate raises.
        """
        start = time.monotonic()
        self._heard[peer] = max(start, self._heard.get(peer, start))
        with self._inbox.awaiting([peer]):
            while True:
                with self._arrival:
                    waits = self._aborted is None and idle is None
                    if waits and not self._inbox.holds(peer, tag):
                        self._arrival.wait(timeout=_HEARTBEAT / 4)
                    arrived = self._inbox.pop(peer, tag)
                    if arrived is None:
                        self._check(peer)
                if arrived is not None:
                    return self._taken(arrived)
                if idle is not None and not idle():
                    idle = None
                now = time.monotonic()
                if now - start > self._settings.message_timeout:
                    raise PeerLost(
                        f"{peer} is alive but has not sent '{tag}' within "
                        f"{self._settings.message_timeout:g} s (transport.message_timeout)"
                    )
                if now - self._heard[peer] > _HEARTBEAT:
                    self._ask(
                        peer,
                        self._settings.peer_timeout,
                        unless=partial(self._has_news, peer, tag, now),
                    )

    def spare(self, peers: Iterable[str]) -> None:
        """From now on an error of one of these peers ends only what waits for that peer."""
        with self._arrival:
            self._spared |= set(peers)

    @property
    def lost(self) -> dict[str, str]:
        """Peers that were given up, and spared ones that said that they stop, with the reason."""
        with self._arrival:
            return dict(self._gone)

    def lose(self, peer: str, reason: str) -> None:
        """Give up a peer for good: it is told why, as far as it can be reached."""
        with self._arrival:
            self._give_up(peer, reason)
        self._outboxes[peer].close()
        self._abort([peer], reason)

    def gather(self, peers: Iterable[str], tag: str, *, within: float) -> dict[str, v1.Payload]:
        """The messages `tag` of those of `peers` that send one within so many seconds.

        A peer that was lost, said that it stops, or is out of reach for ``peer_timeout`` is not
        waited for. Raises `PeerFailed` if a party stopped on an error that is not spared.
        """
        start = asked = time.monotonic()
        until = start + within
        heard = dict.fromkeys(peers, start)
        payloads: dict[str, v1.Payload] = {}
        with self._inbox.awaiting(list(heard)):
            while heard:
                last = time.monotonic() >= until  # what came while others were asked is in time
                with self._arrival:
                    self._check()
                    found = {p: self._inbox.pop(p, tag) for p in heard}
                    arrived = {p: m for p, m in found.items() if m is not None}
                    for peer in [p for p in heard if p in arrived or p in self._gone]:
                        del heard[peer]
                    if not arrived and heard and not last:
                        self._arrival.wait(timeout=min(_HEARTBEAT / 4, within / 10))
                for peer, message in arrived.items():
                    payloads[peer] = self._taken(message)
                if last:
                    break
                if time.monotonic() - asked > _HEARTBEAT:
                    for peer in list(heard):
                        left = until - time.monotonic()
                        if left > 0 and not self._in_reach(peer, heard, min(_HEARTBEAT, left)):
                            del heard[peer]
                    asked = time.monotonic()
        return payloads

    @property
    def received(self) -> dict[str, int]:
        """The number of each peer's last message."""
        return self._inbox.received

    def done(
        self, peers: int, keep: Callable[[list[str]], None], known: Sequence[str] = ()
    ) -> None:
        """This party is done: all that it sent has arrived, all that it leaves is on its disk.

        peers: how many there are. keep: notes on the disk which of them are known to be done,
        before one relies on it. known: those noted before, of a party that died since; it says so
        before `connect`.
        """
        for outbox in self._outboxes.values():
            outbox.close()  # so that streams end before doors close
        self._closing.begin(peers, keep, known)

    def end(self, *, again: bool = False) -> list[str]:
        """Wait until all others have said that they are done; then `part`.

        again: this party was done before, and died since. Others may have left meanwhile: those
        that are out of reach for ``connect_timeout`` are returned.

        Raises `PeerFailed` and `PeerReturned` as `receive`; `PeerLost` if a peer that has not said
        so is out of reach for ``peer_timeout``, or does not within ``message_timeout``.
        """
        settings, peers = self._settings, self._left
        missing = self._closing.gather(
            peers,
            self._call,
            self._check,
            patience=settings.connect_timeout if again else settings.peer_timeout,
            most_wait=settings.message_timeout,
            spare=again,
        )
        if not missing:
            self.part(settings.peer_timeout)
        return missing

    def part(self, within: float) -> list[FederatedError]:
        """Tell the others that all are known to be done, as far as they are reached in so long.

        Returns what was wrong with that, which nobody who is done needs to mind.
        """
        return self._closing.part(self._left, self._call, self._check, patience=within)

    @property
    def _left(self) -> list[str]:
        """The peers that were not given up."""
        with self._arrival:
            return [peer for peer in self._peers if peer not in self._gone]

    def abort(self, reason: str) -> None:
        """Tell every peer, as far as it can be reached, that this party stops on an error.

        What was sent before arrives before, if it can within two seconds.
        """
        until = time.monotonic() + _LAST_WORDS
        for outbox in self._outboxes.values():
            with contextlib.suppress(FederatedError):
                outbox.flush(max(0.0, until - time.monotonic()))
        self._abort(self._connections, reason)

    def close(self) -> None:
        """Close connections and stop serving; what has not arrived yet is forgotten."""
        self._inbox.close()
        for outbox in self._outboxes.values():
            outbox.close()
        self._door.dismiss(self._job)
        if self._owns_door:
            # Streams that have ended well let both sides go at once.
            self._door.close()
        for connection in self._connections.values():
            connection.close()

    def _check(self, peer: str | None = None) -> None:
        """Raise what has stopped this party, or a peer."""
        if self._aborted is not None:
            raise self._aborted
        if peer in self._gone:
            raise PeerFailed(f"{peer} stopped: {self._gone[peer]}")

    def _give_up(self, peer: str, reason: str) -> None:
        if peer not in self._gone and self._gate is not None:
            self._gate.lost(peer)
        self._gone.setdefault(peer, reason)

    def _taken(self, message: Message) -> v1.Payload:
        if self._observer is not None:
            self._observer(message)
        return message.payload

    # Calls.

    def _abort(self, peers: Iterable[str], reason: str) -> None:
        request = v1.AbortRequest(job=self._job, sender=self._party, reason=reason[:_MAX_REASON])
        calls = [self._connections[peer].abort(request, _LAST_WORDS) for peer in peers]
        for call in calls:
            call.exception()

    def _outbox(self, peer: str, connection: Connection) -> Outbox:
        def failed(fault: FederatedError) -> None:
            with self._arrival:
                if peer in self._spared:
                    self._give_up(peer, str(fault))
                    self._arrival.notify_all()
                else:
                    self._stop(fault)

        return Outbox(
            peer,
            self._introduction(),
            call=connection.send,
            judge=connection.judge,
            check=partial(self._check, peer),
            heard=partial(self._hears, peer),
            failed=failed,
            lost=partial(self._lost, peer),
            window=self._window,
            chunk=self._settings.chunk_kib * 1024,
            patience=self._settings.peer_timeout,
            most_wait=self._settings.message_timeout,
        )

    def _introduction(self) -> v1.HelloRequest:
        return v1.HelloRequest(protocol=PROTOCOL_VERSION, job=self._job, sender=self._party)

    def _stop(self, error: FederatedError) -> None:
        """Whatever is sent or waited for from now on raises the first such error."""
        with self._arrival:
            self._aborted = self._aborted or error
            self._arrival.notify_all()

    def _metadata(self, peer: str) -> tuple[tuple[str, str], ...]:
        """What goes with every call of a peer."""
        return (*call_metadata(self._job), *self._about(peer))

    def _about(self, peer: str) -> tuple[tuple[str, str], ...]:
        """What calls and answers tell a peer of this party."""
        lives = () if self._lives is None else self._lives.metadata(peer)
        return (*lives, *self._closing.metadata())

    def _has_news(self, peer: str, tag: str, since: float) -> bool:
        return self._inbox.holds(peer, tag) or self._heard[peer] > since

    def _hears(self, peer: str) -> None:
        self._heard[peer] = time.monotonic()

    def _lost(self, peer: str, patience: float) -> PeerLost:
        return PeerLost(f"{peer} at {self._peers[peer]} has not answered for {patience:g} s")

    def _call(self, peer: str) -> bool | None:
        """Call a peer once: whether it answers, None if it says that it will be there.

        Raises what makes another try useless.
        """
        connection = self._connections[peer]
        try:
            self._take_answer(peer, connection.hello(self._introduction(), timeout=_HEARTBEAT))
        except grpc.RpcError as error:
            fault = connection.judge(error)
            if fault is not None:
                raise fault from None
            return None if connection.busy else False
        return True

    def _take_answer(self, peer: str, answer: Mapping[str, str]) -> None:
        """A peer has answered a call. Raises `PeerReturned` if it is another than before."""
        if self._lives is not None:
            self._lives.answered(peer, answer)
        self._closing.hears(peer, answer)
        self._hears(peer)

    def _in_reach(self, peer: str, heard: dict[str, float], timeout: float) -> bool:
        """Whether a peer answers, or did within ``peer_timeout``; notes when."""
        try:
            self._connections[peer].hello(self._introduction(), timeout)
        except grpc.RpcError:
            return time.monotonic() < heard[peer] + self._settings.peer_timeout
        heard[peer] = time.monotonic()
        return True

    def _ask(self, peer: str, patience: float, unless: Callable[[], bool] = lambda: False) -> None:
        """Ask until the peer answers; one that is out of reach has `patience` seconds to return.

        `unless` ends it early: what the caller waits for has come.
        """
        began = start = time.monotonic()
        connection = self._connections[peer]
        while True:
            with self._arrival:
                self._check()
                if unless():
                    return
            try:
                answer = connection.hello(
                    self._introduction(), min(_RPC_TIMEOUT, max(patience, 1.0))
                )
                return self._take_answer(peer, answer)
            except grpc.RpcError as error:
                fault = connection.judge(error)
            if fault is not None:
                raise fault
            now = time.monotonic()
            if connection.busy and now < start + self._settings.message_timeout:
                began = now
            if now > began + patience:
                raise connection.unknown or self._lost(peer, patience)
            time.sleep(min(0.1, patience / 10))

    # Service.

    def _handlers(self) -> Any:
        return handlers_of(
            SERVICE,
            self._opening,
            Hello=(self._on_hello, v1.HelloRequest, v1.HelloReply),
            Send=(self._on_send, v1.Chunk, v1.Ack),
            Abort=(self._on_abort, v1.AbortRequest, v1.Ack),
        )

    @contextlib.contextmanager
    def _opening(self, context: Any) -> Iterator[None]:
        """Around the wait for what a call says first: it is a peer's, and one of a few."""
        caller = _certified(context)
        with self._arrival:
            starting, known = not self._peers, caller in self._peers
            self._unopened[caller] += 1
            crowded = self._unopened[caller] > _MOST_UNOPENED
        try:
            if starting:
                context.abort(grpc.StatusCode.UNAVAILABLE, f"{self._party} is starting")
            if not known:
                context.abort(
                    grpc.StatusCode.PERMISSION_DENIED,
                    f"the certificate names '{caller}', who has no part in the job",
                )
            if job_of(context) != self._job:
                context.abort(grpc.StatusCode.FAILED_PRECONDITION, _ANOTHER_JOB)
            if crowded:
                context.abort(grpc.StatusCode.UNAVAILABLE, "too many calls that say nothing")
            yield
        finally:
            with self._arrival:
                self._unopened[caller] -= 1

    def _check_caller(self, context: Any, sender: str, job: str, protocol: int) -> None:
        """End the call unless what it says is of the peer that its certificate names."""
        caller = _certified(context)
        if caller != sender:
            context.abort(
                grpc.StatusCode.PERMISSION_DENIED,
                f"the certificate names '{caller}', the message '{sender}'",
            )
        if protocol != PROTOCOL_VERSION:
            context.abort(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"protocol version {protocol}, expected {PROTOCOL_VERSION}: update one of them",
            )
        if job != self._job:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, _ANOTHER_JOB)
        if self._lives is not None:
            self._lives.admit(sender, context, self._stop)

    def _on_hello(self, request: v1.HelloRequest, context: Any) -> v1.HelloReply:
        self._check_caller(context, request.sender, request.job, request.protocol)
        self._closing.hears(request.sender, dict(context.invocation_metadata()), calling=True)
        context.send_initial_metadata(self._about(request.sender))
        return v1.HelloReply(party=self._party)

    def _on_abort(self, request: v1.AbortRequest, context: Any) -> v1.Ack:
        self._check_caller(context, request.sender, request.job, PROTOCOL_VERSION)
        with self._arrival:
            reason = printable(request.reason[:_MAX_REASON])
            if request.sender in self._spared:
                self._give_up(request.sender, reason)
                self._arrival.notify_all()
            else:
                self._stop(PeerFailed(f"{request.sender} stopped: {reason}"))
        return v1.Ack()

    def _on_send(
        self, first: v1.Chunk, chunks: Iterator[v1.Chunk], context: Any
    ) -> Iterator[v1.Ack]:
        opening = first.open
        self._check_caller(context, opening.sender, opening.job, opening.protocol)
        yield from self._inbox.stream(opening.sender, chunks, context)


def _certified(context: Any) -> str:
    """The name in the certificate of who calls."""
    names = context.auth_context().get("x509_common_name", [])
    return b", ".join(names).decode(errors="replace")


_ANOTHER_JOB = "it runs another job: both need the same algorithm, parties and parameters"
