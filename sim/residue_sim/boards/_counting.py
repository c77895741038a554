"""The driver's own commands for an operation, recorded by a card that computes nothing.

`CountingPort` answers as a card of any configuration does, completes every command at once and
notes what was asked. Residues that leave the card are all 1, which every check of the driver and of
decryption accepts: operations run as on a real card, and the commands are those it would get.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import gmpy2
import numpy as np

from residue.backends._card import CardBackend
from residue.card import _abi as abi
from residue.card._abi import Opcode, Register, Status
from residue.card._port import Bytes
from residue.errors import InsecureKeyWarning
from residue.paillier import PrivateKey, PublicKey
from residue_sim.boards._facts import BoardError
from residue_sim.manifest import Configuration

__all__ = ["OPERATIONS", "CountingPort", "Issued", "Operation", "Work", "work_of"]

_BASE = 0x1000_0000
_PAGE = 4096


@dataclass(frozen=True)
class Issued:
    """One command as the card saw it.

    Attributes:
        opcode: its name, lower case.
        digits: k of its modulus.
        count, length, window: fields of the command.
        exponent_bytes: exponent string of one element; 0 where all share one.
        initial: whether POW_FIXED or MULTI_POW start from a source.
    """

    opcode: str
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


class CountingPort:
    """A `residue.card._port.Port` to a card of `configuration` that records, not computes."""

    has_interrupt = True
    partial_writes = True
    name = "counting"

    def __init__(self, configuration: Configuration) -> None:
        self.issued: list[Issued] = []
        self._buffers: dict[int, Bytes] = {}
        self._next = _BASE
        self._registers: Counter[int] = Counter()
        c = configuration
        self._registers |= Counter({
            Register.ID: abi.CARD_ID,
            Register.VERSION: abi.VERSION_MAJOR.put(abi.ABI_MAJOR),
            Register.CAP0: abi.CAP0_WORD_BITS.put(c.word_bits)
            | abi.CAP0_ELEMENTS.put(c.elements) | abi.CAP0_RINGS.put(c.rings)
            | abi.CAP0_LOG2_AXI_BYTES.put((c.axi_data_bits // 8).bit_length() - 1),
            Register.CAP1: abi.CAP1_MAX_MODULUS_BITS.put(c.max_modulus_bits)
            | abi.CAP1_MAX_EXPONENT_BITS.put(c.max_exponent_bits),
            Register.CAP2: abi.CAP2_CONTEXTS.put(c.contexts)
            | abi.CAP2_MAX_WORDS.put(c.max_words),
            Register.CAP3: abi.CAP3_TABLE_ENTRIES.put(c.table_entries),
            Register.CAP4: abi.CAP4_DIGITS_PER_WORD.put(c.digits_per_word)
            | abi.CAP4_MASTERS.put(c.masters),
            Register.CTRL: abi.CTRL_AP_IDLE.put(1),
        })  # fmt: skip

    def read32(self, offset: int) -> int:
        """Read a register."""
        return self._registers[offset]

    def write32(self, offset: int, value: int) -> None:
        """Write a register; a start completes all waiting commands."""
        if offset == Register.SOFT_RESET:
            self._registers[Register.HEAD] = self._registers[Register.TAIL] = 0
        elif offset == Register.CTRL:
            self._run()
            self._registers[Register.CTRL] |= abi.CTRL_AP_DONE.put(1)
        elif offset == Register.ISR:
            pass  # nothing is ever pending
        else:
            self._registers[offset] = value

    def allocate(self, nbytes: int) -> _Buffer:
        """Allocate a buffer; memory that is never touched costs nothing."""
        buffer = _Buffer(self._next, np.zeros(nbytes, np.uint8))
        self._buffers[self._next] = buffer.data
        self._next += -(-nbytes // _PAGE) * _PAGE
        return buffer

    def wait_interrupt(self, timeout: float) -> bool:
        """True: whatever was started is done."""
        return True

    def close(self) -> None:
        """Forget the buffers."""
        self._buffers.clear()

    def _run(self) -> None:
        size = self._registers[Register.QUEUE_SIZE]
        base = self._pair(Register.QUEUE_BASE_LO)
        entries = self._memory(base, size * abi.DESCRIPTOR_BYTES).reshape(size, -1)
        while self._registers[Register.HEAD] != self._registers[Register.TAIL]:
            entry = entries[self._registers[Register.HEAD] % size]
            command = entry[: abi.COMMAND_DTYPE.itemsize].view(abi.COMMAND_DTYPE)[0]
            self._note(command)
            record = np.zeros(1, abi.COMPLETION_DTYPE)
            record["status"], record["tag"] = Status.OK, command["tag"]
            start = abi.COMPLETION_OFFSET
            entry[start : start + record.nbytes] = record.view(np.uint8)
            self._registers[Register.HEAD] = self._registers[Register.HEAD] + 1 & 0xFFFF

    def _note(self, command: np.void) -> None:
        opcode = Opcode(int(command["opcode"]))
        modulus = int(command["modulus"])
        digits = int(self._memory(modulus, 8).view("<u8")[0]) if modulus else 0
        self.issued.append(Issued(
            opcode=opcode.name.lower(),
            digits=digits,
            count=int(command["count"]),
            length=int(command["length"]),
            window=int(command["window"]),
            exponent_bytes=16 * int(command["stride_e"]),
            initial=bool(int(command["src_a"])),
        ))  # fmt: skip
        if opcode is Opcode.FROM_MONT:
            stride, count = 16 * int(command["stride_dst"]), int(command["count"])
            ones = self._memory(int(command["dst"]), stride * count).reshape(count, stride)
            ones[:] = 0
            ones[:, 0] = 1

    def _pair(self, low: Register) -> int:
        return self._registers[low] | self._registers[low + 4] << 32

    def _memory(self, address: int, nbytes: int) -> Bytes:
        start = max(base for base in self._buffers if base <= address)
        return self._buffers[start][address - start : address - start + nbytes]


class _Buffer:
    """A buffer of `CountingPort`."""

    def __init__(self, address: int, data: Bytes) -> None:
        self.physical_address = address
        self.data = data
        self.nbytes = data.nbytes

    def write(self, offset: int, data: Bytes) -> None:
        self.data[offset : offset + data.nbytes] = data

    def read(self, offset: int, nbytes: int) -> Bytes:
        return self.data[offset : offset + nbytes].copy()

    def free(self) -> None:
        """Memory is given back with the port."""


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
    port = CountingPort(configuration)
    backend = CardBackend(port, check_rate=0.0)
    backend.host_squares = True
    pk, sk = _keys(key_bits, backend)
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
    fill = {}
    for bits in (key_bits, 2 * key_bits):
        machine = backend._machine(backend.register((1 << bits) - 1))
        fill[machine.layout.digits] = -(-machine.fill // configuration.rings)
    backend.synchronize()
    result = []
    for operation, (count, turn) in zip(OPERATIONS, turns, strict=True):
        port.issued.clear()
        turn()
        backend.synchronize()
        result.append(Work(operation, count, tuple(Counter(port.issued).items()), fill))
    backend.close()
    return result


def _keys(bits: int, backend: CardBackend) -> tuple[PublicKey, PrivateKey]:
    """Keys of exactly `bits` bits whose primes anyone can compute: for counting only."""
    half = bits // 2
    p, q = (_blum_prime((3 << half - 2) + start) for start in (0, 1 << half // 2))
    n = p * q
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InsecureKeyWarning)
        pk = PublicKey(int(n), int(gmpy2.powmod(-4, n, n * n)), device=backend)
        return pk, PrivateKey(pk, int(p), int(q))


def _blum_prime(start: int) -> gmpy2.mpz:
    """The least prime above `start` that is 3 modulo 4."""
    prime = gmpy2.next_prime(start)
    while prime % 4 != 3:
        prime = gmpy2.next_prime(prime)
    return prime


def _limbs(value: int) -> Any:
    size = -(-value.bit_length() // 64)
    return np.frombuffer(value.to_bytes(8 * size, "little"), "<u8").reshape(1, size)
