"""Alignment of two tables of 100,000 rows that have half in common: a job of two processes.

``pytest bench/test_psi.py -p no:cacheprovider --benchmark-only -s`` prints a line each. What is
timed is a whole trial run: certificates, reading the files and writing the tables included;
`seconds` are those of the component alone; `cpu_seconds`, those of both processes in all, depend
less on what else the machine does.
"""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from residue_federated import Job
from residue_federated._trial import run_trial

ROWS = 100_000


@pytest.mark.parametrize("method", ["dh", "rsa"])
def test_align(benchmark: Any, tmp_path: Path, method: str) -> None:
    """2048 bits, both parties on this machine."""
    persons = np.random.default_rng(1).permutation(2 * ROWS)
    parts = {"guest": persons[:ROWS], "host": persons[ROWS // 2 : ROWS // 2 + ROWS]}
    for party, part in parts.items():
        frame = pd.DataFrame({"id": [f"id{i:08d}" for i in part], "a": part / ROWS, "y": part % 2})
        frame.to_csv(tmp_path / f"{party}.csv", index=False)
    guest, host = ({"file": tmp_path / f"{party}.csv", "features": ["a"]} for party in parts)
    job = Job.model_validate(
        {
            "name": "bench",
            "guest": {"name": "guest", "data": {**guest, "label": "y"}},
            "hosts": [{"name": "host", "data": host}],
            "components": {"align": {"type": "psi", "method": method}},
        }
    )
    reports: dict[str, Any] = {}

    def whole() -> None:
        reports.update(run_trial(job, tmp_path / "run"))

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    benchmark.pedantic(whole, rounds=1)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    for report in reports.values():
        assert report.component("align").facts == {"rows": ROWS, "common": ROWS // 2}
    facts = {
        "seconds": round(max(r.component("align").seconds for r in reports.values()), 1),
        "cpu_seconds": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime),
        "mib_sent": round(sum(r.bytes for r in reports.values()) / 2**20, 1),
        **{f"{p}_shares": {k: round(v, 1) for k, v in r.time.items()} for p, r in reports.items()},
    }
    benchmark.extra_info.update(facts)
    print(benchmark.name, facts)
