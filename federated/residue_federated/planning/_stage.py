"""A job made smaller: fewer rows and rounds, the same parties, columns and settings."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from residue_federated._data import Table, load_table
from residue_federated._jobs import ROUND_FIELDS, FileData, Job, Party, validated
from residue_federated.errors import JobError

__all__ = ["LARGEST_BATCH", "Size", "Stage", "rounds_of"]

LARGEST_BATCH = 2048
"""Rows of the largest batches that stay as they are; larger ones shrink with the table."""
_LEAST_OF_A_CLASS = 8
_MOST_CLASSES = 64
"""A label with more values is a quantity."""
_NEVER = 1e-300
"""A change of the loss so small that training does not stop early."""


@dataclass(frozen=True)
class Size:
    """Rows and columns of a table that is not here; columns None where the job names them."""

    rows: int
    columns: int | None = None


class Stage:
    """Makes the jobs of rehearsals.

    Rows that are here are sampled by a hash of their identifiers, so that parties have the same
    ones in common, and some of each class of a label. Tables that are not here are made up,
    with labels 0 and 1. Configurations change where they name rounds or count rows.

    rows, columns: of each party that holds data. made_up: those whose data are made up.
    load_seconds: that the slowest of the tables that are here took to load.

    Raises:
        JobError: a file is not here and its size is not given, or a size is of no party with data.
        DataError: a table that is here cannot be used.
    """

    def __init__(self, job: Job, sizes: dict[str, Size]) -> None:
        self._job = job
        self._holders = [job.guest, *job.hosts]
        strangers = sizes.keys() - {party.name for party in self._holders}
        if strangers:
            raise JobError(f"no party with data is called {', '.join(sorted(strangers))}")
        for name, size in sizes.items():
            if size.rows < 2 or (size.columns is not None and size.columns < 1):
                raise JobError(f"{name}: a table has at least 2 rows and 1 column")
        self._need_sizes(sizes)
        self.load_seconds = 0.0
        self._tables = {p.name: self._load(p.name) for p in self._holders if p.name not in sizes}
        self.made_up = [p.name for p in self._holders if p.name in sizes]
        self._names = {p.name: self._names_of(p, sizes.get(p.name)) for p in self._holders}
        self.rows = {
            p.name: sizes[p.name].rows if p.name in sizes else len(self._tables[p.name].ids)
            for p in self._holders
        }
        self.columns = {name: len(columns) for name, columns in self._names.items()}

    @property
    def most_rows(self) -> int:
        """Rows of the largest table."""
        return max(self.rows.values())

    def job(self, rows: int, rounds: int, directory: Path) -> Job:
        """The job with the largest table cut to so many rows, and at most so many rounds.

        Tables that are cut or made up are written into `directory`.
        """
        fraction = rows / self.most_rows
        content = self._job.model_dump()
        tables = self._cut(fraction)
        for party in (content["guest"], *content["hosts"]):
            if party["name"] in tables:
                party["data"] = _written(tables[party["name"]], directory / party["name"])
        # A table with some rows of every class may be a little larger.
        kept = max([fraction, *(len(t.ids) / self.rows[name] for name, t in tables.items())])
        for component in content["components"].values():
            _shrink(component, min(1.0, kept), rounds)
        return validated(content, "rehearsal")

    def _load(self, name: str) -> Table:
        start = time.perf_counter()
        table = load_table(self._job, name)
        self.load_seconds = max(self.load_seconds, time.perf_counter() - start)
        return table

    def _need_sizes(self, sizes: dict[str, Size]) -> None:
        absent = [
            (party.name, party.data)
            for party in self._holders
            if isinstance(party.data, FileData) and not party.data.file.exists()
        ]
        absent = [(name, data) for name, data in absent if name not in sizes]
        if absent:
            files = ", ".join(f"{name}'s {data.file.name}" for name, data in absent)
            options = f"--rows {','.join(f'{name}=N' for name, _ in absent)}"
            unnamed = [name for name, data in absent if data.features is None]
            if unnamed:
                options += f" --columns {','.join(f'{name}=M' for name in unnamed)}"
            raise JobError(f"not here: {files}; say how large they are: {options}")

    def _names_of(self, party: Party, size: Size | None) -> list[str]:
        """The columns of a party's table."""
        if size is None:
            return self._tables[party.name].columns
        named = party.data.features if isinstance(party.data, FileData) else None
        if size.columns is None and named is None:
            raise JobError(
                f"how many columns {party.name} has is not given: --columns {party.name}=M"
            )
        if named is not None and size.columns in (None, len(named)):
            return named
        if self._job.horizontal:  # the same at all parties
            return [f"column-{j}" for j in range(size.columns or 0)]
        return [f"{party.name}-{j}" for j in range(size.columns or 0)]

    def _cut(self, fraction: float) -> dict[str, Table]:
        """Sampled and made-up tables; whole ones that are here stay where they are."""
        tables = {} if fraction == 1 else _sampled(self._tables, fraction)
        for name in self.made_up:
            ids = self._ids_of(name, tables or self._tables, fraction)
            labelled = self._job.horizontal or name == self._job.guest.name
            tables[name] = _made_up(ids, self._names[name], labelled)
        return tables

    def _ids_of(self, name: str, others: dict[str, Table], fraction: float) -> list[str]:
        """Of a made-up table: those of the first table that is here, as far as they go."""
        known = next(
            ((p.name, others[p.name].ids) for p in self._holders if p.name in others), None
        )
        base: Sequence[str] = []
        if known is None or known[0] in self.made_up:
            count = round(fraction * self.rows[name])
        else:
            base, count = known[1], round(len(known[1]) * self.rows[name] / self.rows[known[0]])
        count = max(count, 2)
        return [*base[:count], *(f"made-up-{i:08d}" for i in range(count - len(base)))]


