"""The coverage report: what counts, what is left out by rule, what is stale."""

from __future__ import annotations

from pathlib import Path

import pytest

from residue_sim.coverage import read_report

RTL = """\
module m;
  typedef enum logic [1:0] {StIdle, StRun} state_e;  // two
  assign a = Wide ? b : c;
  always_comb begin
    unique case (state_q)
      StIdle: x = 1;
      StRun:  x = 2;
      default: x = 3;
    endcase
    case (other)
      2'd0: y = 1;
      default: y = 2;
    endcase
    z = 4;
  end
endmodule
"""


def point(line: int, count: int, kind: str = "line", what: str = "case") -> str:
    fields = {"f": "hw/rtl/m.sv", "l": line, "n": 7, "t": kind, "o": what, "S": line, "h": "m"}
    if kind == "user":
        fields = {"f": "hw/bins/m_bins.sv", "l": line, "t": kind, "h": f"m.i_bins.{what}"}
    text = "".join(f"\x01{name}\x02{value}" for name, value in fields.items())
    return f"C '{text}' {count}"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    hw = tmp_path / "hw"
    (hw / "rtl").mkdir(parents=True)
    (hw / "bins").mkdir()
    (hw / "sources.yaml").write_text("area:\n  - rtl/m.sv\n")
    (hw / "rtl" / "m.sv").write_text(RTL)
    (hw / "bins" / "excluded.yaml").write_text("{}\n")
    monkeypatch.setenv("RESIDUE_HW", str(hw))
    counts = tmp_path / "counts"
    counts.mkdir()
    return counts


def write(folder: Path, name: str, *points: str) -> None:
    (folder / f"{name}.dat").write_text("\n".join(["# SystemC::Coverage-3", *points]) + "\n")


def test_benches_add_up(folder: Path) -> None:
    write(folder, "one", point(6, 1), point(7, 0), point(1, 0, "user", "c_bin"))
    write(folder, "two", point(6, 0), point(7, 3), point(1, 2, "user", "c_bin"))
    report = read_report(folder)
    assert report.fraction == 1
    assert report.bins == {"m.c_bin": 2}


def test_lines_and_bins_that_nothing_reached(folder: Path) -> None:
    write(folder, "one", point(6, 1), point(7, 0), point(12, 0), point(1, 0, "user", "c_bin"))
    report = read_report(folder)
    assert report.files[0].missed == (7, 12)
    assert report.bins == {"m.c_bin": 0}
    assert "  not hit: m.c_bin" in report.lines()


def test_a_default_of_a_case_that_names_the_whole_enum_is_left_out(folder: Path) -> None:
    write(folder, "one", point(6, 1), point(8, 0))
    report = read_report(folder)
    assert (report.files[0].lines, report.files[0].missed, report.excluded) == (1, (), 1)


def test_a_choice_by_a_parameter_does_not_count(folder: Path) -> None:
    write(folder, "one", point(3, 0, "branch", "cond_then"), point(6, 1))
    assert read_report(folder).files[0].missed == ()


def test_exclusions_are_needed(folder: Path, tmp_path: Path) -> None:
    rules = tmp_path / "hw" / "bins" / "excluded.yaml"
    rules.write_text("m.sv:\n  - {line: z = 4;, reason: a test}\n")
    write(folder, "one", point(6, 1), point(14, 0))
    report = read_report(folder)
    assert (report.fraction, report.excluded, report.stale) == (1, 1, ())
    write(folder, "two", point(14, 1))
    assert read_report(folder).stale == ("m.sv: z = 4;",)


def test_an_empty_folder_is_told(folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match="RESIDUE_COVERAGE"):
        read_report(folder)
