"""Bad commands end with the documented status and disturb nothing, on the model and on the card."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import pytest

from residue.backends._protocol import OperationStats
from residue.card._abi import CommandFlag, Opcode, Status
from residue.card._device import Card, CardModulus
from residue.card._digits import Layout
from residue.card._port import Buffer, Port
from residue.card._queue import Command, Task
from residue.errors import CommandFailed
from residue_sim.board import Board, InProcess
from residue_sim.card_model import ModelBoard
from residue_sim.golden import Montgomery, from_words, to_words
from residue_sim.manifest import configurations

N = random.Random(1).getrandbits(300) | 1 | 1 << 299
DOMAIN = Montgomery.of(N, 51, 6)
SIZE = 8 * DOMAIN.k


class Bench:
    """A card with a modulus and a page of memory: operands, exponents, and results behind them."""

    def __init__(self, port: Port) -> None:
        self.card = Card(
            port, timeout=10, slack=16, queue_size=4, staging_bytes=4096, arena_bytes=4096,
            memory_limit=None,
        )  # fmt: skip
        self.modulus = self.card.modulus(N)
        self.page: Buffer = port.allocate(1 << 16)
        self.base = self.page.physical_address
        self.dst = self.base + 0x1000
        self.card.queue.set_window(self.base - (1 << 20), self.base + (1 << 20))
        words = [w for x in (3, 5) for w in to_words(DOMAIN.enter(x), 51, DOMAIN.k)]
        self.page.write(0, np.array(words, "<u8").view(np.uint8))

    def good(self) -> dict[str, int]:
        """Fields with which most commands work."""
        return {
            "src_a": self.base, "stride_a": SIZE, "src_b": self.base, "stride_b": SIZE,
            "exponents": self.base, "stride_e": 64, "dst": self.dst, "stride_dst": SIZE,
            "count": 2, "length": 4, "window": 4,
        }  # fmt: skip

    def run(
        self, opcode: int, fields: dict[str, int], modulus: CardModulus | None = None
    ) -> Status:
        """Status of one command."""
        task = Task("test", OperationStats())
        self.card.issue(task, opcode, modulus or self.modulus, **fields)  # type: ignore[arg-type]
        try:
            self.card.wait(task)
        except CommandFailed as error:
            (name,) = (s for s in Status.__members__ if f": {s} (" in str(error))
            return Status[name]
        return Status.OK

    def results(self, count: int) -> list[int]:
        """Residues at `dst`, out of Montgomery form."""
        raw = self.page.read(0, self.page.nbytes)[0x1000:][: count * SIZE]
        words = raw.view("<u8").reshape(count, DOMAIN.k)
        return [DOMAIN.leave(from_words(row.tolist(), 51)) for row in words]


@pytest.fixture(scope="module", params=["model", "board"])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    port: Any = (
        ModelBoard(configurations()["small"])
        if request.param == "model"
        else InProcess(Board("small"))
    )
    yield Bench(port)
    port.close()


class _Unknown(int):
    """An opcode that no card knows."""

    name = "opcode"


UNALIGNED = [
    (Opcode.TO_MONT, "src_a"), (Opcode.FROM_MONT, "dst"), (Opcode.MUL, "src_a"),
    (Opcode.MUL, "src_b"), (Opcode.MUL, "dst"), (Opcode.POW, "exponents"), (Opcode.SQR, "src_a"),
    (Opcode.POW_FIXED, "src_b"), (Opcode.MULTI_POW, "exponents"), (Opcode.PROD, "exponents"),
    (Opcode.PROD, "src_a"), (Opcode.TABLE, "dst"),
]  # fmt: skip

BAD = [
    (Status.UNKNOWN_OPCODE, _Unknown(12), {}),
    (Status.UNKNOWN_OPCODE, _Unknown(255), {}),
    *((Status.ZERO_COUNT, opcode, {"count": 0}) for opcode in list(Opcode)[1:10]),
    *(
        (Status.ZERO_COUNT, opcode, {"length": 0})
        for opcode in (
            Opcode.POW, Opcode.POW_FIXED, Opcode.MULTI_POW, Opcode.PROD, Opcode.SQR,
            Opcode.SELFTEST,
        )
    ),
    (Status.BAD_WINDOW, Opcode.POW, {"window": 2}),
    (Status.BAD_WINDOW, Opcode.POW_FIXED, {"window": 3}),
    (Status.BAD_WINDOW, Opcode.MULTI_POW, {"window": 0}),
    (Status.BAD_WINDOW, Opcode.TABLE, {"window": 16}),
    (Status.BAD_WINDOW, Opcode.POW_FIXED, {"window": 8}),
    (Status.EXPONENT_TOO_LONG, Opcode.POW, {"length": 516, "stride_e": 80}),
    (Status.EXPONENT_TOO_LONG, Opcode.POW, {"length": 132, "stride_e": 16}),
    (Status.EXPONENT_TOO_LONG, Opcode.POW_FIXED, {"length": 129, "stride_e": 80}),
    (Status.EXPONENT_TOO_LONG, Opcode.MULTI_POW, {"length": 33, "stride_e": 16}),
    (Status.BAD_STRIDE, Opcode.MUL, {"stride_a": SIZE - 16}),
    (Status.BAD_STRIDE, Opcode.MUL, {"stride_b": 16}),
    (Status.BAD_STRIDE, Opcode.MUL, {"stride_dst": 0}),
    (Status.BAD_STRIDE, Opcode.TABLE, {"stride_dst": SIZE - 16}),
    (Status.BAD_STRIDE, Opcode.POW_FIXED, {"stride_b": 0}),
    (Status.BAD_STRIDE, Opcode.PROD, {"stride_a": 16}),
    *((Status.OUT_OF_WINDOW, Opcode.MUL, {f: 16}) for f in ("src_a", "src_b", "dst")),
    (Status.OUT_OF_WINDOW, Opcode.POW, {"exponents": 16}),
    (Status.OUT_OF_WINDOW, Opcode.MUL, {"count": 3, "stride_a": 1 << 19}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("status", "opcode", "fields"), BAD, ids=lambda v: getattr(v, "name", str(v)).replace(" ", "")
)
def test_bad_command(bench: Bench, status: Status, opcode: int, fields: dict[str, int]) -> None:
    assert bench.run(opcode, bench.good() | fields) is status
    _still_works(bench)


@pytest.mark.parametrize(("opcode", "field"), UNALIGNED, ids=lambda v: getattr(v, "name", v))
def test_unaligned(bench: Bench, opcode: Opcode, field: str) -> None:
    fields = bench.good()
    fields[field] += 8
    assert bench.run(opcode, fields) is Status.UNALIGNED
    _still_works(bench)


@pytest.mark.parametrize(
    ("status", "word", "value"),
    [
        (Status.BAD_MODULUS, 0, 7),
        (Status.BAD_MODULUS, 0, 2),
        (Status.BAD_MODULUS, 0, 24),
        (Status.EVEN_MODULUS, 4 + DOMAIN.k, 2),
        (Status.SELFTEST_FAILED, 4 + 3 * DOMAIN.k, 1),
    ],
)
def test_bad_modulus_block(bench: Bench, status: Status, word: int, value: int) -> None:
    block = bench.modulus.layout.block().view("<u8").copy()
    block[word] = value
    buffer = bench.card.port.allocate(block.nbytes)
    buffer.write(0, block.view(np.uint8))
    broken = CardModulus(bench.modulus.layout, buffer)
    assert bench.run(Opcode.SELFTEST, {"length": 3}, broken) is status
    buffer.free()
    _still_works(bench)


@pytest.mark.parametrize(
    ("status", "field"), [(Status.READ_ERROR, "src_a"), (Status.WRITE_ERROR, "dst")]
)
def test_bus_errors(bench: Bench, status: Status, field: str) -> None:
    """A hole in the board's memory answers with an error response."""
    queue = bench.card.queue
    hole = 0x40
    before = queue._window
    queue.set_window(0, 1 << 40)
    assert bench.run(Opcode.MUL, bench.good() | {field: hole}) is status
    queue.set_window(*before)
    _still_works(bench)


