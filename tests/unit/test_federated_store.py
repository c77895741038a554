"""The store of runs: what it keeps, who may disturb it, and that it disturbs nobody."""

from __future__ import annotations

import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
import warnings
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from residue_federated import Job, PartyReport
from residue_federated._cli import app
from residue_federated._party import ComponentReport
from residue_federated._trial import Event
from residue_federated.errors import DataError, StoreError, StoreWarning, UnknownRun
from residue_federated.store import FILE, Store, _writer, recorded

runner = CliRunner()


def job_named(name: str = "small", **changes: Any) -> Job:
    content: dict[str, Any] = {
        "name": name,
        "guest": {"name": "guest", "data": {"sklearn": "breast_cancer"}},
        "hosts": [{"name": "host", "data": {"sklearn": "breast_cancer"}}],
        "arbiter": {"name": "arbiter"},
        "components": {
            "scale": {"type": "standardise"},
            "train": {"type": "logistic_regression", "epochs": 3},
        },
    }
    return Job.model_validate(content | changes)


def report_of(party: str, files: dict[str, str]) -> PartyReport:
    return PartyReport(
        party,
        "guest",
        {"name": "cpu"},
        components=[ComponentReport("train", "logistic_regression", rounds=2)],
        operations=[{"operation": "encrypt", "calls": 3}],
        time={"encryption": 1.5, "waiting": 0.5, "other": 0.25},
        peak_rss_bytes=2**20,
        messages=7,
        bytes=900,
        files=files,
    )


def fill(directory: Path, name: str = "run") -> Store:
    """A finished run with one file of the guest's."""
    folder, target = directory / f"{name}.partial", directory / name
    (folder / "guest" / "models").mkdir(parents=True)
    model = folder / "guest" / "models" / "train.json"
    model.write_text("{}")
    with recorded(job_named(), folder, target=target) as record:
        record.round("guest", "train", 0, 3)
        record.round("host", "train", 1, 3)
        record.round("guest", "train", 1, 3, 0.7)
        record.round("guest", "train", 2, 3, 0.6)
        digest = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
        record.party(report_of("guest", {"models/train.json": digest}))
        record.audited({"guest": 0})
    folder.rename(target)
    return Store.open(directory)


def test_a_run_is_told_from_its_start_to_its_end(tmp_path: Path) -> None:
    store = fill(tmp_path)
    (run,) = store.runs()
    assert (run.name, run.party, run.kind, run.folder) == ("small", None, "train", "run")
    assert (run.state, run.error, run.pid) == ("done", None, os.getpid())
    assert run.digest == job_named().digest == Job.model_validate(run.job).digest
    assert run.started <= (run.ended or 0)
    details = store.run(run.id)
    assert details.run == run
    scale, train = details.components
    assert (scale.name, scale.state, scale.started, scale.rounds) == ("scale", "done", None, 0)
    assert (train.type, train.state, train.rounds, train.total) == (
        "logistic_regression", "done", 2, 3,
    )  # fmt: skip
    assert 0 < (train.started or 0) <= (train.ended or 0)
    assert [(r.party, r.done, r.total, r.loss) for r in details.rounds] == [
        ("host", 1, 3, None), ("guest", 1, 3, 0.7), ("guest", 2, 3, 0.6),
    ]  # fmt: skip
    (guest,) = details.parties
    assert (guest.device, guest.messages, guest.bytes, guest.peak_rss) == ("cpu", 7, 900, 2**20)
    assert (guest.encryption, guest.waiting, guest.other) == (1.5, 0.5, 0.25)
    assert guest.operations == [{"operation": "encrypt", "calls": 3}]
    assert guest.audit_findings == 0
    (artefact,) = details.artefacts
    assert (artefact.party, artefact.path, artefact.bytes) == (
        "guest", "guest/models/train.json", 2,
    )  # fmt: skip
    assert stat.S_IMODE((tmp_path / FILE).stat().st_mode) == 0o600


