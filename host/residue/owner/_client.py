"""The backend `owner:PATH`: a device that another process owns."""

from __future__ import annotations

import contextlib
import os
import stat
import threading
import time
import weakref
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Any

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # what goes wrong is reported by us, in words

import grpc
import numpy as np
from gmpy2 import mpz
from numpy.typing import NDArray

from residue._limbs import to_limbs
from residue._trace import note_operation
from residue.backends._protocol import Limbs, Modulus, OperationStats, ResidueArray
from residue.backends._validate import check_modulus
from residue.errors import BackendError, DeviceError
from residue.owner._wire import (
    MESSAGE_BYTES,
    PROTOCOL_VERSION,
    SERVICE,
    DeviceMemoryError,
    Facts,
    as_tensor,
    chunks,
    from_tensors,
    mentioned_error,
    private_path,
    tensor_bytes,
    unpack_facts,
    unpack_stats,
)
from residue.owner.proto import v1

__all__ = ["OwnerArray", "OwnerBackend", "status"]

_CONCAT = 10_000
"""Most handles of one message."""

Index = NDArray[np.int64]


class OwnerArray:
    """Residues that the owner keeps for this process."""

    __slots__ = ("__weakref__", "_backend", "_length", "_modulus", "handle", "outbox")

    def __init__(
        self, backend: OwnerBackend, modulus: Modulus, result: v1.Result, outbox: _Outbox
    ) -> None:
        self._backend = backend
        self._modulus = modulus
        self._length = result.length
        self.handle: bytes = result.array
        self.outbox = outbox

    def __del__(self) -> None:
        # May run in any thread, even while a request is put: a SimpleQueue takes that.
        self.outbox.put(self.handle)

    @property
    def backend(self) -> OwnerBackend:
        """The backend that holds the array."""
        return self._backend

    @property
    def modulus(self) -> Modulus:
        """The modulus of all elements."""
        return self._modulus

    def __len__(self) -> int:
        return self._length

    def wait(self) -> None:
        """Return when the array is computed; raise the error of the operation that failed."""
        self._backend.wait(self)


_Outbox = SimpleQueue[Iterable[v1.Request] | bytes | None]
"""Requests of an operation; the handle of an array to free; None: the end."""


