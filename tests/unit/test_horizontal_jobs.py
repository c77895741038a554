from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from residue_federated._data import Scaling, load_table
from residue_federated._jobs import Job, load_job
from residue_federated.errors import JobError

ROWS = {"sklearn": "digits", "split": "rows"}
TRAIN = {"type": "horizontal_mlp", "classes": 10}


def job_with(train: dict[str, Any] = TRAIN, count: int = 2, **changes: Any) -> dict[str, Any]:
    return {
        "name": "t",
        "guest": {"name": "guest", "data": ROWS},
        "hosts": [{"name": f"h{i}", "data": ROWS} for i in range(count)],
        "arbiter": {"name": "arbiter"},
        "components": {"train": train},
    } | changes


def test_rows_are_dealt_out_once() -> None:
    job = Job.model_validate(job_with())
    tables = [load_table(job, name) for name in ("guest", "h0", "h1")]
    assert [len(table.ids) for table in tables] == [599, 599, 599]
    assert len({id_ for table in tables for id_ in table.ids}) == 1797
    for table in tables:
        assert table.x.shape == (599, 64)
        assert table.y is not None
        share = np.bincount(table.y.astype(int)) / len(table.y)
        np.testing.assert_allclose(share, 0.1, atol=0.02)
    assert tables[0].columns == tables[2].columns


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (job_with(arbiter=None), "needs an arbiter"),
        (job_with(guest={"name": "guest", "data": {"sklearn": "breast_cancer"}}), "split: rows"),
        (
            job_with(hosts=[{"name": "h0", "data": {"file": "h0.csv"}}]),
            "needs a label at every party: set h0.data.label",
        ),
        (job_with(TRAIN | {"min_clients": 4}), "more than half of the 3 clients, and at most all"),
        (job_with(TRAIN | {"min_clients": 2}, count=3), "more than half of the 4 clients"),
        (
            job_with(TRAIN | {"aggregation": "paillier", "min_clients": 2}),
            "needs aggregation: masks",
        ),
        (job_with(TRAIN | {"hidden": []}), "at least 1 item"),
        (job_with(TRAIN | {"bits": 33}), "less than or equal to 32"),
        (job_with(TRAIN | {"clip": 0}), "greater than 0"),
        (
            job_with(
                components={"train": TRAIN, "more": {"type": "linear_regression"}},
            ),
            "more: linear_regression is for columns of common rows, not for a horizontal job",
        ),
        (
            job_with(
                {"type": "logistic_regression"},
                guest={"name": "guest", "data": {"sklearn": "breast_cancer", "split": "rows"}},
                hosts=[{"name": "h0", "data": {"sklearn": "breast_cancer"}}],
            ),
            "guest.data.split: columns",
        ),
    ],
)
def test_jobs_that_contradict_themselves(
    content: dict[str, Any], words: str, tmp_path: Path
) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(JobError, match=words):
        load_job(path)


@pytest.mark.parametrize(("hosts", "least"), [(1, 2), (2, 2), (3, 3), (8, 5)])
def test_a_majority_remains_by_default(hosts: int, least: int) -> None:
    component = Job.model_validate(job_with(count=hosts)).components["train"]
    assert component.least_clients(1 + hosts) == least  # type: ignore[union-attr]


def test_hosts_may_be_lost_with_masks_only() -> None:
    masks, paillier = (
        Job.model_validate(job_with(TRAIN | {"aggregation": how})) for how in ("masks", "paillier")
    )
    assert [masks.may_lose(name) for name in ("guest", "h0", "arbiter")] == [False, True, False]
    assert not paillier.may_lose("h0")


def test_the_example_is_a_horizontal_job() -> None:
    job = load_job(Path(__file__).parents[2] / "examples" / "digits_mlp.yaml")
    assert job.horizontal
    assert job.may_lose("host-1")


def test_constant_columns_are_not_scaled() -> None:
    x = np.stack([np.full(569, 0.1), np.zeros(569), np.arange(569.0)], axis=1)
    scaling = Scaling.of_moments(x.mean(axis=0), x.var(axis=0))
    scaled = scaling.apply(x)
    np.testing.assert_allclose(scaled[:, :2], 0.0, atol=1e-12)
    assert scaled[:, 2].std() == pytest.approx(1.0)
