"""What can go wrong around a card, at random moments of random operations, through the driver.

Every test prints one line of JSON: how often the fault was planned and struck, and how often what
came out was correct, a clear error, or wrong, which it must never be. `pytest -rP` shows the lines.
"""

from __future__ import annotations

import json
import math
import random
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import gmpy2
import numpy as np
import pytest
from gmpy2 import mpz

from residue._limbs import from_limbs, to_limbs
from residue.backends import Backend, DeviceFallbackWarning, ResidueArray, clearing_secrets
from residue.backends._auto import AutoBackend
from residue.backends._card import CardBackend
from residue.backends._cpu import CpuBackend
from residue.backends._protocol import Modulus, OperationStats
from residue.card._abi import COMMAND_DTYPE, Opcode, Register
from residue.card._queue import Command, CommandQueue, Task
from residue.errors import ResidueError
from residue_sim.board import Board, Fault, FaultKind, InProcess, board_files, launch

N = int(gmpy2.next_prime(1 << 159)) * int(gmpy2.next_prime(3 << 158))
COUNT = 6
CONFIGURATIONS = ("small", "small4", "small_k")
FULL = pytest.mark.full
_HALF = COMMAND_DTYPE.itemsize  # of a descriptor

# An operation on an array, and what it gives for the array's values.
Operation = tuple[Callable[[Backend, ResidueArray], ResidueArray], Callable[[list[int]], list[int]]]


@dataclass
class Tally:
    """What came of the injections of one fault."""

    card: str
    fault: str
    seed: int
    injections: int = 0
    struck: int = 0
    noticed: int = 0  # led to a reset, an error or the CPU
    correct: int = 0
    errors: int = 0
    wrong: int = 0

    def settle(self, planned: int) -> None:
        print(json.dumps(asdict(self)))
        assert self.wrong == 0
        assert self.injections == self.struck == planned
        assert self.correct + self.errors == self.injections


def _mul(rng: random.Random) -> Operation:
    return lambda b, a: b.mul(a, a), lambda xs: [x * x % N for x in xs]


def _pow(rng: random.Random) -> Operation:
    es = [rng.getrandbits(24) for _ in range(COUNT)]
    limbs = to_limbs([mpz(e) for e in es], 1)
    return (
        lambda b, a: b.pow(a, limbs, 24),
        lambda xs: [pow(x, e, N) for x, e in zip(xs, es, strict=True)],
    )


def _pow_fixed(rng: random.Random) -> Operation:
    es = [rng.getrandbits(24) for _ in range(COUNT)]
    limbs = to_limbs([mpz(e) for e in es], 1)
    return (
        lambda b, a: b.pow_fixed(b.take(a, np.array([1])), limbs, 24),
        lambda xs: [pow(xs[1], e, N) for e in es],
    )


def _multi_pow(rng: random.Random) -> Operation:
    es = [[rng.randrange(-15, 16) for _ in range(2)] for _ in range(COUNT)]
    return (
        lambda b, a: b.multi_pow(a, np.array(es), 4),
        lambda xs: [
            math.prod(pow(x, e[j], N) for x, e in zip(xs, es, strict=True)) % N for j in range(2)
        ],
    )


def _prod(rng: random.Random) -> Operation:
    index = [rng.randrange(COUNT) for _ in range(11)]
    return (
        lambda b, a: b.prod(a, np.array(index), np.array([0, 4, 11])),
        lambda xs: [math.prod(xs[i] for i in part) % N for part in (index[:4], index[4:])],
    )


def _inverse(rng: random.Random) -> Operation:
    return lambda b, a: b.inverse(a), lambda xs: [pow(x, -1, N) for x in xs]


OPERATIONS = {
    "mul": _mul,
    "pow": _pow,
    "pow_fixed": _pow_fixed,
    "multi_pow": _multi_pow,
    "prod": _prod,
    "inverse": _inverse,
}


def up(backend: Backend, values: list[int]) -> ResidueArray:
    modulus = backend.register(N)
    return backend.upload(modulus, to_limbs([mpz(v) for v in values], modulus.limbs))


