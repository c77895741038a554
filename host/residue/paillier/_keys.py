"""Paillier keys: generation, checks, encryption and decryption.

Paillier with g = n + 1. Both primes are 3 mod 4 with gcd(p - 1, q - 1) = 2, as the randomness of
Damgard, Jurik and Nielsen needs ("A generalization of Paillier's public-key system with
applications to electronic voting", 2010, section 4.2).
"""

from __future__ import annotations

import hashlib
import warnings
from functools import cached_property
from typing import Any, Literal, NoReturn

import gmpy2
import numpy as np
from gmpy2 import mpz
from numpy.typing import NDArray

from residue._limbs import from_limbs, to_limbs
from residue.backends import get_backend
from residue.backends._protocol import Backend, Limbs, Modulus, ResidueArray
from residue.backends._squares import binomials, logarithms, reduce
from residue.errors import (
    CorruptResult,
    EncodingOverflow,
    InsecureKeyWarning,
    InvalidKey,
    KeyMismatch,
)
from residue.paillier._ciphertext import CiphertextArray, Randomness
from residue.paillier._encoding import Encoded, decode, encode
from residue.paillier._random import random_limbs, random_prime, random_units
from residue.paillier._stock import Stock

__all__ = ["MAX_KEY_BITS", "MIN_KEY_BITS", "PrivateKey", "PublicKey", "Scheme", "keygen"]

Scheme = Literal["djn", "classic"]

MIN_KEY_BITS = 1024
MAX_KEY_BITS = 8192
_DEFAULT_SECURE_BITS = 2048
_PRIME_ROUNDS = 25


