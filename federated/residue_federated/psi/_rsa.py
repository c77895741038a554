"""A hash that only the holder of an RSA key computes, blindly for others.

With H a full-domain hash into [0, n), the function of an identifier x is its signature H(x)^d. The
blinding party sends ``H(x) R^e``, divides the answer by R, and checks it: ``answer^e`` must be what
it sent (De Cristofaro and Tsudik, "Practical Private Set Intersection Protocols with Linear
Complexity", Financial Cryptography 2010; blinding is Chaum's).

n has three primes, as RFC 8017 (section 3) allows: a signature is three powers of a third of n's
bits, 4/9 of the work of two powers of half (Boneh and Shacham, "Fast Variants of RSA", CryptoBytes
5(1), 2002). Nobody but the signer can tell.

A signer that made its modulus so that e divides phi(n) could tell blinded elements apart: parties
are taken to follow the protocol, as in the paper.
"""

from __future__ import annotations

from math import prod

import numpy as np
from cryptography.hazmat.primitives.asymmetric import rsa
from numpy.typing import NDArray

from residue.backends import Backend, ResidueArray
from residue.errors import CorruptResult
from residue_federated.errors import ProtocolError
from residue_federated.psi._elements import (
    Limbs,
    check_elements,
    from_integers,
    random_exponents,
    to_integers,
)

__all__ = ["RsaBlinder", "RsaEvaluator", "new_primes"]

_E = 65537
_E_LIMBS = from_integers([_E], 1)
_E_BITS = _E.bit_length()

_PRIMES = 3
"""As many as OpenSSL's RSA_generate_key(3) permits from 1,024 to 4,095 bits.

The elliptic curve method finds smaller primes sooner, the number field sieve does not (Hinek, "On
the security of multi-prime RSA", J. Math. Crypt. 2, 2008).
"""


def new_primes(bits: int) -> list[int]:
    """Secret primes of equal length, p - 1 coprime to e, whose product has exactly `bits` bits.

    They come from keys of two primes each, as OpenSSL makes them.
    """
    lengths = [(bits + i) // _PRIMES for i in range(_PRIMES)]
    while True:
        primes = [rsa.generate_private_key(_E, 2 * own).private_numbers().p for own in lengths]
        if prod(primes).bit_length() == bits and len(set(primes)) == _PRIMES:
            return primes


class _Factor:
    """A prime p of n, and its part in x^d.

    By the Chinese remainder theorem ``x^d = sum_p (x^d c mod p) (n / p) mod n`` with
    ``c = (n / p)^-1 mod p``.

    cofactor: n / p.
    """

    def __init__(self, backend: Backend, prime: int, n: int) -> None:
        self._backend, self._modulus = backend, backend.register(prime)
        self._bits, limbs = self._modulus.bits, self._modulus.limbs
        self._exponent = from_integers([pow(_E, -1, prime - 1)], limbs)
        self.cofactor = n // prime
        coefficient = from_integers([pow(self.cofactor, -1, prime)], limbs)
        self._coefficient = backend.upload(self._modulus, coefficient)

    def signed_var(self, values: NDArray[np.object_]) -> NDArray[np.object_]:
        """``x^d c mod p``; the power and the product are constant-time, the reduction is not."""
        backend, modulus = self._backend, self._modulus
        x = backend.upload(modulus, from_integers(values % modulus.value, modulus.limbs))
        power = backend.pow(x, self._exponent, self._bits)
        return to_integers(backend.download(backend.mul(power, self._coefficient)))


class RsaEvaluator:
    """Has the private key, made for one alignment.

    Powers are `Backend.pow`, by CRT: constant time in the exponents. Reductions and recombination
    are GMP's, which are not; each batch is multiplied by a random unit beforehand (Kocher 1996),
    so that nobody chooses or knows what they work on. Every signature is verified before it is
    returned: a wrong part of a CRT result would give primes away (Boneh, DeMillo, Lipton 1997).

    public: ``(1, limbs) uint64``, the modulus n.
    """

    def __init__(self, backend: Backend, bits: int) -> None:
        self._backend = backend
        primes = new_primes(bits)
        self._modulus = backend.register(prod(primes))
        self._factors = [_Factor(backend, prime, self.modulus) for prime in primes]
        self.public = from_integers([self.modulus], self._modulus.limbs)

    @property
    def modulus(self) -> int:
        """What hashes must be below."""
        return self._modulus.value

    def evaluate(self, elements: Limbs) -> Limbs:
        """Signatures ``x^d`` of checked ``(n, limbs) uint64``.

        Raises `CorruptResult` if the machine computed one wrong; none is returned.
        """
        backend, modulus = self._backend, self._modulus
        unit = backend.upload(modulus, _random_residues(1, modulus.value))
        x = backend.upload(modulus, elements)
        masked = to_integers(backend.download(backend.mul(x, _power_e(backend, unit))))
        parts = (factor.signed_var(masked) * factor.cofactor for factor in self._factors)
        roots = from_integers(sum(parts) % modulus.value, modulus.limbs)
        signed = backend.mul(backend.upload(modulus, roots), backend.inverse(unit))
        if not np.array_equal(backend.download(_power_e(backend, signed)), elements):
            raise CorruptResult("a signature failed its check; nothing was released")
        return backend.download(signed)

    def evaluate_own(self, hashes: Limbs) -> Limbs:
        """Signatures of the signer's own hashes."""
        return self.evaluate(hashes)


class RsaBlinder:
    """Has identifiers whose signatures it wants.

    Raises `ProtocolError` if the peer's modulus is not an odd number of that many bits.
    """

    def __init__(self, backend: Backend, bits: int, public: Limbs, peer: str) -> None:
        self._backend, self._peer = backend, peer
        n = to_integers(public)[0]
        if n.bit_length() != bits or n % 2 == 0:
            raise ProtocolError(f"{peer} sent a modulus that is not an odd number of {bits} bits")
        self._modulus = backend.register(n)

    @property
    def modulus(self) -> int:
        """What hashes must be below."""
        return self._modulus.value

    def blind(self, hashes: Limbs) -> tuple[Limbs, Blinding]:
        """``H(x) R^e``, and what `unblind` takes."""
        backend, modulus = self._backend, self._modulus
        units = backend.upload(modulus, _random_residues(len(hashes), modulus.value))
        mask = _power_e(backend, units)
        blinded = backend.download(backend.mul(backend.upload(modulus, hashes), mask))
        return blinded, (blinded, units)

    def unblind(self, answers: Limbs, blinding: Blinding) -> Limbs:
        """Signatures, from the signer's answers. Raises `ProtocolError` if they are wrong."""
        backend = self._backend
        blinded, units = blinding
        check_elements(answers, self._modulus.value, self._peer, "signatures")
        answer = backend.upload(self._modulus, answers)
        if not np.array_equal(backend.download(_power_e(backend, answer)), blinded):
            raise ProtocolError(f"{self._peer} sent wrong signatures")
        return backend.download(backend.mul(answer, backend.inverse(units)))


Blinding = tuple[Limbs, ResidueArray]
"""What was sent, and the secret units R."""


def _power_e(backend: Backend, x: ResidueArray) -> ResidueArray:
    return backend.pow(x, _E_LIMBS, _E_BITS)


def _random_residues(count: int, modulus: int) -> Limbs:
    """Within 2**-128 of uniform below `modulus`."""
    wide = to_integers(random_exponents(count, modulus.bit_length() + 128))
    return from_integers(wide % modulus, -(-modulus.bit_length() // 64))
