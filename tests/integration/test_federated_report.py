"""The page of a run: what is on it, and what a real browser makes of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from residue_federated._report import page, size, write_report
from residue_federated.features._evaluation import (
    evaluate_binary,
    evaluate_multiclass,
    evaluate_regression,
)
from tests.browser import Browser, Text, in_browser

EVIL = "</script><img src=x onerror=alert(1)>"


def component(name: str, kind: str, **more: Any) -> dict[str, Any]:
    usual = {"rounds": 0, "seconds": 0.0, "timed_rounds": 0, "losses": [], "metrics": {}}
    return {"name": name, "type": kind, **usual, "facts": {}, **more}


def operation(party: str, name: str, seconds: float, **more: Any) -> dict[str, Any]:
    usual = {"calls": 12, "elements": 34_567, "products": 8_901_234, "device_cycles": 0}
    of_it = {"party": party, "operation": name, "host_seconds": seconds, "device": "cpu"}
    return {**usual, **of_it, "ring_utilisation": None, **more}


def party(role: str, sent: int) -> dict[str, Any]:
    device = {"name": "cpu", "device": "EPYC", "cores": 2}
    files = {f"models/{role}.json": "ab" * 32}
    return {"role": role, "device": device, "messages": 1234, "bytes": sent, "files": files}


def audited(name: str) -> dict[str, Any]:
    counts = {"entries": 5678, "signatures": 9, "sent": 10, "received": 11, "ciphertexts": 4321}
    return {"party": name, "state": "ended", "runs": 1, **counts}


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    """What a run of everything that the page can show ends with."""
    rng = np.random.default_rng(0)
    u = rng.normal(-1, 1.5, 400)
    judged = evaluate_binary((rng.random(400) < 1 / (1 + np.exp(-u))).astype(float), u)
    ivs = {"guest": {f"own {i}": 0.1 * i for i in range(6)}, "host": [0.05 * i for i in range(40)]}
    r = np.round(np.corrcoef(rng.normal(size=(12, 50))), 4)
    correlation = {
        "columns": [f"own {i}" for i in range(5)],
        "own": r[:5, :5].tolist(),
        "with": {"host": r[5:, :5].tolist()},
    }
    importance = {"gain": {"age": 31.4, "sex": 0.1}, "party_gain": {"host": 2.7}, "splits": {}}
    shares = {"encryption": 0.5, "waiting": 0.375, "other": 0.125}
    losses, metrics = [0.69, 0.5, 0.41, 0.38], {"auc": 0.912345, "accuracy": 0.8}
    return {
        "job": "credit",
        "rows": 123_456,
        "key_bits": 2048,
        "device": "cpu",
        "algorithm": "secureboost",
        "trees": 4,
        "seconds_per_tree": 1.23456,
        "losses": losses,
        "metrics": metrics,
        "plaintext_losses": [0.69, 0.51, 0.42, 0.39],
        "plaintext_metrics": {"auc": 0.912},
        "distance": {"auc": 0.000345},
        "components": [
            component("iv", "bin", rounds=1, facts={"iv": ivs}),
            component("pearson", "correlation", facts=correlation),
            component(
                "train", "secureboost", rounds=4, seconds=4.9, losses=losses, metrics=metrics,
                facts={"importance": importance},
            ),
            component(
                "judge", "evaluate", metrics=judged.metrics, facts=judged.facts | {"rows": 400}
            ),
        ],
        "operations": [
            operation("guest", "pow_fixed", 2.5),
            operation(
                "host", "prod", 1.5, device="card", device_cycles=777_888, ring_utilisation=0.875
            ),
        ],
        "peak_rss_bytes": {"guest": 300 << 20, "host": 5 << 30},
        "time_shares": {"guest": shares, "host": shares},
        "parties": {"guest": party("guest", 20_000_000), "host": party("host", 1000)},
        "audit": {"parties": [audited("guest"), audited("host")], "findings": []},
    }  # fmt: skip


def copy(result: dict[str, Any]) -> dict[str, Any]:
    copied: dict[str, Any] = json.loads(json.dumps(result))
    return copied


def words_of(result: dict[str, Any]) -> str:
    """The page's text, table cells apart."""
    return " ".join(Text(page(result).replace("</t", " </t")).text.split())


def test_page_says_it_all_in_words(result: dict[str, Any]) -> None:
    assert Text(page(result)).references == []
    words = words_of(result)
    for expected in (
        "secureboost: 4 trees, 1.235 s each", "123,456 rows", "2048-bit key", "train auc 0.912345",
        "0.912000 3.4e-04", "Evaluation: judge", "777,888", "87.5 %", "50 % 38 % 12 %", "300 MiB",
        "5 GiB", "19.1 MiB", "1,234", "Nothing found in the records of 2 parties",
        "host ended 5,678 9 10 11 4,321", "SHA-256 of 2 files", "models/host.json", "ab" * 32,
    ):  # fmt: skip
        assert expected in words, expected
    confusion = result["components"][3]["facts"]["confusion"]
    assert f"negative {confusion['tn']} {confusion['fp']}" in words
    assert "insecure" not in words


