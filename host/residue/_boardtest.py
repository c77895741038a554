"""Bring-up of a board: memory, every command against Python's integers, throughput, sensors.

The same code runs on a board on the desk and on a simulated one: it needs a port with a card behind
it, nothing else.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import pairwise
from math import gcd, prod
from typing import Any, Protocol, runtime_checkable

import numpy as np
from gmpy2 import mpz
from numpy.typing import NDArray

from residue import _selftest
from residue._limbs import from_limbs, to_limbs
from residue.backends._card import CardBackend
from residue.backends._protocol import Limbs, ResidueArray
from residue.card._abi import Opcode
from residue.card._port import Bytes, Port
from residue.errors import ResidueError

__all__ = ["COMMANDS", "Check", "Rate", "Report", "run"]

COMMANDS = {
    "nop": (Opcode.NOP,),
    "transfer": (Opcode.TO_MONT, Opcode.FROM_MONT),
    "mul": (Opcode.MUL,),
    "pow": (Opcode.POW,),
    "pow_fixed": (Opcode.TABLE, Opcode.POW_FIXED),
    "prod": (Opcode.PROD,),
    "multi_pow": (Opcode.TABLE, Opcode.MULTI_POW, Opcode.SQR, Opcode.MUL),
    "inverse": (Opcode.MUL,),
    "selftest": (Opcode.SELFTEST,),
    "clear": (Opcode.CLEAR,),
}
"""Checks at each modulus size, and the opcodes that each makes the card execute."""

_EXPONENT_BITS = 21
_SHORT_BITS = 9
_BASES = 7
# Elements of a batch: this often as many as the card works on at a time, and a few more.
_TURNS = 2
_REST = 3
# Smallest card that the known answers' fresh 1024-bit keys fit on.
_KNOWN_ANSWERS_BITS = 2048


@runtime_checkable
class _Reporting(Protocol):
    """A port whose board has sensors."""

    def sensors(self) -> dict[str, float]: ...


@dataclass(frozen=True)
class Check:
    """One comparison: whether it agreed, and if not, what was wrong."""

    name: str
    ok: bool
    seconds: float
    detail: str


@dataclass(frozen=True)
class Rate:
    """How fast an operation was, by the card's cycle counter and by the clock on the wall.

    `utilisation` is the share of the cycles in which the rings were full; `seconds` holds the
    host's work and the way to the board as well.
    """

    operation: str
    modulus_bits: int
    elements: int
    products: int
    device_cycles: int
    utilisation: float
    seconds: float


@dataclass(frozen=True)
class Report:
    """What `run` found.

    `rates` are measured only where all checks agree; `sensors` is empty where the board reports
    nothing.
    """

    device: str
    capabilities: dict[str, int]
    checks: tuple[Check, ...]
    rates: tuple[Rate, ...]
    sensors: dict[str, float]

    @property
    def ok(self) -> bool:
        """Whether every check agreed."""
        return all(check.ok for check in self.checks)

    def as_dict(self) -> dict[str, Any]:
        """The report as a JSON object."""
        return {
            "ok": self.ok,
            "device": self.device,
            "capabilities": self.capabilities,
            "checks": [asdict(check) for check in self.checks],
            "throughput": [asdict(rate) for rate in self.rates],
            "sensors": self.sensors or "not reported",
        }


def run(
    port: Port,
    *,
    memory_bytes: int = 16 << 20,
    seed: int = 1,
    progress: Callable[[str, int, int], None] = lambda text, done, total: None,
) -> Report:
    """Test the board behind `port`; closes it.

    Args:
        port: the board.
        memory_bytes: how much of its memory to write and read back.
        seed: of operands.
        progress: hears of each part before it starts.

    Raises:
        DeviceError: there is no card, or it does not answer.
    """
    progress("memory", 0, 1)
    checks = [_check("memory", lambda: _memory(port, memory_bytes, seed))]
    backend = CardBackend(port, check_rate=0.0, timeout=60.0)
    try:
        capabilities: dict[str, int] = {
            name: value
            for name, value in asdict(backend._card.capabilities).items()
            if isinstance(value, int)
        }
        sizes = _sizes(capabilities["max_modulus_bits"])
        total = len(sizes) + 3
        if sizes[-1] >= _KNOWN_ANSWERS_BITS:
            progress("known answers", 1, total)
            checks += [
                Check(f"known answer of {row.operation}", row.ok, row.seconds, row.error or "")
                for row in _selftest.run(backend)
            ]
        for done, bits in enumerate(sizes, 2):
            progress(f"commands at {bits} bits", done, total)
            checks += _Commands(backend, bits, seed).check()
        rates: tuple[Rate, ...] = ()
        if all(check.ok for check in checks):
            progress("throughput", total - 1, total)
            rates = _rates(backend, sizes[-1], seed)
        sensors = port.sensors() if isinstance(port, _Reporting) else {}
        return Report(port.name, capabilities, tuple(checks), rates, sensors)
    finally:
        backend.close()


def _sizes(largest: int) -> list[int]:
    """Modulus sizes to test, in bits."""
    return sorted({bits for bits in (512, 1024, largest // 2, largest) if bits <= largest})


def _check(name: str, test: Callable[[], str]) -> Check:
    """Run `test`, which returns what was wrong: nothing if all is well."""
    start = time.perf_counter()
    try:
        detail = test()
    except ResidueError as error:
        detail = str(error)
    return Check(name, not detail, round(time.perf_counter() - start, 6), detail)


def _memory(port: Port, nbytes: int, seed: int) -> str:
    """Write each word's number, its complement and noise, and read them back."""
    buffer = port.allocate(nbytes)
    try:
        number = np.arange(nbytes // 8, dtype=np.uint64)
        noise = np.random.default_rng(seed).integers(0, 2**64, len(number), np.uint64)
        for name, words in (("number", number), ("complement", ~number), ("noise", noise)):
            data: Bytes = words.view(np.uint8)
            buffer.write(0, data)
            differs = np.flatnonzero(buffer.read(0, data.nbytes) != data)
            if len(differs):
                where = buffer.physical_address + int(differs[0])
                return f"{len(differs)} bytes differ with pattern {name}, the first at {where:#x}"
        return ""
    finally:
        buffer.free()


class _Commands:
    """Every command at one modulus size, on more elements than the card works on at a time."""

    def __init__(self, backend: CardBackend, bits: int, seed: int) -> None:
        rng = random.Random(f"{seed} {bits}")  # noqa: S311
        capabilities = backend._card.capabilities
        count = _TURNS * capabilities.rings * capabilities.contexts + _REST
        n = rng.getrandbits(bits) | 1 << bits - 1 | 1
        self._backend, self._bits, self._n = backend, bits, n
        self._x = [0, 1, n - 1, *(rng.randrange(n) for _ in range(count - 3))]
        self._y = [rng.randrange(n) for _ in range(count)]
        top = 2**_EXPONENT_BITS - 1
        self._e = [0, 1, top, *(rng.randrange(top) for _ in range(count - 3))]
        self._units: list[int] = []
        while len(self._units) < count:
            if gcd(candidate := rng.randrange(1, n), n) == 1:
                self._units.append(candidate)
        limit = 1 << _SHORT_BITS
        self._short: NDArray[np.int64] = np.array(
            [[rng.randrange(1 - limit, limit) for _ in range(3)] for _ in range(_BASES)], np.int64
        )
        self._index = np.array([rng.randrange(count) for _ in range(40)], np.int64)
        self._offsets = np.array([0, 7, 7, 8, 40], np.int64)

    def check(self) -> list[Check]:
        """The comparisons of `COMMANDS`."""
        return [
            _check(f"{name}, {self._bits} bits", getattr(self, f"_{name}")) for name in COMMANDS
        ]

    def _up(self, values: list[int]) -> ResidueArray:
        modulus = self._backend.register(self._n)
        return self._backend.upload(modulus, _limbs(values, modulus.limbs))

    def _compare(self, array: ResidueArray, expected: list[int]) -> str:
        found = from_limbs(self._backend.download(array))
        wrong = [i for i, (x, y) in enumerate(zip(found, expected, strict=True)) if x != y]
        return f"{len(wrong)} of {len(expected)} wrong, the first is {wrong[0]}" if wrong else ""

    def _nop(self) -> str:
        modulus = self._backend.register(self._n)
        with self._backend._operation("nop", modulus, 0) as task:
            self._backend._card.issue(task, Opcode.NOP, None)
            self._backend._card.wait(task)
        return ""

    def _transfer(self) -> str:
        return self._compare(self._up(self._x), self._x)

    def _mul(self) -> str:
        product = self._backend.mul(self._up(self._x), self._up(self._y))
        return self._compare(
            product, [x * y % self._n for x, y in zip(self._x, self._y, strict=True)]
        )

    def _pow(self) -> str:
        power = self._backend.pow(self._up(self._x), _limbs(self._e, 1), _EXPONENT_BITS)
        return self._compare(
            power, [pow(x, e, self._n) for x, e in zip(self._x, self._e, strict=True)]
        )

    def _pow_fixed(self) -> str:
        base = self._up(self._y[:1])
        power = self._backend.pow_fixed(base, _limbs(self._e, 1), _EXPONENT_BITS)
        return self._compare(power, [pow(self._y[0], e, self._n) for e in self._e])

    def _prod(self) -> str:
        segments = [self._index[lo:hi].tolist() for lo, hi in pairwise(self._offsets.tolist())]
        product = self._backend.prod(self._up(self._y), self._index, self._offsets)
        return self._compare(
            product, [prod(self._y[i] for i in segment) % self._n for segment in segments]
        )

    def _multi_pow(self) -> str:
        bases = self._units[:_BASES]
        product = self._backend.multi_pow(self._up(bases), self._short, _SHORT_BITS)
        return self._compare(
            product,
            [
                prod(pow(x, e, self._n) for x, e in zip(bases, column, strict=True)) % self._n
                for column in self._short.T.tolist()
            ],
        )

    def _inverse(self) -> str:
        inverse = self._backend.inverse(self._up(self._units))
        return self._compare(inverse, [pow(x, -1, self._n) for x in self._units])

    def _selftest(self) -> str:
        self._backend.self_test()
        return ""

    def _clear(self) -> str:
        array = self._up(self._x)
        self._backend.clear_secrets()
        return self._compare(array, self._x)


def _rates(backend: CardBackend, bits: int, seed: int) -> tuple[Rate, ...]:
    """Batches of the three kinds of operation: held by memory, and by the rings."""
    work = _Commands(backend, bits, seed)
    x, y = work._up(work._x), work._up(work._y)
    base, exponents = work._up(work._y[:1]), _limbs(work._e, 1)
    turns: dict[str, Callable[[], ResidueArray]] = {
        "mul": lambda: backend.mul(x, y),
        "pow": lambda: backend.pow(x, exponents, _EXPONENT_BITS),
        "pow_fixed": lambda: backend.pow_fixed(base, exponents, _EXPONENT_BITS),
    }
    rings = backend._card.capabilities.rings
    rates = []
    for name, turn in turns.items():
        turn().wait()  # builds tables, takes memory
        backend.reset_stats()
        start = time.perf_counter()
        turn().wait()
        seconds = time.perf_counter() - start
        spent = backend.stats()[name]
        full = spent.busy_slots / (spent.device_cycles * rings) if spent.device_cycles else 0.0
        rates.append(Rate(
            operation=name,
            modulus_bits=bits,
            elements=spent.elements,
            products=spent.products,
            device_cycles=spent.device_cycles,
            utilisation=round(full, 4),
            seconds=round(seconds, 6),
        ))  # fmt: skip
    return tuple(rates)


def _limbs(values: list[int], width: int) -> Limbs:
    return to_limbs([mpz(value) for value in values], width)