def down(backend: Backend, array: ResidueArray) -> list[int]:
    return [int(v) for v in from_limbs(backend.download(array))]


class Line(InProcess):
    """The way to a board that outlives its drivers.

    Attributes:
        deaf: the host never sees the interrupt.
        lost: interrupts it did not see.
        heals: a soft reset ends what is wrong with the memory.
    """

    def __init__(self, board: Board) -> None:
        super().__init__(board)
        self.deaf = self.heals = False
        self.lost = 0

    def write32(self, offset: int, value: int) -> None:
        if self.heals and offset == Register.SOFT_RESET:
            self.board.clear_faults()
        super().write32(offset, value)

    def wait_interrupt(self, timeout: float) -> bool:
        came = super().wait_interrupt(timeout)
        self.lost += self.deaf and came
        return came and not self.deaf

    def close(self) -> None:
        """Leave the board as it is."""


@dataclass
class Cost:
    """What an operation takes from upload to download."""

    cycles: int
    read_beats: int
    write_beats: int
    queue_beats: int  # of commands, and as many of completion records


class Bench:
    """A board, drivers for it, and what goes wrong.

    Args:
        card: its configuration.
        faults: with access to the stores on the card.
        patience: of the board; 0 has drivers wait for interrupts.
        options: of the card backend.
    """

    def __init__(
        self, card: str, *, faults: bool = False, patience: float = 0.02, **options: Any
    ) -> None:
        self.board = Board(card, faults=faults, patience=patience)
        self.beat = self.board.configuration.axi_data_bits // 8
        self.options = options
        self.line = Line(self.board)
        self.backend = self.open()
        self.costs = {name: self._cost(name) for name in OPERATIONS}

    def open(self) -> CardBackend:
        options: dict[str, Any] = {
            "check_rate": 0.0, "timeout": 1.0, "queue_size": 8, "staging_bytes": 1 << 14,
            "arena_bytes": 1 << 16, "memory_limit": 1 << 16,
        }  # fmt: skip
        return CardBackend(self.line, **options | self.options)

    def close(self) -> None:
        self.board.clear_faults()
        self.backend.close()
        self.board.close()

    def _cost(self, name: str) -> Cost:
        self.backend.reset_stats()
        before, commands = self.board.cycles, self.backend._card.queue.submitted
        compute, _ = OPERATIONS[name](random.Random(1))
        down(self.backend, compute(self.backend, up(self.backend, [*range(2, COUNT + 2)])))
        stats = self.backend.stats().values()
        return Cost(
            self.board.cycles - before,
            sum(s.read_bytes for s in stats) // self.beat,
            sum(s.write_bytes for s in stats) // self.beat,
            (self.backend._card.queue.submitted - commands) * _HALF // self.beat,
        )

    def queue(self) -> tuple[int, int]:
        """Addresses of the descriptors; all else that the card reads and writes lies behind."""
        queue = self.backend._card.queue._buffer
        return queue.physical_address, queue.physical_address + queue.nbytes

    def data(self) -> tuple[int, int]:
        """Addresses of all that the card reads and writes but descriptors."""
        return self.queue()[1], 1 << 40

    def run(
        self,
        fault: str,
        planned: int,
        seed: int,
        arm: Callable[[random.Random, Cost], None],
        *,
        operations: tuple[str, ...] = tuple(OPERATIONS),
        struck: Callable[[], int] | None = None,
        auto: bool = True,
    ) -> Tally:
        """Inject a fault `planned` times.

        Args:
            fault: its name.
            planned: how often it must strike.
            seed: of moments, operations and values.
            arm: makes it strike somewhere in an operation of that cost.
            operations: to choose from.
            struck: how often it has struck so far; `Board.struck` unless given.
            auto: every second time `AutoBackend` drives the card.
        """
        count = struck or (lambda: self.board.struck)
        rng = random.Random(seed)
        tally = Tally(self.board.configuration.name, fault, seed)
        for attempt in range(20 * planned):
            if tally.injections == planned:
                break
            if not self.backend.describe()["healthy"]:
                self.backend.close()
                self.backend = self.open()
            name = rng.choice(operations)
            compute, expected = OPERATIONS[name](rng)
            values, others = ([rng.randrange(2, N) for _ in range(COUNT)] for _ in range(2))
            wanted = [*expected(values), *others]
            user: Backend = self.backend
            if auto and attempt % 2:
                user = AutoBackend(CpuBackend(workers=1), lambda: self.backend, rest=None)
            bystander = up(user, others)
            user.synchronize()
            before, resets = count(), self.backend.describe()["resets"]
            arm(rng, self.costs[name])
            got: list[int] | None
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeviceFallbackWarning)
                try:
                    got = down(user, compute(user, up(user, values))) + down(user, bystander)
                except ResidueError:
                    if user is not self.backend:
                        raise  # auto loses nothing
                    got = None
            self.board.clear_faults()
            hit = count() > before
            facts = self.backend.describe()
            noticed = got is None or facts["resets"] != resets or not facts["healthy"]
            if got != wanted and got is not None:
                tally.wrong += 1
            elif hit:
                tally.correct += got is not None
                tally.errors += got is None
                tally.noticed += noticed
            tally.injections += hit
            tally.struck += hit
        tally.settle(planned)
        return tally


