"""Ratios of a run, with their spread, beside what is aimed at.

Rates of libraries on one core are of processor time, so that other work on the core does not count;
those beside two cores are of wall time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median

from bench.peers._measure import BEST, KERNELS, Cell, Run
from bench.peers._operations import (
    CORES_TARGET,
    GMPY2_TARGETS,
    HEU_TARGETS,
    KERNEL_TARGET,
    LONGER,
    OPERATIONS,
    PHE_TARGETS,
)

__all__ = ["Comparison", "Section", "Spread", "core_share", "failures", "sections", "spread"]

NOT_APPLICABLE = "not applicable"
_CLASSIC = ("phe", "fate_utils")  # they know no other encryption
_HEU = ("HEU ZPaillier", "HEU IPCL")


@dataclass(frozen=True)
class Spread:
    """Median of the rounds, the least and the greatest."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """One line: ours beside theirs.

    Attributes:
        theirs: the library; of several, the faster.
        ours_rate: operations a second.
        ratio: of rates, round by round; None where one side is missing.
        target: the ratio aimed at, if there is one.
        verdict: met, not met, or why it is neither; empty without a target or a ratio.
    """

    bits: int
    operation: str
    theirs: str
    ours_rate: Spread | None
    theirs_rate: Spread | None
    ratio: Spread | None
    target: float | None
    verdict: str


@dataclass(frozen=True)
class Section:
    """Comparisons of one kind.

    Attributes:
        rows: those with figures on both sides.
        notes: of targets without: why, and where if not everywhere.
    """

    title: str
    rows: list[Comparison]
    notes: list[str]


def spread(values: list[float]) -> Spread:
    """Median and extremes of at least one value."""
    return Spread(median(values), min(values), max(values))


def core_share(run: Run) -> float | None:
    """Share of their core's time that the turns got: 1 on an idle machine."""
    alone = {library.name for library in run.libraries if library.cores == 1}
    cells = [cell for cell in run.cells if cell.library in alone and cell.missing is None]
    wall = sum(sum(cell.seconds) for cell in cells)
    return sum(sum(cell.cpu_seconds) for cell in cells) / wall if wall else None


def failures(run: Run) -> list[str]:
    """What is missing, and why, each reason once."""
    found = [f"{each.name}: {each.missing}" for each in run.libraries if each.missing is not None]
    cells = dict[tuple[str, int, str], list[str]]()
    for cell in run.cells:
        if cell.missing is not None:
            cells.setdefault((cell.library, cell.bits, cell.missing), []).append(cell.operation)
    return found + [
        f"{name}, {bits} bits ({', '.join(operations)}): {why}"
        for (name, bits, why), operations in cells.items()
    ]


def sections(run: Run) -> list[Section]:
    """All comparisons; sections with nothing to say are left out."""
    table = _Table(run)
    ours, gmpy2 = BEST.name, "Residue, gmpy2 kernel"
    processes = "Residue, two processes, long batches"
    ifma = "avx512ifma" in run.machine.flags
    every = dict.fromkeys(OPERATIONS, KERNEL_TARGET)
    cores = dict.fromkeys(HEU_TARGETS, CORES_TARGET)
    found = [
        _section(
            "Residue against the faster of HEU's Paillier implementations",
            table.compare(ours, _HEU, HEU_TARGETS, applies=ifma),
        ),
        _section("Residue against phe", table.compare(ours, ("phe",), PHE_TARGETS, applies=ifma)),
        _section(
            "Without the native extension: gmpy2 alone against ZPaillier",
            table.compare(gmpy2, _HEU[:1], GMPY2_TARGETS),
        ),
        *(
            _section(
                f"The {kernel} kernel against gmpy2",
                table.compare(f"Residue, {kernel} kernel", (gmpy2,), every),
            )
            for kernel in KERNELS[1:]
        ),
        _section(
            "Two cores against one, wall time",
            table.compare("Residue, two cores", (ours,), cores),
        ),
        _section(
            f"Long batches, up to {LONGER} times as large: two cores against one, wall time",
            table.compare("Residue, two cores, long batches", ("Residue, long batches",), cores),
        ),
        _section(
            "Long batches: two processes on a core each, at the same time, against one",
            table.compare(processes, ("Residue, long batches",), {}),
        ),
        _section(
            "Long batches: two threads against those two processes",
            table.compare("Residue, two cores, long batches", (processes,), {}),
        ),
        *(
            _section(f"Residue against {name}", table.compare(ours, (name,), {}))
            for name in ("fate_utils", "HEU OU", "OpenSSL", "GMP")
        ),
    ]
    return [section for section in found if section.rows or section.notes]


