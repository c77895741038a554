"""The console of runs without a browser: what it shows, to whom, and what it withstands."""

from __future__ import annotations

import http.client
import json
import os
import socket
import sqlite3
import subprocess
import sys
import threading
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from residue_federated import Job, PartyReport
from residue_federated._cli import app
from residue_federated.console import _cli
from residue_federated.console._graph import draw_graph, inputs_of
from residue_federated.console._pages import Pages
from residue_federated.console._server import Console
from residue_federated.errors import ConsoleError
from residue_federated.store import FILE, Component
from tests.browser import Text
from tests.integration.parties import run_all
from tests.runs import add_run, going, job_named, report_of

EVIL = "</script><script>alert(1)</script>"


@contextmanager
def served(directory: Path) -> Iterator[Console]:
    with Console(directory) as console:
        thread = threading.Thread(target=console.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield console
        finally:
            console.shutdown()
            thread.join()


@pytest.fixture
def console(tmp_path: Path) -> Iterator[Console]:
    with served(tmp_path) as console:
        yield console


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Console]:
    """With one run, which ended well."""
    directory = tmp_path_factory.mktemp("filled")
    add_run(directory)
    with served(directory) as console:
        yield console


class Answer:
    def __init__(self, found: http.client.HTTPResponse) -> None:
        self.status, self.headers = found.status, found.headers
        self.text = found.read().decode()

    @property
    def words(self) -> str:
        return " ".join(Text(self.text.replace("</t", " </t")).text.split())


def ask(console: Console, path: str, method: str = "GET", host: str | None = None) -> Answer:
    """path: behind the token, unless it starts with a slash."""
    connection = http.client.HTTPConnection("127.0.0.1", console.server_address[1], timeout=10)
    connection.putrequest(
        method, path if path.startswith("/") else console.root + path, skip_host=True
    )
    connection.putheader("Host", host or f"127.0.0.1:{console.server_address[1]}")
    connection.endheaders()
    with connection.getresponse() as found:
        return Answer(found)


def change(directory: Path, query: str, *values: Any) -> None:
    with sqlite3.connect(directory / FILE) as store:
        store.execute(query, values)
    store.close()


# --- what it shows --------------------------------------------------------------------------------


def test_an_empty_directory_says_what_to_do_next(console: Console) -> None:
    assert "residue fl run examples/breast_lr.yaml" in ask(console, "").words
    assert ask(console, "runs/1").status == 404


def test_a_finished_run_with_everything(filled: Console) -> None:
    listed = ask(filled, "").words
    assert "small 1 done 100 % auc 0.9123" in listed
    found = ask(filled, "runs/1")
    for expected in (
        "small done", "2048-bit key", "the parties' data scale scale done standardise",
        "train logistic_regression done 3 of 3", "auc 0.912300 0.912400 1.0e-04",
        "host host card 25 % 50 % 17 % 33 % 300 MiB 1,234 19.1 MiB 1 found",
        "guest guest cpu 50 % 50 % 17 % 33 % 300 MiB 1,234 19.1 MiB checked, nothing found",
        "arbiter arbiter cpu 50 % 50 % 17 % 33 % 300 MiB 1,234 19.1 MiB not checked yet",
        "pow_fixed host card 12 34,567 8,901 1.500 1,000 25.0 %",
        "1 found in the records of 3 parties", "host data sent 7 twice guest",
        "guest/train.json guest 2 B " + "ab" * 32, "result.json all",
    ):  # fmt: skip
        assert expected in found.words, expected
    charts = json.loads(ask(filled, "runs/1/live").text)["charts"]
    assert set(charts) == {"losses-1", "progress", "shares"}
    encrypted, clear = charts["losses-1"]["traces"]
    assert encrypted["y"] == [0.7, 0.6, 0.55]
    assert clear["y"] == pytest.approx([0.71, 0.61, 0.56])
    assert charts["progress"]["traces"][0]["y"][-1] == 100
    report = ask(filled, "runs/1/report")
    assert "0.912300" in report.words
    assert report.headers["Content-Security-Policy"].startswith("sandbox allow-scripts;")


