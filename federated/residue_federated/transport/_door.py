"""A party's door: one gRPC server with mutual TLS, where every call finds the job it is for.

Calls name their job in their metadata, so that the door need not know what they say; the endpoint
of the job checks the same in the message itself.
"""

from __future__ import annotations

import inspect
import re
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent import futures
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

from residue_federated._certificates import Identity
from residue_federated._jobs import Transport
from residue_federated._schema import MOST_PORT
from residue_federated.errors import FederatedError, TransportError
from residue_federated.transport._connection import common_options, grpc

__all__ = ["Door", "call_metadata", "handlers_of", "job_of"]

_JOB = "residue-job"
_CALLS = 256
"""Calls served at once: of each job a stream of messages from each peer, and questions."""
_GRACE = 0.5
"""Seconds for calls in progress when a door closes."""
_OPENING = 10.0
"""Seconds until the first that a call says must be there."""

Metadata = Sequence[tuple[str, str]]
Opening = Callable[[Any], AbstractContextManager[None]]
"""Around the wait for what a call says first; ends one that may not be made at all."""


def call_metadata(job: str) -> Metadata:
    """What goes with every call for a job."""
    return ((_JOB, job),)


def job_of(context: Any) -> str:
    """The job that a call names in its metadata; none if it names none."""
    return str(dict(context.invocation_metadata()).get(_JOB, ""))


def handlers_of(
    service: str, opening: Opening, **methods: tuple[Callable[..., Any], Any, Any]
) -> Any:
    """What an endpoint is admitted with: by method, who answers, and its request and reply.

    An answer that is a generator is one to a stream of requests: it takes the first, and the
    others. All are served as streams, since gRPC itself waits without limit for a single request.
    """
    return grpc.method_handlers_generic_handler(
        service,
        {
            name: grpc.stream_stream_rpc_method_handler(
                partial(_answers, method, opening),
                request_deserializer=request.FromString,
                response_serializer=reply.SerializeToString,
            )
            for name, (method, request, reply) in methods.items()
        },
    )


def _answers(
    method: Callable[..., Any], opening: Opening, requests: Iterator[Any], context: Any
) -> Iterator[Any]:
    with opening(context):
        late = threading.Timer(_OPENING, context.cancel)
        late.daemon = True
        late.start()
        try:
            first = next(requests, None)
        finally:
            late.cancel()
    if first is None:
        return
    if inspect.isgeneratorfunction(method):
        yield from method(first, requests, context)
    else:
        yield method(first, context)


@dataclass(frozen=True)
class _Place:
    """Whom calls for a job find: its endpoint, or nobody yet or any more.

    handlers: the endpoint's, else None. halt: stops the endpoint. parties: who may call a job
    without an endpoint; on_call: told when one of them does. failure: why there will be none.
    """

    handlers: grpc.GenericRpcHandler | None = None
    halt: Callable[[FederatedError], None] = lambda error: None
    parties: Collection[str] = ()
    on_call: Callable[[], None] = lambda: None
    failure: str | None = None


class Door(grpc.GenericRpcHandler):  # type: ignore[misc]
    """The server of a party, for one job or for many. Safe to use from several threads.

    Args:
        party: whose door it is.
        identity: with which it proves so.
        listen: ``host:port``; port 0 takes a free one.
        single: whether it is for one job only: then that job's endpoint answers every call, and
            itself refuses those for others.
        keep_alive: as in a job's transport.

    Raises `TransportError` if it cannot listen there.
    """

    def __init__(
        self,
        party: str,
        identity: Identity,
        listen: str,
        *,
        single: bool = False,
        keep_alive: float | None = None,
    ) -> None:
        _, colon, number = listen.rpartition(":")
        if not (colon and re.fullmatch("[0-9]{1,5}", number) and int(number) <= MOST_PORT):
            raise TransportError(f"{party}: cannot listen on '{listen}': expected host:port")
        self._party = party
        self._single = single
        self._lock = threading.Lock()
        self._inside: dict[str, _Place] = {}
        self._server = grpc.server(
            futures.ThreadPoolExecutor(max_workers=_CALLS, thread_name_prefix="residue-exchange"),
            options=[
                *common_options(keep_alive or Transport().keep_alive),
                ("grpc.max_receive_message_length", 4 * 2**20),
                ("grpc.so_reuseport", 0),
            ],
        )
        self._server.add_generic_rpc_handlers((self,))
        credentials = grpc.ssl_server_credentials(
            [(identity.key.read_bytes(), identity.certificate.read_bytes())],
            root_certificates=identity.authority.read_bytes(),
            require_client_auth=True,
        )
        try:
            self.port: int = self._server.add_secure_port(listen, credentials)
        except RuntimeError as error:
            raise TransportError(f"{party}: cannot listen on {listen}") from error
        self._server.start()

    def __enter__(self) -> Door:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def expect(self, job: str, parties: Collection[str], on_call: Callable[[], None]) -> None:
        """A job waits here: `on_call` is told when one of its parties calls, who tries again."""
        with self._lock:
            self._inside[job] = _Place(parties=frozenset(parties), on_call=on_call)

    def fail(self, job: str, parties: Collection[str], failure: str) -> None:
        """A job has failed here: its parties are told why as soon as they call."""
        with self._lock:
            self._inside[job] = _Place(parties=frozenset(parties), failure=failure)

    def admit(
        self, job: str, handlers: grpc.GenericRpcHandler, halt: Callable[[FederatedError], None]
    ) -> None:
        """From now on an endpoint answers the calls for a job; `halt` stops it."""
        with self._lock:
            self._inside[job] = _Place(handlers, halt)

    def dismiss(self, job: str) -> None:
        """A job has ended: calls for it are refused."""
        with self._lock:
            self._inside.pop(job, None)

    def halt(self, error: FederatedError) -> None:
        """Stop the endpoints of all jobs with an error."""
        with self._lock:
            inside = list(self._inside.values())
        for place in inside:
            place.halt(error)

    def close(self) -> None:
        """Stop serving."""
        self._server.stop(grace=_GRACE).wait()

    def service(self, handler_call_details: Any) -> Any:
        """Who answers a call; gRPC asks."""
        job = dict(handler_call_details.invocation_metadata).get(_JOB, "")
        with self._lock:
            place = self._inside.get(job)
            if place is None and self._single:
                place = next(iter(self._inside.values()), None)
        if place is not None and place.handlers is not None:
            return place.handlers.service(handler_call_details)

        def refuse(request: Any, context: Any) -> None:
            if place is None and not self._single:
                context.abort(
                    grpc.StatusCode.NOT_FOUND,
                    f"{self._party} has no such job (now): both need the same algorithm, parties "
                    "and parameters",
                )
            if place is not None:
                names = {n.decode() for n in context.auth_context().get("x509_common_name", [])}
                if not names & set(place.parties):
                    context.abort(
                        grpc.StatusCode.PERMISSION_DENIED,
                        f"'{', '.join(sorted(names))}' has no part in the job",
                    )
                if place.failure is not None:
                    context.abort(grpc.StatusCode.FAILED_PRECONDITION, place.failure)
                place.on_call()
            context.abort(grpc.StatusCode.UNAVAILABLE, f"{self._party} is starting")

        return grpc.stream_stream_rpc_method_handler(refuse)
