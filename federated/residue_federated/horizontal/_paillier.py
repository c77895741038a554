"""Secure sums of packed Paillier ciphertexts.

After C. Zhang et al., "BatchCrypt: efficient homomorphic encryption for cross-silo federated
learning", USENIX ATC 2020, but that only one client, the guest, has the private key: every client
encrypts its vector, several integers to a ciphertext; the arbiter multiplies, which adds; the guest
decrypts the sum alone and passes it on to the hosts. The arbiter sees ciphertexts, hosts see sums.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

import residue
from residue.errors import EncodingOverflow
from residue_federated._context import Context, Spec
from residue_federated.errors import ProtocolError
from residue_federated.horizontal._packing import Packing
from residue_federated.horizontal._sums import Sum, check_sum

__all__ = ["PaillierAdder", "PaillierSummand"]

_CHUNK = 2048
"""Ciphertexts in a message, so that encryption, transfer and addition overlap."""
_MOST_CHUNKS = 128
"""Messages of one vector: fewer than a receiver lets wait."""


def _chunks(plaintexts: int) -> Iterator[tuple[int, int]]:
    """Start and length of each chunk of a packed vector."""
    size = max(_CHUNK, -(-plaintexts // _MOST_CHUNKS))
    for start in range(0, plaintexts, size):
        yield start, min(size, plaintexts - start)


class PaillierSummand:
    """A client; the guest makes the key pair."""

    def __init__(self, context: Context, bits: int) -> None:
        self._context = context
        self._clients = (context.guest, *context.hosts)
        self._packing = Packing.plan(bits, len(self._clients), context.job.key.bits)
        self._secret: residue.PrivateKey | None = None
        if context.role == "guest":
            self._key, self._secret = context.make_key(context.others)
        else:
            self._key = context.line.receive_key(context.guest, context.job.key.bits)

    def sum(self, name: str, values: NDArray[np.int64]) -> Sum:
        """The sum of the vectors of all clients."""
        context, line = self._context, self._context.line
        assert context.arbiter is not None
        packing, plaintexts = self._packing, self._packing.plaintexts(len(values))
        for start, length in _chunks(plaintexts):
            part = values[start * packing.slots : (start + length) * packing.slots]
            line.send(context.arbiter, f"{name}/{start}", self._key.encrypt(packing.pack(part)))
        if self._secret is None:
            idle = line.precompute(self._key, plaintexts)
            spec = Spec(np.int64, values.shape)
            total = line.receive_record(context.guest, f"{name}/sum", idle=idle, sum=spec)["sum"]
            check_sum(total, len(self._clients), packing.bits, context.guest)
        else:
            total = self._decrypted(self._secret, name, plaintexts)[: len(values)]
            for host in context.hosts:
                line.send_record(host, f"{name}/sum", sum=total)
        return Sum(total, self._clients, context.arbiter if self._secret else context.guest)

    def _decrypted(
        self, secret: residue.PrivateKey, name: str, plaintexts: int
    ) -> NDArray[np.int64]:
        """The sums in all slots of so many plaintexts."""
        context, line = self._context, self._context.line
        assert context.arbiter is not None
        parts = []
        for start, length in _chunks(plaintexts):
            idle = line.precompute(self._key, plaintexts)
            tag = f"{name}/sum/{start}"
            (c,) = line.receive(context.arbiter, tag, self._key, (length,), idle=idle)
            try:
                parts.append(self._packing.unpack(secret.decrypt(c, dtype=object)))
            except (EncodingOverflow, ValueError) as error:
                raise ProtocolError(f"{context.arbiter} sent '{tag}', which is no sum") from error
        total = np.concatenate(parts)
        check_sum(total, len(self._clients), self._packing.bits, context.arbiter)
        return total


class PaillierAdder:
    """The arbiter: it has the public key only."""

    def __init__(self, context: Context, bits: int) -> None:
        self._context = context
        self._clients = (context.guest, *context.hosts)
        self._key = context.line.receive_key(context.guest, context.job.key.bits)
        self._packing = Packing.plan(bits, len(self._clients), context.job.key.bits)

    def sum(self, name: str, size: int) -> tuple[str, ...]:
        """Add all clients' ciphertexts, and send the sum to the guest."""
        line, plaintexts = self._context.line, self._packing.plaintexts(size)
        idle = line.precompute(self._key, plaintexts)
        for start, length in _chunks(plaintexts):
            total: residue.CiphertextArray | None = None
            for client in self._clients:
                tag = f"{name}/{start}"
                (c,) = line.receive(client, tag, self._key, (length,), idle=idle)
                total = c if total is None else total + c
            assert total is not None
            line.send(self._context.guest, f"{name}/sum/{start}", total)
        return self._clients
