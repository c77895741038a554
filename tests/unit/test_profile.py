"""Profiles: what is recorded, read back, summed and shown."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from residue import _trace
from residue._trace import PROFILE_VARIABLE, Recorder
from residue.backends._card import CardBackend
from residue.errors import ProfileError
from residue.profile import load, page, summarise, timeline, trace_events
from residue_sim.card_model import ModelBoard
from residue_sim.manifest import configurations

RINGS = 4


class Card:
    """What a recorder wants of a device."""

    def describe(self) -> dict[str, str | int | float | bool]:
        return {"name": "card", "rings": RINGS}


def command(number: int, started: int, cycles: int, **fields: Any) -> dict[str, Any]:
    slots = cycles * RINGS
    return {
        "number": number, "operation": "pow", "opcode": 4, "status": 1, "count": 8, "length": 64,
        "modulus_bits": 1024, "epoch": 0, "started": started, "cycles": cycles,
        "busy": slots // 2, "products": cycles // 23, "stalls": slots // 4,
        "read_bytes": 16 * cycles, "write_bytes": 8 * cycles, "noticed": float(number),
    } | fields  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    recorder, card = Recorder(tmp_path), Card()
    recorder.operation(card, "pow", 1024, 8, 1.0, 3.0)
    recorder.operation(card, "mul", 1024, 8, 2.0, 3.5)
    recorder.command(card, command(1, 1000, 400))
    recorder.command(card, command(2, 1500, 100, operation="mul", opcode=3))
    recorder.command(card, command(3, 50, 500, epoch=1))  # after a reset
    recorder.close()
    return tmp_path


def test_sums_equal_the_records(folder: Path) -> None:
    (device,) = load(folder).devices
    found = summarise(device)
    assert (found.name, found.rings, found.cycles, found.idle_cycles) == ("card", 4, 1000, 100)
    assert found.host_seconds == pytest.approx(2.5)
    assert (found.read_bytes, found.write_bytes) == (16000, 8000)
    assert (found.ring_use, found.waiting, found.filling) == (0.5, 0.25, 0.25)
    assert [(o.operation, o.cycles, o.commands) for o in found.operations] == [
        ("pow", 900, 2),
        ("mul", 100, 1),
    ]


@pytest.mark.parametrize("slices", [1, 7, 240])
def test_timeline_keeps_every_cycle(folder: Path, slices: int) -> None:
    (device,) = load(folder).devices
    found = timeline(device, slices)
    assert found is not None
    total = found.busy + found.waiting + found.filling + found.idle
    np.testing.assert_allclose(total, 1)
    width = 1100 / slices
    assert (found.busy * width).sum() == pytest.approx(500)
    assert (found.idle * width).sum() == pytest.approx(100)
    assert (found.bytes_per_cycle * width).sum() == pytest.approx(24000)


def test_trace_events_are_in_order_and_whole(folder: Path) -> None:
    events = trace_events(load(folder))["traceEvents"]
    timed = [e for e in events if e["ph"] != "M"]
    assert [e["ts"] for e in timed] == sorted(e["ts"] for e in timed)
    spans = [e for e in timed if e["ph"] == "X"]
    assert all(e["dur"] >= 0 for e in spans)
    card = [e for e in spans if "products" in e["args"]]
    assert [e["name"] for e in card] == ["POW", "MUL", "POW"]
    assert sum(e["dur"] for e in card) == 1000
    assert [(e["ts"], e["dur"]) for e in card] == [(0, 400), (500, 100), (600, 500)]
    host = [e for e in spans if "elements" in e["args"]]
    assert [(e["name"], e["dur"]) for e in host] == [
        ("pow", pytest.approx(2e6)),
        ("mul", pytest.approx(1.5e6)),
    ]


def test_a_stall_beside_a_product_is_no_empty_slot(tmp_path: Path) -> None:
    recorder, card = Recorder(tmp_path), Card()
    recorder.command(card, command(1, 0, 100, busy=90 * RINGS, stalls=50 * RINGS))
    recorder.close()
    events = trace_events(load(tmp_path))["traceEvents"]
    shares = next(e["args"] for e in events if e["ph"] == "C" and "waiting" in e["args"])
    assert shares == {"busy": pytest.approx(90), "waiting": pytest.approx(10)}


class Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.references: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.references += [v or "" for k, v in attrs if k in ("src", "href")]

    def handle_data(self, data: str) -> None:
        if self.lasttag != "script":
            self.text += data


def test_page_holds_all_it_needs(folder: Path) -> None:
    parser = Page()
    parser.feed(page(load(folder), "job <b>&"))
    assert parser.references == []
    assert "<b>&" in parser.text  # escaped
    assert "b" not in parser.tags
    assert "45.5 % a product in the ring" in parser.text  # 500 of 1,100 cycles
    assert "9.1 % no command" in parser.text
    assert parser.tags.count("tr") == 3


def test_device_without_a_card_has_times_alone(tmp_path: Path) -> None:
    class Cpu:
        def describe(self) -> dict[str, str | int | float | bool]:
            return {"name": "cpu"}

    recorder = Recorder(tmp_path)
    recorder.operation(Cpu(), "mul", 2048, 3, 0.0, 1.0)
    recorder.close()
    (device,) = load(tmp_path).devices
    assert timeline(device) is None
    assert summarise(device).ring_use == 0
    assert "no card" in page(load(tmp_path), "x")


def test_killed_process_leaves_what_it_wrote(tmp_path: Path) -> None:
    code = (
        "import os, signal\nfrom pathlib import Path\nfrom residue._trace import Recorder\n"
        "class D:\n    def describe(self): return {'name': 'cpu'}\n"
        f"r = Recorder(Path({str(tmp_path)!r}))\nd = D()\n"
        "for i in range(5000): r.operation(d, 'mul', 64, 1, i, i + 1)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=False)
    (process,) = load(tmp_path).processes
    assert not process.complete
    assert 100 < len(process.devices[0].operations) <= 5000
    assert "was killed" in page(load(tmp_path), "x")


def test_events_past_the_limit_are_counted(tmp_path: Path) -> None:
    recorder, card = Recorder(tmp_path, most_lines=10), Card()
    for i in range(20):
        recorder.operation(card, "mul", 64, 1, i, i + 1)
    recorder.close()
    recorder.operation(card, "mul", 64, 1, 0, 1)  # after the end: dropped without a word
    (process,) = load(tmp_path).processes
    assert len(process.devices[0].operations) == 8
    assert process.dropped == 12


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[: len(text) // 2],
        lambda text: text.replace('"format":1', '"format":9'),
        lambda text: text.replace('"cycles":400', '"cycles":"400"'),
        lambda text: text.replace('"device":0', '"device":7'),
        lambda text: text.replace('"kind":"command"', '"kind":"other"'),
        lambda text: "[" * 10000,
        lambda text: "\x00\xff" * 50,
    ],
)
def test_damaged_file_is_refused(folder: Path, damage: Any) -> None:
    (path,) = folder.glob("*.jsonl")
    path.write_text(damage(path.read_text()), encoding="latin-1")
    with pytest.raises(ProfileError, match=path.name):
        load(folder)


def test_random_bytes_never_raise_anything_else(folder: Path) -> None:
    rng = random.Random(1)
    (path,) = folder.glob("*.jsonl")
    good = path.read_bytes()
    for _ in range(300):
        bad = bytearray(good)
        for _ in range(rng.randrange(1, 4)):
            bad[rng.randrange(len(bad))] = rng.randrange(256)
        path.write_bytes(bytes(bad))
        try:
            profile = load(folder)
        except ProfileError:
            continue
        trace_events(profile)


def _run(*argv: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k != PROFILE_VARIABLE}
    return subprocess.run(
        [sys.executable, "-m", "residue", "profile", *argv],
        cwd=cwd, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_command_line_profiles_a_job_on_the_cpu(tmp_path: Path) -> None:
    done = _run("--json", "--out", "p", "selftest", "--device", "cpu", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    sums = json.loads(done.stdout)
    (device,) = sums["processes"][0]["devices"]
    assert device["name"] == "cpu"
    assert {"mul", "pow", "pow_fixed"} <= {o["operation"] for o in device["operations"]}
    assert (tmp_path / "p" / "profile.html").stat().st_size > 1_000_000
    json.loads((tmp_path / "p" / "trace.json").read_text())
    again = _run("--out", "p", cwd=tmp_path)
    assert again.returncode == 0
    assert "pow_fixed" in again.stdout
    refused = _run("--out", "p", "selftest", cwd=tmp_path)
    assert refused.returncode == 1
    assert "holds a profile already" in refused.stderr


def test_command_line_says_what_is_wrong(tmp_path: Path) -> None:
    done = _run("--out", "p", "no-such-program", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr == "error: no-such-program cannot be started: No such file or directory\n"
    done = _run("--out", "p", "--", sys.executable, "-c", "pass", cwd=tmp_path)
    assert done.returncode == 1
    assert "computed nothing with residue" in done.stderr
    done = _run("--out", "q", "--", sys.executable, "-c", "raise SystemExit(7)", cwd=tmp_path)
    assert done.returncode != 0


def test_the_profile_of_a_card_sums_to_its_statistics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder(tmp_path)
    monkeypatch.setattr(_trace, "_recorder", recorder)
    monkeypatch.setattr(_trace, "_of_process", os.getpid())
    backend = CardBackend(ModelBoard(configurations()["small4"]), check_rate=0.0)
    try:
        modulus = backend.register((1 << 512) - 569)
        a = backend.upload(modulus, np.arange(1, 25, dtype=np.uint64).reshape(3, 8))
        exponents = np.full((3, 1), 0xFFFF_0001, dtype=np.uint64)
        backend.download(backend.mul(backend.pow(a, exponents, 32), a))
        spent, records = backend.stats(), backend.records()
    finally:
        recorder.close()  # before the last command, which clears the card's stores
        backend.close()
    (device,) = load(tmp_path).devices
    found = {o.operation: o for o in summarise(device).operations}
    assert {"upload", "pow", "mul", "download"} <= spent.keys() == found.keys()
    for name, s in spent.items():
        of_card = (found[name].calls, found[name].elements, found[name].products)
        assert of_card == (s.calls, s.elements, s.products)
        assert found[name].cycles == s.device_cycles
    assert len(device.commands) == len(records)
    assert summarise(device).rings == 4
    assert sum(s.busy_slots for s in spent.values()) == sum(c.busy for c in records) > 0
