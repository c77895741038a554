"""Products of one party's secret numbers with the other's, which leave a share to each.

A party sends numbers under its own key; the other multiplies what it knows into them, adds secret
masks and sends them back. The mask is one party's share, less its sign, what the first decrypts is
the other's. Answers carry several numbers side by side in a ciphertext.

A mask is at least ``2**MASK_BITS`` times as large as what it hides, so what is decrypted is within
``2**(1 - MASK_BITS)`` of a distribution that does not depend on it. Masks come from a secret of the
party by SHAKE-256, each from the name of the message that it goes into: a party that resumes draws
the same for the same numbers, and goes on with the same shares as if it had never stopped.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

import residue
from residue.errors import EncodingOverflow
from residue.paillier import BOUND_STEP, side_by_side, slot_order
from residue_federated._context import Context, Spec
from residue_federated.errors import AuditViolation, JobError
from residue_federated.shared._ring import WORD_BITS, Integers, Ring, integers

__all__ = ["MASK_BITS", "Exchange", "Keys", "Slots"]

MASK_BITS = 64
SECRET_BYTES = 32
_LABEL = b"residue shared masks 1 "
_FREE_BITS = 4
"""Of the key: its plaintexts are signed, to a third of n, and an answer may double its bound."""


@dataclass(frozen=True)
class Slots:
    """How `count` numbers below ``2**bits`` in magnitude are answered.

    A slot holds the number, ``2**bits`` that makes it positive, and a mask below ``2**mask``: all
    together below ``2**width``.
    """

    count: int
    bits: int
    used: int
    groups: int

    @classmethod
    def plan(cls, count: int, bits: int, key_bits: int, most: int | None = None) -> Slots:
        """As many slots as a key has room for, or `most`. Raises `JobError` if it has for none."""
        one = cls(count, bits, 1, count)
        room = (key_bits - _FREE_BITS) // one.width
        if room < 1:
            raise JobError(
                f"numbers of {one.width} bits do not fit a {key_bits}-bit key: use a longer key or "
                "fewer bits in precision"
            )
        groups = -(-count // min(room, most or room))
        return cls(count, bits, -(-count // groups), groups)

    @property
    def mask(self) -> int:
        """Bits of a mask, whole bytes."""
        return -(-(self.bits + MASK_BITS) // 8) * 8

    @property
    def width(self) -> int:
        """Bits of a slot."""
        return self.mask + 1

    @property
    def order(self) -> NDArray[np.int64]:
        """``(used, groups)``: which number is where, as in `packed`."""
        return slot_order(self.count, self.used)

    @property
    def places(self) -> Integers:
        """``(used,)``: what a slot's number is multiplied with."""
        return integers([1 << t * self.width for t in range(self.used)])

    def packed(self, c: residue.CiphertextArray) -> residue.CiphertextArray:
        """``(count,)`` numbers in ``(groups,)`` ciphertexts."""
        return side_by_side(c, self.width, self.used)

    def unpacked(self, plaintexts: Integers) -> Integers:
        """``(..., count)`` masked numbers of ``(..., groups)`` non-negative plaintexts."""
        digits = plaintexts[..., None, :] // self.places[:, None] & ((1 << self.width) - 1)
        return self.listed(digits - (1 << self.bits))

    def listed(self, digits: Integers) -> Integers:
        """``(..., count)`` numbers of the ``(..., used, groups)`` of all slots."""
        return digits.reshape(*digits.shape[:-2], -1)[..., : self.count]


@dataclass
class Keys:
    """A party's key pair, the other's public key, and the secret that its masks are made from."""

    public: residue.PublicKey
    private: residue.PrivateKey
    peers: residue.PublicKey
    secret: bytes = field(default_factory=lambda: secrets.token_bytes(SECRET_BYTES), repr=False)

    @classmethod
    def agree(cls, context: Context) -> Keys:
        """New ones, the public halves exchanged."""
        (peer,) = context.others
        public, private = context.make_key([peer])
        return cls(public, private, context.line.receive_key(peer, context.job.key.bits))


