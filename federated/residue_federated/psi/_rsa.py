"""A hash that only the holder of an RSA key computes, blindly for others.

With H a full-domain hash into [0, n), the function of an identifier x is its signature H(x)^d. The
blinding party sends ``H(x) R^e``, divides the answer by R, and checks it: ``answer^e`` must be what
it sent (De Cristofaro and Tsudik, "Practical Private Set Intersection Protocols with Linear
Complexity", Financial Cryptography 2010; blinding is Chaum's).

A signer that made its modulus so that e divides phi(n) could tell blinded elements apart: parties
are taken to follow the protocol, as in the paper.
"""

from __future__ import annotations

import numpy as np
from cryptography.hazmat.primitives.asymmetric import rsa
from numpy.typing import NDArray

from residue.backends import Backend, Modulus, ResidueArray
from residue.errors import CorruptResult
from residue_federated.errors import ProtocolError
from residue_federated.psi._elements import (
    Limbs,
    check_elements,
    from_integers,
    random_exponents,
    to_integers,
)

__all__ = ["RsaBlinder", "RsaEvaluator"]

_E = 65537
_E_LIMBS = from_integers([_E], 1)
_E_BITS = _E.bit_length()


class RsaEvaluator:
    """Has the private key, made for one alignment.

    Powers are `Backend.pow`, by CRT: constant time in the exponents. Reductions and recombination
    are Python's, which are not; each batch is multiplied by a random unit beforehand (Kocher 1996),
    so that nobody chooses or knows what they work on. Every signature is verified before it is
    returned: a wrong half of a CRT result would give the key away (Boneh, DeMillo, Lipton 1997).

    public: ``(1, limbs) uint64``, the modulus n.
    """

    def __init__(self, backend: Backend, bits: int) -> None:
        self._backend = backend
        key = rsa.generate_private_key(_E, bits).private_numbers()
        self._modulus = backend.register(key.public_numbers.n)
        self._p, self._q = backend.register(key.p), backend.register(key.q)
        self._dp, self._dq, self._q_inverse = key.dmp1, key.dmq1, key.iqmp
        self.public = from_integers([self._modulus.value], self._modulus.limbs)

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
        roots = from_integers(self._roots_var(masked), modulus.limbs)
        signed = backend.mul(backend.upload(modulus, roots), backend.inverse(unit))
        if not np.array_equal(backend.download(_power_e(backend, signed)), elements):
            raise CorruptResult("a signature failed its check; nothing was released")
        return backend.download(signed)

    def evaluate_own(self, hashes: Limbs) -> Limbs:
        """Signatures of the signer's own hashes."""
        return self.evaluate(hashes)

    def _roots_var(self, values: NDArray[np.object_]) -> NDArray[np.object_]:
        """``x^d mod n``: Garner's recombination of the powers modulo p and q."""
        a = self._half_var(values, self._p, self._dp)
        b = self._half_var(values, self._q, self._dq)
        p, q = self._p.value, self._q.value
        return np.asarray(b + q * ((a - b) * self._q_inverse % p))

    def _half_var(
        self, values: NDArray[np.object_], prime: Modulus, exponent: int
    ) -> NDArray[np.object_]:
        reduced = from_integers(values % prime.value, prime.limbs)
        power = self._backend.pow(
            self._backend.upload(prime, reduced), from_integers([exponent], prime.limbs), prime.bits
        )
        return to_integers(self._backend.download(power))


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
