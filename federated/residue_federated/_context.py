"""What a component has to work with at one party: its peers, its device, where it stands."""

from __future__ import annotations

import copy
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import residue
from residue.backends import Backend
from residue.errors import InsecureKeyWarning, InvalidCiphertext, InvalidKey, KeyMismatch
from residue_federated._checkpoint import Checkpoints, State
from residue_federated._data import Table
from residue_federated._jobs import Job, Role
from residue_federated.errors import AuditViolation, CheckpointError, DataError, ProtocolError
from residue_federated.proto import v1
from residue_federated.transport import Endpoint, printable

if TYPE_CHECKING:
    from residue_federated.audit._live import Auditor

__all__ = [
    "WHOLE",
    "Context",
    "Line",
    "Model",
    "Outcome",
    "Progress",
    "Spec",
    "Standing",
    "Twin",
    "Waiting",
    "mean_losses",
]

WHOLE = "_job"
"""Under this name, which no component can have, parties agree on what is finished."""
_CHUNK = 64
"""Randomness made at a time while waiting: few enough to notice a message soon, and enough that a
card computes longer on a row of its table than it takes to read the row."""
_CHUNKS = 256
"""Where much is wanted, it is made in so many pieces: larger ones cost less a ciphertext."""
_DTYPES = {
    np.dtype(name).str: np.dtype(name)
    for name in ("?", "i1", "<i2", "<i4", "<i8", "u1", "<u2", "<u4", "<u8", "<f8")
}
"""What a record may hold, little-endian, by numpy's names."""
_MOST_DIMENSIONS = 8
_LONGEST_NAMES = 200
"""Characters of the names in another party's record that an error repeats."""

Model = dict[str, Any]
"""A party's share of a model, as JSON."""

Progress = Callable[[str, int, int, float | None], None]
"""Called with component, rounds done, rounds at most, and the loss where this party knows it."""


@dataclass(frozen=True)
class Spec:
    """What an array of a record must be; None in `shape` stands for any length."""

    dtype: Any
    shape: tuple[int | None, ...]


@dataclass(frozen=True)
class Standing:
    """Where a component goes on.

    done: after how many rounds, 0 afresh. state: of that moment; None afresh, and at a host that
    lacks it, which has `before`: its own of an earlier round, if any. lacking: those hosts, as the
    guest knows them.
    """

    done: int
    state: dict[str, Any] | None = None
    before: dict[str, Any] | None = None
    lacking: tuple[str, ...] = ()


@dataclass
class Outcome:
    """What a component ends with at one party.

    table: the new table, of a component that transforms it. model: this party's share, as JSON.
    rounds: epochs or trees done. losses, metrics, scores ``(rows,)`` or ``(rows, classes) float64``
    (predictions on the label's scale or logits), at the guest. trace: decrypted integers, where
    they were asked for. facts: what else belongs into the report, as JSON.
    """

    table: Table | None = None
    model: dict[str, Any] | None = None
    rounds: int = 0
    losses: list[float] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)
    scores: NDArray[np.float64] | None = None
    trace: list[list[int]] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Twin:
    """What the same algorithm gives on the joined data, without encryption.

    score: scores of other rows from the parties' tables of them, where it can tell.
    """

    losses: list[float]
    metrics: dict[str, float]
    model: dict[str, Any] | None = None
    score: Callable[[dict[str, Table]], NDArray[np.float64]] | None = None


def mean_losses(losses: Sequence[list[float]]) -> list[float]:
    """Of each round, over trainings; one that stopped early stays at its last loss."""
    longest = max(map(len, losses))
    padded = [part + part[-1:] * (longest - len(part)) for part in losses]
    return [float(np.mean(epoch)) for epoch in zip(*padded, strict=True)]


