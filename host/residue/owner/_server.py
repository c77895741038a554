"""The process that owns a device: a socket, and a session for each client."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path
from typing import Any, NoReturn

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # what goes wrong is reported by us, in words

import grpc
from google.protobuf.message import DecodeError

from residue.backends._protocol import Backend
from residue.errors import BackendError, DeviceError
from residue.owner._machine import Machine
from residue.owner._session import Gone, Session
from residue.owner._wire import (
    MESSAGE_BYTES,
    PROTOCOL_VERSION,
    SERVICE,
    chunks,
    from_tensors,
    pack_facts,
    private_path,
    tensor_bytes,
)
from residue.owner.proto import v1

__all__ = ["Owner", "default_quota"]

_QUOTA_SHARE = 4
_GRACE_SECONDS = 2.0
_SPARE = 4
"""Threads for questions about the status, and for clients that are refused."""


def default_quota() -> int:
    """Bytes that a session may hold: a quarter of this machine's memory.

    Arrays that do not fit the device's memory are kept in this one; the device does not tell how
    much it has.
    """
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // _QUOTA_SHARE


class Owner:
    """Serves a device on a Unix socket that this user alone can reach. A context manager.

    Args:
        open_backend: opens the device, and opens it again after it has failed.
        path: of the socket. Its directory must belong to this user, and be writable by nobody else.
        quota: most bytes of the arrays of one session, in the border's form.
        sessions: most sessions at a time.

    Raises:
        BackendError: the directory is not private, or another owner serves there.
        DeviceError: the device cannot be opened.
    """

    def __init__(
        self,
        open_backend: Callable[[], Backend],
        path: str | Path,
        *,
        quota: int | None = None,
        sessions: int = 16,
    ) -> None:
        self._quota = default_quota() if quota is None else quota
        self._most = sessions
        self._lock = threading.Lock()
        self._sessions: dict[Session, Any] = {}  # with the contexts of their streams
        self.path = private_path(path)
        self._pool = futures.ThreadPoolExecutor(sessions + _SPARE, "residue-owner")
        self._server = grpc.server(
            self._pool,
            maximum_concurrent_rpcs=sessions + _SPARE,
            options=[("grpc.max_receive_message_length", MESSAGE_BYTES), ("grpc.so_reuseport", 0)],
        )
        handlers = {
            "Session": grpc.stream_stream_rpc_method_handler(
                self._on_session, response_serializer=v1.Reply.SerializeToString
            ),
            "Status": grpc.unary_unary_rpc_method_handler(
                self._on_status, response_serializer=v1.StatusReply.SerializeToString
            ),
        }
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(SERVICE, handlers),)
        )
        self._bind()
        try:
            # Not before: opening a card that another owner drives would reset it.
            self._machine = Machine(open_backend)
        except BaseException:
            self._server.stop(None)
            self.path.unlink(missing_ok=True)
            raise
        self._server.start()

    def __enter__(self) -> Owner:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all sessions, erase what they leave behind and release the device."""
        with self._lock:
            for context in self._sessions.values():
                context.cancel()
        self._server.stop(_GRACE_SECONDS).wait()
        self._pool.shutdown()
        self._machine.close()
        self.path.unlink(missing_ok=True)

    # ---------------------------------------------------------------------------------- socket

    def _bind(self) -> None:
        directory = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(directory, fcntl.LOCK_EX)  # two owners may start at once
            self._remove_stale()
            mask = os.umask(0o177)
            try:
                self._server.add_insecure_port(f"unix:{self.path}")
            except RuntimeError as error:
                raise BackendError(f"cannot listen on {self.path}") from error
            finally:
                os.umask(mask)
        finally:
            os.close(directory)

    def _remove_stale(self) -> None:
        """Remove the socket of an owner that died; refuse what is anything else."""
        try:
            found = self.path.lstat()
        except FileNotFoundError:
            return
        if not stat.S_ISSOCK(found.st_mode):
            raise BackendError(f"{self.path} exists and is no socket: name another path")
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(self.path))
            except ConnectionRefusedError:
                self.path.unlink()
                return
        raise BackendError(f"a process serves {self.path} already: end it, or name another path")

    # --------------------------------------------------------------------------------- service

    def _on_status(self, raw: bytes, context: Any) -> v1.StatusReply:
        request = _parse(v1.StatusRequest, raw, context)
        _check_version(request.protocol, context)
        facts = self._machine.describe()
        with self._lock:
            sessions = [session.status() for session in self._sessions]
        return v1.StatusReply(facts=pack_facts(facts), quota_bytes=self._quota, sessions=sessions)

    def _on_session(self, requests: Iterator[bytes], context: Any) -> Iterator[v1.Reply]:
        with self._session(requests, context) as session:
            yield v1.Reply(welcome=v1.Welcome(quota_bytes=self._quota))
            with contextlib.suppress(Gone):
                for raw in requests:
                    request = _parse(v1.Request, raw, context)
                    if request.HasField("free"):
                        session.free(request.free.arrays)
                        continue
                    operation = request.operation
                    tensors = self._tensors(operation, requests, context)
                    message, values = session.answer(operation, tensors)
                    if isinstance(message, v1.Failure):
                        yield v1.Reply(failure=message)
                        continue
                    yield v1.Reply(result=message)
                    for data in chunks(values):
                        yield v1.Reply(data=data)

    @contextlib.contextmanager
    def _session(self, requests: Iterator[bytes], context: Any) -> Iterator[Session]:
        """A session from its first message until its stream breaks."""
        hello = _parse(v1.Request, next(requests, b""), context).hello
        _check_version(hello.protocol, context)

        def check_alive() -> None:
            if not context.is_active():
                raise Gone

        try:
            session = Session(self._machine, self._quota, hello.pid, check_alive)
        except DeviceError as error:
            context.abort(grpc.StatusCode.INTERNAL, f"the device does not answer: {error}")
        with self._lock:
            if len(self._sessions) < self._most:
                self._sessions[session] = context
        if session not in self._sessions:
            context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"the owner serves {self._most} sessions already: close one, or start the owner "
                "with a larger --sessions",
            )
        try:
            yield session
        finally:
            session.end()
            with self._lock:
                del self._sessions[session]

    def _tensors(
        self, operation: v1.Operation, requests: Iterator[bytes], context: Any
    ) -> list[Any]:
        """The arrays that follow an operation."""
        try:
            size = tensor_bytes(operation.tensors, self._quota)
        except BackendError as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        data = bytearray()
        while len(data) < size:
            data += _parse(v1.Request, next(requests, b""), context).data or _malformed(context)
        if len(data) > size:
            _malformed(context)
        return from_tensors(operation.tensors, data)


def _parse(kind: type[Any], raw: bytes, context: Any) -> Any:
    try:
        return kind.FromString(raw)
    except DecodeError:
        _malformed(context)


def _malformed(context: Any) -> NoReturn:
    context.abort(grpc.StatusCode.INVALID_ARGUMENT, "malformed message")
    raise AssertionError  # abort does not return


def _check_version(protocol: int, context: Any) -> None:
    if protocol != PROTOCOL_VERSION:
        context.abort(
            grpc.StatusCode.FAILED_PRECONDITION,
            f"protocol version {protocol}, expected {PROTOCOL_VERSION}: update client or owner",
        )
