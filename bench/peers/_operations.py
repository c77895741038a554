"""What is measured, on which inputs, what must come out, and the ratios that are aimed at."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

__all__ = [
    "CORES_TARGET",
    "GMPY2_TARGETS",
    "HEU_TARGETS",
    "KERNEL_TARGET",
    "LONGER",
    "OPERATIONS",
    "PHE_TARGETS",
    "Inputs",
]

OPERATIONS: dict[str, int] = {
    "encrypt": 256,
    "encrypt_classic": 64,
    "decrypt": 256,
    "add": 1024,
    "ct_x_pt": 256,
    "matmul": 4000,
    "rsa": 64,
}
"""Operation -> largest batch. ``matmul`` counts the multiplications of 20 x 100 by 100 x 2 and is
never divided. ``rsa`` is the private operation of a modulus of the key's size, by CRT."""

LONGER = 16
"""Long batches are so many times as large."""

# Ratios to reach on a machine with AVX512-IFMA.
HEU_TARGETS = {"encrypt": 4.0, "decrypt": 1.8, "add": 3.0, "ct_x_pt": 1.6, "matmul": 5.0}
PHE_TARGETS = {"encrypt": 80.0}
# On any machine: gmpy2 alone against ZPaillier; a native kernel against gmpy2; two cores to one.
GMPY2_TARGETS = {"encrypt": 0.8}
KERNEL_TARGET = 1.0
CORES_TARGET = 1.8

_DISTINCT = 16  # operands repeat: encrypting them is no part of most turns


@dataclass(frozen=True)
class Inputs:
    """Plaintexts of a run; element i of `x` and `y` equals element i mod `distinct`.

    Attributes:
        x: signed, below ``2**48``; what is encrypted.
        y: the other summand.
        factors: 63 bits, not negative: IPCL refuses negative ones.
        matrix: 20 x 100, elements of `x` in turn.
        weights: 100 x 2, below ``2**62``.
        messages: of RSA, not negative.
        distinct: after how many elements they repeat.
    """

    x: list[int] = field(repr=False)
    y: list[int] = field(repr=False)
    factors: list[int] = field(repr=False)
    matrix: list[list[int]] = field(repr=False)
    weights: list[list[int]] = field(repr=False)
    messages: list[int] = field(repr=False)
    distinct: int = _DISTINCT

    @classmethod
    def make(cls, seed: int = 1) -> Inputs:
        """The same numbers for every library of every run."""
        rng = random.Random(seed)

        def signed(bits: int) -> int:
            return rng.randrange(-(1 << bits) + 1, 1 << bits)

        few = [signed(48) for _ in range(_DISTINCT)]
        others = [signed(48) for _ in range(_DISTINCT)]
        n = max(OPERATIONS["add"], OPERATIONS["encrypt"])
        return cls(
            x=[few[i % _DISTINCT] for i in range(n)],
            y=[others[i % _DISTINCT] for i in range(n)],
            factors=[rng.randrange(1 << 62, 1 << 63) for _ in range(n)],
            matrix=[[few[(100 * i + j) % _DISTINCT] for j in range(100)] for i in range(20)],
            weights=[[rng.randrange(1 << 62) for _ in range(2)] for _ in range(100)],
            messages=[rng.randrange(1 << 48) for _ in range(OPERATIONS["rsa"])],
        )

    def expected(self, operation: str, count: int) -> list[int]:
        """The first `count` plaintexts of the operation's result, in C order."""
        if operation == "matmul":
            columns = list(zip(*self.weights, strict=True))
            products = [
                sum(a * b for a, b in zip(row, column, strict=True))
                for row in self.matrix
                for column in columns
            ]
            return products[:count]
        if operation == "rsa":
            return self.messages[:count]
        if operation == "add":
            return [a + b for a, b in zip(self.x[:count], self.y, strict=False)]
        if operation == "ct_x_pt":
            return [a * b for a, b in zip(self.x[:count], self.factors, strict=False)]
        return self.x[:count]
