from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from residue_federated import _scratch
from residue_federated._data import Scaling, Table, load_table
from residue_federated._ids import Ids
from residue_federated._jobs import Job
from residue_federated._scratch import (
    Growing,
    Scratch,
    columns,
    fill,
    forget,
    is_mapped,
    mapped,
    permuted,
    taken,
)
from residue_federated.boosting._bins import Cuts
from residue_federated.errors import CheckpointError, DataError
from residue_federated.features._bins import Bins
from residue_federated.linear._columns import Columns
from residue_federated.linear._fixed import quantise

RNG = np.random.default_rng(5)
X = np.where(RNG.random((300, 7)) < 0.05, np.nan, RNG.normal(size=(300, 7)))


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scratch:
    """Nothing stays in memory, and every table has many blocks and groups of columns."""
    monkeypatch.setattr(_scratch, "_BLOCK", 150)
    monkeypatch.setattr(_scratch, "_PARTITION", 700)
    return Scratch(0, tmp_path / "scratch")


def stored(x: NDArray[np.float64], scratch: Scratch) -> NDArray[np.float64]:
    out = scratch.empty(x.shape, x.dtype)
    out[:] = x
    return out


def test_files_have_no_name_and_end_with_their_array(scratch: Scratch) -> None:
    x = stored(X, scratch)
    assert is_mapped(x)
    assert is_mapped(x[3:5].T)
    assert scratch.directory is not None
    assert os.listdir(scratch.directory) == []
    forget(x)
    np.testing.assert_array_equal(x, X)


def test_small_arrays_stay_in_memory(tmp_path: Path) -> None:
    scratch = Scratch(80, tmp_path)
    assert not is_mapped(scratch.empty((10,)))
    assert is_mapped(scratch.empty((11,)))
    assert not is_mapped(Scratch().empty((11,)))


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(DataError, match=r"no room for a table of 8 MiB .* No space left"):
        Scratch(0, tmp_path).empty((1 << 20,))


def test_growing_arrays_spill_when_they_are_large(scratch: Scratch) -> None:
    for most, in_file in ((None, False), (X.nbytes, False), (X.nbytes - 1, True), (0, True)):
        grown = Growing(Scratch(most, scratch.directory), 7)
        for block in np.array_split(X, 9):
            grown.append(block)
        x = grown.array()
        assert is_mapped(x) == in_file
        np.testing.assert_array_equal(x, X)
    assert Growing(Scratch(), 7).array().shape == (0, 7)


def test_operations_by_blocks_are_those_on_the_whole(scratch: Scratch) -> None:
    x = stored(X, scratch)
    for column, expected in zip(columns(x), X.T, strict=True):
        np.testing.assert_array_equal(column, expected)
    doubled = mapped(x, lambda block: 2 * block[:, 1:], scratch)
    assert is_mapped(doubled)
    np.testing.assert_array_equal(doubled, 2 * X[:, 1:])
    rows = RNG.integers(0, 300, 500)
    np.testing.assert_array_equal(taken(x, rows, scratch), X[rows])
    order = RNG.permutation(300)
    again = permuted(x, order, scratch)
    assert is_mapped(again)
    np.testing.assert_array_equal(again, X[order])
    empty = scratch.empty((300, 7))
    fill(empty, iter(X.T))
    np.testing.assert_array_equal(empty, X)


def test_what_is_learnt_has_the_same_bits_wherever_the_table_is(scratch: Scratch) -> None:
    x = stored(X, scratch)
    one, other = Scaling.of(X), Scaling.of(x)
    assert one.mean.tobytes() == other.mean.tobytes()
    assert one.deviation.tobytes() == other.deviation.tobytes()
    np.testing.assert_allclose(one.mean, np.nanmean(X, axis=0), rtol=1e-12)
    np.testing.assert_allclose(one.deviation, np.nanstd(X, axis=0), rtol=1e-12)
    cuts = Cuts.of(X, 8)
    assert [c.tobytes() for c in cuts.cuts] == [c.tobytes() for c in Cuts.of(x, 8).cuts]
    binned = cuts.apply(x, scratch)
    assert is_mapped(binned.columns)
    np.testing.assert_array_equal(binned.columns, cuts.apply(X).columns)
    np.testing.assert_array_equal(binned.take(np.array([3, 1])).columns, binned.columns[[3, 1]])
    bins = Bins.of(X, 5)
    found = Bins.of(x, 5)
    assert [c.tobytes() for c in bins.cuts] == [c.tobytes() for c in found.cuts]
    assert bins.missing.tolist() == found.missing.tolist() == np.isnan(X).any(axis=0).tolist()
    whole, label = np.nan_to_num(X), RNG.normal(size=300)
    sides = [Columns(each, label) for each in (whole, stored(whole, scratch))]
    rows, weights = RNG.permutation(300)[:50], RNG.normal(size=8)
    expected = np.column_stack([whole, label])
    for side in sides:
        np.testing.assert_array_equal(side[rows], expected[rows])
        np.testing.assert_array_equal(side[:, :7][rows], whole[rows])
        np.testing.assert_allclose(side @ weights, expected @ weights)
        q = quantise(side, 12)
        np.testing.assert_array_equal(q.scale, 2047 / np.abs(expected).max(axis=0))
        np.testing.assert_array_equal(q.q[rows], np.rint(expected[rows] * q.scale))
    assert (sides[0] @ weights).tobytes() == (sides[1] @ weights).tobytes()