Benches = Callable[..., Bench]


@pytest.fixture(scope="module")
def benches() -> Iterator[Benches]:
    """Makes a bench, or finds the one made before."""
    made: dict[tuple[str, float, bool], Bench] = {}

    def get(card: str, *, check_rate: float = 0.0, faults: bool = False) -> Bench:
        key = card, check_rate, faults
        if key not in made:
            made[key] = Bench(card, check_rate=check_rate, faults=faults)
        return made[key]

    yield get
    for bench in made.values():
        bench.close()


def times(quick: int, full: int) -> pytest.MarkDecorator:
    """`quick` times on the small card, and `full` times on every one in `make test-full`."""
    many = [pytest.param(card, full, marks=FULL) for card in CONFIGURATIONS]
    return pytest.mark.parametrize(("card", "planned"), [(CONFIGURATIONS[0], quick), *many])


# --- buses and memory -----------------------------------------------------------------------------


@times(10, 200)
@pytest.mark.parametrize(
    "kind",
    [
        FaultKind.READ_ERROR,
        FaultKind.READ_DECODE_ERROR,
        FaultKind.WRITE_ERROR,
        FaultKind.WRITE_DECODE_ERROR,
    ],
)
def test_bus_errors(benches: Benches, card: str, kind: FaultKind, planned: int) -> None:
    """Of data, descriptors and completion records, once or three times in a row."""
    bench = benches(card)

    def arm(rng: random.Random, cost: Cost) -> None:
        beats = cost.write_beats if "WRITE" in kind.name else cost.read_beats
        skip, count = rng.randrange(beats), rng.choice([1, 1, 3])
        bench.board.add_fault(Fault(kind, 0, 1 << 40, count=count, skip=skip))

    tally = bench.run(kind.name, planned, 10 + kind, arm)
    if "READ" in kind.name:  # an error while a completion record is written may do no harm
        assert tally.noticed == planned
    assert tally.correct > 0


@times(4, 30)
@pytest.mark.parametrize("heals", [True, False])
def test_a_stalled_memory(card: str, heals: bool, planned: int) -> None:
    bench = Bench(card, timeout=0.25)

    def arm(rng: random.Random, cost: Cost) -> None:
        bursts = (cost.read_beats + cost.write_beats) // 8
        bench.board.add_fault(
            Fault(FaultKind.HANG, 0, 1 << 40, count=1, skip=rng.randrange(bursts))
        )

    bench.line.heals = heals
    tally = bench.run(f"HANG, {'until a reset' if heals else 'for ever'}", planned, 20 + heals, arm)
    bench.close()
    assert tally.noticed == planned
    if heals:
        assert tally.correct > 0


