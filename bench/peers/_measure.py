"""A run: libraries start, take turns in rounds, and have their results checked.

A turn is timed twice, by the wall and by the processor time of the library's process: on one core,
where nothing waits, both are the same unless others run on the core.

In a round every library has one turn of the operation, in an order that is reversed from round to
round; ratios are made of turns of one round, so that a machine that slows down slows both sides.
A library that fails leaves the reason in its cells and the run goes on.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.peers._client import Asked, PeerError, Together, Worker
from bench.peers._environments import python_of
from bench.peers._operations import LONGER, OPERATIONS, Inputs

__all__ = [
    "BEST",
    "KERNELS",
    "LIBRARIES",
    "Cell",
    "Library",
    "Machine",
    "Run",
    "Settings",
    "Spec",
    "Starter",
    "machine",
    "measure",
    "start",
]

KERNELS = ("gmpy2", "portable", "avx2", "avx512ifma")
"""Values of RESIDUE_CPU_KERNEL."""

_KEY_SECONDS = 300.0
_TURN_SECONDS = 120.0
_ANSWERS = 8
_BATCH_STEP = 16  # eight lanes on each of two cores
_FORMAT = 1


@dataclass(frozen=True)
class Spec:
    """A library as it is started.

    Attributes:
        name: its name in the report, unique.
        adapter: module in `adapters`.
        variant: what the adapter is told.
        environment: its requirements file, or None for this environment.
        cores: how many it may use.
        longer: how many times as large its batches may be.
        processes: how many share the cores, each on as many of its own, at the same time.
    """

    name: str
    adapter: str
    variant: str = ""
    environment: str | None = None
    cores: int = 1
    longer: int = 1
    processes: int = 1


BEST = Spec("Residue", "residue_cpu")

LIBRARIES = (
    BEST,
    Spec("Residue, two cores", "residue_cpu", cores=2),
    Spec("Residue, long batches", "residue_cpu", longer=LONGER),
    Spec("Residue, two cores, long batches", "residue_cpu", cores=2, longer=LONGER),
    Spec("Residue, two processes, long batches", "residue_cpu", "", None, 2, LONGER, 2),
    *(Spec(f"Residue, {kernel} kernel", "residue_cpu", kernel) for kernel in KERNELS),
    Spec("HEU ZPaillier", "heu_paillier", "ZPaillier", "heu"),
    Spec("HEU IPCL", "heu_paillier", "IPCL", "heu"),
    Spec("HEU OU", "heu_paillier", "OU", "heu"),
    Spec("fate_utils", "fate_paillier", environment="fate"),
    Spec("phe", "phe_paillier"),
    Spec("OpenSSL", "openssl_rsa"),
    Spec("GMP", "gmp"),
)


@dataclass(frozen=True)
class Settings:
    """How to measure.

    Attributes:
        bits: key sizes.
        rounds: turns of each library.
        turn_seconds: how long a turn should be at least.
        core: the CPU number of those with one core.
        second_core: the other one of those with two, if there is one.
    """

    bits: tuple[int, ...]
    rounds: int
    turn_seconds: float
    core: int
    second_core: int | None


@dataclass(frozen=True)
class Machine:
    """What it was measured on.

    Attributes:
        processor: model name.
        flags: of those that arithmetic kernels ask for, the ones it has.
        cores: CPU numbers that this process may use.
        system: operating system and Python.
        load: mean number of runnable processes of the last minute, at start and end.
    """

    processor: str
    flags: tuple[str, ...]
    cores: int
    system: str
    load: tuple[float, ...]


@dataclass
class Library:
    """A library of the run; `missing` says why there is nothing of it."""

    name: str
    cores: int
    facts: dict[str, Any] = field(default_factory=dict)
    missing: str | None = None


@dataclass
class Cell:
    """One library, key size and operation.

    Attributes:
        count: elements of a batch.
        repeat: batches of a turn.
        seconds: of each round's turn.
        cpu_seconds: what of it the process computed, all its threads; not its children.
        checked: plaintexts of the last result that were compared.
        missing: why there are no figures.
    """

    library: str
    bits: int
    operation: str
    count: int = 0
    repeat: int = 0
    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    checked: int = 0
    missing: str | None = None

    def rates(self, *, wall: bool) -> list[float]:
        """Operations a second of each round: of wall time, or of the process's own."""
        return [self.count * self.repeat / s for s in (self.seconds if wall else self.cpu_seconds)]


