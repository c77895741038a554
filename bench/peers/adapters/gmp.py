"""GMP itself, through gmpy2: loops over its modular power and product."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gmpy2
from gmpy2 import mpz

from residue.paillier._random import random_prime, random_units


class Adapter:
    """As `adapters` says: textbook Paillier and RSA, with `powmod_sec` where RSA needs it."""

    operations = ("add", "ct_x_pt", "rsa")

    def __init__(self, variant: str) -> None:
        self.facts = {
            "version": f"{gmpy2.mp_version()}, gmpy2 {gmpy2.version()}",
            "algorithm": "bare modular products and powers",
        }

    def key(self, bits: int, inputs: dict[str, Any]) -> None:
        """Primes that serve both schemes, and encryptions of the distinct plaintexts."""
        self._inputs = inputs
        p, q = random_prime(bits // 2), random_prime(bits // 2)
        self._p, self._q, self._n = p, q, p * q
        self._few = [self._encrypted(m) for m in inputs["x"][: inputs["distinct"]]]

    def prepare(self, operation: str, count: int) -> Callable[[], Any]:
        """A turn of the operation on `count` elements."""
        nn, inputs = self._n**2, self._inputs
        if operation == "rsa":
            return self._rsa(count)
        c = [self._few[i % inputs["distinct"]] for i in range(count)]
        if operation == "ct_x_pt":
            factors = [mpz(f) for f in inputs["factors"][:count]]
            return lambda: [gmpy2.powmod(a, e, nn) for a, e in zip(c, factors, strict=True)]
        others = [self._encrypted(m) for m in inputs["y"][: inputs["distinct"]]]
        d = [others[i % inputs["distinct"]] for i in range(count)]
        return lambda: [a * b % nn for a, b in zip(c, d, strict=True)]

    def answers(self, operation: str, result: Any, limit: int) -> list[int]:
        """The first plaintexts of a turn's result."""
        if operation == "rsa":
            return [int(m) for m in result[:limit]]
        return [self._decrypted(c) for c in result[:limit]]

    def _encrypted(self, m: int) -> mpz:
        n = self._n
        return (1 + m * n) * gmpy2.powmod(random_units(1, int(n))[0], n, n * n) % (n * n)

    def _decrypted(self, c: mpz) -> int:
        n = self._n
        order = gmpy2.lcm(self._p - 1, self._q - 1)
        m = (gmpy2.powmod(c, order, n * n) - 1) // n * gmpy2.invert(order, n) % n
        return int(m if m < n // 2 else m - n)

    def _rsa(self, count: int) -> Callable[[], list[mpz]]:
        p, q, n = self._p, self._q, self._n
        e = next(e for e in (65537, 65539, 65543) if gmpy2.gcd(e, (p - 1) * (q - 1)) == 1)
        dp, dq, inverse = gmpy2.invert(e, p - 1), gmpy2.invert(e, q - 1), gmpy2.invert(q, p)
        ciphertexts = [gmpy2.powmod(m, e, n) for m in self._inputs["messages"][:count]]

        def turn() -> list[mpz]:
            messages = []
            for c in ciphertexts:
                a, b = gmpy2.powmod_sec(c % p, dp, p), gmpy2.powmod_sec(c % q, dq, q)
                messages.append(b + q * ((a - b) * inverse % p))
            return messages

        return turn
