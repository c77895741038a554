"""A party's table: read, checked, scaled."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from residue_federated._checkpoint import write_atomically
from residue_federated._files import read_file
from residue_federated._generated import credit
from residue_federated._ids import Ids, arrow, batches, chosen
from residue_federated._jobs import FileData, GeneratedData, Job, SklearnData
from residue_federated._scratch import (
    Scratch,
    block_sums,
    forget,
    is_mapped,
    mapped,
    row_blocks,
    taken,
)
from residue_federated._workers import Workers
from residue_federated.errors import CheckpointError, DataError

__all__ = ["Scaling", "Table", "load_table", "scratch_of"]

_META = b"residue"
_GUEST_COLUMNS = {"breast_cancer": 10, "diabetes": 4, "digits": 32}
"""How many of the last columns the guest holds."""


_CONSTANT = 1e-12
"""A deviation of at most so much of the mean is rounding."""


@dataclass(frozen=True)
class Scaling:
    """``scaled = (raw - mean) / deviation`` per column.

    A constant column's deviation is 1; so is that of one without values, whose mean is 0.
    """

    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]

    @classmethod
    def of(cls, values: NDArray[np.float64]) -> Scaling:
        """The scaling that gives `values` mean 0 and variance 1, missing ones aside."""
        count = np.maximum(block_sums(values, lambda block: ~np.isnan(block)), 1)
        mean = np.asarray(block_sums(values, np.nan_to_num) / count)
        square = block_sums(values, lambda block: np.nan_to_num(block - mean) ** 2)
        return cls.of_moments(mean, square / count)

    @classmethod
    def of_moments(cls, mean: NDArray[np.float64], variance: NDArray[np.float64]) -> Scaling:
        """The same of columns with these moments."""
        deviation = np.sqrt(variance)
        return cls(mean, np.where(deviation > _CONSTANT * np.abs(mean), deviation, 1.0))

    def after(self, earlier: Scaling | None) -> Scaling:
        """Both in one, from the raw values of the earlier one."""
        if earlier is None:
            return self
        mean = earlier.mean + earlier.deviation * self.mean
        return Scaling(mean, earlier.deviation * self.deviation)

    def apply(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Raw to scaled."""
        return np.asarray((values - self.mean) / self.deviation)

    def undo(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Scaled to raw."""
        return np.asarray(values * self.deviation + self.mean)


@dataclass(frozen=True)
class Table:
    """Rows in ascending order of identifier.

    ids: identifiers, unique. columns: feature names. x: ``(rows, columns) float64``, finite or
    NaN where a value is missing; in a mapped file where it is larger than the party's memory, so
    code that takes all of it goes by blocks (`residue_federated._scratch`).
    y: ``(rows,) float64`` at the guest, and at a host of a horizontal job; else None.
    x_scaling, y_scaling: what was done to the raw values. scratch: where tables made of it go.
    """

    ids: Sequence[str]
    columns: list[str]
    x: NDArray[np.float64]
    y: NDArray[np.float64] | None = None
    x_scaling: Scaling | None = None
    y_scaling: Scaling | None = None
    scratch: Scratch = field(default_factory=Scratch, compare=False)

    @property
    def spilled(self) -> bool:
        """Whether its values are in a file, because memory has no room for them."""
        return is_mapped(self.x)

    def digest(self, job: str) -> bytes:
        """SHA-256 over the job's digest and the ordered identifiers."""
        digest = hashlib.sha256(job.encode())
        for some in batches(self.ids):
            digest.update(("\n" + "\n".join(some)).encode())
        return digest.digest()

    def missing(self) -> NDArray[np.int64]:
        """``(columns,)`` missing values of each column."""
        return block_sums(self.x, np.isnan).astype(np.int64)

    def take(self, rows: NDArray[np.int64]) -> Table:
        """These rows alone; they ascend, so that the identifiers do."""
        y = None if self.y is None else self.y[rows]
        return replace(self, ids=chosen(self.ids, rows), x=taken(self.x, rows, self.scratch), y=y)

    def changed(self, change: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> Table:
        """With `change` of each block of rows in its place."""
        return replace(self, x=mapped(self.x, change, self.scratch))

    def require_complete(self, party: str) -> None:
        """Raise `DataError` naming the first column with missing values, if there is one."""
        for column, count in zip(self.columns, self.missing().tolist(), strict=True):
            if count:
                raise DataError(
                    f"{party}: column '{column}' has {count} missing value(s): impute them or drop "
                    "these rows first"
                )

    def with_columns(self, party: str, columns: list[str]) -> Table:
        """These columns alone, in this order. Raises `DataError` naming those that lack."""
        absent = [column for column in columns if column not in self.columns]
        if absent:
            raise DataError(f"{party}: no column {', '.join(absent)}")
        index = [self.columns.index(column) for column in columns]
        if index == list(range(len(self.columns))):
            return self
        scaling = self.x_scaling
        return replace(
            self.changed(lambda block: block[:, index]),
            columns=list(columns),
            x_scaling=scaling and Scaling(scaling.mean[index], scaling.deviation[index]),
        )

    def scaled_by(self, scalings: dict[str, Any]) -> Table:
        """The table scaled as another was, whose `scalings` these are."""
        x_scaling, y_scaling = _scaling(scalings["scaling"]), _scaling(scalings["target_scaling"])
        assert x_scaling is not None
        y = self.y if self.y is None or y_scaling is None else y_scaling.apply(self.y)
        return replace(self.changed(x_scaling.apply), y=y, x_scaling=x_scaling, y_scaling=y_scaling)

    def scalings(self) -> dict[str, Any]:
        """What was done to columns and label, as JSON."""
        return {
            name: None
            if scaling is None
            else {"mean": scaling.mean.tolist(), "deviation": scaling.deviation.tolist()}
            for name, scaling in (("scaling", self.x_scaling), ("target_scaling", self.y_scaling))
        }

    def write(self, path: Path) -> None:
        """Keep the table as Parquet, scalings in its metadata; complete or not at all."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        fields = [("id", pa.large_string())]
        if self.y is not None:
            fields.append(("label", pa.float64()))
        fields += [(f"x:{column}", pa.float64()) for column in self.columns]
        schema = pa.schema(fields, {_META: json.dumps(self.scalings())})

        def by_blocks(file: Any) -> None:
            with pq.ParquetWriter(file, schema, compression="zstd") as writer:
                for rows in row_blocks(self.x):
                    arrays = [arrow(self.ids, rows)]
                    if self.y is not None:
                        arrays.append(pa.array(self.y[rows]))
                    arrays += [pa.array(column) for column in self.x[rows].T]
                    writer.write_table(pa.Table.from_arrays(arrays, schema=schema))

        write_atomically(path, by_blocks)

    @classmethod
    def read(cls, path: Path, scratch: Scratch | None = None) -> Table:
        """A table that `write` wrote. Raises `CheckpointError` if it cannot be read."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        scratch = scratch or Scratch()
        try:
            with pq.ParquetFile(path, pre_buffer=False) as file:
                schema = file.schema_arrow
                scalings = json.loads(schema.metadata[_META])
                names = [name for name in schema.names if name.startswith("x:")]
                x = scratch.empty((file.metadata.num_rows, len(names)))
                ids, labels, start = [], [np.empty(0)], 0
                for group in range(file.num_row_groups):
                    part = file.read_row_group(group)
                    ids.append(part["id"].combine_chunks())
                    if "label" in schema.names:
                        labels.append(part["label"].to_numpy())
                    rows = x[start : start + len(part)]
                    for j, name in enumerate(names):
                        rows[:, j] = part[name].to_numpy()
                    start += len(part)
                    forget(x)
            return cls(
                Ids.of(ids),
                [name.removeprefix("x:") for name in names],
                x,
                np.concatenate(labels) if "label" in schema.names else None,
                _scaling(scalings["scaling"]),
                _scaling(scalings["target_scaling"]),
                scratch,
            )
        except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
            raise CheckpointError(f"cannot read {path}: {error}") from error

    def standardised(self, *, target: bool) -> Table:
        """The table with columns, and with `target` the label, scaled to mean 0 and variance 1."""
        x_scaling = Scaling.of(self.x)
        out = replace(self.changed(x_scaling.apply), x_scaling=x_scaling.after(self.x_scaling))
        if target and self.y is not None:
            y_scaling = Scaling.of(self.y)
            y = y_scaling.apply(self.y)
            out = replace(out, y=y, y_scaling=y_scaling.after(self.y_scaling))
        return out


def _scaling(values: dict[str, Any] | None) -> Scaling | None:
    if values is None:
        return None
    return Scaling(np.array(values["mean"]), np.array(values["deviation"]))


def scratch_of(
    job: Job, party: str, directory: Path | None, workers: Workers | None = None
) -> Scratch:
    """Where a party's large arrays go: into `directory` past its `memory_mib`.

    By default past a quarter of the machine's memory. `workers` work on partitions of them.
    """
    given = job.party(party).memory_mib
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Scratch(machine // 4 if given is None else int(given * 2**20), directory, workers)


def load_table(
    job: Job,
    party: str,
    *,
    labelled: bool = True,
    directory: Path | None = None,
    workers: Workers | None = None,
) -> Table:
    """The table of a guest or host; without `labelled`, a guest's file needs no label.

    A table larger than the party's memory is kept in an unnamed file in `directory`. `workers` are
    those that work on its partitions.

    Raises `DataError` if it cannot be read, is empty, has infinite or non-numeric values, missing
    ones where the job's components do not take them, or repeated identifiers.
    """
    source, scratch = job.party(party).data, scratch_of(job, party, directory, workers)
    if isinstance(source, SklearnData):
        table = replace(_from_sklearn(job, party, source), scratch=scratch)
    elif isinstance(source, GeneratedData):
        table = _generated(job, party, source, scratch)
    elif isinstance(source, FileData):
        table = Table(*read_file(party, source, labelled=labelled, scratch=scratch))
        table = replace(table, scratch=scratch)
    else:
        raise DataError(f"{party}: no data given")
    if len(table.ids) < (2 if labelled else 1) or not table.columns:
        raise DataError(f"{party}: at least two rows and one feature are needed")
    if not job.takes_missing_values:
        table.require_complete(party)
    return table


def _from_sklearn(job: Job, party: str, source: SklearnData) -> Table:
    from sklearn import datasets

    bunch = getattr(datasets, f"load_{source.sklearn}")()
    x, ids = bunch.data.astype(np.float64), [f"{i:06d}" for i in range(len(bunch.data))]
    if source.split == "rows":
        clients = [job.guest.name, *(host.name for host in job.hosts)]
        dealt = slice(clients.index(party), None, len(clients))
        columns, y = [str(name) for name in bunch.feature_names], bunch.target.astype(np.float64)
        return Table(ids[dealt], columns, x[dealt], y[dealt])
    split = bunch.data.shape[1] - _GUEST_COLUMNS[source.sklearn]
    hosts = [host.name for host in job.hosts]
    if party == job.guest.name:
        chosen = np.arange(split, bunch.data.shape[1])
    else:
        chosen = np.array_split(np.arange(split), len(hosts))[hosts.index(party)]
    names = [str(bunch.feature_names[i]) for i in chosen]
    y = bunch.target.astype(np.float64) if party == job.guest.name else None
    return Table(ids, names, x[:, chosen], y)


def _generated(job: Job, party: str, source: GeneratedData, scratch: Scratch) -> Table:
    made = credit(
        source.rows,
        source.columns,
        source.seed,
        source.missing,
        hosts=len(job.hosts),
        host=None if party == job.guest.name else [h.name for h in job.hosts].index(party),
        scratch=scratch,
    )
    return Table(made.ids, made.names, made.x, made.y, scratch=scratch)
