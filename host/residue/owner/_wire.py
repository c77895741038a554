"""How arrays, facts and errors become messages, and which sockets are to be trusted."""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from residue.backends._protocol import OperationStats
from residue.card._memory import DeviceMemoryError
from residue.errors import (
    BackendError,
    CommandFailed,
    CorruptResult,
    DeviceError,
    DeviceTimeout,
)
from residue.owner.proto import v1

__all__ = [
    "CHUNK_BYTES",
    "MESSAGE_BYTES",
    "PROTOCOL_VERSION",
    "SERVICE",
    "DeviceMemoryError",
    "Facts",
    "Integers",
    "as_failure",
    "as_tensor",
    "chunks",
    "from_tensors",
    "mentioned_error",
    "pack_facts",
    "pack_stats",
    "private_path",
    "tensor_bytes",
    "unpack_facts",
    "unpack_stats",
]

PROTOCOL_VERSION = 1
SERVICE = "residue.owner.v1.Owner"
CHUNK_BYTES = 1 << 20
MESSAGE_BYTES = 2 << 20
"""Most bytes of one message."""
_SOCKET_PATH_BYTES = 107  # Linux: sun_path, less the final zero

Integers = NDArray[np.uint64] | NDArray[np.int64]
Facts = dict[str, str | int | float | bool]

_DTYPES: dict[bool, Any] = {False: np.dtype("<u8"), True: np.dtype("<i8")}

_ERRORS: dict[v1.Error, type[BackendError]] = {
    v1.BACKEND_ERROR: BackendError,
    v1.DEVICE_MEMORY_ERROR: DeviceMemoryError,
    v1.DEVICE_ERROR: DeviceError,
    v1.DEVICE_TIMEOUT: DeviceTimeout,
    v1.COMMAND_FAILED: CommandFailed,
    v1.CORRUPT_RESULT: CorruptResult,
}

# --- arrays ---------------------------------------------------------------------------------------


def as_tensor(values: NDArray[Any]) -> v1.Tensor:
    """What a message says of an array.

    Raises `BackendError` unless it is uint64 or int64, of one or two dimensions.
    """
    for signed, dtype in _DTYPES.items():
        if values.dtype == dtype and values.ndim in (1, 2):
            return v1.Tensor(shape=values.shape, signed=signed)
    raise BackendError(
        "an owner takes arrays of one or two dimensions of uint64 or int64, not "
        f"{values.dtype} {values.shape}"
    )


def chunks(arrays: Iterable[NDArray[Any]]) -> Iterator[bytes]:
    """The bytes of arrays, in pieces that fit a message."""
    for values in arrays:
        flat = np.ascontiguousarray(values).reshape(-1)
        step = CHUNK_BYTES // flat.itemsize
        for at in range(0, flat.size, step):
            yield flat[at : at + step].tobytes()


def tensor_bytes(tensors: Iterable[v1.Tensor], limit: int) -> int:
    """How many bytes follow a message that has these tensors.

    Raises `BackendError` if they are more than `limit`, or no array has such a shape.
    """
    total = 0
    for tensor in tensors:
        if len(tensor.shape) not in (1, 2) or max(tensor.shape) > limit:
            raise BackendError("malformed message: no array has such a shape")
        total += 8 * _size(tensor)
    if total > limit:
        raise BackendError(f"an operation's data have {total:,} bytes; {limit:,} is the bound")
    return total


def from_tensors(tensors: Iterable[v1.Tensor], data: bytearray) -> list[Integers]:
    """Arrays on top of the bytes that followed a message."""
    arrays: list[Integers] = []
    at = 0
    for tensor in tensors:
        flat = np.frombuffer(data, _DTYPES[tensor.signed], _size(tensor), at)
        arrays.append(flat.reshape(tuple(tensor.shape)))
        at += flat.nbytes
    return arrays


def _size(tensor: v1.Tensor) -> int:
    return math.prod(tensor.shape)


# --- facts and statistics -------------------------------------------------------------------------


def pack_facts(facts: Facts) -> dict[str, v1.Fact]:
    """Facts of a device as messages."""
    kinds = {bool: "flag", int: "integer", float: "real", str: "text"}
    packed = {name: v1.Fact() for name in facts}
    for name, value in facts.items():
        setattr(packed[name], kinds[type(value)], value)
    return packed


def unpack_facts(facts: Mapping[str, v1.Fact]) -> Facts:
    """Facts of a device from messages."""
    return {name: getattr(fact, fact.WhichOneof("value")) for name, fact in sorted(facts.items())}


def pack_stats(stats: Mapping[str, OperationStats]) -> dict[str, v1.Stats]:
    """Statistics as messages."""
    return {name: v1.Stats(**vars(each)) for name, each in stats.items()}


def unpack_stats(stats: Mapping[str, v1.Stats]) -> dict[str, OperationStats]:
    """Statistics from messages."""
    names = v1.Stats.DESCRIPTOR.fields_by_name
    return {
        operation: OperationStats(**{name: getattr(each, name) for name in names})
        for operation, each in stats.items()
    }


# --- errors ---------------------------------------------------------------------------------------


def as_failure(error: BackendError) -> v1.Failure:
    """The message that stands for an error; for one of an unknown class its nearest ancestor."""
    codes = {kind: code for code, kind in _ERRORS.items()}
    code = next(codes[kind] for kind in type(error).__mro__ if kind in codes)
    return v1.Failure(error=code, message=str(error))


def mentioned_error(failure: v1.Failure) -> BackendError:
    """The error that a message stands for."""
    return _ERRORS.get(failure.error, BackendError)(failure.message)


# --- sockets --------------------------------------------------------------------------------------


def private_path(path: str | Path) -> Path:
    """The absolute path of a socket, in a directory where nobody else can put one.

    Raises `BackendError` unless the directory belongs to this user and only its owner may write.
    """
    absolute = Path(path).absolute()
    if len(os.fsencode(absolute)) > _SOCKET_PATH_BYTES:
        raise BackendError(
            f"a socket's path has at most {_SOCKET_PATH_BYTES} bytes: {absolute} is too long"
        )
    try:
        facts = absolute.parent.stat()
    except OSError as error:
        raise BackendError(f"no directory {absolute.parent}: {error.strerror}") from error
    if facts.st_uid != os.geteuid() or facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise BackendError(
            f"{absolute.parent} must belong to you and be writable by nobody else, as a socket "
            "in it gives access to the card: use a directory of mode 0700"
        )
    return absolute
