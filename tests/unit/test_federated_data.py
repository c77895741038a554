from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from residue_federated._data import load_table
from residue_federated._jobs import Job
from residue_federated.errors import DataError

FRAME = pd.DataFrame(
    {"id": ["c", "a", "b"], "y": [1, 0, 1], "u": [1.0, 2.0, 4.0], "v": [3.0, 3.0, 3.0]}
)


def job_for(file: Path, **data: object) -> Job:
    return Job.model_validate(
        {
            "name": "t",
            "algorithm": "logistic_regression",
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
def test_files_are_ordered_scaled_and_labelled(tmp_path: Path, suffix: str) -> None:
    if suffix == "parquet":
        pytest.importorskip("pyarrow", exc_type=ImportError)
    path = tmp_path / f"guest.{suffix}"
    FRAME.to_csv(path, index=False) if suffix == "csv" else FRAME.to_parquet(path)
    table = load_table(job_for(path), "guest")
    assert table.ids == ["a", "b", "c"]
    assert table.columns == ["u", "v"]
    assert table.y is not None
    assert table.y.tolist() == [-1, 1, 1]
    np.testing.assert_allclose(table.x.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(table.x.std(axis=0), [1, 0], atol=1e-12)
    assert table.x_scaling is not None
    np.testing.assert_allclose(table.x_scaling.undo(table.x)[:, 0], [2, 4, 1])


def test_chosen_features(tmp_path: Path) -> None:
    table = load_table(job_for(written(tmp_path, FRAME), features=["v"]), "guest")
    assert table.columns == ["v"]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"u": [1.0, np.nan, 2.0]}, "column 'u' has 1 missing or infinite"),
        ({"u": [1.0, np.inf, np.nan]}, "column 'u' has 2 missing or infinite"),
        ({"u": ["1", "x", "2"]}, "column 'u' is not numeric"),
        ({"y": [0, 1, 2]}, "two classes"),
        ({"y": [1, 1, 1]}, "two classes"),
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
    job["algorithm"] = "linear_regression"
    tables = [load_table(Job.model_validate(job), n) for n in ("h1", "h2", "guest")]
    assert [t.x.shape[1] for t in tables] == [3, 3, 4]
    y = tables[2].y
    assert y is not None
    assert y.std() == pytest.approx(1)
