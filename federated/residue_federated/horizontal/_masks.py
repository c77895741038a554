"""Masks that cancel in a sum: the cryptography of one round of secure aggregation.

K. Bonawitz et al., "Practical secure aggregation for privacy-preserving machine learning", CCS
2017, section 4, with clients that know each other: each has an identity key, exchanged with the
others over their own mutual-TLS lines, so the arbiter can neither read nor forge what it relays.

In a round every client

1. offers a fresh X25519 key, the hash of a fresh seed, and for each other client a box with a share
   of that key and one of that seed;
2. adds to its vector, modulo 2**32 or 2**64, a mask from its own seed and one from the key agreed
   with each other client, added by one of the two and subtracted by the other;
3. told who is left, gives its share of each one's seed or, for who is not left, of its key, never
   both: with the seeds the arbiter takes off own masks, with the keys those of absent partners.

What is left over is the sum. A threshold of more than half of the clients keeps an arbiter that
tells them different stories from getting the shares of both.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

from residue_federated.errors import ProtocolError
from residue_federated.horizontal._shamir import SEED_BYTES, SHARE_BYTES, join, split

__all__ = ["BOX_BYTES", "KEY_BYTES", "Circle", "Member", "Offer", "RoundMask", "unmask"]

KEY_BYTES = 32
BOX_BYTES = 2 * SHARE_BYTES + 16
_NONCE = bytes(12)
"""Of keys that serve once."""
_LABEL = b"residue horizontal masks 1 "

Bytes = NDArray[np.uint8]
Ring = NDArray[np.unsignedinteger[Any]]


@dataclass(frozen=True)
class Circle:
    """What all parties of a masked sum agree on.

    clients: in the job's order; a client's place is its index. threshold: how many open a mask,
    more than half of them. bits: size of the summands, sign included.
    """

    clients: tuple[str, ...]
    arbiter: str
    threshold: int
    bits: int

    @property
    def ring(self) -> type[np.uint32] | type[np.uint64]:
        """Integers modulo 2**32 where every sum fits, else modulo 2**64."""
        return np.uint32 if self.largest_sum < 2**31 else np.uint64

    @property
    def largest_sum(self) -> int:
        """No sum exceeds it in magnitude."""
        return len(self.clients) << (self.bits - 1)

    def centred(self, sums: Ring) -> NDArray[np.int64]:
        """Ring elements as signed integers."""
        return sums.view(np.int32 if self.ring is np.uint32 else np.int64).astype(np.int64)


@dataclass(frozen=True)
class Offer:
    """What a client shows at the start of a round.

    public: its fresh key. commitment: SHA-256 of its seed. boxes: ``(clients, BOX_BYTES)``, for
    each other client its two shares, encrypted.
    """

    public: bytes
    commitment: bytes
    boxes: Bytes


class Member:
    """A client of a circle, for the length of a job."""

    def __init__(self, circle: Circle, name: str) -> None:
        self.circle = circle
        self.name = name
        self.place = circle.clients.index(name)
        self._identity = _fresh_key()
        self._agreed: dict[str, bytes] = {}

    @property
    def identity(self) -> bytes:
        """The public half of its identity key."""
        return _public_bytes(self._identity)

    def meet(self, other: str, identity: bytes) -> None:
        """Take another client's identity, from itself. Raises `ProtocolError`."""
        self._agreed[other] = _agree(self._identity, identity, other)

    def begin(self, round_: str) -> RoundMask:
        """Fresh secrets for one sum; `round_` names it, differently from all others of the job."""
        return RoundMask(self, round_)

    def box(self, sender: str, receiver: str, round_: str, public: bytes) -> ChaCha20Poly1305:
        """What seals the one box that `sender` fills for `receiver` with an offer of `public`.

        That key is fresh, so this one is, and a box vouches for the key it was offered with.
        """
        agreed = self._agreed[receiver if sender == self.name else sender]
        purpose = f"box {round_} {sender} {receiver} {public.hex()}"
        return ChaCha20Poly1305(_derive(agreed, purpose))


