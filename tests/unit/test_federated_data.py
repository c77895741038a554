from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from residue_federated._data import Scaling, Table, load_table
from residue_federated._jobs import Job
from residue_federated.errors import CheckpointError, DataError

FRAME = pd.DataFrame(
    {"id": ["c", "a", "b"], "y": [1, 0, 1], "u": [1.0, 2.0, 4.0], "v": [3.0, 3.0, 3.0]}
)


def job_for(file: Path, **data: object) -> Job:
    return Job.model_validate(
        {
            "name": "t",
            "components": {"train": {"type": "logistic_regression"}},
            "guest": {"name": "guest", "data": {"file": file, "label": "y", **data}},
            "hosts": [{"name": "host", "data": {"sklearn": "breast_cancer"}}],
            "arbiter": {"name": "arbiter"},
        }
    )


def written(tmp_path: Path, frame: pd.DataFrame) -> Path:
    path = tmp_path / "guest.csv"
    frame.to_csv(path, index=False)
    return path


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_files_are_ordered_and_labelled(tmp_path: Path, suffix: str) -> None:
    if suffix == "parquet":
        pytest.importorskip("pyarrow", exc_type=ImportError)
    path = tmp_path / f"guest.{suffix}"
    FRAME.to_csv(path, index=False) if suffix == "csv" else FRAME.to_parquet(path)
    table = load_table(job_for(path), "guest")
    assert table.ids == ["a", "b", "c"]
    assert table.columns == ["u", "v"]
    assert table.y is not None
    assert table.y.tolist() == [0, 1, 1]
    assert table.x.tolist() == [[2, 3], [4, 3], [1, 3]]


def test_standardising_is_undone_and_leaves_gaps() -> None:
    x = np.array([[2.0, 3.0], [4.0, 3.0], [np.nan, 3.0]])
    y = np.array([5.0, 7.0, 9.0])
    raw = Table(["a", "b", "c"], ["u", "v"], x, y)
    table = raw.standardised(target=True)
    np.testing.assert_allclose(table.x, np.array([[-1, 0], [1, 0], [np.nan, 0]]))
    assert table.x_scaling is not None
    np.testing.assert_allclose(table.x_scaling.undo(table.x), x)
    assert table.y is not None
    assert table.y_scaling is not None
    assert table.y.std() == pytest.approx(1)
    np.testing.assert_allclose(table.y_scaling.undo(table.y), y)
    assert raw.standardised(target=False).y is y


def test_columns_that_do_not_vary_are_only_moved() -> None:
    """A constant's deviation is rounding; a column without values has none."""
    rng = np.random.default_rng(0)
    gone = np.full(1000, np.nan)
    x = np.column_stack([rng.normal(size=1000), np.full(1000, 0.1), np.zeros(1000), gone])
    for raw in (Table([], list("abcd"), x), Table([], list("abcd"), np.asfortranarray(x))):
        table = raw.standardised(target=False)
        assert np.abs(table.x[:, 1:3]).max() < 1e-12
        assert np.isnan(table.x[:, 3]).all()
        assert table.x_scaling is not None
        assert table.x_scaling.deviation.tolist()[1:] == [1.0, 1.0, 1.0]
        assert table.x_scaling.mean[3] == 0.0
        assert table.scalings() == raw.standardised(target=False).scalings()
        assert np.abs(raw.scaled_by(table.scalings()).x[:, 1] - 0.0).max() < 1e-12


def test_a_scaling_does_not_depend_on_the_order_of_memory() -> None:
    x = np.random.default_rng(1).normal(size=(30_000, 7)) * 10.0 ** np.arange(7)
    rows, columns = Scaling.of(x), Scaling.of(np.asfortranarray(x))
    assert rows.mean.tobytes() == columns.mean.tobytes()
    assert rows.deviation.tobytes() == columns.deviation.tobytes()


def test_a_table_that_is_scaled_twice_keeps_its_units() -> None:
    rng = np.random.default_rng(2)
    x, y = rng.normal(5, 3, (50, 2)), rng.normal(100, 20, 50)
    once = Table([f"{i:02d}" for i in range(50)], ["a", "b"], x, y).standardised(target=True)
    twice = once.take(np.arange(30)).standardised(target=True)
    assert twice.x_scaling is not None
    assert twice.y_scaling is not None
    assert twice.y is not None
    np.testing.assert_allclose(twice.x_scaling.undo(twice.x), x[:30])
    np.testing.assert_allclose(twice.y_scaling.undo(twice.y), y[:30])
    assert twice.y.std() == pytest.approx(1.0)


