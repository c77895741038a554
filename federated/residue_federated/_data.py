"""A party's table: read, checked, scaled."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from residue_federated._checkpoint import write_atomically
from residue_federated._generated import credit
from residue_federated._jobs import FileData, GeneratedData, Job, SklearnData
from residue_federated.errors import CheckpointError, DataError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Scaling", "Table", "load_table"]

_META = b"residue"
_GUEST_COLUMNS = {"breast_cancer": 10, "diabetes": 4, "digits": 32}
"""How many of the last columns the guest holds."""


@dataclass(frozen=True)
class Scaling:
    """``scaled = (raw - mean) / deviation`` per column; a constant column's deviation is 1."""

    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]

    @classmethod
    def of(cls, values: NDArray[np.float64]) -> Scaling:
        """The scaling that gives `values` mean 0 and variance 1, missing ones aside."""
        deviation = np.asarray(np.nanstd(values, axis=0))
        return cls(np.asarray(np.nanmean(values, axis=0)), np.where(deviation > 0, deviation, 1.0))

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
    NaN where a value is missing.
    y: ``(rows,) float64`` at the guest, and at a host of a horizontal job; else None.
    x_scaling, y_scaling: what was done to the raw values.
    """

    ids: list[str]
    columns: list[str]
    x: NDArray[np.float64]
    y: NDArray[np.float64] | None = None
    x_scaling: Scaling | None = None
    y_scaling: Scaling | None = None

    def digest(self, job: str) -> bytes:
        """SHA-256 over the job's digest and the ordered identifiers."""
        text = "\n".join([job, *self.ids])
        return hashlib.sha256(text.encode()).digest()

    def require_complete(self, party: str) -> None:
        """Raise `DataError` naming the first column with missing values, if there is one."""
        missing = np.isnan(self.x).sum(axis=0)
        for column, count in zip(self.columns, missing.tolist(), strict=True):
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
        scaling = self.x_scaling
        return replace(
            self,
            columns=list(columns),
            x=self.x[:, index],
            x_scaling=scaling and Scaling(scaling.mean[index], scaling.deviation[index]),
        )

    def scaled_by(self, scalings: dict[str, Any]) -> Table:
        """The table scaled as another was, whose `scalings` these are."""
        x_scaling, y_scaling = _scaling(scalings["scaling"]), _scaling(scalings["target_scaling"])
        assert x_scaling is not None
        y = self.y if self.y is None or y_scaling is None else y_scaling.apply(self.y)
        x = x_scaling.apply(self.x)
        return replace(self, x=x, y=y, x_scaling=x_scaling, y_scaling=y_scaling)

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

        data: dict[str, Any] = {"id": pa.array(self.ids)}
        if self.y is not None:
            data["label"] = self.y
        data |= {f"x:{column}": self.x[:, j] for j, column in enumerate(self.columns)}
        table = pa.table(data).replace_schema_metadata({_META: json.dumps(self.scalings())})
        write_atomically(path, lambda file: pq.write_table(table, file, compression="zstd"))

    @classmethod
    def read(cls, path: Path) -> Table:
        """A table that `write` wrote. Raises `CheckpointError` if it cannot be read."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            table = pq.read_table(path)
            scalings = json.loads(table.schema.metadata[_META])
            names = [name for name in table.column_names if name.startswith("x:")]
            x = np.stack([table[name].to_numpy() for name in names], axis=1)
            y = table["label"].to_numpy() if "label" in table.column_names else None
            return cls(
                table["id"].to_pylist(),
                [name.removeprefix("x:") for name in names],
                x,
                y,
                _scaling(scalings["scaling"]),
                _scaling(scalings["target_scaling"]),
            )
        except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
            raise CheckpointError(f"cannot read {path}: {error}") from error

    def standardised(self, *, target: bool) -> Table:
        """The table with columns, and with `target` the label, scaled to mean 0 and variance 1."""
        x_scaling = Scaling.of(self.x)
        out = replace(self, x=x_scaling.apply(self.x), x_scaling=x_scaling)
        if target and self.y is not None:
            y_scaling = Scaling.of(self.y)
            out = replace(out, y=y_scaling.apply(self.y), y_scaling=y_scaling)
        return out


def _scaling(values: dict[str, Any] | None) -> Scaling | None:
    if values is None:
        return None
    return Scaling(np.array(values["mean"]), np.array(values["deviation"]))


def load_table(job: Job, party: str, *, labelled: bool = True) -> Table:
    """The table of a guest or host; without `labelled`, a guest's file needs no label.

    Raises `DataError` if it cannot be read, is empty, has infinite or non-numeric values, missing
    ones where the job's components do not take them, or repeated identifiers.
    """
    source = job.party(party).data
    if isinstance(source, SklearnData):
        table = _from_sklearn(job, party, source)
    elif isinstance(source, GeneratedData):
        table = _generated(job, party, source)
    elif isinstance(source, FileData):
        table = _from_file(party, source, labelled=labelled)
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


def _generated(job: Job, party: str, source: GeneratedData) -> Table:
    made = credit(
        source.rows,
        source.columns,
        source.seed,
        source.missing,
        hosts=len(job.hosts),
        host=None if party == job.guest.name else [h.name for h in job.hosts].index(party),
    )
    return Table(made.ids, made.names, made.x, made.y)


def _from_file(party: str, source: FileData, *, labelled: bool) -> Table:
    import pandas as pd

    name = source.file.name
    try:
        if source.file.suffix == ".csv":
            frame = pd.read_csv(source.file, dtype={source.id: str})
        else:
            frame = pd.read_parquet(source.file)
    except (OSError, ValueError, ImportError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{party}: cannot read {source.file}: {reason}") from error
    label = source.label
    if not labelled and label not in frame.columns:
        label = None
    special = [source.id] if label is None else [source.id, label]
    features = source.features or [str(c) for c in frame.columns if c not in special]
    absent = [column for column in [*special, *features] if column not in frame.columns]
    if absent:
        raise DataError(f"{party}: {name} has no column {', '.join(absent)}")
    if frame[source.id].isna().any():
        raise DataError(f"{party}: {name} has rows without an identifier in '{source.id}'")
    frame = frame.assign(**{source.id: frame[source.id].astype(str)}).sort_values(source.id)
    repeated = frame.loc[frame[source.id].duplicated(), source.id]
    if len(repeated):
        raise DataError(f"{party}: {name} repeats identifier '{repeated.iloc[0]}'")
    y = None if label is None else _numbers(party, frame, [label])[:, 0]
    if y is not None and np.isnan(y).any():
        raise DataError(f"{party}: label '{label}' has {np.isnan(y).sum()} missing value(s)")
    x = _numbers(party, frame, features)
    return Table(frame[source.id].tolist(), features, x, y)


def _numbers(party: str, frame: pd.DataFrame, columns: list[str]) -> NDArray[np.float64]:
    """Columns as float64, NaN where missing; the error names column and count, never a value."""
    out = np.empty((len(frame), len(columns)))
    for j, column in enumerate(columns):
        try:
            out[:, j] = frame[column].to_numpy(dtype=np.float64, na_value=np.nan)
        except (TypeError, ValueError) as error:
            raise DataError(f"{party}: column '{column}' is not numeric") from error
        infinite = int(np.count_nonzero(np.isinf(out[:, j])))
        if infinite:
            raise DataError(f"{party}: column '{column}' has {infinite} infinite value(s)")
    return out