class RoundMask:
    """A client's secrets of one sum. Each of its methods may be called once, in their order."""

    def __init__(self, member: Member, round_: str) -> None:
        self._member = member
        self._round = round_
        self._key = _fresh_key()
        self._seed = secrets.token_bytes(SEED_BYTES)
        self._steps = iter(("offer", "mask", "answer"))
        self._present: NDArray[np.bool_] = np.zeros(0, dtype=np.bool_)
        self._of_keys: Bytes = np.zeros(0, dtype=np.uint8)
        self._of_seeds: Bytes = np.zeros(0, dtype=np.uint8)

    def offer(self) -> Offer:
        """Fresh public key, commitment and boxes."""
        self._step("offer")
        circle, me = self._member.circle, self._member.place
        count = len(circle.clients)
        secret = self._key.private_bytes_raw()
        of_key = _rows(split(secret, count, circle.threshold))
        of_seed = _rows(split(self._seed, count, circle.threshold))
        public = _public_bytes(self._key)
        boxes = np.zeros((count, BOX_BYTES), dtype=np.uint8)
        for place, other in enumerate(circle.clients):
            if place != me:
                box = self._member.box(self._member.name, other, self._round, public)
                shares = of_key[place].tobytes() + of_seed[place].tobytes()
                boxes[place] = np.frombuffer(box.encrypt(_NONCE, shares, None), dtype=np.uint8)
        self._of_keys = np.zeros((count, SHARE_BYTES), dtype=np.uint8)
        self._of_seeds = np.zeros((count, SHARE_BYTES), dtype=np.uint8)
        self._of_keys[me], self._of_seeds[me] = of_key[me], of_seed[me]
        return Offer(public, hashlib.sha256(self._seed).digest(), boxes)

    def mask(
        self,
        values: NDArray[np.int64],
        present: NDArray[np.bool_],
        publics: Bytes,
        boxes: Bytes,
    ) -> Ring:
        """`values` with all masks on.

        Args:
            values: ``(n,)``, of the circle's bits.
            present: ``(clients,)``: whose offers the arbiter has.
            publics: ``(clients, KEY_BYTES)``: their keys.
            boxes: ``(clients, BOX_BYTES)``: what each of them put into this client's box.

        Raises:
            ProtocolError: too few are present, not this client, or a box was not filled by whom
                the arbiter says.
        """
        self._step("mask")
        circle, member = self._member.circle, self._member
        if not present[member.place] or np.count_nonzero(present) < circle.threshold:
            raise ProtocolError(
                f"{circle.arbiter} started a sum without {member.name} or with fewer than "
                f"{circle.threshold} clients"
            )
        self._present = present.copy()
        masked: Ring = values.astype(circle.ring)
        masked += _keystream(self._seed, len(values), circle.ring)
        for place in np.flatnonzero(present).tolist():
            if place == member.place:
                continue
            other, public = circle.clients[place], publics[place].tobytes()
            self._open(place, other, public, boxes[place].tobytes())
            agreed = _pair_seed(self._key, public, other, self._round)
            stream = _keystream(agreed, len(values), circle.ring)
            if member.place < place:
                masked += stream
            else:
                masked -= stream
        return masked

    def answer(self, left: NDArray[np.bool_]) -> Bytes:
        """Shares ``(clients, SHARE_BYTES)``: of the seed of who is left, of the key of who is not.

        Raises `ProtocolError` if the arbiter asks for what could unmask a single client.
        """
        self._step("answer")
        circle = self._member.circle
        fair = bool(left[self._member.place]) and not np.any(left & ~self._present)
        if not fair or np.count_nonzero(left) < circle.threshold:
            raise ProtocolError(
                f"{circle.arbiter} asked {self._member.name} for shares of clients that it must "
                "not unmask"
            )
        return np.where(left[:, None], self._of_seeds, self._of_keys)

    def _open(self, place: int, other: str, public: bytes, box: bytes) -> None:
        member = self._member
        key = member.box(other, member.name, self._round, public)
        try:
            shares = key.decrypt(_NONCE, box, None)
        except InvalidTag as error:
            raise ProtocolError(
                f"what {member.circle.arbiter} relayed as {other}'s offer is not {other}'s"
            ) from error
        rows = np.frombuffer(shares, dtype=np.uint8).reshape(2, SHARE_BYTES)
        self._of_keys[place], self._of_seeds[place] = rows

    def _step(self, name: str) -> None:
        if next(self._steps, None) != name:
            raise ProtocolError(f"a step of the sum '{self._round}' was repeated or left out")


