"""Native kernels: bounds, edges, constant time, sanitizers, and which of them is chosen."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from gmpy2 import mpz
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from residue._limbs import from_limbs, to_limbs
from residue.backends import _cpu_native, get_backend
from residue.backends._cpu import CpuArray, CpuBackend
from residue.backends._cpu_native import (
    GMPY2,
    NativeArray,
    NativeBackend,
    available_kernels,
    open_cpu,
)
from residue.backends._protocol import Limbs
from residue.errors import BackendError

native = pytest.importorskip("residue.backends._native")
NAMES = ["avx512ifma", "avx2", "portable"]
HERE = Path(__file__).parent
SIZES = [65, 128, 511, 512, 1023, 1024, 1025, 1536, 2048, 3072, 4096, 6144]


def moduli(bits: int) -> list[int]:
    """All ones, nearly a power of two, a long run of ones, random."""
    rng = random.Random(bits)
    return [
        (1 << bits) - 1,
        (1 << (bits - 1)) + 1,
        (1 << bits) - (1 << (bits // 2)) + 1,
        rng.getrandbits(bits) | 1 << (bits - 1) | 1,
    ]


class Kernel:
    """A field of a kernel, on integers: residues modulo n, or modulo n n as pairs."""

    def __init__(
        self, module: ModuleType, name: str, n: int, *, squared: bool = False, pool: Any = None
    ) -> None:
        self.n = n
        self.modulus = n * n if squared else n
        self.parts = 2 if squared else 1
        bits = n.bit_length()
        self.digits, self.radix = module.layout(name, bits, squared)
        self.r = 1 << (self.digits // self.parts * self.radix)
        self.limbs = -(-self.modulus.bit_length() // 64) + 1

        def constant(*parts: int) -> Limbs:
            return to_limbs([mpz(part) for part in parts], self.limbs)[None]

        inverse = -pow(n, -1, 1 << self.radix) % (1 << self.radix)
        one, scale = (self.r**k % self.modulus for k in ((1, 3) if squared else (1, 2)))
        constants = (
            [(n, (1 - self.r) % n), (one % n, one // n), (scale % n, scale // n)]
            if squared
            else [(n,), (one,), (scale,)]
        )
        self.field = module.Field(
            name, bits, *(constant(*parts) for parts in constants),
            np.array([inverse], np.uint64), pool or module.Pool(1),
        )  # fmt: skip

    def rows(self, values: list[int]) -> Limbs:
        """Residues below 2 n; or x_0 + 2 n x_1 for pairs (x_0, x_1) of such."""
        digits, mask = self.digits // self.parts, (1 << self.radix) - 1
        out = np.zeros((len(values), self.field.row), np.uint64)
        for i, value in enumerate(values):
            parts = (value,) if self.parts == 1 else divmod(value, 2 * self.n)[::-1]
            out[i, : self.digits] = [
                part >> (self.radix * k) & mask for part in parts for k in range(digits)
            ]
        return out

    def values(self, rows: Limbs) -> list[int]:
        """What the rows stand for, modulo `modulus`; all parts must be below 2 n."""
        assert not rows[:, self.digits :].any()
        assert not (rows >> np.uint64(self.radix)).any()
        parts = rows[:, : self.digits].reshape(len(rows), self.parts, -1)
        numbers = [
            [sum(int(d) << (self.radix * k) for k, d in enumerate(part)) for part in row]
            for row in parts
        ]
        assert max(map(max, numbers)) < 2 * self.n
        return [sum(part * self.n**k for k, part in enumerate(row)) for row in numbers]

    def check(self, xs: list[int], ys: list[int]) -> None:
        """Products, squares and canonical values of operands as `rows` takes them."""
        n, inverse = self.modulus, pow(self.r, -1, self.modulus)
        a, b, out = self.rows(xs), self.rows(ys), self.rows([0] * len(xs))
        xs, ys = self.values(a), self.values(b)
        for right, expected in ((b, ys), (a, xs)):
            self.field.multiply(a, right, out)
            assert [v % n for v in self.values(out)] == [
                x * y * inverse % n for x, y in zip(xs, expected, strict=True)
            ]
        self.field.square(a, 2, out)
        assert [v % n for v in self.values(out)] == [x**4 * inverse**3 % n for x in xs]
        limbs = np.empty((len(xs), self.limbs), np.uint64)
        self.field.leave(a, limbs)
        canonical = [int(v) for v in from_limbs(limbs)]
        assert canonical == [x * inverse % n for x in xs]
        self.field.enter(to_limbs([mpz(x % n) for x in xs], self.limbs), out)
        assert [v % n for v in self.values(out)] == [x * self.r % n for x in xs]
        self.field.leave(out, limbs)
        assert [int(v) for v in from_limbs(limbs)] == [x % n for x in xs]

    def check_squares(self) -> None:
        """Binomials, sums of weighted parts and logarithms."""
        rng = random.Random(self.n)
        n, r = self.modulus, self.r
        most = (1 << 63) - 1
        numbers = [0, 1, -1, most, -most - 1, *(rng.randrange(-most, most) for _ in range(6))]
        out = self.rows([0] * len(numbers))
        self.field.binomials(np.array(numbers), out)
        assert [v % n for v in self.values(out)] == [(1 + m * self.n) * r % n for m in numbers]

        ms = [m % self.n for m in numbers]
        self.field.enter(to_limbs([mpz(1 + m * self.n) for m in ms], self.limbs), out)
        found = np.empty((len(ms), self.limbs), np.uint64)
        assert self.field.logarithms(out, found)
        assert [int(m) for m in from_limbs(found)] == ms
        for wrong in (0, 2, self.n, self.n + 2, 1 | 1 << 60):
            values = [mpz(1)] * (len(ms) - 1) + [mpz(wrong)]
            self.field.enter(to_limbs(values, self.limbs), out)
            assert not self.field.logarithms(out, found)

        words = (n.bit_length() - 1) // 64
        for parts in (1, 2, 3):
            weights = [4 * self.n**2 - 1, *(rng.randrange(4 * self.n**2) for _ in range(parts - 1))]
            rows = self.rows(weights)
            weights = self.values(rows)
            top = (1 << 64 * words * parts) - 1
            xs = [0, 1, top, *(rng.randrange(top) for _ in range(7)), top]
            limbs = to_limbs([mpz(x) for x in xs], words * parts)
            self.field.weighted_sum(limbs, words, rows, out)
            mask = (1 << 64 * words) - 1
            assert [v % n for v in self.values(out)] == [
                sum((x >> 64 * words * i & mask) * w for i, w in enumerate(weights)) % n for x in xs
            ]

    def check_edges(self, *, few: int = 1) -> None:
        """`check` on every `few`-th pair of edges; of pairs, each edge beside another one."""
        values = edges(self.n)
        if self.parts == 2:
            values = [x + 2 * self.n * y for x in values for y in (values[0], x, values[-2])]
            self.check_squares()
        pairs = [(x, y) for x in values for y in values][::few]
        self.check([x for x, _ in pairs], [y for _, y in pairs])


def edges(n: int) -> list[int]:
    low = (1 << (n.bit_length() // 2)) - 1
    return [0, 1, n - 1, n, n + 1, 2 * n - 2, 2 * n - 1, low, n ^ low | 1]


@pytest.fixture(params=["compiled", "verifying"])
def module(request: pytest.FixtureRequest) -> ModuleType:
    chosen = native if request.param == "compiled" else request.getfixturevalue("verifying")
    assert isinstance(chosen, ModuleType)
    return chosen


# --- arithmetic -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bits", SIZES)
def test_layouts_keep_their_bounds(verifying: ModuleType, name: str, bits: int) -> None:
    """By the formulas of the headers: R >= 4 n or 16 n, and no column passes 64 bits."""
    for squared in (False, True) if bits <= 3072 else (False,):
        digits, radix = verifying.layout(name, bits, squared)
        parts, margin = (2, 4) if squared else (1, 2)
        assert digits % (2 * parts) == 0
        assert digits // parts * radix >= bits + margin
        product = (1 << radix) ** 2 if radix < 32 else 2 << 52  # IFMA adds two halves of 52 bits
        assert digits * product + (1 << 37) <= 1 << 64  # of pairs, x_0 y_1 + x_1 y_0


@pytest.mark.parametrize("bits", SIZES)
def test_edges(module: ModuleType, bits: int) -> None:
    for name in module.kernels():
        for n in moduli(bits):
            few = 1 if module is native else 1 + bits // 256
            Kernel(module, name, n).check_edges(few=few)
            if bits <= 3072:
                Kernel(module, name, n, squared=True).check_edges(few=8 * few + 1)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(65, 6144), st.integers(0, 2**64), st.sampled_from(available_kernels()[:-1]))
def test_random_operands(bits: int, seed: int, name: str) -> None:
    rng = random.Random(seed)
    n = rng.getrandbits(bits) | 1 << (bits - 1) | 1
    values = [rng.randrange(2 * n) for _ in range(10)]
    Kernel(native, name, n).check(values[:5], values[5:])
    if bits <= 3072:
        values = [rng.randrange(4 * n * n) for _ in range(10)]
        Kernel(native, name, n, squared=True).check(values[:5], values[5:])


@pytest.mark.full
@pytest.mark.parametrize("bits", SIZES)
def test_emulated_intrinsics(emulating: ModuleType, bits: int) -> None:
    """The very source text of the AVX512-IFMA kernel."""
    for n in moduli(bits):
        Kernel(emulating, "avx512ifma", n).check_edges()
        if bits <= 3072:
            Kernel(emulating, "avx512ifma", n, squared=True).check_edges(few=9)


def test_a_broken_bound_is_noticed(compiled: Callable[..., Path], tmp_path: Path) -> None:
    """The verifying lanes stop when a column overflows or an operand is too long."""
    source = tmp_path / "bound.cpp"
    source.write_text(
        '#include "lanes.hpp"\n'
        "using V = residue::Avx512Ifma;\n"
        "int main(int argc, char**) {\n"
        "  auto lo = V::all(argc == 2 ? ~0ull : 0), hi = V::all(0);\n"
        "  V::mac(lo, hi, V::all(argc == 3 ? 1ull << 52 : 1), V::all(1));\n"
        "}\n"
    )
    program = compiled("native_bound", "-DRESIDUE_VERIFY", "-DRESIDUE_AVX512IFMA", extra=source)
    for arguments, words in ((0, None), (1, "a column overflows"), (2, "an operand is too long")):
        run = subprocess.run(
            [program, *["x"] * arguments], capture_output=True, text=True, check=False
        )
        assert (run.returncode == 0) == (words is None)
        assert (words or "") in run.stderr


MUTANTS = [
    ("no-carry-between-blocks", "montgomery.hpp",
     "c[i] = V::add(c[i], carry);", ""),
    ("the-last-carry-lost", "montgomery.hpp",
     "const auto x = V::add(V::load(t + k * L), carry);", "const auto x = V::load(t + k * L);"),
    ("columns-not-doubled", "montgomery.hpp", "high = V::add(high, high);", ""),
    ("no-squares-on-the-diagonal", "montgomery.hpp", "V::mac(low, high, x, x);", ""),
    ("digits-not-doubled", "montgomery.hpp", "x[j] = V::add(x[j], x[j]);", ""),
    ("one-half-twice", "montgomery.hpp",
     "add_words<Wide>(b, b + h * L, h, size - h, y);", "add_words<Wide>(b, b, h, size - h, y);"),
    ("no-carry-to-the-second-half", "montgomery.hpp",
     "V::store(t + size * L, V::add(V::load(t + size * L), carry));", ""),
    ("a-strip-of-m-left-out", "montgomery.hpp",
     "add_rows<V>(m + g * L, h - g, upper, g, t + (h + g) * L);", ""),
    ("a-short-row-left-out", "montgomery.hpp",
     "if (i < size) each.template", "if (false) each.template"),
    ("r-hardly-above-n", "montgomery.hpp", "(squared ? 4 : 2)", "(squared ? 4 : -3)"),
    ("r-hardly-above-the-root", "montgomery.hpp", "(squared ? 4 : 2)", "(squared ? 0 : 2)"),
    ("room-for-one-product-of-two", "montgomery.hpp", "if (digits > room<V>(radix) ||",
     "if (digits / parts > room<V>(radix) ||"),
    ("no-carry-before-the-second-reduction", "pairs.hpp",
     "carry_and_reduce(f, 2 * K, s, m, out + K * L);", "reduce(f, s, m, out + K * L);"),
    ("the-multiple-of-n-not-subtracted", "pairs.hpp",
     "for (std::size_t k = 0; k < K; ++k) subtract(f, k, V::load(m + k * L), s);", ""),
    ("the-complement-without-its-one", "pairs.hpp",
     "V::add(V::sub(mask, m), V::load(f.n + (f.digits + k) * L))", "V::sub(mask, m)"),
    ("one-row-of-two", "pairs.hpp", "V::mac(d[i], d[i + 1], y[i], z);", ""),
    ("the-last-carry-of-a-pair-lost", "pairs.hpp",
     "V::store(s + K * L, V::add(V::load(s + K * L), other));", ""),
    ("half-of-the-middle", "pairs.hpp", "  add_product<V>(a + K * L, b, K, s);\n", ""),
    ("the-middle-of-a-square-once", "pairs.hpp", "  add_words<V>(s, s, 2 * K, 2 * K, s);\n", ""),
    ("n-in-the-low-half-is-lost", "pairs.hpp",
     "V::both(make_less(f, out), V::all(1));", "V::both(make_less(f, out), V::all(0));"),
    ("the-high-half-is-not-canonical", "pairs.hpp", "  make_less(f, high);\n", ""),
    ("n-itself-is-canonical", "montgomery.hpp", "borrow = V::shift_right(x, 63);",
     "borrow = V::all(1);"),
    ("lanes-of-the-first-row", "batch.hpp", "rows + (i < count ? i : count - 1) * row",
     "rows + (first < count ? first : count - 1) * row"),
    ("one-square-too-few", "batch.hpp", "time < times", "time + 1 < times"),
    ("binomials-without-their-one", "pairs.hpp",
     "  V::store(t, V::add(V::load(t), V::all(1)));\n", ""),
    ("negative-numbers-stay-so", "batch.hpp",
     "V::both(V::load(f.n + k * L), V::load(negative))", "V::all(0)"),
    ("signs-that-do-not-reach-the-top", "batch.hpp", "value >> (shift < 63 ? shift : 63)",
     "shift < 64 ? value >> shift : 0"),
    ("sums-that-do-not-carry", "batch.hpp",
     "      carry_digits(f, sum.lanes, f.digits, sum.lanes);\n", ""),
    ("one-weight-for-all-parts", "batch.hpp", "weights.digits + t * m.row", "weights.digits"),
    ("logarithms-of-anything", "module.cpp", "other |= pair[0] ^ 1;", ""),
    ("logarithms-of-small-residues", "module.cpp",
     "for (std::size_t k = 1; k < half; ++k) other |= pair[k];", ""),
]  # fmt: skip

_CHECKS = """
import sys
sys.path[:0] = [{tests!r}, {unit!r}]
from pathlib import Path
from conftest import load_native
from test_cpu_native import Kernel, moduli
module = load_native(Path({module!r}))
for name in module.kernels():
    for bits in (65, 112, 208, 1024, 2048, 3072, 4096, 6144):
        for n in moduli(bits):
            Kernel(module, name, n).check_edges(few=8)
            if bits <= 3072:
                Kernel(module, name, n, squared=True).check_edges(few=29)