@pytest.mark.parametrize("field", ["opcode", "check", "tag", "count", "stride_dst"])
def test_a_command_changed_on_its_way_is_repeated(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, field: str
) -> None:
    encode, resets, left = Command.encode, bench.card.queue.resets, [field]

    def change(command: Command, raw: np.void) -> None:
        encode(command, raw)
        if left:
            raw[left.pop()] ^= 8

    monkeypatch.setattr(Command, "encode", change)
    _still_works(bench)
    assert bench.card.queue.resets == resets + 1


@pytest.mark.parametrize("opcode", [Opcode.MUL, Opcode.NOP, Opcode.CLEAR])
def test_a_command_that_always_changes_is_not_run(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, opcode: Opcode
) -> None:
    encode = Command.encode

    def change(command: Command, raw: np.void) -> None:
        encode(command, raw)
        if command.opcode == opcode:
            raw["count"] ^= 1

    before = bench.page.read(0, bench.page.nbytes).copy()
    before[0x1000:] = 0xA5
    bench.page.write(0, before)
    with monkeypatch.context() as patch:
        patch.setattr(Command, "encode", change)
        assert bench.run(opcode, bench.good()) is Status.BAD_CHECK
    assert np.array_equal(bench.page.read(0, bench.page.nbytes), before)
    _still_works(bench)


