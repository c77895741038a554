"""Sums over a profile: what each operation cost, and where a card's cycles went."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from residue.profile._events import Command, Device

__all__ = [
    "DeviceSummary",
    "OperationRow",
    "Timeline",
    "covered",
    "spans",
    "summarise",
    "timeline",
    "waiting_slots",
]

Fractions = NDArray[np.float64]


@dataclass(frozen=True)
class OperationRow:
    """One kind of operation of one device.

    Attributes:
        operation: its name at the narrow waist.
        calls: how often it was called.
        elements: results.
        host_seconds: wall time in it, waiting included, nested calls counted in each.
        commands: card commands.
        products: modular products on the card.
        cycles: card cycles.
        ring_use: share of the ring slots of these cycles that held a product.
        waiting: share that waited for an operand.
    """

    operation: str
    calls: int
    elements: int
    host_seconds: float
    commands: int
    products: int
    cycles: int
    ring_use: float
    waiting: float


@dataclass(frozen=True)
class DeviceSummary:
    """One device of the job.

    Attributes:
        name: the device.
        rings: its rings; 0 where it is no card.
        host_seconds: time in operations on it, overlapping calls counted once.
        cycles: card cycles in commands.
        idle_cycles: card cycles between commands.
        ring_use: share of all ring slots in commands that held a product.
        waiting: share that waited for an operand.
        filling: the rest: the ring fills or drains, or the command is set up.
        read_bytes: read from the card's memory.
        write_bytes: written to it.
        operations: by operation, costliest first.
    """

    name: str
    rings: int
    host_seconds: float
    cycles: int
    idle_cycles: int
    ring_use: float
    waiting: float
    filling: float
    read_bytes: int
    write_bytes: int
    operations: list[OperationRow]


@dataclass(frozen=True)
class Timeline:
    """Where each cycle of a card went, in equal slices of its time.

    Attributes:
        start: first cycle of each slice, counted from the first command on, resets left out.
        busy: share of the slice's ring slots that held a product; the four shares add up to 1.
        waiting: share that waited for an operand.
        filling: the rest of the cycles in commands.
        idle: share without a command.
        bytes_per_cycle: memory traffic.
    """

    start: NDArray[np.int64]
    busy: Fractions
    waiting: Fractions
    filling: Fractions
    idle: Fractions
    bytes_per_cycle: Fractions


def summarise(device: Device) -> DeviceSummary:
    """Sums over one device."""
    names = sorted(
        {o.name for o in device.operations} | {c.operation for c in device.commands},
        key=lambda name: -_cost(device, name),
    )
    slots = sum(c.cycles for c in device.commands) * device.rings
    busy = _share(sum(c.busy for c in device.commands), slots)
    waiting = _share(sum(waiting_slots(c, device.rings) for c in device.commands), slots)
    begins, ends = spans(device.commands)
    return DeviceSummary(
        name=device.name,
        rings=device.rings,
        host_seconds=covered(
            np.array([o.start for o in device.operations]),
            np.array([o.end for o in device.operations]),
        ),
        cycles=sum(c.cycles for c in device.commands),
        idle_cycles=int((begins[1:] - ends[:-1]).clip(min=0).sum()) if len(begins) else 0,
        ring_use=busy,
        waiting=waiting,
        filling=1 - busy - waiting if slots else 0.0,
        read_bytes=sum(c.read_bytes for c in device.commands),
        write_bytes=sum(c.write_bytes for c in device.commands),
        operations=[_row(device, name) for name in names],
    )


def timeline(device: Device, slices: int = 240) -> Timeline | None:
    """The card's cycles in `slices` slices; None for a device without commands."""
    commands = device.commands
    if not commands or not device.rings:
        return None
    begins, ends = spans(commands)
    edges = np.linspace(0, int(ends[-1]), min(slices, max(1, int(ends[-1]))) + 1)
    width = np.diff(edges)

    def spread(amounts: list[float]) -> Fractions:
        """Amounts of the commands over the slices that they touch, evenly in time."""
        sums = np.concatenate([[0.0], np.cumsum(amounts)])
        knots = np.column_stack([begins, ends]).ravel().astype(np.float64)
        values = np.column_stack([sums[:-1], sums[1:]]).ravel()
        return np.diff(np.interp(edges, knots, values))

    slots = width * device.rings
    busy = spread([c.busy for c in commands]) / slots
    waiting = spread([waiting_slots(c, device.rings) for c in commands]) / slots
    inside = spread([c.cycles * device.rings for c in commands]) / slots
    return Timeline(
        start=edges[:-1].astype(np.int64),
        busy=busy,
        waiting=waiting,
        filling=(inside - busy - waiting).clip(min=0),
        idle=(1 - inside).clip(min=0),
        bytes_per_cycle=spread([c.read_bytes + c.write_bytes for c in commands]) / width,
    )


def spans(commands: list[Command]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First and end cycle of each command, the first one at 0, resets joined without a gap."""
    begins: list[int] = []
    ends: list[int] = []
    shift, epoch = 0, None
    for c in commands:
        if c.epoch != epoch:
            shift = (ends[-1] if ends else 0) - c.started
            epoch = c.epoch
        begins.append(max(c.started + shift, ends[-1] if ends else 0))
        ends.append(begins[-1] + c.cycles)
    return np.array(begins, np.int64), np.array(ends, np.int64)


def covered(starts: Fractions, ends: Fractions) -> float:
    """Length of the union of intervals: starts and ends in any order of the intervals."""
    if not len(starts):
        return 0.0
    order = np.argsort(starts)
    starts, reached = starts[order], np.maximum.accumulate(ends[order])
    gaps = (starts[1:] - reached[:-1]).clip(min=0)
    return float(reached[-1] - starts[0] - gaps.sum())


def waiting_slots(c: Command, rings: int) -> int:
    """Slots that stayed empty for want of an operand; one may be awaited while others are used."""
    return min(c.stalls, c.cycles * rings - c.busy)


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _cost(device: Device, name: str) -> float:
    cycles = sum(c.cycles for c in device.commands if c.operation == name)
    return cycles or sum(o.end - o.start for o in device.operations if o.name == name)


def _row(device: Device, name: str) -> OperationRow:
    calls = [o for o in device.operations if o.name == name]
    commands = [c for c in device.commands if c.operation == name]
    cycles = sum(c.cycles for c in commands)
    return OperationRow(
        operation=name,
        calls=len(calls),
        elements=sum(o.elements for o in calls),
        host_seconds=sum(o.end - o.start for o in calls),
        commands=len(commands),
        products=sum(c.products for c in commands),
        cycles=cycles,
        ring_use=_share(sum(c.busy for c in commands), cycles * device.rings),
        waiting=_share(
            sum(waiting_slots(c, device.rings) for c in commands), cycles * device.rings
        ),
    )
