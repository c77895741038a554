"""`residue compare` as a whole: the command, its data, and its page in a real browser."""

from __future__ import annotations

import copy
import functools
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from residue import _cli
from residue.backends import Backend, Modulus, get_backend
from residue.backends._cpu import CpuBackend
from residue.compare import WORKLOADS, Projection, _extensions, _job, _run
from residue.compare._job import JobRun
from residue.compare._measure import Cycles, Measurer
from residue.compare._page import batch, number, page, percent, seconds
from residue.compare._prices import load
from residue.compare._report import report
from residue.compare._run import CardRun, Results, Settings
from residue.errors import BackendError, CompareError, DeviceError
from residue_sim import compare as simulation
from tests.browser import Browser, Text, in_browser

BOARDS = ("kv260", "u250", "pynq-z2")


@pytest.fixture(scope="module", autouse=True)
def few_boards() -> Iterator[None]:
    """Three boards are enough, recorded once."""

    @functools.cache
    def recorded(bits: tuple[int, ...], curve: int) -> tuple[list[Projection], None]:
        return list(simulation.boards(bits, curve, lambda *_: None, BOARDS)), None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_extensions, "boards", lambda bits, curve, _: recorded(bits, curve))
        yield


@pytest.fixture(scope="module")
def results() -> Results:
    found = _run.run(Settings(quick=True, key_bits=(1024,)))
    weights = {"encrypt-djn": 0.75, "matmul": 0.2, "decrypt": 0.05}
    found.jobs = [JobRun("cpu", 1024, 3, 0.5, 0.95, weights, [0.7, 0.4, 0.3], 3)]
    found.card = CardRun("simulated r21", 1024, {"add": Cycles(128, 111.8, 1.0, 0.77, 128)})
    return found


@pytest.fixture(scope="module")
def found(results: Results) -> dict[str, Any]:
    return report(results, load())


# --- data -----------------------------------------------------------------------------------------


def test_a_report_is_json_and_every_state_is_in_it(found: dict[str, Any]) -> None:
    again = json.loads(json.dumps(found, allow_nan=False))
    assert again["devices"][0]["figures"] == found["devices"][0]["figures"]
    states = {device["id"]: device["state"] for device in found["devices"]}
    assert states["cpu"] == "measured"
    assert all(states[name] == "projected" for name in BOARDS)
    assert "published" in states.values()
    for device in found["devices"]:
        if device["state"] == "not measured":
            assert device["note"]
            assert not device["figures"]


def test_figures_follow_from_rates_and_costs(found: dict[str, Any]) -> None:
    device = next(d for d in found["devices"] if d["id"] == "u250")
    base = found["devices"][0]
    cell, cpu = (d["figures"]["1024"]["best"]["encrypt"] for d in (device, base))
    rate = cell["rate"]["value"]
    assert cell["workload"] == "encrypt-djn"
    assert cell["rate"]["x_cpu"] == pytest.approx(rate / cpu["rate"]["value"], rel=2e-3)
    assert cell["per_watt"]["value"] == pytest.approx(rate / 215, rel=1e-3)
    assert cell["per_price"]["value"] == pytest.approx(1000 * rate / 14254, rel=1e-3)
    assert cell["per_cloud"]["value"] == pytest.approx(3600 * rate / 1.65, rel=1e-3)
    watts = 280 * base["costs"]["power"]["value"] / 280
    assert cpu["per_watt"]["value"] == pytest.approx(cpu["rate"]["value"] / watts, rel=1e-3)
    assert "products x" in cell["rate"]["how"]
    assert "215" in cell["per_watt"]["how"]
    assert device["costs"]["price"]["sourced"]
    kv260 = next(d for d in found["devices"] if d["id"] == "kv260")
    assert kv260["figures"]["1024"]["best"]["encrypt"]["per_cloud"] is None  # nobody rents it
    # Both tables' figures of the CPU are its own: one time as fast as itself.
    for kind in ("same", "best"):
        ratios = [c["rate"]["x_cpu"] for c in base["figures"]["1024"][kind].values()]
        assert ratios == [1] * len(ratios)


def test_transfers_of_a_board_are_its_bytes_over_its_link(found: dict[str, Any]) -> None:
    devices = {device["id"]: device for device in found["devices"]}
    assert devices["kv260"]["transfer"] == {}  # shares its memory
    share = devices["u250"]["transfer"]["add"]["share"]
    link = 4096 * 3 * 256 / 15.75e9
    compute = 4096 / devices["u250"]["figures"]["1024"]["best"]["add"]["rate"]["value"]
    assert share == pytest.approx(link / (link + compute), rel=0.2)
    for device in devices.values():
        assert all(0 < t["share"] <= 1 for t in device["transfer"].values())