@pytest.mark.parametrize("opcode", [Opcode.NOP, Opcode.CLEAR])
def test_commands_without_operands_look_at_none(bench: Bench, opcode: Opcode) -> None:
    wrong = dict.fromkeys(("src_a", "src_b", "dst", "exponents", "window"), 3)
    assert bench.run(opcode, wrong) is Status.OK


def test_init_from_a(bench: Bench) -> None:
    """src_a is looked at only where the flag says so."""
    table = [1, 3, 9, 27]
    words = [w for x in table for w in to_words(DOMAIN.enter(x), 51, DOMAIN.k)]
    image = np.zeros(0x400, np.uint8)
    image[: 2 * SIZE] = bench.page.read(0, 2 * SIZE)
    image[0x200 : 0x200 + 8 * len(words)] = np.array(words, "<u8").view(np.uint8)
    image[0x3F0] = 2
    bench.page.write(0, image)
    fields = bench.good() | {
        "count": 1, "window": 2, "length": 1, "src_b": bench.base + 0x200,
        "exponents": bench.base + 0x3F0, "stride_e": 16,
    }  # fmt: skip
    flag = {"flags": int(CommandFlag.INIT_FROM_A)}
    assert bench.run(Opcode.POW_FIXED, fields | {"src_a": 1}) is Status.OK
    assert bench.results(1) == [9]
    assert bench.run(Opcode.POW_FIXED, fields | flag) is Status.OK
    assert bench.results(1) == [27]
    unaligned = fields | {"src_a": bench.base + 8}
    assert bench.run(Opcode.MULTI_POW, unaligned | flag) is Status.UNALIGNED


def test_a_modulus_per_element(bench: Bench) -> None:
    """Each element modulo the block of its own, all of one k."""
    moduli, es, xs = (N, N - 2, N - 4), (13, 0, 5), (3, 5, 7)
    domains = [Montgomery.of(m, 51, 6) for m in moduli]
    assert {d.k for d in domains} == {DOMAIN.k}
    block_bytes = 8 * len(DOMAIN.block())
    image = np.zeros(0x4000, np.uint8)
    image[: 2 * SIZE] = bench.page.read(0, 2 * SIZE)
    for i, (domain, e, x) in enumerate(zip(domains, es, xs, strict=True)):
        for at, words in (
            (0x400 + i * SIZE, to_words(domain.enter(x), 51, DOMAIN.k)),
            (0x800 + 16 * i, [e]),
            (0x2000 + i * block_bytes, domain.block()),
        ):
            image[at : at + 8 * len(words)] = np.array(words, "<u8").view(np.uint8)
    bench.page.write(0, image)
    fields = bench.good() | {
        "flags": int(CommandFlag.MODULUS_PER_ELEMENT), "count": 3, "length": 4,
        "src_a": bench.base + 0x400, "stride_b": block_bytes, "stride_e": 16,
        "exponents": bench.base + 0x800,
    }  # fmt: skip

    def run(**others: int) -> Status:
        blocks = _Blocks(bench.base + 0x2000)
        return bench.run(Opcode.POW, fields | others, cast(CardModulus, blocks))

    assert run() is Status.OK
    raw = bench.page.read(0, bench.page.nbytes)[0x1000:][: 3 * SIZE].view("<u8")
    got = [
        domain.leave(from_words(row.tolist(), 51))
        for domain, row in zip(domains, raw.reshape(3, DOMAIN.k), strict=True)
    ]
    assert got == [pow(x, e, m) for x, e, m in zip(xs, es, moduli, strict=True)]
    # A block of another k, and one of an even modulus, among the later ones.
    for word, value, status in (
        (0, DOMAIN.k + 2, Status.BAD_MODULUS),
        (4 + DOMAIN.k, 2, Status.EVEN_MODULUS),
    ):
        at = 0x2000 + 2 * block_bytes + 8 * word
        broken = image.copy()
        broken[at : at + 8] = np.array([value], "<u8").view(np.uint8)
        bench.page.write(0, broken)
        assert run() is status
    bench.page.write(0, image)
    assert run() is Status.OK
    _still_works(bench)


class _Blocks:
    """Modulus blocks side by side, as far as `Card.issue` is concerned."""

    layout = Layout(N, 51, 6)

    def __init__(self, address: int) -> None:
        self.address = address


def _still_works(bench: Bench) -> None:
    assert bench.run(Opcode.MUL, bench.good()) is Status.OK
    assert bench.results(2) == [9, 25]
