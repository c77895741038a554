"""What a party did in its lives: added up, and what of it outlives a kill."""

from __future__ import annotations

from pathlib import Path

import pytest

from residue_federated import TrialAuthority
from residue_federated._tally import LifeReport, Tally
from residue_federated.audit._record import Recorder, Signer

TIMES = [f"2026-11-21T22:23:{second:02d}.000000+00:00" for second in (20, 30, 40, 50)]
JOB, RECORD = "digest", "audit.jsonl"


def row(name: str, seconds: float) -> dict[str, object]:
    return {"operation": name, "calls": 2, "host_seconds": seconds}


def two_lives(directory: Path | None) -> Tally:
    tally = Tally(directory, JOB, RECORD, resume=True)
    tally.keep(LifeReport("one", TIMES[0], TIMES[0]))
    tally.keep(
        LifeReport(
            "one", TIMES[0], TIMES[1], messages=3, bytes=70, wire_bytes=60, peak_rss_bytes=9,
            time={"waiting": 0.5}, operations=[row("pow", 1.5)],
            components={"scale": (1.0, 0), "train": (2.0, 2)},
        )
    )  # fmt: skip
    tally.keep(
        LifeReport(
            "two", TIMES[2], TIMES[3], messages=4, bytes=30, wire_bytes=30, peak_rss_bytes=7,
            time={"waiting": 0.25}, operations=[row("prod", 1.0), row("pow", 1.0)],
            components={"train": (3.0, 4)},
        )
    )  # fmt: skip
    return tally


@pytest.mark.parametrize("kept", [True, False])
def test_lives_are_added_up(tmp_path: Path, kept: bool) -> None:
    tally = two_lives(tmp_path if kept else None)
    if kept:
        tally = Tally(tmp_path, JOB, RECORD, resume=True)
    assert [life.run for life in tally.lives] == ["one", "two"]
    assert (tally.sum("messages"), tally.sum("bytes"), tally.sum("wire_bytes")) == (7, 100, 90)
    assert tally.time == {"waiting": 0.75}
    assert tally.operations == [
        {"operation": "pow", "calls": 4, "host_seconds": 2.5},
        {"operation": "prod", "calls": 2, "host_seconds": 1.0},
    ]
    assert tally.component("train") == (5.0, 6)
    assert tally.component("scale") == (1.0, 0)
    assert tally.component("judge") == (0.0, 0)
    assert [life.told()["seconds"] for life in tally.lives] == [10.0, 10.0]


def test_what_a_killed_life_sent_is_read_from_its_record(tmp_path: Path) -> None:
    two_lives(tmp_path)
    identity = TrialAuthority().issue(tmp_path / "c", "guest")
    with Recorder(tmp_path / RECORD, Signer(identity)) as recorder:
        recorder.add("start", run="two")
        for _ in range(6):
            recorder.add("sent", size=8)
        recorder.add("start", run="unknown")
        recorder.add("sent", size=8)
    tally = Tally(tmp_path, JOB, RECORD, resume=True)
    one, two = tally.lives
    assert (one.messages, one.bytes, one.ended) == (3, 70, TIMES[1])
    assert (two.messages, two.bytes) == (6, 48)
    assert two.ended > TIMES[3]  # when the test wrote the record


@pytest.mark.parametrize("content", ["", "[]", '{"lives": 3}', '{"lives": [{"run": "x"}]}', "\0"])
def test_a_damaged_file_costs_the_lives_before(tmp_path: Path, content: str) -> None:
    two_lives(tmp_path)
    (path,) = tmp_path.rglob("lives")
    path.write_text(content)
    assert Tally(tmp_path, JOB, RECORD, resume=True).lives == []


def test_lives_of_another_run_are_not_taken(tmp_path: Path) -> None:
    two_lives(tmp_path)
    assert Tally(tmp_path, "other", RECORD, resume=True).lives == []
    assert Tally(tmp_path, JOB, RECORD, resume=False).lives == []
