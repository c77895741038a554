from __future__ import annotations

import itertools
import math
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, replace

import gmpy2
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from numpy.typing import NDArray

from residue_federated.errors import ProtocolError
from residue_federated.horizontal import _masks
from residue_federated.horizontal._masks import (
    Bytes,
    Circle,
    Member,
    Offer,
    Ring,
    RoundMask,
    unmask,
)
from residue_federated.horizontal._shamir import PRIME, SHARE_BYTES, join, split

NAMES = ("guest", "h0", "h1", "h2", "h3")
SIZE = 40


@pytest.fixture
def seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Secrets from a generator with a seed, so that statistics of them are the same every time."""
    monkeypatch.setattr(secrets, "token_bytes", np.random.default_rng(11).bytes)


def circle_of(clients: int = 5, threshold: int = 3, bits: int = 24) -> Circle:
    return Circle(NAMES[:clients], "arbiter", threshold, bits)


def introduced(circle: Circle) -> dict[str, Member]:
    members = {name: Member(circle, name) for name in circle.clients}
    for one, other in itertools.permutations(members.values(), 2):
        one.meet(other.name, other.identity)
    return members


def vectors(circle: Circle) -> dict[str, NDArray[np.int64]]:
    """Integers of the circle's bits, its extremes among them."""
    rng, half = np.random.default_rng(5), 2 ** (circle.bits - 1)
    out = {name: rng.integers(-half, half, SIZE) for name in circle.clients}
    for vector in out.values():
        vector[:2] = -half, half - 1
    return out


@dataclass
class Sum:
    """One sum, step by step, as the arbiter drives it."""

    circle: Circle
    rounds: dict[str, RoundMask]
    offers: dict[str, Offer]

    @classmethod
    def start(
        cls, circle: Circle, name: str = "s", members: dict[str, Member] | None = None
    ) -> Sum:
        members = members or introduced(circle)
        rounds = {client: member.begin(name) for client, member in members.items()}
        return cls(circle, rounds, {client: r.offer() for client, r in rounds.items()})

    def flags(self, names: Iterable[str]) -> NDArray[np.bool_]:
        return np.isin(self.circle.clients, list(names))

    def relay(self, to: str) -> tuple[NDArray[np.bool_], Bytes, Bytes]:
        """Who is present, their keys, and their boxes for `to`."""
        place = self.circle.clients.index(to)
        publics = np.zeros((len(self.circle.clients), _masks.KEY_BYTES), dtype=np.uint8)
        boxes = np.zeros((len(self.circle.clients), _masks.BOX_BYTES), dtype=np.uint8)
        for i, name in enumerate(self.circle.clients):
            if name in self.offers:
                publics[i] = np.frombuffer(self.offers[name].public, dtype=np.uint8)
                boxes[i] = self.offers[name].boxes[place]
        return self.flags(self.offers), publics, boxes

    def masked(self, names: Iterable[str]) -> dict[str, Ring]:
        values = vectors(self.circle)
        return {name: self.rounds[name].mask(values[name], *self.relay(name)) for name in names}

    def answers(self, names: Iterable[str], left: Iterable[str]) -> dict[str, Bytes]:
        flags = self.flags(left)
        return {name: self.rounds[name].answer(flags) for name in names}


@pytest.mark.parametrize("bits", [8, 24, 29, 32])
@pytest.mark.parametrize("clients", [2, 3, 5])
def test_masks_cancel_exactly(clients: int, bits: int) -> None:
    circle = circle_of(clients, threshold=2 if clients < 5 else 3, bits=bits)
    s = Sum.start(circle)
    masked = s.masked(circle.clients)
    answers = s.answers(circle.clients, left=circle.clients)
    total = unmask(circle, "s", s.offers, masked, answers)
    assert total.dtype == np.int64
    assert np.array_equal(total, sum(vectors(circle).values()))
    assert circle.ring is (np.uint32 if clients << (bits - 1) < 2**31 else np.uint64)


