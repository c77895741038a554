"""A whole comparison: finds devices, measures, projects, runs the job; one `Results` in the end."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from residue.backends import Backend, available_backends, get_backend
from residue.compare import _extensions, _job
from residue.compare._extensions import Projection
from residue.compare._job import JobRun
from residue.compare._measure import Cycles, Measurement, Measurer, Plan
from residue.compare._workloads import WORKLOADS
from residue.errors import (
    BackendError,
    CompareError,
    CorruptResult,
    EncodingOverflow,
    InvalidKey,
    ResidueError,
)
from residue.paillier._keys import MAX_KEY_BITS, MIN_KEY_BITS

__all__ = ["BASE", "CardRun", "Device", "Results", "Settings", "run"]

BASE = "cpu"
"""The device that all are compared to."""

_EXPECTED = ("gpu", "card")
"""Devices that have a row even where there are none, with the reason."""

_CARD_UNITS = {
    "add": 128, "ct_x_pt": 8, "matmul": 1, "encrypt-djn": 8, "decrypt": 8, "matmul-powers": 1,
    "power": 8, "encrypt-classic": 8, "ct_x_pt-var": 8,
}  # fmt: skip
"""What the simulated card runs, in this order: batches that take seconds, quickest first."""
_LEAST_CARD_SECONDS = 5.0
_LEAST_JOB_SECONDS = 5.0
_MEASURING = 0.5  # of the budget at most

Step = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Settings:
    """What to compare.

    Attributes:
        devices: names for `get_backend`; empty: all that are found.
        key_bits: sizes of n, ascending.
        budget: seconds for everything.
        quick: few and short turns, no job, no simulated card.
    """

    devices: tuple[str, ...] = ()
    key_bits: tuple[int, ...] = (1024, 2048)
    budget: float = 170.0
    quick: bool = False

    def __post_init__(self) -> None:
        if not self.key_bits:
            raise CompareError("no key size to compare at")
        for bits in self.key_bits:
            if not MIN_KEY_BITS <= bits <= MAX_KEY_BITS or bits % 128:
                raise InvalidKey(
                    f"key size {bits} is not a multiple of 128 in [{MIN_KEY_BITS}, {MAX_KEY_BITS}]"
                )
        if list(self.key_bits) != sorted(set(self.key_bits)):
            raise CompareError(f"key sizes must ascend, each once: {list(self.key_bits)}")
        if not self.budget > 0:
            raise CompareError(f"the budget must be positive, not {self.budget:g} s")

    @property
    def main_bits(self) -> int:
        """The size that small batches, the job and the charts are shown for: the largest."""
        return self.key_bits[-1]


@dataclass
class Device:
    """A device that was looked for.

    Attributes:
        name: for `get_backend`.
        facts: what it says of itself.
        measured: bits -> workload -> measurement.
        reason: why there is none.
    """

    name: str
    facts: dict[str, str | int | float | bool] = field(default_factory=dict)
    measured: dict[int, dict[str, Measurement]] = field(default_factory=dict)
    reason: str | None = None

    @property
    def wrong(self) -> list[str]:
        """Workloads of which it computed a wrong result."""
        return [
            f"{name} at {bits} bits"
            for bits, found in self.measured.items()
            for name, m in found.items()
            if m.wrong
        ]


@dataclass
class CardRun:
    """The simulated card: workload -> cycles, at one key size; or why there are none."""

    name: str
    key_bits: int
    cycles: dict[str, Cycles] = field(default_factory=dict)
    reason: str | None = None
    wrong: bool = False


@dataclass
class Results:
    """Everything that was found, before it is priced."""

    settings: Settings
    started: str
    seconds: float
    machine: dict[str, str | int]
    devices: list[Device]
    projections: list[Projection]
    no_projections: str | None
    card: CardRun
    jobs: list[JobRun]
    job_reasons: dict[str, str]

    @property
    def wrong(self) -> list[str]:
        """Devices that computed something wrong, and what."""
        found = [f"{d.name}: {', '.join(d.wrong)}" for d in self.devices if d.wrong]
        if self.card.wrong:
            found.append(f"{self.card.name}: {self.card.reason}")
        if len({tuple(job.losses) for job in self.jobs}) > 1:
            names = ", ".join(job.device for job in self.jobs)
            found.append(f"the job's losses differ between {names}")
        return found


def run(settings: Settings, progress: Step = lambda text, done, total: None) -> Results:
    """Compare.

    Args:
        settings: what.
        progress: hears of each step before it starts.

    Raises:
        BackendError: the CPU, or a device that the settings name, cannot be opened or measured.
    """
    start = time.monotonic()
    started = datetime.now(UTC).isoformat(timespec="seconds")

    def left() -> float:
        return settings.budget - (time.monotonic() - start)

    progress("looking for devices", 0, 1)
    devices, backends = _find(settings)
    projections, no_projections = _extensions.boards(
        settings.key_bits, settings.main_bits, progress
    )
    seconds = min(_MEASURING * settings.budget, left()) / len(settings.key_bits)
    plan = (
        Plan(rounds=3, turn=0.004, most=4096, seconds=seconds)
        if settings.quick
        else Plan(seconds=seconds)
    )
    first: Measurer | None = None
    for bits in settings.key_bits:
        measurer = Measurer(backends[BASE], bits)
        first = first or measurer
        for name, found in measurer.measure(backends, plan, progress).items():
            next(d for d in devices if d.name == name).measured[bits] = found
    assert first is not None
    base = next(d for d in devices if d.name == BASE)
    if failed := [m.error for found in base.measured.values() for m in found.values() if m.error]:
        raise BackendError(f"the CPU cannot be measured: {failed[0]}")
    for device in devices:
        _note_failure(device)
    jobs, reasons = _jobs(settings, [d.name for d in devices if d.measured], left, progress)
    card = _card(settings, first, left, progress)
    return Results(
        settings=settings,
        started=started,
        seconds=time.monotonic() - start,
        machine=_machine(),
        devices=devices,
        projections=projections,
        no_projections=no_projections,
        card=card,
        jobs=jobs,
        job_reasons=reasons,
    )


def _find(settings: Settings) -> tuple[list[Device], dict[str, Backend]]:
    """Rows of all devices, and the backends of those that can be opened; the CPU first."""
    names = list(settings.devices)
    if not names:
        names = [name for name in available_backends() if name != "auto"]
        names += [name for name in _EXPECTED if name not in names]
    names = [BASE, *(name for name in dict.fromkeys(names) if name != BASE)]
    devices, backends = [], {}
    for name in names:
        device = Device(name)
        devices.append(device)
        if name == "card" and name not in (*settings.devices, *available_backends()):
            device.reason = "no board is in sight"
            continue
        try:
            backend = get_backend(name)
            device.facts = backend.describe()
            backends[name] = backend
        except BackendError as error:
            if name == BASE or name in settings.devices:
                raise
            device.reason = str(error)
    return devices, backends


def _note_failure(device: Device) -> None:
    """A device of which nothing could be measured is one that is not there."""
    errors = [m.error for found in device.measured.values() for m in found.values()]
    if errors and all(errors):
        device.reason = errors[0]
        if not device.wrong:
            device.measured.clear()


def _jobs(
    settings: Settings, names: Sequence[str], left: Callable[[], float], progress: Step
) -> tuple[list[JobRun], dict[str, str]]:
    """The job on every measured device; why not, for the others."""
    jobs, reasons = [], {}
    for done, name in enumerate(names):
        progress(f"{name}: a federated job, {settings.main_bits} bits", done, len(names))
        try:
            if settings.quick:
                raise CompareError("left out of a quick comparison")
            if left() < _LEAST_JOB_SECONDS:
                raise CompareError("no time was left")
            jobs.append(_job.run(name, settings.main_bits, left()))
        except CompareError as error:
            reasons[name] = str(error)
    return jobs, reasons


def _card(
    settings: Settings, measurer: Measurer, left: Callable[[], float], progress: Step
) -> CardRun:
    """Small batches on the simulated card, until the time is used up."""
    result = CardRun("simulated card", settings.key_bits[0])
    if settings.quick:
        result.reason = "left out of a quick comparison"
        return result
    progress("simulated card: building, where it is not built yet", 0, len(WORKLOADS))
    try:
        if left() < _LEAST_CARD_SECONDS:
            raise BackendError("no time was left")
        with _extensions.card(left()) as backend:
            result.name = str(backend.describe()["device"])
            bench = measurer.bench(backend)
            for done, (name, units) in enumerate(_CARD_UNITS.items()):
                progress(f"simulated card: {name}", done, len(WORKLOADS))
                if left() < _LEAST_CARD_SECONDS:
                    result.reason = "the time was used up before the others"
                    break
                tables = name == "encrypt-djn"
                cycles = measurer.cycles(bench, WORKLOADS[name], units, second=tables)
                result.cycles[name] = cycles
    except (CorruptResult, EncodingOverflow) as error:
        result.reason, result.wrong = str(error), True
    except ResidueError as error:
        result.reason = str(error)
    return result


def _machine() -> dict[str, str | int]:
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "cores": len(os.sched_getaffinity(0)),
    }