class OwnerBackend:
    """`Backend` on a device that a process started by ``residue card serve`` owns.

    An operation is a message there and back; its result stays with the owner. What the owner's
    device promises about time holds there; exponents and residues travel in the clear over a socket
    that this user alone can open. `stats` counts a large batch once for each slice, and what the
    device counted while this session had the last turn.

    Arrays are lost when the owner ends: their operations raise `DeviceError` from then on.

    Args:
        path: the owner's socket.
        timeout: seconds for the owner to answer the first message.

    Raises:
        BackendError: others could have put the socket there.
        DeviceError: no owner answers, or it refuses.
    """

    def __init__(self, path: str | Path, *, timeout: float = 60.0) -> None:
        self._path = _trusted(path)
        self._lock = threading.Lock()
        self._error: DeviceError | None = None
        self._pid = os.getpid()
        self._stream = _Stream(self._path)
        self._end = weakref.finalize(self, self._stream.close)  # also at the end of this process
        hello = v1.Hello(protocol=PROTOCOL_VERSION, pid=self._pid)
        watchdog = threading.Timer(timeout, self._stream.replies.cancel)
        watchdog.start()
        try:
            self._quota = self._ask([v1.Request(hello=hello)]).welcome.quota_bytes
        except DeviceError as error:
            self.close()
            if watchdog.finished.is_set():
                raise DeviceError(
                    f"the owner process at {self._path} has not answered for {timeout:g} s"
                ) from error
            raise
        finally:
            watchdog.cancel()

    @property
    def name(self) -> str:
        """``owner``."""
        return "owner"

    def describe(self) -> Facts:
        """The owner's device, and what is left of this session's quota."""
        facts: Facts = {}
        healthy = False
        with contextlib.suppress(BackendError):
            facts = unpack_facts(self._exchange(v1.DESCRIBE)[0].facts)
            healthy = bool(facts.get("healthy", True))
        return facts | {"name": "owner", "owner": str(self._path), "healthy": healthy}

    # ------------------------------------------------------------------------------------- arrays

    def register(self, modulus: int) -> Modulus:
        """Make a modulus known. Raises `BackendError` if even, < 2**64 or too large."""
        check_modulus(modulus)
        self._exchange(v1.REGISTER, modulus=_bytes(modulus))
        return Modulus(int(modulus))

    def upload(self, modulus: Modulus, values: Limbs) -> OwnerArray:
        """Hand ``(n, modulus.limbs) uint64`` canonical residues over."""
        return self._make(v1.UPLOAD, modulus, [], [values], modulus=_bytes(modulus.value))

    def download(self, a: ResidueArray) -> Limbs:
        """Canonical residues ``(n, modulus.limbs) uint64``; waits for the array."""
        return self._fetch(v1.DOWNLOAD, [self._own(a)])

    def take(self, a: ResidueArray, index: Index) -> OwnerArray:
        """Gather ``a[index[j]]``."""
        return self._make(v1.TAKE, a.modulus, [a], [_index(index)])

    def concat(self, parts: list[ResidueArray]) -> OwnerArray:
        """Join arrays of one modulus."""
        if not parts:
            raise BackendError("nothing to concatenate")
        while len(parts) > _CONCAT:
            parts = [self.concat(parts[i : i + _CONCAT]) for i in range(0, len(parts), _CONCAT)]
        return self._make(v1.CONCAT, parts[0].modulus, parts)

    # --------------------------------------------------------------------------------- arithmetic

    def mul(self, a: ResidueArray, b: ResidueArray) -> OwnerArray:
        """Element-wise product; a length of one broadcasts."""
        return self._make(v1.MUL, a.modulus, [a, b])

    def pow(self, a: ResidueArray, exponents: Limbs, bits: int) -> OwnerArray:
        """Element-wise powers. Constant time where the owner's device is."""
        return self._make(v1.POW, a.modulus, [a], [exponents], bits=bits)

    def pow_var(self, a: ResidueArray, exponents: Limbs, bits: int) -> OwnerArray:
        """As `pow`, but its time may depend on the exponents."""
        return self._make(v1.POW_VAR, a.modulus, [a], [exponents], bits=bits)

    def pow_fixed(self, base: ResidueArray, exponents: Limbs, bits: int) -> OwnerArray:
        """Powers of one base by a comb table."""
        if len(base) != 1:
            raise BackendError(f"pow_fixed takes one base, not {len(base)}")
        return self._make(v1.POW_FIXED, base.modulus, [base], [exponents], bits=bits)

    def prod(self, a: ResidueArray, index: Index, offsets: Index) -> OwnerArray:
        """Gathered segmented product."""
        return self._make(v1.PROD, a.modulus, [a], [_index(index), _index(offsets)])

    def multi_pow(self, a: ResidueArray, exponents: Index, bits: int) -> OwnerArray:
        """Simultaneous powers with short signed exponents."""
        return self._make(v1.MULTI_POW, a.modulus, [a], [exponents], bits=bits)

    def multi_pow_var(self, a: ResidueArray, exponents: Index, bits: int) -> OwnerArray:
        """As `multi_pow`, but its time and addresses may depend on the exponents."""
        return self._make(v1.MULTI_POW_VAR, a.modulus, [a], [exponents], bits=bits)

    def pow_moduli(
        self, moduli: Sequence[Modulus], bases: Limbs, exponents: Limbs, bits: int
    ) -> Limbs:
        """Powers that have a modulus each. Constant time where the owner's device is."""
        limbs = max((modulus.limbs for modulus in moduli), default=1)
        values = to_limbs([mpz(modulus.value) for modulus in moduli], limbs)
        return self._fetch(v1.POW_MODULI, [], [values, bases, exponents], bits=bits)

    def inverse(self, a: ResidueArray) -> OwnerArray:
        """Element-wise inverses."""
        return self._make(v1.INVERSE, a.modulus, [a])

    # ------------------------------------------------------------------------------- housekeeping

    def wait(self, a: ResidueArray) -> None:
        """Return when `a` is computed; raise the error of the operation that failed."""
        self._exchange(v1.WAIT, [self._own(a)])

    def synchronize(self) -> None:
        """Return when everything queued on the owner's device is done."""
        self._exchange(v1.SYNCHRONIZE)

    def self_test(self) -> None:
        """Let the owner's device test itself, if it can. Raises `DeviceError` if it fails."""
        self._exchange(v1.SELF_TEST)

    def stats(self) -> dict[str, OperationStats]:
        """What this session's operations have cost since the last `reset_stats`.

        Nothing once the owner has ended.
        """
        if self._error is not None:
            return {}
        return unpack_stats(self._exchange(v1.STATS)[0].stats)

    def reset_stats(self) -> None:
        """Start counting anew."""
        self._exchange(v1.RESET_STATS)

    def clear_secrets(self) -> None:
        """Have the owner's device forget secrets, those of other sessions too; arrays stay."""
        self._exchange(v1.CLEAR_SECRETS)

    def close(self) -> None:
        """End the session. The owner frees its arrays; they become unusable."""
        self._end()

    # --------------------------------------------------------------------------------- private

    def _own(self, a: ResidueArray) -> OwnerArray:
        if not isinstance(a, OwnerArray) or a.backend is not self:
            raise BackendError("the array lives on another backend; download and upload it")
        return a

    def _make(
        self, kind: v1.Kind, of: Modulus, arrays: Sequence[ResidueArray],
        tensors: Sequence[NDArray[Any]] = (), **fields: Any,
    ) -> OwnerArray:  # fmt: skip
        operands = [self._own(a) for a in arrays]
        start = time.perf_counter()
        result, _ = self._exchange(kind, operands, tensors, **fields)
        end = time.perf_counter()
        note_operation(self, v1.Kind.Name(kind).lower(), of.bits, result.length, start, end)
        return OwnerArray(self, of, result, self._stream.outbox)

    def _fetch(
        self, kind: v1.Kind, arrays: Sequence[OwnerArray], tensors: Sequence[NDArray[Any]] = (),
        **fields: Any,
    ) -> Limbs:  # fmt: skip
        result, data = self._exchange(kind, arrays, tensors, **fields)
        (values,) = from_tensors([result.tensor], data)
        return values.view(np.uint64)

    def _exchange(
        self, kind: v1.Kind, arrays: Sequence[OwnerArray] = (),
        tensors: Sequence[NDArray[Any]] = (), **fields: Any,
    ) -> tuple[v1.Result, bytearray]:  # fmt: skip
        """Ask for one operation; its result, and the bytes of the result's tensor."""
        operation = v1.Operation(
            kind=kind, arrays=[a.handle for a in arrays],
            tensors=[as_tensor(values) for values in tensors], **fields,
        )  # fmt: skip
        size = sum(values.nbytes for values in tensors)
        if size > self._quota:
            raise DeviceMemoryError(
                f"an operation with {size:,} bytes of data exceeds this session's quota of "
                f"{self._quota:,}: use smaller batches, or start the owner with a larger "
                "--quota-mib"
            )

        def requests() -> Iterator[v1.Request]:
            yield v1.Request(operation=operation)
            for chunk in chunks(tensors):
                yield v1.Request(data=chunk)

        with self._lock:
            try:
                reply = self._ask(requests())
                data = bytearray()
                expected = [reply.result.tensor] if reply.result.HasField("tensor") else []
                size = tensor_bytes(expected, 1 << 62)
                while len(data) < size:
                    data += self._next().data
            except BackendError:
                raise
            except BaseException:  # an interrupt: what comes next would answer this operation
                self.close()
                raise
        if reply.HasField("failure"):
            raise mentioned_error(reply.failure)
        return reply.result, data

    def _ask(self, requests: Iterable[v1.Request]) -> v1.Reply:
        if not self._end.alive:
            raise BackendError("this owner backend is closed")
        if os.getpid() != self._pid:
            raise BackendError("this owner backend was opened before a fork: open another one")
        if self._error is not None:
            raise self._error.with_traceback(None)
        self._stream.outbox.put(requests)
        return self._next()

    def _next(self) -> v1.Reply:
        try:
            reply: v1.Reply = next(self._stream.replies)
            return reply
        except grpc.RpcError as error:
            self._error = _lost(self._path, error)
        except StopIteration:
            self._error = DeviceError(f"the owner process at {self._path} has ended the session")
        self._stream.outbox.put(None)
        raise self._error


