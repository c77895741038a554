"""What devices did and when, written down while a profile is taken; otherwise nothing.

A process takes part when RESIDUE_PROFILE names a folder (`residue profile` sets it). It writes one
file of JSON lines there: public sizes and times alone, never operands, exponents or file names.
"""

from __future__ import annotations

import atexit
import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any, Final, Protocol, TextIO
from weakref import WeakKeyDictionary

__all__ = [
    "FORMAT",
    "PROFILE_VARIABLE",
    "Recorder",
    "Traced",
    "note_command",
    "note_operation",
    "recorder",
]

PROFILE_VARIABLE: Final = "RESIDUE_PROFILE"
FORMAT: Final = 1
_MOST_LINES = 2_000_000

Fact = str | int | float | bool


class Traced(Protocol):
    """A backend, as far as a profile is concerned."""

    def describe(self) -> dict[str, Fact]:
        """Facts about the device."""


class Recorder:
    """Writes the events of one process; safe to call from any thread.

    Args:
        folder: an existing folder; the file appears there under its final name at `close`, until
            then with the ending ``.part``.
        most_lines: events after these are only counted.
    """

    def __init__(self, folder: Path, most_lines: int = _MOST_LINES) -> None:
        self._path = folder / f"process-{os.getpid()}-{time.time_ns():x}.jsonl"
        self._part = self._path.with_suffix(".part")
        self._file: TextIO | None = self._part.open("x", encoding="ascii")
        self._lock = threading.Lock()
        self._numbering = threading.Lock()
        self._count = 0
        self._left = most_lines
        self._dropped = 0
        self._devices: WeakKeyDictionary[Traced, int] = WeakKeyDictionary()
        self._pid = os.getpid()
        self._write(
            "process",
            format=FORMAT,
            pid=self._pid,
            program=_program(),
            unix=time.time(),
            clock=time.perf_counter(),
        )

    def operation(
        self, device: Traced, name: str, modulus_bits: int, elements: int, start: float, end: float
    ) -> None:
        """Note a backend operation as its caller saw it; times of `time.perf_counter`."""
        self._write(
            "operation",
            device=self._number(device),
            name=name,
            modulus_bits=modulus_bits,
            elements=elements,
            start=start,
            end=end,
            thread=threading.get_native_id(),
        )

    def command(self, device: Traced, record: dict[str, Fact]) -> None:
        """Note a command that the device completed: the fields of `CommandRecord`."""
        self._write("command", device=self._number(device), **record)

    def close(self) -> None:
        """Give the file its final name. Later events are dropped."""
        with self._lock:
            file, self._file = self._file, None
            if file is None or os.getpid() != self._pid:
                return
            file.write(json.dumps({"kind": "end", "dropped": self._dropped}) + "\n")
            file.close()
            self._part.rename(self._path)

    def _number(self, device: Traced) -> int:
        with self._numbering:
            number = self._devices.get(device)
            if number is None:
                number = self._devices[device] = self._count
                self._count += 1
                facts = device.describe()
                self._write("device", device=number, name=str(facts["name"]), facts=facts)
            return number

    def _write(self, kind: str, **fields: Any) -> None:
        line = json.dumps({"kind": kind, **fields}, separators=(",", ":"), default=int)
        with self._lock:
            if self._file is None:
                return
            if self._left == 0:
                self._dropped += 1
                return
            self._left -= 1
            self._file.write(line + "\n")


def _program() -> str:
    """What runs here, without its arguments and the folders it lies in."""
    path = Path(sys.argv[0])
    return path.parent.name if path.name == "__main__.py" else path.name


_recorder: Recorder | None = None
_of_process = 0
_lock = threading.Lock()


def recorder() -> Recorder | None:
    """This process's recorder, if a profile is being taken."""
    global _recorder, _of_process
    if _of_process == os.getpid():
        return _recorder
    with _lock:
        if _of_process != os.getpid():
            folder = os.environ.get(PROFILE_VARIABLE)
            _recorder = Recorder(Path(folder)) if folder else None
            _of_process = os.getpid()
            if _recorder is not None:
                atexit.register(_recorder.close)
        return _recorder


def note_operation(
    device: Traced, name: str, modulus_bits: int, elements: int, start: float, end: float
) -> None:
    """`Recorder.operation`, while a profile is taken."""
    active = recorder()
    if active is not None:
        active.operation(device, name, modulus_bits, elements, start, end)


def note_command(device: Traced, record: dict[str, Fact]) -> None:
    """`Recorder.command`, while a profile is taken."""
    active = recorder()
    if active is not None:
        active.command(device, record)