@times(15, 300)
@pytest.mark.parametrize("kind", [FaultKind.FLIP, FaultKind.READ_FLIP])
def test_corrupted_memory(benches: Benches, card: str, kind: FaultKind, planned: int) -> None:
    """A bit of what the card reads or writes; every result is checked."""
    checked = benches(card, check_rate=1.0)

    def arm(rng: random.Random, cost: Cost) -> None:
        beats = cost.write_beats if kind is FaultKind.FLIP else cost.read_beats
        skip, bit = rng.randrange(beats), rng.randrange(8 * checked.beat)
        checked.board.add_fault(Fault(kind, *checked.data(), bit=bit, count=1, skip=skip))

    tally = checked.run(kind.name, planned, 30 + kind, arm)
    assert tally.noticed > 0


@times(10, 200)
def test_lost_interrupts(card: str, planned: int) -> None:
    bench = Bench(card, patience=0)
    bench.line.deaf = True
    tally = bench.run(
        "lost interrupt", planned, 40, lambda *_: None, struck=lambda: bench.line.lost
    )
    bench.close()
    assert tally.correct == planned
    assert tally.noticed == 0, "HEAD tells what the interrupt does not"


@times(10, 200)
def test_a_reset_in_the_middle_of_a_batch(benches: Benches, card: str, planned: int) -> None:
    bench = benches(card)
    tally = bench.run(
        "reset", planned, 50, lambda rng, cost: bench.board.strike_reset(rng.randrange(cost.cycles))
    )
    assert tally.correct > 0


@times(15, 200)
def test_corrupted_completion_records(benches: Benches, card: str, planned: int) -> None:
    """A bit of what the card says about a command, not of what it made."""
    bench = benches(card)

    def arm(rng: random.Random, cost: Cost) -> None:
        skip, bit = rng.randrange(cost.queue_beats), rng.randrange(8 * bench.beat)
        bench.board.add_fault(Fault(FaultKind.FLIP, *bench.queue(), bit=bit, count=1, skip=skip))

    tally = bench.run("FLIP of a record", planned, 51, arm)
    assert tally.correct > 0


@times(15, 300)
def test_corrupted_descriptors(benches: Benches, card: str, planned: int) -> None:
    """A bit of a command as the card reads it. Found by its check byte: no result is checked."""
    bench = benches(card)

    def arm(rng: random.Random, cost: Cost) -> None:
        skip, bit = rng.randrange(cost.queue_beats), rng.randrange(8 * bench.beat)
        fault = Fault(FaultKind.READ_FLIP, *bench.queue(), bit=bit, count=1, skip=skip)
        bench.board.add_fault(fault)

    tally = bench.run("READ_FLIP of a descriptor", planned, 52, arm)
    assert tally.noticed == tally.correct == planned


# --- stores on the card ---------------------------------------------------------------------------

_TABLED = ("pow", "pow_fixed", "multi_pow")
STORES = {
    "i_accumulators": tuple(OPERATIONS),
    "i_tables": _TABLED,
    "i_exponents": _TABLED,
    "i_modulus": tuple(OPERATIONS),
    "i_emit.i_memory": tuple(OPERATIONS),
}


@times(10, 200)
@pytest.mark.parametrize("store", STORES)
def test_a_flipped_bit_in_a_store(benches: Benches, card: str, store: str, planned: int) -> None:
    """Found by parity alone: no result is checked. A row that nothing reads again does no harm."""
    open_card = benches(card, faults=True)
    names = [s.name for s in open_card.board.stores()]
    bits = [s.bits for s in open_card.board.stores()]
    numbers = [i for i, name in enumerate(names) if name.endswith(store)]
    assert numbers

    def arm(rng: random.Random, cost: Cost) -> None:
        task = Task("clear", OperationStats())  # so that only rows in use are not zero
        open_card.backend._card.issue(task, Opcode.CLEAR, None)
        open_card.backend._card.wait(task)
        i = rng.choice(numbers)
        # Every other time the first row that comes, at once.
        delay = rng.choice([0, rng.randrange(cost.cycles)])
        open_card.board.strike_store(delay, i, rng.randrange(1 << 16), rng.randrange(bits[i]))

    tally = open_card.run(
        f"flipped bit in {store}", planned, 60 + len(store), arm, operations=STORES[store]
    )
    assert tally.noticed > 0


