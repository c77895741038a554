"""Devices measured side by side: turns of all of them alternate, each result is checked.

Batches grow until a turn lasts; the last one is the device's full batch. Then come the rounds: each
device takes its turn in each, so that a machine that slows down in between slows all of them, and a
ratio is the median of the rounds' ratios.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from gmpy2 import mpz
from numpy.typing import NDArray

from residue._limbs import from_limbs
from residue.backends._protocol import Backend, Limbs, ResidueArray
from residue.compare._workloads import WORKLOADS, Bench, Workload, wait
from residue.errors import BackendError, CorruptResult, EncodingOverflow, InsecureKeyWarning
from residue.paillier import CiphertextArray, keygen

__all__ = ["Cycles", "Measurement", "Measurer", "Plan", "Point"]

_CHECKED = 8  # results of each period that are checked
_CHECKED_ROWS = 2
_GROWTH = 4
_LEAST_ROUNDS = 3
_FEW_TURNS = 3

_WRONG = (CorruptResult, EncodingOverflow)  # a wrong residue decrypts to nothing, or to anything

Step = Callable[[str, int, int], None]
"""Hears what is done next, and how many of how many parts are done."""


@dataclass(frozen=True)
class Plan:
    """How much to measure.

    Attributes:
        rounds: turns of each device at its full batch.
        turn: seconds; batches grow until a turn takes as long.
        most: residues that a batch brings or returns at most.
        seconds: for all of it; past them rounds end early, at 3.
    """

    rounds: int = 7
    turn: float = 0.06
    most: int = 1 << 18
    seconds: float = 60.0


@dataclass(frozen=True)
class Point:
    """Batch of so many units: median seconds of its turn, and of its transfers by themselves."""

    units: int
    seconds: float
    up: float
    down: float


@dataclass
class Measurement:
    """One workload on one device.

    Attributes:
        units: the full batch.
        rates: operations a second in each round.
        points: small batches to the full one.
        checked: results that were compared, all of them equal.
        error: why the device failed.
        wrong: a result was wrong.
    """

    units: int = 0
    rates: list[float] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)
    checked: int = 0
    error: str | None = None
    wrong: bool = False


@dataclass(frozen=True)
class Cycles:
    """One workload on a card, counted in its cycles; rates are for a clock to tell."""

    units: int
    cycles_per_operation: float
    products_per_operation: float
    ring_use: float
    checked: int


class Measurer:
    """A key pair, its operands, and the CPU's answers; measures devices with them.

    Args:
        cpu: the backend that the others are compared to.
        key_bits: size of n.
    """

    def __init__(self, cpu: Backend, key_bits: int) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", InsecureKeyWarning)  # the keys live in this object only
            self._pk, self._sk = keygen(key_bits, insecure_allow_1024=True, device=cpu)
        self._ciphertexts = self._pk.encrypt(Bench.plaintexts).to_limbs()
        self._cpu = self.bench(cpu)
        self._answers: dict[str, Limbs] = {}

    def bench(self, backend: Backend) -> Bench:
        """The key and the operands on a device. Raises `BackendError` if it does not take them."""
        return Bench(self._pk, self._sk, backend, self._ciphertexts)

    def measure(
        self, backends: Mapping[str, Backend], plan: Plan, progress: Step
    ) -> dict[str, dict[str, Measurement]]:
        """Every workload on every device: device -> workload -> what was found."""
        found: dict[str, dict[str, Measurement]] = {name: {} for name in backends}
        benches: dict[str, Bench] = {}
        for name, backend in backends.items():
            try:
                benches[name] = self.bench(backend)
            except BackendError as error:
                found[name] = {w: Measurement(error=str(error)) for w in WORKLOADS}
        start = time.monotonic()
        for done, workload in enumerate(WORKLOADS.values()):
            turns: dict[str, Callable[[], Any]] = {}
            for place, (name, bench) in enumerate(benches.items(), 1):
                # Each device has its share of the time, whatever the others before it took.
                part = done + place / len(benches)
                until = start + plan.seconds * part / len(WORKLOADS)
                progress(f"{name}: {workload.name}, {self._pk.bits} bits", done, len(WORKLOADS))
                found[name][workload.name] = m = Measurement()
                try:
                    turns[name] = self._grow(bench, workload, plan, until, m)
                except (BackendError, EncodingOverflow) as error:
                    m.error, m.wrong = str(error), isinstance(error, _WRONG)
            until = start + plan.seconds * (done + 1) / len(WORKLOADS)
            self._rounds(workload, turns, found, plan.rounds, until)
        return found

    def cycles(
        self, bench: Bench, workload: Workload, units: int, *, second: bool = False
    ) -> Cycles:
        """Run one batch on a card, check it, and count; `second`: the second one, for a first one
        builds tables that are kept.

        Raises:
            BackendError: the card failed.
            CorruptResult: it computed something wrong.
        """
        turn = workload.prepare(bench, units)
        if second:
            wait(turn())
        bench.backend.synchronize()
        bench.backend.reset_stats()
        result = turn()
        wait(result)
        bench.backend.synchronize()
        stats = list(bench.backend.stats().values())
        checked = self._check(bench, workload, units, result)
        if checked is None:
            raise CorruptResult(f"{bench.backend.name} computed a wrong {workload.name}")
        operations = units * workload.operations
        slots = sum(s.ring_slots for s in stats)
        return Cycles(
            units=units,
            cycles_per_operation=sum(s.device_cycles for s in stats) / operations,
            products_per_operation=sum(s.products for s in stats) / operations,
            ring_use=sum(s.busy_slots for s in stats) / slots if slots else 0.0,
            checked=checked,
        )

    # --- private --------------------------------------------------------------------------------

    def _grow(
        self, bench: Bench, workload: Workload, plan: Plan, until: float, m: Measurement
    ) -> Callable[[], Any]:
        """Let batches grow; the turn of the full one, or of the largest that the device takes."""
        turn, units = None, 1
        while True:
            try:
                larger = workload.prepare(bench, units)
                checked = self._check(bench, workload, units, larger())
                if checked is None:
                    raise CorruptResult(f"a batch of {units} gave a wrong result: do not use it")
                seconds = float(np.median([_seconds(larger) for _ in range(_FEW_TURNS)]))
                point = Point(units, seconds, *_transfers(bench, workload, units))
            except BackendError as error:
                if turn is None or isinstance(error, CorruptResult):
                    raise
                return turn
            m.checked += checked
            m.points.append(point)
            turn, m.units = larger, units
            largest = units * _GROWTH * max(workload.up, workload.down) > plan.most
            if seconds >= plan.turn or largest or time.monotonic() > until:
                return turn
            units *= _GROWTH

    @staticmethod
    def _rounds(
        workload: Workload,
        turns: dict[str, Callable[[], Any]],
        found: Mapping[str, Mapping[str, Measurement]],
        rounds: int,
        until: float,
    ) -> None:
        for done in range(rounds):
            if done >= _LEAST_ROUNDS and time.monotonic() > until:
                return
            for name, turn in list(turns.items()):
                m = found[name][workload.name]
                try:
                    m.rates.append(m.units * workload.operations / _seconds(turn))
                except (BackendError, EncodingOverflow) as error:
                    m.error, m.wrong = str(error), isinstance(error, _WRONG)
                    del turns[name]

    def _check(self, bench: Bench, workload: Workload, units: int, result: Any) -> int | None:
        """How many results were compared with the right ones; None if one is wrong.

        Fresh ciphertexts are sampled and decrypted; of the others all are compared for which the
        CPU has an answer, that is all up to the CPU's own largest batch, and their repetitions.
        """
        few = _CHECKED_ROWS if workload.operations > 1 else _CHECKED
        got = _limbs(bench.backend, result).reshape(units, -1)
        place = np.arange(units) % workload.period
        if workload.name.startswith("encrypt"):
            assert workload.plaintexts is not None
            index = np.union1d(np.flatnonzero(place < few), units - 1)
            expected = np.array(workload.plaintexts(workload.period))[place[index]]
            try:
                plain = self._sk.decrypt_mantissas(np.ascontiguousarray(got[index]))
            except _WRONG:
                return None
            right = np.array_equal(plain, expected)
        else:
            answer = self._answer(workload, few)
            index = np.flatnonzero(place < len(answer))
            right = np.array_equal(got[index], answer[place[index]])
            longer = min(units, workload.period)
            if right and bench.backend is self._cpu.backend and longer > len(answer):
                self._answers[workload.name] = got[:longer].copy()
        return len(index) * (workload.down if workload.operations > 1 else 1) if right else None

    def _answer(self, workload: Workload, few: int) -> NDArray[Any]:
        """The CPU's first results, ``(at least few, words)``; `few` of them were proved right."""
        if workload.name not in self._answers:
            result = workload.prepare(self._cpu, few)()
            limbs = _limbs(self._cpu.backend, result)
            if workload.plaintexts is None:
                n, nn = mpz(self._pk.n), mpz(self._pk.nsquare)
                bases = from_limbs(self._ciphertexts[:few])
                right = from_limbs(limbs) == [pow(base, n, nn) for base in bases]
            else:
                # Decryption itself is checked by what was encrypted.
                decrypted = isinstance(result, list)
                plain = result if decrypted else self._sk.decrypt_mantissas(limbs)
                right = plain == workload.plaintexts(few)
            if not right:
                raise CorruptResult(f"the CPU computed a wrong {workload.name}: do not use it")
            self._answers[workload.name] = limbs.reshape(few, -1)
        return self._answers[workload.name]


def _limbs(backend: Backend, result: Any) -> NDArray[Any]:
    if isinstance(result, list):
        return np.array(result, dtype=np.int64).reshape(-1, 1)
    if isinstance(result, CiphertextArray):
        return result.to_limbs()
    return result if isinstance(result, np.ndarray) else backend.download(result)


def _seconds(turn: Callable[[], Any]) -> float:
    start = time.perf_counter()
    wait(turn())
    return time.perf_counter() - start


def _transfers(bench: Bench, workload: Workload, units: int) -> tuple[float, float]:
    """Seconds to bring a batch's operands to the device, and its results back, by themselves."""
    backend, modulus = bench.backend, bench.pk.modulus
    size = len(bench.ciphertexts)
    operands = bench.ciphertexts[np.arange(units * workload.up) % size]
    results: ResidueArray = bench.residues(np.arange(units * workload.down, dtype=np.int64))
    wait(results)
    up, down = [], []
    for _ in range(_FEW_TURNS):
        up.append(_seconds(lambda: backend.upload(modulus, operands)))
        down.append(_seconds(lambda: backend.download(results)))
    return float(np.median(up)), float(np.median(down))
