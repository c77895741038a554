"""The floor of the card: clusters, lanes and rings of a configuration, with the widths between."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from residue_sim.manifest import configurations
from residue_sim.pictures._svg import Svg

__all__ = ["draw", "fresh"]

_CONFIG = "kv260"
_LANE = 132
_CARD = (178, 84)  # upper left corner
_INNER = 352  # left edge of the lanes


def fresh() -> dict[str, Any]:
    """The configuration."""
    return asdict(configurations()[_CONFIG])


def draw(data: dict[str, Any]) -> str:
    """The picture."""
    rings, masters, elements = data["rings"], data["masters"], data["elements"]
    lanes = rings // masters
    digits = 2 if data["element"] == "karatsuba" else 1
    cluster = 34 + lanes * _LANE
    width, top = 1200, _CARD[1] + 104
    height = top + masters * (cluster + 16) + 48
    svg = Svg(
        width,
        height,
        f"The floor of the card, configuration {data['name']}",
        f"{masters} clusters of {lanes} lanes; each lane has a loader, stores, a ring of {elements}"
        f" {data['element']} elements and a storer.",
    )
    svg.heading(
        f"The floor of the card: {data['name']}",
        f"{rings} rings of {elements} {data['element']} elements behind {masters} AXI4 masters of "
        f"{data['axi_data_bits']} bits",
    )
    x, y = _CARD
    svg.rect(x, y, width - x - 28, height - y - 48, fill="panel", stroke="edge", radius=10)
    _box(svg, x + 16, y + 16, 136, 52, "registers", "residue_regs", "")
    _box(svg, _INNER, y + 16, width - 44 - _INNER, 52, "command processor",
         "descriptors, modulus, shares of the lanes, completion records", "")  # fmt: skip
    svg.line(x + 152, y + 42, _INNER, y + 42, arrow=True)
    svg.rect(28, y + 16, 104, 52, fill="box", stroke="edge", radius=6)
    svg.text(80, y + 47, "host", anchor="middle", bold=True)
    svg.line(132, y + 42, x + 16, y + 42, arrow=True)
    svg.text(155, y + 34, "32", size=11.5, fill="soft", anchor="middle")
    bottom = top + masters * (cluster + 16) - 16
    svg.rect(28, top, 104, bottom - top, fill="box", stroke="edge", radius=6)
    svg.text(80, (top + bottom) / 2, "card", anchor="middle", bold=True)
    svg.text(80, (top + bottom) / 2 + 18, "memory", anchor="middle", bold=True)
    svg.line(80, y + 68, 80, top, arrow=True)
    for index in range(masters):
        _cluster(svg, data, index, top + index * (cluster + 16), cluster, lanes, digits)
    svg.text(
        28,
        height - 18,
        f"Numbers are bits a cycle; a ring takes one word each of a, b and M. Up to "
        f"{data['contexts']} exponentiations are in flight a ring; moduli of up to "
        f"{data['max_modulus_bits']:,} bits. Drawn from hw/configs.yaml.",
        size=12.5,
        fill="soft",
    )
    return str(svg)


def _box(svg: Svg, x: float, y: float, width: float, height: float, name: str, *more: str) -> None:
    svg.rect(x, y, width, height, fill="box", stroke="edge", radius=6)
    lines = [line for line in more if line]
    first = y + height / 2 + 5 - 8 * len(lines)
    svg.text(x + width / 2, first, name, anchor="middle", bold=True)
    for number, line in enumerate(lines):
        svg.text(x + width / 2, first + 17 + 15 * number, line, size=11.5, fill="soft",
                 anchor="middle")  # fmt: skip


def _cluster(
    svg: Svg, data: dict[str, Any], index: int, top: float, height: float, lanes: int, digits: int
) -> None:
    """A master, its reader and writer, and the lanes they serve."""
    x = _CARD[0] + 16
    right = 1200 - 28 - 16
    svg.rect(x, top, right - x, height, fill="ground", stroke="edge", radius=8)
    svg.text(x + 12, top + 22, f"cluster {index}", bold=True)
    middle = top + 34 + lanes * _LANE / 2
    bits = data["axi_data_bits"]
    _box(svg, x + 12, middle - 96, 96, 56, "reader", "bursts to rows")
    _box(svg, x + 12, middle - 28, 96, 56, "table rows", "once for all")
    _box(svg, x + 12, middle + 40, 96, 56, "writer", "rows to bursts")
    for y, inward in ((middle - 68, True), (middle + 68, False)):
        ends = (132, x + 12) if inward else (x + 12, 132)
        svg.line(ends[0], y, ends[1], y, stroke="accent", width=2, arrow=True)
        svg.text((132 + x) / 2, y - 7, f"{bits}", size=11.5, fill="accent", anchor="middle")
    svg.line(x + 60, middle - 28, x + 60, middle - 40, arrow=True)
    svg.text((132 + x) / 2, middle - 52, "AXI4", size=11.5, fill="accent", anchor="middle")
    svg.line(_INNER + 250, _CARD[1] + 68 if index == 0 else top - 16, _INNER + 250, top, arrow=True)
    number = index * lanes
    for lane in range(lanes):
        y = top + 30 + lane * _LANE
        _lane(svg, data, number + lane, y, digits)
        svg.line(x + 120, y + 46, _INNER + 12, y + 46, arrow=True)
        svg.path([(_INNER + 12, y + 88), (x + 136, y + 88)])
    first, last = top + 30, top + 30 + (lanes - 1) * _LANE
    read, write = sorted([middle - 68, first + 46, last + 46]), [middle + 68, first + 88, last + 88]
    svg.path([(x + 108, middle - 68), (x + 120, middle - 68)])
    svg.path([(x + 120, read[0]), (x + 120, read[-1])])
    svg.path([(x + 136, min(write)), (x + 136, max(write))])
    svg.line(x + 136, middle + 68, x + 108, middle + 68, arrow=True)


def _lane(svg: Svg, data: dict[str, Any], number: int, top: float, digits: int) -> None:
    """Loader, stores, ring, storer of one lane."""
    x, right = _INNER, 1200 - 28 - 28
    svg.rect(x, top, right - x, _LANE - 10, fill="panel", stroke="edge", radius=8)
    svg.text(x + 12, top + 20, f"lane {number}", size=12.5, bold=True)
    row, word = 2 * data["word_bits"], digits * data["word_bits"]
    upper, lower = top + 46, top + 86
    _box(svg, x + 12, top + 28, 80, 36, "loader")
    _box(svg, x + 12, top + 70, 80, 36, "storer")
    store = x + 148
    for i, name in enumerate(("operands", "tables", "exponents", "M, N, index")):
        svg.rect(store, top + 14 + 25 * i, 112, 21, fill="box", stroke="edge", radius=4)
        svg.text(store + 56, top + 29 + 25 * i, name, size=12, anchor="middle")
    svg.line(x + 92, upper, store, upper, arrow=True)
    svg.text((x + 92 + store) / 2, upper - 7, f"{row}", size=11.5, fill="soft", anchor="middle")
    svg.line(store, lower, x + 92, lower, arrow=True)
    svg.text((x + 92 + store) / 2, lower - 7, f"{row}", size=11.5, fill="soft", anchor="middle")
    left, end = store + 112 + 66, right - 34
    svg.line(store + 112, upper, left, upper)
    svg.text((store + 112 + left) / 2, upper - 7, f"3 x {word}", size=11.5, fill="soft",
             anchor="middle")  # fmt: skip
    svg.line(left, lower, store + 112, lower, arrow=True)
    svg.text((store + 112 + left) / 2, lower - 7, f"{word}", size=11.5, fill="soft",
             anchor="middle")  # fmt: skip
    _ring(svg, data["elements"], left, end, upper, lower)


def _ring(svg: Svg, elements: int, left: float, end: float, upper: float, lower: float) -> None:
    """Elements in a loop: the upper half to the right, the lower half back."""
    half = (elements + 1) // 2
    pitch = (end - left - 14) / half
    side = min(26.0, pitch - 8)
    ends = upper, lower
    upper, lower = upper - 5, lower + 7
    for i in range(elements):
        y = upper if i < half else lower
        column = i if i < half else 2 * half - 1 - i
        centre = left + 14 + (column + 0.5) * pitch
        svg.rect(centre - side / 2, y - side / 2, side, side, fill="busy", radius=4,
                 tip=f"element {i}")  # fmt: skip
        svg.text(centre, y + 4, f"{i}", size=11, fill="#04211a", anchor="middle", bold=True)
        if i + 1 < elements and i + 1 != half:
            ahead = 1 if i < half else -1
            start = centre + ahead * side / 2
            svg.line(start, y, start + ahead * (pitch - side), y)
    turn = left + 14 + (half - 0.5) * pitch + side / 2
    svg.path([(turn, upper), (turn + 8, upper), (turn + 8, lower), (turn, lower)])
    first = left + 14 + pitch / 2
    svg.line(first, lower - side / 2, first, upper + side / 2, stroke="busy", width=2, arrow=True)
    svg.text(first + 10, (upper + lower) / 2 + 4, "next pass", size=11, fill="soft")
    svg.line(left, ends[0], first - side / 2, ends[0], arrow=True)
    svg.line(first - side / 2, ends[1], left, ends[1])
