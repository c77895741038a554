"""A party's CSV or Parquet file, read a batch of rows at a time, in order of identifiers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from residue_federated._ids import Ids
from residue_federated._jobs import FileData
from residue_federated._scratch import Growing, Scratch, permuted
from residue_federated.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["read_file"]

_BATCH = 1 << 20
"""Values, or bytes of a CSV file, that are read at once."""
_NULLS = ["", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND",
          "1.#QNAN", "<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null"]  # fmt: skip
"""What stands for a missing value in a CSV file; pandas' list."""


def read_file(
    party: str, source: FileData, *, labelled: bool, scratch: Scratch
) -> tuple[Ids, list[str], NDArray[np.float64], NDArray[np.float64] | None]:
    """Identifiers, names of features, ``(rows, columns)`` values and the label, if there is one.

    Without `labelled`, a file without the label is taken as well. Raises `DataError` if the file
    cannot be read, lacks columns or identifiers, repeats one, or has values that are infinite, not
    numeric, or missing in the label; no message has a value in it but a repeated identifier.
    """
    name = source.file.name
    with _readable(party, source):
        types = _types(source)
    label = source.label
    if not labelled and label not in types:
        label = None
    special = [source.id] if label is None else [source.id, label]
    features = source.features or [column for column in types if column not in special]
    absent = [column for column in [*special, *features] if column not in types]
    if absent:
        raise DataError(f"{party}: {name} has no column {', '.join(absent)}")
    numbers = [*special[1:], *features]
    grown, parts = Growing(scratch, len(features)), []
    labels: list[NDArray[np.float64]] = []
    infinite = np.zeros(len(numbers), np.int64)
    for batch in _batches(party, source, types, numbers):
        ids = _identifiers(batch.column(source.id))
        if ids.null_count:
            raise DataError(f"{party}: {name} has rows without an identifier in '{source.id}'")
        parts.append(ids)
        values = _numbers(party, batch, numbers)
        infinite += np.isinf(values).sum(axis=0)
        if label is not None:
            labels.append(values[:, 0].copy())
        grown.append(values[:, len(special) - 1 :])
    ids, order = _ordered(party, name, parts)
    y = np.concatenate([np.empty(0), *labels])[order] if label is not None else None
    for column, count in zip(numbers, infinite.tolist(), strict=True):
        if count:
            raise DataError(f"{party}: column '{column}' has {count} infinite value(s)")
    if y is not None and np.isnan(y).any():
        raise DataError(f"{party}: label '{label}' has {np.isnan(y).sum()} missing value(s)")
    x = grown.array()
    if (order != np.arange(len(order))).any():
        x = permuted(x, order, scratch)
    return ids, features, x, y


@contextmanager
def _readable(party: str, source: FileData, columns: list[str] | None = None) -> Iterator[None]:
    """Errors of the reader, without the values that it quotes."""
    import pyarrow as pa

    try:
        yield
    except UnicodeDecodeError:
        raise DataError(f"{party}: {source.file} has names of columns that are not UTF-8") from None
    except (OSError, pa.ArrowException) as error:
        found = re.match(r"In CSV column #(\d+): .* to (?:double|bool)", str(error))
        if found and columns is not None:
            column = columns[int(found[1])]
            raise DataError(f"{party}: column '{column}' is not numeric") from None
        reason = re.sub(r"(got \d+):.*", r"\1", " ".join(str(error).split()))
        raise DataError(f"{party}: cannot read {source.file}: {reason}") from None


def _types(source: FileData) -> dict[str, pa.DataType]:
    """The file's columns; those of a CSV file as they are to be read."""
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet as pq

    if source.file.suffix == ".parquet":
        schema = pq.read_schema(source.file)
    else:
        with pyarrow.csv.open_csv(source.file) as reader:
            schema = reader.schema
    if len(set(schema.names)) < len(schema.names):
        raise pa.ArrowInvalid("a column's name is repeated")
    if source.file.suffix == ".parquet":
        return dict(zip(schema.names, schema.types, strict=True))
    types = {
        name: type_ if pa.types.is_boolean(type_) else pa.float64()
        for name, type_ in zip(schema.names, schema.types, strict=True)
    }
    return types | {source.id: pa.large_string()}


def _batches(
    party: str, source: FileData, types: dict[str, pa.DataType], numbers: list[str]
) -> Iterator[pa.RecordBatch]:
    import pyarrow.csv
    import pyarrow.parquet as pq

    wanted = [source.id, *numbers]
    with _readable(party, source, list(types)):
        if source.file.suffix == ".parquet":
            with pq.ParquetFile(source.file, pre_buffer=False) as file:
                step = max(1, _BATCH // len(wanted))
                yield from file.iter_batches(batch_size=step, columns=wanted)
            return
        with pyarrow.csv.open_csv(
            source.file,
            read_options=pyarrow.csv.ReadOptions(block_size=_BATCH),
            parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types=types,
                include_columns=wanted,
                null_values=_NULLS,
                strings_can_be_null=True,
            ),
        ) as reader:
            yield from reader


def _identifiers(column: pa.Array) -> pa.Array:
    """As strings: integers in decimal, what is neither as Python writes it."""
    import pyarrow as pa

    if not (pa.types.is_integer(column.type) or pa.types.is_large_string(column.type)):
        if pa.types.is_string(column.type) or pa.types.is_dictionary(column.type):
            return column.cast(pa.large_string())
        texts = [None if value is None else str(value) for value in column.to_pylist()]
        return pa.array(texts, pa.large_string())
    return column.cast(pa.large_string())


def _numbers(party: str, batch: pa.RecordBatch, names: list[str]) -> NDArray[np.float64]:
    """``(rows, columns) float64``, NaN where missing."""
    import pyarrow as pa

    out = np.empty((batch.num_rows, len(names)))
    for j, name in enumerate(names):
        try:
            column = batch.column(name).cast(pa.float64(), safe=False)
        except pa.ArrowException:
            raise DataError(f"{party}: column '{name}' is not numeric") from None
        out[:, j] = column.to_numpy(zero_copy_only=False)
    return out


def _ordered(party: str, name: str, parts: list[Any]) -> tuple[Ids, NDArray[np.int64]]:
    """Identifiers in ascending order of their code points, and the rows that they come from."""
    import pyarrow as pa
    import pyarrow.compute as pc

    ids = pa.chunked_array(parts, pa.large_string()).combine_chunks()
    order = pc.sort_indices(ids)
    ids = ids.take(order)
    repeats = pc.equal(ids[1:], ids[:-1]) if len(ids) > 1 else pa.array([], pa.bool_())
    first = pc.index(repeats, True).as_py()
    if first >= 0:
        raise DataError(f"{party}: {name} repeats identifier '{ids[first]}'")
    return Ids(ids), order.to_numpy().astype(np.int64)
