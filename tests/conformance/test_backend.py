"""Every backend gives what Python's integers give, bit for bit, and refuses the same misuse."""

from __future__ import annotations

import functools
import itertools
import math
import random
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gmpy2
import numpy as np
import pytest
from gmpy2 import mpz

from residue._limbs import from_limbs, to_limbs
from residue.backends import Backend, Modulus, ResidueArray
from residue.backends._auto import AutoBackend
from residue.backends._card import CardBackend
from residue.backends._cards import CardsBackend
from residue.backends._cpu import CpuBackend
from residue.backends._cpu_native import GMPY2, NativeBackend, available_kernels, open_cpu
from residue.backends._gpus import GpusBackend
from residue.backends._protocol import (
    SupportsMultiPowVar,
    SupportsPowModuli,
    SupportsPowVar,
)
from residue.backends._rows import multi_pow_rows
from residue.backends._squares import binomials, logarithms, reduce
from residue.errors import BackendError, CorruptResult
from residue.owner import Owner, OwnerBackend
from residue_sim.board import Board, InProcess
from residue_sim.card_model import ModelBoard
from residue_sim.gpu import FakeCupy, emulated_gpu
from residue_sim.manifest import configurations


def _card(configuration: str = "r21", **options: Any) -> CardBackend:
    partial = options.pop("partial_writes", False)
    board = ModelBoard(configurations()[configuration], partial_writes=partial)
    return CardBackend(board, **options)


class _Owned(OwnerBackend):
    """A session of an owner that ends with it."""

    def __init__(self, backend: Backend) -> None:
        self._folder = tempfile.TemporaryDirectory()
        path = Path(self._folder.name) / "socket"
        self._owner = Owner(lambda: backend, path)
        super().__init__(path)

    def close(self) -> None:
        super().close()
        self._owner.close()
        self._folder.cleanup()


MAKERS: dict[str, Callable[[], Backend]] = {
    # On gmpy2, and on every native kernel that this processor can run.
    "cpu": lambda: CpuBackend(workers=1),
    **{
        name: functools.partial(open_cpu, workers=2, kernel=name)
        for name in available_kernels()
        if name != GMPY2
    },
    # A remote board of four rings, with all results checked, and a small queue that wraps around.
    "card": lambda: _card("kv260", check_rate=1.0, queue_size=4, staging_bytes=1 << 16),
    # A local board of Karatsuba elements: digits of 50 bits, two a word.
    "card-local": lambda: _card("k11", partial_writes=True, check_rate=0.0),
    # Digits of 48 bits; 64 KiB of memory for arrays: most operations are computed in parts.
    "card-full": lambda: _card(
        "pynq-z2",
        check_rate=0.0,
        staging_bytes=1 << 13,
        arena_bytes=1 << 15,
        memory_limit=1 << 16,
    ),
    # Three cards of two kinds; even small batches are spread.
    "cards": lambda: CardsBackend(
        [_card(name, check_rate=0.0) for name in ("r21", "k11", "r21")], least=2
    ),
    # The card itself, co-simulated.
    "board": lambda: CardBackend(InProcess(Board("small")), check_rate=0.0),
    # The GPU's kernels and all of its backend's Python, on the CPU; groups of 4 to 32 threads.
    # Streams run as late as they may; those of copies, on the second of `gpus`, as early.
    "gpu": lambda: emulated_gpu(FakeCupy(eager=())),
    "gpus": lambda: GpusBackend(
        [emulated_gpu(), emulated_gpu(FakeCupy(eager=(1,)), threads=16)], least=2
    ),
    # A card's owner, large batches in slices; here a thread of this process.
    "owner": lambda: _Owned(_card("r21", check_rate=0.0)),
    "auto": lambda: AutoBackend(CpuBackend(workers=1), _card),
    # The card takes moduli up to 1024 bits, the CPU the others.
    "auto-small": lambda: AutoBackend(CpuBackend(workers=1), lambda: _card("small")),
}

