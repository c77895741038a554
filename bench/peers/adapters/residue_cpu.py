"""Residue's CPU backend. The variant names a kernel, or is empty for what it chooses itself."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from itertools import cycle, islice
from typing import Any

import gmpy2
import numpy as np
from gmpy2 import mpz

import residue
from residue._limbs import from_limbs, to_limbs
from residue.backends import get_backend
from residue.errors import InsecureKeyWarning
from residue.paillier import keygen
from residue.paillier._random import random_prime

_WARM_UP_ENCRYPTIONS = 4000


class Adapter:
    """As `adapters` says."""

    operations = ("encrypt", "encrypt_classic", "decrypt", "add", "ct_x_pt", "matmul", "rsa")

    def __init__(self, variant: str) -> None:
        if variant:
            os.environ["RESIDUE_CPU_KERNEL"] = variant
        self._backend = get_backend("cpu")
        facts = self._backend.describe()
        kernel = str(facts.get("kernel", "gmpy2"))  # without the extension there is no other
        if variant not in ("", kernel):
            raise LookupError(f"no {variant} kernel here, {kernel} was chosen")
        self.facts = {
            "version": residue.__version__,
            "library": facts["library"],
            "kernel": kernel,
            "algorithm": "DJN: h^x by a comb table, x of half the key's size",
        }

    def key(self, bits: int, inputs: dict[str, Any]) -> None:
        """A key, its comb table grown to the size of steady use."""
        self._inputs = inputs
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", InsecureKeyWarning)  # the key lives in this run only
            self._pk, self._sk = keygen(bits, insecure_allow_1024=True, device=self._backend)
        self._pk.encrypt(np.zeros(_WARM_UP_ENCRYPTIONS)).residues.wait()
        self._few = self._pk.encrypt(np.array(inputs["x"][: inputs["distinct"]]))

    def prepare(self, operation: str, count: int) -> Callable[[], Any]:
        """A turn of the operation on `count` elements."""
        pk, sk, inputs = self._pk, self._sk, self._inputs
        x = np.resize(np.array(inputs["x"]), count)
        if operation in ("encrypt", "encrypt_classic"):
            scheme: Any = "classic" if operation == "encrypt_classic" else "djn"
            return lambda: _done(pk.encrypt(x, scheme=scheme))
        if operation == "rsa":
            return self._rsa(count)
        if operation == "matmul":
            size = count // 2  # each element meets two columns
            matrix = self._few[np.arange(size) % inputs["distinct"]].reshape(-1, 100)
            weights = np.array(inputs["weights"])
            return lambda: _done(matrix @ weights)
        c = self._few[np.arange(count) % inputs["distinct"]]
        if operation == "decrypt":
            return lambda: sk.decrypt(c)
        if operation == "ct_x_pt":
            factors = np.resize(np.array(inputs["factors"]), count)
            return lambda: _done(c * factors)
        other = pk.encrypt(np.array(inputs["y"][: inputs["distinct"]]))
        d = other[np.arange(count) % inputs["distinct"]]
        return lambda: _done(c + d)

    def answers(self, operation: str, result: Any, limit: int) -> list[int]:
        """The first plaintexts of a turn's result."""
        if operation == "rsa":
            return [int(m) for m in result[:limit]]
        if operation == "decrypt":
            return [int(m) for m in result[:limit]]
        return [int(m) for m in self._sk.decrypt(result.ravel()[:limit], dtype=object)]

    def _rsa(self, count: int) -> Callable[[], list[mpz]]:
        """RSA as a library on the backend would do it: two powers of half size, then CRT."""
        bits = self._pk.bits // 2
        e = 65537
        p, q = (_rsa_prime(bits, e) for _ in range(2))
        n, inverse = p * q, gmpy2.invert(q, p)
        messages = islice(cycle(self._inputs["messages"]), count)
        ciphertexts = [gmpy2.powmod(m, e, n) for m in messages]
        limbs = -(-bits // 64)
        halves = [
            (
                prime,
                self._backend.register(int(prime)),
                to_limbs([gmpy2.invert(e, prime - 1)], limbs),
            )
            for prime in (p, q)
        ]

        def turn() -> list[mpz]:
            mp, mq = (
                from_limbs(
                    self._backend.download(
                        self._backend.pow(
                            self._backend.upload(
                                modulus, to_limbs([c % prime for c in ciphertexts], limbs)
                            ),
                            d,
                            bits,
                        )
                    )
                )
                for prime, modulus, d in halves
            )
            return [b + q * ((a - b) * inverse % p) for a, b in zip(mp, mq, strict=True)]

        return turn


def _rsa_prime(bits: int, e: int) -> mpz:
    while True:
        prime = random_prime(bits)
        if gmpy2.gcd(prime - 1, e) == 1:
            return prime


def _done(c: Any) -> Any:
    c.residues.wait()
    return c
