"""The ring filling: which product's words enter which element, cycle by cycle."""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from residue_sim._verilator import VerilatorError, build_model
from residue_sim.golden import digit_count
from residue_sim.manifest import sources_for
from residue_sim.pictures._inputs import code
from residue_sim.pictures._svg import Svg

__all__ = ["draw", "inputs", "measure"]

_TOP = "residue_ring"
_ELEMENTS = 6
_WORD_BITS = 51
_MODULUS_BITS = 512
_PRODUCTS = 20
_GROUPS = 24  # shown
_SOURCE = Path(__file__).resolve().parents[2] / "cpp" / "ring_fill.cpp"

_HUES = ("#e69f00", "#56b4e9", "#2db391", "#d98cb3", "#7f9fe6", "#f0803c", "#a98bd6", "#b3b04a")


def inputs() -> list[str]:
    """What the data depends on."""
    return code([*sources_for(_TOP), _SOURCE])


def measure() -> dict[str, Any]:
    """Simulate the ring. A run is ``[element, first cycle, words, product, pass]``.

    Cycle 0 is that in which the first word enters element 0.

    Raises:
        VerilatorError: the ring could not be built, or did not finish.
    """
    words = digit_count(_MODULUS_BITS, _WORD_BITS, 1)
    slots, passes = max(words, _ELEMENTS) + 1, -(-words // _ELEMENTS)
    model = build_model(
        _TOP,
        sources_for(_TOP),
        [_SOURCE],
        parameters={"WordBits": _WORD_BITS, "Elements": _ELEMENTS, "MaxWords": words},
        arguments=["--trace-vcd"],
        optimise="-O1",
    )
    with tempfile.TemporaryDirectory() as folder:
        waveform = Path(folder) / "ring.vcd"
        sizes = (words, slots, passes, _ELEMENTS, _PRODUCTS)
        done = subprocess.run(  # noqa: S603
            [str(model), *map(str, sizes), str(waveform)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise VerilatorError(f"the ring finished with {done.returncode}: {done.stderr[-500:]}")
        runs = [
            [element, *run]
            for element in range(_ELEMENTS)
            for run in _runs(_values(waveform, f"g_pe[{element}]", "from_a"))
        ]
    origin = min(start for _, start, *_ in runs)
    results = [[int(word) for word in line.split()] for line in done.stdout.splitlines()]
    return {
        "modulus_bits": _MODULUS_BITS,
        "elements": _ELEMENTS,
        "words": words,
        "slots": slots,
        "passes": passes,
        "runs": [[element, start - origin, *rest] for element, start, *rest in runs],
        "results": [[product, cycle - origin] for product, cycle in results],
    }


def _values(waveform: Path, scope: str, name: str) -> dict[int, int]:
    """Value of a signal from each cycle on in which it changes."""
    code, scopes, cycle = "", [""], 0
    values: dict[int, int] = {}
    with waveform.open() as lines:
        for line in lines:
            if match := re.match(r"\s*\$scope \w+ (\S+)", line):
                scopes.append(match[1])
            elif "$upscope" in line:
                scopes.pop()
            elif match := re.match(r"\s*\$var \w+ \d+ (\S+) (\S+)", line):
                if scopes[-1] == scope and match[2] == name:
                    code = match[1]
            elif line.startswith("#"):
                cycle = int(line[1:])
            elif code and line.startswith("b") and line.split()[1] == code:
                values[cycle] = int(line.split()[0][1:], 2)
    if not values:
        raise VerilatorError(f"no signal {name} of {scope} in the waveform")
    return values


def _runs(values: dict[int, int]) -> list[list[int]]:
    """``[first cycle, words, product, pass]`` of what passes by."""
    found: list[list[int]] = []
    for cycle, value in values.items():
        product, turn, word = (value >> 16) - 1, (value >> 8 & 0xFF) - 1, value & 0xFF
        if word == 1:
            found.append([cycle, 1, product, turn])
        elif word:
            run = found[-1]
            if run[2:] != [product, turn] or run[0] + run[1] != cycle or word != run[1] + 1:
                raise VerilatorError(f"cycle {cycle}: the words of product {product} are torn")
            run[1] += 1
    return found


def draw(data: dict[str, Any]) -> str:
    """The picture."""
    elements, slots = data["elements"], data["slots"]
    end: int = _GROUPS * slots
    runs = [run for run in data["runs"] if run[1] < end]
    left, right, top, row = 96, 28, 118, 38
    width = 1200
    bottom = top + elements * row
    step = (width - left - right) / end

    def x(cycle: float) -> float:
        return left + cycle * step

    entered = {(element, product, turn): s for element, s, _, product, turn in runs}
    back = entered[0, 0, 1]
    latency = entered[1, 0, 0] - entered[0, 0, 0]
    first_result = data["results"][0][1]
    svg = Svg(
        width,
        bottom + 186,
        "The ring filling",
        f"Products of {data['modulus_bits']} bits enter a ring of {elements} elements, one behind "
        f"the other, until every element has work; each passes {data['passes']} times.",
    )
    svg.heading(
        "The ring filling",
        f"Montgomery products of {data['modulus_bits']} bits ({data['words']} words) in "
        f"a ring of {elements} elements: which product's words enter which element",
    )
    for element in range(elements):
        y = top + element * row
        svg.rect(left, y + 2, width - left - right, row - 4, fill="panel")
        svg.text(left - 12, y + row / 2 + 4.5, f"element {element}", anchor="end", fill="soft")
    for element, start, count, product, turn in runs:
        y = top + element * row + 2
        count = min(count, end - start)
        hue = _HUES[product % len(_HUES)]
        tip = f"product {product + 1}, pass {turn + 1}, cycle {start}"
        svg.rect(x(start), y, count * step, row - 4, fill=hue, radius=3, tip=tip)
        if turn:  # words of b that are left: a band along the foot
            svg.rect(x(start), y + row - 10, count * step, 6, fill="#00000066")
        if count > slots // 2:
            svg.text(x(start + count / 2), y + 20, f"{product + 1}", size=13, fill="#14181d",
                     anchor="middle", bold=True)  # fmt: skip
    events = [
        (back, f"cycle {back}: product 1 is back for its second pass and goes before new ones"),
        (first_result, f"cycle {first_result}: the first result leaves"),
    ]
    for level, (cycle, text) in enumerate(events):
        y = top - 10 - 20 * (level == 0)
        svg.line(x(cycle), y - 12, x(cycle), top + 1, stroke="ink", dash="3 3")
        svg.text(x(cycle) + 7, y - 3, text, size=12.5)
    _draw_use(svg, data, runs, end, left, bottom + 24, 62, step)
    axis = bottom + 24 + 62
    for cycle in range(0, end + 1, 20):
        svg.line(x(cycle), axis, x(cycle), axis + 5)
        svg.text(x(cycle), axis + 19, f"{cycle}", size=11.5, fill="soft", anchor="middle")
    svg.text(width - right, axis + 38, "cycle", size=12.5, fill="soft", anchor="end")
    svg.text(
        left,
        axis + 60,
        f"A product takes {data['slots']} slots a pass ({data['words']} words and one that keeps "
        f"neighbours apart) and {data['passes']} passes of {elements} words of b. "
        f"An element hands a word on after {latency} cycles.",
        size=12.5,
        fill="soft",
    )
    svg.text(left, axis + 80, "Dark foot: second pass. Drawn from a Verilator waveform of "
             "residue_ring.", size=12.5, fill="soft")  # fmt: skip
    return str(svg)


def _draw_use(
    svg: Svg,
    data: dict[str, Any],
    runs: list[list[int]],
    end: int,
    left: float,
    top: float,
    height: float,
    step: float,
) -> None:
    """How many elements are at a product, cycle by cycle; the slot between products counts."""
    slots, elements = data["slots"], data["elements"]
    change = [0] * (end + slots)
    for _, start, *_ in runs:
        change[start] += 1
        change[start + slots] -= 1
    points = [(left, top + height)]
    level = 0
    for cycle in range(end):
        if change[cycle]:
            points.append((left + cycle * step, top + height * (1 - level / elements)))
            level += change[cycle]
            points.append((left + cycle * step, top + height * (1 - level / elements)))
    points.append((left + end * step, top + height * (1 - level / elements)))
    points.append((left + end * step, top + height))
    svg.path(points, fill="busy", stroke="none", close=True)
    svg.line(left, top + height, left + end * step, top + height)
    for share, text in ((0, "0"), (1, f"{elements}")):
        svg.text(left - 12, top + height * (1 - share) + 4, text, size=12, fill="soft",
                 anchor="end")  # fmt: skip
    svg.text(left - 28, top + height / 2 - 4, "elements", size=12.5, fill="soft", anchor="end")
    svg.text(left - 28, top + height / 2 + 12, "at work", size=12.5, fill="soft", anchor="end")