print("right")
"""


@pytest.mark.full
@pytest.mark.parametrize("mutant", [None, *MUTANTS], ids=lambda m: m[0] if m else "none")
def test_mutants_die(
    compiled: Callable[..., Path], tmp_path: Path, mutant: tuple[str, str, str, str] | None
) -> None:
    folder = tmp_path / "sources"
    shutil.copytree(Path(_cpu_native.__file__).parent / "native", folder)
    if mutant is not None:
        _, file, line, becomes = mutant
        text = (folder / file).read_text()
        assert text.count(line) == 1
        (folder / file).write_text(text.replace(line, becomes))
    module = compiled("native_mutant", "-O1", "-DRESIDUE_VERIFY", folder=folder)
    script = _CHECKS.format(tests=str(HERE.parent), unit=str(HERE), module=str(module))
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (run.stdout == "right\n") == (mutant is None), run.stderr


# --- secrets --------------------------------------------------------------------------------------


@pytest.fixture
def secret_check(compiled: Callable[..., Path]) -> Callable[..., tuple[int, str]]:
    if shutil.which("valgrind") is None or not Path("/usr/include/valgrind/memcheck.h").exists():
        pytest.skip("no valgrind here")
    program = compiled("secret_check", "-O3", extra=HERE.parent / "native" / "secret_check.cpp")

    def check(*arguments: str) -> tuple[int, str]:
        run = subprocess.run(
            ["valgrind", "-q", "--error-exitcode=99", program, *arguments],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        return run.returncode, run.stderr

    return check


@pytest.mark.parametrize("name", ["avx2", "portable"])
def test_no_branch_and_no_address_depends_on_secrets(
    secret_check: Callable[..., tuple[int, str]], name: str
) -> None:
    if name not in available_kernels():
        pytest.skip(f"this processor cannot run {name}")
    for bits in (512, 1024, 4096):  # both radices, with and without carries in between
        code, errors = secret_check(name, str(bits))
        assert code == 0, errors
    for bits in (512, 2048):
        code, errors = secret_check(name, str(bits), "squared")
        assert code == 0, errors


def test_a_branch_on_a_secret_is_noticed(secret_check: Callable[..., tuple[int, str]]) -> None:
    code, errors = secret_check("leak")
    assert code == 99
    assert "ninitialised value" in errors


def test_clear_secrets_overwrites_tables() -> None:
    backend = open_cpu(workers=1, kernel=available_kernels()[0])
    n = moduli(512)[3]
    modulus = backend.register(n)
    base = backend.upload(modulus, to_limbs([mpz(3)], modulus.limbs))
    backend.pow_fixed(base, to_limbs([mpz(5)], 1), 64)
    assert isinstance(backend, NativeBackend)
    (rows,) = [table.rows for table in backend._combs.values()]
    assert rows.any()
    square = backend.register(n**2)
    backend.reduce([square], np.ones((1, 2 * square.limbs), np.uint64))
    weights = [made.rows for made in backend._constants.values() if hasattr(made, "rows")]
    assert len(weights) == 2
    assert all(each.any() for each in weights)
    backend.clear_secrets()
    assert not rows.any()
    assert not any(each.any() for each in weights)
    assert not backend._combs
    assert not backend._constants
    backend.close()


# --- sanitizers -----------------------------------------------------------------------------------

_OPERATIONS = """
import sys, random
sys.path.insert(0, {tests!r})
import numpy as np
from gmpy2 import mpz
from conftest import load_native
from pathlib import Path
from gmpy2 import isqrt
from residue._limbs import from_limbs, to_limbs
from residue.backends._cpu_native import NativeBackend
module = load_native(Path({module!r}))
rng = random.Random(1)
for name in module.kernels():
    for bits in (65, 512, 1025, 2048, 6144):
        backend = NativeBackend(name, workers=2, native=module)
        n = rng.getrandbits(bits) | 1 << (bits - 1) | 1
        n = n if bits % 2 else (rng.getrandbits(bits // 2) | 1 << (bits // 2 - 1) | 1) ** 2
        modulus = backend.register(n)
        xs = [rng.randrange(n) for _ in range(19)]
        def up(values):
            return backend.upload(modulus, to_limbs([mpz(v) for v in values], modulus.limbs))
        def down(array):
            return [int(v) for v in from_limbs(backend.download(array))]
        a = up(xs)
        assert down(backend.mul(a, backend.take(a, np.arange(18, -1, -1)))) == [
            x * y % n for x, y in zip(xs, reversed(xs))]
        e = [rng.getrandbits(70) for _ in xs]
        exponents = to_limbs([mpz(v) for v in e], 2)
        assert down(backend.pow(a, exponents, 70)) == [pow(x, k, n) for x, k in zip(xs, e)]
        assert down(backend.pow_fixed(up(xs[:1]), exponents, 70)) == [pow(xs[0], k, n) for k in e]
        index = np.array([0, 3, 3, 18, 7, 2], np.int64)
        got = down(backend.prod(a, index, np.array([0, 0, 1, 6], np.int64)))
        want = 1
        for i in index[1:]:
            want = want * xs[i] % n
        assert got == [1, xs[0], want]
        assert down(backend.multi_pow(a, np.arange(38).reshape(19, 2), 6)) is not None
        wide = to_limbs([mpz(x * y) for x, y in zip(xs, reversed(xs))], 2 * modulus.limbs)
        assert down(backend.reduce([modulus], wide)[0]) == [
            x * y % n for x, y in zip(xs, reversed(xs))]
        if bits % 2 == 0:
            powers = backend.binomials(modulus, np.arange(-9, 10))
            root = int(isqrt(n))
            assert down(powers) == [(1 + m * root) % n for m in range(-9, 10)]
            assert from_limbs(backend.logarithms(powers)) == [m % root for m in range(-9, 10)]
        backend.close()
print("clean")
"""


@pytest.mark.full
def test_address_and_undefined_behaviour_sanitizers(
    compiled: Callable[..., Path], tmp_path: Path
) -> None:
    module = compiled(
        "native_sanitized", "-O1", "-g", "-fsanitize=address,undefined",
        "-fno-sanitize-recover=all", "-fno-omit-frame-pointer",
    )  # fmt: skip
    script = tmp_path / "operations.py"
    script.write_text(_OPERATIONS.format(tests=str(HERE.parent), module=str(module)))
    libraries = [
        subprocess.run(
            ["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True
        ).stdout.strip()
        for name in ("libasan.so", "libstdc++.so.6")
    ]
    run = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True, text=True, check=False,
        env=os.environ | {"LD_PRELOAD": ":".join(libraries), "ASAN_OPTIONS": "detect_leaks=0"},
    )  # fmt: skip
    assert run.stdout == "clean\n", run.stderr


@pytest.mark.full
def test_thread_sanitizer(compiled: Callable[..., Path]) -> None:
    """Workers start, join jobs, sleep and end, four callers at once."""
    source = HERE.parent / "native" / "pool_check.cpp"
    program = compiled("pool_check", "-O1", "-g", "-fsanitize=thread", extra=source)
    run = subprocess.run([program], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (0, "0\n"), run.stderr


# --- which kernel ---------------------------------------------------------------------------------


def test_the_fastest_kernel_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RESIDUE_CPU_KERNEL", raising=False)
    assert available_kernels()[-1] == GMPY2
    with_default = open_cpu(workers=1)
    assert with_default.describe().get("kernel", GMPY2) == available_kernels()[0]
    monkeypatch.setenv("RESIDUE_CPU_KERNEL", "portable")
    assert open_cpu(workers=1).describe()["kernel"] == "portable"
    assert type(open_cpu(workers=1, kernel=GMPY2)) is CpuBackend
    assert get_backend("cpu:portable").describe()["kernel"] == "portable"


def test_unknown_kernels_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BackendError, match="no CPU kernel 'mmx' can run here: there are "):
        get_backend("cpu:mmx")
    monkeypatch.setattr(_cpu_native, "_native", None)
    assert available_kernels() == [GMPY2]
    assert type(open_cpu(workers=1)) is CpuBackend
    with pytest.raises(BackendError, match="built without the native kernels"):
        open_cpu(kernel="avx2")


def test_moduli_too_large_for_the_kernels_are_those_of_gmpy2() -> None:
    backend = open_cpu(workers=1, kernel=available_kernels()[0])
    n = (1 << 16384) - 1
    modulus = backend.register(n)
    a = backend.upload(modulus, to_limbs([mpz(n - 2)], modulus.limbs))
    assert isinstance(a, CpuArray)
    assert from_limbs(backend.download(backend.mul(a, a))) == [4]
    small = backend.register(moduli(512)[3])
    b = backend.upload(small, to_limbs([mpz(2)], small.limbs))
    assert isinstance(b, NativeArray)
    with pytest.raises(BackendError, match="lives on another backend"):
        backend.mul(b, a)
    with pytest.raises(BackendError, match="lives on another backend"):
        backend.mul(a, b)
    backend.close()


def test_a_closed_backend_refuses() -> None:
    backend = open_cpu(workers=2, kernel=available_kernels()[0])
    modulus = backend.register(moduli(512)[3])
    a = backend.upload(modulus, to_limbs([mpz(2)] * 2000, modulus.limbs))
    assert len(backend.mul(a, a)) == 2000
    backend.close()
    with pytest.raises(BackendError, match="closed"):
        backend.mul(a, a)
    with pytest.raises(BackendError, match="closed"):
        backend.download(a)
    with pytest.raises(BackendError, match="closed"):
        backend.inverse(a)


def test_the_module_checks_shapes() -> None:
    kernel = Kernel(native, available_kernels()[-2], moduli(512)[3])
    field, rows = kernel.field, kernel.rows([1, 2, 3])
    out = np.empty_like(rows)
    order = np.arange(3)
    misuses: list[Callable[[], None]] = [
        lambda: field.multiply(rows[:2], rows, out),
        lambda: field.multiply(rows[:, :-1].copy(), rows, out),
        lambda: field.power(rows, np.zeros((2, 1), np.uint64), 1, 1, out),
        lambda: field.power(rows, np.zeros((3, 1), np.uint64), 1, 9, out),
        lambda: field.product(rows, np.array([3]), np.array([0, 1, 1, 1]), order, 0, False, out),
        lambda: field.product(rows, np.array([0]), np.array([0, 1, 2, 1]), order, 0, False, out),
        lambda: field.product(
            rows, np.array([0]), np.array([0, 1, 1, 1]), order + 1, 0, False, out
        ),
        lambda: field.product(rows, np.array([0]), np.array([0, 1, 1, 1]), order, 2, False, out),
        lambda: field.product(rows, np.array([0]), np.array([0, 1, 1, 1]), order, 0, True, out),
        lambda: field.comb(rows, np.zeros((3, 1), np.uint64), 2, 2, out),
        lambda: field.comb(rows[:2], np.zeros((2, 1), np.uint64), 1, 1, out),
        lambda: field.comb(rows[:2], np.zeros((3, 1), np.uint64), 1, 0, out),
        lambda: field.powers(rows, 1, out),
        lambda: field.powers(rows, 17, out),
    ]
    for wrong in misuses:
        with pytest.raises(ValueError, match=r"."):
            wrong()
    with pytest.raises(TypeError):
        field.multiply(rows.astype(np.float64), rows, out)


def test_the_module_checks_shapes_of_squares() -> None:
    n = moduli(512)[3]
    plain = Kernel(native, available_kernels()[-2], n)
    kernel = Kernel(native, available_kernels()[-2], n, squared=True)
    field, rows = kernel.field, kernel.rows([1, 2, 3])
    out, limbs = np.empty_like(rows), np.ones((3, 30), np.uint64)
    misuses: list[Callable[[], object]] = [
        lambda: plain.field.binomials(np.arange(3), plain.rows([1, 2, 3])),
        lambda: field.binomials(np.arange(2), out),
        lambda: field.binomials(np.arange(6).reshape(3, 2), out),
        lambda: plain.field.weighted_sum(limbs, 10, plain.rows([1, 2, 3]), plain.rows([1, 2, 3])),
        lambda: field.weighted_sum(limbs[:2], 10, rows, out),
        lambda: field.weighted_sum(limbs, 9, rows, out),  # a part is left over
        lambda: field.weighted_sum(limbs, 15, rows, out),  # a weight is
        lambda: field.weighted_sum(limbs, 8, kernel.rows([1, 2, 3, 4]), out),
        lambda: field.weighted_sum(limbs, 10, rows[:0], out),
        lambda: plain.field.logarithms(plain.rows([1]), limbs[:1]),
        lambda: field.logarithms(rows, limbs[:2]),
    ]
    for wrong in misuses:
        with pytest.raises(ValueError, match=r"."):
            wrong()
    with pytest.raises(TypeError):
        field.binomials(np.arange(3.0), out)


def test_constants_must_be_of_one_kind() -> None:
    one = np.ones((1, 1, 8), np.uint64)
    inverse, pool = np.ones(1, np.uint64), native.Pool(1)
    for constants in (
        (one[0], one, one, inverse),
        (np.ones((1, 3, 8), np.uint64),) * 3 + (inverse,),
        (one, np.ones((1, 2, 8), np.uint64), one, inverse),
        (one, one, np.ones((2, 1, 8), np.uint64), inverse),
        (one, one, one, np.ones(2, np.uint64)),
    ):
        with pytest.raises(ValueError, match="constants"):
            native.Field(available_kernels()[-2], 512, *constants, pool)


# --- threads --------------------------------------------------------------------------------------


def _workload(workers: int) -> Callable[[], bool]:
    """Whether a batch that is worth several threads comes out right."""
    backend = open_cpu(workers=workers, kernel=available_kernels()[0])
    n = moduli(1024)[3]
    modulus = backend.register(n**2)
    xs = [mpz(3 + i) for i in range(501)]
    a = backend.upload(modulus, to_limbs(xs, modulus.limbs))
    exponents = to_limbs([mpz(i * i + 1) for i in range(501)], 1)
    powers = [pow(int(x), i * i + 1, n**2) for i, x in enumerate(xs)]
    fixed = [pow(3, i * i + 1, n**2) for i in range(501)]

    def right() -> bool:
        base = backend.take(a, np.zeros(1, np.int64))
        got = from_limbs(backend.download(backend.pow(a, exponents, 20)))
        return got == powers and fixed == from_limbs(
            backend.download(backend.pow_fixed(base, exponents, 20))
        )

    return right


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_any_number_of_threads_gives_the_same(workers: int) -> None:
    assert _workload(workers)()


def test_callers_in_several_threads_do_not_disturb_each_other() -> None:
    right = _workload(3)
    with ThreadPoolExecutor(4) as callers:
        assert all(callers.map(lambda _: right(), range(24)))


def test_a_fork_amid_an_operation_has_threads_of_its_own() -> None:
    right = _workload(2)
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            assert right()

    with ThreadPoolExecutor(1) as other:
        busy = other.submit(work)
        children = []
        for _ in range(5):
            assert right()
            child = os.fork()
            if not child:
                os._exit(0 if right() else 1)
            children.append(child)
        stop.set()
        busy.result()
    for child in children:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_pool_that_was_closed_works_alone() -> None:
    pool = native.Pool(4)
    pool.close()
    pool.close()
    kernel = Kernel(native, available_kernels()[0], moduli(1024)[3], pool=pool)
    values = edges(kernel.n) * 100
    kernel.check(values, values[::-1])
