"""A connection to one peer: calls over gRPC with mutual TLS, and what their errors mean.

gRPC's own flow control and its estimate of the line are left alone: see docs/transport.md.
"""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

# A broken handshake is reported by us, once, in words; gRPC's own log lines would double it.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import grpc

from residue_federated._certificates import Identity
from residue_federated.errors import (
    FederatedError,
    MessageTooLarge,
    PeerRefused,
    PeerReturned,
    ProtocolError,
    TransportError,
)
from residue_federated.proto import v1
from residue_federated.transport._lives import LIFE, life_of
from residue_federated.transport._proxies import connect, proxy_for

__all__ = ["SERVICE", "Connection", "common_options", "grpc", "printable"]

SERVICE = "residue.federated.v1.Exchange"
_PROBE = 2.0
"""Seconds for looking at a handshake that failed."""
_PAUSE = 0.3
"""Seconds until a second look at one that was cut off."""
_CONNECT_MS = 5000
"""For TCP's and TLS's handshake together. gRPC's own minimum is that of the back-off."""


def common_options(keep_alive: float) -> list[tuple[str, int]]:
    """What both ends of a connection are told. keep_alive: seconds of silence before a ping.

    A connection is closed when the answer to a ping, or TCP's own, stays out for as long. A ping
    that gRPC was sending for its windows takes a keep-alive's place; it has twice as long, as data
    may be on their way before it (gRPC's own patience with it is a minute).
    """
    period = int(keep_alive * 1000)
    return [
        ("grpc.keepalive_time_ms", period),
        ("grpc.keepalive_timeout_ms", period),
        ("grpc.http2.ping_timeout_ms", 2 * period),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.http2.max_ping_strikes", 0),
    ]


def printable(text: str) -> str:
    """What another party says, without what would command a terminal."""
    return "".join(c if c.isprintable() else " " for c in text)


