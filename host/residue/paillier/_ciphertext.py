"""Numpy-shaped arrays of Paillier ciphertexts that stay in their backend's memory.

Homomorphic operations give ciphertexts that depend on their inputs alone: who knows the inputs
recognises the output. So an array remembers whether its randomness is fresh and unused, and
everything that leaves the process passes through `CiphertextArray.released`, which re-randomises
the rest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from gmpy2 import mpz
from numpy.typing import NDArray

from residue._limbs import to_limbs
from residue.backends._protocol import Backend, Limbs, ResidueArray, SupportsPowVar
from residue.backends._rows import multi_pow_rows
from residue.errors import BackendError, EncodingError, EncodingOverflow
from residue.paillier._encoding import (
    BASE_BITS,
    FLOAT_EXPONENT,
    Encoded,
    encode,
)

if TYPE_CHECKING:
    from residue.paillier._keys import PublicKey

__all__ = ["CiphertextArray", "Randomness", "concatenate"]

_MULTI_POW_BITS = 62
_BITS_STEP = 4  # multipliers' sizes are public in steps of so many bits


class Randomness:
    """Whether ciphertexts carry randomness that nobody has seen; shared by all views of them."""

    __slots__ = ("unused",)

    def __init__(self, *, unused: bool) -> None:
        self.unused = unused


class CiphertextArray:
    """Ciphertexts of one key, of any shape, sharing one fixed-point exponent.

    Supports ``+ - * @`` among themselves where Paillier can and with plaintext numbers and arrays,
    numpy indexing and broadcasting, `sum`, `gather_sum`, `reshape`, `T`. Every operation keeps a
    bound on the plaintexts' magnitude and raises `EncodingOverflow` where they could leave the
    signed range.

    Multiplications make a number of products that is independent of the multipliers' values and
    signs except for the size class of the largest one (in steps of 4 bits), but on the CPU they
    are not constant-time; see `multiply`.

    Instances come from `PublicKey.encrypt` and `PublicKey.ciphertexts_from_bytes`.
    """

    __array_ufunc__ = None  # numpy arrays on the left leave operators to this class
    __hash__ = None  # type: ignore[assignment]  # == on ciphertexts means nothing

    def __init__(
        self,
        public_key: PublicKey,
        residues: ResidueArray,
        shape: tuple[int, ...],
        exponent: int,
        bound: int,
        randomness: Randomness | None = None,
    ) -> None:
        if bound > public_key.max_mantissa:
            raise EncodingOverflow(
                f"the result could reach {bound.bit_length()} bits, beyond the signed range of a "
                f"{public_key.bits}-bit key; encode with fewer digits or use a larger key"
            )
        self._public_key = public_key
        self._residues = residues
        self._shape = shape
        self._exponent = exponent
        self._bound = bound
        self._randomness = randomness or Randomness(unused=False)
        self.randomness_marks: NDArray[np.int64] | None = None
        """Of an array that was loaded from bytes: ``(size,) int64``, a hash of c mod n.

        Since ``(1 + m n) r**n = r**n`` modulo n, it says nothing of the plaintexts and all of the
        randomness: 1 is none at all, and equal marks are randomness that was used twice. Others
        are equal by chance for one pair in 2**61.
        """

    # --- what it is -----------------------------------------------------------------------------

    @property
    def public_key(self) -> PublicKey:
        """The key of all elements."""
        return self._public_key

    @property
    def backend(self) -> Backend:
        """Where the elements live."""
        return self._public_key.backend

    @property
    def residues(self) -> ResidueArray:
        """The elements in the backend's memory, in C order."""
        return self._residues

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape as of a numpy array."""
        return self._shape

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self._shape)

    @property
    def size(self) -> int:
        """Number of ciphertexts."""
        return len(self._residues)

    @property
    def exponent(self) -> int:
        """A plaintext mantissa m stands for ``m * 16**exponent``."""
        return self._exponent

    @property
    def bound(self) -> int:
        """No plaintext mantissa exceeds it in magnitude."""
        return self._bound

    @property
    def fresh(self) -> bool:
        """Whether every element carries randomness of its own that was not released yet."""
        return self._randomness.unused

    def __len__(self) -> int:
        if not self._shape:
            raise TypeError("len() of a ciphertext scalar")
        return self._shape[0]

    def __iter__(self) -> Iterator[CiphertextArray]:
        return (self[i] for i in range(len(self)))

    def __eq__(self, other: object) -> NoReturn:
        raise TypeError("ciphertexts cannot be compared; decrypt them first")

    def __bool__(self) -> NoReturn:
        raise TypeError("a ciphertext has no truth value; decrypt it first")

    def __reduce__(self) -> NoReturn:
        raise TypeError("ciphertexts are not pickled; use to_bytes")

    def __repr__(self) -> str:
        return (
            f"CiphertextArray(shape={self._shape}, exponent={self._exponent}, "
            f"key={self._public_key.fingerprint.hex()[:12]}, device={self.backend.name})"
        )

    # --- shape ----------------------------------------------------------------------------------

    def __getitem__(self, key: Any) -> CiphertextArray:
        index = self._index()[key]
        return self._take(index, distinct=_selects_once(key))

    def reshape(self, *shape: int | tuple[int, ...]) -> CiphertextArray:
        """The same ciphertexts in another shape."""
        wanted = shape[0] if len(shape) == 1 and isinstance(shape[0], tuple) else shape
        return self._view(self._index().reshape(wanted).shape)  # type: ignore[arg-type]

    def ravel(self) -> CiphertextArray:
        """The same ciphertexts in one dimension."""
        return self._view((self.size,))

    @property
    def T(self) -> CiphertextArray:  # noqa: N802 - numpy's name
        """The transpose."""
        return self._take(self._index().T, distinct=True)

    def to(self, device: str | Backend) -> CiphertextArray:
        """The same ciphertexts on another backend."""
        key = self._public_key.to(device)
        residues = key.backend.upload(key.modulus, self.to_limbs())
        return CiphertextArray(
            key, residues, self._shape, self._exponent, self._bound, self._randomness
        )

    # --- arithmetic -----------------------------------------------------------------------------

    def __add__(self, other: Any) -> CiphertextArray:
        if not isinstance(other, CiphertextArray):
            return self._add_plain(other)
        self._require_compatible(other)
        a, b = self._aligned(other)
        a, b = _broadcast(a, b)
        residues = self.backend.mul(a._residues, b._residues)
        shape = np.broadcast_shapes(a._shape, b._shape)
        return self._result(residues, shape, a._exponent, a._bound + b._bound)

    __radd__ = __add__

    def __neg__(self) -> CiphertextArray:
        inverse = self.backend.inverse(self._residues)
        return self._result(inverse, self._shape, self._exponent, self._bound)

    def __sub__(self, other: Any) -> CiphertextArray:
        if isinstance(other, CiphertextArray):
            self._require_compatible(other)
            return self + -other
        return self._add_encoded(self._encode_addend(other).negated())

    def __rsub__(self, other: Any) -> CiphertextArray:
        return (-self)._add_plain(other)

    def __mul__(self, other: Any) -> CiphertextArray:
        return self.multiply(other)

    __rmul__ = __mul__

    def __matmul__(self, other: Any) -> CiphertextArray:
        return self.matmul(other)

    def __rmatmul__(self, other: Any) -> CiphertextArray:
        return self.matmul(other, reflected=True)

    def __lshift__(self, bits: int) -> CiphertextArray:
        """The numbers times ``2**bits``, bits >= 0 and public: cheaper than ``*``."""
        limbs = to_limbs([mpz(1) << bits], bits // 64 + 1)
        backend = self.backend
        power = backend.pow_var if isinstance(backend, SupportsPowVar) else backend.pow
        residues = power(self._residues, limbs, bits + 1)
        return self._result(residues, self._shape, self._exponent, self._bound << bits)

    def multiply(
        self,
        other: Any,
        *,
        exponent: int | None = None,
        precision: float | None = None,
        constant_time: bool = False,
    ) -> CiphertextArray:
        """Element-wise product with plaintext numbers, as ``*``: powers with short exponents.

        Args:
            other: numpy array or scalar, broadcast against the ciphertexts.
            exponent: fixed-point exponent of the multipliers; default as in `encrypt`.
            precision: instead of an exponent: the coarsest step allowed.
            constant_time: hide the multipliers' bits and signs from who can measure time, whatever
                the backend: constant-time powers, and inverses of all elements. By default a
                backend that offers faster powers (the CPU: a quarter less time) uses them.
        """
        if isinstance(other, CiphertextArray):
            raise EncodingError("Paillier cannot multiply two ciphertexts")
        factors = encode(other, exponent=exponent, precision=precision)
        shape = np.broadcast_shapes(self._shape, factors.mantissas.shape)
        mantissas = np.broadcast_to(factors.mantissas, shape).ravel()
        bases = _grown(self, shape)._residues
        if isinstance(self.backend, SupportsPowVar) and not constant_time:
            residues = self._signed_pow_var(self.backend, bases, mantissas, factors.bound)
        else:
            residues = self._signed_pow(bases, mantissas, factors.bound)
        return self._result(
            residues, shape, self._exponent + factors.exponent, self._bound * factors.bound
        )

    def matmul(
        self,
        other: Any,
        *,
        exponent: int | None = None,
        precision: float | None = None,
        reflected: bool = False,
    ) -> CiphertextArray:
        """Matrix product with a plaintext matrix or vector, as ``@``, by simultaneous powers.

        Args:
            other: one- or two-dimensional numpy array.
            exponent: fixed-point exponent of the multipliers, whose mantissas must stay below
                ``2**62``. By default 0 for integers; for floats -13, or the smallest that fits.
            precision: instead of an exponent: the coarsest step allowed.
            reflected: compute ``other @ self``.

        Raises:
            EncodingOverflow: a multiplier needs more than 62 bits, or the result may overflow.
        """
        if isinstance(other, CiphertextArray):
            raise EncodingError("Paillier cannot multiply two ciphertexts")
        factors = _encode_short(other, exponent, precision)
        matrix = factors.mantissas
        if not self.size or not matrix.size:
            raise EncodingError("@ takes no empty arrays")
        if not (1 <= self.ndim <= 2 and 1 <= matrix.ndim <= 2):
            raise EncodingError(
                f"@ takes one- and two-dimensional arrays, not shapes {self._shape} and "
                f"{matrix.shape}"
            )
        left, right = (matrix.shape, self._shape) if reflected else (self._shape, matrix.shape)
        if left[-1] != right[0]:
            raise EncodingError(f"shapes {left} and {right} do not match in a matrix product")
        shape = left[:-1] + right[1:]
        # Vectors of ciphertexts v_j (rows of index) times the columns of E, shape (K, M).
        index = self._index()
        index = (index.T if reflected else index).reshape(-1, matrix.shape[-1 if reflected else 0])
        E = matrix.T if reflected else matrix
        E = np.ascontiguousarray(E.reshape(index.shape[1], -1))
        # With its sign, a multiplier fills whole windows of 4 bits.
        bits = min(_public_bits(2 * factors.bound) - 1, _MULTI_POW_BITS)
        backend = self.backend
        residues = multi_pow_rows(backend, self._residues, index, E, bits)
        if reflected and len(index) > 1:
            order = np.arange(len(residues)).reshape(len(index), -1).T.ravel()
            residues = backend.take(residues, order)
        return self._result(
            residues, shape, self._exponent + factors.exponent, self._bound * _column_norm(E)
        )

    def sum(self, axis: int | None = None) -> CiphertextArray:
        """Sum over one axis, or of all elements."""
        index = self._index()
        if axis is None:
            index, axis = index.ravel(), 0
        index = np.moveaxis(index, axis, -1)
        shape, count = index.shape[:-1], index.shape[-1]
        outputs = index.size // count if count else int(np.prod(shape))
        offsets = np.arange(outputs + 1, dtype=np.int64) * count
        residues = self.backend.prod(self._residues, np.ascontiguousarray(index).ravel(), offsets)
        return self._result(residues, shape, self._exponent, self._bound * count)

    def gather_sum(self, index: NDArray[np.int64], offsets: NDArray[np.int64]) -> CiphertextArray:
        """Sums of chosen elements: histograms, in one gathered segmented product.

        Args:
            index: ``(n,) int64``, which elements, in C order; repeated ones count repeatedly.
            offsets: ``(s + 1,) int64``, non-decreasing, from 0 to n.

        Returns ``(s,)`` ciphertexts; the i-th is the sum of the elements that
        ``index[offsets[i]:offsets[i + 1]]`` names, and of 0 where it names none.

        Raises:
            BackendError: an index or offset is out of range.
        """
        residues = self.backend.prod(self._residues, index, offsets)
        longest = int(np.diff(offsets).max(initial=0))
        return self._result(residues, (len(residues),), self._exponent, self._bound * longest)

    def at_exponent(self, exponent: int) -> CiphertextArray:
        """The same numbers at a smaller exponent: mantissas times a power of 16."""
        if exponent > self._exponent:
            raise EncodingError(
                f"cannot raise the exponent from {self._exponent} to {exponent}: digits would be "
                "lost"
            )
        if exponent == self._exponent:
            return self
        shifted = self << BASE_BITS * (self._exponent - exponent)
        return self._result(shifted._residues, self._shape, exponent, shifted._bound)

    def widened(self, bits: int) -> CiphertextArray:
        """The same ciphertexts with a bound of ``2**bits`` at least, as far as the key has room.

        `bound` follows from the largest of the numbers that were computed with, and `to_bytes`
        tells it, rounded up. Where that largest number is a secret, a size that is public, of what
        the numbers can be, belongs in its place.
        """
        bound = max(self._bound, min(1 << bits, self._public_key.max_mantissa))
        return CiphertextArray(
            self._public_key, self._residues, self._shape, self._exponent, bound, self._randomness
        )

    # --- leaving the process --------------------------------------------------------------------

    def rerandomize(self) -> CiphertextArray:
        """The same plaintexts under fresh randomness."""
        key = self._public_key
        residues = self.backend.mul(self._residues, key.zeros(self.size))
        return CiphertextArray(
            key, residues, self._shape, self._exponent, self._bound, Randomness(unused=True)
        )

    def released(self) -> CiphertextArray:
        """What may leave the process: these ciphertexts if fresh, else re-randomised ones.

        Every way out (`to_bytes`, conversion to other libraries, files) calls this. It uses up
        the freshness of the result and of all views of it.
        """
        out = self if self._randomness.unused else self.rerandomize()
        out._randomness.unused = False
        return out

    def to_bytes(self) -> bytes:
        """Versioned binary form of `released` ciphertexts, see docs/formats.md."""
        from residue.paillier import _formats

        return _formats.ciphertexts_to_bytes(self.released())

    def to_limbs(self) -> Limbs:
        """``(size, limbs) uint64`` canonical residues. Stays inside: not re-randomised."""
        return self.backend.download(self._residues)

    # --- private --------------------------------------------------------------------------------

    def _index(self) -> NDArray[np.int64]:
        return np.arange(self.size, dtype=np.int64).reshape(self._shape)

    def _view(self, shape: tuple[int, ...]) -> CiphertextArray:
        return CiphertextArray(
            self._public_key, self._residues, shape, self._exponent, self._bound, self._randomness
        )

    def _take(self, index: NDArray[np.int64], *, distinct: bool) -> CiphertextArray:
        index = np.asarray(index)
        residues = self.backend.take(self._residues, np.ascontiguousarray(index).ravel())
        return CiphertextArray(
            self._public_key,
            residues,
            index.shape,
            self._exponent,
            self._bound,
            self._randomness if distinct else None,
        )

    def _result(
        self, residues: ResidueArray, shape: tuple[int, ...], exponent: int, bound: int
    ) -> CiphertextArray:
        """A computed array: never fresh."""
        return CiphertextArray(self._public_key, residues, shape, exponent, bound)

    def _signed_pow(self, bases: ResidueArray, mantissas: NDArray[Any], bound: int) -> ResidueArray:
        """Element-wise powers; a negative one is a power of the inverse, which all elements get."""
        bits = _public_bits(bound)
        index = np.arange(len(bases), dtype=np.int64)
        index += len(bases) * (mantissas < 0).astype(np.int64)
        both = self.backend.concat([bases, self.backend.inverse(bases)])
        return self.backend.pow(self.backend.take(both, index), _magnitudes(mantissas, bits), bits)

    def _signed_pow_var(
        self, backend: SupportsPowVar, bases: ResidueArray, mantissas: NDArray[Any], bound: int
    ) -> ResidueArray:
        """`_signed_pow` that inverts only what it must."""
        bits = _public_bits(bound)
        powers = backend.pow_var(bases, _magnitudes(mantissas, bits), bits)
        negative = np.flatnonzero(mantissas < 0)
        if not negative.size:
            return powers
        index = np.arange(len(bases), dtype=np.int64)
        index[negative] = len(bases) + np.arange(negative.size)
        inverses = self.backend.inverse(self.backend.take(powers, negative))
        return self.backend.take(self.backend.concat([powers, inverses]), index)

    def _require_compatible(self, other: CiphertextArray) -> None:
        self._public_key.require_same(other._public_key)
        if self.backend is not other.backend:
            raise BackendError("the ciphertexts live on different backends; move one with to()")

    def _aligned(self, other: CiphertextArray) -> tuple[CiphertextArray, CiphertextArray]:
        exponent = min(self._exponent, other._exponent)
        return self.at_exponent(exponent), other.at_exponent(exponent)

    def _encode_addend(self, other: Any) -> Encoded:
        values = np.asarray(other)
        if values.dtype.kind == "f":
            return encode(values, exponent=min(self._exponent, FLOAT_EXPONENT))
        encoded = encode(values)
        return encoded.rescaled(min(self._exponent, encoded.exponent))

    def _add_plain(self, other: Any) -> CiphertextArray:
        return self._add_encoded(self._encode_addend(other))

    def _add_encoded(self, x: Encoded) -> CiphertextArray:
        a = self.at_exponent(min(self._exponent, x.exponent))
        shape = np.broadcast_shapes(self._shape, x.mantissas.shape)
        bound = a._bound + x.bound
        if bound > self._public_key.max_mantissa:
            return self._result(a._residues, shape, a._exponent, bound)  # raises
        plain = self._public_key.plain_residues(x.mantissas)
        b = CiphertextArray(self._public_key, plain, x.mantissas.shape, x.exponent, x.bound)
        a, b = _broadcast(a, b)
        return self._result(self.backend.mul(a._residues, b._residues), shape, a._exponent, bound)


def concatenate(arrays: Sequence[CiphertextArray]) -> CiphertextArray:
    """Join arrays of one key and backend along their first axis, at their smallest exponent.

    The result is fresh if all parts are, and none of them comes twice, even in part; the parts are
    not any more.

    Raises:
        KeyMismatch, BackendError: different keys or backends.
        ValueError: no arrays, scalars, or shapes that do not match.
    """
    if not arrays:
        raise ValueError("nothing to concatenate")
    first = arrays[0]
    for c in arrays:
        first._require_compatible(c)
        if not c.shape or c.shape[1:] != first.shape[1:]:
            raise ValueError(f"shapes {first.shape} and {c.shape} cannot be joined")
    exponent = min(c.exponent for c in arrays)
    aligned = [c.at_exponent(exponent) for c in arrays]
    distinct = len({id(c._randomness) for c in aligned}) == len(aligned)
    fresh = distinct and all(c.fresh for c in aligned)
    for c in arrays:
        c._randomness.unused = False
    return CiphertextArray(
        first.public_key,
        first.backend.concat([c.residues for c in aligned]),
        (sum(c.shape[0] for c in arrays), *first.shape[1:]),
        exponent,
        max(c.bound for c in aligned),
        Randomness(unused=fresh),
    )


def _selects_once(key: Any) -> bool:
    """Whether an index expression can name no element twice."""
    parts = key if isinstance(key, tuple) else (key,)
    return all(
        part is None or part is Ellipsis or isinstance(part, int | np.integer | slice)
        for part in parts
    )


def _grown(c: CiphertextArray, shape: tuple[int, ...]) -> CiphertextArray:
    """`c` broadcast to a shape."""
    if c.shape == shape:
        return c
    return c._take(np.broadcast_to(c._index(), shape), distinct=False)


def _broadcast(a: CiphertextArray, b: CiphertextArray) -> tuple[CiphertextArray, CiphertextArray]:
    """Arrays whose residues a backend can multiply: equal lengths, or one of length one."""
    shape = np.broadcast_shapes(a.shape, b.shape)
    size = int(np.prod(shape))
    a, b = (c if c.size == 1 and size else _grown(c, shape) for c in (a, b))
    return a, b


def _public_bits(bound: int) -> int:
    """Size class of the largest multiplier."""
    return max(1, -(-bound.bit_length() // _BITS_STEP)) * _BITS_STEP


def _magnitudes(mantissas: NDArray[Any], bits: int) -> Limbs:
    """Exponents ``(n, limbs) uint64`` below ``2**bits``."""
    if mantissas.dtype == np.int64:
        magnitudes: Limbs = np.abs(mantissas).astype(np.uint64).reshape(-1, 1)
        return magnitudes
    return to_limbs([mpz(abs(m)) for m in mantissas.tolist()], -(-bits // 64))


def _encode_short(x: Any, exponent: int | None, precision: float | None) -> Encoded:
    """Multipliers below 2**62; the default exponent of floats grows until they fit."""
    factors = encode(x, exponent=exponent, precision=precision)
    excess = factors.bound.bit_length() - _MULTI_POW_BITS
    if excess > 0:
        floats = exponent is None and precision is None and factors.exponent < 0
        if not floats:
            raise EncodingOverflow(
                f"a multiplier of {factors.bound.bit_length()} bits exceeds the {_MULTI_POW_BITS} "
                "bits of a matrix product; give a coarser exponent"
            )
        factors = encode(x, exponent=factors.exponent + -(-(excess + 1) // BASE_BITS))
    return factors


def _column_norm(E: NDArray[np.int64]) -> int:
    """Exact ``max_j sum_i |E[i, j]|``."""
    magnitudes: NDArray[np.int64] = np.abs(E)
    high = (magnitudes >> 31).sum(axis=0).tolist()
    low = (magnitudes & ((1 << 31) - 1)).sum(axis=0).tolist()
    return max(((h << 31) + lo for h, lo in zip(high, low, strict=True)), default=0)
