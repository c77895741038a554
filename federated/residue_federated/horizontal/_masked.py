"""The messages of secure sums by masks, and who is left when a host is lost.

Clients speak with the arbiter alone, but for their identity keys at the start. At every step of a
sum the arbiter goes on without the hosts that have not answered in time or cannot be reached, for
the rest of the job; the guest and the threshold of clients it cannot do without.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from residue_federated._context import Context, Spec
from residue_federated.errors import PeerFailed, PeerLost
from residue_federated.horizontal._masks import (
    BOX_BYTES,
    KEY_BYTES,
    Circle,
    Member,
    Offer,
    unmask,
)
from residue_federated.horizontal._shamir import SHARE_BYTES
from residue_federated.horizontal._sums import Sum, check_sum

__all__ = ["MaskedAdder", "MaskedSummand"]


class MaskedSummand:
    """A client."""

    def __init__(self, context: Context, circle: Circle) -> None:
        self._line = context.line
        self._circle = circle
        self._member = Member(circle, context.party)
        self._line.spare(context.hosts)
        others = [client for client in circle.clients if client != context.party]
        for other in others:
            self._line.send_record(other, "identity", key=_bytes(self._member.identity))
        for other in others:
            spec = Spec(np.uint8, (KEY_BYTES,))
            key = self._line.receive_record(other, "identity", key=spec)["key"]
            self._member.meet(other, key.tobytes())

    def sum(self, name: str, values: NDArray[np.int64]) -> Sum:
        """The sum of the vectors of those who are left."""
        line, circle, arbiter = self._line, self._circle, self._circle.arbiter
        count = len(circle.clients)
        mask = self._member.begin(name)
        offer = mask.offer()
        line.send_record(
            arbiter,
            f"{name}/offer",
            public=_bytes(offer.public),
            commitment=_bytes(offer.commitment),
            boxes=offer.boxes,
        )
        relayed = line.receive_record(
            arbiter,
            f"{name}/offers",
            present=Spec(np.bool_, (count,)),
            publics=Spec(np.uint8, (count, KEY_BYTES)),
            boxes=Spec(np.uint8, (count, BOX_BYTES)),
        )
        vector = mask.mask(values, **relayed)
        line.send_record(arbiter, f"{name}/vector", vector=vector)
        left = line.receive_record(arbiter, f"{name}/left", left=Spec(np.bool_, (count,)))["left"]
        line.send_record(arbiter, f"{name}/shares", shares=mask.answer(left))
        spec = Spec(circle.ring, values.shape)
        total = circle.centred(line.receive_record(arbiter, f"{name}/sum", sum=spec)["sum"])
        check_sum(total, int(np.count_nonzero(left)), circle.bits, arbiter)
        clients = tuple(np.array(circle.clients)[left].tolist())
        for client in set(circle.clients) - set(clients) - line.lost.keys():
            line.lose(client, f"{client} was left out by {arbiter}")
        return Sum(total, clients, arbiter)


class MaskedAdder:
    """The arbiter: it learns the sums, and who is left."""

    def __init__(self, context: Context, circle: Circle, patience: float) -> None:
        self._line = context.line
        self._circle = circle
        self._guest = context.guest
        self._patience = patience
        self._left = list(circle.clients)
        self._line.spare(context.hosts)

    def sum(self, name: str, size: int) -> tuple[str, ...]:
        """Relay offers, gather vectors and shares, and send the sum to who gave shares."""
        circle, count = self._circle, len(self._circle.clients)
        offers = {
            client: Offer(
                record["public"].tobytes(), record["commitment"].tobytes(), record["boxes"]
            )
            for client, record in self._gather(
                f"{name}/offer",
                public=Spec(np.uint8, (KEY_BYTES,)),
                commitment=Spec(np.uint8, (32,)),
                boxes=Spec(np.uint8, (count, BOX_BYTES)),
            ).items()
        }
        self._tell(f"{name}/offers", {client: self._relayed(offers, client) for client in offers})
        vectors = self._gather(f"{name}/vector", vector=Spec(circle.ring, (size,)))
        left = self._flags(vectors)
        self._tell(f"{name}/left", {client: {"left": left} for client in vectors})
        shares = self._gather(f"{name}/shares", shares=Spec(np.uint8, (count, SHARE_BYTES)))
        total = unmask(
            circle,
            name,
            offers,
            {client: record["vector"] for client, record in vectors.items()},
            {client: record["shares"] for client, record in shares.items()},
        )
        self._tell(f"{name}/sum", {client: {"sum": total.astype(circle.ring)} for client in shares})
        return tuple(client for client in circle.clients if client in vectors)

    def _relayed(self, offers: Mapping[str, Offer], client: str) -> dict[str, NDArray[Any]]:
        """What `client` is to know of the others' offers."""
        count, place = len(self._circle.clients), self._circle.clients.index(client)
        publics = np.zeros((count, KEY_BYTES), dtype=np.uint8)
        boxes = np.zeros((count, BOX_BYTES), dtype=np.uint8)
        for other, offer in offers.items():
            at = self._circle.clients.index(other)
            publics[at], boxes[at] = _bytes(offer.public), offer.boxes[place]
        return {"present": self._flags(offers), "publics": publics, "boxes": boxes}

    def _flags(self, clients: Iterable[str]) -> NDArray[np.bool_]:
        return np.isin(self._circle.clients, list(clients))

    def _gather(self, tag: str, **specs: Spec) -> dict[str, dict[str, NDArray[Any]]]:
        """Records of those who are left, in the job's order; who sends none is left out."""
        records = self._line.gather_records(self._left, tag, within=self._patience, **specs)
        for client in [client for client in self._left if client not in records]:
            self._leave_out(client, self._line.lost.get(client, f"no '{tag}' came in time"))
        return {client: records[client] for client in self._left}

    def _tell(self, tag: str, records: Mapping[str, Mapping[str, NDArray[Any]]]) -> None:
        """A record to each, as far as they can be reached."""
        for client, record in records.items():
            if client in self._left:
                try:
                    self._line.send_record(client, tag, **record)
                except (PeerLost, PeerFailed):
                    self._leave_out(client, f"'{tag}' could not be delivered")

    def _leave_out(self, client: str, why: str) -> None:
        self._left.remove(client)
        if client == self._guest or len(self._left) < self._circle.threshold:
            raise PeerLost(
                f"the job cannot go on without {client} ({why}): {len(self._left)} of "
                f"{len(self._circle.clients)} clients are left, min_clients is "
                f"{self._circle.threshold}, and the guest must be among them"
            )
        self._line.lose(client, f"{client} was left out: {why}")


def _bytes(data: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(data, dtype=np.uint8)