def test_gain_of_the_job_is_amdahls(found: dict[str, Any]) -> None:
    gains = {gain["id"]: gain for gain in found["jobs"]["gains"]}
    assert set(gains) == set(BOARDS)
    for gain in gains.values():
        assert gain["gain"] == pytest.approx(1 / (0.05 + 0.95 / gain["speedup"]), rel=2e-3)
        assert gain["seconds_per_epoch"] == pytest.approx(0.5 / gain["gain"], rel=2e-3)
        assert gain["measured_seconds_per_epoch"] is None
    assert found["jobs"]["limit"] == pytest.approx(20)


class Gpu(CpuBackend):
    """What a GPU looks like to a comparison."""

    def __init__(self, *, broken: bool = False) -> None:
        super().__init__(workers=1)
        self._broken = broken

    def describe(self) -> dict[str, str | int | float | bool]:
        return {"name": "gpu", "device": "NVIDIA H100 PCIe", "healthy": True}

    def register(self, modulus: int) -> Modulus:
        if self._broken:
            raise DeviceError("the GPU is off")
        return super().register(modulus)


def _compared(monkeypatch: pytest.MonkeyPatch, gpu: Backend) -> dict[str, Any]:
    def open_backend(name: str) -> Backend:
        return gpu if name == "gpu" else get_backend(name)

    monkeypatch.setattr(_run, "get_backend", open_backend)
    settings = Settings(quick=True, key_bits=(1024,), devices=("gpu",))
    found = report(_run.run(settings), load())
    page(found)
    return found


def test_a_gpu_is_a_device_as_any(monkeypatch: pytest.MonkeyPatch) -> None:
    found = _compared(monkeypatch, Gpu())
    cpu, gpu = found["devices"][:2]
    assert (gpu["id"], gpu["state"]) == ("gpu", "measured")
    assert gpu["costs"]["power"]["value"] == 700  # a range counts with its high end
    assert gpu["costs"]["cloud"]["sourced"]
    for kind in ("same", "best"):
        for column, cell in gpu["figures"]["1024"][kind].items():
            assert cell["rate"]["x_cpu"] > 0, column
            assert cell["per_cloud"]["x_cpu"] is None or cell["per_cloud"]["x_cpu"] > 0
    assert set(gpu["break_even"]) == set(gpu["small"]) == set(gpu["transfer"]) == set(cpu["small"])
    states = {check["state"] for check in found["checks"] if check["device"] == "gpu"}
    assert states == {"equal"}


def test_a_gpu_that_fails_is_a_row_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    found = _compared(monkeypatch, Gpu(broken=True))
    gpu = found["devices"][1]
    assert (gpu["state"], gpu["note"]) == ("not measured", "the GPU is off")
    assert not gpu["figures"]
    assert found["wrong"] == []


def test_projections_agree_with_the_boards_table() -> None:
    from residue_sim.boards._table import table

    rows = {(r.operation, r.scheme): r for r in table(["kv260"]) if r.key_bits == 1024}
    found = {p.workload: p for p in simulation.boards([1024], 1024, lambda *_: None, ["kv260"])}
    assert list(found) == list(WORKLOADS)
    for workload, key in {
        "power": ("r^n", "classic"), "encrypt-classic": ("encrypt", "classic"),
        "encrypt-djn": ("encrypt", "djn"), "decrypt": ("decrypt", "crt"),
        "add": ("add", "any"), "ct_x_pt": ("ct_x_pt", "any"), "matmul": ("matmul", "any"),
    }.items():  # fmt: skip
        assert found[workload].rate == pytest.approx(rows[key].ops_per_second, rel=0.02)
    for p in found.values():
        times = [seconds for _, seconds in p.points]
        assert times == sorted(times)
        units, last = p.points[-1]
        assert units * WORKLOADS[p.workload].operations / last <= p.rate * 1.01


def test_a_card_that_cannot_be_built_in_time_says_so() -> None:
    with (
        pytest.raises(BackendError, match="not built in the 0 s that were left"),
        simulation.card(0.01),
    ):
        pytest.fail("it was built in no time")


def test_numbers_are_short() -> None:
    assert [number(v) for v in (0.01234, 3.14159, 314.159, 27412, 2.66e6, 3.6e9)] == [
        "0.0123", "3.14", "314", "27,400", "2.66 M", "3.6 G",
    ]  # fmt: skip
    assert [seconds(v) for v in (2.0, 0.0314, 4.2e-6, 5e-9)] == ["2 s", "31.4 ms", "4.2 µs", "5 ns"]
    assert percent(0.1234) == "12.3 %"
    assert batch({"batch": 7, "from": 1, "to": 64}) == "7"
    assert batch({"batch": 200, "from": 200, "to": 3200}) == "≤ 200"
    assert batch({"batch": None, "from": 1, "to": 64}) == "none to 64"
    assert batch({"batch": None, "from": None, "to": None}) == "-"


