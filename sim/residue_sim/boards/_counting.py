"""The driver's own commands for an operation, recorded by a card that computes nothing.

`CountingCard` is the functional model of a card without its arithmetic: it notes what was asked.
Residues that leave it are all 1, which every check of the driver and of decryption accepts:
operations run as on a real card, and the commands are those it would get.
"""

from __future__ import annotations

import functools
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import gmpy2
import numpy as np

from residue.backends._card import CardBackend
from residue.card import _abi as abi
from residue.card._abi import Opcode, Status
from residue.errors import InsecureKeyWarning
from residue.paillier import PrivateKey, PublicKey
from residue_sim.boards._facts import BoardError
from residue_sim.card_model import CardModel, Command, Memory, ModelBoard
from residue_sim.manifest import Configuration

__all__ = [
    "OPERATIONS",
    "CountingCard",
    "Issued",
    "Operation",
    "Work",
    "counting_board",
    "counting_keys",
    "fill_of",
    "work_of",
]


@dataclass(frozen=True)
class Issued:
    """One command as the card saw it.

    Attributes:
        opcode: what it does.
        digits: k of its modulus.
        count, length, window: fields of the command.
        exponent_bytes: exponent string of one element; 0 where all share one.
        initial: whether POW_FIXED or MULTI_POW start from a source.
    """

    opcode: Opcode
    digits: int
    count: int
    length: int
    window: int
    exponent_bytes: int
    initial: bool


@dataclass(frozen=True)
class Operation:
    """A row of the table: what is measured, by which scheme, and what one operation is."""

    name: str
    scheme: str
    unit: str


OPERATIONS = (
    Operation("encrypt", "djn", "ciphertext, from host memory to host memory"),
    Operation("encrypt", "classic", "ciphertext, from host memory to host memory"),
    Operation("r^n", "classic", "power r^n mod n^2, on the card"),
    Operation("decrypt", "crt", "ciphertext, from host memory to host memory"),
    Operation("add", "any", "sum of two ciphertexts, on the card"),
    Operation("ct_x_pt", "any", "product with a signed 63-bit number, on the card"),
    Operation("matmul", "any", "multiplication of a 20 x 100 by 100 x 2 product, on the card"),
)


@dataclass(frozen=True)
class Work:
    """What a batch of an operation costs the card.

    Attributes:
        operation: which.
        elements: operations in the batch.
        commands: distinct commands and how often each was issued.
        fill: products in flight that fill one ring, by digits of the modulus, as the driver knows.
    """

    operation: Operation
    elements: int
    commands: tuple[tuple[Issued, int], ...]
    fill: Mapping[int, int]


class CountingCard(CardModel):
    """A card that notes commands in `issued` and computes nothing: residues leave it as 1."""

    def __init__(self, configuration: Configuration, memory: Memory, issued: list[Issued]) -> None:
        self._issued = issued
        super().__init__(configuration, memory)

    def complete(self, command: Command) -> bytes:
        """Note one command; its completion record."""
        opcode = Opcode(command.opcode)
        digits = self.memory.read(command.modulus, 8) if command.modulus else b""
        self._issued.append(Issued(
            opcode=opcode,
            digits=int.from_bytes(digits, "little"),
            count=command.count,
            length=command.length,
            window=command.window,
            exponent_bytes=command.stride_e,
            initial=bool(command.src_a),
        ))  # fmt: skip
        if opcode is Opcode.FROM_MONT:
            one = (1).to_bytes(command.stride_dst, "little")
            self.memory.write(command.dst, one * command.count)
        record = np.zeros(1, abi.COMPLETION_DTYPE)
        record["status"], record["tag"] = Status.OK, command.tag
        return record.tobytes()


def counting_board(configuration: Configuration) -> tuple[ModelBoard, list[Issued]]:
    """A board with such a card, and the list that its commands are noted in."""
    issued: list[Issued] = []

    def card(configuration: Configuration, memory: Memory) -> CountingCard:
        return CountingCard(configuration, memory, issued)

    # Memory that is never touched costs nothing.
    board = ModelBoard(configuration, memory_bytes=1 << 30, partial_writes=True, card=card)
    return board, issued


def work_of(configuration: Configuration, key_bits: int) -> list[Work]:
    """Commands of every operation at a key size, a batch of four turns of all contexts each.

    Fixed bases' tables are built before, as in a long run.

    Raises:
        BoardError: the card is too small for ciphertexts of such keys.
    """
    if 2 * key_bits > configuration.max_modulus_bits:
        raise BoardError(
            f"configuration {configuration.name} takes moduli of {configuration.max_modulus_bits} "
            f"bits; {key_bits}-bit keys need {2 * key_bits}"
        )
    board, issued = counting_board(configuration)
    backend = CardBackend(board, check_rate=0.0)
    backend.host_squares = True
    pk, sk = counting_keys(key_bits, backend)
    elements = 4 * configuration.rings * configuration.contexts
    numbers = np.arange(elements)
    c = pk.encrypt(numbers)
    matrix = pk.encrypt(np.zeros((20, 100)))
    factors = np.full(elements, 2**63 - 1)
    W = np.full((100, 2), 0.5)
    r = backend.upload(pk.modulus, np.ones((elements, pk.modulus.limbs), np.uint64))
    n = _limbs(pk.n)
    turns: Iterable[tuple[int, Callable[[], Any]]] = (
        (elements, lambda: pk.encrypt(numbers, scheme="djn").to_limbs()),
        (elements, lambda: pk.encrypt(numbers, scheme="classic").to_limbs()),
        (elements, lambda: backend.pow(r, n, key_bits)),
        (elements, lambda: sk.decrypt(c)),
        (elements, lambda: c + c),
        (elements, lambda: c * factors),
        (4000, lambda: matrix @ W),
    )
    fill = fill_of(backend, configuration, key_bits)
    backend.synchronize()
    result = []
    for operation, (count, turn) in zip(OPERATIONS, turns, strict=True):
        issued.clear()
        turn()
        backend.synchronize()
        result.append(Work(operation, count, tuple(Counter(issued).items()), fill))
    backend.close()
    return result


def fill_of(backend: CardBackend, configuration: Configuration, key_bits: int) -> dict[int, int]:
    """Products in flight that fill one ring, by digits of the moduli of such keys."""
    fill = {}
    for bits in (key_bits, 2 * key_bits):
        machine = backend.machine(backend.register((1 << bits) - 1))
        fill[machine.layout.digits] = -(-machine.fill // configuration.rings)
    return fill


def counting_keys(bits: int, backend: CardBackend) -> tuple[PublicKey, PrivateKey]:
    """Keys of exactly `bits` bits whose primes anyone can compute: for counting only."""
    half = bits // 2
    p, q = (_blum_prime((3 << half - 2) + start) for start in (0, 1 << half // 2))
    n = p * q
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InsecureKeyWarning)
        pk = PublicKey(int(n), int(gmpy2.powmod(-4, n, n * n)), device=backend)
        return pk, PrivateKey(pk, int(p), int(q))


@functools.cache
def _blum_prime(start: int) -> gmpy2.mpz:
    """The least prime above `start` that is 3 modulo 4."""
    prime = gmpy2.next_prime(start)
    while prime % 4 != 3:
        prime = gmpy2.next_prime(prime)
    return prime


def _limbs(value: int) -> Any:
    size = -(-value.bit_length() // 64)
    return np.frombuffer(value.to_bytes(8 * size, "little"), "<u8").reshape(1, size)
