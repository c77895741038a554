"""The messages of a round between the guest and a host, both ends.

1. The guest sends the encrypted gradients and curvatures of the rows to grow on.
2. For each level the guest tells how the nodes of the last one were divided and which nodes to sum;
   the host answers with row counts, in the clear, and packed encrypted sums of all cells that are
   not empty.
3. The guest names, for each node that the host's columns split best, the best candidates, which are
   several where gains are equal; the host takes the first in its own order, writes it down and
   answers which rows go left.

The host's columns are in an order that it draws anew for each round and keeps to itself. It is one
for the whole round: counts and sums of a node are those of its children added, so an order for each
node would hide nothing more, and the guest can subtract a node from its parent in the clear, which
halves what is packed, sent and decrypted.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

import residue
from residue.errors import EncodingOverflow
from residue.paillier import BOUND_STEP, concatenate
from residue_federated._context import Line, Spec
from residue_federated.boosting._bins import Binned, Cuts
from residue_federated.boosting._histogram import Histogram, count, encrypted
from residue_federated.boosting._packing import Format
from residue_federated.boosting._tree import (
    Best,
    Frontier,
    Records,
    decoded,
    goes_left,
    record,
)
from residue_federated.errors import ProtocolError

__all__ = ["HostColumns", "Remote", "send_gradients"]

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Idle = Callable[[], bool] | None

_PART = 1 << 23
"""Bytes of ciphertexts in a message, at most: one is computed while another travels."""


def send_gradients(
    line: Line, hosts: list[str], tag: str, key: residue.PublicKey, plaintexts: NDArray[Any]
) -> None:
    """The first message of a round: each row's plaintext, in one dimension, encrypted."""
    for number, part in enumerate(_parts(len(plaintexts), key)):
        line.broadcast(hosts, f"{tag}/gradients/{number}", key.encrypt(plaintexts[part]))


