"""The roofline of the commands: bytes that the ports offer against products that the rings do."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from residue_sim.board import utilisation
from residue_sim.golden import Montgomery
from residue_sim.manifest import Configuration, configurations, sources_for
from residue_sim.pictures._inputs import code
from residue_sim.pictures._svg import Svg

__all__ = ["draw", "fresh", "inputs", "measure"]

_CONFIG = "kv260"
_SIZES = (1024, 2048, 4096)
_MEASURED_SIZE = 2048


def inputs() -> list[str]:
    """What the measured part depends on."""
    return [*code(sources_for("residue_card")), Path(utilisation.__file__).read_text()]


def fresh() -> dict[str, Any]:
    """What the configuration allows: bytes of the ports, products of the rings, commands' reads."""
    config = configurations()[_CONFIG]
    roofs = []
    for bits in _SIZES:
        domain = Montgomery.of(
            (1 << bits) - 1,
            config.word_bits,
            config.elements,
            digits_per_word=config.digits_per_word,
        )
        roofs.append(
            {
                "modulus_bits": bits,
                "products_per_cycle": config.rings / (domain.passes * domain.slots),
                "bytes_per_product": {
                    **{
                        name: utilisation.bytes_per_product(name, config, domain)
                        for name in utilisation.OPERATIONS
                    },
                    "mul": 2 * 8 * domain.k,
                },
            }
        )
    return {"config": config.name, "port": _port(config), "roofs": roofs}


def measure() -> dict[str, Any]:
    """What the simulated card did: a large one, so this takes long.

    Raises:
        VerilatorError: the card could not be built.
        DeviceError: the card failed.
    """
    return {"measured": [asdict(use) for use in utilisation.measure(_CONFIG, _MEASURED_SIZE)]}


def _port(config: Configuration) -> int:
    return config.masters * config.axi_data_bits // 8


def draw(data: dict[str, Any]) -> str:
    """The picture."""
    port, roofs = data["port"], data["roofs"]
    measured = {use["operation"]: use for use in data.get("measured", [])}
    plot = _Plot(Svg(
        1200,
        622,
        f"Roofline of the commands, configuration {data['config']}",
        f"Products a cycle against products per byte read; the ports give {port} bytes a cycle.",
    ))  # fmt: skip
    svg, x, y = plot.svg, plot.x, plot.y
    svg.heading(
        f"Roofline of the commands: {data['config']}",
        f"What bounds a command: the ports ({port} bytes a cycle, the slope) or the rings (the "
        "flat roofs, one for each size of modulus)",
    )
    plot.frame()
    highest = max(roof["products_per_cycle"] for roof in roofs)
    svg.path([(x(plot.rate[0] / port), y(plot.rate[0])), (x(highest / port), y(highest))],
             stroke="waiting", width=2.5)  # fmt: skip
    for roof, hue in zip(roofs, ("accent", "busy", "filling"), strict=True):
        bits, most = roof["modulus_bits"], roof["products_per_cycle"]
        svg.line(x(most / port), y(most), plot.right, y(most), stroke=hue, width=2.5)
        svg.text(plot.right + 12, y(most) - 1, f"{bits:,} bits", size=12.5, bold=True)
        svg.text(plot.right + 12, y(most) + 15, f"{most:.4f} a cycle", size=12, fill="soft")
        for size, names in _by_size(roof["bytes_per_product"]).items():
            bound = min(most, port / size)
            at = x(1 / size), y(bound)
            svg.circle(*at, 5.5, fill="ground", stroke=hue)
            label = ", ".join(names)
            if port / size < 0.97 * most:  # on the slope
                svg.text(at[0] - 12, at[1] + 4, label, size=11.5, anchor="end")
            elif port / size < 1.1 * most:  # in the corner
                svg.text(at[0] - 6, at[1] - 9, label, size=11.5, anchor="end")
            else:
                svg.text(at[0], at[1] - 11, label, size=11.5, anchor="middle")
            for name in names if bits == _MEASURED_SIZE else ():
                if use := measured.get(name.lower()):
                    svg.circle(at[0], y(use["products"] / use["cycles"]), 3.5, fill=hue)
    told = (
        f"Dots: measured on the simulated card, {_MEASURED_SIZE:,} bits."
        if measured
        else "Not measured: no dot stands for a run on the simulated card."
    )
    svg.text(28, 602, "Circles: what the model allows, from hw/configs.yaml and what a product of "
             f"each command reads. {told}", size=12.5, fill="soft")  # fmt: skip
    return str(svg)


def _by_size(commands: dict[str, float]) -> dict[float, list[str]]:
    """Names of the commands by what a product of theirs reads."""
    found: dict[float, list[str]] = {}
    for name, size in commands.items():
        found.setdefault(size, []).append(name.upper())
    return found


class _Plot:
    """Two logarithmic axes."""

    left, right, top, bottom = 92, 1060, 92, 516
    intensity = (1 / 8192, 1.5)  # products per byte
    rate = (0.005, 0.32)  # products per cycle

    def __init__(self, svg: Svg) -> None:
        self.svg = svg

    def x(self, value: float) -> float:
        return self.left + (self.right - self.left) * _log(value, *self.intensity)

    def y(self, value: float) -> float:
        return self.bottom - (self.bottom - self.top) * _log(value, *self.rate)

    def frame(self) -> None:
        """Grid, axes and what they mean."""
        svg = self.svg
        for power in range(13, -1, -1):
            at = self.x(2**-power)
            svg.line(at, self.top, at, self.bottom, stroke="grid")
            svg.text(at, self.bottom + 19, f"1/{2**power:,}" if power else "1", size=11.5,
                     fill="soft", anchor="middle")  # fmt: skip
        for value in (0.01, 0.02, 0.05, 0.1, 0.2):
            svg.line(self.left, self.y(value), self.right, self.y(value), stroke="grid")
            svg.text(self.left - 10, self.y(value) + 4, f"{value:g}", size=11.5, fill="soft",
                     anchor="end")  # fmt: skip
        svg.path([(self.left, self.top), (self.left, self.bottom), (self.right, self.bottom)])
        svg.text((self.left + self.right) / 2, self.bottom + 42, "products per byte read",
                 fill="soft", anchor="middle")  # fmt: skip
        svg.text(36, (self.top + self.bottom) / 2, "products a cycle", fill="soft",
                 anchor="middle", turned=True)  # fmt: skip


def _log(value: float, low: float, high: float) -> float:
    return math.log(value / low) / math.log(high / low)
