"""The pictures' files: an SVG and its data, as JSON, for each."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from residue_sim.pictures import _batch, _floor, _ring, _roofline

__all__ = ["PICTURES", "Finding", "Picture", "check", "draw", "measure"]


@dataclass(frozen=True)
class Picture:
    """One picture.

    Attributes:
        draw: the SVG of its data.
        fresh: takes data that needs no simulation; it is not kept.
        measure: takes data by simulation.
        inputs: what `measure` depends on.
    """

    draw: Callable[[dict[str, Any]], str]
    fresh: Callable[[], dict[str, Any]] = dict
    measure: Callable[[], dict[str, Any]] | None = None
    inputs: Callable[[], list[str]] = list


PICTURES = {
    "ring": Picture(_ring.draw, measure=_ring.measure, inputs=_ring.inputs),
    "floor": Picture(_floor.draw, fresh=_floor.fresh),
    "batch": Picture(_batch.draw, measure=_batch.measure, inputs=_batch.inputs),
    "roofline": Picture(
        _roofline.draw,
        fresh=_roofline.fresh,
        measure=_roofline.measure,
        inputs=_roofline.inputs,
    ),
}
"""The pictures by name."""


@dataclass(frozen=True)
class Finding:
    """What is wrong with a picture's files.

    Attributes:
        text: what, and the command that mends it.
        stale: the files agree with each other, but the hardware has changed since.
    """

    text: str
    stale: bool = False


def measure(name: str, folder: Path) -> None:
    """Take a picture's data anew, if it needs simulation."""
    take = PICTURES[name].measure
    if take is None:
        return
    inputs = _digest(name)
    data = take()
    lines = ",\n".join(f' "{key}": {_compact(value)}' for key, value in data.items())
    text = f'{{"inputs": "{inputs}", "data": {{\n{lines}\n}}}}\n'
    (folder / f"{name}.json").write_text(text, encoding="ascii")


def draw(name: str, folder: Path) -> None:
    """Draw a picture from its data.

    Raises:
        FileNotFoundError: there is no data.
    """
    svg = _drawn(name, _load(name, folder)["data"])
    (folder / f"{name}.svg").write_text(svg, encoding="utf-8")


def check(name: str, folder: Path) -> list[Finding]:
    """What is wrong with a picture's files; nothing is simulated."""
    command = f"python -m residue_sim.pictures {name}"
    try:
        stored = _load(name, folder)
        svg = (folder / f"{name}.svg").read_text(encoding="utf-8")
    except FileNotFoundError as error:
        return [Finding(f"{Path(error.filename).name} is missing: run {command} --measure")]
    found = []
    if svg != _drawn(name, stored["data"]):
        found.append(Finding(f"{name}.svg is not drawn from its data: run {command}"))
    if stored["inputs"] != _digest(name):
        why = (
            "was measured on other hardware sources" if stored["inputs"] else "is not measured yet"
        )
        text = f"the data of {name} {why}: run {command} --measure"
        found.append(Finding(text, stale=True))
    return found


def _drawn(name: str, data: dict[str, Any]) -> str:
    return PICTURES[name].draw({**data, **PICTURES[name].fresh()})


def _load(name: str, folder: Path) -> dict[str, Any]:
    if PICTURES[name].measure is None:
        return {"inputs": _digest(name), "data": {}}
    stored: dict[str, Any] = json.loads((folder / f"{name}.json").read_text(encoding="ascii"))
    return stored


def _digest(name: str) -> str:
    return hashlib.sha256("\0".join(PICTURES[name].inputs()).encode()).hexdigest()


def _compact(value: object) -> str:
    """JSON, a line for each item of a list of objects."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return "[\n  " + ",\n  ".join(json.dumps(item) for item in value) + "\n ]"
    return json.dumps(value)