def test_a_failed_run_keeps_the_message_of_our_errors_only(tmp_path: Path) -> None:
    for error in (DataError("column 'a' is not numeric"), ValueError("0.25"), KeyboardInterrupt()):
        with pytest.raises(type(error)), recorded(job_named(), tmp_path / "run"):
            raise error
    states = [(run.state, run.error) for run in Store.open(tmp_path).runs()]
    assert states == [
        ("stopped", "KeyboardInterrupt"),
        ("failed", "ValueError"),
        ("failed", "column 'a' is not numeric"),
    ]


def test_a_resumed_run_keeps_its_number_and_repeats_rounds(tmp_path: Path) -> None:
    folder = tmp_path / "run"

    def life(resumed: bool, losses: dict[int, float]) -> None:
        with recorded(job_named(), folder, resumed=resumed) as record:
            for done, loss in losses.items():
                record.round("guest", "train", done, 3, loss)
            raise DataError("lost")

    for resumed, losses in ((False, {1: 0.7, 2: 0.6}), (True, {2: 0.6, 3: 0.5})):
        with pytest.raises(DataError):
            life(resumed, losses)
    store = Store.open(tmp_path)
    (run,) = store.runs()
    assert [(r.done, r.loss) for r in store.run(run.id).rounds] == [(1, 0.7), (2, 0.6), (3, 0.5)]
    with recorded(job_named(), folder):
        pass
    with recorded(job_named("other"), folder, resumed=True):
        pass
    assert [(r.id, r.name) for r in store.runs()] == [(3, "other"), (2, "small"), (1, "small")]


def _one_of_many(directory: Path, number: int) -> None:
    with recorded(job_named(), directory / f"run-{number}") as record:
        for done in range(1, 21):
            record.round("guest", "train", done, 20, done / 8)


