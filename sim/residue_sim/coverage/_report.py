"""Sums Verilator's coverage files up to lines and named bins."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from residue_sim.manifest import hw_root, source_files

__all__ = ["CoverageReport", "FileCoverage", "read_report"]

_GENERATED = "generated"
# Parameter ? this : that, by the naming of parameters; also Parameter > number ? this : that.
_PARAMETER_CHOICE = re.compile(
    r"(?:[(\[{,?:]|(?<![=!<>])=)\s*[A-Z]\w*\s*(?:(?:[<>]=?|[!=]=)\s*[A-Z\d]\w*\s*)?\?"
)


@dataclass(frozen=True)
class FileCoverage:
    """Lines of one RTL file: how many count, and which of them no bench reached."""

    name: str
    lines: int
    missed: tuple[int, ...]

    @property
    def fraction(self) -> float:
        """Covered lines over lines."""
        return 1 - len(self.missed) / self.lines if self.lines else 1.0


@dataclass(frozen=True)
class CoverageReport:
    """Coverage of hw/rtl, without excluded lines; `excluded` counts those.

    Excluded are the lines of hw/bins/excluded.yaml and, where no bench reached them, the `default`
    arms of cases that name every value of their enum. The arms of ``Parameter ? this : that`` do
    not count: the choice is made before anything runs. `bins` maps the name of each functional bin
    to the number of times it was hit.
    `stale` names exclusions whose line does not occur or is covered.
    """

    files: tuple[FileCoverage, ...]
    bins: dict[str, int]
    excluded: int
    stale: tuple[str, ...]

    @property
    def fraction(self) -> float:
        """Covered lines over lines, of all files."""
        lines = sum(file.lines for file in self.files)
        return 1 - sum(len(file.missed) for file in self.files) / lines if lines else 0.0

    def lines(self) -> Iterator[str]:
        """The report as text."""
        for file in self.files:
            missed = f"  not reached: {_ranges(file.missed)}" if file.missed else ""
            yield f"{file.name:32} {file.lines:5} lines {100 * file.fraction:6.1f}%{missed}"
        total = sum(file.lines for file in self.files)
        yield f"{'all':32} {total:5} lines {100 * self.fraction:6.1f}%  excluded: {self.excluded}"
        hit = sum(count > 0 for count in self.bins.values())
        yield f"bins hit: {hit} of {len(self.bins)}"
        yield from (f"  not hit: {name}" for name, count in self.bins.items() if not count)
        yield from (f"stale exclusion: {entry}" for entry in self.stale)


def read_report(folder: Path) -> CoverageReport:
    """Sum up the coverage files of a folder, over all instances and benches.

    A line is reached if every block that begins on it or spans it was executed in some bench.
    Lines that no bench elaborated (the other side of a generate) are unknown to it.

    Raises:
        FileNotFoundError: the folder holds no coverage files.
    """
    counts: defaultdict[tuple[str, int, str, str, str], int] = defaultdict(int)
    bins: defaultdict[str, int] = defaultdict(int)
    found = sorted(folder.glob("*.dat"))
    if not found:
        raise FileNotFoundError(
            f"no coverage in {folder}: run the benches with RESIDUE_COVERAGE={folder}"
        )
    sources = {
        path.name: path.read_text().splitlines()
        for path in source_files()
        # Functions of packages run when the design is elaborated, before anything is counted.
        if _GENERATED not in path.parts and not path.stem.endswith("_pkg")
    }
    for path in found:
        for fields, count in _points(path):
            file = Path(fields["f"]).name
            if fields.get("t", "") == "user" or "v_user" in fields.get("page", ""):
                bins[_bin_name(fields)] += count
            elif "S" in fields and file in sources:
                text = sources[file][int(fields["l"]) - 1]
                if fields["o"].startswith("cond_") and _PARAMETER_CHOICE.search(text):
                    continue
                at = (file, int(fields["l"]), fields["n"], fields["o"], fields["S"])
                counts[at] += count
    reached: defaultdict[str, dict[int, bool]] = defaultdict(dict)
    for (file, _, _, _, spans), count in counts.items():
        for line in _lines(spans):
            reached[file][line] = reached[file].get(line, True) and count > 0

    rules = yaml.safe_load((hw_root() / "bins" / "excluded.yaml").read_text()) or {}
    files, excluded, stale = [], 0, []
    for name, texts in sources.items():
        lines = reached[name]
        missed = {line for line, hit in lines.items() if not hit}
        arms = missed & set(_spare_arms(texts))
        missed -= arms
        excluded += len(arms)
        lines = {n: hit for n, hit in lines.items() if n not in arms}
        for entry in rules.get(name, []):
            those = {n for n in missed if texts[n - 1].strip() == entry["line"]}
            stale += [] if those else [f"{name}: {entry['line']}"]
            missed -= those
            excluded += len(those)
            lines = {n: hit for n, hit in lines.items() if n not in those}
        files.append(FileCoverage(name, len(lines), tuple(sorted(missed))))
    return CoverageReport(tuple(files), dict(sorted(bins.items())), excluded, tuple(stale))


def _points(path: Path) -> Iterator[tuple[dict[str, str], int]]:
    """The fields and the count of each point of a Verilator coverage file."""
    for line in path.read_text().splitlines():
        if match := re.fullmatch(r"C '(.*)' (\d+)", line):
            pairs = (part.split("\x02", 1) for part in match[1].split("\x01") if part)
            yield {pair[0]: pair[1] for pair in pairs if len(pair) == 2}, int(match[2])


def _spare_arms(texts: Sequence[str]) -> Iterator[int]:
    """Lines of the `default` arms of cases that name every value of an enum."""
    codes = [text.split("//")[0] for text in texts]
    enums = [
        set(re.findall(r"\b(\w+)\b(?=\s*[,}=])", body))
        for body in re.findall(r"typedef enum [^{]*(\{[^}]*\})", "\n".join(codes))
    ]
    cases: list[tuple[set[str], list[int]]] = []  # labels, and lines of the default arm
    for number, code in enumerate(codes, 1):
        if re.search(r"\bcase\s*\(", code):
            cases.append((set(), []))
        elif re.search(r"\bendcase\b", code):
            labels, arm = cases.pop()
            if any(members and members <= labels for members in enums):
                yield from arm
        elif cases:
            labels, arm = cases[-1]
            if arm or re.match(r"\s*default\s*:", code):
                arm.append(number)
            elif found := re.match(r"\s*(\w+(?:\s*,\s*\w+)*)\s*:", code):
                labels.update(re.findall(r"\w+", found[1]))


def _bin_name(fields: dict[str, str]) -> str:
    """``<module>.<block>.<label>`` of a cover property."""
    inside = fields["h"].split("i_bins.")[-1]
    return f"{Path(fields['f']).stem.removesuffix('_bins')}.{inside}"


def _lines(spans: str) -> Iterator[int]:
    for span in spans.split(","):
        first, _, last = span.partition("-")
        yield from range(int(first), int(last or first) + 1)


def _ranges(lines: tuple[int, ...]) -> str:
    runs: list[list[int]] = []
    for line in lines:
        if runs and runs[-1][1] == line - 1:
            runs[-1][1] = line
        else:
            runs.append([line, line])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)