@pytest.mark.parametrize(
    ("silent", "vanished", "mute"),
    [
        (set(), {"h1"}, set()),  # gone before its masked vector
        (set(), {"h0", "h3"}, set()),
        ({"h2"}, set(), set()),  # gone before its offer
        (set(), set(), {"h3"}),  # gone after its masked vector, before its shares
        ({"h0"}, {"h2"}, set()),
        (set(), {"h2"}, {"h0"}),
    ],
)
def test_the_sum_is_that_of_who_sent_a_vector(
    silent: set[str], vanished: set[str], mute: set[str]
) -> None:
    circle = circle_of()
    s = Sum.start(circle)
    for name in silent:
        del s.offers[name]
    left = [name for name in s.offers if name not in vanished]
    masked = s.masked(left)
    answers = s.answers([name for name in left if name not in mute], left)
    values = vectors(circle)
    total = unmask(circle, "s", s.offers, masked, answers)
    assert np.array_equal(total, sum(values[name] for name in left))


def test_too_few_answers_give_no_sum() -> None:
    circle = circle_of()
    s = Sum.start(circle)
    masked = s.masked(circle.clients)
    answers = s.answers(["guest", "h0"], circle.clients)
    with pytest.raises(ProtocolError, match="2 clients gave shares of the sum 's', 3 needed"):
        unmask(circle, "s", s.offers, masked, answers)


def chi_square(data: bytes) -> float:
    """Of the bytes against the uniform distribution, as standard deviations from its mean."""
    counts = np.bincount(np.frombuffer(data, dtype=np.uint8), minlength=256)
    statistic = float(np.sum((counts - counts.mean()) ** 2) / counts.mean())
    return (statistic - 255) / math.sqrt(2 * 255)


@pytest.mark.usefixtures("seeded")
def test_one_clients_vector_stays_uniform_to_the_arbiter() -> None:
    """Also when it has taken off every mask that it is given: partners' masks stay."""
    circle = circle_of(bits=8)
    members = introduced(circle)
    count = 1 << 16
    plain = np.full(count, 3, dtype=np.int64)
    s = Sum.start(circle, members=members)
    masked = {name: s.rounds[name].mask(plain, *s.relay(name)) for name in circle.clients[:-1]}
    vector = masked["h0"]
    answers = s.answers(masked, left=masked)
    assert np.array_equal(
        unmask(circle, "s", s.offers, masked, answers), np.full(count, 3 * len(masked))
    )
    own = join({i + 1: answers[name][1].tobytes() for i, name in enumerate(NAMES[:3])})
    partner = join({i + 1: answers[name][4].tobytes() for i, name in enumerate(NAMES[:3])})
    key = X25519PrivateKey.from_private_bytes(partner)
    pair = _masks._pair_seed(key, s.offers["h0"].public, "h0", "s")
    known = vector - _masks._keystream(own, count, circle.ring)
    known -= _masks._keystream(pair, count, circle.ring)
    for view in (vector, known):
        assert np.count_nonzero(circle.centred(view) == plain) == 0
        assert abs(chi_square(view.tobytes())) < 4
    assert chi_square(plain.astype(circle.ring).tobytes()) > 1e6  # the statistic bites


@pytest.mark.usefixtures("seeded")
def test_masks_differ_from_round_to_round_and_client_to_client() -> None:
    circle = circle_of(clients=3, threshold=2)
    members = introduced(circle)
    seen = set()
    for name in ("a", "b"):
        s = Sum.start(circle, name, members)
        for vector in s.masked(circle.clients).values():
            seen.add(vector.tobytes())
        seen.update(offer.public for offer in s.offers.values())
    assert len(seen) == 12


def test_a_client_answers_once_and_only_for_sums() -> None:
    circle = circle_of()
    everyone = circle.clients
    for left in (["guest", "h0"], ["h0", "h1", "h2"], [*everyone]):
        s = Sum.start(circle)
        del s.offers["h3"]
        s.masked(["guest"])
        with pytest.raises(ProtocolError, match="arbiter asked guest for shares"):
            s.rounds["guest"].answer(s.flags(left))
    s = Sum.start(circle)
    s.masked(["guest"])
    s.rounds["guest"].answer(s.flags(everyone))
    with pytest.raises(ProtocolError, match="repeated"):
        s.rounds["guest"].answer(s.flags(["guest", "h0", "h1"]))
    with pytest.raises(ProtocolError, match="repeated"):
        s.masked(["guest"])


