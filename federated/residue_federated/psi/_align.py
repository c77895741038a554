"""The component ``psi``: the rows that guest and all hosts have, in the same order.

Every host has a function F of identifiers that nobody else can compute (`_dh`, `_rsa`):

1. the host sends the fingerprints of F over its own identifiers, in a secret order;
2. the guest sends its identifiers blinded, and the host returns F of them, blinded as well;
3. the guest removes the blinding, takes fingerprints and sees which of them the host has sent;
4. it sends every host one bit a fingerprint: whether that row is common to all parties;
5. all compare a digest of the identifiers they are left with.

Steps 1 and 2 are done in batches, the guest ahead by some, so that all compute and transfer at the
same time. Nothing is kept of an alignment that was interrupted: it starts over, with new secrets.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from residue.backends import Backend
from residue_federated._context import Context, Model, Outcome, Spec
from residue_federated._data import Table
from residue_federated._scratch import Scratch
from residue_federated.errors import DataError, PeerFailed, ProtocolError
from residue_federated.psi._config import BATCH as _BATCH
from residue_federated.psi._config import PsiConfig
from residue_federated.psi._dh import DhBlinder, DhEvaluator
from residue_federated.psi._elements import Limbs, check_elements
from residue_federated.psi._flow import flow
from residue_federated.psi._hash import (
    Fingerprints,
    common,
    encode,
    fingerprints,
    new_domain,
    residues_of,
)
from residue_federated.psi._rsa import RsaBlinder, RsaEvaluator

__all__ = ["apply", "flow", "run"]

_AHEAD = 2  # batches that the guest has sent before it needs the first answer

Rows = NDArray[np.int64]


class _Evaluator(Protocol):
    """Who can compute F. public: ``(1, limbs) uint64``; modulus: what hashes must be below."""

    public: Limbs

    @property
    def modulus(self) -> int: ...
    def evaluate(self, elements: Limbs) -> Limbs: ...
    def evaluate_own(self, hashes: Limbs) -> Limbs: ...


class _Blinder(Protocol):
    """Who wants F computed without showing what of."""

    @property
    def modulus(self) -> int: ...
    def blind(self, hashes: Limbs) -> tuple[Limbs, Any]: ...
    def unblind(self, answers: Limbs, secret: Any) -> Limbs: ...


_EVALUATORS: dict[str, Callable[[Backend, int], _Evaluator]] = {
    "dh": DhEvaluator,
    "rsa": RsaEvaluator,
}
_BLINDERS: dict[str, Callable[[Backend, int, Limbs, str], _Blinder]] = {
    "dh": DhBlinder,
    "rsa": RsaBlinder,
}


def run(context: Context, config: PsiConfig, table: Table | None) -> Outcome:
    """This party's part; an arbiter has none.

    Raises `DataError` if the table repeats an identifier or has more rows than it is padded to, and
    at guest and hosts if they have no row in common; `ProtocolError` naming the peer for elements
    outside the group, wrong signatures or rows that do not match in the end.
    """
    context.restored()
    return apply(context, config, table, {})


def apply(context: Context, config: PsiConfig, table: Table | None, model: Model) -> Outcome:
    """Align other rows, as `run` does."""
    if table is None:
        return Outcome()
    _check(context.party, config, table)
    return (_guest if context.role == "guest" else _host)(context, config, table)


def _check(party: str, config: PsiConfig, table: Table) -> None:
    if not table.ids:
        raise DataError(f"{party}: the table has no rows to align")
    if len(set(table.ids)) != len(table.ids):
        raise DataError(f"{party}: the table repeats an identifier")
    if config.pad_to is not None and len(table.ids) > config.pad_to:
        raise DataError(f"{party}: the table has more rows than pad_to, {config.pad_to}: raise it")


@dataclass(frozen=True)
class _Batches:
    """How rows are cut into messages; a peer's number of rows may be any."""

    rows: int
    step: int

    def __len__(self) -> int:
        return -(-self.rows // self.step)

    def part(self, number: int) -> slice:
        """The rows of one batch."""
        return slice(number * self.step, min(self.rows, (number + 1) * self.step))

    @property
    def parts(self) -> Iterator[slice]:
        """The rows of all batches, in order."""
        return map(self.part, range(len(self)))

    def size(self, number: int) -> int:
        """How many they are."""
        part = self.part(number)
        return int(part.stop - part.start)


class _Exchange:
    """What both ends of steps 1 and 2 know: the batches of either side."""

    def __init__(self, context: Context, config: PsiConfig, peer: str, rows: int) -> None:
        self.line, self.peer = context.line, peer
        self.backend, self.method, self.bits = context.backend, config.method, config.bits
        self.domain = new_domain(context.job.digest, context.component)
        self._pad_to = config.pad_to
        most = int(context.job.transport.max_message_mib * 2**20) - 4096  # of envelope
        self._step = max(1, min(_BATCH, most // (config.bits // 8)))
        self.own = _Batches(rows, self._step)

    def element_spec(self, rows: int) -> Spec:
        """Of elements of the group, or of the key."""
        return Spec("u8", (rows, self.bits // 64))

    def announced(self, rows: int) -> _Batches:
        """The peer's batches. Raises `ProtocolError` for a size that cannot be."""
        if rows < 1 or self._pad_to not in (None, rows):
            raise ProtocolError(f"{self.peer} announced {rows} rows, which the job does not allow")
        return _Batches(rows, self._step)


class _Query:
    """The guest's exchange with one host."""

    def __init__(
        self,
        context: Context,
        config: PsiConfig,
        host: str,
        entries: Sequence[bytes],
        scratch: Scratch,
    ) -> None:
        self._exchange = exchange = _Exchange(context, config, host, len(entries))
        self._entries = entries
        self._secrets: dict[int, Any] = {}
        self._ours: list[Fingerprints] = []
        self._theirs: list[Fingerprints] = []
        hello = exchange.line.receive_record(
            host, "key", rows=Spec("i8", (1,)), public=exchange.element_spec(1)
        )
        self._public = hello["public"]
        self.host_rows = exchange.announced(int(hello["rows"][0]))
        self._blinder = _BLINDERS[exchange.method](
            exchange.backend, exchange.bits, self._public, host
        )
        parts, modulus = exchange.own.parts, self._blinder.modulus
        self._hashes = residues_of(entries, parts, modulus, exchange.domain, scratch)

    @property
    def steps(self) -> int:
        """Batches of whichever side has more."""
        return max(len(self._exchange.own), len(self.host_rows))

    def ask(self, step: int) -> None:
        """Send a batch of blinded identifiers, if there are that many."""
        exchange = self._exchange
        if step >= len(exchange.own):
            return
        blinded, self._secrets[step] = self._blinder.blind(next(self._hashes))
        exchange.line.send_record(exchange.peer, f"ask/{step}", elements=blinded)

    def take(self, step: int) -> None:
        """Receive a batch of the host's fingerprints, and one of its answers."""
        exchange = self._exchange
        if step < len(self.host_rows):
            spec = Spec("u8", (self.host_rows.size(step), 2))
            record = exchange.line.receive_record(exchange.peer, f"own/{step}", fingerprints=spec)
            self._theirs.append(record["fingerprints"])
        if step < len(exchange.own):
            entries = self._entries[exchange.own.part(step)]
            record = exchange.line.receive_record(
                exchange.peer, f"answer/{step}", elements=exchange.element_spec(len(entries))
            )
            elements = self._blinder.unblind(record["elements"], self._secrets.pop(step))
            self._ours.append(fingerprints(entries, elements, self._public, exchange.domain))

    def common(self) -> tuple[Rows, Rows]:
        """Which of the guest's rows the host has, ascending, and where in the host's order."""
        try:
            return common(np.concatenate(self._ours), np.concatenate(self._theirs))
        except ValueError as error:
            raise ProtocolError(f"{self._exchange.peer} repeats a fingerprint") from error


def _guest(context: Context, config: PsiConfig, table: Table) -> Outcome:
    line, entries = context.line, encode(table.ids, config.pad_to)
    for host in context.hosts:
        line.send_record(host, "size", rows=np.array([len(entries)]))
    queries = {
        host: _Query(context, config, host, entries, table.scratch) for host in context.hosts
    }
    steps = max(query.steps for query in queries.values())
    context.progress(0, steps)
    for step in range(-_AHEAD, steps):
        for query in queries.values():
            query.ask(step + _AHEAD)
        if step >= 0:
            for query in queries.values():
                query.take(step)
            context.progress(step + 1, steps)
    found = {host: query.common() for host, query in queries.items()}
    rows = reduce(np.intersect1d, (ours for ours, _ in found.values()))
    aligned = table.take(rows)
    if config.reveal == "all":
        # Hosts that learn that there is nothing stop, and say so, while others are still told.
        with contextlib.suppress(PeerFailed) if not aligned.ids else contextlib.nullcontext():
            for host, (ours, theirs) in found.items():
                chosen = np.zeros(queries[host].host_rows.rows, dtype=bool)
                chosen[theirs[np.isin(ours, rows)]] = True
                line.send_record(host, "common", rows=np.packbits(chosen))
            for host in context.hosts:
                _compare(context, host, aligned)
            for host in context.hosts:
                _show(context, host, aligned)
    return _outcome(context, table, aligned)


def _host(context: Context, config: PsiConfig, table: Table) -> Outcome:
    line, guest = context.line, context.guest
    entries = encode(table.ids, config.pad_to)
    order = np.argsort(np.frombuffer(os.urandom(8 * len(entries)), np.uint64))  # secret
    shuffled = [entries[i] for i in order.tolist()]
    exchange = _Exchange(context, config, guest, len(entries))
    evaluator = _EVALUATORS[config.method](context.backend, config.bits)
    line.send_record(guest, "key", rows=np.array([len(entries)]), public=evaluator.public)
    size = line.receive_record(guest, "size", rows=Spec("i8", (1,)))
    asked = exchange.announced(int(size["rows"][0]))
    steps = max(len(exchange.own), len(asked))
    parts, modulus = exchange.own.parts, evaluator.modulus
    hashes = residues_of(shuffled, parts, modulus, exchange.domain, table.scratch)
    context.progress(0, steps)
    for step in range(steps):
        if step < len(exchange.own):
            part = shuffled[exchange.own.part(step)]
            elements = evaluator.evaluate_own(next(hashes))
            own = fingerprints(part, elements, evaluator.public, exchange.domain)
            line.send_record(guest, f"own/{step}", fingerprints=own)
        if step < len(asked):
            spec = exchange.element_spec(asked.size(step))
            blinded = line.receive_record(guest, f"ask/{step}", elements=spec)["elements"]
            check_elements(blinded, evaluator.modulus, guest, "blinded identifiers")
            line.send_record(guest, f"answer/{step}", elements=evaluator.evaluate(blinded))
        context.progress(step + 1, steps)
    if config.reveal == "guest":
        return Outcome(facts={"rows": len(table.ids)})
    spec = Spec("u1", (-(-len(entries) // 8),))
    packed = line.receive_record(guest, "common", rows=spec)["rows"]
    rows = np.sort(order[np.unpackbits(packed, count=len(entries)).astype(bool)])
    if len(rows) and rows[-1] >= len(table.ids):
        raise ProtocolError(f"{guest} takes rows for common that do not exist")
    aligned = table.take(rows)
    _show(context, guest, aligned)
    with contextlib.suppress(PeerFailed) if not aligned.ids else contextlib.nullcontext():
        _compare(context, guest, aligned)
    return _outcome(context, table, aligned)


def _digest(context: Context, table: Table) -> NDArray[np.uint8]:
    """32 bytes that depend on the job, on all identifiers and on their order."""
    parts = (context.job.digest, context.component, "rows", *table.ids)
    return np.frombuffer(new_domain(*parts), np.uint8)


def _show(context: Context, peer: str, table: Table) -> None:
    context.line.send_record(peer, "rows", digest=_digest(context, table))


def _compare(context: Context, peer: str, table: Table) -> None:
    theirs = context.line.receive_record(peer, "rows", digest=Spec("u1", (32,)))
    if not np.array_equal(theirs["digest"], _digest(context, table)):
        raise ProtocolError(f"{peer} is left with other rows than {context.party}")


def _outcome(context: Context, table: Table, aligned: Table) -> Outcome:
    if not aligned.ids:
        raise DataError(
            f"{context.party}: the parties have no row in common: check that their identifiers are "
            "written alike"
        )
    return Outcome(table=aligned, facts={"rows": len(table.ids), "common": len(aligned.ids)})