def _sampled(tables: dict[str, Table], fraction: float) -> dict[str, Table]:
    """The rows whose identifiers have the smallest hashes, and some of each rare class."""
    if not tables:
        return {}
    hashes = {
        name: pd.util.hash_array(np.array(table.ids, dtype=object))
        for name, table in tables.items()
    }
    first = next(iter(hashes.values()))
    limit = np.partition(first, int(fraction * len(first)))[int(fraction * len(first))]
    rare = [_of_rare(hashes[n], t.y, fraction) for n, t in tables.items() if t.y is not None]
    kept = np.concatenate([np.zeros(0, np.uint64), *rare])
    return {
        name: table.take(np.flatnonzero((hashes[name] < limit) | np.isin(hashes[name], kept)))
        for name, table in tables.items()
    }


def _of_rare(
    hashes: NDArray[np.uint64], y: NDArray[np.float64], fraction: float
) -> NDArray[np.uint64]:
    """The first rows, by their hashes, of each class of which a sample would have too few."""
    classes, counts = np.unique(y, return_counts=True)
    rare = classes[fraction * counts < _LEAST_OF_A_CLASS]
    if len(classes) > _MOST_CLASSES or not len(rare):
        return np.zeros(0, np.uint64)
    return np.concatenate([np.sort(hashes[y == k])[:_LEAST_OF_A_CLASS] for k in rare])


def _made_up(ids: list[str], columns: list[str], labelled: bool) -> Table:
    rng = np.random.default_rng(len(columns))
    x = rng.normal(size=(len(ids), len(columns)))
    score = x.sum(axis=1) + rng.normal(scale=len(columns) ** 0.5, size=len(ids))
    return Table(ids, columns, x, (score > np.median(score)).astype(float) if labelled else None)


def _written(table: Table, path: Path) -> dict[str, Any]:
    """A table as a file, and what a job says of it."""
    identifier, label = "id", "label"
    while {identifier, label} & set(table.columns):
        identifier, label = f"_{identifier}", f"_{label}"
    head: dict[str, Any] = {identifier: table.ids}
    if table.y is not None:
        head[label] = table.y
    frame = pd.concat([pd.DataFrame(head), pd.DataFrame(table.x, columns=table.columns)], axis=1)
    file = path.with_suffix(".parquet")
    frame.to_parquet(file)
    return {
        "file": file,
        "id": identifier,
        "label": None if table.y is None else label,
        "features": table.columns,
    }


def rounds_of(config: dict[str, Any]) -> int:
    """Rounds at most, of a component or of what is inside it; 1 where nothing is repeated."""
    found: list[int] = [value for field, value in config.items() if field in ROUND_FIELDS]
    inner = [
        rounds_of(value)
        for field, value in config.items()
        if isinstance(value, dict) and field != "early_stop"
    ]
    return max([1, *found, *inner])


def _shrink(config: dict[str, Any], fraction: float, rounds: int) -> None:
    """Fewer rounds, and numbers of rows in proportion, by the names that all components use."""
    for field, value in config.items():
        if value is None:
            continue
        if field in ROUND_FIELDS:
            config[field] = min(value, rounds)
        elif field == "early_stop":
            config[field] = {**value, "tolerance": _NEVER}
        elif field == "batch_size" and value > LARGEST_BATCH:
            config[field] = max(2, round(fraction * value))
        elif field in ("pad_to", "min_leaf_rows"):
            config[field] = max(1, -int(-fraction * value // 1))
        elif field == "min_child_weight":
            config[field] = fraction * value
        elif field == "mixed_period":  # every party has its turn
            config[field] = 1
        elif field == "guest_trees":  # all take part
            config[field] = []
        elif isinstance(value, dict):
            _shrink(value, fraction, rounds)