def status(path: str | Path, *, timeout: float = 30.0) -> dict[str, Any]:
    """What the owner at a socket is doing: its device, and who uses it.

    Raises:
        BackendError: others could have put the socket there.
        DeviceError: no owner answers.
    """
    trusted = _trusted(path)
    with _channel(trusted) as channel:
        call = channel.unary_unary(
            f"/{SERVICE}/Status",
            request_serializer=v1.StatusRequest.SerializeToString,
            response_deserializer=v1.StatusReply.FromString,
        )
        try:
            reply = call(v1.StatusRequest(protocol=PROTOCOL_VERSION), timeout=timeout)
        except grpc.RpcError as error:
            raise _lost(trusted, error) from None
    names = v1.SessionStatus.DESCRIPTOR.fields_by_name
    return {
        "device": unpack_facts(reply.facts),
        "quota_bytes": reply.quota_bytes,
        "sessions": [{name: getattr(s, name) for name in names} for s in reply.sessions],
    }


class _Stream:
    """What goes to the owner and what comes back.

    Attributes:
        outbox: what to send.
        replies: what the owner answers.
    """

    def __init__(self, path: Path) -> None:
        self._pid = os.getpid()
        self.outbox: _Outbox = SimpleQueue()
        self._channel = _channel(path)
        call = self._channel.stream_stream(
            f"/{SERVICE}/Session",
            request_serializer=v1.Request.SerializeToString,
            response_deserializer=v1.Reply.FromString,
        )
        self.replies = call(_feed(self.outbox))

    def close(self) -> None:
        """End it, and drop gRPC's objects while threads run.

        Their finalisers take locks, which gRPC's threads may hold for ever when Python has ended.
        In a forked process there are no such threads, and nothing is done.
        """
        if os.getpid() != self._pid:
            return
        self.outbox.put(None)
        self._channel.close()
        del self.replies, self._channel


