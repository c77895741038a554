"""Projected figures: the commands are the driver's, the arithmetic is what it says, and current."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest

from residue.backends import Backend
from residue.backends._card import CardBackend
from residue.card._abi import Opcode
from residue_sim.board import Board, InProcess
from residue_sim.boards import BoardError, find_board
from residue_sim.boards._counting import OPERATIONS, counting_board, work_of
from residue_sim.boards._measured import MODULUS_BITS, measure, measured, ring_name
from residue_sim.boards._pages import projected_page, projected_path
from residue_sim.boards._table import KEY_BITS, Row, table
from residue_sim.card_model import products
from residue_sim.golden import Montgomery
from residue_sim.manifest import configurations

MODULUS = 2**512 - 569  # prime
SMALL = configurations()["small"]


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return table()


def turns(backend: Backend) -> None:
    """Every kind of operation, on more elements than the card has contexts."""
    modulus = backend.register(MODULUS)
    rng = np.random.default_rng(1)
    values = rng.integers(1, 2**63, (37, modulus.limbs), np.uint64)
    exponents = rng.integers(0, 2**19, (37, 1), np.uint64)
    a = backend.upload(modulus, values)
    backend.mul(a, a).wait()
    backend.pow(a, exponents, 19).wait()
    backend.pow_fixed(backend.take(a, np.zeros(1, np.int64)), exponents, 19).wait()
    backend.prod(a, rng.integers(0, 37, 90), np.array([0, 11, 11, 90])).wait()
    short = np.array([[1, 5], [3, 2], [7, 0]])
    with warnings.catch_warnings():
        backend.multi_pow(backend.upload(modulus, np.ones((3, modulus.limbs), np.uint64)), short, 9)
    backend.download(a)
    backend.synchronize()


def test_products_are_those_that_the_simulated_card_issues() -> None:
    counting, commands = counting_board(SMALL)
    backends = [CardBackend(p, check_rate=0.0) for p in (counting, InProcess(Board("small")))]
    try:
        for backend in backends:
            backend.host_squares = True
            turns(backend)
        issued = sum(c.count * products(c.opcode, c.length, c.window) for c in commands)
        found = {name: s.products for name, s in backends[1].stats().items()}
        assert issued == sum(found.values()), found
    finally:
        for backend in backends:
            backend.close()


def test_measured_cycles_are_those_of_the_golden_model() -> None:
    for name in {find_board(n).configuration for n in ("pynq-z2", "kv260", "u250")}:
        config = configurations()[name]
        for bits in MODULUS_BITS:
            ctx = Montgomery.of(
                (1 << bits) - 1, config.word_bits, config.elements,
                digits_per_word=config.digits_per_word,
            )  # fmt: skip
            # The ring itself waits one cycle less a pass than the card where P > k.
            fewest = ctx.passes * max(ctx.ring_words + 1, config.elements)
            assert fewest <= measured().cycles(config, bits) <= ctx.passes * ctx.slots


@pytest.mark.full
def test_measured_cycles_are_measured_again() -> None:
    assert measure().ring_cycles == measured().ring_cycles


def test_every_board_has_every_figure(rows: list[Row]) -> None:
    kinds = {(operation.name, operation.scheme) for operation in OPERATIONS}
    boards = {row.board for row in rows}
    assert boards == {"pynq-z2", "ultra96v2", "kv260", "zcu104", "u50", "u55c", "u250"}
    for board in boards:
        for bits in KEY_BITS:
            mine = [row for row in rows if (row.board, row.key_bits) == (board, bits)]
            assert {(row.operation, row.scheme) for row in mine} == kinds
            assert len(mine) == len(kinds)
    needed = {"board", "key_bits", "operation", "scheme", "ops_per_second", "projected"}
    needed |= {"clock_mhz", "rings", "cycles", "arithmetic"}
    for row in rows:
        assert needed <= row.as_dict().keys()
        assert row.projected
        assert not row.clock_closed


def test_the_arithmetic_holds(rows: list[Row]) -> None:
    for row in rows:
        rate = row.cards * row.clock_mhz * 1e6 / row.card_cycles
        assert row.ops_per_second == pytest.approx(rate, rel=6e-3)
        # No card does better than its rings without any waiting.
        assert row.card_cycles >= row.cycles / (row.rings / row.cards) * 0.999


def test_the_published_engine_is_left_behind(rows: list[Row]) -> None:
    chosen = {
        row.operation: row.ops_per_second
        for row in rows
        if (row.board, row.key_bits, row.scheme) == ("u250", 1024, "classic")
    }
    assert chosen["r^n"] >= chosen["encrypt"] >= 120_000


def test_a_power_is_what_it_takes_by_hand(rows: list[Row]) -> None:
    """1024-bit n: 15 products of the table, 256 look-ups, 255 times four squarings."""
    (row,) = (
        row for row in rows if (row.board, row.key_bits, row.operation) == ("u250", 1024, "r^n")
    )
    assert row.products == 15 + 256 + 4 * 255
    assert row.cycles == row.products * 86


def test_memory_holds_what_it_must(rows: list[Row]) -> None:
    adds = {row.board: row for row in rows if (row.operation, row.key_bits) == ("add", 1024)}
    row, board = adds["u250"], find_board("u250")
    assert row.bound == "memory"
    moved = 3 * 8 * 42  # two operands and a result of 42 digits
    fastest = board.memory.gigabytes_per_second * 1e9 / moved
    assert row.ops_per_second <= fastest * 1.005


def test_a_card_that_is_too_small_says_so() -> None:
    with pytest.raises(BoardError, match="takes moduli of 1024 bits; 1024-bit keys need 2048"):
        work_of(SMALL, 1024)
    unknown = replace(SMALL, elements=5)
    with pytest.raises(BoardError, match=f"{ring_name(unknown)} at 1024 bits"):
        measured().cycles(unknown, 1024)
    with pytest.raises(ValueError, match="CLEAR makes no products"):
        products(Opcode.CLEAR, 1, 1)


def test_the_page_is_up_to_date() -> None:
    assert projected_path.read_text() == projected_page(), "run: residue board table --write"
