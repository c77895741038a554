"""What a result says of its run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from residue.backends import get_backend
from residue_federated._cli import app
from residue_federated._party import ComponentReport
from residue_federated._results import result_of
from residue_federated.errors import JobError
from tests.runs import job_named, report_of


@pytest.mark.parametrize(
    ("facts", "told"),
    [
        ({"name": "cpu", "kernel": "avx2", "device": "EPYC"}, "cpu"),
        ({"name": "card", "device": "10.0.0.1"}, "card"),
        ({"name": "auto", "active": "cpu", "kernel": "avx2", "device": "EPYC"}, "auto: cpu avx2"),
        ({"name": "auto", "active": "cpu", "device": "EPYC"}, "auto: cpu EPYC"),
        ({"name": "auto", "active": "card", "device": "10.0.0.1"}, "auto: card 10.0.0.1"),
        ({"name": "auto", "active": "card"}, "auto: card"),
    ],
)
def test_a_device_tells_what_it_chose(facts: dict[str, Any], told: str) -> None:
    assert report_of("guest", device=facts).device_name == told


@pytest.mark.parametrize("alike", [True, False])
def test_results_tell_what_auto_chose(alike: bool) -> None:
    facts = get_backend("auto").describe()
    parties = ("guest", "host", "arbiter")
    devices = {party: "auto" if alike or party == "guest" else "cpu" for party in parties}
    job = job_named().replace(devices=devices)
    components = [ComponentReport(n, c.type) for n, c in job.components.items()]
    reports = {name: report_of(name, device=facts, components=components) for name in parties}
    result = result_of(job, reports, None)
    told = reports["guest"].device_name
    assert told.startswith(f"auto: {facts['active']} ")
    assert result["device"] == (told if alike else {"guest": told, "host": "cpu", "arbiter": "cpu"})
    assert {row["device"] for row in result["operations"]} == {told}
    assert result["parties"]["host"]["device_name"] == told


@pytest.mark.parametrize("content", ["[]", "null", "{}", '{"components": []}', '"text"'])
def test_a_report_of_what_is_no_result_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "result.json").write_text(content)
    told = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert isinstance(told.exception, JobError)
    assert str(told.exception).endswith("result.json is not what a finished run leaves")
    assert not (tmp_path / "report.html").exists()
