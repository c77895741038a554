"""What is particular to the CPU backend: workers, forks, constant-time powers. The rest of its
behaviour is the conformance suite's."""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import gmpy2
import numpy as np
import pytest
from gmpy2 import mpz

from residue._limbs import from_limbs, to_limbs
from residue.backends import Backend
from residue.backends import _cpu_kernels as kernels
from residue.backends._cpu import CpuBackend
from residue.errors import BackendError

MODULUS = 2**1024 - 105
N = 48


@pytest.fixture
def one() -> Iterator[CpuBackend]:
    backend = CpuBackend(workers=1)
    yield backend
    backend.close()


@pytest.fixture(scope="module")
def many() -> Iterator[CpuBackend]:
    """Two workers that find every batch worth spreading."""
    backend = CpuBackend(workers=2)
    backend._shares = lambda parts, *_, **__: max(1, min(2, parts))  # type: ignore[method-assign]
    yield backend
    backend.close()


def operands(backend: Backend, n: int = N) -> tuple[list[Any], Any]:
    values = [mpz(secrets.randbelow(MODULUS - 1) + 1) for _ in range(n)]
    return values, backend.upload(backend.register(MODULUS), to_limbs(values, 16))


def results(backend: Backend, a: Any) -> list[Any]:
    return from_limbs(backend.download(a))


def test_spread_operations_give_what_python_gives(many: CpuBackend) -> None:
    values, a = operands(many)
    base = many.take(a, np.array([0]))
    e = [mpz(secrets.randbits(256)) for _ in range(N)]
    exponents = to_limbs(e, 4)
    E = np.random.default_rng(0).integers(-(2**20) + 1, 2**20, (N, 3))
    index = np.tile(np.arange(N), 6)
    offsets = np.array([0, 10, 10, 200, len(index)])
    assert results(many, many.pow(a, exponents, 256)) == [
        gmpy2.powmod(v, x, MODULUS) for v, x in zip(values, e, strict=True)
    ]
    assert results(many, many.pow_fixed(base, exponents, 256)) == [
        gmpy2.powmod(values[0], x, MODULUS) for x in e
    ]
    expected = [mpz(1)] * 3
    for v, row in zip(values, E.tolist(), strict=True):
        powers = [gmpy2.powmod(v, x, MODULUS) for x in row]
        expected = [r * x % MODULUS for r, x in zip(expected, powers, strict=True)]
    assert results(many, many.multi_pow(a, E, 20)) == expected
    assert results(many, many.prod(a, index, offsets)) == kernels.prod(
        mpz(MODULUS),
        values,
        [index[i:j].tolist() for i, j in pairwise(offsets)],
    )
    assert many._pool.started


def test_a_worker_that_dies_costs_nothing_but_time(
    many: CpuBackend, caplog: pytest.LogCaptureFixture
) -> None:
    values, a = operands(many)
    exponents = to_limbs([mpz(5)] * N, 1)
    base = many.take(a, np.array([0]))
    many.pow_fixed(base, exponents, 3)
    worker = many._pool._workers[0]
    worker.process.kill()
    worker.process.wait()
    with caplog.at_level(logging.WARNING):
        again = many.pow_fixed(base, exponents, 3)
    assert results(many, again) == [gmpy2.powmod(values[0], 5, MODULUS)] * N
    assert "worker process ended early" in caplog.text
    assert results(many, many.pow_fixed(base, exponents, 3)) == results(many, again)


def test_missing_inverse_is_reported_from_a_worker_too(many: CpuBackend) -> None:
    modulus = 3 * (2**127 - 1)
    values = [mpz(5)] * (N - 1) + [mpz(3)]
    a = many.upload(many.register(modulus), to_limbs(values, 3))
    with pytest.raises(BackendError, match="no inverse"):
        many.multi_pow(a, np.full((N, 1), -1), 4)
    assert results(many, many.multi_pow(a, np.ones((N, 1), dtype=np.int64), 4))


def test_workers_are_left_to_the_parent_after_a_fork(many: CpuBackend) -> None:
    values, a = operands(many)
    base, exponents = many.take(a, np.array([0])), to_limbs([mpz(7)] * N, 1)
    many.pow_fixed(base, exponents, 3)
    child = os.fork()
    if not child:
        right = (
            results(many, many.pow_fixed(base, exponents, 3))
            == [gmpy2.powmod(values[0], 7, MODULUS)] * N
        )
        many.close()
        os._exit(0 if right else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert (
        results(many, many.pow_fixed(base, exponents, 3))
        == [gmpy2.powmod(values[0], 7, MODULUS)] * N
    )


def test_line3_pow_uses_the_constant_time_power(
    one: CpuBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, a = operands(one)
    monkeypatch.setattr(gmpy2, "powmod", None)
    monkeypatch.setattr(gmpy2, "powmod_base_list", None)
    for exponents in (to_limbs([mpz(7)], 1), to_limbs([mpz(7)] * N, 1)):
        assert len(one.pow(a, exponents, 3)) == N
        with pytest.raises(TypeError):
            one.pow_var(a, exponents, 3)


def test_a_comb_table_grows_with_its_use(one: CpuBackend) -> None:
    windows = [one._comb_window(MODULUS, 2, 512, 10) for _ in range(400)]
    assert windows == sorted(windows)
    assert windows[0] < 5
    assert windows[-1] >= 8


def test_counts_what_it_did(one: CpuBackend) -> None:
    _, a = operands(one)
    one.mul(a, a)
    one.inverse(a)
    stats = one.stats()
    assert stats["mul"].calls == 1
    assert stats["mul"].elements == stats["mul"].products == N
    assert stats["inverse"].products == 3 * N
    one.reset_stats()
    assert one.stats() == {}


def test_closed_backend_refuses(one: CpuBackend) -> None:
    _, a = operands(one)
    one.close()
    with pytest.raises(BackendError, match="closed"):
        one.mul(a, a)
    assert one.describe()["healthy"] is False


def test_arrays_of_another_backend_are_refused(one: CpuBackend) -> None:
    class Foreign:
        def __len__(self) -> int:
            return 1

    with pytest.raises(BackendError, match="another backend"):
        one.download(Foreign())  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["0", "-1", "two"])
def test_workers_must_be_a_positive_number(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESIDUE_CPU_WORKERS", text)
    with pytest.raises(BackendError, match="RESIDUE_CPU_WORKERS"):
        CpuBackend()
    with pytest.raises(BackendError, match="at least 1"):
        CpuBackend(workers=0)


def test_moduli_do_not_show(one: CpuBackend) -> None:
    assert str(MODULUS) not in repr(one.register(MODULUS))
