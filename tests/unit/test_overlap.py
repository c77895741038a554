"""Two computations side by side."""

from __future__ import annotations

import threading

import pytest

from residue._overlap import both


def test_both_run_at_once() -> None:
    """Each waits for the other: one after the other they would never end."""
    barrier = threading.Barrier(2, timeout=10)
    here, beside = both(barrier.wait, barrier.wait)
    assert {here, beside} == {0, 1}


def test_errors_of_either_are_raised_when_both_have_ended() -> None:
    ended = []

    def fails(word: str) -> None:
        raise ValueError(word)

    with pytest.raises(ValueError, match="beside"):
        both(lambda: ended.append("here"), lambda: fails("beside"))
    with pytest.raises(ValueError, match="here"):
        both(lambda: fails("here"), lambda: ended.append("beside"))
    assert ended == ["here", "beside"]
    with pytest.raises(ValueError, match="here"):
        both(lambda: fails("here"), lambda: fails("beside"))