def test_a_run_that_goes_on(console: Console, tmp_path: Path) -> None:
    with going(tmp_path) as record:
        record.round("guest", "train", 4, 10, 0.4321)
        record.status(report_of("host"))
        wait_for(console, "runs/1/live", "4/10")
        assert "residue fl resume" not in ask(console, "runs/1").words
        assert "running 47 % loss 0.4321" in ask(console, "").words
        shown = json.loads(ask(console, "runs/1/live").text)
        assert shown["going"]
        assert shown["status"] == "small: running, train"
        assert "judge waiting" in Text(shown["html"].replace("</t", " </t")).text
        assert ask(console, "runs/1/report").status == 404
    assert not json.loads(ask(console, "runs/1/live").text)["going"]


def wait_for(console: Console, path: str, text: str) -> None:
    for _ in range(100):
        if text in ask(console, path).text:
            return
        threading.Event().wait(0.05)
    pytest.fail(f"{text} never came")


def test_a_killed_and_a_failed_run(console: Console, tmp_path: Path) -> None:
    for name in ("killed", "failed"):
        add_run(tmp_path, name)
    change(tmp_path, "UPDATE components SET state = 'running' WHERE name = 'judge'")
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    change(tmp_path, "UPDATE runs SET state = 'running', pid = ?, born = 1 WHERE id = 1", gone.pid)
    change(tmp_path, "UPDATE runs SET state = 'failed', error = 'host stopped' WHERE id = 2")
    (tmp_path / "killed" / "job.json").write_text("{}")
    killed, failed = ask(console, "runs/1").words, ask(console, "runs/2").words
    assert "interrupted or killed before it ended" in killed
    assert f"residue fl resume {tmp_path}/killed" in killed
    assert "judge evaluate stopped" in killed
    assert "Failed: host stopped" in failed
    assert "resume" not in failed
    assert "judge evaluate failed" in failed


def test_the_list_is_filtered_and_paged(console: Console, tmp_path: Path) -> None:
    number = add_run(tmp_path)
    change(
        tmp_path,
        "WITH RECURSIVE n(i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i < 121) "
        "INSERT INTO runs SELECT i, 'many-' || i, party, kind, folder || i, job, digest, "
        "iif(i % 2, 'failed', state), started, ended, pid, born, error FROM runs, n WHERE id = ?",
        number,
    )
    first = ask(console, "")
    assert "121 runs" in first.words
    assert ["many-121 121" in first.words, "many-72 72" in first.words] == [True, True]
    assert "many-71 71" not in first.words
    second = ask(console, "?before=72")
    assert ["many-71 71" in second.words, "many-22 22" in second.words] == [True, True]
    assert "before=72" in first.text
    assert "before=22" in second.text
    assert "60 runs" in ask(console, "?state=failed").words
    some = ask(console, "?text=ANY-3&state=failed&before=38").words
    assert "6 runs" in some
    assert ["many-37" in some, "many-39" in some] == [True, False]
    assert "is stopped" in ask(console, "?state=stopped&text=x").words
    assert "121 runs" in ask(console, "?unknown=1&state=").words
    assert ask(console, "?before=x").status == 404


def test_one_party_alone_shows_its_own_report(console: Console, tmp_path: Path) -> None:
    add_run(tmp_path)
    change(tmp_path, "UPDATE runs SET party = 'guest'")
    result = tmp_path / "small" / "result.json"
    result.rename(result.with_name("report.json"))
    assert "auc 0.9123 guest alone" in ask(console, "").words
    assert "/report" not in ask(console, "runs/1").text
    assert ask(console, "runs/1/report").status == 404


def test_parties_say_after_every_round_how_they_are_doing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    rows = {"id": np.arange(30), "a": rng.normal(size=30), "b": rng.normal(size=30)}
    label = {"y": (rows["a"] > 0).astype(int)}
    pd.DataFrame(rows | label).to_csv(tmp_path / "guest.csv", index=False)
    pd.DataFrame(rows).to_csv(tmp_path / "host.csv", index=False)
    job = Job.model_validate(
        {
            "name": "small",
            "guest": {"name": "guest", "data": {"file": tmp_path / "guest.csv", "label": "y"}},
            "hosts": [{"name": "host", "data": {"file": tmp_path / "host.csv"}}],
            "arbiter": {"name": "arbiter"},
            "key": {"bits": 1024, "insecure_allow_1024": True},
            "components": {"train": {"type": "logistic_regression", "epochs": 2}},
        }
    )
    monkeypatch.setattr("residue_federated._party._STATUS_SECONDS", 0.0)
    told: list[PartyReport] = []
    run = run_all(job, tmp_path, status=told.append)
    assert run.errors == {}
    for party, end in run.reports.items():
        own = [report for report in told if report.party == party]
        assert len(own) >= 2
        sent = [report.messages for report in (*own, end)]
        assert sent == sorted(sent)
        assert sent[0] < sent[-1]
        assert own[-1].time.keys() == end.time.keys()
        assert own[-1].components == []
        assert {row["operation"] for row in own[-1].operations} >= {"mul"}


