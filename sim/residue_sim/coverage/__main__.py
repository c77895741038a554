"""Prints the coverage that benches left in a folder; fails below the wanted share of lines."""

from __future__ import annotations

import sys
from pathlib import Path

from residue_sim.coverage import read_report

WANTED = 0.95


def main(folder: str) -> int:
    """Exit status 1 below 95% of lines, with a bin that was never hit, or a stale exclusion."""
    report = read_report(Path(folder))
    print("\n".join(report.lines()))
    return int(report.fraction < WANTED or 0 in report.bins.values() or bool(report.stale))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
