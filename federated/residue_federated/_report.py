"""A run as one self-contained HTML page."""

from __future__ import annotations

import html
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from residue._html import render
from residue_federated._checkpoint import write_atomically
from residue_federated._results import lives_of
from residue_federated.errors import FederatedError, JobError

__all__ = [
    "loss_chart",
    "page",
    "progress_chart",
    "quality",
    "shares_chart",
    "size",
    "write_report",
    "write_report_of",
]

# Okabe and Ito's colours, told apart by colour-blind readers too, and from both grounds.
_BLUE, _ORANGE, _GREEN, _PURPLE, _GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#7F7F7F"
_COLOURS = (_BLUE, _ORANGE, _GREEN, _PURPLE, "#E69F00", "#56B4E9", "#8C6D31", _GREY)
_SHARES = {"encryption": _BLUE, "waiting": _GREY, "other": "#E69F00"}
_MOST_BARS = 30
"""Of a chart of columns: the largest ones."""
_LONGEST = 32
"""Characters of a name in a chart."""


def write_report(result: Mapping[str, Any], path: Path) -> None:
    """Write `page` of a run's result; the file is there complete or not at all.

    Raises:
        FederatedError: plotly or jinja2 is not installed.
    """
    _write(page(result), path)


def write_report_of(directory: Path, path: Path) -> None:
    """`write_report` of the run that a directory holds.

    Raises:
        JobError: its ``result.json`` is not there, or not what a finished run leaves.
        FederatedError: plotly or jinja2 is not installed.
    """
    try:
        result = json.loads((directory / "result.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise JobError(f"{directory} is no directory of a finished run: {error}") from error
    try:
        text = page(result)
    except FederatedError:
        raise
    except Exception as error:  # those of templates have no name where jinja2 is missing
        raise JobError(f"{directory / 'result.json'} is not what a finished run leaves") from error
    _write(text, path)


def _write(text: str, path: Path) -> None:
    data = text.encode()
    write_atomically(path, lambda file: file.write(data))


def page(result: Mapping[str, Any]) -> str:
    """The page of what `residue_federated._results.result_of` made, read back from JSON or not.

    What a component says in its facts is shown where it is there: ``curves``, ``lift`` and
    ``confusion`` (of ``evaluate``), ``iv`` (numbers by column, by party), ``importance`` (kinds of
    numbers by column or party), correlations. So is ``audit`` of the result: an audit's report as a
    mapping, of which ``parties`` and ``findings`` are looked at.

    Raises:
        FederatedError: plotly or jinja2 is not installed.
    """
    figures: dict[str, Any] = {}
    figures |= dict(_losses(result))
    evaluations = []
    for number, component in enumerate(_with_facts(result, "curves", "confusion")):
        own = dict(_curves(f"curve-{number}", component["facts"]))
        figures |= own
        evaluations.append(
            {
                "name": component["name"],
                "facts": component["facts"],
                "figures": list(own),
                "confusion": _confusion(component["facts"]),
            }
        )
    summaries = dict(_summaries(result))
    figures |= summaries
    figures |= dict(_times(result))
    return render(
        "residue_federated",
        "report.html.j2",
        FederatedError,
        result={"algorithm": None, "audit": None, "components": [], "operations": []}
        | dict(result),
        rounds=_rounds(result),
        quality=list(quality(result)),
        evaluations=evaluations,
        summaries=list(summaries),
        parties=list(_parties(result)),
        lives=list(lives_of(result)),
        files=[
            (name, file, digest)
            for name, party in result["parties"].items()
            for file, digest in party.get("files", {}).items()
        ],
        size=size,
        figures=figures,
    )


def size(count: float) -> str:
    """Bytes in the unit that suits them."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:,.3g} {unit}" if count < 1000 else f"{count:,.0f} {unit}"
        count /= 1024
    return f"{count:,.3g} GiB"


# --- words ----------------------------------------------------------------------------------------


def _with_facts(result: Mapping[str, Any], *names: str) -> list[dict[str, Any]]:
    """The components whose facts have one of these."""
    return [c for c in result.get("components", []) if any(name in c["facts"] for name in names)]


def _rounds(result: Mapping[str, Any]) -> tuple[int, str, float | None]:
    """How many rounds of what, and the seconds of one."""
    for rounds, each in (("trees", "tree"), ("epochs", "epoch"), ("rounds", "round")):
        if rounds in result:
            return result[rounds], rounds, result.get(f"seconds_per_{each}")
    return 0, "rounds", None


def quality(result: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A row for each metric of each component; the last one that trains has a plaintext twin."""
    components = result.get("components", [])
    trained = [c["name"] for c in components if c["metrics"] == result.get("metrics")]
    for component in components:
        twin = component["name"] == next(iter(trained), None)
        for metric, value in component["metrics"].items():
            other = result.get("plaintext_metrics", {}).get(metric) if twin else None
            yield {
                "component": component["name"],
                "metric": metric,
                "value": value,
                "twin": other,
                "distance": None if other is None else abs(value - other),
            }


def _confusion(facts: Mapping[str, Any]) -> dict[str, Any] | None:
    """Labels, and a row of counts for each; of two classes or several."""
    found = facts.get("confusion")
    if found is None:
        return None
    if isinstance(found, Mapping):
        labels: list[Any] = ["negative", "positive"]
        counts = [[found["tn"], found["fp"]], [found["fn"], found["tp"]]]
    else:
        labels, counts = [f"{label:g}" for label in facts["classes"]], found
    return {"labels": labels, "rows": list(zip(labels, counts, strict=True))}


def _parties(result: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for name, party in result["parties"].items():
        device = party["device"]
        name_of_it = party.get("device_name", device["name"])
        yield {
            "name": name,
            "role": party["role"],
            "device": ", ".join(dict.fromkeys(filter(None, (name_of_it, device.get("device"))))),
            "shares": result.get("time_shares", {}).get(name),
            "memory": result.get("peak_rss_bytes", {}).get(name),
            "messages": party["messages"],
            "bytes": party["bytes"],
        }


# --- charts ---------------------------------------------------------------------------------------


def _name(text: object) -> str:
    """A name as the charts' text: plotly reads some HTML in it."""
    whole = str(text)
    return html.escape(
        whole if len(whole) <= _LONGEST else whole[: _LONGEST - 1] + "…", quote=False
    )


def _chart(label: str, traces: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """What the page's script draws; label: what it shows, in words."""
    usual: dict[str, Any] = {"height": 340, "barmode": None, "legend": True, "title": None}
    usual["margin"] = {"l": 60, "r": 15, "t": 60, "b": 45}
    return usual | {"label": label, "traces": traces, "x": {}, "y": {}} | more


def _line(
    name: str, x: Sequence[float], y: Sequence[float], colour: str, **more: Any
) -> dict[str, Any]:
    usual = {"type": "scatter", "mode": "lines", "line": {"color": colour, "width": 2}}
    return usual | {"name": name, "x": x, "y": y} | more


def _reference(name: str, x: Sequence[float], y: Sequence[float]) -> dict[str, Any]:
    return _line(name, x, y, _GREY, line={"color": _GREY, "width": 1, "dash": "dot"})


def loss_chart(
    name: str,
    rounds: Sequence[int],
    losses: Sequence[float],
    twin: Sequence[float] | None = None,
) -> dict[str, Any]:
    """The loss of a component after each of `rounds`, and that of its plaintext twin."""
    traces = [_line("encrypted", rounds, losses, _BLUE, mode="lines+markers")]
    if twin:
        line = {"color": _ORANGE, "width": 2, "dash": "dot"}
        clear = list(range(1, len(twin) + 1))
        traces.append(_line("in the clear", clear, twin, _ORANGE, line=line))
    return _chart(
        f"Loss of {name} after every round",
        traces,
        title=f"Loss of {_name(name)}",
        x={"title": {"text": "round"}},
        y={"title": {"text": "loss"}},
    )


def _losses(result: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The loss after every round, of each component that trains, and of the twin."""
    twin = result.get("plaintext_losses")
    for number, component in enumerate(result.get("components", [])):
        losses = component["losses"]
        if losses:
            own = twin if losses == result.get("losses") else None
            rounds = range(1, len(losses) + 1)
            yield f"losses-{number}", loss_chart(component["name"], list(rounds), losses, own)


def progress_chart(progress: Mapping[str, Sequence[tuple[float, float]]]) -> dict[str, Any]:
    """How far each component was when; of each (seconds since the start, % of its rounds)."""
    traces = [
        _line(
            _name(component),
            [at for at, _ in steps],
            [done for _, done in steps],
            _COLOURS[number % len(_COLOURS)],
            line={"color": _COLOURS[number % len(_COLOURS)], "width": 2, "shape": "hv"},
        )
        for number, (component, steps) in enumerate(progress.items())
    ]
    return _chart(
        "Rounds done of each component, in percent, by time",
        traces,
        title="Progress",
        x={"title": {"text": "seconds since the start"}, "rangemode": "tozero"},
        y={"title": {"text": "% of its rounds"}, "range": [0, 105]},
    )


def _curves(stem: str, facts: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    curves = facts.get("curves", {})
    unit = {"range": [0, 1.02]}
    if "roc" in curves:
        roc = curves["roc"]
        yield (
            f"{stem}-roc",
            _chart(
                "Receiver operating characteristic",
                [
                    _line("scores", roc["fpr"], roc["tpr"], _BLUE),
                    _reference("chance", [0, 1], [0, 1]),
                ],
                title="ROC",
                x={"title": {"text": "false positives"}, **unit},
                y={"title": {"text": "true positives"}, **unit},
            ),
        )
    if "pr" in curves:
        yield (
            f"{stem}-pr",
            _chart(
                "Precision by recall",
                [_line("scores", curves["pr"]["recall"], curves["pr"]["precision"], _BLUE)],
                title="Precision and recall",
                legend=False,
                x={"title": {"text": "recall"}, **unit},
                y={"title": {"text": "precision"}, **unit},
            ),
        )
    if "lift" in curves:
        depth, lift = curves["lift"]["depth"], curves["lift"]["lift"]
        yield (
            f"{stem}-lift",
            _chart(
                "Lift by share of rows, best scores first",
                [_line("scores", depth, lift, _BLUE), _reference("chance", [0, 1], [1, 1])],
                title="Lift",
                x={"title": {"text": "best share of rows"}, **unit},
                y={"title": {"text": "lift"}, "rangemode": "tozero"},
            ),
        )
    if "calibration" in curves:
        predicted, observed = curves["calibration"]["predicted"], curves["calibration"]["observed"]
        ends = [min(predicted + observed), max(predicted + observed)]
        yield (
            f"{stem}-calibration",
            _chart(
                "Mean label by mean prediction, of tenths of the rows",
                [
                    _line("tenths of rows", predicted, observed, _BLUE, mode="lines+markers"),
                    _reference("calibrated", ends, ends),
                ],
                title="Calibration",
                x={"title": {"text": "predicted"}},
                y={"title": {"text": "observed"}},
            ),
        )


def _flat(values: Any, *path: str) -> Iterator[tuple[str, float]]:
    """Numbers by name, whatever they are nested in."""
    if isinstance(values, Mapping):
        for key, value in values.items():
            yield from _flat(value, *path, str(key))
    elif isinstance(values, list):
        for number, value in enumerate(values):
            yield from _flat(value, *path, f"column {number}")
    else:
        yield ": ".join(path), float(values)


def _summaries(result: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """What columns are worth, and how they go together."""
    for component in _with_facts(result, "importance"):
        for kind, values in component["facts"]["importance"].items():
            title = f"Importance: {kind.replace('_', ' ')}"
            yield from _bars(f"importance-{kind}-{component['name']}", title, component, values)
    for component in _with_facts(result, "iv"):
        values = component["facts"]["iv"]
        yield from _bars(f"iv-{component['name']}", "Information value", component, values)
    for component in _with_facts(result, "with"):
        yield f"correlation-{component['name']}", _heatmap(component)


def _bars(
    name: str, title: str, component: Mapping[str, Any], values: Any
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The largest of some numbers of columns or parties; nothing if there are none."""
    pairs = sorted(_flat(values), key=lambda pair: -pair[1])
    shown = pairs[:_MOST_BARS][::-1]
    if not shown:
        return
    most = "" if len(pairs) <= _MOST_BARS else f", the largest {_MOST_BARS} of {len(pairs)}"
    bar = {
        "type": "bar",
        "orientation": "h",
        "y": [_name(label) for label, _ in shown],
        "x": [value for _, value in shown],
        "marker": {"color": _BLUE},
        "hovertemplate": "%{y}: %{x:.4g}<extra></extra>",
    }
    chart = _chart(
        f"{title}, by {component['name']}{most}",
        [bar],
        title=f"{title} ({_name(component['name'])}){most}",
        height=110 + 18 * len(shown),
        legend=False,
        y={"automargin": True, "tickmode": "linear"},
    )
    yield name, chart


def _heatmap(component: Mapping[str, Any]) -> dict[str, Any]:
    facts = component["facts"]
    names, rows = list(facts["columns"]), list(facts["own"])
    for peer, matrix in facts["with"].items():
        names += [f"{peer}: column {number}" for number in range(len(matrix))]
        rows += matrix
    heat = {
        "type": "heatmap",
        "x": [_name(name) for name in facts["columns"]],
        "y": [_name(name) for name in names],
        "z": rows,
        "zmin": -1,
        "zmax": 1,
        "colorscale": "RdBu",
        "hovertemplate": "%{y}<br>%{x}<br>%{z:.4f}<extra></extra>",
    }
    return _chart(
        f"Correlations of the guest's columns with all columns, by {component['name']}",
        [heat],
        title=f"Correlation ({_name(component['name'])})",
        height=200 + 16 * len(rows),
        legend=False,
        x={"automargin": True, "tickmode": "linear"},
        y={"automargin": True, "tickmode": "linear", "autorange": "reversed"},
    )


def shares_chart(shares: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """What each party's time went to; of each party ``encryption``, ``waiting`` and ``other``."""
    traces = [
        {
            "type": "bar",
            "orientation": "h",
            "name": what,
            "y": [_name(party) for party in shares],
            "x": [100 * share[what] for share in shares.values()],
            "marker": {"color": colour},
            "hovertemplate": f"%{{y}}: %{{x:.1f}} % {what}<extra></extra>",
        }
        for what, colour in _SHARES.items()
    ]
    return _chart(
        "Shares of each party's time",
        traces,
        barmode="stack",
        height=110 + 40 * len(shares),
        margin={"l": 10, "r": 15, "t": 40, "b": 45},
        x={"title": {"text": "% of the time"}, "range": [0, 100]},
        y={"automargin": True, "autorange": "reversed"},
    )


def _times(result: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    shares = result.get("time_shares", {})
    if shares:
        yield "shares", shares_chart(shares)
    rows = result["operations"]
    if rows:
        kinds = sorted({row["operation"] for row in rows})
        traces = []
        for number, party in enumerate(dict.fromkeys(row["party"] for row in rows)):
            seconds = {r["operation"]: r["host_seconds"] for r in rows if r["party"] == party}
            traces.append(
                {
                    "type": "bar",
                    "orientation": "h",
                    "name": _name(party),
                    "y": kinds,
                    "x": [seconds.get(kind, 0.0) for kind in kinds],
                    "marker": {"color": _COLOURS[number % len(_COLOURS)]},
                    "hovertemplate": "%{y}: %{x:.3f} s<extra>%{fullData.name}</extra>",
                }
            )
        yield (
            "operations-chart",
            _chart(
                "Seconds in each operation, by party",
                traces,
                barmode="stack",
                height=130 + 26 * len(kinds),
                margin={"l": 10, "r": 15, "t": 40, "b": 45},
                x={"title": {"text": "seconds"}},
                y={"automargin": True, "autorange": "reversed"},
            ),
        )
