"""Random answers in the place of labels: their distributions, and what a job may do with them."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest
from scipy import stats

from residue_federated import Job
from residue_federated.privacy import _labels
from residue_federated.privacy._labels import (
    STEPS,
    kept_share,
    noise_scale,
    noisy_numbers,
    randomised_response,
)

DRAWS = 60_000
LEAST_P = 1e-4  # of a chi-square test: with the seeds below, a fault and not chance


@pytest.mark.parametrize(("classes", "epsilon"), [(2, 0.1), (2, 3.0), (3, 1.0), (10, 2.5)])
def test_a_label_is_so_much_likelier_than_each_other_class(classes: int, epsilon: float) -> None:
    for label in (0, classes - 1):
        source = random.Random(classes + label).randbytes
        answers = randomised_response(np.full(DRAWS, label), classes, epsilon, source)
        seen = np.bincount(answers, minlength=classes)
        weights = np.where(np.arange(classes) == label, math.exp(epsilon), 1.0)
        expected = DRAWS * weights / weights.sum()
        assert stats.chisquare(seen, expected).pvalue > LEAST_P
        assert expected[label] / DRAWS == pytest.approx(kept_share(classes, epsilon))
        weights[label] *= 1.15
        assert stats.chisquare(seen, DRAWS * weights / weights.sum()).pvalue < LEAST_P


def test_answers_are_of_their_own_labels() -> None:
    labels = np.arange(1000) % 7
    assert np.array_equal(randomised_response(labels, 7, 40.0), labels)
    mixed = randomised_response(labels, 7, 0.001)
    assert set(mixed.tolist()) == set(range(7))
    assert not np.array_equal(mixed, randomised_response(labels, 7, 0.001))
    assert randomised_response(labels[:0], 7, 1.0).shape == (0,)


@pytest.mark.parametrize("epsilon", [0.3, 2.0])
def test_numbers_get_laplace_noise_of_the_range(epsilon: float) -> None:
    low, high = -3.0, 5.0
    noisy = noisy_numbers(np.full(DRAWS, 1.0), low, high, epsilon, cut=False)
    steps = (noisy - low) / (high - low) * STEPS
    assert np.abs(steps - np.rint(steps)).max() < 1e-3
    scale = noise_scale(low, high, epsilon)
    assert scale == pytest.approx((high - low) / epsilon, rel=1e-5)
    assert stats.kstest(noisy - 1.0, stats.laplace(scale=scale).cdf).pvalue > LEAST_P
    wrong = stats.laplace(scale=1.1 * scale).cdf
    assert stats.kstest(noisy - 1.0, wrong).pvalue < LEAST_P


def test_the_noise_is_enough_for_the_whole_range_and_no_label_is_beyond_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scales: list[int] = []

    def silent(scale: int, count: int, source: object) -> Any:
        scales.append(scale)
        return np.zeros(count, dtype=np.int64)

    monkeypatch.setattr(_labels, "discrete_laplace", silent)
    y = np.array([-1e300, -2.0, 0.1, 7.0, 7.1, 1e300])
    for epsilon in (0.001, 1 / 3, 0.7, 5.0, 1e4):
        told = noisy_numbers(y, -2.0, 7.0, epsilon, cut=False)
        assert np.allclose(told, [-2, -2, 0.1, 7, 7, 7], atol=1e-5)
        most = np.ptp((told + 2.0) / 9.0 * STEPS)
        assert most / scales[-1] <= epsilon
        assert most / (scales[-1] - 1) > epsilon * (1 - 1e-9)


def test_noise_may_be_cut_to_the_range() -> None:
    y = np.linspace(0, 1, 1000)
    free, cut = (noisy_numbers(y, 0, 1, 0.5, cut=cut) for cut in (False, True))
    assert free.min() < -0.5
    assert free.max() > 1.5
    assert cut.min() == 0.0
    assert cut.max() == 1.0


def test_answers_are_the_operating_systems() -> None:
    np.random.seed(0)
    first = noisy_numbers(np.zeros(50), 0, 1, 1.0, cut=False)
    np.random.seed(0)
    assert not np.array_equal(first, noisy_numbers(np.zeros(50), 0, 1, 1.0, cut=False))


ANSWERS = {"type": "randomise_labels", "classes": 2, "epsilon": 1.0}
TRAIN = {"type": "logistic_regression"}
SAMPLE = {"type": "sample", "classes": {0: 0.5}}


def job_of(components: dict[str, Any]) -> Job:
    data = {"sklearn": "breast_cancer"}
    return Job.model_validate(
        {
            "name": "t",
            "guest": {"name": "guest", "data": data},
            "hosts": [{"name": "host", "data": data}],
            "arbiter": {"name": "arbiter"},
            "components": components,
        }
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"classes": None}, "give either classes or range"),
        ({"range": [0, 1]}, "give either classes or range"),
        ({"cut": True}, "cut is for numbers"),
        ({"classes": None, "range": [1, 1]}, "from its least to its largest"),
        ({"classes": None, "range": [0, float("inf")]}, "finite number"),
        ({"classes": 1}, "greater than or equal to 2"),
        ({"classes": 101}, "less than or equal to 100"),
        ({"epsilon": 0}, "greater than or equal to 0.001"),
        ({"epsilon": float("nan")}, "epsilon"),
        ({"delta": 1e-5}, "Extra inputs"),
    ],
)
def test_settings_that_promise_nothing_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        job_of({"answers": ANSWERS | changes})


@pytest.mark.parametrize(
    ("components", "who"),
    [
        ({"train": TRAIN, "answers": ANSWERS}, "train"),
        ({"scale": {"type": "standardise"}, "a": ANSWERS, "t": TRAIN | {"input": "scale"}}, "t"),
        ({"balance": SAMPLE, "answers": ANSWERS}, "balance"),
        ({"bins": {"type": "bin"}, "answers": ANSWERS}, "bins"),
        ({"part": {"type": "split", "part": "train", "stratify": True}, "a": ANSWERS}, "part"),
        ({"cv": {"type": "cross_validate", "trainer": TRAIN}, "answers": ANSWERS}, "cv"),
    ],
)
def test_what_tells_hosts_of_exact_labels_is_refused_beside_answers(
    components: dict[str, Any], who: str
) -> None:
    with pytest.raises(ValueError, match=rf"components\.{who}: hosts would see .* exact labels"):
        job_of(components)


@pytest.mark.parametrize("sample", [{"share": 2.0}, {"share": 0.5, "classes": {1: 1.5}}])
def test_labels_of_repeated_rows_are_not_promised(sample: dict[str, Any]) -> None:
    repeated = {"more": {"type": "sample", **sample}, "scale": {"type": "standardise"}}
    for component in (ANSWERS, {"type": "bin", "privacy": {"epsilon": 1.0}}):
        with pytest.raises(ValueError, match=r"'more' repeats rows|exact labels"):
            job_of(repeated | {"a": component})
        job_of({"a": component, "scale": {"type": "standardise"}, **repeated})


def test_labels_are_answered_once() -> None:
    with pytest.raises(ValueError, match=r"components\.b: labels are randomised once"):
        job_of({"a": ANSWERS, "b": ANSWERS})


@pytest.mark.parametrize(
    "components",
    [
        {"a": ANSWERS, "part": {"type": "split", "part": "train", "stratify": True}, "t": TRAIN},
        {"a": ANSWERS, "bins": {"type": "bin", "transform": "woe"}, "t": TRAIN},
        {"bins": {"type": "bin", "privacy": {"epsilon": 1.0}}, "a": ANSWERS, "t": TRAIN},
        {"scale": {"type": "standardise"}, "a": ANSWERS, "t": TRAIN, "c": {"type": "correlation"}},
        {"some": {"type": "sample", "share": 0.5}, "a": ANSWERS, "t": TRAIN},
        {
            "scale": {"type": "standardise"},
            "part": {"type": "split", "part": "train"},
            "a": ANSWERS,
            "t": TRAIN,
            "rest": {"type": "split", "part": "test", "input": "scale"},
            "judge": {"type": "evaluate"},
        },
    ],
)
def test_what_keeps_the_promise_is_taken(components: dict[str, Any]) -> None:
    assert list(job_of(components).components) == list(components)