@dataclass
class Run:
    """Everything a report is made of; what is written as JSON."""

    started: str
    command: str
    machine: Machine
    settings: Settings
    libraries: list[Library] = field(default_factory=list)
    cells: list[Cell] = field(default_factory=list)
    format: int = _FORMAT

    @classmethod
    def load(cls, data: Any) -> Run:
        """What `dataclasses.asdict` and JSON made of a run. Raises `PeerError`."""
        try:
            if data["format"] != _FORMAT:
                raise PeerError(f"a run of format {data['format']}, expected {_FORMAT}")
            return cls(
                started=data["started"],
                command=data["command"],
                machine=Machine(
                    **data["machine"] | {k: tuple(data["machine"][k]) for k in ("flags", "load")}
                ),
                settings=Settings(**data["settings"] | {"bits": tuple(data["settings"]["bits"])}),
                libraries=[Library(**each) for each in data["libraries"]],
                cells=[Cell(**each) for each in data["cells"]],
            )
        except (KeyError, TypeError) as error:
            raise PeerError(f"not a run of bench.peers: {error}") from error


Starter = Callable[[Spec, Sequence[int]], Asked]
"""Starts a library on the given cores. Raises `PeerError`."""


def start(cache: Path, *, install: bool) -> Starter:
    """The starter of real workers, whose environments lie in `cache`."""

    def starter(spec: Spec, cores: Sequence[int]) -> Asked:
        if spec.processes > 1:
            one = replace(spec, cores=spec.cores // spec.processes, processes=1)
            with ExitStack() as stack:
                workers = []
                for i in range(spec.processes):
                    workers.append(starter(one, cores[i :: spec.processes]))
                    stack.callback(workers[-1].close)
                stack.pop_all()
            return Together(workers)
        environment = dict(os.environ) | {"RESIDUE_CPU_WORKERS": str(len(cores))}
        environment.pop("RESIDUE_CPU_KERNEL", None)
        python = Path(sys.executable)
        if spec.environment is not None:
            python = python_of(spec.environment, cache, install=install)
            environment.pop("PYTHONPATH", None)
        return Worker(python, spec.adapter, spec.variant, cores, environment)

    return starter


def machine() -> Machine:
    """Facts of this machine."""
    facts: dict[str, str] = {}
    try:
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            key, _, value = line.partition(":")
            facts.setdefault(key.strip(), value.strip())
    except OSError:
        pass
    asked = ("bmi2", "adx", "avx2", "avx512f", "avx512ifma")
    have = facts.get("flags", "").replace("avx512_ifma", "avx512ifma").split()
    return Machine(
        processor=facts.get("model name", platform.machine()),
        flags=tuple(flag for flag in asked if flag in have),
        cores=len(os.sched_getaffinity(0)),
        system=f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        load=(round(os.getloadavg()[0], 2),),
    )


def measure(
    settings: Settings,
    starter: Starter,
    *,
    command: str,
    libraries: Sequence[Spec] = LIBRARIES,
    progress: Callable[[str, int, int], None] = lambda text, done, total: None,
) -> Run:
    """Measure all libraries; `progress` hears of each step before it starts."""
    here, inputs = machine(), Inputs.make()
    run = Run(datetime.now(UTC).isoformat(timespec="seconds"), command, here, settings)
    total = 1 + len(settings.bits) * (1 + len(OPERATIONS))
    with ExitStack() as stack:
        progress("starting the libraries", 0, total)
        workers = _start_all(run, starter, libraries, stack)
        done = 1
        for bits in settings.bits:
            progress(f"keys of {bits} bits", done, total)
            keys = {name: _key(worker, bits, inputs) for name, worker in workers.items()}
            done += 1
            for operation in OPERATIONS:
                progress(f"{operation}, {bits} bits", done, total)
                largest = {spec.name: spec.longer * OPERATIONS[operation] for spec in libraries}
                run.cells += _operation(settings, workers, keys, inputs, bits, operation, largest)
                done += 1
    load = (*here.load, round(os.getloadavg()[0], 2))
    run.machine = Machine(**asdict(here) | {"load": load})
    return run


def _start_all(
    run: Run, starter: Starter, libraries: Sequence[Spec], stack: ExitStack
) -> dict[str, Asked]:
    workers = {}
    for spec in libraries:
        library = Library(spec.name, spec.cores)
        run.libraries.append(library)
        cores = [run.settings.core]
        if spec.cores == 2:
            if run.settings.second_core is None:
                library.missing = "one core only"
                continue
            cores.append(run.settings.second_core)
        try:
            worker = starter(spec, cores)
        except PeerError as error:
            library.missing = str(error)
            continue
        stack.callback(worker.close)
        library.facts = worker.facts
        workers[spec.name] = worker
    return workers


def _key(worker: Asked, bits: int, inputs: Inputs) -> str | None:
    """Why the library has no key of the size, or None."""
    try:
        worker.ask({"do": "key", "bits": bits, "inputs": asdict(inputs)}, seconds=_KEY_SECONDS)
    except PeerError as error:
        return str(error)
    return None


def _operation(
    settings: Settings,
    workers: dict[str, Asked],
    keys: dict[str, str | None],
    inputs: Inputs,
    bits: int,
    operation: str,
    largest: dict[str, int],
) -> list[Cell]:
    cells = []
    for name, worker in workers.items():
        if operation not in worker.operations:
            continue
        cell = Cell(name, bits, operation, missing=keys[name])
        cells.append(cell)
        if cell.missing is None:
            _try(cell, _calibrate, cell, worker, settings.turn_seconds, largest[name])
    for index in range(settings.rounds):
        for cell in cells if index % 2 == 0 else reversed(cells):
            if cell.missing is None:
                _try(cell, _turn, cell, workers[cell.library], cell.repeat)
    for cell in cells:
        if cell.missing is None:
            _try(cell, _check, cell, workers[cell.library], inputs)
    return cells


def _try(cell: Cell, step: Callable[..., object], *arguments: Any) -> None:
    try:
        step(*arguments)
    except PeerError as error:
        cell.missing = str(error)


def _turn(cell: Cell, worker: Asked, repeat: int) -> float:
    request = {
        "do": "turn",
        "operation": cell.operation,
        "count": cell.count,
        "repeat": repeat,
    }
    answer = worker.ask(request, seconds=_TURN_SECONDS)
    try:
        seconds, cpu_seconds = float(answer["seconds"]), float(answer["cpu_seconds"])
    except (KeyError, TypeError, ValueError) as error:
        raise PeerError(f"answered a turn with {answer!r}") from error
    if not (seconds > 0 and cpu_seconds > 0):
        raise PeerError(f"answered a turn with {seconds} and {cpu_seconds} seconds")
    cell.seconds.append(seconds)
    cell.cpu_seconds.append(cpu_seconds)
    return seconds


def _calibrate(cell: Cell, worker: Asked, turn_seconds: float, largest: int) -> None:
    """Grow the batch, then the number of batches, until a turn is long enough. Warms up, too."""
    cell.count = largest if cell.operation == "matmul" else _BATCH_STEP
    seconds = _turn(cell, worker, 1)
    while cell.count < largest and seconds < turn_seconds / 2:
        wanted = int(cell.count * turn_seconds / seconds) // _BATCH_STEP * _BATCH_STEP
        cell.count = min(largest, max(2 * cell.count, wanted))
        seconds = _turn(cell, worker, 1)
    cell.repeat = max(1, round(turn_seconds / _turn(cell, worker, 1)))
    cell.seconds.clear()
    cell.cpu_seconds.clear()


def _check(cell: Cell, worker: Asked, inputs: Inputs) -> None:
    limit = min(_ANSWERS, cell.count)
    request = {"do": "answers", "operation": cell.operation, "limit": limit}
    answers = worker.ask(request, seconds=_TURN_SECONDS).get("answers")
    expected = inputs.expected(cell.operation, limit)
    bits = worker.facts.get("answer_bits")
    if bits is not None:  # the library's own decoder keeps no more of a number
        half = 1 << (bits - 1)
        expected = [(m + half) % (2 * half) - half for m in expected]
    if answers != expected:
        raise PeerError("wrong result: its plaintexts are not those of the inputs")
    cell.checked = limit
