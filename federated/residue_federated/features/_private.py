"""What bins are worth, with differential privacy of the labels towards the hosts.

Another label of one row changes the positives of one bin of each column by one: with m columns of
all parties together the vector of positives changes by m in absolute sum and by the root of m in
length. Noise on the positives, not on what is computed of them, so bins without a positive and the
number of positives of all rows are hidden too. How many rows a bin has the host knows by itself.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from residue_federated._context import Context
from residue_federated.errors import CheckpointError
from residue_federated.features._bins import Evidence
from residue_federated.privacy._accounting import calibrated
from residue_federated.privacy._config import LabelPrivacy
from residue_federated.privacy._noise import discrete_gaussian, discrete_laplace

__all__ = ["kept_order", "noise_of", "with_noise"]

Integers = NDArray[np.int64]


def with_noise(
    context: Context,
    privacy: LabelPrivacy,
    exact: dict[str, Evidence],
    sizes: dict[str, Integers],
) -> tuple[dict[str, Evidence], dict[str, Any]]:
    """What hosts are told and later components get, and what of it goes into the report.

    The noisy positives are on disk before anything of them leaves, and when the component is run
    again they are not drawn again: nothing more is released.

    Args:
        context: the guest's.
        privacy: of the job.
        exact: bins of each party, hosts' in the order that they sent them.
        sizes: of each party's columns.

    Raises:
        CheckpointError: a party's bins are not those of the run that this one goes on from.
    """
    columns = sum(s.size for s in sizes.values())
    journal = context.journal("given")
    counts = {f"counts/{party}": evidence.counts for party, evidence in exact.items()}
    if journal.rounds:
        kept = journal.load(1)
        if any(not np.array_equal(kept[name], values) for name, values in counts.items()):
            raise CheckpointError("bins are not those whose weights may have been sent")
    else:
        kept = {
            f"noisy/{party}": evidence.positives + noise_of(privacy, columns, evidence.counts.size)
            for party, evidence in exact.items()
        }
        journal.save(1, counts | kept)
    told = {
        party: _weighed(kept[f"noisy/{party}"], evidence.counts, sizes[party])
        for party, evidence in exact.items()
    }
    return told, {"unit": "label", "delta": 0.0, **privacy.model_dump(exclude_none=True)}


def kept_order(context: Context, order: Integers) -> Integers:
    """A host's secret order of bins: the one of the run that this one goes on from, or `order`.

    Noise belongs to bins in this order.
    """
    journal = context.journal("order")
    if journal.rounds:
        return np.asarray(journal.load(1)["order"])
    journal.save(1, {"order": order})
    return order


def noise_of(privacy: LabelPrivacy, columns: int, size: int) -> Integers:
    """Noise for ``(size,)`` positives of bins, of so many columns of all parties together."""
    if privacy.delta is None:
        return discrete_laplace(math.ceil(columns / privacy.epsilon), size)
    noise = calibrated(privacy.epsilon, privacy.delta, 1)
    return discrete_gaussian(math.ceil(noise**2 * columns), size)


def _weighed(noisy: Integers, counts: Integers, sizes: Integers) -> Evidence:
    """From positives with noise; those of a column make its total."""
    positives = np.clip(noisy, 0, counts)
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    rows = np.add.reduceat(counts, starts)
    of_column = np.clip(np.add.reduceat(positives, starts), 1, rows - 1)
    totals = np.repeat(of_column, sizes), np.repeat(rows - of_column, sizes)
    return Evidence.shuffled(positives, counts, sizes, totals)