def _section(title: str, rows: Iterator[Comparison]) -> Section:
    measured, reasons = [], dict[str, list[str]]()
    for row in rows:
        if row.ratio is None:
            reasons.setdefault(row.verdict, []).append(f"{row.operation} {row.bits}")
        else:
            measured.append(row)
    everywhere = len(reasons) == 1 and not measured
    notes = []
    if any(row.verdict == NOT_APPLICABLE for row in measured):
        notes.append("The targets are for CPUs with AVX512-IFMA, which this one has not.")
    notes += [why if everywhere else f"{why} ({', '.join(at)})" for why, at in reasons.items()]
    return Section(title, measured, notes)


class _Table:
    """The cells of a run by name."""

    def __init__(self, run: Run) -> None:
        self._bits = run.settings.bits
        self._libraries = {library.name: library for library in run.libraries}
        self._cells = {(cell.library, cell.bits, cell.operation): cell for cell in run.cells}

    def compare(
        self,
        ours: str,
        theirs: tuple[str, ...],
        targets: dict[str, float],
        *,
        applies: bool = True,
    ) -> Iterator[Comparison]:
        """Rows of the operations that have a target or figures on both sides.

        Targets that do not apply are those of AVX512-IFMA on a CPU without it.
        """
        wall = self._cores(ours) > 1
        for bits in self._bits:
            for operation in OPERATIONS:
                target = targets.get(operation)
                mine = self._cell(ours, bits, operation)
                name, other = self._fastest(theirs, bits, operation)
                ratio = mine_rate = other_rate = None
                if mine.missing is None:
                    mine_rate = spread(mine.rates(wall=wall))
                if other.missing is None:
                    other_rate = spread(other.rates(wall=wall))
                if mine_rate is not None and other_rate is not None:
                    pairs = zip(mine.rates(wall=wall), other.rates(wall=wall), strict=True)
                    ratio = spread([a / b for a, b in pairs])
                if ratio is None and target is None:
                    continue
                missing = f"not measured: {mine.missing or other.missing}"
                verdict = missing if ratio is None else _verdict(ratio, target, applies)
                yield Comparison(
                    bits, operation, name, mine_rate, other_rate, ratio, target, verdict
                )

    def _cores(self, name: str) -> int:
        """How many cores a library may use; one that is not part of the run: 1."""
        library = self._libraries.get(name)
        return 1 if library is None else library.cores

    def _fastest(self, names: tuple[str, ...], bits: int, operation: str) -> tuple[str, Cell]:
        if operation == "encrypt_classic" and names[0] in _CLASSIC:
            operation = "encrypt"
        cells = [(name, self._cell(name, bits, operation)) for name in names]
        measured = [(name, cell) for name, cell in cells if cell.missing is None]
        return max(measured or cells, key=lambda each: median(each[1].rates(wall=False) or [0.0]))

    def _cell(self, name: str, bits: int, operation: str) -> Cell:
        """The cell, or one that says why there is none."""
        library = self._libraries.get(name)
        why = "not part of this run" if library is None else library.missing
        found = self._cells.get((name, bits, operation))
        if found is None:
            return Cell(name, bits, operation, missing=f"{name}: {why or 'has no such operation'}")
        if found.missing is not None:
            return Cell(name, bits, operation, missing=f"{name}: {found.missing}")
        return found


def _verdict(ratio: Spread, target: float | None, applies: bool) -> str:
    if target is None:
        return ""
    if not applies:
        return NOT_APPLICABLE
    return "met" if ratio.median >= target else "not met"
