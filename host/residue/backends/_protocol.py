"""The narrow waist: batched arithmetic on residue arrays, as every machine offers it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Backend",
    "Limbs",
    "Modulus",
    "OperationStats",
    "ResidueArray",
    "SupportsMultiPowRows",
    "SupportsMultiPowVar",
    "SupportsPowModuli",
    "SupportsPowVar",
    "SupportsSelfTest",
    "SupportsSquares",
]

Limbs = NDArray[np.uint64]
"""``(n, limbs) uint64``: n unsigned integers, little-endian 64-bit limbs, C-contiguous."""


@dataclass(frozen=True)
class Modulus:
    """An odd modulus known to a backend. Equal values are equal moduli on any backend."""

    value: int = field(repr=False)  # the primes of a private key pass through here

    @property
    def bits(self) -> int:
        """Bit length of the modulus."""
        return self.value.bit_length()

    @property
    def limbs(self) -> int:
        """64-bit limbs of a residue in host form: ceil(bits / 64)."""
        return (self.bits + 63) // 64


@dataclass
class OperationStats:
    """What one kind of operation has cost so far on one backend.

    Attributes:
        calls: how often it was called.
        elements: results produced.
        products: modular products the device counted (0 where it does not count).
        device_cycles: cycles the device counted (0 where it does not count).
        busy_slots: ring slots that held a product (0 where not counted).
        host_seconds: wall time on the host, waiting included.
        ring_slots: ring slots there were: cycles times rings; `busy_slots` of them were used.
        stalls: of the unused ones, those that waited for an operand.
        read_bytes: bytes the device read from its memory.
        write_bytes: bytes the device wrote to its memory.
        host_products: products the host made, where a device should make them: checks.
    """

    calls: int = 0
    elements: int = 0
    products: int = 0
    device_cycles: int = 0
    busy_slots: int = 0
    host_seconds: float = 0.0
    ring_slots: int = 0
    stalls: int = 0
    read_bytes: int = 0
    write_bytes: int = 0
    host_products: int = 0

    def add(self, other: OperationStats) -> None:
        """Add what the same operation has cost elsewhere."""
        mine = vars(self)
        for name, cost in vars(other).items():
            mine[name] += cost


@runtime_checkable
class ResidueArray(Protocol):
    """``n`` residues modulo one modulus, in a backend's own memory. Immutable.

    It may still be in the making: operations are queued; `wait` or `Backend.download` completes it.
    """

    @property
    def modulus(self) -> Modulus:
        """The modulus of all elements."""

    def __len__(self) -> int: ...

    def wait(self) -> None:
        """Return when the array is computed; raise the error of the operation that failed."""


@runtime_checkable
class Backend(Protocol):
    """A machine that multiplies residues. All operations are batch-first.

    Every method returns a new array on the same backend; arguments stay valid. Arrays of length
    one broadcast in `mul`. Results are congruent to the mathematical result; `download` gives
    canonical residues in ``[0, modulus)``, identical on every backend.
    """

    @property
    def name(self) -> str:
        """Short name: cpu, card, cards, gpu, auto."""

    def describe(self) -> dict[str, str | int | float | bool]:
        """Facts about the device: what it is, its size, its state."""

    def register(self, modulus: int) -> Modulus:
        """Make a modulus known. Raises `BackendError` if even, < 2**64 or too large here."""

    def upload(self, modulus: Modulus, values: Limbs) -> ResidueArray:
        """Copy ``(n, modulus.limbs) uint64`` canonical residues to the device.

        Raises `BackendError` on a wrong shape or dtype, or a value not below the modulus.
        """

    def download(self, a: ResidueArray) -> Limbs:
        """Canonical residues ``(n, modulus.limbs) uint64``; waits for the array."""

    def take(self, a: ResidueArray, index: NDArray[np.int64]) -> ResidueArray:
        """Gather: element j of the result is ``a[index[j]]``; indices in ``[0, len(a))``."""

    def concat(self, parts: list[ResidueArray]) -> ResidueArray:
        """Join arrays of one modulus."""

    def mul(self, a: ResidueArray, b: ResidueArray) -> ResidueArray:
        """Element-wise product; equal lengths, or one of them of length one."""

    def pow(self, a: ResidueArray, exponents: Limbs, bits: int) -> ResidueArray:
        """``a[i] ** exponents[i]``; exponents ``(n, e) uint64`` below ``2**bits``, or ``(1, e)``.

        `bits` is public. Constant time in the exponent.
        """

    def pow_fixed(self, base: ResidueArray, exponents: Limbs, bits: int) -> ResidueArray:
        """``base[0] ** exponents[i]`` from a comb table that is built once and cached.

        exponents ``(n, e) uint64`` below ``2**bits``; bits public. Number of products depends on
        bits alone.
        """

    def prod(
        self, a: ResidueArray, index: NDArray[np.int64], offsets: NDArray[np.int64]
    ) -> ResidueArray:
        """Gathered segmented product: ``out[s] = prod(a[index[offsets[s]:offsets[s+1]]])``.

        offsets ``(s + 1,)``, non-decreasing, from 0 to ``len(index)``; an empty segment gives 1.
        """

    def multi_pow(self, a: ResidueArray, exponents: NDArray[np.int64], bits: int) -> ResidueArray:
        """Simultaneous powers: ``out[j] = prod_i a[i] ** exponents[i, j]``.

        exponents ``(len(a), m) int64``, signed, ``|e| < 2**bits``, bits <= 62 public.
        Raises `BackendError` if an inverse that is needed does not exist.
        """

    def inverse(self, a: ResidueArray) -> ResidueArray:
        """Element-wise inverses (Montgomery's trick). `BackendError` if one does not exist."""

    def synchronize(self) -> None:
        """Return when everything queued is done."""

    def stats(self) -> dict[str, OperationStats]:
        """Operation name -> what it has cost since the last `reset_stats`."""

    def reset_stats(self) -> None:
        """Start counting anew."""

    def clear_secrets(self) -> None:
        """Erase operands, exponents and tables from device memory where the device can."""

    def close(self) -> None:
        """Release the device. Arrays become unusable."""


@runtime_checkable
class SupportsPowVar(Protocol):
    """What a backend may offer besides: a faster `pow` for exponents that need no hiding."""

    def pow_var(self, a: ResidueArray, exponents: Limbs, bits: int) -> ResidueArray:
        """As `Backend.pow`, but its time may depend on the exponents."""


@runtime_checkable
class SupportsMultiPowVar(Protocol):
    """A faster `multi_pow` for exponents that need no hiding: neither secret nor private."""

    def multi_pow_var(
        self, a: ResidueArray, exponents: NDArray[np.int64], bits: int
    ) -> ResidueArray:
        """As `Backend.multi_pow`, but its time and addresses may depend on the exponents."""


@runtime_checkable
class SupportsMultiPowRows(Protocol):
    """`multi_pow` of many rows of bases at a time, as a product of matrices has them."""

    def multi_pow_rows(
        self, a: ResidueArray, index: NDArray[np.int64], exponents: NDArray[np.int64], bits: int
    ) -> ResidueArray:
        """``out[i * m + j] = prod_k a[index[i, k]] ** exponents[k, j]``.

        Args:
            a: the bases.
            index: ``(r, n)``, r at least 1, indices in ``[0, len(a))``.
            exponents: ``(n, m)``, as `Backend.multi_pow` takes them, the same for all rows.
            bits: public bound of the exponents.

        As constant in time as `Backend.multi_pow`.
        """


@runtime_checkable
class SupportsPowModuli(Protocol):
    """Powers that have a modulus each, as RSA has them: the border's form in and out."""

    def pow_moduli(
        self, moduli: Sequence[Modulus], bases: Limbs, exponents: Limbs, bits: int
    ) -> Limbs:
        """``bases[i] ** exponents[i]`` modulo ``moduli[i]``, canonical, ``(n, limbs) uint64``.

        Args:
            moduli: n odd moduli of at most `limbs` limbs; they need not be registered.
            bases: ``(n, limbs) uint64``, each below its modulus.
            exponents: ``(n, e) uint64`` below ``2**bits``, or ``(1, e)``.
            bits: public bound of the exponents.

        Constant time in bases and exponents where `Backend.pow` is.
        Raises `BackendError` on a wrong shape, or a modulus that is even, < 2**64 or too large.
        """


@runtime_checkable
class SupportsSquares(Protocol):
    """Entry into residues modulo a square n n, and back, as Paillier needs it: n is its root.

    Residues 1 + m n are the powers of 1 + n, so that m is a logarithm.
    """

    def binomials(self, modulus: Modulus, m: NDArray[np.int64]) -> ResidueArray:
        """``1 + m[i] n = (1 + n)**m[i]`` for ``(k,) int64``; constant time in m."""

    def reduce(self, moduli: Sequence[Modulus], values: Limbs) -> list[ResidueArray]:
        """Residues of ``(k, any) uint64`` integers modulo each of `moduli`.

        Raises `CorruptResult` if a check of them fails.
        """

    def logarithms(self, a: ResidueArray) -> Limbs:
        """``m`` in [0, n), ``(len(a), limbs of n) uint64``, for ``a[i] = 1 + m[i] n``.

        Constant time where `Backend.download` is. Raises `CorruptResult` if an element is not 1
        modulo n.
        """


@runtime_checkable
class SupportsSelfTest(Protocol):
    """What a device can do before it is used."""

    def self_test(self) -> None:
        """Raise `DeviceError` if the device fails, or computes something wrong."""
