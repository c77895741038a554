"""What a party did in each of its lives, kept on its disk as it goes on."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from residue_federated._checkpoint import write_json
from residue_federated._context import WHOLE
from residue_federated.audit._record import read_record

__all__ = ["LifeReport", "Tally"]

_FILE = Path("states") / WHOLE / "lives"


@dataclass
class LifeReport:
    """What a party did from a start until it died, went back to a checkpoint, or was done.

    run: its name in the record. began, ended: UTC; where it was killed, of what the record has of
    it last. seconds: from one to the other. messages, bytes, wire_bytes: that it sent. time,
    operations, peak_rss_bytes: as in `PartyReport`. components: of each that it worked on, seconds
    and the rounds timed in them. What only the process knew is lost with it for the last fifth of a
    second, or round if that was longer.
    """

    run: str
    began: str
    ended: str
    messages: int = 0
    bytes: int = 0
    wire_bytes: int = 0
    time: dict[str, float] = field(default_factory=dict)
    operations: list[dict[str, Any]] = field(default_factory=list)
    peak_rss_bytes: int = 0
    components: dict[str, tuple[float, int]] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """From its beginning to its end."""
        length = datetime.fromisoformat(self.ended) - datetime.fromisoformat(self.began)
        return length.total_seconds()

    def told(self) -> dict[str, Any]:
        """As part of a report."""
        names = ("began", "ended", "messages", "bytes", "wire_bytes", "time", "peak_rss_bytes")
        return {name: getattr(self, name) for name in names} | {"seconds": self.seconds}


class Tally:
    """The lives of a party in a run, and their sums. lives: in order; the last one goes on.

    Args:
        directory: the party's; None keeps nothing.
        job: the digest of the run.
        record: the name of its record there.
        resume: whether lives before are those of this run.
    """

    def __init__(self, directory: Path | None, job: str, record: str, *, resume: bool) -> None:
        self._directory, self._job = directory, job
        self.lives: list[LifeReport] = []
        if directory is not None and resume:
            self.lives = self._read(directory)
            if self.lives and (directory / record).exists():
                self._correct(directory / record)

    def keep(self, life: LifeReport) -> None:
        """What a life did so far, under its name, in place of what it did before."""
        if self.lives and self.lives[-1].run == life.run:
            self.lives.pop()
        self.lives.append(life)
        if self._directory is not None:
            content = {"job": self._job, "lives": [asdict(each) for each in self.lives]}
            write_json(self._directory / _FILE, content)

    def sum(self, name: str) -> int:
        """Of a number, over all lives."""
        return sum(getattr(life, name) for life in self.lives)

    @property
    def time(self) -> dict[str, float]:
        """As in a report, over all lives."""
        return _sums([life.time for life in self.lives])

    @property
    def operations(self) -> list[dict[str, Any]]:
        """As in a report, over all lives."""
        rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for life in self.lives:
            for row in life.operations:
                rows[row["operation"]].append({k: v for k, v in row.items() if k != "operation"})
        return [{"operation": name, **_sums(of)} for name, of in sorted(rows.items())]

    def component(self, name: str) -> tuple[float, int]:
        """Seconds of a component, and the rounds timed in them, over all lives."""
        found = [life.components.get(name, (0.0, 0)) for life in self.lives]
        return sum(seconds for seconds, _ in found), sum(rounds for _, rounds in found)

    def _read(self, directory: Path) -> list[LifeReport]:
        """Lives before; none where the file is of another run, or an outage has damaged it."""
        try:
            content = json.loads((directory / _FILE).read_bytes())
            lives = [LifeReport(**life) for life in content["lives"]]
        except (OSError, ValueError, KeyError, TypeError):
            return []
        return lives if content["job"] == self._job else []

    def _correct(self, path: Path) -> None:
        """What the record has of lives that were killed after they had kept what they did."""
        known = {life.run: life for life in self.lives}
        life: LifeReport | None = None
        counted = dict.fromkeys(known, (0, 0))
        for entry in read_record(path).entries:
            if entry.event == "start":
                life = known.get(str(entry.content.get("run")))
            if life is None:
                continue
            life.ended = max(life.ended, entry.time)
            if entry.event == "sent":
                messages, volume = counted[life.run]
                counted[life.run] = messages + 1, volume + int(entry.content["size"])
        for run, (messages, volume) in counted.items():
            known[run].messages = max(known[run].messages, messages)
            known[run].bytes = max(known[run].bytes, volume)


def _sums(rows: list[dict[str, Any]]) -> dict[str, Any]:
    sums: dict[str, Any] = {}
    for row in rows:
        for name, value in row.items():
            sums[name] = sums.get(name, 0) + value
    return sums
