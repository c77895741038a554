"""Cached builds, the source manifest, the configurations."""

from __future__ import annotations

from pathlib import Path

import pytest

from residue_sim._verilator import VerilatorError, cached_build, find_verilator, lint
from residue_sim.manifest import configurations, source_files, sources_for


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find_verilator()  # set up in the shared cache
    monkeypatch.setenv("RESIDUE_CACHE", str(tmp_path / "cache"))


def test_a_build_is_done_once_for_equal_content() -> None:
    built: list[Path] = []
    first = cached_build("x", ["a", b"b"], built.append)
    assert cached_build("x", ["a", b"b"], built.append) == first
    other = cached_build("x", ["ab", b""], built.append)
    assert built == [first, other]
    assert first != other


def test_a_build_that_failed_is_done_again_from_nothing() -> None:
    def fail(folder: Path) -> None:
        (folder / "half").touch()
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        cached_build("x", ["a"], fail)
    seen: list[list[Path]] = []
    cached_build("x", ["a"], lambda folder: seen.append(list(folder.iterdir())))
    assert seen == [[]]


def test_lint_reports_warnings(tmp_path: Path) -> None:
    bad = tmp_path / "bad.sv"
    bad.write_text("module bad (input wire [3:0] a, output wire b);\nassign b = a;\nendmodule\n")
    with pytest.raises(VerilatorError, match="WIDTHTRUNC"):
        lint("bad", [bad])


def test_sources_are_closed_and_ordered() -> None:
    names = [path.stem for path in sources_for("residue_pe")]
    assert names == [
        "residue_dsp",
        "residue_mac_chain",
        "residue_mac_word",
        "residue_delay",
        "residue_pe",
    ]
    assert set(sources_for("residue_card")) <= set(source_files())
    with pytest.raises(KeyError, match="no module"):
        sources_for("residue_nothing")


def test_every_rtl_file_is_in_the_manifest() -> None:
    listed = source_files()
    root = listed[0].parents[2]
    assert len(listed) == len(set(listed))
    assert set(root.glob("rtl/**/*.sv")) <= set(listed)


def test_configurations_hold_even_word_counts() -> None:
    assert configurations()["r21"].max_words == 82
    assert all(config.max_words % 2 == 0 for config in configurations().values())