def test_a_client_masks_only_among_enough() -> None:
    circle = circle_of()
    for missing in (["guest"], ["h0", "h1", "h2"]):
        s = Sum.start(circle)
        for name in missing:
            del s.offers[name]
        with pytest.raises(ProtocolError, match="without guest or with fewer than 3"):
            s.masked(["guest"])


def test_relayed_offers_are_those_of_the_clients() -> None:
    circle = circle_of()
    members = introduced(circle)
    old = Sum.start(circle, "old", members)
    stranger = Sum.start(circle, "s")
    for forge in ("exchanged", "replayed", "another key", "a stranger's"):
        s = Sum.start(circle, "s", members)
        if forge == "exchanged":
            s.offers["h0"], s.offers["h1"] = s.offers["h1"], s.offers["h0"]
        elif forge == "replayed":
            s.offers["h0"] = old.offers["h0"]
        elif forge == "another key":
            s.offers["h0"] = replace(s.offers["h0"], public=old.offers["h0"].public)
        else:
            s.offers["h0"] = stranger.offers["h0"]
        with pytest.raises(ProtocolError, match="arbiter relayed as h0's offer is not h0's"):
            s.masked(["guest"])


@pytest.mark.parametrize("victim", ["h1", "h2"])  # one that is left, one that is not
def test_wrong_shares_are_noticed(victim: str) -> None:
    circle = circle_of()
    left = ["guest", "h0", "h1"]
    place = NAMES.index(victim)
    for wrong in (b"\x01" * SHARE_BYTES, PRIME.to_bytes(SHARE_BYTES, "little")):
        s = Sum.start(circle)
        masked = s.masked(left)
        answers = s.answers(left, left)
        answers["h0"][place] = np.frombuffer(wrong, dtype=np.uint8)
        with pytest.raises(ProtocolError, match=f"shares of {victim}'s secrets do not fit"):
            unmask(circle, "s", s.offers, masked, answers)


def test_keys_of_small_order_are_refused() -> None:
    circle = circle_of()
    with pytest.raises(ProtocolError, match="h0 sent a key that agrees on nothing"):
        Member(circle, "guest").meet("h0", bytes(32))


def test_any_threshold_of_shares_gives_the_seed() -> None:
    assert gmpy2.is_prime(PRIME)
    for seed in (bytes(32), b"\xff" * 32, secrets.token_bytes(32)):
        shares = split(seed, holders=5, threshold=3)
        for chosen in itertools.combinations(range(5), 3):
            assert join({i + 1: shares[i] for i in chosen}) == seed
        assert join(dict(enumerate(shares, 1))) == seed


@pytest.mark.parametrize("claimed", [bytes(32), b"\x5a" * 32])
def test_fewer_shares_fit_every_seed(claimed: bytes) -> None:
    """For any two shares of three and any seed there is a third share that gives that seed."""
    shares = split(secrets.token_bytes(32), holders=3, threshold=3)
    a, b = (int.from_bytes(share, "little") for share in shares[:2])
    third = (int.from_bytes(claimed, "little") - 3 * a + 3 * b) % PRIME
    found = join({1: shares[0], 2: shares[1], 3: third.to_bytes(SHARE_BYTES, "little")})
    assert found == claimed


@pytest.mark.parametrize(
    "share", [b"", bytes(32), bytes(34), PRIME.to_bytes(33, "little"), b"\xff" * 33]
)
def test_shares_out_of_range_are_refused(share: bytes) -> None:
    good = split(bytes(32), holders=2, threshold=2)
    with pytest.raises(ValueError, match="out of range"):
        join({1: good[0], 2: share})
