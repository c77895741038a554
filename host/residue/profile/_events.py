"""The files that a profiled job leaves, read and checked."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from residue._trace import FORMAT
from residue.errors import ProfileError

__all__ = ["Command", "Device", "Operation", "Process", "Profile", "load"]

_LARGEST_FILE = 1 << 30


@dataclass(frozen=True, slots=True)
class Operation:
    """One backend operation as its caller saw it; seconds since the profile began."""

    device: int
    name: str
    modulus_bits: int
    elements: int
    start: float
    end: float
    thread: int


@dataclass(frozen=True, slots=True)
class Command:
    """One command that a card completed; the fields of `residue.card` records.

    `started`, `cycles` and `stalls` are card cycles, `busy` ring slots, `noticed` seconds since the
    profile began.
    """

    device: int
    number: int
    operation: str
    opcode: int
    status: int
    count: int
    length: int
    modulus_bits: int
    epoch: int
    started: int
    cycles: int
    busy: int
    products: int
    stalls: int
    read_bytes: int
    write_bytes: int
    noticed: float


@dataclass
class Device:
    """A device of one process and what it did, in order of time."""

    name: str
    facts: dict[str, str | int | float | bool]
    operations: list[Operation] = field(default_factory=list)
    commands: list[Command] = field(default_factory=list)

    @property
    def rings(self) -> int:
        """Rings of a card; 0 for a device without."""
        return int(self.facts.get("rings", 0))


@dataclass
class Process:
    """One process of the job.

    Attributes:
        pid: its number.
        program: the file name of what it ran.
        complete: it ended in order; else its last events may be missing.
        dropped: events that were not written for want of room.
        devices: what it computed on.
    """

    pid: int
    program: str
    complete: bool
    dropped: int
    devices: list[Device]


@dataclass
class Profile:
    """All processes of a job, on one time axis that begins with the first of them."""

    processes: list[Process]

    @property
    def devices(self) -> list[Device]:
        """The devices of all processes."""
        return [device for process in self.processes for device in process.devices]


def load(folder: Path) -> Profile:
    """Read the files that a job left in `folder`; those of killed processes too.

    Raises:
        ProfileError: there is none, or one is not what this version writes.
    """
    paths = sorted([*folder.glob("process-*.jsonl"), *folder.glob("process-*.part")])
    if not paths:
        raise ProfileError(f"no profile in {folder}: the job computed nothing with residue")
    raw = [(path, _lines(path)) for path in paths]
    heads = [lines[0] for _, lines in raw]
    origin = min(head["unix"] for head in heads)
    processes = [
        _process(path, lines, head["unix"] - origin - head["clock"])
        for (path, lines), head in zip(raw, heads, strict=True)
    ]
    return Profile(processes)


def _lines(path: Path) -> list[dict[str, Any]]:
    if path.stat().st_size > _LARGEST_FILE:
        raise ProfileError(f"{path.name} is larger than {_LARGEST_FILE >> 20} MiB")
    text = path.read_text(encoding="ascii", errors="replace").splitlines()
    if path.suffix == ".part" and text:
        text.pop()  # it may be cut off
    try:
        lines = [json.loads(line) for line in text]
        head = lines[0]
        known = head["kind"] == "process" and head["format"] == FORMAT
        numbers = isinstance(head["unix"], float) and isinstance(head["clock"], float)
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise ProfileError(f"{path.name} is damaged, or no profile of residue") from error
    if not (known and numbers):
        raise ProfileError(f"{path.name} was written by another version of residue")
    return lines


def _process(path: Path, lines: list[dict[str, Any]], shift: float) -> Process:
    head, devices, dropped = lines[0], list[Device](), 0
    try:
        for line in lines[1:]:
            kind = line.pop("kind")
            if kind == "device":
                devices.append(Device(str(line["name"]), dict(line["facts"])))
            elif kind == "operation":
                line["start"] += shift
                line["end"] += shift
                operation = _make(Operation, line)
                devices[operation.device].operations.append(operation)
            elif kind == "command":
                line["noticed"] += shift
                command = _make(Command, line)
                devices[command.device].commands.append(command)
            elif kind == "end":
                dropped = int(line["dropped"])
            else:
                raise KeyError(kind)
        complete = path.suffix == ".jsonl"
        return Process(int(head["pid"]), str(head["program"]), complete, dropped, devices)
    except (LookupError, TypeError, ValueError) as error:
        raise ProfileError(f"{path.name} is damaged: {error!r}") from error


_Event = TypeVar("_Event", Operation, Command)


def _make(kind: type[_Event], line: dict[str, Any]) -> _Event:
    for entry in fields(kind):
        wanted = {"int": int, "float": (int, float), "str": str}[str(entry.type)]
        value = line[entry.name]
        if not isinstance(value, wanted) or (wanted is int and not 0 <= value < 1 << 62):  # type: ignore[arg-type]
            raise TypeError(f"{entry.name} is {value!r}")
    return kind(**line)