# --- the command ----------------------------------------------------------------------------------


def _residue(*argv: str | Path) -> int:
    with pytest.raises(SystemExit) as caught:
        _cli.main([str(argument) for argument in argv])
    return int(caught.value.code or 0)


def test_command_writes_page_and_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "c.html"
    arguments = ("compare", "--quick", "--key-bits", "1024", "--devices", "cpu", "--output", output)
    assert _residue(*arguments) == 0
    printed = capsys.readouterr().out
    assert "The same algorithm" in printed
    assert "projected" in printed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.html", "c.json"]
    data = json.loads(output.with_suffix(".json").read_text())
    assert [d["id"] for d in data["devices"] if d["state"] == "measured"] == ["cpu"]
    assert data["jobs"]["reasons"] == {"cpu": "left out of a quick comparison"}
    assert data["card"]["reason"] == "left out of a quick comparison"
    assert data["wrong"] == []


def test_without_the_libraries_of_the_page_nothing_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "plotly", None)
    monkeypatch.setattr(_run, "run", lambda *_: pytest.fail("it measured"))
    assert _residue("compare", "--output", tmp_path / "c.html") == 1
    assert "pip install 'residue[profile]'" in capsys.readouterr().err


def test_without_boards_the_page_says_why(results: Results) -> None:
    none = replace(results, projections=[], no_projections="nobody knows any")
    assert "No board is projected: nobody knows any." in Text(page(report(none, load()))).text


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--key-bits", "1000"], 4, "multiple of 128"),
        (["--device", "abacus"], 3, "no backend is named 'abacus'"),
        (["--device", "cpu,cpu"], 2, "twice"),
        (["--output", "page.txt"], 2, "not an .html file"),
        (["--output", "none/page.html"], 1, "no folder none"),
        (["--prices", "none.toml"], 1, "cannot read prices"),
        (["--budget", "0"], 2, "budget"),
    ],
)
def test_command_refuses_at_once(
    arguments: list[str],
    code: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert _residue("compare", *arguments) == code
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_wrong_results_are_told_and_the_page_is_written(
    results: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def wrong(*_: Any) -> Results:
        results.card.wrong, results.card.reason = True, "computed a wrong add"
        return results

    monkeypatch.setattr(_run, "run", wrong)
    try:
        assert _residue("compare", "--output", tmp_path / "c.html") == 3
    finally:
        results.card.wrong, results.card.reason = False, None
    assert "wrong results: simulated r21" in capsys.readouterr().err
    assert "Do not use what computed them" in (tmp_path / "c.html").read_text(encoding="utf-8")


def test_jobs_that_differ_are_wrong(results: Results) -> None:
    other = replace(results.jobs[0], device="gpu", losses=[0.7, 0.4, 0.31])
    assert results.wrong == []
    assert replace(results, jobs=[*results.jobs, other]).wrong == [
        "the job's losses differ between cpu, gpu"
    ]


def test_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from residue._cli_compare import _write

    path = tmp_path / "c.html"
    _write(path, "whole")
    with pytest.raises(UnicodeEncodeError):
        _write(path, "half \ud800")
    assert path.read_text() == "whole"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.full
def test_job_and_simulated_card(tmp_path: Path) -> None:
    job = _job.run("cpu", 1024, 300)
    assert len(job.losses) == job.epochs == 3
    assert 0.5 < job.share <= 1
    assert sum(job.weights.values()) == pytest.approx(1)
    with simulation.card(600) as backend:
        measurer = Measurer(get_backend("cpu"), 1024)
        bench = measurer.bench(backend)
        cycles = measurer.cycles(bench, WORKLOADS["add"], 128)
    (expected,) = (
        p for p in simulation.boards([1024], 0, lambda *_: None, ["virtual"]) if p.workload == "add"
    )
    assert cycles.cycles_per_operation == pytest.approx(expected.cycles, rel=0.25)
    with pytest.raises(CompareError, match="s left"):
        _job.run("cpu", 1024, 0.1)


# --- the page -------------------------------------------------------------------------------------


def test_page_marks_what_is_recalled(found: dict[str, Any]) -> None:
    assert "unsourced" not in Text(page(found)).text.lower()
    recalled = copy.deepcopy(found)
    recalled["prices"][0]["sourced"] = False
    assert Text(page(recalled)).text.lower().count("unsourced") == 3  # the mark, and what it means


def test_page_says_it_all_in_words(found: dict[str, Any]) -> None:
    read = Text(page(found))
    assert all(reference.startswith("#") for reference in read.references)
    cells = [
        (d["figures"]["1024"]["best"]["encrypt"], d)
        for d in found["devices"]
        if d["state"] == "projected"
    ]
    for cell, device in cells:
        how = cell["rate"]["how"]
        assert how in read.titles  # on hover
        assert how in read.text  # and in the text
        assert number(cell["rate"]["value"]) in read.text
        assert device["name"] in read.text
    for published in found["published"] + found["claims"]:
        assert published["source"] in read.text
    for price in found["prices"]:
        assert price["source"] in read.text
        assert ("looked up " if price["retrieved"] else "") + price["date"] in read.text
    assert all(n["device"] in read.text for n in found["not_found"])
    for word in (
        "not found",
        "not measured",
        "3.49",
        "Clustar",
        "FATE",
        "break-even",
        "at most",
    ):
        assert word in read.text


def test_names_are_escaped(found: dict[str, Any]) -> None:
    evil = json.loads(json.dumps(found))
    evil["devices"][0]["name"] = "</script><img src=x onerror=alert(1)>"
    text = page(evil)
    assert "<img" not in text
    assert "</script><img" not in text


@pytest.fixture(scope="module")
def browser(found: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Browser:
    return Browser(tmp_path_factory.mktemp("browser"), page(found))


@in_browser
@pytest.mark.parametrize(
    ("dark", "width", "printed"),
    [
        pytest.param(False, 1280, False, id="light", marks=pytest.mark.full),
        pytest.param(True, 1280, False, id="dark"),
        pytest.param(False, 500, False, id="narrow", marks=pytest.mark.full),
        pytest.param(True, 703, True, id="printed", marks=pytest.mark.full),
    ],
)
def test_page_in_a_browser(browser: Browser, dark: bool, width: int, printed: bool) -> None:
    seen = browser.probe(dark=dark, width=width, printed=printed)
    assert seen["dark"] == dark
    assert seen["errors"] == []
    assert seen["requests"] == []
    assert seen["violations"] == []
    assert seen["overflow"] <= 0
    assert seen["seen"] > 300
    assert seen["faint"] == []
    assert [chart["id"] for chart in seen["charts"]] == ["chart-speed", "chart-batch", "chart-job"]
    for chart in seen["charts"]:
        assert chart["marks"] >= 4
        assert chart["height"] > 200
        if not printed:
            assert chart["width"] <= width
        if width >= 700:
            assert chart["inside"], chart
    assert (seen["closed"] == 0) == printed
    if width >= 700:
        assert seen["wide"] == []


@in_browser
def test_probe_sees_what_is_wrong(browser: Browser) -> None:
    (folder := browser.folder / "wrong").mkdir()
    wrong = Browser(folder, browser.text)
    for right, spoilt in (
        ("--soft: #5b636d", "--soft: #c0c6cc"),
        ("</h1>", "</h1><p style='width:3000px'>wide</p><img src='https://example.invalid/x.png'>"),
        ('"chart-batch": {', '"chart-none": {'),
        ("<details>", "<details open>"),
    ):
        assert right in wrong.text
        wrong.text = wrong.text.replace(right, spoilt)
    seen = wrong.probe(dark=False)
    assert len(seen["faint"]) > 20
    assert seen["overflow"] > 1000
    assert seen["violations"] == ["https://example.invalid/x.png img-src"]
    assert 0 in [chart["marks"] for chart in seen["charts"]]
    assert seen["errors"]
    assert seen["closed"] == 0


@in_browser
@pytest.mark.parametrize(
    "dark", [False, pytest.param(True, marks=pytest.mark.full)], ids=["light", "dark"]
)
def test_screenshot(browser: Browser, dark: bool) -> None:
    pixels = browser.screenshot(dark=dark).astype(np.int64)[:, :, :3]
    ground = np.array([21, 24, 27] if dark else [255, 255, 255])
    assert (pixels == ground).all(axis=2).mean() > 0.7
    for colour in ([0, 114, 178], [230, 159, 0]):  # bars of both algorithms
        assert (abs(pixels - colour).max(axis=2) < 12).sum() > 500
    ink = [230, 233, 236] if dark else [28, 31, 35]
    assert (abs(pixels - ink).max(axis=2) < 12).sum() > 200


@in_browser
def test_paper(browser: Browser) -> None:
    pdf = browser.pdf()
    pages = len(re.findall(rb"/Type\s*/Page\b", pdf))
    assert 5 <= pages <= 40
    assert b"/MediaBox [0 0 59" in pdf  # A4, upright
