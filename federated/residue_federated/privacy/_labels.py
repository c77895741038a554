"""Labels that are told with a noise of their own: whatever is made of them later is private.

Each label is given by an epsilon-differentially private answer of its owner's, so two tables that
differ in one label give the same answers but for a factor of ``exp(epsilon)`` in probability, and
so does anything that is computed of the answers, by whomever. The distributions are exact.

- S. Warner, "Randomized response: a survey technique for eliminating evasive answer bias", JASA
  1965; of more than two classes P. Kairouz, S. Oh, P. Viswanath, "Extremal mechanisms for local
  differential privacy", NeurIPS 2014, section 4.1.
- K. Chaudhuri, D. Hsu, "Sample complexity bounds for differentially private learning", COLT 2011:
  privacy of labels; B. Ghazi et al., "Deep learning with label differential privacy", NeurIPS 2021.
"""

from __future__ import annotations

import math
import os
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from residue_federated.privacy._noise import discrete_laplace
from residue_federated.privacy._random import Source, exp_coins, uniform

__all__ = ["kept_share", "noise_scale", "noisy_numbers", "randomised_response"]

STEPS = 1 << 20
"""Of the range of a number: what it is rounded to before noise is added."""


def randomised_response(
    labels: NDArray[np.int64], classes: int, epsilon: float, source: Source = os.urandom
) -> NDArray[np.int64]:
    """For each label itself, ``exp(epsilon)`` times as likely as each of the other classes.

    Candidates are drawn from all classes alike; the label itself is accepted, another one by a coin
    of ``exp(-epsilon)``. How long that takes does not depend on the labels. Not constant in time.

    Args:
        labels: ``(n,)``, each from 0 to `classes` - 1.
        classes: at least 2.
        epsilon: positive.
        source: of randomness.
    """
    exact = Fraction(epsilon)
    found = np.empty_like(labels)
    open_ = np.arange(labels.size)
    while open_.size:
        drawn = uniform(classes, open_.size, source)
        coins = exp_coins(np.full(open_.size, epsilon), lambda _: exact, source)
        accepted = (drawn == labels[open_]) | coins
        found[open_[accepted]] = drawn[accepted]
        open_ = open_[~accepted]
    return found


def kept_share(classes: int, epsilon: float) -> float:
    """How likely `randomised_response` gives a label itself."""
    return 1 / (1 + (classes - 1) * math.exp(-epsilon))


def noisy_numbers(
    y: NDArray[np.float64],
    low: float,
    high: float,
    epsilon: float,
    *,
    cut: bool,
    source: Source = os.urandom,
) -> NDArray[np.float64]:
    """Numbers, cut to the range from `low` to `high`, with discrete Laplace noise.

    They are rounded to `STEPS` steps of the range first, so that noise is one of integers (see
    `residue_federated.privacy._noise`). cut: the results to the range as well, which moves their
    means towards its middle.
    """
    width = (high - low) / STEPS
    steps = np.rint((np.clip(y, low, high) - low) / width).astype(np.int64)
    noisy = np.clip(steps, 0, STEPS) + discrete_laplace(_scale(epsilon), y.size, source)
    if cut:
        noisy = np.clip(noisy, 0, STEPS)
    return np.asarray(low + noisy * width)


def noise_scale(low: float, high: float, epsilon: float) -> float:
    """Of the noise of `noisy_numbers`, in the numbers' own unit; its deviation is 1.41 times it."""
    return _scale(epsilon) * (high - low) / STEPS


def _scale(epsilon: float) -> int:
    return math.ceil(STEPS / Fraction(epsilon))
