"""Tables that have no room in memory give the models of those that have."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from residue_federated import _data, _scratch, _workers, load_job
from tests.integration.parties import run_all

COMPONENTS: dict[str, Any] = {
    "align": {"type": "psi"},
    "fill": {"type": "impute"},
    "scale": {"type": "standardise"},
    "iv": {"type": "bin", "bins": 4, "input": "fill"},
    "related": {"type": "correlation"},
    "trees": {"type": "secureboost", "trees": 2, "depth": 3, "bins": 8, "subsample": 0.5},
    "part": {"type": "sample", "share": 0.3, "input": "scale"},
    "line": {"type": "logistic_regression", "epochs": 2, "batch_size": 30},
}


def written(path: Path, *, rows: int, columns: int, seed: int, labelled: bool) -> None:
    """A Parquet file whose rows are in no order, a group of rows at a time."""
    order = np.random.default_rng(1).permutation(rows)
    hidden = np.random.default_rng(2).normal(size=rows)
    names = ["id", *(["y"] if labelled else []), *(f"{path.stem}-{j}" for j in range(columns))]
    types = [pa.string() if name == "id" else pa.float64() for name in names]
    schema = pa.schema(list(zip(names, types, strict=True)))
    with pq.ParquetWriter(path, schema, compression="none") as file:
        for start in range(0, rows, 5000):
            at = order[start : start + 5000]
            x = np.random.default_rng([seed, start]).normal(size=(len(at), columns))
            x += hidden[at, None]
            x[:, :2][x[:, :2] > 2.5] = np.nan
            arrays = [pa.array([f"{i:07d}" for i in at])]
            arrays += [pa.array((hidden[at] > 0).astype(float))] if labelled else []
            arrays += [pa.array(column) for column in x.T]
            file.write_table(pa.Table.from_arrays(arrays, schema=schema))


def job_file(directory: Path, components: dict[str, Any], **party: object) -> Path:
    content = {
        "name": "large",
        "key": {"bits": 1024, "insecure_allow_1024": True},
        "guest": {"name": "guest", "data": {"file": "guest.parquet", "label": "y"}, **party},
        "hosts": [{"name": "host", "data": {"file": "host.parquet"}, **party}],
        "arbiter": {"name": "arbiter"},
        "components": components,
    }
    path = directory / f"job{'-'.join(['', *party])}.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def models_of(directory: Path) -> dict[str, str]:
    return {
        str(path.relative_to(directory)): path.read_text()
        for path in directory.glob("*/models/*.json")
    }


def test_models_have_the_same_bits_in_files_and_with_workers_as_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_scratch, "_BLOCK", 200)
    monkeypatch.setattr(_scratch, "_PARTITION", 200)
    written(tmp_path / "guest.parquet", rows=120, columns=3, seed=1, labelled=True)
    written(tmp_path / "host.parquet", rows=120, columns=5, seed=2, labelled=False)
    spilled: list[bool] = []
    load_table = _data.load_table

    def noted(*args: Any, **options: Any) -> Any:
        table = load_table(*args, **options)
        spilled.append(table.spilled)
        return table

    monkeypatch.setattr("residue_federated._party.load_table", noted)
    started: list[int] = []
    close = _workers.LocalWorkers.close

    def closed(workers: _workers.LocalWorkers) -> None:
        started.append(len(workers.pids))
        close(workers)

    monkeypatch.setattr(_workers.LocalWorkers, "close", closed)
    settings: dict[str, dict[str, float]] = {
        "memory": {"processes": 0},
        "shared": {"processes": 2},
        "files": {"processes": 2, "memory_mib": 0.001},
    }
    jobs = {name: load_job(job_file(tmp_path, COMPONENTS, **settings[name])) for name in settings}
    assert len({job.digest for job in jobs.values()}) == 1
    for name, job in jobs.items():
        assert not run_all(job, tmp_path / name).errors
    assert spilled == [False] * 4 + [True] * 2
    # Guest and host have some, the arbiter has no table.
    assert [sum(map(bool, started[run : run + 3])) for run in (0, 3, 6)] == [0, 2, 2]
    models = models_of(tmp_path / "memory")
    assert len(models) == 10
    tables = sorted((tmp_path / "memory").glob("*/tables/*"))
    assert len(tables) == 10
    for name in ("shared", "files"):
        assert models == models_of(tmp_path / name)
        for one in tables:
            other = tmp_path / name / one.relative_to(tmp_path / "memory")
            assert pq.read_table(one).to_pandas().equals(pq.read_table(other).to_pandas())


ROWS, COLUMNS = 200_000, 400
TABLE = ROWS * COLUMNS * 8
LIMIT = 420 << 20
"""Bytes of private memory for a process, of which some 250 MiB are libraries and threads."""


@pytest.mark.full
@pytest.mark.timeout(3600)
def test_a_job_on_a_table_larger_than_the_memory_it_may_have(tmp_path: Path) -> None:
    written(tmp_path / "guest.parquet", rows=ROWS, columns=4, seed=1, labelled=True)
    written(tmp_path / "host.parquet", rows=ROWS, columns=COLUMNS, seed=2, labelled=False)
    components: dict[str, Any] = {
        "fill": {"type": "impute"},
        "scale": {"type": "standardise"},
        "trees": {"type": "secureboost", "trees": 1, "depth": 3, "bins": 16, "subsample": 0.005},
        "part": {"type": "sample", "share": 0.005, "input": "scale"},
        "line": {
            "type": "logistic_regression",
            "epochs": 2,
            "batch_size": 500,
            "optimiser": {"learning_rate": 0.001},
        },
    }
    ends = {}
    for name, limit in (("small", LIMIT), ("large", None)):
        job = job_file(tmp_path, components, **({"memory_mib": 16} if limit else {}))

        def limited(limit: int | None = limit) -> None:
            if limit is not None:
                resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
                # of each thread, reserved
                resource.setrlimit(resource.RLIMIT_STACK, (1 << 20, 1 << 20))

        done = subprocess.run(
            [sys.executable, "-m", "residue", "fl", "run", str(job), "--device", "cpu", "--json",
             "--out", str(tmp_path / name)],
            preexec_fn=limited, capture_output=True, text=True, check=False,
            # Memory that allocators reserve and do not use counts as well.
            env={**os.environ, "ARROW_DEFAULT_MEMORY_POOL": "system", "MALLOC_ARENA_MAX": "1",
                 "OPENBLAS_NUM_THREADS": "1"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        ends[name] = json.loads(done.stdout)
    assert TABLE > 1.4 * LIMIT
    assert models_of(tmp_path / "small") == models_of(tmp_path / "large")
    peaks = {name: end["peak_rss_bytes"]["host"] for name, end in ends.items()}
    print(f"table {TABLE >> 20} MiB, host's most memory {peaks}")
    assert peaks["large"] > TABLE
