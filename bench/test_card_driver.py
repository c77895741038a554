"""What the host spends around a card: conversions, index matrices, checks. No card is timed."""

from __future__ import annotations

import random
import struct
from typing import Any

import gmpy2
import numpy as np
import pytest
from gmpy2 import mpz

from residue._limbs import to_limbs
from residue.backends import _card_checks as checks
from residue.backends._card import CardBackend
from residue.backends._cpu_kernels import pow_sec
from residue.card._abi import Opcode, Status
from residue.card._digits import digits_from_limbs, limbs_from_digits
from residue_sim.card_model import CardModel, Command, ModelBoard
from residue_sim.manifest import configurations

rng = random.Random(1)
N = mpz(gmpy2.next_prime(1 << 1023) * gmpy2.next_prime(3 << 1022))


class Idle(CardModel):
    """Completes PROD without computing: what remains is the host's part."""

    def complete(self, command: Command) -> bytes:
        if command.opcode == Opcode.PROD:
            return struct.pack("<II7Q", Status.OK, command.tag, *[0] * 7)
        return super().complete(command)


@pytest.mark.parametrize("word_bits", [51, 50, 48])
def test_digits(benchmark: Any, word_bits: int) -> None:
    """1,000 residues of 2048 bits to digits and back."""
    rows = np.random.default_rng(1).integers(0, 2**63, (1000, 32)).astype(np.uint64)
    k = -(-2048 // word_bits)

    def both() -> Any:
        return limbs_from_digits(digits_from_limbs(rows, k, word_bits), 32, word_bits)

    assert np.array_equal(benchmark(both), rows)


@pytest.mark.parametrize("skew", [1, 8])
def test_histogram(benchmark: Any, skew: int) -> None:
    """2 million indices into 1,000 segments, even ones and ones of very different lengths."""
    board = ModelBoard(configurations()["kv260"], partial_writes=True, card=Idle)
    backend = CardBackend(board, check_rate=0.0)
    modulus = backend.register(int(N))
    a = backend.upload(modulus, to_limbs([mpz(3)] * 5000, modulus.limbs))
    generator = np.random.default_rng(1)
    total = 2_000_000
    index = generator.integers(0, len(a), total)
    cuts = np.sort((total * generator.random(999) ** skew).astype(np.int64))
    offsets = np.concatenate([[0], cuts, [total]])

    def issue() -> None:
        backend.prod(a, index, offsets)
        backend.synchronize()

    benchmark.pedantic(issue, rounds=3, warmup_rounds=1)


@pytest.mark.parametrize("way", ["identity", "again"])
def test_checking_a_batch(benchmark: Any, way: str) -> None:
    """1,000 results of `pow_fixed` with 512-bit exponents modulo 2048 bits; `again` does 10."""
    base = [mpz(rng.randrange(N))]
    exponents = [mpz(rng.getrandbits(512)) for _ in range(1000)]
    results = pow_sec(N, base * 1000, exponents)
    array: Any = base
    if way == "again":
        assert benchmark(lambda: pow_sec(N, base * 10, exponents[:10])) == results[:10]
        return
    proof = checks.pow_fixed_identity(array, to_limbs(exponents, 8), 512, N).make()
    assert benchmark(lambda: proof.holds(results, base)) is True
