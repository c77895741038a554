"""``residue fl``: parties as processes of their own."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner

from residue._cli import main
from residue_federated import Job, PartyReport, load_job, run_trial
from residue_federated._cli import app
from residue_federated._ended import keep_end, read_end
from residue_federated._models import read_model, write_model
from residue_federated._results import compare_gradients
from residue_federated._trial import Event, new_run_directory, resumed_run_directory
from residue_federated.audit._live import RECORD
from residue_federated.audit._record import read_record
from residue_federated.errors import (
    AuditViolation,
    CertificateError,
    FederatedError,
    JobError,
    ModelError,
    PeerLost,
)
from residue_federated.store import Store

runner = CliRunner()
PARTIES = ("guest", "host")
EPOCHS = 8  # more than pass while a signal arrives


@dataclass(frozen=True)
class Finished:
    """A run of the job that nothing disturbed."""

    out: Path
    stdout: str
    stderr: str


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    directory = tmp_path_factory.mktemp("finished")
    arguments = ["run", str(write_job(directory)), "--out", str(directory / "run"), "--json"]
    done = runner.invoke(app, [*arguments, "--verify-cpu"], catch_exceptions=False)
    assert done.exit_code == 0
    return Finished(directory / "run", done.stdout, done.stderr)


@pytest.fixture
def job_file(tmp_path: Path) -> Path:
    return write_job(tmp_path)


def write_job(tmp_path: Path) -> Path:
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
            "train": {"type": "logistic_regression", "epochs": EPOCHS},
        },
        "transport": {"peer_timeout": 3},
    }
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_run_ends_with_one_json_object_and_whole_files(finished: Finished) -> None:
    out = finished.out
    result = json.loads(finished.stdout)
    assert result == json.loads((out / "result.json").read_text())
    assert result["algorithm"] == "logistic_regression"
    assert (result["rows"], result["key_bits"], result["device"]) == (40, 1024, "cpu")
    assert result["epochs"] == len(result["losses"]) == EPOCHS
    assert result["seconds_per_epoch"] > 0
    assert result["metrics"]["auc"] == pytest.approx(result["plaintext_metrics"]["auc"], abs=1e-3)
    assert result["verified_gradients"] == EPOCHS * (2 + 3)
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
    files = {"tables/scale.parquet", "models/scale.json", "models/train.json"}
    assert set(result["parties"]["host"]["files"]) == files
    assert {"operation", "device", "calls", "elements", "ring_utilisation", "host_seconds"} <= (
        result["operations"][0].keys()
    )
    model = json.loads((out / "host" / "models" / "train.json").read_text())
    assert model["columns"] == ["b", "c", "d"]
    assert not (out / "arbiter" / "models").exists()
    assert (out / "host" / "key.pem").stat().st_mode & 0o777 == 0o600
    assert f"train {EPOCHS}/{EPOCHS}" in finished.stderr


def test_run_is_in_the_store_beside_it(finished: Finished) -> None:
    result = json.loads(finished.stdout)
    store = Store.open(finished.out.parent)
    (run,) = store.runs()
    assert (run.name, run.party, run.folder, run.state) == ("small", None, "run", "done")
    details = store.run(run.id)
    assert [(c.name, c.state, c.rounds) for c in details.components] == [
        ("scale", "done", 0),
        ("train", "done", EPOCHS),
    ]
    losses = [r.loss for r in details.rounds if r.party == "guest"]
    assert losses == result["losses"]
    assert {r.party for r in details.rounds} == {"guest", "host", "arbiter"}
    assert [(p.party, p.audit_findings) for p in details.parties] == [
        ("guest", 0),
        ("host", 0),
        ("arbiter", 0),
    ]
    for party in details.parties:
        assert (party.messages, party.bytes) == (
            result["parties"][party.party]["messages"],
            result["parties"][party.party]["bytes"],
        )
    kept = {artefact.path for artefact in details.artefacts}
    assert {"result.json", "host/models/train.json", "arbiter/audit.jsonl"} <= kept
    assert {check.state for check in store.verify(run.id)} == {"same"}


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


@pytest.mark.full
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


def test_after_kill_and_resume_the_models_are_those_of_an_undisturbed_run(
    finished: Finished, job_file: Path, tmp_path: Path
) -> None:
    with (
        pytest.raises(PeerLost, match="host ended without a word"),
        new_run_directory(tmp_path / "run") as directory,
    ):
        run_trial(load_job(job_file), directory, watch=killing("host", "train", 3))
    assert not (tmp_path / "run").exists()
    with pytest.raises(JobError, match="residue fl resume"), new_run_directory(tmp_path / "run"):
        pytest.fail("not reached")
    arguments = ["resume", str(tmp_path / "run.partial"), "--json"]
    done = runner.invoke(app, arguments, catch_exceptions=False)
    result = json.loads(done.stdout)
    assert not (tmp_path / "run.partial").exists()
    assert result["losses"] == json.loads(finished.stdout)["losses"]
    for name in ("guest", "host"):
        outs = (finished.out, tmp_path / "run")
        one, two = (out / name / "models" / "train.json" for out in outs)
        assert one.read_bytes() == two.read_bytes()
    timed = {c["name"]: c["timed_rounds"] for c in result["components"]}
    assert EPOCHS - 3 <= timed["train"] <= 2 * EPOCHS
    check_lives(result, tmp_path / "run")
    page = runner.invoke(app, ["report", str(tmp_path / "run")], catch_exceptions=False)
    assert "Lives: from each start" in Path(page.stdout.strip()).read_text()


@pytest.mark.full
def test_a_run_that_was_killed_when_its_parties_were_done_is_resumed_at_once(
    finished: Finished, tmp_path: Path
) -> None:
    partial = tmp_path / "run.partial"
    shutil.copytree(finished.out, partial)
    (partial / "result.json").unlink()
    job = load_job(partial / "job.json")
    ended = read_end(partial / "guest", job.digest)
    assert ended is not None
    keep_end(partial / "guest", job.digest, replace(ended, done=[]))
    began = time.monotonic()
    done = runner.invoke(app, ["resume", str(partial), "--json"], catch_exceptions=False)
    assert time.monotonic() - began < 30  # half of what a party waits for one that may have left
    result, before = json.loads(done.stdout), json.loads(finished.stdout)
    for same in ("losses", "metrics", "components", "lives", "parties", "time_shares"):
        assert result[same] == before[same]
    assert result["audit"]["findings"] == []


def check_lives(result: dict[str, Any], out: Path) -> None:
    """What is told of all lives is what the records have of them."""
    for name, lives in result["lives"].items():
        record = read_record(out / name / RECORD)
        starts = list(record.of("start"))
        assert len(lives) == len(starts) >= 2
        sent = list(record.of("sent"))
        assert result["parties"][name]["messages"] == len(sent)
        assert result["parties"][name]["bytes"] == sum(e.content["size"] for e in sent)
        assert sum(life["messages"] for life in lives) == len(sent)
        assert result["peak_rss_bytes"][name] == max(life["peak_rss_bytes"] for life in lives)
        moments = [moment for life in lives for moment in (life["began"], life["ended"])]
        assert moments == sorted(moments)
        assert all(life["seconds"] > 0 for life in lives)
        assert sum(life["time"]["waiting"] for life in lives) > lives[-1]["time"]["waiting"]


def run_killed(job: Job, out: Path, party: str, delay: float) -> tuple[bool, float]:
    """Kill a party a while after training starts: whether that ended the run, and how long it was.

    The length is from the guest's first progress to its end.
    """
    processes: dict[str, int] = {}
    times: list[float] = []
    timer = threading.Timer(delay, lambda: os.kill(processes[party], signal.SIGKILL))

    def watch(event: Event) -> None:
        if event.kind == "listening":
            processes[event.party] = event.content["pid"]
        if event.kind in ("round", "done") and event.party == "guest":
            if not times:
                timer.start()
            times.append(time.monotonic())

    try:
        with new_run_directory(out) as directory:
            run_trial(job, directory, watch=watch)
    except FederatedError:
        return True, times[-1] - times[0]
    finally:
        timer.cancel()
    return False, times[-1] - times[0]


@pytest.mark.full
def test_ten_random_kills_change_no_bit_of_the_models(job_file: Path, tmp_path: Path) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    job = load_job(job_file).replace(rounds=30)
    _, length = run_killed(job, tmp_path / "whole", "host", 3600.0)
    kills = resumed = 0
    for number in range(40):
        out, party = tmp_path / f"run{number}", rng.choice([p.name for p in job.parties])
        delay = rng.uniform(0, length)
        killed, _ = run_killed(job, out, party, delay)
        kills += killed
        if (partial := out.with_name(out.name + ".partial")).exists():
            runner.invoke(app, ["resume", str(partial), "--json"], catch_exceptions=False)
            resumed += 1
        elif killed:  # before the first checkpoint
            run_killed(job, out, party, 3600.0)
        for name in ("guest", "host"):
            one, two = (tmp_path / run / name / "models" / "train.json" for run in ("whole", out))
            assert one.read_bytes() == two.read_bytes(), (party, delay)
        if kills == 10:
            break
    print(f"{kills} kills, {resumed} runs resumed")
    assert kills == 10
    assert resumed >= 5


def test_predictions_of_new_rows_are_those_of_the_model(finished: Finished, tmp_path: Path) -> None:
    out, scored = finished.out, tmp_path / "scored"
    rng = np.random.default_rng(9)
    x = rng.normal(size=(7, 4))
    ids = [f"n{i}" for i in range(7)]
    pd.DataFrame({"a": x[:, 0], "id": ids}).to_csv(tmp_path / "g2.csv", index=False)
    host = pd.DataFrame(x[:, :0:-1], columns=["d", "c", "b"]).assign(id=ids)
    host.to_csv(tmp_path / "h2.csv", index=False)
    files = f"guest={tmp_path / 'g2.csv'},host={tmp_path / 'h2.csv'}"
    arguments = ["predict", str(out), "--data", files, "--out", str(scored), "--json"]
    done = runner.invoke(app, arguments, catch_exceptions=False)
    assert json.loads(done.stdout) == {"rows": 7, "files": [str(scored / "guest" / "train.csv")]}
    shares = [json.loads((out / p / "models" / "train.json").read_text()) for p in PARTIES]
    expected = np.full(7, shares[0]["intercept"])
    for share, part in zip(shares, (x[:, :1], x[:, 1:]), strict=True):
        mean, deviation = (np.array(share["scaling"][k]) for k in ("mean", "deviation"))
        expected += (part - mean) / deviation @ np.array(share["weights"])
    table = pd.read_csv(scored / "guest" / "train.csv")
    assert table["id"].tolist() == ids
    np.testing.assert_allclose(table["score"], expected, rtol=1e-12)
    np.testing.assert_allclose(table["probability"], 1 / (1 + np.exp(-expected)), rtol=1e-12)
    assert not list((scored / "host").glob("*.csv"))


def test_shares_are_not_compared(tmp_path: Path) -> None:
    example = Path(__file__).parents[2] / "examples" / "breast_shared_lr.yaml"
    out = tmp_path / "run"
    arguments = ["run", str(example), "--verify-cpu", "--out", str(out)]
    with pytest.raises(JobError, match="nothing to compare"):
        runner.invoke(app, arguments, catch_exceptions=False)
    assert not out.exists()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"job": "0"}, "was made by another job"),
        ({"version": 1}, "has version 1, expected 2"),
        (None, "is no share of a model"),
    ],
)
def test_unusable_models(
    job_file: Path, tmp_path: Path, change: dict[str, Any] | None, expected: str
) -> None:
    job = load_job(job_file)
    write_model(tmp_path, job, "host", "train", {"weights": []})
    path = tmp_path / "models" / "train.json"
    content = json.loads(path.read_text())
    path.write_text("{" if change is None else json.dumps(content | change))
    with pytest.raises(ModelError, match=expected):
        read_model(tmp_path, job, "train")


def test_only_undone_runs_are_resumed(tmp_path: Path) -> None:
    (tmp_path / "x.partial").mkdir()
    for path in (tmp_path, tmp_path / "x.partial", tmp_path / "none.partial"):
        with pytest.raises(JobError, match="is no undone run"):
            runner.invoke(app, ["resume", str(path)], catch_exceptions=False)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), PeerLost("host"), OSError("full")])
def test_the_evidence_of_a_breach_outlives_resuming(tmp_path: Path, error: BaseException) -> None:
    record = tmp_path / "run.partial" / "host" / "audit.jsonl"

    def break_the_protocol(directory: Path) -> None:
        (directory / "job.json").write_text("{}")
        record.parent.mkdir()
        record.write_text("evidence")
        raise AuditViolation("host broke the protocol", "host", "data")

    with pytest.raises(AuditViolation), new_run_directory(tmp_path / "run") as partial:
        break_the_protocol(partial)
    with pytest.raises(type(error)), resumed_run_directory(partial):
        raise error
    assert record.read_text() == "evidence"


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


@pytest.mark.parametrize("arguments", [["run", "job.yaml"], ["party"]])
def test_processes_are_within_bounds(arguments: list[str]) -> None:
    shown = runner.invoke(app, [*arguments, "--processes", "257"])
    assert shown.exit_code == 2
    assert "--processes" in shown.output
    assert "256" in shown.output


def test_check_reads_job_and_data(job_file: Path) -> None:
    shown = runner.invoke(app, ["check", str(job_file)], catch_exceptions=False)
    assert f"train: logistic_regression of scale, {EPOCHS} round(s) at most" in shown.stdout
    assert "1024-bit key" in shown.stdout
    as_json = runner.invoke(app, ["check", str(job_file), "--json"], catch_exceptions=False)
    assert json.loads(as_json.stdout)["digest"] == load_job(job_file).digest


def test_the_schema_knows_every_field_of_a_job() -> None:
    shown = runner.invoke(app, ["schema"], catch_exceptions=False)
    schema = json.loads(shown.stdout)
    assert set(schema["properties"]) == set(Job.model_fields)
    assert "epochs" in schema["$defs"]["LinearConfig"]["properties"]
    assert schema["$defs"]["Party"]["properties"]["processes"]["anyOf"][0]["minimum"] == 0
    assert not schema["additionalProperties"]


def test_certs_and_a_party_without_addresses(job_file: Path, tmp_path: Path) -> None:
    made = runner.invoke(
        app, ["certs", str(tmp_path / "c"), "guest", "host"], catch_exceptions=False
    )
    assert made.stdout.split() == [str(tmp_path / "c" / name) for name in ("guest", "host")]
    arguments = ["party", "--job", str(job_file), "--party", "host", "--listen", "127.0.0.1:0"]
    arguments += ["--certificates", str(tmp_path / "c" / "host"), "--out", str(tmp_path)]
    with pytest.raises(JobError, match="gives no address for guest, arbiter"):
        runner.invoke(app, arguments, catch_exceptions=False)


@pytest.mark.parametrize("name", ["../host", "Host", "", "h\n", "x" * 64])
def test_certs_are_for_names_of_parties(tmp_path: Path, name: str) -> None:
    with pytest.raises(CertificateError, match="is no party's name"):
        runner.invoke(app, ["certs", str(tmp_path / "c"), "guest", name], catch_exceptions=False)
    assert not (tmp_path / "c").exists()


def test_a_directory_that_cannot_be_made_is_one_line(
    job_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as ended:
        main(["fl", "run", str(job_file), "--out", str(tmp_path / "file" / "run")])
    assert ended.value.code == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == f"error: {tmp_path / 'file' / 'run.partial'}: Not a directory"


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
    with pytest.raises(FederatedError, match="guest took 1 steps, on the CPU 2"):
        compare_gradients(job, reports(), reports(guest=[[1, 2], [3, 4]]))
    alone = {"guest": reports()["guest"]}
    for one, other in ((alone, reports()), (reports(), alone)):
        with pytest.raises(FederatedError, match="a run lost host on its way"):
            compare_gradients(job, one, other)