# --- who sees it ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:{}", "127.0.0.1.evil.example", "0x7f.1", "192.0.2.1", "[", ""],
)
def test_other_names_are_refused(filled: Console, host: str) -> None:
    refused = ask(filled, "", host=host.format(filled.server_address[1]) or " ")
    assert refused.status == 403
    assert filled.token not in refused.text


@pytest.mark.parametrize(
    "host", ["localhost:1", "LOCALHOST", "127.0.0.1:9", "[::1]:5", "127.0.0.2"]
)
def test_this_machine_s_names_are_known(filled: Console, host: str) -> None:
    assert ask(filled, "", host=host).status == 200


def test_without_the_token_nothing_is_shown(filled: Console) -> None:
    wrong = [
        "/", "/runs/1", f"/{filled.token[:-1]}/", f"/{filled.token}x/", "//", "/é/", "*", "x",
        f"/x/{filled.token}/", f"/?token={filled.token}", "/console.css", "http://[/",
    ]  # fmt: skip
    for path in wrong:
        connection = socket.create_connection(("127.0.0.1", filled.server_address[1]))
        with connection, connection.makefile("rb") as file:
            request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"
            connection.sendall(request.encode("latin-1"))
            answer = file.read().decode()
        assert answer.startswith("HTTP/1.0 403 "), path
        assert filled.token not in answer
        assert str(filled.directory) not in answer
        assert "small" not in answer


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "FOO"])
def test_nothing_but_reading(filled: Console, method: str) -> None:
    refused = ask(filled, "", method)
    assert refused.status == 405
    assert refused.headers["Allow"] == "GET, HEAD"


def test_head_is_get_without_a_body(filled: Console) -> None:
    whole, head = ask(filled, ""), ask(filled, "", "HEAD")
    assert head.status == 200
    assert head.text == ""
    assert head.headers["Content-Length"] == whole.headers["Content-Length"]


@pytest.mark.parametrize(
    "path",
    [
        "../../etc/passwd", "runs/..", "runs/../../etc/passwd", "runs/..%2f..%2fetc%2fpasswd",
        "runs/-1", "runs/1.0", "runs/+1", "runs/%31", "runs/" + "9" * 30, "runs/99", "runs",
        "runs/", "runs/1/result.json", "runs/1/report/x", "console.css/", "console/console.css",
        "base.html.j2", "live/live", "runs/2/live", "a\\..\\b", "runs.sqlite", "?before=-1",
    ],
)  # fmt: skip
def test_no_path_leads_to_a_file(filled: Console, path: str) -> None:
    found = ask(filled, path)
    assert found.status == 404
    assert "root:" not in found.text
    assert "Traceback" not in found.text


def test_every_answer_has_the_policy(filled: Console) -> None:
    for path in ("", "live", "runs/1", "runs/1/live", "runs/1/report", "console.js", "x", "/"):
        headers = ask(filled, path).headers
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert ("script-src 'self';" in policy) == (path != "runs/1/report")
        assert ("'unsafe-inline'" in policy) == (path in ("runs/1", "runs/1/report"))
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["Server"].strip() == "residue"
        assert "Set-Cookie" not in headers
        assert "Access-Control-Allow-Origin" not in headers
    for path in ("", "runs/1"):
        page = Text(ask(filled, path).text)
        assert page.references
        assert all(ref.startswith((filled.root, "#", "data:")) for ref in page.references)
    assert ask(filled, "x" * 5000).status == 414


