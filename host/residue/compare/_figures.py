"""The arithmetic of the page, each formula a function.

Rates are operations a second, times seconds, money US dollars unless said otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import median, quantiles

from residue.errors import CompareError

__all__ = [
    "amdahl",
    "break_even",
    "mixed_speedup",
    "per_cloud_dollar",
    "per_thousand_dollars",
    "per_watt",
    "ratio_of_rounds",
    "spread",
    "transfer_share",
]


def per_watt(rate: float, watts: float) -> float:
    """Operations a second and watt, which is operations a joule."""
    return rate / watts


def per_thousand_dollars(rate: float, usd: float) -> float:
    """Operations a second for 1,000 dollars of purchase price."""
    return 1000 * rate / usd


def per_cloud_dollar(rate: float, usd_per_hour: float) -> float:
    """Operations for one dollar of rent: those of an hour over the price of an hour."""
    return 3600 * rate / usd_per_hour


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """Median, lower and upper quartile."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, _, high = quantiles(values, n=4, method="inclusive")
    return median(values), low, high


def ratio_of_rounds(rates: Sequence[float], base: Sequence[float]) -> float:
    """Median over rounds of one device's rate over the other's in the same round."""
    return median(a / b for a, b in zip(rates, base, strict=True))


def transfer_share(up: float, down: float, total: float) -> float:
    """Share of a turn from host memory to host memory that its transfers take, at most 1."""
    return min(1.0, (up + down) / total)


def break_even(
    base: Sequence[tuple[int, float]], other: Sequence[tuple[int, float]]
) -> float | None:
    """Smallest batch from which on `other` takes less time than `base`; None: none was found.

    Args:
        base, other: (batch, seconds of the whole batch), batches ascending.

    Only batches that both have count. Between two of them times are taken to follow a power of the
    batch: the crossing is where two straight lines meet on logarithmic axes.
    """
    seconds = dict(other)
    both = [(b, math.log(t), math.log(seconds[b])) for b, t in base if b in seconds]
    if not both or both[-1][2] >= both[-1][1]:
        return None
    found = float(both[0][0])
    for (b0, x0, y0), (b1, x1, y1) in pairwise(both):
        if y0 >= x0 and y1 < x1:
            part = (y0 - x0) / ((y0 - x0) - (y1 - x1))
            found = b0 * (b1 / b0) ** part
    return found


def amdahl(share: float, speedup: float) -> float:
    """How much faster a whole becomes when `share` of its time becomes `speedup` times faster.

    Raises:
        CompareError: the share is not in [0, 1] or the speed-up not positive.
    """
    if not 0 <= share <= 1 or not speedup > 0:
        raise CompareError(f"no gain of a share of {share:g} made {speedup:g} times faster")
    left = 1 - share + share / speedup
    return math.inf if left == 0 else 1 / left


def mixed_speedup(weights: Mapping[str, float], speedups: Mapping[str, float]) -> float | None:
    """Speed-up of a mix of operations: their weighted harmonic mean; None where one is not known.

    Args:
        weights: share of each operation in the time before.
        speedups: how much faster each becomes.
    """
    total = sum(weights.values())
    if not total or any(speedups.get(name) is None for name in weights):
        return None
    return total / sum(weight / speedups[name] for name, weight in weights.items())
