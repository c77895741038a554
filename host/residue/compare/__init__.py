"""Devices compared: the same operations on each, checked, priced and put on one page.

Other distributions take part through the entry points of `_extensions`, with the names below.
"""

from residue.compare._extensions import Projection
from residue.compare._workloads import WORKLOADS, Bench, Workload

__all__ = ["WORKLOADS", "Bench", "Projection", "Workload"]
