"""Reading a store, and beginning a run in it."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from residue_federated._checkpoint import file_sha256
from residue_federated._jobs import Job
from residue_federated.errors import StoreError, UnknownRun
from residue_federated.store._file import FILE, connected, make, verify
from residue_federated.store._process import alive, born
from residue_federated.store._rows import Artefact, Component, Kind, Party, Round, Run
from residue_federated.store._writer import RunWriter

__all__ = ["Checked", "Details", "Store"]

_Row = TypeVar("_Row", Run, Component, Round, Party, Artefact)
_JSON = {"job": dict, "operations": list}
"""Columns that hold JSON, and what it is."""


@dataclass(frozen=True)
class Details:
    """A run and all that is known of it, at one moment.

    components and parties in the job's order, rounds in the order in which they were done.
    """

    run: Run
    components: list[Component]
    rounds: list[Round]
    parties: list[Party]
    artefacts: list[Artefact]


@dataclass(frozen=True)
class Checked:
    """An artefact, and whether it is what the run left."""

    artefact: Artefact
    state: Literal["same", "changed", "missing"]


class Store:
    """The runs of one directory. Holds no connection; safe to use from several threads.

    Every method raises `StoreError` if the file cannot be used.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory.absolute()
        self._path = self.directory / FILE

    @classmethod
    def open(cls, directory: Path, *, create: bool = False) -> Store:
        """The store of `directory`, made where there is none only with `create`.

        Raises `StoreError` if there is none, or the file is no store or a newer release's.
        """
        store = cls(directory)
        if create:
            make(store._path)
        else:
            verify(store._path)
        return store

    def begin(
        self,
        job: Job,
        folder: Path,
        party: str | None = None,
        *,
        kind: Kind = "train",
        resumed: bool = False,
    ) -> RunWriter:
        """A run of this process starts in `folder`, a directory below the store's.

        With `resumed` it goes on under its old number, if the store knows it.
        """
        place = folder.absolute().relative_to(self.directory).as_posix()
        content = json.dumps(job.model_dump(mode="json"))
        now, pid = time.time(), os.getpid()
        with connected(self._path) as connection:
            connection.execute("BEGIN IMMEDIATE")
            before = connection.execute(
                "SELECT id FROM runs WHERE folder = ? AND party IS ? AND digest = ? AND kind = ? "
                "ORDER BY id DESC LIMIT 1",
                (place, party, job.digest, kind),
            ).fetchone()
            if resumed and before is not None:
                number = int(before["id"])
                connection.execute(
                    "UPDATE runs SET state = 'running', ended = NULL, error = NULL, pid = ?, "
                    "born = ? WHERE id = ?",
                    (pid, born(pid), number),
                )
            else:
                cursor = connection.execute(
                    "INSERT INTO runs(name, party, kind, folder, job, digest, state, started, pid, "
                    "born) VALUES (?, ?, ?, ?, ?, ?, 'running', ?, ?, ?)",
                    (job.name, party, kind, place, content, job.digest, now, pid, born(pid)),
                )
                assert cursor.lastrowid is not None
                number = cursor.lastrowid
                connection.executemany(
                    "INSERT INTO components(run, position, name, type, state, rounds, total) "
                    "VALUES (?, ?, ?, ?, 'waiting', 0, ?)",
                    [
                        (number, position, name, component.type, component.most_rounds)
                        for position, (name, component) in enumerate(job.components.items())
                    ],
                )
            connection.execute("COMMIT")
        return RunWriter(self._path, number, folder.absolute(), party or job.guest.name, party)

    def runs(self) -> list[Run]:
        """All runs, the last begun first."""
        with connected(self._path) as connection:
            rows = connection.execute("SELECT * FROM runs ORDER BY id DESC").fetchall()
        return [_run(row) for row in rows]

    def run(self, number: int) -> Details:
        """One run. Raises `UnknownRun` if there is none of that number."""
        with connected(self._path) as connection:
            connection.execute("BEGIN")  # one snapshot
            row = connection.execute("SELECT * FROM runs WHERE id = ?", (number,)).fetchone()
            if row is None:
                raise UnknownRun(f"{self.directory} has no run {number}: see residue fl runs")

            def rows(query: str, kind: type[_Row]) -> list[_Row]:
                return [_typed(kind, r) for r in connection.execute(query, (number,))]

            run = _run(row)
            order = {party: place for place, party in enumerate(run.parties)}
            parties = rows("SELECT * FROM parties WHERE run = ?", Party)
            return Details(
                run,
                rows("SELECT * FROM components WHERE run = ? ORDER BY position", Component),
                rows("SELECT * FROM rounds WHERE run = ? ORDER BY at, done", Round),
                sorted(parties, key=lambda party: order.get(party.party, len(order))),
                rows("SELECT * FROM artefacts WHERE run = ? ORDER BY path", Artefact),
            )

    def folder_of(self, run: Run) -> Path:
        """Where a run's directory is, or was."""
        return self.directory / run.folder

    def verify(self, number: int) -> list[Checked]:
        """Hash the artefacts of a run again."""
        details = self.run(number)
        folder = self.folder_of(details.run)
        return [Checked(a, _state(folder / a.path, a)) for a in details.artefacts]


def _run(row: Any) -> Run:
    run = _typed(Run, row)
    gone = run.state == "running" and not alive(run.pid, row["born"])
    return replace(run, state="stopped") if gone else run


def _typed(kind: type[_Row], row: Any) -> _Row:
    names = [field.name for field in fields(kind)]
    return kind(**{n: _parsed(n, row[n]) if n in _JSON else row[n] for n in names})


def _parsed(column: str, text: str) -> Any:
    """Raises `StoreError` if somebody wrote something else there."""
    try:
        content = json.loads(text)
    except ValueError:
        content = None
    if not isinstance(content, _JSON[column]):
        raise StoreError(f"a run's {column} in the store is damaged")
    return content


def _state(path: Path, artefact: Artefact) -> Literal["same", "changed", "missing"]:
    try:
        digest = file_sha256(path)
    except OSError:
        return "missing"
    return "same" if digest == artefact.sha256 else "changed"