@pytest.mark.parametrize(
    ("card", "faults"),
    [
        ("small", True),
        ("small4", False),
        *(pytest.param(card, True, marks=FULL) for card in CONFIGURATIONS[1:]),
    ],
)
def test_nothing_is_left_of_a_secret_job(benches: Benches, card: str, faults: bool) -> None:
    """Neither in a store of the card (seen with `faults`), nor in its memory, nor in the driver's
    transfer pages; descriptors hold no data."""
    bench = benches(card, faults=faults)
    board, backend = bench.board, bench.backend
    rng = random.Random(70)
    secret = rng.getrandbits(500)
    squares = [int(gmpy2.next_prime(rng.getrandbits(160))) ** 2 for _ in range(2)]
    queue = backend._card.queue._buffer

    def left() -> bytes:
        end = max(b.physical_address + b.nbytes for b in backend._card._buffers)
        memory = board.memory(board.memory_base, end - board.memory_base).copy()
        memory[queue.physical_address - board.memory_base :][: queue.nbytes] = 0
        return memory.tobytes()

    def stores() -> dict[str, bool]:
        return {store.name: bool(store.content.any()) for store in board.stores()}

    with clearing_secrets(backend):
        exponents = to_limbs([mpz(secret)], 8)
        values = [*range(3, 3 + 2 * board.configuration.rings)]
        a = up(backend, values)
        powers = backend.pow(a, exponents, 500)
        fixed = backend.pow_fixed(backend.take(a, np.array([1])), exponents, 500)
        sums = backend.prod(
            backend.concat([powers, fixed]), np.arange(len(a) + 1), np.array([0, 1, len(a) + 1])
        )
        wanted = [pow(3, secret, N), pow(math.prod(values[1:]) * 4, secret, N)]
        assert down(backend, sums) == wanted
        halves = backend.pow_moduli(
            [Modulus(square) for square in squares], to_limbs([mpz(3)] * 2, 5), exponents, 500
        )
        assert from_limbs(halves) == [pow(3, secret, square) for square in squares]
        assert all(stores().values())
        digit = squares[0] & (1 << board.configuration.word_bits) - 1
        for piece in (secret.to_bytes(64, "little"), digit.to_bytes(8, "little")):
            assert piece in left()
        del a, powers, fixed, sums
    assert bool(stores()) == faults
    assert not any(stores().values())
    assert not any(left())
    assert not any(page.image.any() for page in backend._card._pages)
    assert down(backend, up(backend, [3])) == [3]


@pytest.mark.parametrize("card", [*CONFIGURATIONS[:2], pytest.param(CONFIGURATIONS[2], marks=FULL)])
def test_no_command_takes_longer_than_the_driver_allows(
    monkeypatch: pytest.MonkeyPatch, card: str
) -> None:
    """What it expects is right to a factor of two and the overhead of a command; `slack` is 16."""
    seen: list[tuple[Command, int]] = []
    complete = CommandQueue._complete

    def note(queue: CommandQueue, command: Command, record: np.void) -> None:
        seen.append((command, int(record["cycles"])))
        complete(queue, command, record)

    monkeypatch.setattr(CommandQueue, "_complete", note)
    Bench(card).close()
    assert {command.opcode for command, _ in seen} >= {
        Opcode.TO_MONT, Opcode.FROM_MONT, Opcode.MUL, Opcode.POW, Opcode.POW_FIXED,
        Opcode.MULTI_POW, Opcode.PROD, Opcode.TABLE,
    }  # fmt: skip
    for command, cycles in seen:
        assert cycles < 2 * command.cycles + 500 or command.opcode is Opcode.CLEAR, command
    assert any(command.cycles < 2 * cycles for command, cycles in seen)