def test_a_malformed_request_is_answered_calmly(
    filled: Console, capfd: pytest.CaptureFixture[str]
) -> None:
    for request in (b"GET\r\n\r\n", b"\x16\x03\x01\x02\r\n\r\n", b"GET / HTTP/9\r\n\r\n", b"GET /"):
        connection = socket.create_connection(("127.0.0.1", filled.server_address[1]))
        with connection, connection.makefile("rb") as file:
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
            assert b"Traceback" not in file.read()
    assert ask(filled, "").status == 200
    assert "Traceback" not in capfd.readouterr().err


# --- what it withstands ---------------------------------------------------------------------------


def test_hostile_names_are_text(console: Console, tmp_path: Path) -> None:
    add_run(tmp_path)
    for query in (
        "UPDATE runs SET name = ?, error = ?1, state = 'failed', "
        "job = json_set(job, '$.guest.name', ?1)",
        "UPDATE components SET name = ?, type = ?1 WHERE name = 'train'",
        "UPDATE rounds SET party = ?, component = ?1 WHERE component = 'train'",
        "UPDATE parties SET party = ?, role = ?1, device = ?1 WHERE role = 'guest'",
        "UPDATE artefacts SET path = ?, sha256 = ?1 WHERE party = 'guest'",
    ):
        change(tmp_path, query, EVIL)
    for path in ("", "runs/1", f"?text={EVIL.replace('<', '%3C')}"):
        found = ask(console, path).text
        assert "<script>alert" not in found
        assert "&lt;script&gt;alert(1)" in found
    shown = json.loads(ask(console, "runs/1/live").text)
    assert "<script>" not in shown["html"]
    assert shown["charts"]["losses-1"]["title"].startswith("Loss of &lt;/script&gt;")
    names = shown["charts"]["shares"]["traces"][0]["y"]
    assert all("<" not in name for name in names)
    assert any(name.startswith("&lt;/script&gt;") for name in names)