@dataclass
class Waiting:
    """Seconds a party spent sending and waiting for others."""

    seconds: float = 0.0

    @contextmanager
    def booked(self) -> Iterator[None]:
        """Book the time of a block."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - start


class Line:
    """Messages of one component: ciphertexts, keys and records of arrays, each checked."""

    def __init__(
        self,
        endpoint: Endpoint,
        component: str,
        backend: Backend,
        waiting: Waiting,
        auditor: Auditor | None = None,
    ) -> None:
        self._endpoint = endpoint
        self._auditor = auditor
        self._component = component
        self._backend = backend
        self._waiting = waiting

    def within(self, part: str) -> Line:
        """The line of a part of the component."""
        path = f"{self._component}/{part}"
        return Line(self._endpoint, path, self._backend, self._waiting, self._auditor)

    @property
    def path(self) -> str:
        """What the tags of its messages start with: the component, and the part of it."""
        return self._component

    def send_payload(self, peer: str, tag: str, payload: v1.Payload) -> None:
        """Any message."""
        with self._waiting.booked():
            self._endpoint.send(peer, f"{self._component}/{tag}", payload)

    def receive_payload(
        self, peer: str, tag: str, kind: str, idle: Callable[[], bool] | None = None
    ) -> v1.Payload:
        """Any message of a kind; `idle` as for `Endpoint.receive`, its time is not waiting."""
        working = Waiting()

        def timed() -> bool:
            assert idle is not None
            with working.booked():
                return idle()

        with self._waiting.booked():
            payload = self._endpoint.receive(
                peer, f"{self._component}/{tag}", idle=None if idle is None else timed
            )
        self._waiting.seconds -= working.seconds
        return _of_kind(kind, peer, tag, payload)

    def send_key(self, peer: str, key: residue.PublicKey) -> None:
        """A public key."""
        self.send_payload(peer, "key", v1.Payload(public_key=v1.PublicKey(data=key.to_bytes())))

    def receive_key(self, peer: str, bits: int) -> residue.PublicKey:
        """The public key of `peer`, which must have the width that was agreed."""
        payload = self.receive_payload(peer, "key", "public_key")
        try:
            key = residue.PublicKey.from_bytes(payload.public_key.data, device=self._backend)
        except InvalidKey as error:
            raise ProtocolError(f"{peer} sent an unusable key: {error}") from error
        if key.bits != bits:
            raise ProtocolError(f"{peer} sent a key of {key.bits} bits where {bits} were agreed")
        return key

    def send(self, peer: str, tag: str, *arrays: residue.CiphertextArray) -> None:
        """Ciphertexts to one peer."""
        self.broadcast([peer], tag, *arrays)

    def broadcast(self, peers: Sequence[str], tag: str, *arrays: residue.CiphertextArray) -> None:
        """The same ciphertexts to several peers: the only way a ciphertext leaves a party.

        `to_bytes` re-randomises what is not fresh, once for all peers.
        """
        blocks = [array.to_bytes() for array in arrays]
        payload = v1.Payload(ciphertexts=v1.Ciphertexts(blocks=blocks))
        for peer in peers:
            self.send_payload(peer, tag, payload)

    def receive(
        self,
        peer: str,
        tag: str,
        key: residue.PublicKey,
        *shapes: tuple[int, ...],
        idle: Callable[[], bool] | None = None,
    ) -> list[residue.CiphertextArray]:
        """Ciphertext arrays of integers, of the shapes that the algorithm expects.

        Raises `ProtocolError` otherwise.
        """
        blocks = self.receive_payload(peer, tag, "ciphertexts", idle).ciphertexts.blocks
        try:
            arrays = [key.ciphertexts_from_bytes(block) for block in blocks]
        except (InvalidCiphertext, KeyMismatch) as error:
            fault = f"{peer} sent unusable ciphertexts as '{tag}': {error}"
            raise AuditViolation(fault, peer, "data") from error
        if any(a.exponent for a in arrays):
            raise AuditViolation(f"{peer} sent '{tag}' with plaintexts not integers", peer, "data")
        if [a.shape for a in arrays] != list(shapes):
            raise ProtocolError(
                f"{peer} sent ciphertexts of shapes {[a.shape for a in arrays]} as '{tag}', "
                f"expected {list(shapes)}"
            )
        if self._auditor is not None:
            self._auditor.took(peer, f"{self._component}/{tag}", arrays)
        return arrays

    def send_record(self, peer: str, tag: str, **arrays: NDArray[Any]) -> None:
        """Named arrays of numbers or truth values, in the clear."""
        record = v1.Record()
        for name, values in arrays.items():
            little = np.ascontiguousarray(values).astype(values.dtype.newbyteorder("<"), copy=False)
            assert little.dtype.str in _DTYPES, little.dtype
            array = v1.Array(dtype=little.dtype.str, shape=values.shape, data=little.tobytes())
            record.arrays[name].CopyFrom(array)
        self.send_payload(peer, tag, v1.Payload(record=record))

    def receive_record(
        self,
        peer: str,
        tag: str,
        *,
        idle: Callable[[], bool] | None = None,
        **specs: Spec,
    ) -> dict[str, NDArray[Any]]:
        """Arrays as specified, read-only; else `ProtocolError`. Their values are not checked."""
        payload = self.receive_payload(peer, tag, "record", idle)
        return _record(peer, tag, payload, specs)

    def gather_records(
        self, peers: Sequence[str], tag: str, *, within: float, **specs: Spec
    ) -> dict[str, dict[str, NDArray[Any]]]:
        """As `receive_record`, of those of `peers` that send within so many seconds."""
        with self._waiting.booked():
            payloads = self._endpoint.gather(peers, f"{self._component}/{tag}", within=within)
        return {peer: _record(peer, tag, payloads[peer], specs) for peer in payloads}

    def spare(self, peers: Sequence[str]) -> None:
        """From now on the job may go on without these peers: see `Endpoint.spare`."""
        self._endpoint.spare(peers)

    @property
    def lost(self) -> dict[str, str]:
        """Peers that the job goes on without, and why."""
        return self._endpoint.lost

    def lose(self, peer: str, reason: str) -> None:
        """Give up a peer for good."""
        self._endpoint.lose(peer, reason)

    def precompute(self, key: residue.PublicKey, count: int) -> Callable[[], bool]:
        """Work for idle moments: randomness for the next `count` ciphertexts, a few at a time."""
        chunk = max(_CHUNK, count // _CHUNKS)

        def some() -> bool:
            missing = count - key.prepared
            if missing > 0:
                key.prepare(min(missing, chunk))
            return missing > chunk

        return some


def _of_kind(kind: str, peer: str, tag: str, payload: v1.Payload) -> v1.Payload:
    if payload.WhichOneof("kind") != kind:
        raise ProtocolError(f"{peer} sent {payload.WhichOneof('kind')} as '{tag}', not {kind}")
    return payload


def _record(
    peer: str, tag: str, payload: v1.Payload, specs: Mapping[str, Spec]
) -> dict[str, NDArray[Any]]:
    arrays = _of_kind("record", peer, tag, payload).record.arrays
    if arrays.keys() != specs.keys():
        raise ProtocolError(
            f"{peer} sent {_names(arrays) or 'nothing'} as '{tag}', expected "
            f"{', '.join(sorted(specs))}"
        )
    return {
        name: _array(f"{peer} sent a bad '{name}' as '{tag}'", arrays[name], spec)
        for name, spec in specs.items()
    }


def _names(arrays: Iterable[str]) -> str:
    """The names that another party gave, as far as an error has room for them."""
    return printable(", ".join(sorted(arrays))[:_LONGEST_NAMES])


def _array(fault: str, array: v1.Array, spec: Spec) -> NDArray[Any]:
    dtype, shape = np.dtype(spec.dtype), tuple(array.shape)
    if _DTYPES.get(array.dtype) != dtype or len(shape) > _MOST_DIMENSIONS:
        raise ProtocolError(f"{fault}: {array.dtype[:8]!r} instead of {dtype.name}")
    fits = len(shape) == len(spec.shape) and all(
        wanted in (None, length) for wanted, length in zip(spec.shape, shape, strict=True)
    )
    if not fits:
        raise ProtocolError(f"{fault}: shape {shape} instead of {spec.shape}")
    size = dtype.itemsize
    for length in shape:
        size *= length
    if size != len(array.data):
        raise ProtocolError(f"{fault}: {len(array.data)} bytes instead of {size}")
    return np.frombuffer(array.data, array.dtype).reshape(shape)


class Context:
    """One component at one party.

    Args:
        job, party, component: which.
        endpoint: the party's door.
        backend: what it computes on.
        nodes: what it computes on under others' public keys, where that is something else.
        checkpoints: where this component's states are.
        inputs: what components before it ended with at this party, by name.
        waiting: where to book the time of messages.
        on_progress: told of every round.
        trace: whether to keep decrypted integers.
        auditor: told of every state that is kept or restored, and of received ciphertexts.
    """

    def __init__(
        self,
        job: Job,
        party: str,
        component: str,
        endpoint: Endpoint,
        backend: Backend,
        *,
        checkpoints: Checkpoints,
        inputs: dict[str, Outcome],
        waiting: Waiting,
        on_progress: Progress,
        nodes: Backend | None = None,
        trace: bool = False,
        auditor: Auditor | None = None,
    ) -> None:
        self.job = job
        self.party = party
        self.role: Role = job.role(party)
        self.component = component
        self.guest = job.guest.name
        self.hosts = [host.name for host in job.hosts]
        self.arbiter = None if job.arbiter is None else job.arbiter.name
        self.backend = backend
        self.inputs = inputs
        self.trace = trace
        self.line = Line(endpoint, component, nodes or backend, waiting, auditor)
        self._auditor = auditor
        self._checkpoints = checkpoints
        self._on_progress = on_progress

    def within(self, part: str, on_progress: Progress) -> Context:
        """The context of one of several trainings inside this component.

        Its messages and states are apart from the others'; it tells `on_progress` of its rounds.
        """
        inner = copy.copy(self)
        inner.line = self.line.within(part)
        inner._checkpoints = self._checkpoints.within(part)
        inner._on_progress = on_progress
        return inner

    @property
    def others(self) -> list[str]:
        """All parties but this one and those that are lost."""
        gone = {self.party, *self.line.lost}
        return [party.name for party in self.job.parties if party.name not in gone]

    def progress(self, done: int, total: int, loss: float | None = None) -> None:
        """Tell how far this component is: 0 rounds when work starts, then after every round."""
        self._on_progress(self.component, done, total, loss)

    def restored(self) -> tuple[int, dict[str, Any]] | None:
        """The last state that all parties have, and after how many rounds; None to start afresh.

        The parties agree on it by messages: each calls this once, when the component starts.
        Raises as `standing`.
        """
        standing = self.standing()
        return None if standing.state is None else (standing.done, standing.state)

    def standing(self, least: int | None = None) -> Standing:
        """As `restored`, where so many of guest and hosts are enough, the guest among them.

        least: None stands for all. To hand the state to hosts that lack it is left to the caller.

        Raises `CheckpointError` if parties have states and none in common; nobody loses any then.
        """
        mine = self._checkpoints.rounds
        lacking: tuple[str, ...] = ()
        if self.party == self.guest:
            known = {self.party: set(mine)}
            for peer in self.others:
                theirs = self.line.receive_record(peer, "states", rounds=Spec("i8", (None,)))
                known[peer] = set(theirs["rounds"].tolist())
            agreed = self._newest(known, least)
            lacking = tuple(peer for peer in known if agreed and agreed not in known[peer])
            for peer in self.others:
                self.line.send_record(peer, "resume", done=np.array([agreed]))
        else:
            self.line.send_record(self.guest, "states", rounds=np.array(mine, dtype=np.int64))
            answer = self.line.receive_record(self.guest, "resume", done=Spec("i8", (1,)))
            agreed = int(answer["done"][0])
            may_lack = least is not None and least <= len(self.hosts) and self.role == "host"
            if agreed < 0 or (agreed and agreed not in mine and not may_lack):
                raise ProtocolError(f"{self.guest} wants to resume after an unknown round {agreed}")
        self._checkpoints.drop_after(agreed)
        if self._auditor is not None:
            self._auditor.resumed(self.line.path, agreed)
        kept = self._checkpoints.rounds
        if not agreed:
            return Standing(0)
        if agreed in kept:
            return Standing(agreed, self._checkpoints.load(agreed), lacking=lacking)
        return Standing(agreed, before=self._checkpoints.load(kept[-1]) if kept else None)

    def _newest(self, known: Mapping[str, set[int]], least: int | None) -> int:
        """The last round of which enough parties have the state, 0 if there is none.

        Parties that are not lost are at most one round apart, so one without any state has lost
        some if others are past the first round.
        """
        hosts = [party for party in known if party in self.hosts]
        common = set.intersection(*(known[party] for party in known.keys() - set(hosts)))
        enough = len(hosts) if least is None else least - 1
        agreed = [r for r in common if sum(r in known[host] for host in hosts) >= enough]
        if agreed:
            return max(agreed)
        if self.component == WHOLE:  # hosts that were lost end again, with all, what they missed
            known = {party: known[party] for party in known if not self.job.may_lose(party)}
            if set.intersection(*known.values()):
                return 0
        holders = Counter(done for rounds in known.values() for done in rounds)
        if max(holders, default=0) > 1:
            wanted = max(holders, key=lambda done: (holders[done], done))
            lack = " and ".join(party for party in known if wanted not in known[party])
            have = " and ".join(party for party in known if wanted in known[party])
            raise CheckpointError(
                f"'{self.line.path}' cannot go on: too few parties have a state in common, and "
                f"that after round {wanted}, which {have} kept, is missing at {lack}: put back "
                f"what states/{self.line.path} held there, or start afresh in new directories"
            )
        return 0

    def checkpoint(self, done: int, state: State) -> None:
        """Keep what is needed to go on after `done` rounds, on disk when this returns."""
        self._checkpoints.save(done, state)
        if self._auditor is not None:
            self._auditor.checkpoint(self.line.path, done)

    def journal(self, name: str) -> Checkpoints:
        """States of this party alone: of what has left it, whether or not the others have it."""
        return self._checkpoints.within(name)

    def make_key(self, peers: Sequence[str]) -> tuple[residue.PublicKey, residue.PrivateKey]:
        """A fresh key pair of the job's width on this party's device, the public half sent."""
        key = self.job.key
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", InsecureKeyWarning)  # the command line has said so
            public, secret = residue.keygen(
                key.bits, insecure_allow_1024=key.insecure_allow_1024, device=self.backend
            )
        for peer in peers:
            self.line.send_key(peer, public)
        return public, secret

    def agree_on_rows(self, table: Table) -> None:
        """Guest and hosts see that they have the same rows, in the same order.

        Raises `DataError` if not.
        """
        digest = np.frombuffer(table.digest(self.job.digest), np.uint8)
        one, hashed = Spec("i8", (1,)), Spec("u1", (32,))
        count = np.array([len(table.ids)])
        if self.party != self.guest:
            self.line.send_record(self.guest, "rows", count=count, digest=digest)
            self.line.receive_record(self.guest, "rows", count=one, digest=hashed)
            return
        for host in self.hosts:
            theirs = self.line.receive_record(host, "rows", count=one, digest=hashed)
            if theirs["count"][0] != len(table.ids):
                raise DataError(
                    f"row counts differ: {self.party} has {len(table.ids)}, {host} has "
                    f"{theirs['count'][0]}: align the tables first"
                )
            if theirs["digest"].tobytes() != digest.tobytes():
                raise DataError(
                    f"{self.party} and {host} have the same number of rows but other identifiers: "
                    "align the tables first"
                )
        for host in self.hosts:
            self.line.send_record(host, "rows", count=count, digest=digest)
