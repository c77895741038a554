"""What a card does on its buses, and when, is the same whatever the secrets are.

Every run is a fresh card on a memory whose random latencies start from the same seed. So runs are
compared in absolute cycles: each burst's cycle, address, length and port, and each completion
record. One program holds every command that takes a secret; operands, exponents, and the moduli of
a CRT (squares of primes) are secret.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import gmpy2
import numpy as np
import pytest
from numpy.typing import NDArray

from residue.card import _abi as abi
from residue.card._abi import CommandFlag, Opcode, Register
from residue_sim.board import Card, Latency
from residue_sim.board._build import card_library
from residue_sim.manifest import Configuration, configurations
from residue_sim.scenarios import Program
from residue_sim.stimuli import odd_modulus

BASE = 0x1000_0000
MEMORY_BYTES = 1 << 24
LONG = 10_000_000  # cycles that nothing here comes near
BITS = 11  # of exponents: not a whole number of windows


@dataclass(frozen=True)
class Secrets:
    """What a run computes with: `count` moduli, operands of each kind and exponents."""

    moduli: list[int]
    values: list[int]
    others: list[int]
    exponents: list[int]


def _prime_square(rng: random.Random, bits: int) -> int:
    """Of exactly `bits` bits."""
    low = int(gmpy2.isqrt(1 << (bits - 1)))
    while True:
        square = int(gmpy2.next_prime(rng.randrange(low, 1 << bits // 2))) ** 2
        if square.bit_length() == bits:
            return square


def choices(rng: random.Random, bits: int, count: int, pairs: int) -> Iterator[Secrets]:
    """Edge cases first, then `pairs` pairs of random ones; values are below 2 N~."""
    all_ones, high_bit = (1 << bits) - 1, 1 << (bits - 1)
    longest, top = (1 << BITS) - 1, 1 << (BITS - 1)
    below = high_bit - 1
    for modulus, value, other, exponent in (
        (high_bit | 1, 0, 0, 0),
        (all_ones, 2 * all_ones - 1, 2 * all_ones - 1, longest),  # N~ = N here
        (_prime_square(rng, bits), 1, 0, 1),
        (_prime_square(rng, bits), 1 << (bits - 2), 1, top),
        (all_ones, 0, below, longest),
        (high_bit | 1, below, 1 << (bits - 2), 0),
    ):
        yield Secrets([modulus] * count, [value] * count, [other] * count, [exponent] * count)
    for i in range(2 * pairs):
        make = (odd_modulus, _prime_square)[i % 2]
        yield Secrets(
            [make(rng, bits) for _ in range(count)],
            [rng.randrange(high_bit) for _ in range(count)],
            [rng.randrange(high_bit) for _ in range(count)],
            [rng.getrandbits(BITS) for _ in range(count)],
        )


def program_of(configuration: Configuration, secrets: Secrets, length: int = BITS) -> Program:
    """Every command that takes a secret; of its results only the course matters here."""
    program = Program(configuration, BASE)
    modulus, count = secrets.moduli[0], len(secrets.values)
    domain, _ = program.domain(modulus)
    _, blocks, stride_n = program.blocks(secrets.moduli)
    src_a, stride = program.residues(secrets.values, domain)
    src_b, _ = program.residues(secrets.others, domain)
    strings, stride_e = program.strings(secrets.exponents, BITS)
    table, _ = program.residues((secrets.values + secrets.others) * 16, domain)
    index = [(5 * i + 1) % count for i in range(3 * count)]
    gathered = program.place(struct.pack(f"<{len(index)}I", *index))

    def add(opcode: Opcode, results: int = count, **fields: int) -> None:
        dst = program.place(bytes(results * stride))
        same: dict[str, Any] = {"src_a": src_a, "stride_a": stride, "dst": dst,
                                "stride_dst": stride, "count": count}  # fmt: skip
        program.add(opcode, None if "block" in fields else modulus, **same | fields)

    power = {"window": 4, "exponents": strings, "stride_e": stride_e, "length": length}
    rows = {"src_b": table, "stride_b": stride, "exponents": strings, "stride_e": stride_e}
    add(Opcode.TO_MONT)
    add(Opcode.FROM_MONT)
    add(Opcode.MUL, src_b=src_b, stride_b=stride)
    add(Opcode.MUL, src_b=src_b, stride_b=0)
    add(Opcode.SQR, length=3)
    add(Opcode.POW, **power)
    add(Opcode.POW, **power | {"stride_e": 0})
    add(Opcode.POW, **power, block=blocks, stride_b=stride_n,
        flags=CommandFlag.MODULUS_PER_ELEMENT)  # fmt: skip
    add(Opcode.POW_FIXED, **rows, window=2, length=5)
    add(Opcode.POW_FIXED, **rows, window=1, length=BITS, flags=CommandFlag.INIT_FROM_A)
    add(Opcode.MULTI_POW, **rows, window=4, length=2, flags=CommandFlag.INIT_FROM_A)
    add(Opcode.PROD, exponents=gathered, length=3)
    add(Opcode.TABLE, results=4 * count, window=2)
    return program


@dataclass(frozen=True)
class Course:
    """What a program's run looks like from outside."""

    bursts: NDArray[np.uint64]
    records: NDArray[np.void]
    cycles: int


