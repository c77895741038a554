"""A run as one self-contained HTML page, and its ratios in Markdown."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import jinja2

from bench.peers._measure import Run
from bench.peers._operations import OPERATIONS
from bench.peers._report import Comparison, Spread, core_share, failures, sections, spread

__all__ = ["markdown", "page", "rate", "where"]

_TEMPLATE = Path(__file__).with_name("page.html.j2")
_LEFT, _RIGHT = 0.1, 200  # of the pictures' scale, logarithmic


def page(run: Run) -> str:
    """The page: what was compared, every library's rates, where it ran."""
    template = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    ).from_string(_TEMPLATE.read_text("utf-8"))
    return template.render(
        run=run,
        where=where(run),
        sections=sections(run),
        picture=_picture,
        rate=rate,
        operations=list(OPERATIONS),
        rates=_rates(run),
        failures=failures(run),
        scale=(_LEFT, _RIGHT),
        ticks=[(10**k, _x(10**k)) for k in range(3)],
    )


def where(run: Run) -> str:
    """The machine, its load, and the kernel that Residue chose, in a line."""
    flags = f" ({', '.join(run.machine.flags)})" if run.machine.flags else ""
    cores = f"{run.machine.cores} core{'s' if run.machine.cores != 1 else ''}"
    load = " to ".join(map(str, run.machine.load))
    share = core_share(run)
    turns = "" if share is None else f", turns got {share:.0%} of their core"
    chosen = [each.facts["kernel"] for each in run.libraries if "kernel" in each.facts]
    kernel = f", Residue on its {chosen[0]} kernel" if chosen else ""
    return f"{run.machine.processor}{flags}, {cores}, load {load}{turns}{kernel}"


def markdown(run: Run) -> str:
    """The ratios for documentation: a table a section, a column a key size."""
    lines = [
        f"`{run.command}`, {run.started[:10]}, {run.settings.rounds} rounds: {where(run)}.",
        "",
    ]
    for section in sections(run):
        rows = {(row.operation, row.bits): row for row in section.rows}
        several = len({row.theirs for row in section.rows}) > 1
        if rows:
            lines.append(f"| {section.title} | " + " | ".join(map(str, run.settings.bits)) + " |")
            lines.append("|---" * (1 + len(run.settings.bits)) + "|")
        for operation in dict.fromkeys(row.operation for row in section.rows):
            cells = [
                _cell(rows.get((operation, bits)), named=several) for bits in run.settings.bits
            ]
            lines.append(f"| {operation} | {' | '.join(cells)} |")
        if not rows:
            lines += [f"{section.title}: {note}" for note in section.notes]
        lines.append("")
    return "\n".join(lines)


def _cell(row: Comparison | None, *, named: bool) -> str:
    if row is None or row.ratio is None:
        return "-"
    text = f"{row.ratio.median:.2f} ({row.ratio.low:.2f} to {row.ratio.high:.2f})"
    told = [row.theirs] if named else []
    if row.verdict in ("met", "not met"):
        told.append(f"{row.target}: {row.verdict}")
    return ", ".join([text, *told])


def rate(each: Spread | None) -> str:
    """Operations a second in four digits."""
    if each is None:
        return "-"
    return f"{each.median:,.0f}" if each.median >= 1000 else f"{each.median:.4g}"


def _x(ratio: float) -> float:
    """Place of a ratio, 0 to 100."""
    inside = min(max(ratio, _LEFT), _RIGHT)
    return round(100 * math.log(inside / _LEFT) / math.log(_RIGHT / _LEFT), 2)


def _picture(row: Comparison) -> dict[str, float | None]:
    assert row.ratio is not None
    return {
        "low": _x(row.ratio.low),
        "median": _x(row.ratio.median),
        "high": _x(row.ratio.high),
        "target": None if row.target is None else _x(row.target),
    }


def _rates(run: Run) -> list[dict[str, Any]]:
    """A row for each library and key size; of a missing library, one."""
    rows = []
    for library in run.libraries:
        for bits in run.settings.bits if library.missing is None else run.settings.bits[:1]:
            cells = {
                cell.operation: cell
                for cell in run.cells
                if cell.library == library.name and cell.bits == bits
            }
            rates = [
                spread(cells[o].rates(wall=library.cores > 1))
                if o in cells and cells[o].missing is None
                else None
                for o in OPERATIONS
            ]
            rows.append({"library": library, "bits": bits, "rates": map(rate, rates)})
    return rows
