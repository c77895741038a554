"""A profile as one self-contained HTML page."""

from __future__ import annotations

from typing import Any

from residue import __version__
from residue._html import render
from residue.errors import ProfileError
from residue.profile._events import Device, Profile
from residue.profile._summary import DeviceSummary, Timeline, summarise, timeline

__all__ = ["page"]

# Okabe and Ito's colours, told apart by colour-blind readers too; the rest stands back.
_PARTS = (
    ("busy", "a product in the ring", "#009E73"),
    ("waiting", "waiting for an operand", "#D55E00"),
    ("filling", "ring filling or draining, command set-up", "#56B4E9"),
    ("idle", "no command", "#BBBBBB"),
)


def page(profile: Profile, command: str) -> str:
    """The page: for each device its timeline, where its cycles went, and its operations.

    Args:
        profile: what was recorded.
        command: what was profiled, as shown in the title.

    Raises:
        ProfileError: plotly or jinja2 is not installed.
    """
    devices = [
        {"process": process, **_device(device)}
        for process in profile.processes
        for device in process.devices
        if device.operations or device.commands
    ]
    return render(
        __package__,
        "page.html.j2",
        ProfileError,
        command=command,
        version=__version__,
        devices=devices,
        incomplete=[p for p in profile.processes if not p.complete],
        dropped=sum(p.dropped for p in profile.processes),
        parts=_PARTS,
        figures={f"figure-{i}": d["figure"] for i, d in enumerate(devices) if d["figure"]},
    )


def _device(device: Device) -> dict[str, Any]:
    summary, slices = summarise(device), timeline(device)
    return {
        "facts": device.facts,
        "summary": summary,
        "shares": _shares(summary),
        "figure": None if slices is None else _figure(slices),
    }


def _shares(summary: DeviceSummary) -> list[tuple[str, str, float]]:
    """Name, colour and percentage of each part of the card's cycles."""
    total = summary.cycles + summary.idle_cycles
    if not total:
        return []
    inside = summary.cycles / total
    values = {
        "busy": summary.ring_use * inside,
        "waiting": summary.waiting * inside,
        "filling": summary.filling * inside,
        "idle": 1 - inside,
    }
    return [(text, colour, 100 * values[key]) for key, text, colour in _PARTS]


def _figure(slices: Timeline) -> dict[str, Any]:
    """Traces of the timeline: stacked shares above, memory traffic below."""
    x = slices.start.tolist()
    traces: list[dict[str, Any]] = [
        {
            "x": x,
            "y": (100 * getattr(slices, key)).round(2).tolist(),
            "name": text,
            "stackgroup": "cycles",
            "mode": "none",
            "fillcolor": colour,
            "hovertemplate": "%{y:.1f} %",
        }
        for key, text, colour in _PARTS
    ]
    traces.append(
        {
            "x": x,
            "y": slices.bytes_per_cycle.round(3).tolist(),
            "name": "memory, bytes a cycle",
            "yaxis": "y2",
            "mode": "lines",
            "line": {"color": "#CC79A7", "width": 1.5, "shape": "hv"},
            "hovertemplate": "%{y:.2f}",
        }
    )
    return {"traces": traces}
