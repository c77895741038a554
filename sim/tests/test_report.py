"""The figures that headers and documents claim, measured: rates, cells, fraction of the ideal."""

from __future__ import annotations

import json

import pytest
from typer import Typer
from typer.testing import CliRunner

from residue_sim._report import ReportError, ReportRow, report


@pytest.fixture(scope="module")
def rows() -> dict[int, ReportRow]:
    return {row.modulus_bits: row for row in report(["r21"])}


@pytest.mark.parametrize(("bits", "cycles"), [(1024, 46), (2048, 86), (4096, 332)])
def test_full_rate(rows: dict[int, ReportRow], bits: int, cycles: int) -> None:
    assert rows[bits].cycles_per_product == cycles


@pytest.mark.parametrize("bits", [2048, 4096])
def test_multipliers_are_busy(rows: dict[int, ReportRow], bits: int) -> None:
    assert rows[bits].fraction_of_ideal >= 0.85


def test_cells_stay_in_budget(rows: dict[int, ReportRow]) -> None:
    row = rows[2048]
    assert row.dsp_per_ring == 12 * 21
    assert row.lut_per_dsp <= 40
    assert row.ff_per_ring <= 66 * row.dsp_per_ring
    assert row.bram36_per_ring <= 1


def test_command_prints_json(rows: dict[int, ReportRow]) -> None:
    from residue_sim._report_cli import rtl_report

    app = Typer()
    app.command()(rtl_report)
    result = CliRunner().invoke(app, ["--config", "r21", "--json"])
    assert result.exit_code == 0
    assert json.loads(result.stdout) == [row.as_dict() for row in rows.values()]
    assert CliRunner().invoke(app, ["--config", "nope"]).exit_code == 2


def test_unknown_configuration_is_refused() -> None:
    with pytest.raises(ReportError, match="r21"):
        report(["nope"])