@pytest.mark.parametrize("standardised", [False, True])
def test_tables_come_back_from_disk_bit_by_bit(tmp_path: Path, standardised: bool) -> None:
    rng = np.random.default_rng(1)
    x = np.where(rng.random((50, 3)) < 0.1, np.nan, rng.normal(size=(50, 3)))
    table = Table([f"ä{i:02d}" for i in range(50)], ["a", "b", "c"], x, rng.normal(size=50))
    table = table.standardised(target=True) if standardised else table
    table.write(tmp_path / "t.parquet")
    back = Table.read(tmp_path / "t.parquet")
    assert (back.ids, back.columns) == (table.ids, table.columns)
    assert table.y is not None
    assert back.y is not None
    assert back.x.tobytes() == table.x.tobytes()
    assert back.y.tobytes() == table.y.tobytes()
    assert back.scalings() == table.scalings()
    assert (tmp_path / "t.parquet").stat().st_mode & 0o777 == 0o600


def test_damaged_tables_are_refused(tmp_path: Path) -> None:
    (tmp_path / "t.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(CheckpointError, match="cannot read"):
        Table.read(tmp_path / "t.parquet")


def test_chosen_features(tmp_path: Path) -> None:
    table = load_table(job_for(written(tmp_path, FRAME), features=["v"]), "guest")
    assert table.columns == ["v"]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"u": [1.0, np.nan, 2.0]}, "column 'u' has 1 missing"),
        ({"u": [1.0, np.inf, np.nan]}, "column 'u' has 1 infinite"),
        ({"u": ["1", "x", "2"]}, "column 'u' is not numeric"),
        ({"y": [0, None, 2]}, "label 'y' has 1 missing"),
        ({"id": ["a", "a", "b"]}, "repeats identifier 'a'"),
        ({"id": ["a", None, "b"]}, "without an identifier"),
    ],
)
def test_unusable_values(tmp_path: Path, change: dict[str, list[Any]], expected: str) -> None:
    job = job_for(written(tmp_path, FRAME.assign(**change)))
    with pytest.raises(DataError, match=expected):
        load_table(job, "guest")


def test_unusable_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read"):
        load_table(job_for(tmp_path / "none.csv"), "guest")
    with pytest.raises(DataError, match="no column w"):
        load_table(job_for(written(tmp_path, FRAME), features=["w"]), "guest")
    with pytest.raises(DataError, match="at least two rows"):
        load_table(job_for(written(tmp_path, FRAME[:1])), "guest")


def test_names_of_columns_that_cannot_be_used(tmp_path: Path) -> None:
    latin = tmp_path / "latin.csv"
    latin.write_bytes("id,y,gr\u00f6\u00dfe\na,1,2\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"latin\.csv has names of columns that are not UTF-8"):
        load_table(job_for(latin), "guest")
    twice = tmp_path / "twice.parquet"
    columns = [pa.array(["a", "b"]), pa.array([0.0, 1.0]), pa.array([1.0, 2.0])]
    pq.write_table(pa.Table.from_arrays([*columns, columns[-1]], ["id", "y", "x", "x"]), twice)
    with pytest.raises(DataError, match="a column's name is repeated"):
        load_table(job_for(twice), "guest")


def test_breast_hetero_split() -> None:
    job = job_for(Path("unused.csv")).model_dump()
    job["guest"]["data"] = {"sklearn": "breast_cancer"}
    guest, host = (load_table(Job.model_validate(job), name) for name in ("guest", "host"))
    assert guest.x.shape == (569, 10)
    assert host.x.shape == (569, 20)
    assert host.y is None
    assert guest.columns[0].startswith("worst")
    assert guest.digest("job") == host.digest("job") != host.digest("other job")


def test_several_hosts_share_the_columns() -> None:
    job = job_for(Path("unused.csv")).model_dump()
    job["hosts"] = [{"name": n, "data": {"sklearn": "diabetes"}} for n in ("h1", "h2")]
    job["guest"]["data"] = {"sklearn": "diabetes"}
    job["components"]["train"]["type"] = "linear_regression"
    tables = [load_table(Job.model_validate(job), n) for n in ("h1", "h2", "guest")]
    assert [t.x.shape[1] for t in tables] == [3, 3, 4]
    assert tables[2].y is not None
