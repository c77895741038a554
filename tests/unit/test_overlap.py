"""Two computations side by side."""

from __future__ import annotations

import threading

import pytest

from residue._overlap import both
from residue.backends._auto import AutoBackend
from residue.backends._cpu import CpuBackend
from residue.backends._cpu_native import available_kernels, open_cpu
from residue.backends._protocol import SupportsOverlap


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


def test_backends_say_whether_threads_gain() -> None:
    """gmpy2 holds the interpreter lock; native kernels do not, but one core is one core."""
    assert not isinstance(CpuBackend(workers=2), SupportsOverlap)
    if len(available_kernels()) > 1:
        for workers in (1, 2):
            cpu = open_cpu(workers=workers, kernel=available_kernels()[0])
            assert isinstance(cpu, SupportsOverlap)
            auto = AutoBackend(cpu, None)
            assert cpu.overlaps == auto.overlaps == (workers > 1)
    assert not AutoBackend(CpuBackend(workers=2), None).overlaps
