"""What a message is, read from its bytes alone: no key, no backend, nothing of its numbers.

The facts go into the records of both ends, and the live checks compare them with the job.
"""

from __future__ import annotations

import hashlib
import struct
from typing import Any

import numpy as np

from residue_federated.proto import v1

__all__ = ["MalformedPayload", "facts_of"]

_KEY = struct.Struct("<8sHHI")
"""Header of a public key, see docs/formats.md: magic, version, flags, bits."""
_BLOCK = struct.Struct("<8sHHI32siIII")
"""Header of a ciphertext array: magic, version, flags, dimensions, key, exponent, bound, limbs."""
_MOST_DIMENSIONS = 32


class MalformedPayload(Exception):
    """The bytes are not what the message says they are."""


def facts_of(payload: v1.Payload) -> dict[str, Any]:
    """The kind of a message and what its headers declare, JSON-able.

    record: ``arrays``, name -> dtype, shape, and how many numbers are not finite, if any.
    masked_plaintexts: their ``count``, and the ``bits`` of the largest.
    public_key: ``bits`` of n as they are, not as declared, and ``key``, the SHA-256 of n.
    ciphertexts: a ``blocks`` list of ``key``, ``shape``, ``exponent``, ``bound_bits``, and their
    ``count`` in all.

    Raises `MalformedPayload`.
    """
    kind = payload.WhichOneof("kind")
    if kind is None:
        raise MalformedPayload("it is empty")
    if kind == "public_key":
        return {"kind": kind, **_of_key(payload.public_key.data)}
    if kind == "ciphertexts":
        blocks = [_of_block(block) for block in payload.ciphertexts.blocks]
        return {"kind": kind, "count": sum(b.pop("count") for b in blocks), "blocks": blocks}
    if kind == "record":
        arrays = payload.record.arrays
        return {"kind": kind, "arrays": {name: _of_array(arrays[name]) for name in sorted(arrays)}}
    if kind == "masked_plaintexts":
        values = payload.masked_plaintexts.values
        bits = (int.from_bytes(value, "little", signed=True).bit_length() for value in values)
        return {"kind": kind, "count": len(values), "bits": max(bits, default=0)}
    return {"kind": kind}


def _of_array(array: v1.Array) -> list[Any]:
    facts: list[Any] = [array.dtype, list(array.shape)]
    if array.dtype == "<f8" and len(array.data) % 8 == 0:
        infinite = np.count_nonzero(~np.isfinite(np.frombuffer(array.data, "<f8")))
        facts += [int(infinite)] if infinite else []
    return facts


def _of_key(data: bytes) -> dict[str, Any]:
    if len(data) < _KEY.size:
        raise MalformedPayload("it is no public key")
    limbs = -(-_KEY.unpack_from(data)[3] // 64)
    modulus = data[_KEY.size : _KEY.size + 8 * limbs]
    bits = int.from_bytes(modulus, "little").bit_length()
    named = modulus[: -(-bits // 8)]
    return {"bits": bits, "key": hashlib.sha256(named).hexdigest()}


def _of_block(data: bytes) -> dict[str, Any]:
    if len(data) < _BLOCK.size:
        raise MalformedPayload("it holds no ciphertexts")
    _, _, _, dimensions, key, exponent, bound_bits, limbs, _ = _BLOCK.unpack_from(data)
    if dimensions > _MOST_DIMENSIONS or len(data) < _BLOCK.size + 8 * dimensions or not limbs:
        raise MalformedPayload("its header of ciphertexts is inconsistent")
    shape = struct.unpack_from(f"<{dimensions}Q", data, _BLOCK.size)
    body = len(data) - _BLOCK.size - 8 * dimensions
    return {
        "key": key.hex(),
        "shape": list(shape),
        "exponent": exponent,
        "bound_bits": bound_bits,
        "count": body // (8 * limbs),
    }
