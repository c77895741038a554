"""The simulated board in this process: the whole card, its memory and what can go wrong there."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from residue.card._abi import (
    CAP0_ELEMENTS,
    CAP0_LOG2_AXI_BYTES,
    CAP0_WORD_BITS,
    CAP1_MAX_EXPONENT_BITS,
    CAP1_MAX_MODULUS_BITS,
    CARD_ID,
    COMPLETION_OFFSET,
    GIE_ENABLE,
    IER_DONE,
    Opcode,
    Register,
    Status,
)
from residue.errors import DeviceError
from residue_sim.board import (
    Board,
    Fault,
    FaultKind,
    InProcess,
    Latency,
    run_program,
    start_program,
)
from residue_sim.scenarios import Program, all_operations, bad_commands
from residue_sim.stimuli import odd_modulus

CONFIG = "small"
LONG = 60.0  # seconds that nothing here comes near


@pytest.fixture(scope="module")
def shared() -> Iterator[Board]:
    with Board(CONFIG) as board:
        yield board


@pytest.fixture
def board(shared: Board) -> Board:
    shared.clear_faults()
    shared.reset()
    return shared


def contents(board: Board, program: Program) -> bytes:
    return board.memory(program.base, len(program.image)).tobytes()


def check(board: Board, program: Program) -> None:
    program.check(lambda address, size: board.memory(address, size).tobytes())


def status(board: Board, program: Program, index: int = 0) -> Status:
    entry = program.base + index * 128 + COMPLETION_OFFSET
    return Status(int(board.memory(entry, 4).view(np.uint32)[0]))


def one_squaring(board: Board, squarings: int = 1, count: int = 2) -> tuple[Program, int, int]:
    """A program with one SQR command, and where its results lie."""
    rng = random.Random(5)
    program = Program(board.configuration, base=board.memory_base)
    domain, _ = program.domain(odd_modulus(rng, 512))
    values = [rng.randrange(domain.modulus) for _ in range(count)]
    source, stride = program.residues(values, domain)
    one = domain.one
    inverse = pow(domain.r, -1, domain.n_tilde)
    expect = [
        pow(v * inverse, 1 << squarings, domain.n_tilde) * one % domain.n_tilde for v in values
    ]
    program.add(
        Opcode.SQR, domain.modulus, expect=expect, src_a=source, stride_a=stride, count=count,
        length=squarings,
    )  # fmt: skip
    result = program.expected[0]
    return program, result.address, result.stride * count


def test_capabilities_are_the_configuration(board: Board) -> None:
    entry = board.configuration
    cap0, cap1 = board.read32(Register.CAP0), board.read32(Register.CAP1)
    assert board.read32(Register.ID) == CARD_ID
    assert CAP0_WORD_BITS.get(cap0) == entry.word_bits
    assert CAP0_ELEMENTS.get(cap0) == entry.elements
    assert 8 << CAP0_LOG2_AXI_BYTES.get(cap0) == entry.axi_data_bits
    assert CAP1_MAX_MODULUS_BITS.get(cap1) == entry.max_modulus_bits
    assert CAP1_MAX_EXPONENT_BITS.get(cap1) == entry.max_exponent_bits


@pytest.mark.parametrize(
    ("config", "latency", "count"),
    [
        (CONFIG, "fast", 5),
        (CONFIG, "0", 5),
        (CONFIG, "random:40", 5),
        ("small4", "fast", 2),  # lanes without work
        ("small4", "random:40", 69),  # groups of different numbers
        pytest.param("small_k", "random:40", 5, marks=pytest.mark.full),
    ],
)
def test_every_operation_and_every_bad_command(config: str, latency: str, count: int) -> None:
    seed = 11
    print("seed", seed)
    rng = random.Random(seed)
    with Board(config, latency=Latency.parse(latency), seed=seed) as board:
        for bits in (512, 1024):
            program = Program(board.configuration, base=board.memory_base)
            modulus = odd_modulus(rng, bits)
            all_operations(program, modulus, rng, count=count)
            bad_commands(program, modulus, rng)
            assert run_program(board, program, LONG)
            check(board, program)
            assert board.read32(Register.HEAD) == len(program.expected)


def test_interrupt_comes_with_completion_and_only_when_enabled(board: Board) -> None:
    port = InProcess(board)
    program, _, _ = one_squaring(board, squarings=40)
    start_program(board, program)
    assert not port.wait_interrupt(LONG)  # idle, but not enabled
    port.write32(Register.GIE, GIE_ENABLE.put(1))
    port.write32(Register.IER, IER_DONE.put(1))
    start_program(board, program)
    assert port.wait_interrupt(LONG)
    check(board, program)


def test_buffers_are_the_memory_the_card_sees(board: Board) -> None:
    port = InProcess(board)
    first, second = port.allocate(5000), port.allocate(100)
    data = np.arange(5000).astype(np.uint8)
    first.write(0, data)
    first.write(4990, np.full(10, 7, np.uint8))
    assert np.array_equal(first.read(0, 4990), data[:4990])
    assert np.array_equal(first.read(4990, 10), np.full(10, 7))
    assert np.array_equal(board.memory(first.physical_address, 4990), data[:4990])
    assert second.physical_address >= first.physical_address + 5000
    with pytest.raises(DeviceError, match="outside a buffer of 100 bytes"):
        second.write(96, np.zeros(5, np.uint8))
    where = first.physical_address
    first.free()
    first.free()
    assert port.allocate(1).physical_address == where
    with pytest.raises(MemoryError):
        port.allocate(1 << 40)


def test_register_accesses_while_the_card_computes(board: Board) -> None:
    program, _, _ = one_squaring(board, squarings=300, count=4)
    start_program(board, program)
    heads = [board.read32(Register.HEAD)]
    while heads[-1] == 0:
        heads.append(board.read32(Register.HEAD))
    assert heads[-1] == 1
    assert board.wait_idle(LONG)
    check(board, program)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [(FaultKind.READ_ERROR, Status.READ_ERROR), (FaultKind.WRITE_ERROR, Status.WRITE_ERROR)],
)
def test_a_bus_error_fails_its_command_and_nothing_else(
    board: Board, kind: FaultKind, expected: Status
) -> None:
    program, address, size = one_squaring(board)
    target = (address, address + size)
    if kind is FaultKind.READ_ERROR:
        source = address - size  # operands are laid out before the results
        target = (source, source + 16)
    board.add_fault(Fault(kind, *target))
    assert run_program(board, program, LONG)
    assert status(board, program) == expected
    board.clear_faults()
    assert run_program(board, program, LONG)
    check(board, program)


def test_a_flipped_bit_reaches_the_result(board: Board) -> None:
    program, address, size = one_squaring(board)
    assert run_program(board, program, LONG)
    right = board.memory(address, size).copy()
    board.add_fault(Fault(FaultKind.FLIP, address, address + size, bit=37, count=1))
    assert run_program(board, program, LONG)
    assert status(board, program) == Status.OK
    difference = np.bitwise_xor(right, board.memory(address, size))
    assert np.flatnonzero(difference).tolist() == [4]
    assert difference[4] == 1 << 5


def test_a_memory_that_hangs_and_the_way_back(board: Board) -> None:
    program, address, size = one_squaring(board)
    board.add_fault(Fault(FaultKind.HANG, address, address + size))
    assert not run_program(board, program, 0.3)
    assert board.read32(Register.HEAD) == 0  # registers still answer
    board.clear_faults()
    board.reset()
    assert run_program(board, program, LONG)
    check(board, program)


def test_the_clock_stands_still_without_work(board: Board) -> None:
    program, _, _ = one_squaring(board)
    assert run_program(board, program, LONG)
    before = board.cycles
    time.sleep(0.05)
    assert board.cycles == before


def test_a_closed_board_says_so() -> None:
    board = Board(CONFIG)
    board.close()
    board.close()
    with pytest.raises(DeviceError, match="closed"):
        board.read32(Register.ID)


def test_unknown_configuration() -> None:
    with pytest.raises(ValueError, match="expected one of"):
        Board("r0")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("fast", Latency(8)),
        ("0", Latency(0)),
        ("120", Latency(120)),
        ("random", Latency(32, True)),
        ("random:5", Latency(5, True)),
    ],
)
def test_latency(text: str, expected: Latency) -> None:
    assert Latency.parse(text) == expected


@pytest.mark.parametrize("text", ["", "slow", "-1", "random:", "99999", "1.5"])
def test_malformed_latency(text: str) -> None:
    with pytest.raises(ValueError, match="expected fast, a number"):
        Latency.parse(text)


@pytest.mark.full
def test_waveform(tmp_path: Path) -> None:
    file = tmp_path / "card.fst"
    with Board(CONFIG, trace=file) as board:
        program, _, _ = one_squaring(board)
        assert run_program(board, program, LONG)
        check(board, program)
    assert file.stat().st_size > 10_000
