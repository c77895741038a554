"""Primitive cells of a netlist, counted in the resources of a part."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

__all__ = ["Cells", "blocks_of", "count_cells"]

# LUT sites that a cell occupies as RAM.
_LUT_RAMS = {"RAM32M": 4, "RAM64M": 4, "RAM32M16": 8, "RAM64M8": 8}
_LUT_RAMS |= {"RAM32X1D": 2, "RAM64X1D": 2, "RAM128X1D": 4, "RAM32X1S": 1, "RAM64X1S": 1}
_BLOCK_RAMS = {"RAMB36E1": 1.0, "RAMB36E2": 1.0, "RAMB18E1": 0.5, "RAMB18E2": 0.5}


@dataclass(frozen=True)
class Cells:
    """Resources. LUTs as logic, shift registers and RAM are counted one a site, never in pairs.

    An inverter counts nothing: it goes into the LUT, carry or register that it feeds.
    """

    logic: int = 0
    shift_registers: int = 0
    lut_ram: int = 0
    flip_flops: int = 0
    dsp: int = 0
    bram36: float = 0.0
    uram: int = 0

    @property
    def lut(self) -> int:
        """All LUT sites."""
        return self.logic + self.shift_registers + self.lut_ram

    @classmethod
    def of(cls, kinds: Mapping[str, int]) -> Cells:
        """From primitive names and how often each occurs."""

        def total(prefix: str) -> int:
            return sum(number for kind, number in kinds.items() if kind.startswith(prefix))

        return cls(
            logic=total("LUT"),
            shift_registers=total("SRL"),
            lut_ram=sum(sites * kinds.get(kind, 0) for kind, sites in _LUT_RAMS.items()),
            flip_flops=total("FD"),
            dsp=total("DSP48"),
            bram36=sum(size * kinds.get(kind, 0) for kind, size in _BLOCK_RAMS.items()),
            uram=total("URAM288"),
        )

    def __add__(self, other: Cells) -> Cells:
        return Cells(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def __mul__(self, times: int) -> Cells:
        return Cells(*(times * getattr(self, f.name) for f in fields(self)))

    def as_dict(self) -> dict[str, float]:
        """As a JSON object, with the sum of LUTs."""
        return {"lut": self.lut, **asdict(self)}


def blocks_of(netlist: Mapping[str, Any], top: str) -> dict[str, tuple[int, Cells]]:
    """For each module below `top` (and `top`): how often it occurs, and its own cells."""
    kinds = {
        name: Counter(cell["type"] for cell in module["cells"].values())
        for name, module in netlist.items()
    }
    times: Counter[str] = Counter()

    def visit(name: str, number: int) -> None:
        times[name] += number
        for kind, occurs in kinds[name].items():
            if kind in kinds:
                visit(kind, number * occurs)

    visit(top, 1)
    return {name: (times[name], Cells.of(kinds[name])) for name in times}


def count_cells(netlist: Mapping[str, Any], top: str) -> Cells:
    """Cells of `top` with everything below it."""
    return sum((cells * times for times, cells in blocks_of(netlist, top).values()), Cells())