def test_what_is_damaged_is_said(
    console: Console, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    add_run(tmp_path)
    add_run(tmp_path, "other")
    (tmp_path / "other" / "result.json").write_text("{")
    assert "Damaged: result.json cannot be read" in ask(console, "runs/2").words
    assert ask(console, "runs/2/report").status == 404
    change(tmp_path, "UPDATE runs SET job = json_set(job, '$.components', 7) WHERE id = 2")
    assert "judge, done, takes train" in ask(console, "runs/2").text
    change(tmp_path, "UPDATE parties SET operations = '[3]' WHERE run = 2")
    broken = ask(console, "runs/2")
    assert broken.status == 500
    assert "cannot be shown: it is damaged" in broken.words
    assert ask(console, "runs/1").status == 200
    change(tmp_path, "UPDATE runs SET job = '' WHERE id = 2")
    assert ask(console, "").status == 500
    change(tmp_path, "PRAGMA user_version = 99")
    assert "newer release" in ask(console, "").words
    assert "newer release" in json.loads(ask(console, "live").text)["error"]
    (tmp_path / FILE).write_bytes(b"SQLite format 3\0" + b"rubbish" * 600)
    for path in ("", "runs/1"):
        assert ask(console, path).status == 500
        assert "cannot use" in ask(console, path).words
    assert "Traceback" not in capfd.readouterr().err


def test_a_store_that_is_locked_is_read(console: Console, tmp_path: Path) -> None:
    add_run(tmp_path)
    writing = sqlite3.connect(tmp_path / FILE, isolation_level=None)
    writing.execute("BEGIN IMMEDIATE")
    writing.execute("UPDATE runs SET name = 'half'")
    assert "small 1" in ask(console, "").words
    writing.execute("ROLLBACK")
    writing.close()


# --- the graph ------------------------------------------------------------------------------------


def component(name: str, done: int = 0, total: int = 1) -> Component:
    return Component(name, "some_type", "running", None, None, done, total)


def test_what_components_take() -> None:
    job = job_named().model_dump(mode="json")
    names = ["scale", "train", "judge"]
    taken = {"scale": [], "train": ["scale"], "judge": ["scale", "train"]}
    assert inputs_of(job, names) == taken
    chain = {"scale": [], "train": ["scale"], "judge": ["train"]}
    assert inputs_of({"name": 7}, names) == chain


def test_lines_beside_the_boxes_do_not_overlap() -> None:
    names = [f"c{i}" for i in range(6)]
    inputs = {"c1": ["c0"], "c2": ["c0"], "c3": ["c0", "c1"], "c4": ["c3"], "c5": ["c2", "c0"]}
    graph = draw_graph([component(n) for n in names], inputs, ["waiting"] * 6)
    assert len(graph.edges) == 1 + 1 + 1 + 2 + 1 + 2
    beside = [e.path for e in graph.edges if "Q" in e.path]
    spans = []
    for path in beside:
        x, end = path.partition("V")[0].rpartition("Q")[2].split()[0], path.split("V")[1]
        start = float(path.split()[1].partition("Q")[0])
        spans.append((float(x), start, float(end.partition("Q")[0])))
        assert float(x) < graph.width
    for (one, a, b), (other, c, d) in combinations(spans, 2):
        assert one != other or b < c or d < a
    assert graph.text.startswith("c0, waiting, takes the parties' data; c1, waiting, takes c0")


def test_boxes_hold_their_words() -> None:
    found = [component("n" * 60, 7, 5), component("b", 3, 12), component("c", 0, 0)]
    _, long, half, none = draw_graph(found, {}, ["running"] * 3).boxes
    assert long.name == "n" * 23 + "…"
    assert (long.whole, long.fraction) == ("n" * 60, 1)
    assert (half.rounds, half.fraction) == ("3/12", 0.25)
    assert (none.rounds, none.fraction, none.type) == ("", 0, "some type")


def test_long_curves_are_thinned(tmp_path: Path) -> None:
    with going(tmp_path, epochs=5000) as record:
        for done in range(1, 5001):
            record.round("guest", "train", done, 5000, 1 / done)
    page = Pages(tmp_path, "/").run(1)
    rounds = page.charts["losses-1"]["traces"][0]["x"]
    assert 900 < len(rounds) <= 1001
    assert (rounds[0], rounds[-1]) == (1, 5000)
    assert rounds == sorted(rounds)


# --- the command ----------------------------------------------------------------------------------


def test_the_command_serves_until_it_is_told_to_stop(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "residue_federated", "ui", "--dir", str(tmp_path)]
    with subprocess.Popen(
        [*command, "--port", "0", "--no-open"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ},
    ) as process:  # fmt: skip
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith(f"runs in {tmp_path}: http://127.0.0.1:")
        port, path = line.strip().rpartition("127.0.0.1:")[2].split("/", 1)
        connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=10)
        connection.request("GET", f"/{path}")
        assert connection.getresponse().status == 200
        connection.close()
        process.terminate()  # who starts tests in the background may have interrupts ignored
        try:
            out, err = process.communicate(timeout=20)
        finally:
            process.kill()
    assert process.returncode == 0
    assert out == ""
    assert err.splitlines()[-1] == "console ended"
    assert "Traceback" not in err


def test_a_browser_is_sent_by_a_private_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    there = threading.Event()

    def take(url: str) -> bool:
        opened.append(url)
        there.set()
        return True

    monkeypatch.setattr(webbrowser, "open", take)
    with _cli._opened("http://127.0.0.1:1/key/", wanted=True):
        assert there.wait(10)
        path = Path(opened[0].removeprefix("file://"))
        assert "url=http://127.0.0.1:1/key/" in path.read_text()
        assert path.stat().st_mode & 0o777 == 0o600
        assert "key" not in opened[0]
    assert not path.exists()


def test_a_taken_port_is_said(console: Console, tmp_path: Path) -> None:
    port = console.server_address[1]
    with pytest.raises(ConsoleError, match=rf"cannot listen on 127\.0\.0\.1:{port}: Address"):
        Console(tmp_path, port=port)
    with pytest.raises(ConsoleError, match=r"cannot listen on nowhere\.invalid:0"):
        Console(tmp_path, "nowhere.invalid")
    with pytest.raises(ConsoleError, match=r"cannot listen on '\.\.': it is no name"):
        Console(tmp_path, "..")


def test_other_addresses_are_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(console: Console) -> None:
        assert not console.local
        assert console.knows("192.0.2.7:80")
        assert console.knows(socket.gethostname())
        assert not console.knows("evil.example")
        raise KeyboardInterrupt

    monkeypatch.setattr(Console, "serve_forever", interrupt)
    arguments = ["ui", "--dir", str(tmp_path), "--port", "0", "--no-open", "--address", "0.0.0.0"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0
    assert "warning: listening on 0.0.0.0" in done.output
