"""Identifiers as residues, and as what is compared in the end."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from residue_federated._scratch import Scratch
from residue_federated.psi._elements import Limbs, from_integers

__all__ = [
    "Fingerprints",
    "common",
    "encode",
    "fingerprints",
    "new_domain",
    "residues",
    "residues_of",
]

Fingerprints = NDArray[np.uint64]
"""``(n, 2) uint64``: 128 bits each."""

_MARGIN = 128  # bits by which a hash is longer than the modulus: its bias is below 2**-128


def new_domain(*parts: str) -> bytes:
    """32 bytes that keep the hashes of one alignment apart from those of any other."""
    digest = hashlib.sha256(b"residue psi 1")
    for part in parts:
        text = _bytes(part)
        digest.update(len(text).to_bytes(8, "little") + text)
    return digest.digest()


def encode(ids: Sequence[str], pad_to: int | None = None) -> list[bytes]:
    """Identifiers as bytes, and dummies after them up to `pad_to`.

    Identifiers are equal if their code points are: they are not normalised. A dummy is 256 random
    bits behind another first byte, so it equals nothing that anybody has.
    """
    real = [b"\x00" + _bytes(name) for name in ids]
    dummies = max(0, (pad_to or 0) - len(real))
    return real + [b"\x01" + secrets.token_bytes(32) for _ in range(dummies)]


def residues(entries: Sequence[bytes], modulus: int, domain: bytes) -> Limbs:
    """A full-domain hash: ``(n, limbs) uint64``, uniform below `modulus`, whose bits fill limbs.

    SHAKE-256, 128 bits longer than the modulus, reduced: within 2**-128 of uniform.
    """
    bits = modulus.bit_length()
    length = (bits + _MARGIN) // 8
    hashes = (hashlib.shake_256(domain + entry).digest(length) for entry in entries)
    return from_integers((int.from_bytes(h, "little") % modulus for h in hashes), bits // 64)


def residues_of(
    entries: Sequence[bytes],
    parts: Iterable[slice],
    modulus: int,
    domain: bytes,
    scratch: Scratch,
) -> Iterator[Limbs]:
    """`residues` of one part of the entries after the other, by the workers of `scratch`, ahead."""
    tasks = ((entries[part], modulus, domain) for part in parts)
    return scratch.spread(residues, tasks, len(entries) * modulus.bit_length() // 64)


def fingerprints(
    entries: Sequence[bytes], elements: Limbs, public: Limbs, domain: bytes
) -> Fingerprints:
    """What is compared: SHA-256 over public key, element and identifier, cut to 128 bits.

    The public key is in it because the Diffie-Hellman function with multiplicative blinding needs
    that (Jarecki, Krawczyk, Xu, "On the (In)Security of the Diffie-Hellman Oblivious PRF with
    Multiplicative Blinding", PKC 2021). Two different identifiers of sets of a and b have the same
    fingerprint with a probability below ``a * b * 2**-128``: 3e-29 for 100,000 each.
    """
    prefix = hashlib.sha256(domain + public.astype("<u8").tobytes()).digest()
    raw, width = elements.astype("<u8").tobytes(), 8 * elements.shape[1]
    hashed = (
        hashlib.sha256(prefix + raw[i * width : (i + 1) * width] + entry).digest()[:16]
        for i, entry in enumerate(entries)
    )
    return np.frombuffer(b"".join(hashed), "<u8").reshape(-1, 2)


def common(ours: Fingerprints, theirs: Fingerprints) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of the fingerprints that both have: ``ours[i[k]] == theirs[j[k]]``, i ascending.

    Raises ValueError if `theirs` repeats one; `ours` must not.
    """
    joined = np.concatenate([ours, theirs])
    order = np.lexsort((np.arange(len(joined)), joined[:, 1], joined[:, 0]))
    same = np.flatnonzero((joined[order[1:]] == joined[order[:-1]]).all(axis=1))
    first, second = order[same], order[same + 1]
    if (first >= len(ours)).any():
        raise ValueError("a fingerprint is repeated")
    rows = np.argsort(first)
    return first[rows], second[rows] - len(ours)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
