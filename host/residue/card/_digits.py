"""Residues, exponents and modulus blocks in the card's own form. All conversions are vectorised.

The host keeps residues as 64-bit limbs, the card as k digits of W bits, each in a 64-bit word.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from residue.backends._protocol import Limbs
from residue.card import _abi as abi
from residue.card._abi import ModulusVector, ModulusWord
from residue.card._port import Bytes

__all__ = ["Layout", "digits_from_limbs", "exponent_strings", "limbs_from_digits", "pack_digits"]

Words = NDArray[np.uint64]


def digits_from_limbs(limbs: Limbs, digits: int, word_bits: int) -> Words:
    """Split ``(n, limbs) uint64`` integers into ``(n, digits) uint64`` of `word_bits` bits each.

    Bits past ``digits * word_bits`` are dropped.
    """
    count, width = limbs.shape
    offsets = np.arange(digits) * word_bits
    first = offsets // 64
    padded = np.zeros((count, max(width, int(first[-1])) + 2), np.uint64)
    padded[:, :width] = limbs
    shift = (offsets % 64).astype(np.uint64)
    low = padded.take(first, axis=1) >> shift
    high = (padded.take(first + 1, axis=1) << (np.uint64(63) - shift)) << np.uint64(1)
    return (low | high) & np.uint64((1 << word_bits) - 1)


def limbs_from_digits(digits: Words, limbs: int, word_bits: int) -> Limbs:
    """Join ``(n, k) uint64`` digits of `word_bits` bits into ``(n, limbs) uint64`` integers.

    Digits are below ``2**word_bits`` and the integers fit; the inverse of `digits_from_limbs`.
    """
    count, k = digits.shape
    # Limb j starts inside digit 64 j // W and ends at most 2 + 64 // W digits further.
    starts = np.arange(limbs) * 64
    first = starts // word_bits
    result = np.zeros((count, limbs), np.uint64)
    for step in range(2 + 64 // word_bits):
        index = first + step
        shift = index * word_bits - starts
        used = (index < k) & (shift < 64)
        part = digits.take(np.where(used, index, 0), axis=1)
        right = np.maximum(-shift, 0).astype(np.uint64)
        left = np.clip(shift, 0, 63).astype(np.uint64)
        result |= np.where(used, (part >> right) << left, np.uint64(0))
    return result


def exponent_strings(exponents: Limbs, bits: int) -> Bytes:
    """Exponents ``(n, e) uint64`` below ``2**bits`` as ``(n, stride) uint8``, stride mod 16 = 0."""
    count, width = exponents.shape
    words = 2 * ((bits + 127) // 128)
    padded = np.zeros((count, words), np.uint64)
    padded[:, : min(width, words)] = exponents[:, :words]
    return padded.view(np.uint8)


def pack_digits(digits: NDArray[np.uint8], window: int) -> Bytes:
    """Pack ``(n, rows) uint8`` digits below ``2**window`` into ``(n, stride) uint8`` strings.

    Digit i takes bits ``[i * window, (i + 1) * window)``; window is 1, 2, 4 or 8; the stride is a
    multiple of 16.
    """
    count, rows = digits.shape
    per_byte = 8 // window
    stride = -(-rows * window // 128) * 16
    padded = np.zeros((count, stride * per_byte), np.uint8)
    padded[:, :rows] = digits
    lanes = padded.reshape(count, stride, per_byte)
    packed = np.zeros((count, stride), np.uint8)
    for lane in range(per_byte):
        packed |= lanes[:, :, lane] << np.uint8(lane * window)
    return packed


@dataclass(frozen=True)
class Layout:
    """How residues modulo `value` lie in a card's memory, and how its rings walk through them.

    Attributes:
        value: N, the modulus.
        word_bits: W, bits of a digit.
        elements: P, processing elements a ring.
        digits_per_word: g; a ring takes words of ``V = g * W`` bits, g digits each.
    """

    value: int
    word_bits: int
    elements: int
    digits_per_word: int = 1

    @property
    def ring_bits(self) -> int:
        """V: bits of a ring word."""
        return self.digits_per_word * self.word_bits

    @cached_property
    def digits(self) -> int:
        """k: digits of a residue, even."""
        words = -(-(self.value.bit_length() + self.ring_bits + 2) // self.ring_bits)
        k = words * self.digits_per_word
        return k + k % 2

    @property
    def ring_words(self) -> int:
        """Ring words of a residue: k / g."""
        return self.digits // self.digits_per_word

    @cached_property
    def passes(self) -> int:
        """Passes of a product through a ring."""
        return -(-self.ring_words // self.elements)

    @property
    def slots(self) -> int:
        """Ring cycles that one pass of one product occupies."""
        return max(self.ring_words, self.elements) + 1

    @property
    def residue_bytes(self) -> int:
        """Bytes of one residue in card memory."""
        return 8 * self.digits

    @property
    def block_bytes(self) -> int:
        """Bytes of the modulus block."""
        return 8 * abi.MODULUS_HEADER_WORDS + len(ModulusVector) * self.residue_bytes

    @property
    def one_offset(self) -> int:
        """Where ONE, the residue 1 in Montgomery form, lies in the modulus block."""
        return 8 * abi.MODULUS_HEADER_WORDS + ModulusVector.ONE * self.residue_bytes

    def block(self) -> Bytes:
        """The modulus block, ``(32 + 40 k,) uint8``."""
        word = 1 << self.ring_bits
        n0inv = pow(-self.value, -1, word)
        tilde = self.value * n0inv
        r = pow(2, self.ring_bits * self.passes * self.elements, tilde)
        header = np.zeros(abi.MODULUS_HEADER_WORDS, "<u8")
        header[ModulusWord.K] = self.digits
        header[ModulusWord.N0INV] = n0inv & ((1 << self.word_bits) - 1)
        header[ModulusWord.N0INV_UPPER] = n0inv >> self.word_bits
        vector = {
            ModulusVector.M: (tilde + 1) // word,
            ModulusVector.N: self.value,
            ModulusVector.R2: r * r % tilde,
            ModulusVector.ONE: r,
            ModulusVector.RADIX: word,
        }
        width = -(-self.digits * self.word_bits // 64)
        raw = b"".join(v.to_bytes(8 * width, "little") for _, v in sorted(vector.items()))
        limbs = np.frombuffer(raw, "<u8").reshape(len(vector), width)
        digits = digits_from_limbs(limbs, self.digits, self.word_bits)
        block: Bytes = np.concatenate([header, digits.ravel()]).view(np.uint8)
        return block
