"""Programs for the whole card and what must be in memory after them.

A `Program` lays out a memory image with a command queue, operands and modulus blocks, and knows for
every command the status and the results that plain integer arithmetic demands. Whatever runs it
(a cocotb bench, the simulated board, the functional model) loads `image` at `base`, processes the
queue and hands the memory back to `check`.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import xor
from typing import Any

import numpy as np

from residue.card import _abi as abi
from residue.card._abi import CommandFlag, Opcode, Status
from residue_sim.golden import Montgomery, from_words, to_words
from residue_sim.manifest import Configuration
from residue_sim.stimuli import odd_modulus

__all__ = ["Program", "all_operations", "bad_commands", "encode", "short_operations"]

_ROW = 16  # rows of memory, the unit of addresses and strides
_WIDEST = 64  # bytes of the widest bus


def encode(fields: Mapping[str, int]) -> bytes:
    """A command as it lies in memory, with its check; strides in rows."""
    record = np.zeros(1, abi.COMMAND_DTYPE)
    for name, value in fields.items():
        record[name] = value
    record["check"] = abi.COMMAND_CHECK ^ reduce(xor, record.tobytes())
    return record.tobytes()


@dataclass(frozen=True)
class _Expected:
    """What one command must have done."""

    name: str
    status: Status
    tag: int
    address: int = 0
    stride: int = 0
    values: Sequence[int] = ()
    domains: Sequence[Montgomery] = ()  # one for all values, or one each
    canonical: bool = False


@dataclass
class Program:
    """A queue of commands with operands and expected results.

    Attributes:
        configuration: the card's configuration.
        base: physical address of `image`, 4 KiB aligned; also the window's start.
        queue_size: descriptors in the queue, a power of two.
    """

    configuration: Configuration
    base: int = 0
    queue_size: int = 64
    image: bytearray = field(init=False)
    expected: list[_Expected] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self.image = bytearray(self.queue_size * abi.DESCRIPTOR_BYTES)
        self._end = len(self.image)
        self._domains: dict[int, tuple[Montgomery, int]] = {}

    @property
    def limit(self) -> int:
        """First address after the image, which ends on a whole beat of any bus."""
        return self.base + len(self.image)

    def place(self, data: bytes) -> int:
        """Append `data` at the next row; its address."""
        start = self._end
        self._end = start + len(data) + -len(data) % _ROW
        self.image[start:] = data
        self.image += bytes(-len(self.image) % _WIDEST)
        return self.base + start

    def domain(self, modulus: int) -> tuple[Montgomery, int]:
        """Constants of a modulus and the address of its block."""
        if modulus not in self._domains:
            (domain,), address, _ = self.blocks([modulus])
            self._domains[modulus] = (domain, address)
        return self._domains[modulus]

    def blocks(self, moduli: Sequence[int], gap: int = 0) -> tuple[list[Montgomery], int, int]:
        """Place modulus blocks of one size; their constants, address and stride in bytes."""
        c = self.configuration
        domains = [
            Montgomery.of(m, c.word_bits, c.elements, digits_per_word=c.digits_per_word)
            for m in moduli
        ]
        blocks = [struct.pack(f"<{len(d.block())}Q", *d.block()) for d in domains]
        stride = len(blocks[0]) + _ROW * gap
        return domains, self.place(b"".join(block.ljust(stride) for block in blocks)), stride

    def residues(self, values: Iterable[int], domain: Montgomery, gap: int = 0) -> tuple[int, int]:
        """Place residues `gap` rows apart; address and stride in bytes."""
        stride = 8 * domain.k + _ROW * gap
        packed = (
            struct.pack(f"<{domain.k}Q", *to_words(v, domain.word_bits, domain.k)).ljust(stride)
            for v in values
        )
        return self.place(b"".join(packed)), stride

    def strings(self, exponents: Iterable[int], bits: int) -> tuple[int, int]:
        """Place exponent strings; address and stride in bytes."""
        stride = -(-bits // 128) * _ROW
        return self.place(b"".join(e.to_bytes(stride, "little") for e in exponents)), stride

    def add(
        self,
        opcode: int,
        modulus: int | None = None,
        *,
        expect: Sequence[int] = (),
        status: Status = Status.OK,
        gap: int = 0,
        domains: Sequence[Montgomery] = (),
        **fields: int,
    ) -> None:
        """Append a command; strides in bytes; `dst` is laid out here unless it is given.

        `block` overrides the address of the modulus block; `domains` are those of the results where
        each has a modulus of its own.
        """
        index = len(self.expected)
        if index >= self.queue_size:
            raise ValueError("the queue is full")
        block = 0
        if modulus is not None:
            domain, block = self.domain(modulus)
            domains = [domain]
        stride = 0
        if domains and expect:
            stride = 8 * domains[0].k + _ROW * gap
            fields.setdefault("dst", self.place(bytes([0xA5]) * (stride * len(expect))))
            fields.setdefault("stride_dst", stride)
        tag = 0xC0DE0000 + index
        values = {"opcode": opcode, "modulus": fields.pop("block", block), "tag": tag, **fields}
        raw = encode({n: v // _ROW if n.startswith("stride") else v for n, v in values.items()})
        start = index * abi.DESCRIPTOR_BYTES + abi.COMMAND_OFFSET
        self.image[start : start + len(raw)] = raw
        self.expected.append(
            _Expected(
                name=f"{index}: {opcode} {fields}",
                status=status,
                tag=tag,
                address=fields.get("dst", 0),
                stride=stride,
                values=expect,
                domains=domains,
                canonical=opcode == Opcode.FROM_MONT,
            )
        )

    def check(self, read: Callable[[int, int], bytes]) -> None:
        """Compare memory with what the commands must have left there.

        Args:
            read: bytes at (address, length) after the run.
        """
        for index, expected in enumerate(self.expected):
            entry = self.base + index * abi.DESCRIPTOR_BYTES + abi.COMPLETION_OFFSET
            status, tag = struct.unpack("<II", read(entry, 8))
            assert status == expected.status, f"{expected.name}: status {status}"
            assert tag == expected.tag, f"{expected.name}: tag {tag:#x}"
            if not expected.domains or expected.status != Status.OK:
                continue
            for i, value in enumerate(expected.values):
                domain = expected.domains[i % len(expected.domains)]
                words = read(expected.address + i * expected.stride, 8 * domain.k)
                got = from_words(struct.unpack(f"<{domain.k}Q", words), domain.word_bits)
                where = f"{expected.name}, result {i}"
                if expected.canonical:
                    assert got == value, f"{where}: {got:#x}, not {value:#x}"
                else:
                    assert got < 2 * domain.n_tilde, f"{where}: out of range"
                    assert got % domain.n_tilde == value % domain.n_tilde, f"{where}: wrong value"


def _edge_values(rng: random.Random, domain: Montgomery, count: int) -> list[int]:
    """Operands below 2 N~: the edges first, then random ones."""
    top = 2 * domain.n_tilde - 1
    edges = [0, 1, domain.modulus - 1, domain.n_tilde, top, domain.one, (1 << domain.word_bits) - 1]
    return (edges + [rng.randrange(top) for _ in range(max(0, count - len(edges)))])[:count]


def all_operations(
    program: Program, modulus: int, rng: random.Random, *, count: int, exponent_bits: int = 20
) -> None:
    """Every operation once on `count` elements of one modulus, results checked."""
    d, _ = program.domain(modulus)
    n_tilde, one = d.n_tilde, d.one
    inverse = pow(d.r, -1, n_tilde)
    values = _edge_values(rng, d, count)
    others = _edge_values(rng, d, count)[::-1]
    src_a, stride_a = program.residues(values, d, gap=1)
    src_b, stride_b = program.residues(others, d)
    a: dict[str, Any] = {"src_a": src_a, "stride_a": stride_a, "count": count}

    def power(x: int, e: int) -> int:
        return pow(x * inverse, e, n_tilde) * one % n_tilde

    program.add(Opcode.TO_MONT, modulus, expect=[v * d.r for v in values], gap=2, **a)
    program.add(Opcode.FROM_MONT, modulus, expect=[v * inverse % modulus for v in values], **a)
    product = [x * y * inverse for x, y in zip(values, others, strict=True)]
    program.add(Opcode.MUL, modulus, expect=product, src_b=src_b, stride_b=stride_b, **a)
    broadcast = [x * others[0] * inverse for x in values]
    program.add(Opcode.MUL, modulus, expect=broadcast, src_b=src_b, stride_b=0, **a)
    squarings = rng.randrange(1, 4)
    program.add(
        Opcode.SQR,
        modulus,
        expect=[power(v, 1 << squarings) for v in values],
        length=squarings,
        **a,
    )

    exponents = [0, 1, (1 << exponent_bits) - 1, 1 << (exponent_bits - 1)]
    exponents += [rng.getrandbits(exponent_bits) for _ in range(count)]
    exponents = exponents[:count]
    strings, stride_e = program.strings(exponents, exponent_bits)
    program.add(
        Opcode.POW,
        modulus,
        expect=[power(v, e) for v, e in zip(values, exponents, strict=True)],
        window=4,
        length=exponent_bits,
        exponents=strings,
        stride_e=stride_e,
        **a,
    )

    shared = exponents[-1]
    program.add(
        Opcode.POW,
        modulus,
        expect=[power(v, shared) for v in values],
        window=4,
        length=exponent_bits,
        exponents=strings + (count - 1) * stride_e,
        stride_e=0,
        **a,
    )

    moduli = [odd_modulus(rng, modulus.bit_length()) for _ in range(count)]
    domains, blocks, stride_b = program.blocks(moduli, gap=1)
    each = [rng.randrange(2 * own.n_tilde) for own in domains]
    src_each, stride_each = program.residues(each, d)
    program.add(
        Opcode.POW,
        expect=[
            pow(v * pow(own.r, -1, own.n_tilde), e, own.n_tilde) * own.one
            for v, e, own in zip(each, exponents, domains, strict=True)
        ],
        domains=domains,
        flags=CommandFlag.MODULUS_PER_ELEMENT,
        block=blocks,
        stride_b=stride_b,
        window=4,
        length=exponent_bits,
        exponents=strings,
        stride_e=stride_e,
        src_a=src_each,
        stride_a=stride_each,
        count=count,
    )

    for opcode, window, rows, flags in (
        (Opcode.POW_FIXED, 2, 3, 0),
        (Opcode.MULTI_POW, 4, 2, CommandFlag.INIT_FROM_A),
        (Opcode.POW_FIXED, 1, 1, CommandFlag.INIT_FROM_A),
    ):
        entries = [rng.randrange(2 * n_tilde) for _ in range(rows << window)]
        table, stride_t = program.residues(entries, d, gap=opcode == Opcode.MULTI_POW)
        digits = [[rng.randrange(1 << window) for _ in range(rows)] for _ in range(count)]
        packed = [sum(g << (i * window) for i, g in enumerate(row)) for row in digits]
        strings, stride_e = program.strings(packed, rows * window)
        expect = []
        for v, row in zip(values, digits, strict=True):
            acc = v if flags else one
            for i, g in enumerate(row):
                acc = acc * entries[(i << window) + g] * inverse % n_tilde
            expect.append(acc)
        program.add(
            opcode,
            modulus,
            expect=expect,
            window=window,
            flags=flags,
            length=rows,
            src_b=table,
            stride_b=stride_t,
            exponents=strings,
            stride_e=stride_e,
            **a,
        )

    length = 3
    index = [[rng.randrange(count) for _ in range(count)] for _ in range(length)]
    flat = [i for row in index for i in row]
    at = program.place(struct.pack(f"<{len(flat)}I", *flat))
    expect = []
    for j in range(count):
        acc = one
        for row in index:
            acc = acc * values[row[j]] * inverse % n_tilde
        expect.append(acc)
    program.add(Opcode.PROD, modulus, expect=expect, length=length, exponents=at, **a)

    window = 2
    expect = [power(v, e) for v in values for e in range(1 << window)]
    program.add(Opcode.TABLE, modulus, expect=expect, window=window, **a)
    program.add(Opcode.SELFTEST, modulus, length=3)


def short_operations(program: Program, modulus: int, rng: random.Random, *, count: int) -> None:
    """A few operations of few products, results checked: whether a card is as good as new."""
    d, _ = program.domain(modulus)
    inverse = pow(d.r, -1, d.n_tilde)
    values = [rng.randrange(2 * d.n_tilde) for _ in range(count)]
    src, stride = program.residues(values, d)
    strings, stride_e = program.strings([0] * count, 2)
    operands: dict[str, Any] = {"src_a": src, "stride_a": stride, "count": count}
    square = [v * v * inverse for v in values]
    program.add(Opcode.SQR, modulus, expect=square, length=1, **operands)
    program.add(Opcode.MUL, modulus, expect=square, src_b=src, stride_b=stride, **operands)
    leave = [v * inverse % modulus for v in values]
    program.add(Opcode.FROM_MONT, modulus, expect=leave, **operands)
    table, stride_t = program.residues([values[0]] * 4, d)
    first = [v * values[0] ** 2 * inverse**2 for v in values]
    program.add(Opcode.POW_FIXED, modulus, expect=first, window=1, length=2, src_b=table,
                stride_b=stride_t, exponents=strings, stride_e=stride_e,
                flags=CommandFlag.INIT_FROM_A, **operands)  # fmt: skip


def bad_commands(program: Program, modulus: int, rng: random.Random) -> None:
    """One command for every error that a command can carry in itself, good ones between them."""
    d, block = program.domain(modulus)
    values = _edge_values(rng, d, 3)
    src_a, stride_a = program.residues(values, d)
    room = program.place(bytes(len(values) * stride_a))
    good: dict[str, Any] = {"src_a": src_a, "stride_a": stride_a, "count": len(values)}
    to = {"dst": room, "stride_dst": stride_a}
    strings, stride_e = program.strings([0, 0, 0], 128)
    power = {"window": 4, "exponents": strings, "stride_e": stride_e, "length": 8}
    fixed = {**power, "src_b": src_a, "stride_b": stride_a}
    longest = program.configuration.max_exponent_bits
    words = d.block()

    def block_with(position: int, value: int) -> int:
        changed = list(words)
        changed[position] = value
        return program.place(struct.pack(f"<{len(changed)}Q", *changed))

    first_n = abi.MODULUS_HEADER_WORDS + d.k
    even = block_with(first_n, words[first_n] & ~1)
    odd_k = block_with(0, d.k + 1)
    small_k = block_with(0, 2)
    huge_k = block_with(0, program.configuration.max_words + 2)

    def bad(status: Status, opcode: int, *parts: dict[str, int], **more: int) -> None:
        fields: dict[str, Any] = {"block": block}
        for part in (*parts, more):
            fields |= part
        program.add(opcode, status=status, **fields)
        program.add(Opcode.SQR, modulus, expect=[v * v * pow(d.r, -1, d.n_tilde) for v in values],
                    length=1, **good)  # fmt: skip

    mul = Opcode.TO_MONT
    bad(Status.UNKNOWN_OPCODE, 0xEE, good, to)
    bad(Status.UNALIGNED, mul, good, to, src_a=src_a + 8)
    bad(Status.UNALIGNED, mul, good, to, dst=room + 4)
    bad(Status.UNALIGNED, mul, good, to, block=block + 1)
    bad(Status.UNALIGNED, Opcode.POW, good, to, power, exponents=strings + 2)
    bad(Status.OUT_OF_WINDOW, mul, good, to, src_a=1 << 40)
    bad(Status.OUT_OF_WINDOW, mul, good, to, dst=1 << 40)
    bad(Status.OUT_OF_WINDOW, mul, good, to, block=1 << 40)
    bad(Status.EVEN_MODULUS, mul, good, to, block=even)
    bad(Status.BAD_MODULUS, mul, good, to, block=odd_k)
    bad(Status.BAD_MODULUS, mul, good, to, block=small_k)
    bad(Status.BAD_MODULUS, mul, good, to, block=huge_k)
    bad(Status.ZERO_COUNT, mul, good, to, count=0)
    bad(Status.ZERO_COUNT, Opcode.SQR, good, to, length=0)
    bad(Status.EXPONENT_TOO_LONG, Opcode.POW, good, to, power, length=longest + 1,
        stride_e=longest)  # fmt: skip
    bad(Status.EXPONENT_TOO_LONG, Opcode.POW, good, to, power, length=129)
    bad(Status.BAD_WINDOW, Opcode.POW, good, to, power, window=2)
    bad(Status.BAD_WINDOW, Opcode.POW_FIXED, good, to, fixed, window=3)
    bad(Status.BAD_STRIDE, mul, good, to, stride_a=16)
    bad(Status.BAD_STRIDE, mul, good, to, stride_dst=0)
    bad(Status.BAD_CHECK, mul, good, to)
    changed = (len(program.expected) - 2) * abi.DESCRIPTOR_BYTES + abi.COMMAND_OFFSET
    program.image[changed + rng.choice((0, 3, 8, 48, 63))] ^= 1 << rng.randrange(8)
    index = program.place(struct.pack("<4I", 0, 1 << 31, 2, 0))
    bad(Status.OUT_OF_WINDOW, Opcode.PROD, good, to, exponents=index, length=1)
