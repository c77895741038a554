"""``residue fl``: parties as processes of their own."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from collections.abc import Callable
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
        "guest": {"name": "guest", "device": "cpu", "data": {"file": "guest.csv", "label": "y"}},
        "hosts": [{"name": "host", "device": "cpu", "data": {"file": "host.csv"}}],
        "arbiter": {"name": "arbiter", "device": "cpu"},
        "key": {"bits": 1024, "insecure_allow_1024": True},
        "components": {
            "scale": {"type": "standardise"},
            "train": {"type": "logistic_regression", "epochs": 2},
        },
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
    assert result["peak_rss_bytes"].keys() == result["time_shares"].keys() == parties
    assert all(memory > 2**24 for memory in result["peak_rss_bytes"].values())
    for shares in result["time_shares"].values():
        assert list(shares) == ["encryption", "waiting", "other"]
        assert sum(shares.values()) == pytest.approx(1)
        assert min(shares.values()) >= 0
    for party in ("guest", "host"):
        for file, digest in result["parties"][party]["files"].items():
            assert hashlib.sha256((out / party / file).read_bytes()).hexdigest() == digest
    assert set(result["parties"]["host"]["files"]) == {"tables/scale.parquet", "models/train.json"}
    assert {"operation", "device", "calls", "elements", "ring_utilisation", "host_seconds"} <= (
        result["operations"][0].keys()
    )
    model = json.loads((out / "host" / "models" / "train.json").read_text())
    assert model["columns"] == ["b", "c", "d"]
    assert not (out / "arbiter" / "models").exists()
    assert (out / "host" / "key.pem").stat().st_mode & 0o777 == 0o600
    assert "train 2/2" in done.stderr


def killing(party: str, component: str, after: int) -> Callable[[Event], None]:
    """Kill a party as soon as the guest has done so many rounds of a component."""
    pids: dict[str, int] = {}

    def watch(event: Event) -> None:
        if event.kind == "listening":
            pids[event.party] = event.content["pid"]
        place = (event.content.get("component"), event.content.get("done"))
        if event.kind == "round" and event.party == "guest" and place == (component, after):
            os.kill(pids[party], signal.SIGKILL)

    return watch


def test_a_party_killed_before_any_checkpoint_is_named_and_leaves_nothing(
    job_file: Path, tmp_path: Path
) -> None:
    content = yaml.safe_load(job_file.read_text())
    del content["components"]["scale"]
    job_file.write_text(yaml.safe_dump(content))
    with (
        pytest.raises(PeerLost, match=r"host ended without a word \(SIGKILL\)"),
        new_run_directory(tmp_path / "run") as directory,
    ):
        run_trial(load_job(job_file), directory, watch=killing("host", "train", 0))
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left in (
        ["guest.csv", "host.csv", "job.yaml"],
        ["guest.csv", "host.csv", "job.yaml", "run.partial"],  # an epoch was quicker than the end
    )


@pytest.mark.parametrize(("party", "after"), [("host", 1), ("arbiter", 2), ("guest", 3)])
def test_after_kill_and_resume_the_models_are_those_of_an_undisturbed_run(
    job_file: Path, tmp_path: Path, party: str, after: int
) -> None:
    job = load_job(job_file).replace(rounds=6)
    with new_run_directory(tmp_path / "whole") as directory:
        whole = run_trial(job, directory)
    with (
        pytest.raises(PeerLost, match=f"{party} ended without a word"),
        new_run_directory(tmp_path / "run") as directory,
    ):
        run_trial(job, directory, watch=killing(party, "train", after))
    assert not (tmp_path / "run").exists()
    with pytest.raises(JobError, match="residue fl resume"), new_run_directory(tmp_path / "run"):
        pytest.fail("not reached")
    arguments = ["resume", str(tmp_path / "run.partial"), "--json"]
    done = runner.invoke(app, arguments, catch_exceptions=False)
    result = json.loads(done.stdout)
    assert not (tmp_path / "run.partial").exists()
    assert result["losses"] == whole["guest"].component("train").losses
    for name in ("guest", "host"):
        one, two = (tmp_path / run / name / "models" / "train.json" for run in ("whole", "run"))
        assert one.read_bytes() == two.read_bytes()
    timed = {c["name"]: c["timed_rounds"] for c in result["components"]}
    assert 1 <= timed["train"] <= 6 - after + 1


def test_only_undone_runs_are_resumed(tmp_path: Path) -> None:
    (tmp_path / "x.partial").mkdir()
    for path in (tmp_path, tmp_path / "x.partial", tmp_path / "none.partial"):
        with pytest.raises(JobError, match="is no undone run"):
            runner.invoke(app, ["resume", str(path)], catch_exceptions=False)


def test_a_partys_own_error_is_the_one_shown(job_file: Path, tmp_path: Path) -> None:
    frame = pd.read_csv(tmp_path / "host.csv")
    frame.loc[3, "c"] = np.nan
    frame.to_csv(tmp_path / "host.csv", index=False)
    with pytest.raises(FederatedError, match="host: column 'c' has 1 missing"):
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
    assert "train: logistic_regression of scale, 2 round(s) at most" in shown.stdout
    assert "1024-bit key" in shown.stdout
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
