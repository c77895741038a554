"""Writing how a run goes, behind its back: a run neither waits for its store nor fails by it."""

from __future__ import annotations

import contextlib
import json
import queue
import sqlite3
import threading
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from residue.errors import ResidueError
from residue_federated._checkpoint import file_sha256
from residue_federated._party import PartyReport
from residue_federated.errors import StoreError, StoreWarning
from residue_federated.store._file import connected, translated

if TYPE_CHECKING:
    from residue_federated._trial import Event

__all__ = ["RunWriter"]

_PAUSE = 0.2
"""Seconds between two transactions, so that fast rounds share one."""
_PATIENCE = 12.0
"""Seconds in the end for what is not written yet."""
_OWN_FILES = ("report.json", "audit.jsonl")
"""What a party's directory holds besides the files that its report tells of."""

_Statement = tuple[str, tuple[Any, ...]]


class RunWriter:
    """Notes what happens in one run; safe to use from several threads, of one process.

    Calls return at once: a thread writes, several statements a transaction. What could not be
    written is tried again; if it is not written when the run ends, there is one `StoreWarning`.

    Args:
        path: of the store; None notes nothing.
        number: the run's.
        folder: of the run, where its files are.
        lead: the party whose rounds tell how far the components are.
        party: whose run it is, None for a trial of all.
    """

    def __init__(
        self, path: Path | None, number: int, folder: Path, lead: str, party: str | None
    ) -> None:
        self.number = number
        self._path = path
        self._folder = folder
        self._lead = lead
        self._party = party
        self._queue: queue.SimpleQueue[_Statement | None] = queue.SimpleQueue()
        self._unwritten: list[_Statement] = []
        self._connection: sqlite3.Connection | None = None
        self._fault: StoreError | None = None
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._write, name="residue-store", daemon=True)
        self._thread.start()

    def round(
        self, party: str, component: str, done: int, total: int, loss: float | None = None
    ) -> None:
        """A party has done so many rounds of a component, 0 when it starts."""
        now = time.time()
        if done:
            self._say(
                "INSERT INTO rounds(run, party, component, done, total, loss, at) VALUES "
                "(?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET total = excluded.total, "
                "loss = coalesce(excluded.loss, loss), at = excluded.at",
                self.number, party, component, done, total, loss, now,
            )  # fmt: skip
        if party == self._lead:
            self._say(
                "UPDATE components SET state = 'done', ended = coalesce(ended, ?) WHERE run = ? "
                "AND state != 'done' AND position < "
                "(SELECT position FROM components WHERE run = ? AND name = ?)",
                now, self.number, self.number, component,
            )  # fmt: skip
            self._say(
                "UPDATE components SET state = 'running', started = coalesce(started, ?), "
                "ended = NULL, rounds = ?, total = ? WHERE run = ? AND name = ?",
                now, done, total, self.number, component,
            )  # fmt: skip

    def event(self, event: Event) -> None:
        """What a party of a trial said."""
        if event.kind == "round":
            self.round(event.party, **event.content)
        elif event.kind == "status":
            self.status(PartyReport.of(event.content))
        elif event.kind == "done":
            self.party(PartyReport.of(event.content))

    def status(self, report: PartyReport) -> None:
        """What a party did so far."""
        self._say(
            "INSERT INTO parties(run, party, role, device, messages, bytes, encryption, waiting, "
            "other, peak_rss, operations) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) "
            "ON CONFLICT DO UPDATE SET device = excluded.device, messages = excluded.messages, "
            "bytes = excluded.bytes, encryption = excluded.encryption, "
            "waiting = excluded.waiting, other = excluded.other, peak_rss = excluded.peak_rss, "
            "operations = excluded.operations",
            self.number, report.party, report.role, report.device_name, report.messages,
            report.bytes, report.time["encryption"], report.time["waiting"], report.time["other"],
            report.peak_rss_bytes, json.dumps(report.operations),
        )  # fmt: skip

    def party(self, report: PartyReport) -> None:
        """What a party reports in the end, with the files that it left."""
        self.status(report)
        if report.party == self._lead:
            for component in report.components:
                self._say(
                    "UPDATE components SET rounds = ? WHERE run = ? AND name = ?",
                    component.rounds, self.number, component.name,
                )  # fmt: skip
        below = "" if self._party else f"{report.party}/"
        for path, digest in report.files.items():
            self.artefact(below + path, report.party, digest)
        for path in _OWN_FILES:
            self.artefact(below + path, report.party)

    def audited(self, findings: Mapping[str, int]) -> None:
        """An audit named parties so many times; of all parties of the run, 0 where it did not."""
        for party, count in findings.items():
            self._say(
                "UPDATE parties SET audit_findings = ? WHERE run = ? AND party = ?",
                count, self.number, party,
            )  # fmt: skip

    def artefact(self, path: str, party: str | None = None, sha256: str | None = None) -> None:
        """A file of the run, relative to its folder; hashed unless that was done."""
        try:
            size = (self._folder / path).stat().st_size
            if sha256 is None:
                sha256 = file_sha256(self._folder / path)
        except OSError:  # not every run leaves every file
            return
        self._say(
            "INSERT OR REPLACE INTO artefacts(run, party, path, sha256, bytes) "
            "VALUES (?, ?, ?, ?, ?)",
            self.number, party, path, sha256, size,
        )  # fmt: skip

    def finished(self, folder: Path) -> None:
        """The run ended well; from now on it is found in `folder`, beside where it was."""
        now = time.time()
        self._say(
            "UPDATE components SET state = 'done', ended = coalesce(ended, ?) "
            "WHERE run = ? AND state != 'done'",
            now, self.number,
        )  # fmt: skip
        self._end("done", folder.name, None)

    def failed(self, error: BaseException) -> None:
        """The run ended on an error; ``stopped`` if it was none of ours but an interruption."""
        # Only messages of our own errors are free of data.
        text = str(error) if isinstance(error, ResidueError) else type(error).__name__
        self._end("failed" if isinstance(error, Exception) else "stopped", self._folder.name, text)

    def _end(self, state: str, name: str, error: str | None) -> None:
        self._say(
            "UPDATE runs SET state = ?, folder = ?, ended = ?, error = ? WHERE id = ?",
            state, name, time.time(), error, self.number,
        )  # fmt: skip
        self._closing.set()
        self._queue.put(None)
        self._thread.join(timeout=_PATIENCE + _PAUSE)
        if self._path is not None and (self._fault is not None or self._thread.is_alive()):
            warnings.warn(
                f"the store of runs misses part of this run: {self._fault or 'it is busy'}",
                StoreWarning,
                stacklevel=4,
            )

    def _say(self, query: str, *values: Any) -> None:
        texts = (v.encode(errors="replace").decode() if isinstance(v, str) else v for v in values)
        self._queue.put((query, tuple(texts)))

    def _write(self) -> None:
        """The thread: until the run ends and all is written, as long as there is patience."""
        # One connection: where the last one closes, SQLite tidies up and waits for the disk.
        with contextlib.ExitStack() as stack:
            statement = self._queue.get()
            while statement is not None:
                self._unwritten.append(statement)
                if self._queue.empty():
                    self._commit(stack)
                    self._closing.wait(_PAUSE)
                statement = self._queue.get()
            deadline = time.monotonic() + _PATIENCE
            self._commit(stack)
            while self._unwritten and time.monotonic() < deadline:
                time.sleep(_PAUSE)
                self._commit(stack)

    def _commit(self, stack: contextlib.ExitStack) -> None:
        """Write what is unwritten; what cannot be is kept. The connection is the stack's."""
        if self._path is None:
            self._unwritten.clear()
        if self._path is None or not self._unwritten:
            return
        try:
            if self._connection is None:
                self._connection = stack.enter_context(connected(self._path))
            with translated(self._path):
                self._connection.execute("BEGIN IMMEDIATE")
                for query, values in self._unwritten:
                    self._connection.execute(query, values)
                self._connection.execute("COMMIT")
        except StoreError as error:
            self._fault = error
            self._connection = None
            stack.close()
        else:
            self._fault = None
            self._unwritten.clear()