# --- queue and host -------------------------------------------------------------------------------


@times(10, 200)
def test_a_full_queue(card: str, planned: int) -> None:
    """A queue of two descriptors, chains of operations that nobody waits for, and bus errors."""
    bench = Bench(card, queue_size=2)
    rng = random.Random(80)
    tally = Tally(card, "full queue", 80)
    for _ in range(planned):
        values = [rng.randrange(2, N) for _ in range(COUNT)]
        a = up(bench.backend, values)
        bench.backend.synchronize()
        queue = bench.backend._card.queue
        head = queue.done
        bench.board.add_fault(
            Fault(FaultKind.WRITE_ERROR, 0, 1 << 40, count=1, skip=rng.randrange(200))
        )
        for _ in range(12):
            a = bench.backend.mul(a, a)
        tally.struck += queue.waiting > 2
        got = down(bench.backend, a)
        bench.board.clear_faults()
        assert queue.done - head > 12
        tally.injections += 1
        tally.correct += got == [pow(x, 1 << 12, N) for x in values]
        tally.wrong += got != [pow(x, 1 << 12, N) for x in values]
    tally.noticed = bench.backend._card.queue.resets
    bench.close()
    tally.settle(planned)
    assert tally.noticed > 0


@FULL
def test_head_and_tail_wrap_around() -> None:
    """They have 16 bits."""
    bench = Bench("small", queue_size=64)
    task = Task("wrap", OperationStats())
    values = [3, 5]
    a = up(bench.backend, values)
    bench.backend.synchronize()
    card = bench.backend._card
    for _ in range((1 << 16) + 100):
        card.issue(task, Opcode.NOP, None)
    b = bench.backend.mul(a, a)
    assert down(bench.backend, b) == [9, 25]
    assert card.port.read32(Register.HEAD) == card.queue.done & 0xFFFF
    assert card.queue.done > 1 << 16
    assert bench.backend.describe()["resets"] == 0
    bench.close()


_CLIENT = """
import random, sys
import numpy as np
from gmpy2 import mpz
from residue._limbs import from_limbs, to_limbs
from residue.backends import get_backend
N, seed = int(sys.argv[2]), int(sys.argv[3])
rng = random.Random(seed)
backend = get_backend(sys.argv[1])
modulus = backend.register(N)
while True:
    xs = [rng.randrange(N) for _ in range(20)]
    es = [rng.getrandbits(64) for _ in range(20)]
    a = backend.upload(modulus, to_limbs([mpz(x) for x in xs], modulus.limbs))
    got = from_limbs(backend.download(backend.pow(a, to_limbs([mpz(e) for e in es], 1), 64)))
    print("correct" if got == [pow(x, e, N) for x, e in zip(xs, es)] else "wrong", flush=True)
"""


@times(2, 10)
def test_a_host_process_is_killed(monkeypatch: pytest.MonkeyPatch, card: str, planned: int) -> None:
    """While the card works for it; the next process takes the card over."""
    monkeypatch.setenv("RESIDUE_OVERLAY", str(board_files(card)))
    rng = random.Random(90)
    tally = Tally(card, "host killed", 90)
    with launch(1, config=card) as (address,):
        for turn in range(planned + 1):
            client = subprocess.Popen(
                [sys.executable, "-W", "ignore", "-c", _CLIENT, f"card:{address}", str(N),
                 str(turn)],
                stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
            assert client.stdout is not None
            said = client.stdout.readline().strip()
            if turn:
                tally.injections += 1
                tally.correct += said == "correct"
                tally.wrong += said == "wrong"
                tally.errors += said == ""
            time.sleep(rng.random() * 0.3)
            client.kill()
            tally.struck += client.wait() == -signal.SIGKILL and turn < planned
            assert "wrong" not in client.stdout.read()
            client.stdout.close()
    tally.settle(planned)