def _feed(outbox: _Outbox) -> Iterator[v1.Request]:
    while (item := outbox.get()) is not None:
        if isinstance(item, bytes):
            yield v1.Request(free=v1.Free(arrays=[item]))
        else:
            yield from item


def _trusted(path: str | Path) -> Path:
    """The path of a socket that this user has made."""
    absolute = private_path(path)
    try:
        found = absolute.lstat()
    except OSError as error:
        raise DeviceError(f"no owner process at {absolute}: {error.strerror}") from error
    if not stat.S_ISSOCK(found.st_mode) or found.st_uid != os.geteuid():
        raise DeviceError(f"{absolute} is no socket of yours")
    return absolute


def _channel(path: Path) -> Any:
    return grpc.insecure_channel(
        f"unix:{path}",
        options=[
            ("grpc.max_receive_message_length", MESSAGE_BYTES),
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.enable_http_proxy", 0),
        ],
    )


def _lost(path: Path, error: Any) -> DeviceError:
    """What an RpcError means."""
    meanings = {
        grpc.StatusCode.CANCELLED: "has ended the session",
        grpc.StatusCode.UNAVAILABLE: "has died, or does not listen",
        grpc.StatusCode.DEADLINE_EXCEEDED: "does not answer",
    }
    meaning = meanings.get(error.code(), f"refuses: {error.details()}")
    return DeviceError(f"the owner process at {path} {meaning}")


def _index(index: NDArray[Any]) -> NDArray[Any]:
    return index.astype(np.int64) if index.dtype.kind == "i" else index


def _bytes(value: int) -> bytes:
    return int(value).to_bytes(-(-int(value).bit_length() // 8), "little")