def test_many_processes_and_threads_write_at_once(tmp_path: Path) -> None:
    script = (
        "import sys, threading; from pathlib import Path; from residue_federated import load_job\n"
        "from residue_federated.store import recorded\n"
        "job = load_job(Path(sys.argv[1]))\n"
        "def one(number):\n"
        "    with recorded(job, Path(sys.argv[2]) / f'run-{number}') as record:\n"
        "        for done in range(1, 21): record.round('guest', 'train', done, 20, done / 8)\n"
        "threads = [threading.Thread(target=one, args=(n,)) for n in sys.argv[3:]]\n"
        "for thread in threads: thread.start()\n"
        "for thread in threads: thread.join()"
    )
    job = tmp_path / "job.yaml"
    job.write_text(job_named().model_dump_json())
    command = [sys.executable, "-c", script, str(job), str(tmp_path)]
    processes = [subprocess.Popen([*command, *numbers]) for numbers in ("01", "23")]
    threads = [threading.Thread(target=_one_of_many, args=(tmp_path, n)) for n in range(4, 8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [process.wait(timeout=60) for process in processes] == [0, 0]
    store = Store.open(tmp_path)
    assert {run.folder: run.state for run in store.runs()} == {f"run-{n}": "done" for n in range(8)}
    for run in store.runs():
        losses = [r.loss for r in store.run(run.id).rounds]
        assert losses == [done / 8 for done in range(1, 21)]


def test_a_killed_run_is_reported_as_stopped(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from residue_federated import load_job\n"
        "from residue_federated.store import recorded\n"
        "with recorded(load_job(Path(sys.argv[1])), Path(sys.argv[2])) as record:\n"
        "    print(record.number, flush=True); time.sleep(600)"
    )
    job = tmp_path / "job.yaml"
    job.write_text(job_named().model_dump_json())
    command = [sys.executable, "-c", script, str(job), str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        number = int(process.stdout.readline())
        assert Store.open(tmp_path).run(number).run.state == "running"
        process.send_signal(signal.SIGKILL)
    run = Store.open(tmp_path).run(number).run
    assert (run.state, run.ended) == ("stopped", None)


def test_a_number_that_another_process_has_now_is_not_mistaken(tmp_path: Path) -> None:
    with recorded(job_named(), tmp_path / "run") as record:
        assert Store.open(tmp_path).run(record.number).run.state == "running"
        with sqlite3.connect(tmp_path / FILE) as connection:
            connection.execute("UPDATE runs SET born = born - 1")
        connection.close()
        assert Store.open(tmp_path).run(record.number).run.state == "stopped"


def test_changed_and_missing_files_are_found(tmp_path: Path) -> None:
    store = fill(tmp_path)
    model = tmp_path / "run" / "guest" / "models" / "train.json"
    arguments = ["runs", "--dir", str(tmp_path), "verify", "1"]
    assert [check.state for check in store.verify(1)] == ["same"]
    assert runner.invoke(app, arguments).exit_code == 0
    model.write_text("[]")
    assert [check.state for check in store.verify(1)] == ["changed"]
    done = runner.invoke(app, arguments)
    assert (done.exit_code, done.stdout) == (
        1, "guest/models/train.json: changed\n0 same, 1 changed, 0 missing\n",
    )  # fmt: skip
    model.unlink()
    assert [check.state for check in store.verify(1)] == ["missing"]


@pytest.mark.parametrize("what", ["foreign", "damaged", "newer", "directory"])
def test_another_file_in_its_place_costs_a_warning_and_is_left_alone(
    tmp_path: Path, what: str
) -> None:
    path = tmp_path / FILE
    if what == "damaged":
        path.write_bytes(b"no database at all" * 100)
    elif what == "directory":
        path.mkdir()
    else:
        with sqlite3.connect(path) as connection:
            connection.execute("CREATE TABLE accounts(number TEXT)")
        connection.close()
    if what == "newer":
        path.unlink()
        fill(tmp_path)
        with sqlite3.connect(path) as connection:
            connection.execute("PRAGMA user_version = 99")
        connection.close()
    before = None if what == "directory" else path.read_bytes()
    message = {
        "foreign": "is not a store of runs",
        "damaged": "file is not a database",
        "newer": "newer release",
        "directory": "cannot use",
    }[what]
    with (
        pytest.warns(StoreWarning, match=message) as told,
        recorded(job_named(), tmp_path / "r") as record,
    ):
        record.round("guest", "train", 1, 3)
    assert len(told) == 1
    assert before is None or path.read_bytes() == before
    if what != "directory":
        with pytest.raises(StoreError, match=message):
            Store.open(tmp_path)


def test_a_store_that_goes_away_costs_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run() -> None:
        with recorded(job_named(), tmp_path / "run") as record:
            for path in tmp_path.glob(f"{FILE}*"):
                path.unlink()
            for done in range(1, 4):
                record.round("guest", "train", done, 3)

    monkeypatch.setattr(_writer, "_PATIENCE", 0.5)
    with pytest.warns(StoreWarning, match="misses part of this run") as told:
        run()
    assert len(told) == 1


def test_a_run_in_the_working_directory_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path / "run")
    Path("report.json").write_text("{}")
    with recorded(job_named(), Path(), "guest") as record:
        record.artefact("report.json", "guest")
    store = Store.open(tmp_path)
    (run,) = store.runs()
    assert (run.folder, run.state) == ("run", "done")
    assert [checked.state for checked in store.verify(run.id)] == ["same"]


@pytest.mark.parametrize("renamed", [False, True])
def test_a_folder_without_a_name_in_text_costs_a_warning(tmp_path: Path, *, renamed: bool) -> None:
    other = tmp_path / os.fsdecode(b"x\xff")
    folder, target = (tmp_path / "run", other) if renamed else (other, None)
    ran = []

    def run() -> None:
        with recorded(job_named(), folder, target=target) as record:
            record.round("guest", "train", 1, 3)
            ran.append(True)

    with pytest.warns(StoreWarning, match="this run is not noted: the name of the folder"):
        run()
    assert ran


def test_an_error_about_a_file_without_a_name_in_text_is_kept(tmp_path: Path) -> None:
    with pytest.raises(DataError), recorded(job_named(), tmp_path / "run"):
        raise DataError("cannot read x\udcff.csv")
    (run,) = Store.open(tmp_path).runs()
    assert (run.state, run.error) == ("failed", "cannot read x?.csv")


def test_a_transaction_of_another_process_delays_nobody(tmp_path: Path) -> None:
    with recorded(job_named(), tmp_path / "run") as record:
        other = sqlite3.connect(tmp_path / FILE, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        for done in range(1, 1001):
            record.round("guest", "train", done, 1000)
        rounds = Store.open(tmp_path).run(record.number).rounds
        other.execute("COMMIT")
        other.close()
        assert rounds == []
    assert len(Store.open(tmp_path).run(record.number).rounds) == 1000


def test_unknown_runs_and_directories_are_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="holds no runs"):
        Store.open(tmp_path)
    assert not (tmp_path / FILE).exists()
    with pytest.raises(UnknownRun, match="has no run 7"):
        fill(tmp_path).run(7)


@pytest.mark.parametrize("column", ["job", "operations"])
@pytest.mark.parametrize("content", ["{", "7"])
def test_a_damaged_column_is_named(tmp_path: Path, column: str, content: str) -> None:
    store = fill(tmp_path)
    with closing(sqlite3.connect(tmp_path / FILE)) as connection, connection:
        table = "runs" if column == "job" else "parties"
        connection.execute(f"UPDATE {table} SET {column} = ?", (content,))
    with pytest.raises(StoreError, match=f"a run's {column} in the store is damaged"):
        store.run(1)


def test_a_party_that_the_job_does_not_name_is_last(tmp_path: Path) -> None:
    store = fill(tmp_path)
    with closing(sqlite3.connect(tmp_path / FILE)) as connection, connection:
        connection.execute('UPDATE runs SET job = \'{"hosts": [{"name": "host"}]}\'')
    details = store.run(1)
    assert details.run.parties == ["host"]
    assert [party.party for party in details.parties][-1] == "guest"


def test_names_are_values_not_statements(tmp_path: Path) -> None:
    hostile = "x'); DROP TABLE runs; --"
    folder = tmp_path / hostile
    with recorded(job_named(), folder) as record:
        record.round("guest", hostile, 1, 1)
        record.party(replace(report_of("guest", {}), role=hostile))
    store = Store.open(tmp_path)
    details = store.run(record.number)
    assert details.run.folder == hostile
    assert [r.component for r in details.rounds] == [hostile]
    assert details.parties[0].role == hostile


def test_a_party_is_seen_while_it_runs(tmp_path: Path) -> None:
    with recorded(job_named(), tmp_path / "run") as record:
        content = asdict(replace(report_of("guest", {"models/train.json": ""}), messages=3))
        record.event(Event("guest", "status", content))
        store, seen = Store.open(tmp_path), time.monotonic()
        while not (parties := store.run(record.number).parties):
            assert time.monotonic() < seen + 30
        assert parties[0].messages == 3
        record.event(Event("guest", "done", asdict(report_of("guest", {}))))
    details = store.run(record.number)
    assert [party.messages for party in details.parties] == [7]
    assert not details.artefacts


def test_lists_and_shows_runs(tmp_path: Path) -> None:
    fill(tmp_path)
    listed = runner.invoke(app, ["runs", "--dir", str(tmp_path)], catch_exceptions=False)
    assert {"small", "all", "train", "done", "run"} <= set(listed.stdout.split())
    shown = runner.invoke(app, ["runs", "show", "1", "--dir", str(tmp_path)])
    assert "guest/models/train.json" in shown.stdout
    assert "0.600000" in shown.stdout


def test_no_thread_outlives_its_run(tmp_path: Path) -> None:
    before = threading.active_count()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fill(tmp_path)
    assert threading.active_count() == before