def keygen(
    bits: int = 2048,
    *,
    insecure_allow_1024: bool = False,
    device: str | Backend = "auto",
) -> tuple[PublicKey, PrivateKey]:
    """A fresh key pair from the operating system's randomness.

    Args:
        bits: exact size of n: 2048 (112-bit security), 3072 (128-bit) or more, a multiple of 128.
        insecure_allow_1024: permits sizes from 1024 bits, for comparison with published tables;
            smaller than 2048 bits warns (`InsecureKeyWarning`).
        device: backend, or its name, that computes with these keys.

    Raises:
        InvalidKey: the size is not supported.
    """
    least = MIN_KEY_BITS if insecure_allow_1024 else _DEFAULT_SECURE_BITS
    if bits < least or bits > MAX_KEY_BITS or bits % 128:
        hint = "" if bits >= least else "; insecure_allow_1024=True permits sizes from 1024"
        raise InvalidKey(
            f"key size {bits} is not a multiple of 128 in [{least}, {MAX_KEY_BITS}]{hint}"
        )
    if bits < _DEFAULT_SECURE_BITS:
        warnings.warn(
            f"a {bits}-bit key is insecure; use it for comparisons only",
            InsecureKeyWarning,
            stacklevel=2,
        )
    while True:
        p, q = random_prime(bits // 2), random_prime(bits // 2)
        if gmpy2.gcd(p - 1, q - 1) == 2 and abs(p - q).bit_length() > bits // 2 - 100:
            break
    n = p * q
    (y,) = random_units(1, int(n))
    h_s = gmpy2.powmod_sec(-y * y % n, n, n * n)
    public = PublicKey(int(n), int(h_s), device=device)
    return public, PrivateKey(public, int(p), int(q))


class PublicKey:
    """Encrypts, and makes sense of ciphertexts. Keys are equal when their n is.

    Args:
        n: the modulus, odd, 1024 to 8192 bits.
        h_s: ``h**n mod n**2`` with ``h = -y**2 mod n``, the base of DJN randomness; None for keys
            of other libraries, which then encrypt by the classic scheme.
        device: backend, or its name, that computes with this key.

    Raises:
        InvalidKey: n or h_s fails its checks.
    """

    def __init__(self, n: int, h_s: int | None = None, *, device: str | Backend = "auto") -> None:
        n = int(n)
        if not MIN_KEY_BITS <= n.bit_length() <= MAX_KEY_BITS:
            raise InvalidKey(
                f"n has {n.bit_length()} bits; expected {MIN_KEY_BITS} to {MAX_KEY_BITS}"
            )
        if n % 2 == 0:
            raise InvalidKey("n is even")
        if h_s is not None:
            h_s = int(h_s)
            if not 1 < h_s < n * n or gmpy2.gcd(h_s, n) != 1 or h_s % n == 1:
                raise InvalidKey("h_s is not a randomizer base: out of range or not a unit")
        self._n = n
        self._h_s = h_s
        self._device = device
        self._stock = Stock()

    @property
    def n(self) -> int:
        """The modulus."""
        return self._n

    @property
    def h_s(self) -> int | None:
        """Base of DJN randomness, if the key has one."""
        return self._h_s

    @property
    def bits(self) -> int:
        """Size of n in bits."""
        return self._n.bit_length()

    @cached_property
    def nsquare(self) -> int:
        """``n**2``, the modulus of ciphertexts."""
        return self._n * self._n

    @property
    def max_mantissa(self) -> int:
        """Largest magnitude of an encoded number: ``n // 3 - 1``."""
        return self._n // 3 - 1

    @cached_property
    def fingerprint(self) -> bytes:
        """SHA-256 of n, 32 bytes: names the key in files and messages."""
        return hashlib.sha256(self._n.to_bytes(-(-self.bits // 8), "little")).digest()

    @cached_property
    def backend(self) -> Backend:
        """The backend that computes with this key."""
        return get_backend(self._device) if isinstance(self._device, str) else self._device

    @cached_property
    def modulus(self) -> Modulus:
        """``n**2`` as registered with the backend."""
        return self.backend.register(self.nsquare)

    def to(self, device: str | Backend) -> PublicKey:
        """The same key on another backend."""
        return PublicKey(self._n, self._h_s, device=device)

    def encrypt(
        self,
        x: Any,
        *,
        scheme: Scheme | None = None,
        exponent: int | None = None,
        precision: float | None = None,
    ) -> CiphertextArray:
        """Encrypt numbers of any shape, each with fresh randomness.

        Args:
            x: numpy array, nested list or scalar of integers or floats.
            scheme: ``djn`` (default where the key has h_s) or ``classic``.
            exponent: shared base-16 exponent; default 0 for integers, -13 (steps of 2**-52) for
                floats. See `residue.paillier._encoding` for what is exact.
            precision: instead of an exponent: the coarsest step allowed.

        Raises:
            EncodingError: NaN, infinity or an unsupported dtype.
            EncodingOverflow: a number does not fit the plaintext space.
        """
        return self.encrypt_encoded(encode(x, exponent=exponent, precision=precision), scheme)

    def encrypt_encoded(self, x: Encoded, scheme: Scheme | None = None) -> CiphertextArray:
        """Encrypt numbers that are encoded already."""
        self._check_bound(x.bound)
        randomness = self._randomness(x.mantissas.size, scheme)
        residues = self.backend.mul(randomness, self.plain_residues(x.mantissas))
        return CiphertextArray(
            self, residues, x.mantissas.shape, x.exponent, x.bound, Randomness(unused=True)
        )

    def ciphertexts_from_bytes(self, data: bytes | memoryview) -> CiphertextArray:
        """Load what `CiphertextArray.to_bytes` wrote.

        Raises:
            InvalidCiphertext: malformed, of another version, out of range or not coprime to n.
            KeyMismatch: made with another key.
        """
        from residue.paillier import _formats

        return _formats.ciphertexts_from_bytes(self, data)

    def to_bytes(self) -> bytes:
        """Versioned binary form, see docs/formats.md."""
        from residue.paillier import _formats

        return _formats.public_key_to_bytes(self)

    @classmethod
    def from_bytes(cls, data: bytes, *, device: str | Backend = "auto") -> PublicKey:
        """Load what `to_bytes` wrote. Raises `InvalidKey`."""
        from residue.paillier import _formats

        return _formats.public_key_from_bytes(data, device=device)

    def plain_residues(self, mantissas: NDArray[Any]) -> ResidueArray:
        """``1 + m n mod n**2`` on the backend: trivial encryptions, never to be released as is."""
        return binomials(self.backend, self.modulus, mantissas.ravel())

    def zeros(self, count: int, scheme: Scheme | None = None) -> ResidueArray:
        """Fresh encryptions of zero on the backend: factors that re-randomise ciphertexts."""
        return self._randomness(count, scheme)

    def prepare(self, count: int) -> None:
        """Make the DJN randomness of `count` later ciphertexts now, while nothing else is to do.

        Returns when it is made. Encryptions and re-randomisations use it up, each factor once.
        Does nothing for a key without h_s.
        """
        if self._h_s is not None and count > 0:
            part = self._djn_randomness(count)
            part.wait()
            self._stock.add(part)

    @property
    def prepared(self) -> int:
        """How many ciphertexts' randomness is ready."""
        return len(self._stock)

    def require_same(self, other: PublicKey) -> None:
        """Raise `KeyMismatch` unless the other key is this one."""
        if self != other:
            raise KeyMismatch(
                f"ciphertexts of different keys: {self.fingerprint.hex()[:12]} and "
                f"{other.fingerprint.hex()[:12]}"
            )

    def _check_bound(self, bound: int) -> None:
        if bound > self.max_mantissa:
            raise EncodingOverflow(
                f"a number of {bound.bit_length()} bits does not fit the signed plaintext space "
                f"of a {self.bits}-bit key"
            )

    def _randomness(self, count: int, scheme: Scheme | None) -> ResidueArray:
        if scheme is None:
            scheme = "djn" if self._h_s is not None else "classic"
        if scheme == "djn":
            if self._h_s is None:
                raise InvalidKey("this public key has no h_s; encrypt with scheme='classic'")
            parts = self._stock.take(self.backend, count)
            missing = count - sum(len(part) for part in parts)
            if missing or not parts:
                parts.append(self._djn_randomness(missing))
            return parts[0] if len(parts) == 1 else self.backend.concat(parts)
        if scheme != "classic":
            raise InvalidKey(f"unknown scheme {scheme!r}; expected 'djn' or 'classic'")
        r = to_limbs(random_units(count, self._n), self.modulus.limbs)
        e = to_limbs([mpz(self._n)], -(-self.bits // 64))
        return self.backend.pow(self.backend.upload(self.modulus, r), e, self.bits)

    def _djn_randomness(self, count: int) -> ResidueArray:
        bits = -(-self.bits // 2)
        return self.backend.pow_fixed(self._base, random_limbs(count, bits), bits)

    @cached_property
    def _base(self) -> ResidueArray:
        limbs = to_limbs([mpz(self._h_s or 1)], self.modulus.limbs)
        return self.backend.upload(self.modulus, limbs)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PublicKey) and self._n == other._n

    def __hash__(self) -> int:
        return hash(self._n)

    def __reduce__(self) -> NoReturn:
        raise TypeError("keys are not pickled; use to_bytes")

    def __repr__(self) -> str:
        return f"PublicKey(bits={self.bits}, fingerprint={self.fingerprint.hex()[:12]})"


class PrivateKey:
    """Decrypts. Nothing of it shows in its repr, and it cannot be pickled.

    Args:
        public_key: the public half.
        p: one prime.
        q: the other.

    Raises:
        InvalidKey: sizes, parity, primality or ``n = p * q`` do not hold.
    """

    def __init__(self, public_key: PublicKey, p: int, q: int) -> None:
        if p * q != public_key.n:
            raise InvalidKey("n is not p * q")
        if p == q or p.bit_length() != q.bit_length() or p % 2 == 0 or q % 2 == 0:
            raise InvalidKey("p and q must be different odd primes of equal length")
        if not (gmpy2.is_prime(p, _PRIME_ROUNDS) and gmpy2.is_prime(q, _PRIME_ROUNDS)):
            raise InvalidKey("p or q is not prime")
        if gmpy2.gcd(mpz(p) * q, mpz(p - 1) * (q - 1)) != 1:
            raise InvalidKey("n and (p - 1)(q - 1) share a factor")
        self._public_key = public_key
        self._halves = (_Half(p, public_key), _Half(q, public_key))
        # u a + v b is the plaintext modulo n, for its logarithms u modulo p and v modulo q.
        p, q = mpz(p), mpz(q)
        self._weights = (q * gmpy2.invert(-q * q, p), p * gmpy2.invert(-p * p, q))

    @property
    def public_key(self) -> PublicKey:
        """The public half."""
        return self._public_key

    @property
    def primes(self) -> tuple[int, int]:
        """The secret primes, for storage and conversion."""
        p, q = self._halves
        return int(p.prime), int(q.prime)

    @property
    def backend(self) -> Backend:
        """The backend that computes with this key."""
        return self._public_key.backend

    def to(self, device: str | Backend) -> PrivateKey:
        """The same key on another backend."""
        return PrivateKey(self._public_key.to(device), *self.primes)

    def decrypt(self, c: CiphertextArray, *, dtype: Any = None) -> Any:
        """Decrypt to a numpy array of the ciphertexts' shape (a scalar where that is ``()``).

        Args:
            c: ciphertexts of this key.
            dtype: None gives int64 where the exponent is not negative, else float64; ``object``
                gives exact Python integers or fractions.

        Raises:
            KeyMismatch: ciphertexts of another key.
            EncodingOverflow: a plaintext is outside the signed range or does not fit the dtype.
            CorruptResult: a result failed its check; nothing is released.
        """
        self._public_key.require_same(c.public_key)
        mantissas = self.decrypt_mantissas(c.to_limbs())
        result = decode(mantissas, c.exponent, dtype).reshape(c.shape)
        return result[()] if not c.shape else result

    def decrypt_mantissas(self, ciphertexts: Limbs) -> list[int]:
        """Signed plaintexts of ``(n, limbs) uint64`` ciphertexts, by CRT, each verified.

        Powers are constant-time where the backend's `pow` is; what is around them is, but for the
        recombination, where the backend knows squares (`SupportsSquares`); else it is GMP's and
        is not. See `_Half.logarithms_var` for the check.
        """
        n, limit = mpz(self._public_key.n), self._public_key.max_mantissa
        p, q = (half.prime for half in self._halves)
        reduced = reduce(self.backend, [half.modulus for half in self._halves], ciphertexts)
        logs = [half.logarithms_var(c) for half, c in zip(self._halves, reduced, strict=True)]
        (*u, u_all), (*v, v_all) = logs
        a, b = self._weights
        results = [(x * a + y * b) % n for x, y in zip(u, v, strict=True)]
        total = sum(results)
        if (total * q + u_all) % p or (total * p + v_all) % q:
            raise CorruptResult("a decryption failed its check; nothing was released")
        signed = [int(m if m <= limit else m - n) for m in results]
        if min(signed, default=0) < -limit:
            raise EncodingOverflow(
                "a plaintext is outside the signed range: a computation on its ciphertext "
                "overflowed"
            )
        return signed

    def encrypt(
        self,
        x: Any,
        *,
        scheme: Scheme | None = None,
        exponent: int | None = None,
        precision: float | None = None,
    ) -> CiphertextArray:
        """`PublicKey.encrypt`; the classic scheme by two half-size powers and CRT."""
        pk = self._public_key
        if scheme is None and pk.h_s is None:
            scheme = "classic"
        if scheme != "classic":
            return pk.encrypt(x, scheme=scheme, exponent=exponent, precision=precision)
        encoded = encode(x, exponent=exponent, precision=precision)
        pk._check_bound(encoded.bound)
        residues = pk.backend.mul(
            self._randomness(encoded.mantissas.size), pk.plain_residues(encoded.mantissas)
        )
        return CiphertextArray(
            pk,
            residues,
            encoded.mantissas.shape,
            encoded.exponent,
            encoded.bound,
            Randomness(unused=True),
        )

    def _randomness(self, count: int) -> ResidueArray:
        """Uniform n-th residues: r**n mod p**2 runs over s**p for uniform s modulo p."""
        p, q = self._halves
        pp, qq = p.square, q.square
        inverse = gmpy2.invert(qq, pp)
        values = [
            b + qq * ((a - b) * inverse % pp)
            for a, b in zip(p.residues(count), q.residues(count), strict=True)
        ]
        pk = self._public_key
        return pk.backend.upload(pk.modulus, to_limbs(values, pk.modulus.limbs))

    def __reduce__(self) -> NoReturn:
        raise TypeError("private keys are not pickled; use save_private_key")

    def __repr__(self) -> str:
        return f"PrivateKey({self._public_key!r})"


class _Half:
    """What decryption needs modulo one prime."""

    def __init__(self, prime: int, public_key: PublicKey) -> None:
        self.prime = mpz(prime)
        self.square = self.prime * self.prime
        self._public_key = public_key

    @cached_property
    def modulus(self) -> Modulus:
        """The square of the prime as registered with the backend."""
        return self._public_key.backend.register(int(self.square))

    def logarithms_var(self, ciphertexts: ResidueArray) -> list[mpz]:
        """L(c**(p - 1) mod p**2) of ciphertexts modulo p**2, and last of their product.

        They are the plaintexts, and last the sum of all, times -q modulo p. c**(p - 1) mod p**2
        is 1 modulo p by Fermat's theorem whenever it was computed right, so that L's division is
        exact or the result is refused. A fault may leave that as it is where residues are kept in
        parts: then the sum is not that of the plaintexts.
        """
        powers = self._power(ciphertexts, self.prime - 1)
        return from_limbs(logarithms(self._public_key.backend, powers))

    def residues(self, count: int) -> list[mpz]:
        """Uniform n-th residues modulo p**2; s**p = s mod p, and their product, check them."""
        roots = random_units(count, int(self.prime))
        backend = self._public_key.backend
        array = backend.upload(self.modulus, to_limbs(roots, self.modulus.limbs))
        *powers, whole = from_limbs(backend.download(self._power(array, self.prime)))
        product = mpz(1)
        for power in powers:
            product = product * power % self.square
        wrong = any((power - s) % self.prime for power, s in zip(powers, roots, strict=True))
        if wrong or product != whole:
            raise CorruptResult("an encryption failed its check; nothing was released")
        return powers

    def _power(self, values: ResidueArray, exponent: mpz) -> ResidueArray:
        """Powers of the values, then that of their product."""
        backend, bits, n = self._public_key.backend, self.prime.bit_length(), len(values)
        product = backend.prod(values, np.arange(n), np.array([0, n]))
        values = backend.concat([values, product])
        return backend.pow(values, to_limbs([exponent], -(-bits // 64)), bits)
