"""A report as one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from residue._html import render
from residue.compare._report import COST_OF, MEASURES
from residue.compare._workloads import BEST, OPERATIONS, SAME
from residue.errors import CompareError

__all__ = ["number", "page"]

# Okabe and Ito's colours, told apart by colour-blind readers too, and from both grounds.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D31", "#7F7F7F")
_TABLES = {
    "same": "The same algorithm on every device",
    "best": "Each device with its best algorithm",
}


def page(report: Mapping[str, Any]) -> str:
    """The page of what `residue.compare._report.report` made.

    Raises:
        CompareError: plotly or jinja2 is not installed.
    """
    return render(
        "residue.compare",
        "compare.html.j2",
        CompareError,
        report=report,
        operations=OPERATIONS,
        columns={"same": list(SAME), "best": list(BEST)},
        measures=MEASURES,
        cost_of=COST_OF,
        tables=_TABLES,
        number=number,
        seconds=seconds,
        percent=percent,
        batch=batch,
        figures=_charts(report),
    )


def number(value: float) -> str:
    """Three significant digits with thousands separated; millions by their letter."""
    rounded = float(f"{value:.3g}")
    if rounded >= 1e9:
        return f"{rounded / 1e9:.3g} G"
    if rounded >= 1e6:
        return f"{rounded / 1e6:.3g} M"
    return f"{rounded:,.0f}" if rounded >= 1000 else f"{rounded:.3g}"


def seconds(value: float) -> str:
    """A time in the unit that suits it."""
    for unit, scale in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)):
        if value * scale >= 1:
            return f"{value * scale:.3g} {unit}"
    return f"{value * 1e9:.3g} ns"


def percent(share: float) -> str:
    """A share as a percentage."""
    return f"{100 * share:.3g} %"


def batch(found: Mapping[str, Any]) -> str:
    """A break-even batch; where the smallest that was looked at will do, that it is at most so."""
    if found["from"] is None:
        return "-"
    if found["batch"] is None:
        return f"none to {found['to']:,}"
    least = found["batch"] <= found["from"] > 1
    return f"{'≤ ' if least else ''}{found['batch']:,}"


# --- charts ---------------------------------------------------------------------------------------


def _charts(report: Mapping[str, Any]) -> dict[str, Any]:
    """Traces and axes of each chart that has something to show."""
    charts = {"chart-speed": _speed(report), "chart-batch": _batches(report)}
    if report["jobs"]["gains"]:
        charts["chart-job"] = _job(report)
    return charts


def _encrypting(report: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    main = str(report["settings"]["main_bits"])
    return [
        device
        for device in report["devices"]
        if device["figures"].get(main, {}).get("best", {}).get("encrypt")
    ]


def _label(device: Mapping[str, Any]) -> str:
    state = "" if device["state"] == "measured" else f" ({device['state']})"
    return f"{device['name']}{state}"


def _speed(report: Mapping[str, Any]) -> dict[str, Any]:
    """Encryptions a second as bars, logarithmic: same and best algorithm of each device."""
    main, shown = str(report["settings"]["main_bits"]), _encrypting(report)[::-1]
    traces = []
    for kind, colour, name in (
        ("best", _COLOURS[0], "best algorithm"),
        ("same", _COLOURS[4], "same algorithm, r^n"),
    ):
        cells = [device["figures"][main][kind]["encrypt"] for device in shown]
        traces.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": name,
                "y": [_label(device) for device in shown],
                "x": [cell["rate"]["value"] for cell in cells],
                "text": [
                    f"{number(c['rate']['value'])} (x {number(c['rate']['x_cpu'])})" for c in cells
                ],
                "textposition": "outside",
                "cliponaxis": False,
                "customdata": [cell["rate"]["how"] for cell in cells],
                "hovertemplate": "%{y}<br>%{x:,.4s} a second<br>%{customdata}<extra></extra>",
                "marker": {
                    "color": colour,
                    "pattern": {
                        "shape": ["" if d["state"] == "measured" else "/" for d in shown],
                        "solidity": 0.35,
                    },
                },
            }
        )
    return {
        "traces": traces[::-1],
        "height": 90 + 46 * len(shown),
        "margin": {"l": 10, "r": 110, "t": 10, "b": 45},
        "x": {"type": "log", "title": {"text": "encryptions a second"}, "dtick": 1},
        "y": {"automargin": True, "ticklabelstandoff": 8},
        "barmode": "group",
        "traceorder": "normal",
    }


def _batches(report: Mapping[str, Any]) -> dict[str, Any]:
    """Encryptions a second by batch, from host memory to host memory."""
    traces = []
    for i, device in enumerate(d for d in _encrypting(report) if d.get("curve")):
        points = device["curve"].get("encrypt-djn")
        if not points:
            continue
        measured = device["state"] == "measured"
        colour = _COLOURS[i % len(_COLOURS)]
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": _label(device),
                "x": [p[0] for p in points],
                "y": [p[1] for p in points],
                "line": {"color": colour, "width": 3 if measured else 1.5,
                         "dash": "solid" if measured else "dash"},
                "marker": {"size": 7 if measured else 5},
                "hovertemplate": "batch %{x:,}: %{y:,.3s} a second<extra>%{fullData.name}</extra>",
            }
        )  # fmt: skip
    return {
        "traces": traces,
        "height": 430,
        "margin": {"l": 60, "r": 15, "t": 10, "b": 45},
        "x": {"type": "log", "title": {"text": "batch"}, "dtick": 1},
        "y": {"type": "log", "title": {"text": "encryptions a second"}, "dtick": 1},
    }


def _job(report: Mapping[str, Any]) -> dict[str, Any]:
    """The job's gain by the speed-up of its encryption: the law, and where each device stands."""
    share = report["jobs"]["measured"][0]["share"]
    gains = [gain for gain in report["jobs"]["gains"] if gain["gain"] is not None]
    most = max([10.0, *(gain["speedup"] for gain in gains)]) * 10
    xs = [most ** (i / 60) for i in range(61)]
    return {
        "traces": [
            {
                "type": "scatter",
                "mode": "lines",
                "name": f"Amdahl's law, {100 * share:.4g} % encryption",
                "x": xs,
                "y": [1 / (1 - share + share / x) for x in xs],
                "line": {"color": _COLOURS[7], "width": 1.5},
                "hovertemplate": "x %{x:.3s}: job x %{y:.3s}<extra></extra>",
            },
            {
                "type": "scatter",
                "mode": "markers+text",
                "name": "devices",
                "x": [gain["speedup"] for gain in gains],
                "y": [gain["gain"] for gain in gains],
                "text": [gain["name"] for gain in gains],
                "textposition": [("bottom right", "top left")[i % 2] for i in range(len(gains))],
                "cliponaxis": False,
                "customdata": [gain["how"] for gain in gains],
                "hovertemplate": "%{text}: job x %{y:.3s}<br>%{customdata}<extra></extra>",
                "marker": {"color": _COLOURS[1], "size": 9},
            },
        ],
        "height": 380,
        "margin": {"l": 60, "r": 30, "t": 10, "b": 45},
        "x": {"type": "log", "title": {"text": "encryption so many times as fast"}, "dtick": 1},
        "y": {"type": "log", "title": {"text": "job at most so many times as fast"}, "dtick": 1},
    }