def run(program: Program, latency: Latency) -> Course:
    """From reset to the end of the queue."""
    card = Card(
        card_library(program.configuration), memory_base=BASE, memory_bytes=MEMORY_BYTES,
        latency=latency, seed=3,
    )  # fmt: skip
    card.watch()
    card.memory[: len(program.image)] = np.frombuffer(program.image, np.uint8)
    for register, value in (
        (Register.MEM_BASE_LO, BASE),
        (Register.MEM_LIMIT_LO, program.limit),
        (Register.QUEUE_BASE_LO, BASE),
        (Register.QUEUE_SIZE, program.queue_size),
        (Register.TAIL, len(program.expected)),
        (Register.CTRL, abi.CTRL_AP_START.mask),
    ):
        card.write32(register, value)
    assert card.run_until(Register.HEAD, 0xFFFF, len(program.expected), LONG)
    program.check(lambda at, size: card.memory[at - BASE : at - BASE + size].tobytes())
    queue = card.memory[: program.queue_size * abi.DESCRIPTOR_BYTES]
    entries = queue.reshape(-1, abi.DESCRIPTOR_BYTES)[:, abi.COMPLETION_OFFSET :]
    records = np.ascontiguousarray(entries).view(abi.COMPLETION_DTYPE)[: len(program.expected), 0]
    course = Course(card.watched(), records, card.cycles)
    card.close()
    return course


def same(first: Course, second: Course) -> bool:
    return first.cycles == second.cycles and np.array_equal(first.bursts, second.bursts)


@pytest.mark.parametrize("latency", ["fast", "random:24"])
@pytest.mark.parametrize(
    ("bits", "groups", "pairs"),
    [(512, 0, 1), *(pytest.param(bits, 1, 12, marks=pytest.mark.full) for bits in (512, 1024))],
)
@pytest.mark.parametrize(
    "name", ["small", "small4", pytest.param("small_k", marks=pytest.mark.full)]
)
def test_cycles_and_addresses_ignore_secrets(
    name: str, bits: int, groups: int, pairs: int, latency: str
) -> None:
    """`groups` full groups of contexts on every ring, and a few elements more."""
    configuration = configurations()[name]
    count = configuration.rings * configuration.contexts * groups + 5
    rng = random.Random(bits)
    speed = Latency.parse(latency)
    first: Course | None = None
    for secrets in choices(rng, bits, count, pairs):
        program = program_of(configuration, secrets)
        course = run(program, speed)
        first = first or course
        for told, record, wanted in zip(
            program.expected, course.records, first.records, strict=True
        ):
            assert record == wanted, told.name
        assert same(course, first)
    assert first is not None
    assert set(first.bursts[:, 3]) == set(range(2 * configuration.masters))
    longer = run(program_of(configuration, secrets, length=BITS + 4), speed)
    assert not same(longer, first), "what is public shows"