# The kernel for AVX512-IFMA on lanes that check every bound, whatever processor this is; in
# make test-full, as it takes a minute to build.
CHECKED = "avx512ifma-checked"

SIZES = [512, 1024, 2048, 4096]
# Also the largest modulus of any card, where it has that many bits.
LARGEST = dict.fromkeys(["card", "card-local", "gpu", *available_kernels()[:-1]], 6144)
# Sizes above these are for make test-full.
_LONG = {CHECKED: 0, "gpu": 2048, "gpus": 512, "portable": 1024, "auto-small": 2048}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "modulus" in metafunc.fixturenames:
        pairs = [
            (name, bits)
            for name in (*MAKERS, CHECKED)
            for bits in SIZES
            if name not in ("board", CHECKED) or bits < 2048
        ]
        pairs += LARGEST.items()
        long = [pytest.mark.full]
        cases = [
            pytest.param(name, bits, marks=long if _LONG.get(name, bits) < bits else [])
            for name, bits in pairs
        ]
        metafunc.parametrize(("backend", "modulus"), cases, indirect=True, scope="module")
    elif "backend" in metafunc.fixturenames:
        checked = pytest.param(CHECKED, marks=pytest.mark.full)
        metafunc.parametrize("backend", [*MAKERS, checked], indirect=True, scope="module")


@pytest.fixture(scope="module")
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    if request.param == CHECKED:
        module = request.getfixturevalue("verifying")
        made: Backend = NativeBackend("avx512ifma", workers=1, native=module)
    else:
        made = MAKERS[request.param]()
    yield made
    made.close()


@functools.cache
def _factors(bits: int) -> tuple[int, int]:
    """Two primes whose product has exactly `bits` bits."""
    rng = random.Random(bits)
    half = bits // 2
    p, q = (int(gmpy2.next_prime(rng.getrandbits(half) | 3 << (half - 2))) for _ in range(2))
    assert (p * q).bit_length() == bits
    return p, q


@pytest.fixture(scope="module")
def modulus(request: pytest.FixtureRequest, backend: Backend) -> Modulus:
    return backend.register(math.prod(_factors(request.param)))


@pytest.fixture(scope="module")
def small(backend: Backend) -> Modulus:
    """A modulus that keeps misuse tests short."""
    return backend.register(math.prod(_factors(512)))


def _values(modulus: Modulus, n: int, seed: int = 1) -> list[int]:
    """0, 1, N - 1, then random residues."""
    rng = random.Random(seed)
    edges = [0, 1, modulus.value - 1]
    return (edges + [rng.randrange(modulus.value) for _ in range(n)])[:n]


def _units(modulus: Modulus, n: int, seed: int = 2) -> list[int]:
    rng = random.Random(seed)
    return [1, modulus.value - 1, *(rng.randrange(2, modulus.value) for _ in range(n))][:n]


def _limbs(values: list[int], limbs: int) -> np.ndarray[Any, np.dtype[np.uint64]]:
    return to_limbs([mpz(v) for v in values], limbs)


def _up(backend: Backend, modulus: Modulus, values: list[int]) -> ResidueArray:
    return backend.upload(modulus, _limbs(values, modulus.limbs))


def _down(backend: Backend, array: ResidueArray) -> list[int]:
    limbs = backend.download(array)
    assert limbs.dtype == np.uint64
    assert limbs.shape == (len(array), array.modulus.limbs)
    return [int(v) for v in from_limbs(limbs)]


# --- arithmetic ---------------------------------------------------------------------------------


def test_upload_download(backend: Backend, modulus: Modulus) -> None:
    values = _values(modulus, 40)
    array = _up(backend, modulus, values)
    assert len(array) == 40
    assert array.modulus == modulus
    assert _down(backend, array) == values
    assert _down(backend, array) == values