class Connection:
    """To `peer` at ``host:port``, from `party`.

    met: it has answered. unknown: the error it comes to if it does not load the job in time.
    busy: it has answered that it will be there later. metadata: goes with every call. proxy: as in
    the job, see `_proxies`.
    """

    def __init__(
        self,
        party: str,
        peer: str,
        address: str,
        identity: Identity,
        *,
        metadata: Callable[[], Sequence[tuple[str, str]]],
        keep_alive: float,
        proxy: str | None,
    ) -> None:
        self._party, self._peer, self._identity = party, peer, identity
        self.address = address
        self.met = False
        self.busy = False
        self.unknown: PeerRefused | None = None
        self._cut_off = False
        self._metadata = metadata
        self._proxy = proxy_for(address, proxy)
        self._channel = grpc.secure_channel(
            address,
            grpc.ssl_channel_credentials(
                root_certificates=identity.authority.read_bytes(),
                private_key=identity.key.read_bytes(),
                certificate_chain=identity.certificate.read_bytes(),
            ),
            options=[
                *common_options(keep_alive),
                ("grpc.ssl_target_name_override", peer),
                ("grpc.initial_reconnect_backoff_ms", 100),
                ("grpc.min_reconnect_backoff_ms", _CONNECT_MS),
                ("grpc.max_reconnect_backoff_ms", 1000),
                ("grpc.use_local_subchannel_pool", 1),
                ("grpc.enable_http_proxy", int(self._proxy is not None)),
                *([] if self._proxy is None else [("grpc.http_proxy", self._proxy)]),
            ],
        )

    def hello(self, request: v1.HelloRequest, timeout: float) -> dict[str, str]:
        """Ask whether the peer is there and runs the same job; its metadata.

        Raises `grpc.RpcError`.
        """
        hello = self._unary("Hello", v1.HelloRequest, v1.HelloReply)
        _, call = hello.with_call(request, timeout=timeout, metadata=self._metadata())
        self.met = True
        return dict(call.initial_metadata())

    def abort(self, request: v1.AbortRequest, timeout: float) -> Any:
        """Tell the peer that this party stops: a future."""
        return self._unary("Abort", v1.AbortRequest, v1.Ack).future(
            request, timeout=timeout, metadata=self._metadata()
        )

    def send(self, chunks: Iterator[v1.Chunk]) -> Any:
        """Open a stream of messages; iterate over the acknowledgements."""
        call = self._channel.stream_stream(
            f"/{SERVICE}/Send",
            request_serializer=v1.Chunk.SerializeToString,
            response_deserializer=v1.Ack.FromString,
        )
        return call(chunks, metadata=self._metadata())

    def close(self) -> None:
        """End all calls."""
        self._channel.close()

    def judge(self, error: grpc.RpcError) -> FederatedError | None:
        """The error that a failed call means; None if it is worth another try."""
        code, details = error.code(), printable(error.details() or "")
        if code in _FATAL:
            return _FATAL[code](self._refused(details))
        trailing = dict(error.trailing_metadata() or ())
        if code == grpc.StatusCode.ABORTED and LIFE in trailing:
            try:
                life = life_of(trailing)
            except ProtocolError as fault:
                return ProtocolError(f"{self._peer}'s answer is malformed: {fault}")
            return PeerReturned(f"{self._peer} has begun again: {details}", life)
        if code not in _PASSING:
            return TransportError(f"{self._peer}: {code.name.lower()}: {details}")
        self.busy = LIFE in trailing
        unknown = code == grpc.StatusCode.NOT_FOUND
        self.unknown = PeerRefused(self._refused(details)) if unknown else None
        if unknown or self.busy:
            return None
        refusal = self._handshake_fault()
        if refusal is not None and self._cut_off:  # a refusal lasts, the end of a process does not
            time.sleep(_PAUSE)
            refusal = self._handshake_fault()
        return None if refusal is None else PeerRefused(refusal)

    def _unary(self, method: str, request: type[Any], reply: type[Any]) -> Any:
        return self._channel.unary_unary(
            f"/{SERVICE}/{method}",
            request_serializer=request.SerializeToString,
            response_deserializer=reply.FromString,
        )

    def _refused(self, details: str) -> str:
        return f"{self._peer} refused {self._party}: {details}"

    def _handshake_fault(self) -> str | None:
        """Why the TLS handshake with a reachable peer fails, in words; None if it does not."""
        self._cut_off = False
        context = ssl.create_default_context(cafile=str(self._identity.authority))
        context.load_cert_chain(self._identity.certificate, self._identity.key)
        context.set_alpn_protocols(["h2"])
        try:
            with (
                connect(self.address, self._proxy, _PROBE) as plain,
                context.wrap_socket(plain, server_hostname=self._peer) as secured,
            ):
                # With TLS 1.3 a refusal of our certificate shows here: an alert, or gRPC hangs up.
                refused = not secured.recv(1) and not self.met
        except ssl.SSLCertVerificationError as error:
            if "ostname" in error.verify_message:
                return f"the party at {self.address} is not {self._peer}: its certificate says so"
            return (
                f"{self._peer}'s certificate is not acceptable to {self._party} "
                f"({error.verify_message}): it must be signed by the job's authority"
            )
        except ssl.SSLEOFError as error:
            self._cut_off = True
            return None if self.met else self._not_accepted(error.reason)
        except ssl.SSLError as error:
            return self._not_accepted(error.reason)
        except OSError:
            return None
        return self._not_accepted("it hangs up") if refused else None

    def _not_accepted(self, how: str) -> str:
        return (
            f"{self._peer} does not accept {self._party}'s certificate ({how}): it must be signed "
            "by the job's authority"
        )


# Worth another try: nobody listens yet or any more, the peer's server stopped within the call, or
# the peer has not loaded the job yet.
_PASSING = (
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
)

_FATAL: dict[Any, Callable[[str], TransportError]] = {
    grpc.StatusCode.PERMISSION_DENIED: PeerRefused,
    grpc.StatusCode.UNAUTHENTICATED: PeerRefused,
    grpc.StatusCode.FAILED_PRECONDITION: PeerRefused,
    grpc.StatusCode.RESOURCE_EXHAUSTED: MessageTooLarge,
    grpc.StatusCode.INVALID_ARGUMENT: ProtocolError,
}
