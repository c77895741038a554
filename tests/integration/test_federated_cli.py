"""``residue fl``: parties as processes of their own."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner

from residue_federated import PartyReport, load_job, run_trial
from residue_federated._cli import app
from residue_federated._results import compare_gradients
from residue_federated._trial import Event, new_run_directory
from residue_federated.errors import FederatedError, JobError, PeerLost

runner = CliRunner()


@pytest.fixture
def job_file(tmp_path: Path) -> Path:
    rng = np.random.default_rng(3)
    ids, x = [f"r{i:02d}" for i in range(40)], rng.normal(size=(40, 4))
    y = (x.sum(axis=1) > 0).astype(int)
    pd.DataFrame({"id": ids, "y": y, "a": x[:, 0]}).to_csv(tmp_path / "guest.csv", index=False)
    host = pd.DataFrame(x[:, 1:], columns=["b", "c", "d"]).assign(id=ids)
    host.to_csv(tmp_path / "host.csv", index=False)
    content = {
        "name": "small",
        "algorithm": "logistic_regression",
        "guest": {"name": "guest", "device": "cpu", "data": {"file": "guest.csv", "label": "y"}},
        "hosts": [{"name": "host", "device": "cpu", "data": {"file": "host.csv"}}],
        "arbiter": {"name": "arbiter", "device": "cpu"},
        "key": {"bits": 1024, "insecure_allow_1024": True},
        "training": {"epochs": 2},
        "transport": {"peer_timeout": 3},
    }
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_run_ends_with_one_json_object_and_whole_files(job_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    arguments = ["run", str(job_file), "--out", str(out), "--json", "--verify-cpu"]
    done = runner.invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    result = json.loads(done.stdout)
    assert result == json.loads((out / "result.json").read_text())
    assert result["algorithm"] == "logistic_regression"
    assert (result["rows"], result["key_bits"], result["device"]) == (40, 1024, "cpu")
    assert result["epochs"] == len(result["losses"]) == 2
    assert result["seconds_per_epoch"] > 0
    assert result["metrics"]["auc"] == pytest.approx(result["plaintext_metrics"]["auc"], abs=1e-3)
    assert result["verified_gradients"] == 2 * (2 + 3)
    parties = {row["party"] for row in result["operations"]}
    assert parties == {"guest", "host", "arbiter"}
    assert {"operation", "device", "calls", "elements", "ring_utilisation", "host_seconds"} <= (
        result["operations"][0].keys()
    )
    assert json.loads((out / "host" / "model.json").read_text())["columns"] == ["b", "c", "d"]
    assert not (out / "arbiter" / "model.json").exists()
    assert (out / "host" / "key.pem").stat().st_mode & 0o777 == 0o600
    assert "epoch 2/2" in done.stderr


def test_a_killed_party_is_named_and_leaves_nothing(job_file: Path, tmp_path: Path) -> None:
    pids: dict[str, int] = {}
    out = tmp_path / "run"

    def watch(event: Event) -> None:
        if event.kind == "listening":
            pids[event.party] = event.content["pid"]
        if event.kind == "epoch" and event.party == "guest" and event.content["epoch"] == 1:
            os.kill(pids["host"], signal.SIGKILL)

    job = load_job(job_file).replace(epochs=100_000)
    with (
        pytest.raises(PeerLost, match=r"host ended without a word \(SIGKILL\)"),
        new_run_directory(out) as directory,
    ):
        run_trial(job, directory, watch=watch)
    assert not out.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "guest.csv",
        "host.csv",
        "job.yaml",
    ]
    for pid in pids.values():
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_partys_own_error_is_the_one_shown(job_file: Path, tmp_path: Path) -> None:
    frame = pd.read_csv(tmp_path / "host.csv")
    frame.loc[3, "c"] = np.nan
    frame.to_csv(tmp_path / "host.csv", index=False)
    with pytest.raises(FederatedError, match="host: column 'c' has 1 missing or infinite"):
        run_trial(load_job(job_file), tmp_path / "run")


def test_existing_run_directories_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("kept")
    with pytest.raises(JobError, match="exists already"), new_run_directory(tmp_path / "mine"):
        pytest.fail("not reached")
    assert (tmp_path / "mine").read_text() == "kept"


def test_job_errors_come_before_any_process(job_file: Path, tmp_path: Path) -> None:
    content = yaml.safe_load(job_file.read_text())
    job_file.write_text(yaml.safe_dump(content | {"epoch": 3}))
    with pytest.raises(JobError, match="epoch: unknown field"):
        runner.invoke(app, ["run", str(job_file)], catch_exceptions=False)


@pytest.mark.parametrize("device", ["guest=cpu,host", "nobody=cpu"])
def test_bad_device_mappings(job_file: Path, device: str) -> None:
    with pytest.raises(JobError, match=r"--device|no party 'nobody'"):
        runner.invoke(app, ["run", str(job_file), "--device", device], catch_exceptions=False)


def test_check_reads_job_and_data(job_file: Path) -> None:
    shown = runner.invoke(app, ["check", str(job_file)], catch_exceptions=False)
    assert "logistic_regression, 1024-bit key, at most 2 epochs, full batch" in shown.stdout
    as_json = runner.invoke(app, ["check", str(job_file), "--json"], catch_exceptions=False)
    assert json.loads(as_json.stdout)["digest"] == load_job(job_file).digest


def test_certs_and_a_party_without_addresses(job_file: Path, tmp_path: Path) -> None:
    made = runner.invoke(
        app, ["certs", str(tmp_path / "c"), "guest", "host"], catch_exceptions=False
    )
    assert made.stdout.split() == [str(tmp_path / "c" / name) for name in ("guest", "host")]
    arguments = ["party", "--job", str(job_file), "--party", "host", "--listen", "127.0.0.1:0"]
    arguments += ["--certificates", str(tmp_path / "c" / "host"), "--out", str(tmp_path)]
    with pytest.raises(JobError, match="gives no address for guest, arbiter"):
        runner.invoke(app, arguments, catch_exceptions=False)


def test_differing_gradients_are_found(job_file: Path) -> None:
    def reports(**gradients: Any) -> dict[str, PartyReport]:
        return {
            name: PartyReport(name, "host", {}, gradients=gradients.get(name, [[1, 2]]))
            for name in ("guest", "host")
        }

    job = load_job(job_file)
    assert compare_gradients(job, reports(), reports()) == 4
    with pytest.raises(FederatedError, match="host's decrypted gradients of step 1 differ"):
        compare_gradients(job, reports(), reports(host=[[1, 3]]))
