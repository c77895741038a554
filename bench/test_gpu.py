"""Paillier operations on a GPU, as a fraction of what its multipliers could do.

``pytest bench/test_gpu.py -p no:cacheprovider --benchmark-only -s`` prints a line each. Skipped
where no GPU is. What is compared with the limit are the products that the operation needs, at four
32-bit multiply-adds for each pair of words (low and high halves, product and reduction), also where
a squaring takes only three quarters of that, so that the fraction may pass 1; the limit
is what NVIDIA's programming guide gives for integers, at the highest clock.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from residue.backends import get_backend
from residue.backends._gpu import GpuBackend
from residue.backends._gpu_build import GROUPS
from residue.errors import BackendError
from residue.paillier import PrivateKey, PublicKey, keygen

N = 1 << 14
ROWS, INNER, COLUMNS = 160, 100, 2
MULTIPLY_ADDS_A_CLOCK = 64  # a multiprocessor, compute capability 7.0 to 9.0


@pytest.fixture(scope="module")
def gpu() -> GpuBackend:
    try:
        backend = get_backend("gpu")
    except BackendError as error:
        pytest.skip(f"no GPU: {error}")
    assert isinstance(backend, GpuBackend)
    return backend


@pytest.fixture(scope="module", params=[1024, 2048, 3072])
def keys(request: pytest.FixtureRequest, gpu: GpuBackend) -> tuple[PublicKey, PrivateKey]:
    return keygen(request.param, insecure_allow_1024=True, device=gpu)


def _measure(
    benchmark: Any, gpu: GpuBackend, turn: Callable[[], Any], operations: int, bits: int
) -> None:
    """Time `turn`, whose products are modulo numbers of `bits` bits."""

    def whole() -> None:
        turn()
        gpu.synchronize()

    whole()  # tables are built
    gpu.reset_stats()
    whole()
    products = sum(stats.products for stats in gpu.stats().values())
    benchmark.pedantic(whole, rounds=7, warmup_rounds=1)
    seconds = benchmark.stats.stats.median
    device = gpu.device
    limit = device.processors * device.clock_hz * MULTIPLY_ADDS_A_CLOCK
    fraction = products * 4 * (-(-bits // 32)) ** 2 / seconds / limit
    facts = {
        "device": device.name,
        "operations_per_second": round(operations / seconds),
        "products_per_second": round(products / seconds),
        "fraction_of_multiply_add_limit": round(fraction, 4),
    }
    benchmark.extra_info.update(facts)
    print(benchmark.name, facts)


@pytest.mark.parametrize("operation", ["encrypt", "decrypt", "add", "matmul"])
def test_paillier(benchmark: Any, gpu: GpuBackend, keys: Any, operation: str) -> None:
    """As a user calls them: host work and transfers included."""
    pk, sk = keys
    rng = np.random.default_rng(1)
    values = rng.normal(size=N)
    benchmark.group = f"{operation} {pk.bits}"
    if operation == "encrypt":
        _measure(benchmark, gpu, lambda: pk.encrypt(values), N, 2 * pk.bits)
        return
    c = pk.encrypt(values)
    if operation == "matmul":
        matrix = c[: ROWS * INNER].reshape(ROWS, INNER)
        factors = rng.normal(size=(INNER, COLUMNS))
        count = ROWS * INNER * COLUMNS
        _measure(benchmark, gpu, lambda: matrix @ factors, count, 2 * pk.bits)
    elif operation == "decrypt":
        _measure(benchmark, gpu, lambda: sk.decrypt(c), N, pk.bits)
    else:
        _measure(benchmark, gpu, lambda: c + c, N, 2 * pk.bits)


@pytest.mark.parametrize("threads", GROUPS)
@pytest.mark.parametrize("bits", [1024, 2048, 4096, 6144])
def test_groups(benchmark: Any, gpu: GpuBackend, bits: int, threads: int) -> None:
    """Powers on the device alone, by groups of each size: which one is best for a modulus."""
    backend = GpuBackend(gpu.device, threads=threads)
    try:
        modulus = backend.register((1 << bits) - 1)
    except BackendError as error:
        pytest.skip(str(error))
    a = backend.upload(modulus, np.full((N, modulus.limbs), 3, np.uint64))
    exponent = np.full((1, 4), 0xA5A5A5A5A5A5A5A5, np.uint64)
    benchmark.group = f"pow {bits}"
    _measure(benchmark, backend, lambda: backend.pow(a, exponent, 256), N, bits)