class Exchange:
    """One party's side of one training."""

    def __init__(self, context: Context, keys: Keys) -> None:
        (self.peer,) = context.others
        self.lead = context.role == "guest"
        self.line = context.line
        self.key_bits = context.job.key.bits
        self.keys = keys

    def offer(self, tag: str, numbers: Integers) -> None:
        """Send numbers under this party's key."""
        self.line.send(self.peer, tag, self.keys.public.encrypt(numbers))

    def take(
        self, tag: str, shape: tuple[int, ...], bits: int, ahead: int = 0
    ) -> residue.CiphertextArray:
        """What the peer offered: numbers below ``2**bits`` in magnitude.

        ahead: ciphertexts for which randomness is made ready while waiting.

        Raises `AuditViolation` if they claim to be larger.
        """
        idle = self.line.precompute(self.keys.public, ahead)
        (c,) = self.line.receive(self.peer, tag, self.keys.peers, shape, idle=idle)
        if c.exponent or c.bound.bit_length() > -(-bits // BOUND_STEP) * BOUND_STEP:
            raise self._violation(f"'{tag}' with shares out of range: beyond {bits} bits")
        return c

    def answer(
        self, tag: str, c: residue.CiphertextArray, slots: Slots, multiples: int = 1
    ) -> Integers:
        """Send ``(..., groups)`` packed products back, masked.

        Returns this party's ``(..., count)`` shares.

        multiples: masks are multiples of that, and hide all but what numbers are modulo it.
        """
        masks = self.drawn(tag, c.size * slots.used, slots.mask // 8)
        masks = masks - masks % multiples + (1 << slots.bits)
        masks = masks.reshape(*c.shape[:-1], slots.used, slots.groups)
        self.line.send(self.peer, tag, c + slots.places @ masks)
        return slots.listed((1 << slots.bits) - masks)

    def collect(
        self, tag: str, slots: Slots, ahead: int = 0, stack: tuple[int, ...] = ()
    ) -> Integers:
        """The other side of `answer`: this party's ``(*stack, count)`` shares.

        Raises `AuditViolation` if they are larger than numbers and masks are.
        """
        idle = self.line.precompute(self.keys.public, ahead)
        shape = (*stack, slots.groups)
        (c,) = self.line.receive(self.peer, tag, self.keys.public, shape, idle=idle)
        fault = f"'{tag}' with shares out of range: beyond {slots.used} x {slots.width} bits"
        try:
            plain = integers(self.keys.private.decrypt(c, dtype=object))
        except EncodingOverflow as error:
            raise self._violation(fault) from error
        if c.exponent or plain.min() < 0 or plain.max() >> (slots.used * slots.width):
            raise self._violation(fault)
        return slots.unpacked(plain)

    def crossed(
        self,
        tag: str,
        own: Integers,
        bits: int,
        slots: Slots,
        cross: Callable[[residue.CiphertextArray], residue.CiphertextArray],
        ahead: int = 0,
    ) -> Integers:
        """Shares ``(count,)`` of products of the host's numbers with the guest's.

        own: those of this party, of the same shape at both; the host's are below ``2**bits`` in
        magnitude. cross: what the guest makes of the host's, ``slots.count`` numbers below
        ``2**slots.bits``. ahead: as `take` and `collect` have it.
        """
        if self.lead:
            c = self.take(tag, own.shape, bits, ahead)
            return self.answer(tag, slots.packed(cross(c).ravel()), slots)
        self.offer(tag, own)
        return self.collect(tag, slots, ahead)

    def show(self, tag: str, ring: Ring, shares: Integers) -> None:
        """Open shares to the peer."""
        self.line.send_record(self.peer, tag, shares=ring.words(shares))

    def shown(self, tag: str, ring: Ring, shape: tuple[int, ...]) -> Integers:
        """The peer's shares, of that shape, of what is opened."""
        spec = Spec("u4", (*shape, ring.bits // WORD_BITS))
        return ring.of_words(self.line.receive_record(self.peer, tag, shares=spec)["shares"])

    def drawn(self, tag: str, count: int, width: int) -> Integers:
        """``(count,)`` secret integers of `width` bytes, the same for the same tag."""
        name = f"{self.line.path}/{tag}".encode()
        raw = hashlib.shake_256(_LABEL + self.keys.secret + name).digest(count * width)
        values = [int.from_bytes(raw[i : i + width], "little") for i in range(0, len(raw), width)]
        return integers(values)

    def _violation(self, fault: str) -> AuditViolation:
        return AuditViolation(f"{self.peer} sent {fault}", self.peer, "data")