def unmask(
    circle: Circle,
    round_: str,
    offers: Mapping[str, Offer],
    masked: Mapping[str, Ring],
    answers: Mapping[str, Bytes],
) -> NDArray[np.int64]:
    """The arbiter's part: the sum of the vectors of those who are left.

    Args:
        circle: of the sum.
        round_: its name.
        offers: by client.
        masked: vectors of equal length, of those of them who are left.
        answers: of those of the latter who gave their shares.

    Raises:
        ProtocolError: fewer answers than the threshold, or shares that do not open what was
            offered.
    """
    if len(answers) < circle.threshold:
        raise ProtocolError(
            f"{len(answers)} clients gave shares of the sum '{round_}', {circle.threshold} needed"
        )
    givers = sorted(answers, key=circle.clients.index)[: circle.threshold]
    places = {name: place for place, name in enumerate(circle.clients)}
    vectors = list(masked.values())
    total = np.sum(vectors, axis=0, dtype=circle.ring)
    for name, offer in offers.items():
        shares = {places[giver] + 1: answers[giver][places[name]].tobytes() for giver in givers}
        try:
            secret = join(shares)
        except ValueError as error:
            raise _wrong_shares(name, givers) from error
        if name in masked:
            if hashlib.sha256(secret).digest() != offer.commitment:
                raise _wrong_shares(name, givers)
            total -= _keystream(secret, len(total), circle.ring)
            continue
        key = X25519PrivateKey.from_private_bytes(secret)
        if _public_bytes(key) != offer.public:
            raise _wrong_shares(name, givers)
        for other in masked:
            seed = _pair_seed(key, offers[other].public, other, round_)
            stream = _keystream(seed, len(total), circle.ring)
            if places[other] < places[name]:
                total -= stream
            else:
                total += stream
    return circle.centred(total)


def _wrong_shares(name: str, givers: list[str]) -> ProtocolError:
    return ProtocolError(
        f"the shares of {name}'s secrets do not fit what {name} offered: one of "
        f"{', '.join(givers)} sent a wrong one"
    )


def _fresh_key() -> X25519PrivateKey:
    return X25519PrivateKey.from_private_bytes(secrets.token_bytes(KEY_BYTES))


def _public_bytes(key: X25519PrivateKey) -> bytes:
    return key.public_key().public_bytes_raw()


def _agree(key: X25519PrivateKey, public: bytes, owner: str) -> bytes:
    try:
        return key.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError as error:  # a point of small order
        raise ProtocolError(f"{owner} sent a key that agrees on nothing") from error


def _derive(agreed: bytes, purpose: str) -> bytes:
    return HKDF(SHA256(), SEED_BYTES, None, _LABEL + purpose.encode()).derive(agreed)


def _pair_seed(key: X25519PrivateKey, public: bytes, owner: str, round_: str) -> bytes:
    return _derive(_agree(key, public, owner), f"pair {round_}")


def _keystream(seed: bytes, count: int, ring: type[np.uint32] | type[np.uint64]) -> Ring:
    """`count` uniform ring elements by ChaCha20; a seed serves once, so the nonce is fixed."""
    stream = Cipher(algorithms.ChaCha20(seed, bytes(16)), mode=None).encryptor()
    kind = np.dtype(ring).newbyteorder("<")
    return np.frombuffer(stream.update(bytes(count * kind.itemsize)), dtype=kind)


def _rows(shares: list[bytes]) -> Bytes:
    return np.frombuffer(b"".join(shares), dtype=np.uint8).reshape(-1, SHARE_BYTES)