def test_mul(backend: Backend, modulus: Modulus) -> None:
    n = modulus.value
    xs, ys = _values(modulus, 12), _values(modulus, 12, seed=3)[::-1]
    a, b, one = (_up(backend, modulus, v) for v in (xs, ys, xs[-1:]))
    assert _down(backend, backend.mul(a, b)) == [x * y % n for x, y in zip(xs, ys, strict=True)]
    assert _down(backend, backend.mul(a, one)) == [x * xs[-1] % n for x in xs]
    assert _down(backend, backend.mul(one, a)) == [x * xs[-1] % n for x in xs]
    assert _down(backend, backend.mul(one, one)) == [xs[-1] ** 2 % n]
    assert _down(backend, backend.mul(a, a)) == [x * x % n for x in xs]


@pytest.mark.parametrize("bits", [1, 4, 63, 128, 200])
def test_pow(backend: Backend, modulus: Modulus, bits: int) -> None:
    n = modulus.value
    rng = random.Random(bits)
    xs = _values(modulus, 6)
    es = [0, (1 << bits) - 1, 1, *(rng.getrandbits(bits) for _ in range(3))]
    limbs = -(-bits // 64)
    a = _up(backend, modulus, xs)
    expected = [pow(x, e, n) for x, e in zip(xs, es, strict=True)]
    assert _down(backend, backend.pow(a, _limbs(es, limbs), bits)) == expected
    shared = backend.pow(a, _limbs(es[1:2], limbs + 1), bits)
    assert _down(backend, shared) == [pow(x, es[1], n) for x in xs]


def test_pow_var(backend: Backend, small: Modulus) -> None:
    """Where a backend offers it, it gives what `pow` gives."""
    if not isinstance(backend, SupportsPowVar):
        assert backend.name in ("card", "cards", "gpus")
        return
    xs, es = _values(small, 5), [0, 1, 2, 255, 77]
    result = backend.pow_var(_up(backend, small, xs), _limbs(es, 1), 8)
    assert _down(backend, result) == [pow(x, e, small.value) for x, e in zip(xs, es, strict=True)]
    for e in (0, 1, 1 << 63, 1 << 64, 1 << 82, 1 << 82 | 1, 1 << 82 | 1 << 3):  # one for all
        result = backend.pow_var(_up(backend, small, xs), _limbs([e], 2), 83)
        assert _down(backend, result) == [pow(x, e, small.value) for x in xs]


def test_pow_with_long_exponents(backend: Backend, small: Modulus) -> None:
    """Longer than what any card takes at once."""
    rng = random.Random(5)
    bits = 4500
    xs, es = _values(small, 4), [(1 << bits) - 1, 0, 1, rng.getrandbits(bits)]
    result = backend.pow(_up(backend, small, xs), _limbs(es, 71), bits)
    assert _down(backend, result) == [pow(x, e, small.value) for x, e in zip(xs, es, strict=True)]


@pytest.mark.parametrize("bits", [1, 64, 300])
def test_pow_fixed(backend: Backend, modulus: Modulus, bits: int) -> None:
    n = modulus.value
    rng = random.Random(bits)
    limbs = -(-bits // 64)
    for value in (_units(modulus, 3)[2], 0, n - 1):
        base = _up(backend, modulus, [value])
        # The table grows with use: few results first, then more.
        for count in (1, 4):
            es = [0, 1, (1 << bits) - 1, rng.getrandbits(bits)][-count:]
            powers = backend.pow_fixed(base, _limbs(es, limbs), bits)
            assert _down(backend, powers) == [pow(value, e, n) for e in es]


def test_pow_fixed_with_long_exponents(backend: Backend, small: Modulus) -> None:
    rng = random.Random(6)
    es = [(1 << 4500) - 1, 0, rng.getrandbits(4500)]
    base = _up(backend, small, _units(small, 3)[2:])
    (value,) = _down(backend, base)
    result = backend.pow_fixed(base, _limbs(es, 71), 4500)
    assert _down(backend, result) == [pow(value, e, small.value) for e in es]


def test_prod(backend: Backend, modulus: Modulus) -> None:
    rng = np.random.default_rng(7)
    xs = _units(modulus, 20)
    index = rng.integers(0, len(xs), 60)
    offsets = np.array([0, 0, 1, 3, 40, 40, 60])
    expected = [
        math.prod(xs[i] for i in index[lo:hi]) % modulus.value
        for lo, hi in itertools.pairwise(offsets)
    ]
    assert _down(backend, backend.prod(_up(backend, modulus, xs), index, offsets)) == expected


@pytest.mark.parametrize(
    "lengths",
    [
        [1] * 9,
        [500],
        [200, 0, 3],
        [0, 0],
        [2, 2, 2, 97],
        [9, 1, 4] * 60 + [150, 0, 99],
    ],
    ids=lambda lengths: f"{len(lengths)}-of-{max(lengths)}",
)
def test_prod_segments(backend: Backend, small: Modulus, lengths: list[int]) -> None:
    rng = np.random.default_rng(sum(lengths))
    xs = _values(small, 30)[2:]
    index = rng.integers(0, len(xs), sum(lengths))
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    expected = []
    for lo, hi in itertools.pairwise(offsets):
        product = 1
        for i in index[lo:hi]:
            product = product * xs[i] % small.value
        expected.append(product)
    # A strided view and its parent give the same products.
    a = _up(backend, small, [x for x in xs for _ in range(2)])
    view = backend.take(a, np.arange(0, 2 * len(xs), 2))
    assert _down(backend, backend.prod(view, index, offsets)) == expected


@pytest.mark.parametrize(
    ("rows", "columns", "bits"), [(1, 1, 1), (5, 3, 8), (7, 2, 62), (40, 1, 20)]
)
def test_multi_pow(backend: Backend, modulus: Modulus, rows: int, columns: int, bits: int) -> None:
    rng = np.random.default_rng(bits)
    limit = (1 << bits) - 1
    exponents = rng.integers(-limit, limit, (rows, columns), endpoint=True, dtype=np.int64)
    exponents.flat[:4] = [limit, -limit, 0, -1][: exponents.size]
    xs = _units(modulus, rows)
    expected = [
        math.prod(pow(x, int(e), modulus.value) for x, e in zip(xs, column, strict=True))
        % modulus.value
        for column in exponents.T
    ]
    result = backend.multi_pow(_up(backend, modulus, xs), exponents, bits)
    assert _down(backend, result) == expected


@pytest.mark.parametrize(("r", "n", "m"), [(1, 1, 1), (3, 5, 2), (7, 40, 30), (2, 0, 2)])
def test_multi_pow_of_rows(backend: Backend, small: Modulus, r: int, n: int, m: int) -> None:
    """Few results by tables, many by buckets; all rows at once or one by one."""
    rng = random.Random(r)
    values = _units(small, 41)
    index = np.array([rng.randrange(41) for _ in range(r * n)], np.int64).reshape(r, n)
    exponents = np.array([rng.randrange(-200, 200) for _ in range(n * m)], np.int64)
    exponents = exponents.reshape(n, m)
    powers = multi_pow_rows(backend, _up(backend, small, values), index, exponents, 8)
    expected = [
        math.prod(pow(values[i], int(e), small.value) for i, e in zip(row, column, strict=True))
        % small.value
        for row in index.tolist()
        for column in exponents.T
    ]
    assert _down(backend, powers) == expected


def test_multi_pow_of_many_bases(backend: Backend, small: Modulus) -> None:
    """More digits than an exponent string holds."""
    rng = np.random.default_rng(8)
    exponents = rng.integers(-7, 7, (600, 2), endpoint=True, dtype=np.int64)
    xs = _units(small, 600)
    expected = [
        math.prod(pow(x, int(e), small.value) for x, e in zip(xs, column, strict=True))
        % small.value
        for column in exponents.T
    ]
    assert _down(backend, backend.multi_pow(_up(backend, small, xs), exponents, 3)) == expected


@pytest.mark.parametrize(
    ("rows", "columns", "bits"), [(1, 1, 1), (7, 2, 62), (90, 1, 12), (40, 3, 1)]
)
def test_multi_pow_var(
    backend: Backend, small: Modulus, rows: int, columns: int, bits: int
) -> None:
    assert isinstance(backend, SupportsMultiPowVar)
    rng = np.random.default_rng(rows)
    limit = (1 << bits) - 1
    exponents = rng.integers(-limit, limit, (rows, columns), endpoint=True, dtype=np.int64)
    xs = _units(small, rows)
    expected = [
        math.prod(pow(x, int(e), small.value) for x, e in zip(xs, column, strict=True))
        % small.value
        for column in exponents.T
    ]
    result = backend.multi_pow_var(_up(backend, small, xs), exponents, bits)
    assert _down(backend, result) == expected
    none = backend.multi_pow_var(_up(backend, small, []), np.zeros((0, 2), np.int64), bits)
    assert _down(backend, none) == [1, 1]


# --- squares ------------------------------------------------------------------------------------


def _square(backend: Backend, bits: int) -> tuple[int, Modulus]:
    root = math.prod(_factors(bits))
    return root, backend.register(root**2)


@pytest.mark.parametrize("bits", [66, 256, 512])
def test_binomials(backend: Backend, bits: int) -> None:
    root, modulus = _square(backend, bits)
    rng = random.Random(bits)
    top = 1 << 63
    m = [0, 1, -1, top - 1, -top, *(rng.randrange(-top, top) for _ in range(9))]
    for values in (np.array(m), np.array([*m, root - 1, 3 * root + 1, -root], dtype=object)):
        array = binomials(backend, modulus, values)
        assert _down(backend, array) == [(1 + v * root) % root**2 for v in values.tolist()]
        assert _down(backend, backend.mul(array, array)) == [
            (1 + 2 * v * root) % root**2 for v in values.tolist()
        ]
    assert len(binomials(backend, modulus, np.zeros(0, np.int64))) == 0


@pytest.mark.parametrize("bits", [66, 256, 512])
def test_reduce(backend: Backend, bits: int, small: Modulus) -> None:
    """Numbers of one limb, of those of the modulus, of its square, and of more."""
    _, modulus = _square(backend, bits)
    value, limbs = modulus.value, modulus.limbs
    for width in (1, limbs, 2 * limbs, 2 * limbs + 3):
        rng = random.Random(width)
        top = (1 << 64 * width) - 1
        xs = [0, 1, top, top - 1, *(rng.randrange(top) for _ in range(20))]
        xs += [x for x in (value - 1, value, value + 1, value**2 - 1, value**2) if x <= top]
        arrays = reduce(backend, [modulus, small, modulus], _limbs(xs, width))
        for array, m in zip(arrays, (modulus, small, modulus), strict=True):
            assert array.modulus == m
            assert _down(backend, array) == [x % m.value for x in xs]
    assert len(reduce(backend, [modulus], np.zeros((0, 3), np.uint64))[0]) == 0


@pytest.mark.parametrize("bits", [66, 256, 512])
def test_logarithms(backend: Backend, bits: int) -> None:
    root, modulus = _square(backend, bits)
    rng = random.Random(bits)
    m = [0, 1, root - 1, *(rng.randrange(root) for _ in range(18))]
    array = binomials(backend, modulus, np.array(m, dtype=object))
    found = logarithms(backend, array)
    assert found.shape == (len(m), -(-bits // 64))
    assert [int(v) for v in from_limbs(found)] == m
    for wrong in (0, 2, root, root + 2, root - 1, root**2 - 1):
        residues = [(1 + v * root) % root**2 for v in m]
        residues[-1] = wrong
        with pytest.raises(CorruptResult, match="nothing was released"):
            logarithms(backend, _up(backend, modulus, residues))


def test_bad_squares(backend: Backend, small: Modulus) -> None:
    _, modulus = _square(backend, 256)
    for numbers in (np.zeros(2), np.zeros((2, 2), np.int64), np.zeros(2, np.int32)):
        with pytest.raises(BackendError, match="numbers must be"):
            binomials(backend, modulus, numbers)
    bad: list[Any] = [
        np.zeros((2, 3), np.int64),
        np.zeros(3, np.uint64),
        np.zeros((2, 0), np.uint64),
    ]
    for values in bad:
        with pytest.raises(BackendError, match="integers must be"):
            reduce(backend, [small], values)


@pytest.mark.parametrize("bits", [1, 200, pytest.param(4500, marks=pytest.mark.full)])
def test_pow_moduli(backend: Backend, small: Modulus, bits: int) -> None:
    """Moduli of two sizes, one of them twice; in no order."""
    assert isinstance(backend, SupportsPowModuli)
    rng = random.Random(bits)
    larger = math.prod(_factors(700))
    moduli = [Modulus(v) for v in (small.value, larger, small.value - 2, small.value, larger - 2)]
    limbs = moduli[1].limbs
    for _ in range(2 if bits < 4500 else 1):  # each on its own, then many
        bases = [rng.choice([0, 1, m.value - 1, rng.randrange(m.value)]) for m in moduli]
        es = [rng.getrandbits(bits) for _ in moduli]
        powers = backend.pow_moduli(moduli, _limbs(bases, limbs), _limbs(es, -(-bits // 64)), bits)
        assert [int(v) for v in from_limbs(powers)] == [
            pow(b, e, m.value) for b, e, m in zip(bases, es, moduli, strict=True)
        ]
        moduli = moduli * 9
    shared = _limbs([es[0]], -(-bits // 64))
    powers = backend.pow_moduli([small, small], _limbs([3, 5], small.limbs), shared, bits)
    assert [int(v) for v in from_limbs(powers)] == [pow(x, es[0], small.value) for x in (3, 5)]
    empty = np.zeros((0, 3), np.uint64)
    assert backend.pow_moduli([], empty, np.zeros((0, 1), np.uint64), bits).shape == (0, 3)


def test_bad_pow_moduli(backend: Backend, small: Modulus) -> None:
    assert isinstance(backend, SupportsPowModuli)
    good, one = _limbs([3], small.limbs), np.ones((1, 1), np.uint64)
    bad: list[tuple[list[Modulus], Any, Any, int]] = [
        ([small, small], good, one, 1),
        ([small], good[:, :-1], one, 1),
        ([small], _limbs([small.value], small.limbs), one, 1),
        ([small], _limbs([1 << 600], 10), one, 1),
        ([small], good, one * np.uint64(2), 1),
        ([Modulus(small.value + 1)], good, one, 1),
        ([Modulus(15)], good, one, 1),
    ]
    for moduli, bases, exponents, bits in bad:
        with pytest.raises(BackendError):
            backend.pow_moduli(moduli, bases, exponents, bits)


def test_multi_pow_of_a_base_without_inverse(backend: Backend, small: Modulus) -> None:
    p, _ = _factors(512)
    a = _up(backend, small, [0, p, 3])
    result = backend.multi_pow(a, np.array([[0, 1, 0], [2, 0, 0], [-1, -2, 3]]), 4)
    third = pow(3, -1, small.value)
    assert _down(backend, result) == [p * p * third % small.value, 0, 27]
    with pytest.raises(BackendError, match="inverse"):
        backend.multi_pow(a, np.array([[1], [-1], [1]]), 4)


@pytest.mark.parametrize("length", [1, 2, 33, 101])
def test_inverse(backend: Backend, small: Modulus, length: int) -> None:
    xs = _units(small, length)
    inverses = backend.inverse(_up(backend, small, xs))
    assert _down(backend, inverses) == [pow(x, -1, small.value) for x in xs]


def test_inverse_at_size(backend: Backend, modulus: Modulus) -> None:
    xs = _units(modulus, 35)
    inverses = backend.inverse(_up(backend, modulus, xs))
    assert _down(backend, inverses) == [pow(x, -1, modulus.value) for x in xs]


@pytest.mark.parametrize("length", [2, 50])
def test_inverse_that_does_not_exist(backend: Backend, small: Modulus, length: int) -> None:
    p, _ = _factors(512)
    a = _up(backend, small, [*_units(small, length), p])
    with pytest.raises(BackendError, match="inverse"):
        backend.inverse(a)
    assert _down(backend, a)[-1] == p


# --- arrays -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "index",
    [
        np.arange(9),
        np.arange(2, 9, 3),
        np.array([4]),
        np.array([8, 8, 0, 3]),
        np.arange(8, -1, -1),
        np.zeros(5, np.int64),
        np.zeros(0, np.int64),
    ],
    ids=["all", "strided", "one", "gather", "reversed", "repeated", "none"],
)
def test_take(backend: Backend, small: Modulus, index: np.ndarray[Any, Any]) -> None:
    xs = _values(small, 9)
    a = _up(backend, small, xs)
    taken = backend.take(a, index)
    assert _down(backend, taken) == [xs[i] for i in index]
    squares = backend.mul(taken, taken)
    assert _down(backend, squares) == [xs[i] ** 2 % small.value for i in index]


def test_concat(backend: Backend, small: Modulus) -> None:
    xs = _values(small, 9)
    a = _up(backend, small, xs)
    parts = [a, backend.take(a, np.arange(1, 9, 2)), _up(backend, small, []), backend.mul(a, a)]
    joined = backend.concat(parts)
    assert _down(backend, joined) == [*xs, *xs[1::2], *(x * x % small.value for x in xs)]
    with pytest.raises(BackendError):
        backend.concat([])


def test_arguments_stay_valid(backend: Backend, small: Modulus) -> None:
    xs = _values(small, 5)
    values = _limbs(xs, small.limbs)
    a = backend.upload(small, values)
    values[:] = 0
    exponents = np.full((5, 1), 3, np.uint64)
    cubes = backend.pow(a, exponents, 2)
    exponents[:] = 0
    downloaded = backend.download(cubes)
    downloaded[:] = 0
    assert _down(backend, cubes) == [pow(x, 3, small.value) for x in xs]
    assert _down(backend, a) == xs


def test_long_chain(backend: Backend, small: Modulus) -> None:
    """More operations in a row than a queue holds, without waiting in between."""
    x = 3
    a = _up(backend, small, [x])
    for _ in range(150):
        a = backend.mul(a, a)
        x = x * x % small.value
    a.wait()
    assert _down(backend, a) == [x]


def test_empty(backend: Backend, small: Modulus) -> None:
    none = _up(backend, small, [])
    some = _up(backend, small, [5])
    no_exponents = np.zeros((0, 1), np.uint64)
    no_index = np.zeros(0, np.int64)
    for result in (
        backend.mul(none, none),
        backend.mul(none, some),
        backend.pow(none, no_exponents, 8),
        backend.pow_fixed(some, no_exponents, 8),
        backend.prod(some, no_index, np.zeros(1, np.int64)),
        backend.multi_pow(some, np.zeros((1, 0), np.int64), 8),
        backend.inverse(none),
        backend.take(some, no_index),
        backend.concat([none]),
    ):
        assert len(result) == 0
        assert _down(backend, result) == []
    assert _down(backend, backend.multi_pow(none, np.zeros((0, 2), np.int64), 8)) == [1, 1]


# --- misuse -------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0, 1, -7, 15, (1 << 64) - 1, 1 << 512, (1 << 512) + 2])
def test_bad_modulus(backend: Backend, value: int) -> None:
    with pytest.raises(BackendError, match="odd"):
        backend.register(value)


def test_bad_residues(backend: Backend, small: Modulus) -> None:
    good = _limbs([1, 2], small.limbs)
    bad: list[Any] = [
        _limbs([1, small.value], small.limbs),
        _limbs([(1 << 512) - 1], small.limbs),
        good[:, :-1],
        np.hstack([good, np.zeros((2, 1), np.uint64)]),
        good.astype(np.int64),
        good[0],
    ]
    for values in bad:
        with pytest.raises(BackendError):
            backend.upload(small, values)


def test_bad_exponents(backend: Backend, small: Modulus) -> None:
    a = _up(backend, small, [2, 3, 4])
    one = np.ones((1, 1), np.uint64)
    bad: list[tuple[Any, int]] = [
        (one * np.uint64(16), 4),
        (np.hstack([one, one]), 64),
        (np.ones((2, 1), np.uint64), 4),
        (one.astype(np.int64), 4),
        (one[0], 4),
        (one, 0),
    ]
    for exponents, bits in bad:
        with pytest.raises(BackendError):
            backend.pow(a, exponents, bits)
    base = backend.take(a, np.array([0]))
    with pytest.raises(BackendError):
        backend.pow_fixed(base, one * np.uint64(16), 4)
    with pytest.raises(BackendError):
        backend.pow_fixed(a, one, 4)


def test_bad_short_exponents(backend: Backend, small: Modulus) -> None:
    a = _up(backend, small, [2, 3])
    bad: list[tuple[Any, int]] = [
        (np.full((2, 1), 8), 3),
        (np.full((2, 1), -8), 3),
        (np.ones((3, 1), np.int64), 3),
        (np.ones((2, 1), np.uint64), 3),
        (np.ones(2, np.int64), 3),
        (np.ones((2, 1), np.int64), 63),
        (np.ones((2, 1), np.int64), 0),
    ]
    for exponents, bits in bad:
        with pytest.raises(BackendError):
            backend.multi_pow(a, exponents, bits)


def test_bad_indices(backend: Backend, small: Modulus) -> None:
    a = _up(backend, small, [2, 3])
    for index in (np.array([2]), np.array([-1]), np.array([0.0]), np.array([[0]])):
        with pytest.raises(BackendError):
            backend.take(a, index)
        with pytest.raises(BackendError):
            backend.prod(a, index, np.array([0, 1]))
    for offsets in ([1, 2], [0, 1], [0, 2, 1, 2], []):
        with pytest.raises(BackendError):
            backend.prod(a, np.array([0, 1]), np.array(offsets, np.int64))


def test_foreign_arrays(backend: Backend, small: Modulus) -> None:
    other = backend.register(math.prod(_factors(640)))
    a, b = _up(backend, small, [2]), _up(backend, other, [2])
    stranger = _card("small")
    foreign = _up(stranger, stranger.register(small.value), [2])
    for y in (b, foreign):
        with pytest.raises(BackendError):
            backend.mul(a, y)
        with pytest.raises(BackendError):
            backend.concat([a, y])
    with pytest.raises(BackendError):
        backend.mul(_up(backend, small, [1, 2]), _up(backend, small, [1, 2, 3]))
    with pytest.raises(BackendError):
        backend.download(foreign)
    stranger.close()


# --- housekeeping -------------------------------------------------------------------------------


def test_protocol(backend: Backend) -> None:
    assert isinstance(backend, Backend)
    assert backend.name in ("cpu", "card", "cards", "gpu", "gpus", "owner", "auto")
    facts = backend.describe()
    assert facts["name"] == backend.name
    assert facts["healthy"] is True


def test_stats(backend: Backend, small: Modulus) -> None:
    a = _up(backend, small, [2, 3])
    backend.synchronize()
    backend.reset_stats()
    assert backend.stats() == {}
    result = backend.mul(a, a)
    backend.synchronize()
    stats = backend.stats()["mul"]
    assert (stats.calls, stats.elements, stats.products) == (1, 2, 2)
    assert stats.host_seconds > 0
    assert _down(backend, result) == [4, 9]


def test_clear_secrets(backend: Backend, small: Modulus) -> None:
    a = _up(backend, small, [2, 3])
    cubes = backend.pow(a, np.full((1, 1), 3, np.uint64), 2)
    backend.clear_secrets()
    assert _down(backend, backend.mul(cubes, a)) == [16, 81]


def test_closed() -> None:
    for make in MAKERS.values():
        backend = make()
        modulus = backend.register(math.prod(_factors(512)))
        a = _up(backend, modulus, [2])
        backend.close()
        with pytest.raises(BackendError, match="closed"):
            backend.mul(a, a)