def test_lives_are_told_where_there_were_several(result: dict[str, Any]) -> None:
    assert "Lives:" not in words_of(result)
    times = ["2026-11-21T22:23:20.000001+00:00", "2026-11-21T22:23:52.500001+00:00"]
    life = {"began": times[0], "ended": times[1], "seconds": 32.5, "messages": 1234, "bytes": 99}
    several = copy(result) | {"lives": {"guest": [life], "host": [life, life]}}
    words = words_of(several)
    row = "2026-11-21 22:23:20 UTC 2026-11-21 22:23:52 UTC 32.5 1,234 99 B"
    for start in ("guest 1", "host 1", "host 2"):
        assert f"{start} {row}" in words
    assert "Lives:" not in words_of(copy(result) | {"lives": {"guest": [life], "host": [life]}})


def test_page_of_a_run_that_trained_nothing(result: dict[str, Any]) -> None:
    bare = {key: result[key] for key in ("job", "rows", "key_bits", "parties", "operations")}
    read = Text(page({**bare, "key_bits": 1024, "operations": []}))
    assert "insecure" in read.text
    for heading in ("Quality", "Evaluation", "Audit", "Operations on ciphertexts"):
        assert heading not in read.text


def test_breaches_and_other_tasks(result: dict[str, Any]) -> None:
    changed = copy(result)
    finding = {"party": "host", "rule": "data", "text": "sent 7 twice", "source": "guest"}
    changed["audit"]["findings"] = [finding | {"entry": 3}]
    rng = np.random.default_rng(1)
    y = rng.integers(0, 3, 90).astype(float)
    many = evaluate_multiclass(y, rng.normal(size=(90, 3)))
    plain = evaluate_regression(y, y + rng.normal(size=90))
    changed["components"] += [
        component("classes", "evaluate", metrics=many.metrics, facts=many.facts),
        component("numbers", "evaluate", metrics=plain.metrics, facts=plain.facts),
    ]
    words = words_of(changed)
    assert "1 found in the records of 2 parties" in words
    assert "host data sent 7 twice guest" in words
    row = " ".join(map(str, many.facts["confusion"][1]))
    assert f"taken for 0 taken for 1 taken for 2 0 {many.facts['confusion'][0][0]}" in words
    assert f" 1 {row}" in words
    assert "numbers mae" in words


def test_names_are_escaped(result: dict[str, Any]) -> None:
    evil = copy(result)
    evil["job"] = EVIL
    evil["parties"][EVIL] = evil["parties"].pop("host")
    evil["time_shares"][EVIL] = evil["time_shares"].pop("host")
    evil["components"][0]["facts"]["iv"] = {"guest": {"<a href='http://x.invalid'>b</a>": 1.0}}
    for each in evil["components"]:
        each["name"] = EVIL
    for row in evil["operations"]:
        row["party"] = row["operation"] = EVIL
    text = page(evil)
    assert "<img" not in text
    figures = text[text.index("const figures = ") :]
    assert "</script><img" not in figures
    # What plotly would take for a link is text.
    assert "\\u003ca href" not in figures
    assert "\\u0026lt;a href" in figures


def test_written_whole_or_not_at_all(
    result: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run" / "report.html"
    write_report(result, path)
    assert path.read_text(encoding="utf-8") == page(result)
    with pytest.raises(UnicodeEncodeError):
        write_report({**result, "job": "half \ud800"}, path)
    assert path.read_text(encoding="utf-8") == page(result)
    assert list(path.parent.iterdir()) == [path]


def test_sizes() -> None:
    assert [size(n) for n in (0, 999, 1023, 1024, 1 << 20, 1536 << 20, 20 << 30)] == [
        "0 B", "999 B", "1,023 B", "1 KiB", "1 MiB", "1.5 GiB", "20 GiB",
    ]  # fmt: skip


CHARTS = {
    "losses-2", "curve-0-roc", "curve-0-pr", "curve-0-lift", "curve-0-calibration",
    "importance-gain-train", "importance-party_gain-train", "iv-iv", "correlation-pearson",
    "shares", "operations-chart",
}  # fmt: skip


@in_browser
@pytest.mark.parametrize(
    ("dark", "width", "printed"),
    [
        pytest.param(False, 1280, False, id="light", marks=pytest.mark.full),
        pytest.param(True, 480, False, id="dark and narrow"),
        pytest.param(False, 703, True, id="printed", marks=pytest.mark.full),
    ],
)
def test_page_in_a_browser(
    result: dict[str, Any], tmp_path: Path, dark: bool, width: int, printed: bool
) -> None:
    seen = Browser(tmp_path, page(result)).probe(dark=dark, width=width, printed=printed)
    assert seen["dark"] == dark
    assert seen["errors"] == []
    assert seen["requests"] == []
    assert seen["violations"] == []
    assert seen["overflow"] <= 0
    assert seen["faint"] == []
    assert seen["seen"] > 200
    assert {chart["id"] for chart in seen["charts"]} == CHARTS
    for chart in seen["charts"]:
        assert chart["height"] > 120
        assert chart["marks"] >= 1 or chart["id"] == "correlation-pearson"
        if not printed:
            assert chart["width"] <= width
        if width >= 1000:
            assert chart["inside"], chart
    assert (seen["closed"] == 0) == printed
