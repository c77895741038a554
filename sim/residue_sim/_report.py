"""What a ring costs and how fast it is: measured, for each configuration and modulus size.

Cycles: `residue_ring` of the configuration, simulated in Verilator with more products than it
holds; its results are compared with the golden model. DSPs, LUTs and flip-flops: the same ring
through Yosys (`synth_xilinx`, family xcup with DSP48E2 instances, for 48-bit digits xc7 with
DSP48E1 instances); the ring is flattened except that its equal elements are synthesised once and
counted as often as they occur. A LUT that works as shift register or RAM counts as a LUT.
"""

from __future__ import annotations

import json
import random
import subprocess
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from residue_sim._verilator import build_model, cached_build, content_key
from residue_sim._yosys import YosysError, run_yosys
from residue_sim.golden import Montgomery, from_words, to_words
from residue_sim.manifest import Configuration, configurations, hw_root, sources_for
from residue_sim.stimuli import odd_modulus
from residue_sim.synth._cells import Cells

__all__ = [
    "CONFIGURATIONS",
    "MODULUS_BITS",
    "ReportError",
    "ReportRow",
    "mark_best",
    "report",
    "ring_cycles",
    "ring_resources",
]

CONFIGURATIONS = ("r21", "r22", "r42", "k11", "k12")
"""What `report` measures if not told otherwise: the rings that are the best at some size, and the
plain ones they are compared with."""
MODULUS_BITS = (1024, 2048, 3072, 4096, 6144)
_TAG_BITS = 8
_LATENCY = {"schoolbook": 15, "karatsuba": 24}  # cycles, of one element


class ReportError(Exception):
    """A measurement failed; the message says which and why."""


@dataclass(frozen=True)
class ReportRow:
    """One configuration at one modulus size.

    `fraction_of_ideal` is ``2*ceil(b/17)*ceil(b/26) / (dsp_per_ring * cycles_per_product)`` (24
    instead of 26 on DSP48E1): 1 would be a schoolbook product and reduction with no multiplier ever
    waiting. `words` counts ring words. `best`: no other row of the report has a higher fraction at
    this size.
    """

    config: str
    modulus_bits: int
    element: str
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
    best: bool = False

    def as_dict(self) -> dict[str, str | int | float]:
        """The row as a JSON object."""
        return asdict(self)


def report(names: Iterable[str] | None = None) -> list[ReportRow]:
    """Rows for the named configurations (`CONFIGURATIONS` by default) at each size that fits them.

    Raises:
        ReportError: an unknown configuration, or a measurement failed.
    """
    known = configurations()
    chosen = list(CONFIGURATIONS if names is None else names)
    if unknown := [name for name in chosen if name not in known]:
        raise ReportError(f"no configuration {', '.join(unknown)}; there are {', '.join(known)}")
    rows = []
    for name in chosen:
        config = known[name]
        resources = ring_resources(config)
        for bits in MODULUS_BITS:
            if bits <= config.max_modulus_bits:
                rows.append(_row(config, bits, resources))
    return mark_best(rows)


def mark_best(rows: Iterable[ReportRow]) -> list[ReportRow]:
    """The rows, `best` set in the one of each modulus size with the highest fraction."""
    rows = list(rows)
    best: dict[int, ReportRow] = {}
    for row in rows:
        leader = best.setdefault(row.modulus_bits, row)
        if row.fraction_of_ideal > leader.fraction_of_ideal:
            best[row.modulus_bits] = row
    return [replace(row, best=row is best[row.modulus_bits]) for row in rows]


