"""Small jobs on the co-simulated card give, bit by bit, the models that they give on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from residue.backends._card import CardBackend
from residue_federated import Job
from residue_sim.board import Board, InProcess
from tests.integration.parties import run_all

ROWS = 12
JOBS: dict[str, dict[str, Any]] = {
    "logistic_regression": {"epochs": 1, "precision": {"feature_bits": 4}},
    "secureboost": {"trees": 1, "depth": 1, "bins": 2, "min_child_weight": 0.0},
}


@pytest.fixture(scope="module")
def card() -> Iterator[CardBackend]:
    backend = CardBackend(InProcess(Board("r21")), check_rate=0.0, timeout=120)
    yield backend
    backend.close()


def job_of(directory: Path, kind: str) -> Job:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(ROWS, 4))
    ids = [f"r{i:02d}" for i in range(ROWS)]
    y = (x[:, 0] - x[:, 2] > 0).astype(int)
    guest = pd.DataFrame({"id": ids, "y": y, "a": x[:, 0]})
    guest.to_csv(directory / "guest.csv", index=False)
    host = pd.DataFrame(x[:, 2:], columns=["c", "d"]).assign(id=ids)
    host.to_csv(directory / "host.csv", index=False)
    return Job.model_validate(
        {
            "name": "small",
            "guest": {"name": "guest", "data": {"file": directory / "guest.csv", "label": "y"}},
            "hosts": [{"name": "host", "data": {"file": directory / "host.csv"}}],
            "arbiter": {"name": "arbiter"} if kind == "logistic_regression" else None,
            "key": {"bits": 1024, "insecure_allow_1024": True},
            "components": {"train": {"type": kind, **JOBS[kind]}},
        }
    )


@pytest.mark.full  # test_boosting.py has the card's functional model
@pytest.mark.parametrize("kind", JOBS)
def test_models_are_those_of_the_cpu(card: CardBackend, tmp_path: Path, kind: str) -> None:
    job = job_of(tmp_path, kind)
    card.reset_stats()
    simulated = run_all(job, tmp_path / "card", backend=card)
    products = sum(cost.products for cost in card.stats().values())
    expected = run_all(job, tmp_path / "cpu")
    assert simulated.errors == expected.errors == {}
    for party in ("guest", "host"):
        one, two = (tmp_path / d / party / "models" / "train.json" for d in ("card", "cpu"))
        assert one.read_bytes() == two.read_bytes()
    traces = [run.reports["guest"].gradients for run in (simulated, expected)]
    assert traces[0] == traces[1]
    assert traces[0]
    assert products > 1000
