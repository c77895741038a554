"""What arrives at a party: each message of a sender once, in order, until it is taken.

A sender's stream is read only as far as there is room for its messages, which holds it back; while
a message of it is waited for, those before it are let in.
"""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from residue_federated.errors import AuditViolation, FederatedError, ProtocolError, RecordError
from residue_federated.proto import v1
from residue_federated.transport import _compression
from residue_federated.transport._connection import grpc
from residue_federated.transport._messages import Gate, Message

__all__ = ["Inbox"]

_MAX_WAITING = 256
"""Messages of one sender that may wait to be taken."""
_LONGEST_TAG = 256
"""Characters of a tag, which goes into errors and onto terminals."""
_LOOK = 0.5
"""Seconds between looks at whether a call that is held back still lasts."""


class Inbox:
    """The messages to one party; safe to use from several threads.

    Args:
        party: whose.
        max_bytes: of a message.
        window: bytes of one sender's messages that wait to be taken; a single one may be larger.
        gate: sees every message before it is let in.
        changed: guards all that is here; notified when something arrives.
        heard: told of every sign of a sender.
        broken: told of what the gate raised, and of tags that are none.
        received: the number of each sender's last message that was taken before.
    """

    def __init__(
        self,
        party: str,
        *,
        max_bytes: int,
        window: int,
        gate: Gate | None,
        changed: threading.Condition,
        heard: Callable[[str], None],
        broken: Callable[[FederatedError], None],
        received: Mapping[str, int],
    ) -> None:
        self._party, self._max_bytes, self._window = party, max_bytes, window
        self._gate, self._changed = gate, changed
        self._hears, self._broken = heard, broken
        self._awaited: Counter[str] = Counter()
        self._received = dict(received)
        self._mail: dict[tuple[str, str], Message] = {}
        self._streams: dict[str, Any] = {}
        self._closed = False

    @property
    def received(self) -> dict[str, int]:
        """The number of each sender's last message."""
        with self._changed:
            return dict(self._received)

    def holds(self, sender: str, tag: str) -> bool:
        """Whether a message waits to be taken."""
        return (sender, tag) in self._mail

    def pop(self, sender: str, tag: str) -> Message | None:
        """Take a message, if it is there; under the lock."""
        return self._mail.pop((sender, tag), None)

    @contextmanager
    def awaiting(self, senders: Sequence[str]) -> Iterator[None]:
        """While messages of these senders are waited for, more of them are let in."""
        self._await(senders, 1)
        try:
            yield
        finally:
            self._await(senders, -1)

    def close(self) -> None:
        """Let nothing in any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def stream(self, sender: str, chunks: Iterator[v1.Chunk], context: Any) -> Iterator[v1.Ack]:
        """Take in what comes on a stream of `sender`, whose certificate has been checked.

        It takes the place of the stream of the same sender before it, which ends.
        """
        with self._changed:
            before = self._streams.get(sender)
            if before is not None:
                before.cancel()
            self._streams[sender] = context
            self._changed.notify_all()
            last = self._received.get(sender, 0)
        try:
            yield v1.Ack(sequence=last)
            yield from self._messages(sender, chunks, context)
        finally:
            with self._changed:
                if self._is_last(sender, context):
                    del self._streams[sender]

    def _messages(self, sender: str, chunks: Iterator[v1.Chunk], context: Any) -> Iterator[v1.Ack]:
        for chunk in chunks:
            header, packed = chunk.header, bytearray(chunk.data)
            if not header.tag.isprintable() or len(header.tag) > _LONGEST_TAG:
                fault = f"{sender} sent a message whose tag is too long or not printable"
                self._broken(ProtocolError(fault))
                context.abort(_MALFORMED, fault)
            for wrong, code, fault in (
                (not chunk.HasField("header"), _MALFORMED, "data without a message"),
                (header.size > self._max_bytes, _TOO_LARGE, self._too_large(header.tag)),
                (header.wire_size > header.size, _MALFORMED, f"'{header.tag}' grew on the way"),
            ):
                if wrong:
                    context.abort(code, fault)
            with self._changed:
                if not self._has_room(sender, header.sequence, header.size, context):
                    return
            while len(packed) < header.wire_size:
                more = next(chunks, None)
                if more is None:  # the line broke; the sender repeats it
                    return
                packed += more.data
                self._hears(sender)
            message, fault = self._message(sender, header, bytes(packed))
            if message is None:
                context.abort(_MALFORMED, fault)
            elif not self._deliver(message, header.signature, context):
                return
            yield v1.Ack(sequence=header.sequence)

    def _message(self, sender: str, header: v1.Header, data: bytes) -> tuple[Message | None, str]:
        """A message from what has arrived of it, or what is wrong with it."""
        tag, payload = header.tag, v1.Payload()
        if len(data) > header.wire_size:
            return None, f"'{tag}' is longer than it declares"
        try:
            data = _compression.unpack(header.encoding, data, header.size)
        except ValueError as error:
            return None, f"'{tag}' is malformed: {error}"
        if hashlib.sha256(data).digest() != header.sha256:
            return None, f"'{tag}' arrived corrupted"
        try:
            payload.ParseFromString(data)
        except Exception:  # protobuf's DecodeError has no public base of its own
            return None, f"'{tag}' is malformed"
        me = self._party
        return Message(me, sender, me, tag, header.sequence, payload, data, header.sha256), ""

    def _deliver(self, message: Message, signature: bytes, context: Any) -> bool:
        """Take a message into the mail, or see that it is there; False if the call is over."""
        sender, fault = message.sender, None
        with self._changed:
            if not self._has_room(sender, message.sequence, len(message.data), context):
                return False
            last = self._received.get(sender, 0)
            self._hears(sender)
            if message.sequence <= last:
                return True
            if message.sequence != last + 1:
                fault = f"message {message.sequence} follows message {last}"
            elif sum(from_ == sender for from_, _ in self._mail) >= _MAX_WAITING:
                fault = f"'{message.tag}' was not asked for"
            else:
                fault = self._pass(message, signature, context)
                self._changed.notify_all()
        if fault is not None:
            context.abort(_MALFORMED, fault)
        return True

    def _has_room(self, sender: str, sequence: int, size: int, context: Any) -> bool:
        """Wait until the mail has room for a message; False if its stream is over. Under the lock.

        Where a door is shared, a stream may outlive the party's part.
        """
        while not self._lets_in(sender, sequence, size):
            if self._closed or not (self._is_last(sender, context) and context.is_active()):
                return False
            self._changed.wait(_LOOK)
        return not self._closed and self._is_last(sender, context)

    def _is_last(self, sender: str, context: Any) -> bool:
        """Whether no newer stream of a sender has taken the place of this one."""
        return self._streams.get(sender) is context

    def _lets_in(self, sender: str, sequence: int, size: int) -> bool:
        """Whether there is room in the mail; who waits for a sender's message makes it."""
        if self._awaited[sender] or sequence <= self._received.get(sender, 0):
            return True
        held = [len(mail.data) for (from_, _), mail in self._mail.items() if from_ == sender]
        return not held or (len(held) < _MAX_WAITING and sum(held) + size <= self._window)

    def _pass(self, message: Message, signature: bytes, context: Any) -> str | None:
        """Put a message into the mail if the gate lets it, else return what is wrong with it."""
        if self._gate is not None:
            (certificate,) = context.auth_context()["x509_pem_cert"]
            try:
                self._gate.arrived(message, signature, certificate)
            except AuditViolation as violation:
                self._broken(violation)
                return str(violation)
            except RecordError as error:  # ours: the sender hears of it as this party stops
                self._broken(error)
                context.abort(grpc.StatusCode.UNAVAILABLE, f"{self._party} is stopping")
        if (message.sender, message.tag) in self._mail:
            return f"'{message.tag}' was not asked for"
        self._received[message.sender] = message.sequence
        self._mail[message.sender, message.tag] = message
        return None

    def _too_large(self, tag: str) -> str:
        return (
            f"message '{tag}' exceeds {self._party}'s bound of {self._max_bytes:,} bytes "
            "(transport.max_message_mib)"
        )

    def _await(self, senders: Sequence[str], change: int) -> None:
        with self._changed:
            for sender in senders:
                self._awaited[sender] += change
            self._changed.notify_all()


_MALFORMED, _TOO_LARGE = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED
