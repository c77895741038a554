"""Coverage of the RTL by its benches: lines, and named functional bins.

With ``RESIDUE_COVERAGE=<folder>`` in the environment each bench leaves there what it covered;
`python -m residue_sim.coverage <folder>` sums up.
"""

from residue_sim.coverage._collect import CoverageFolder
from residue_sim.coverage._report import CoverageReport, read_report

__all__ = ["CoverageFolder", "CoverageReport", "read_report"]
