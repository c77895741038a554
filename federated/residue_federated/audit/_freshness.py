"""Whether received ciphertexts carry randomness, and randomness of their own.

Both show in c mod n, see `CiphertextArray.randomness_marks`, which the check of a ciphertext's
range and coprimality computes anyway.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["Freshness", "unobfuscated"]


def unobfuscated(marks: NDArray[np.int64]) -> int:
    """How many of the ciphertexts are ``1 + m n``: encryptions that anybody reads."""
    return int(np.count_nonzero(marks == 1))


class Freshness:
    """The randomness of every ciphertext of one key that a party has received.

    Takes 8 bytes a ciphertext. Sorted runs of falling length, each merged with the next as soon as
    it is no longer, so n ciphertexts are sorted ``log n`` times at most. Among ten million, two are
    equal by chance in one job of 46,000.
    """

    def __init__(self) -> None:
        self._runs: list[NDArray[np.int64]] = []

    def repeated(self, marks: NDArray[np.int64]) -> int:
        """How many of these ciphertexts have randomness seen before, here or in earlier calls."""
        new = np.sort(marks, kind="stable")
        if not new.size:
            return 0
        again = np.zeros(new.size, dtype=bool)
        again[1:] = new[1:] == new[:-1]
        for run in self._runs:
            again |= run[np.minimum(np.searchsorted(run, new), run.size - 1)] == new
        while self._runs and self._runs[-1].size <= new.size:
            new = np.sort(np.concatenate([self._runs.pop(), new]), kind="stable")
        self._runs.append(new)
        return int(np.count_nonzero(again))