def _row(config: Configuration, bits: int, resources: Cells) -> ReportRow:
    ctx = _context(config, bits)
    cycles = ring_cycles(config, bits)
    multiplier_bits = 24 if _is_7_series(config) else 26
    ideal = 2 * -(-bits // 17) * -(-bits // multiplier_bits)
    return ReportRow(
        config=config.name,
        modulus_bits=bits,
        element=config.element,
        elements=config.elements,
        words=ctx.ring_words,
        passes=ctx.passes,
        cycles_per_product=cycles,
        dsp_per_ring=resources.dsp,
        lut_per_ring=resources.lut,
        srl_per_ring=resources.shift_registers,
        ff_per_ring=resources.flip_flops,
        bram36_per_ring=resources.bram36,
        lut_per_dsp=round(resources.lut / resources.dsp, 1),
        fraction_of_ideal=round(ideal / (resources.dsp * cycles), 4),
    )


def _is_7_series(config: Configuration) -> bool:
    """Digits of 48 bits are made for the 24-bit halves of DSP48E1."""
    return config.word_bits == 48


def _parameters(config: Configuration) -> dict[str, int]:
    return {
        "WordBits": config.word_bits,
        "Karatsuba": int(config.karatsuba),
        "Elements": config.elements,
        "MaxWords": config.max_words // config.digits_per_word,
        "TagBits": _TAG_BITS,
    }


def _context(config: Configuration, bits: int) -> Montgomery:
    modulus = odd_modulus(random.Random(bits), bits)  # noqa: S311
    return Montgomery.of(
        modulus, config.word_bits, config.elements, digits_per_word=config.digits_per_word
    )


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
        optimise="-O0",
    )
    ctx = _context(config, bits)
    rng = random.Random(bits)  # noqa: S311
    in_flight = _LATENCY[config.element] * config.elements // ctx.slots + 2
    operands = [
        (rng.randrange(2 * ctx.n_tilde), rng.randrange(2 * ctx.n_tilde))
        for _ in range(4 * in_flight)
    ]
    sizes = (ctx.ring_words, ctx.slots, ctx.passes, config.elements, len(operands))
    numbers = [ctx.m, *(value for pair in operands for value in pair)]
    words = [word for number in numbers for word in to_words(number, ctx.ring_bits, ctx.ring_words)]
    done = subprocess.run(  # noqa: S603
        [str(model)],
        input=" ".join(f"{word:x}" for word in (*sizes, *words)),
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [[int(word, 16) for word in line.split()] for line in done.stdout.splitlines()]
    results = [from_words(line, ctx.ring_bits) for line in lines[:-1]]
    if done.returncode or results != [ctx.multiply(a, b) for a, b in operands]:
        raise ReportError(f"{config.name}, {bits} bits: the simulated ring computes wrong products")
    # While requests last the ring is full: the cycles from one slot group to the next.
    fetches = lines[-1][: (len(operands) - in_flight) * ctx.passes]
    return (fetches[-1] - fetches[0]) / (len(fetches) - 1) * ctx.passes


def ring_resources(config: Configuration) -> Cells:
    """Cells of the configuration's ring after synthesis; cached by content.

    Raises:
        ReportError: Yosys failed.
    """
    sources = sources_for("residue_ring")
    parameters = " ".join(f"-chparam {name} {value}" for name, value in _parameters(config).items())
    family, slice_ = ("xc7", "DSP48E1") if _is_7_series(config) else ("xcup", "DSP48E2")
    script = [
        f"read_verilog -defer -sv -D SYNTHESIS -D RESIDUE_{slice_} "
        + " ".join(source.name for source in sources),
        f"hierarchy -top residue_ring {parameters}",
        "setattr -mod -set keep_hierarchy 1 *residue_pe*",
        f"synth_xilinx -family {family} -flatten -noiopad -noclkbuf -run :check",
        "tee -o stat.json stat -json",
    ]

    def synthesise(folder: Path) -> None:
        for source in sources:
            (folder / source.name).write_bytes(source.read_bytes())
        try:
            run_yosys(script, folder, folder / "stat.json")
        except YosysError as error:
            raise ReportError(f"synthesis of the ring of {config.name} failed: {error}") from error

    folder = cached_build("synth-residue_ring", content_key(sources, script), synthesise)
    return Cells.of(_cells(json.loads((folder / "stat.json").read_text())))


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