def test_identifiers_are_strings_in_order() -> None:
    names = [f"ä{i:03d}" for i in range(100)]
    ids = Ids.of([names[:30], [], names[30:]])
    assert ids == names
    assert ids != names[1:]
    assert ids == Ids.of([names])
    assert (ids[7], ids[-1], ids[2:4], len(ids)) == (names[7], names[-1], names[2:4], 100)
    assert list(ids) == names
    assert ids.take(np.array([5, 3])) == [names[5], names[3]]
    assert Table(ids, [], np.empty((100, 0))).digest("j") == Table(names, [], X).digest("j")


def job_for(file: Path, **guest: object) -> Job:
    return Job.model_validate(
        {
            "name": "t",
            "components": {"train": {"type": "secureboost"}},
            "guest": {"name": "guest", "data": {"file": file, "label": "y"}, **guest},
            "hosts": [{"name": "host", "data": {"sklearn": "breast_cancer"}}],
        }
    )


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_files_are_sorted_outside_memory(
    tmp_path: Path, scratch: Scratch, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    monkeypatch.setattr("residue_federated._files._BATCH", 1000)
    ids = RNG.permutation(300)
    frame = pd.DataFrame(X, columns=[f"x{j}" for j in range(7)])
    frame.insert(0, "id", [f"{i}" for i in ids])
    frame.insert(3, "y", RNG.integers(0, 2, 300))
    path = tmp_path / f"guest.{suffix}"
    frame.to_csv(path, index=False) if suffix == "csv" else frame.to_parquet(path)
    expected = frame.sort_values("id")
    for job in (job_for(path), job_for(path, memory_mib=0.001)):
        table = load_table(job, "guest", directory=tmp_path / "run")
        assert table.spilled == (job.guest.memory_mib is not None)
        assert table.ids == expected["id"].tolist()
        assert table.columns == [f"x{j}" for j in range(7)]
        assert table.y is not None
        assert table.y.tolist() == expected["y"].tolist()
        np.testing.assert_array_equal(table.x, expected[table.columns].to_numpy())
    assert job_for(path).digest == job_for(path, memory_mib=1).digest
    table.write(tmp_path / "t.parquet")
    back = Table.read(tmp_path / "t.parquet", scratch)
    assert back.spilled
    assert (back.ids, back.columns) == (table.ids, table.columns)
    assert back.x.tobytes() == table.x.tobytes()
    assert back.y is not None
    assert table.y is not None
    assert back.y.tobytes() == table.y.tobytes()


def csv(tmp_path: Path, text: str) -> Job:
    (tmp_path / "guest.csv").write_text(text)
    return job_for(tmp_path / "guest.csv")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("id,y,u\na,1,2\nb,0,secret\n", "guest: column 'u' is not numeric$"),
        ("id,u,y\na,1,2\nb,0,secret\n", "guest: column 'y' is not numeric$"),
        ("id,y,u\na,1,2\nb,0,5,secret\n", "cannot read .*Expected 3 columns, got 4$"),
        ("id,y,u,u\na,1,2,3\nb,0,5,6\n", "cannot read .*name is repeated"),
        ("", "cannot read .*Empty CSV"),
    ],
)
def test_unreadable_csv_files_are_told_without_their_values(
    tmp_path: Path, text: str, expected: str
) -> None:
    with pytest.raises(DataError, match=expected) as caught:
        load_table(csv(tmp_path, text), "guest")
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_truth_values_and_gaps_of_csv_files(tmp_path: Path) -> None:
    text = "id,y,u,v,w\nb,True,1,,None\na,False,NA,2.5,-1e3\n"
    table = load_table(csv(tmp_path, text), "guest")
    assert table.y is not None
    assert table.y.tolist() == [0, 1]
    np.testing.assert_array_equal(table.x, [[np.nan, 2.5, -1000], [1, np.nan, np.nan]])


def test_identifiers_of_other_types(tmp_path: Path) -> None:
    frame = pd.DataFrame({"id": [10, 9], "y": [0, 1], "u": [1.0, 2.0]})
    frame.to_parquet(tmp_path / "g.parquet")
    assert load_table(job_for(tmp_path / "g.parquet"), "guest").ids == ["10", "9"]
    frame.assign(id=[2.5, 1.0]).to_parquet(tmp_path / "g.parquet")
    assert load_table(job_for(tmp_path / "g.parquet"), "guest").ids == ["1.0", "2.5"]


def test_a_table_cut_short_is_refused(tmp_path: Path) -> None:
    Table(["a", "b"], ["u"], np.zeros((2, 1))).write(tmp_path / "t.parquet")
    (tmp_path / "t.parquet").write_bytes((tmp_path / "t.parquet").read_bytes()[:-20])
    with pytest.raises(CheckpointError, match="cannot read"):
        Table.read(tmp_path / "t.parquet")