class Remote:
    """A host's columns, at the guest: `Party` by messages.

    Args:
        index, name: of the host.
        line: to it.
        secret: the key pair.
        bins: of values a column.
        records: how many splits the host has written down.
        trace: where to keep what is decrypted, in an order that does not tell the host's; or None.
    """

    def __init__(
        self,
        index: int,
        name: str,
        line: Line,
        secret: residue.PrivateKey,
        *,
        bins: int,
        records: int,
        trace: list[list[int]] | None,
    ) -> None:
        self.index = index
        self.name = name
        self._line = line
        self._secret = secret
        self._bins = bins
        self._records = records
        self._trace = trace

    def begin(
        self, tag: str, selected: Bools, columns: int, form: Format, idle: Callable[[], bool]
    ) -> None:
        """A round, of so many of its columns; `idle` is work for while the host computes."""
        self._tag, self._level = tag, -1
        self._selected, self._columns, self._format, self._idle = selected, columns, form, idle
        self._split, self._left = np.zeros(0, np.int64), np.zeros(0, np.bool_)

    def start(self, frontier: Frontier, build: Ints) -> None:
        """Tell how the last level ended, and ask for sums."""
        self._level += 1
        self._line.send_record(
            self.name,
            self._at("build"),
            split=self._split.astype(np.int32),
            left=np.packbits(self._left),
            build=build.astype(np.int32),
        )
        members, _ = frontier.members(build, self._selected)
        self._rows = np.bincount(members.node, minlength=len(build))

    def histogram(self) -> Histogram:
        """The host's sums, decrypted."""
        shape = (len(self._rows), self._columns, self._bins + 1)
        answer = self._line.receive_record(
            self.name, self._at("counts"), idle=self._idle, n=Spec(np.uint32, shape)
        )
        n = answer["n"].astype(np.int64)
        if (n.sum(axis=-1) != self._rows[:, None]).any():
            raise ProtocolError(f"{self.name} sent histograms that do not add up")
        filled = np.nonzero(n.swapaxes(0, 1))
        columns, nodes, bins = filled
        counts = n[nodes, columns, bins]
        key, groups = self._secret.public_key, self._format.groups(len(counts))
        packed = _receive(self._line, self.name, self._at("sums"), key, groups, self._idle)
        g, h = np.zeros_like(n), np.zeros_like(n)
        try:
            plaintexts = self._secret.decrypt(packed, dtype=object)
            sums = self._format.unpack(plaintexts, counts)
        except (EncodingOverflow, ValueError) as error:
            raise ProtocolError(f"{self.name} sent sums that cannot be: {error}") from error
        g[nodes, columns, bins], h[nodes, columns, bins] = sums
        if self._trace is not None:
            self._trace += [np.sort(each).tolist() for each in sums]
        return Histogram(g, h, n)

    def divide(self, frontier: Frontier, nodes: Ints, best: Best) -> None:
        """Name the best candidates of nodes; none where nothing is divided by this host."""
        ties = [best.candidate[best.of(node)] for node in nodes.tolist()]
        self._line.send_record(
            self.name,
            self._at("divide"),
            nodes=nodes.astype(np.int32),
            ties=np.array([len(each) for each in ties], np.int32),
            candidates=np.concatenate([np.zeros(0, np.int64), *ties]).astype(np.int32),
        )
        self._divided = len(nodes), len(frontier.inside(nodes)[0])

    def divided(self) -> tuple[Bools, list[int]]:
        """Which rows go left. Records are numbered as they come."""
        nodes, rows = self._divided
        spec = Spec(np.uint8, (-(-rows // 8),))
        answer = self._line.receive_record(self.name, self._at("left"), left=spec)
        numbers = list(range(self._records, self._records + nodes))
        self._records += nodes
        return _bools(answer["left"], rows), numbers

    def advance(self, nodes: Ints, left: Bools) -> None:
        """Keep it for the next message."""
        self._split, self._left = nodes, left

    def _at(self, what: str) -> str:
        return f"{self._tag}/{what}/{self._level}"


class HostColumns:
    """A host's columns, at the host: answers what `Remote` asks.

    Args:
        line: to the guest.
        guest: its name.
        key: the guest's.
        binned, cuts, names: the columns.
        records: what was split so far; grows.
    """

    def __init__(
        self,
        line: Line,
        guest: str,
        key: residue.PublicKey,
        binned: Binned,
        cuts: Cuts,
        names: list[str],
        records: Records,
    ) -> None:
        self._line = line
        self._guest = guest
        self._key = key
        self._all = binned
        self._cuts = cuts
        self._names = names
        self._records = records

    def round(
        self, tag: str, depth: int, outputs: int, selected: Bools, columns: Ints, form: Format
    ) -> None:
        """Take part in a round.

        Args:
            tag: its place in the job.
            depth: levels at most.
            outputs: trees.
            selected: ``(rows,)``, those to grow on.
            columns: to use, ascending.
            form: of the guest's plaintexts.

        Raises `ProtocolError` where the guest asks for what cannot be.
        """
        line, guest, rows = self._line, self._guest, len(selected)
        trained = int(selected.sum())
        idle = line.precompute(self._key, form.groups(len(columns) * self._all.width * outputs))
        c = _receive(line, guest, f"{tag}/gradients", self._key, outputs * trained, idle)
        if c.bound.bit_length() >= form.row_bits + BOUND_STEP:
            raise ProtocolError(f"{guest} sent gradients of {c.bound.bit_length()} bits")
        shuffled = columns[_secret_order(len(columns))]
        binned = self._all.take(shuffled)
        rank = np.cumsum(selected) - 1
        frontier = Frontier(outputs, rows)
        for level in range(depth):
            build = self._next_level(frontier, f"{tag}/build/{level}", idle)
            if not len(build):
                return
            members, places = frontier.members(build, selected)
            if not (np.bincount(members.node, minlength=len(build)) > 0).all():
                raise ProtocolError(f"{guest} asks for sums of no rows")
            which = places // rows * trained + rank[members.rows]
            n = count(members, binned)
            line.send_record(guest, f"{tag}/counts/{level}", n=n.astype(np.uint32))
            sums = encrypted(members, binned, c, which)
            packed = form.pack(sums)
            for number, part in enumerate(_parts(len(packed), self._key)):
                line.send(guest, f"{tag}/sums/{level}/{number}", packed[part])
            self._divide(frontier, shuffled, tag, level, idle)

    def _next_level(self, frontier: Frontier, tag: str, idle: Idle) -> Ints:
        """Move the frontier on as the guest says; returns the nodes to sum."""
        asked = self._line.receive_record(
            self._guest,
            tag,
            idle=idle,
            split=Spec(np.int32, (None,)),
            left=Spec(np.uint8, (None,)),
            build=Spec(np.int32, (None,)),
        )
        if not tag.endswith("/0"):
            split = self._ascending(asked["split"], frontier.nodes)
            rows = len(frontier.inside(split)[0])
            if len(asked["left"]) != -(-rows // 8):
                raise ProtocolError(f"{self._guest} sent a division of other rows")
            frontier.advance(split, _bools(asked["left"], rows))
        return self._ascending(asked["build"], frontier.nodes)

    def _divide(self, frontier: Frontier, columns: Ints, tag: str, level: int, idle: Idle) -> None:
        """Divide the nodes that the guest names, by the first of the candidates of each."""
        asked = self._line.receive_record(
            self._guest,
            f"{tag}/divide/{level}",
            idle=idle,
            nodes=Spec(np.int32, (None,)),
            ties=Spec(np.int32, (None,)),
            candidates=Spec(np.int32, (None,)),
        )
        nodes = self._ascending(asked["nodes"], frontier.nodes)
        ties, candidates = asked["ties"].astype(np.int64), asked["candidates"].astype(np.int64)
        every = len(columns) * self._all.bins * 2
        if (
            len(ties) != len(nodes)
            or (ties < 1).any()
            or ties.sum() != len(candidates)
            or ((candidates < 0) | (candidates >= every)).any()
        ):
            raise ProtocolError(f"{self._guest} named splits that do not exist")
        if not len(nodes):
            return
        column, bin_, missing = decoded(candidates, self._all.bins)
        ours = (columns[column] * self._all.bins + bin_) * 2 + missing
        first = np.minimum.reduceat(ours, np.cumsum(ties) - ties)
        column, bin_, missing = decoded(first, self._all.bins)
        places, split = frontier.inside(nodes)
        left = goes_left(self._all, places % frontier.table_rows, split, column, bin_, missing)
        record(self._records, self._cuts, self._names, column, bin_, missing)
        self._line.send_record(self._guest, f"{tag}/left/{level}", left=np.packbits(left))

    def _ascending(self, nodes: NDArray[Any], end: int) -> Ints:
        """Different nodes below `end`, checked."""
        if len(nodes) and (nodes[0] < 0 or nodes[-1] >= end or (nodes[1:] <= nodes[:-1]).any()):
            raise ProtocolError(f"{self._guest} named nodes that do not exist")
        return nodes.astype(np.int64)


def _receive(
    line: Line, peer: str, tag: str, key: residue.PublicKey, count: int, idle: Idle
) -> residue.CiphertextArray:
    """``(count,)`` ciphertexts that came in parts."""
    return concatenate(
        [
            line.receive(peer, f"{tag}/{number}", key, (part.stop - part.start,), idle=idle)[0]
            for number, part in enumerate(_parts(count, key))
        ]
    )


def _parts(count: int, key: residue.PublicKey) -> list[slice]:
    """How so many ciphertexts are cut into messages."""
    step = max(1, _PART // (key.bits // 4))
    return [slice(start, min(start + step, count)) for start in range(0, count, step)]


def _bools(packed: NDArray[np.uint8], count: int) -> Bools:
    return np.unpackbits(packed, count=count).astype(np.bool_)


def _secret_order(count: int) -> Ints:
    """A permutation that nobody can guess."""
    return np.random.default_rng(secrets.randbits(256)).permutation(count)
