"""The GPU's kernels without a GPU: compiled by NVRTC, run as PTX and on the CPU, mutated."""

from __future__ import annotations

import math
import random
from pathlib import Path

import gmpy2
import numpy as np
import pytest
from gmpy2 import mpz
from hypothesis import given, settings
from hypothesis import strategies as st

from residue._limbs import from_limbs, to_limbs
from residue.backends import Modulus, ResidueArray, _gpu_build, _gpu_cache
from residue.backends._gpu import GpuBackend
from residue.backends._gpu_build import (
    GROUPS,
    Shape,
    compile_kernels,
    kernel_names,
    kernel_resources,
    kernel_source,
    largest_bits,
    shape_for,
)
from residue.backends._gpu_cache import cache_folder, cached_kernels
from residue.backends._gpu_plans import cut, square_cost
from residue.errors import BackendError
from residue_sim.gpu import FakeCupy, emulated_gpu, interpreted_gpu, kernels_alone
from residue_sim.gpu.machine_code import executed, product_loop, square_multiplies

SHAPES = {
    512: Shape(4, 4),
    1024: Shape(4, 8),
    1536: Shape(8, 6),
    2048: Shape(8, 8),
    3072: Shape(16, 6),
    4096: Shape(16, 8),
    6144: Shape(32, 6),
    8192: Shape(32, 8),
}
"""Shapes of the sizes that keys have, and of the largest."""
ARCHS = ("sm_70", "sm_80", "sm_90")
QUICK = {(512, "sm_70"), (512, "sm_80"), (6144, "sm_90")}


# --- shapes and memory ----------------------------------------------------------------------------


def test_shapes() -> None:
    assert {bits: shape_for(bits) for bits in SHAPES} == SHAPES
    assert shape_for(65) == Shape(4, 2)
    assert shape_for(2048, 32) == Shape(32, 2)
    for threads in (None, *GROUPS):
        most = largest_bits(threads)
        assert 32 * shape_for(most, threads).words == most
        with pytest.raises(BackendError, match=f"takes {most}"):
            shape_for(most + 1, threads)


def test_spread() -> None:
    shape = Shape(4, 2)
    (row,) = shape.spread([sum((i + 1) << (32 * i) for i in range(8))])
    assert row.tolist() == [1, 3, 5, 7, 2, 4, 6, 8]


@given(st.lists(st.integers(0, 100), max_size=20))
def test_cut(lengths: list[int]) -> None:
    """Pieces cover their segments in order, none too long, and an empty segment has one."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    pieces, starts = cut(offsets)
    assert np.diff(starts).max(initial=0) <= 16
    assert pieces.tolist() == [max(1, -(-n // 16)) for n in lengths]
    first = np.cumsum(pieces) - pieces
    assert (starts[np.append(first, len(starts) - 1)] == offsets).all()


# --- compilation ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bits", "arch"),
    [
        pytest.param(bits, arch, marks=[] if (bits, arch) in QUICK else pytest.mark.full)
        for bits in SHAPES
        for arch in ARCHS
    ],
)
def test_every_kernel_compiles(bits: int, arch: str) -> None:
    """To machine code, without a warning, with all of its words in registers."""
    resources = kernel_resources(SHAPES[bits], arch)
    assert sorted(resources) == sorted(kernel_names())
    assert {name for name, each in resources.items() if each.spilled} == set()
    assert max(each.registers for each in resources.values()) <= 128


@pytest.mark.full
@pytest.mark.parametrize("arch", ARCHS)
def test_halves_of_products_are_one_instruction(arch: str) -> None:
    """A step multiplies each limb twice; mad.lo and madc.hi of a pair become one instruction."""
    shape = SHAPES[2048]
    assert product_loop(shape, arch).wide == 2 * shape.limbs**2


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("word over =", "word over"),  # an error
        ("word under =", "word never = 0, under ="),  # a warning
    ],
)
def test_a_broken_kernel_does_not_compile(old: str, new: str) -> None:
    source = kernel_source()
    assert source.count(old) == 1
    with pytest.raises(BackendError, match=r"does not accept[\s\S]*residue.cu"):
        compile_kernels(Shape(4, 2), "sm_80", source=source.replace(old, new), ptx=True)


def test_an_unknown_gpu() -> None:
    with pytest.raises(BackendError, match="does not accept"):
        compile_kernels(Shape(4, 2), "sm_1")


def test_without_nvrtc(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str) -> None:
        raise OSError(path)

    _gpu_build._nvrtc.cache_clear()
    monkeypatch.setattr("ctypes.CDLL", refuse)
    with pytest.raises(BackendError, match=r"install residue\[gpu\]"):
        compile_kernels(Shape(4, 2), "sm_80")


# --- kept machine code ----------------------------------------------------------------------------


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[Shape, str]]:
    """What was compiled, into a folder of this test's own."""
    calls: list[tuple[Shape, str]] = []

    def compile_for(shape: Shape, arch: str) -> bytes:
        calls.append((shape, arch))
        return f"{shape} {arch}".encode()

    monkeypatch.setenv("RESIDUE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(_gpu_cache, "compile_kernels", compile_for)
    return calls


def _kept() -> list[Path]:
    return sorted(cache_folder().glob("*"))


def test_kernels_are_compiled_once(compiled: list[tuple[Shape, str]]) -> None:
    first = cached_kernels(Shape(4, 2), "sm_80")
    assert cached_kernels(Shape(4, 2), "sm_80") == first == b"Shape(threads=4, limbs=2) sm_80"
    assert compiled == [(Shape(4, 2), "sm_80")]
    (path,) = _kept()
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)


def test_other_kernels_are_other_files(
    compiled: list[tuple[Shape, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By shape, architecture, source, options and compiler."""
    cached_kernels(Shape(4, 2), "sm_80")
    cached_kernels(Shape(4, 4), "sm_80")
    cached_kernels(Shape(4, 2), "sm_90")
    for name, value in (
        ("kernel_source", lambda: "another"),
        ("compiler_version", lambda: "12.10"),
        ("compiler_options", lambda shape, arch: ["-G"]),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(_gpu_cache, name, value)
            cached_kernels(Shape(4, 2), "sm_80")
    assert len(compiled) == len(_kept()) == 6
    cached_kernels(Shape(4, 2), "sm_80")
    assert len(compiled) == 6


@pytest.mark.parametrize("damage", ["short", "empty", "flipped", "another file", "no file"])
def test_damaged_kernels_are_compiled_anew(compiled: list[tuple[Shape, str]], damage: str) -> None:
    code = cached_kernels(Shape(4, 2), "sm_80")
    (path,) = _kept()
    good = path.read_bytes()
    if damage == "no file":
        path.unlink()
        path.mkdir()  # what cannot be read or replaced is done without
    else:
        bad = {"short": good[:-1], "empty": b"", "another file": b"ELF"}
        path.write_bytes(bad.get(damage, good[:-1] + bytes([good[-1] ^ 1])))
    assert cached_kernels(Shape(4, 2), "sm_80") == code
    assert len(compiled) == 2
    assert _kept() == [path]  # nothing unfinished beside it
    if damage != "no file":
        assert path.read_bytes() == good


def test_no_folder_to_keep_them(
    compiled: list[tuple[Shape, str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("RESIDUE_CACHE", str(tmp_path / "file"))
    assert cached_kernels(Shape(4, 2), "sm_80") == cached_kernels(Shape(4, 2), "sm_80")
    assert len(compiled) == 2


def test_where_they_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RESIDUE_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/own")
    assert cache_folder() == Path("/var/own/residue/gpu")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/x")
    assert cache_folder() == Path("/home/x/.cache/residue/gpu")


def test_real_kernels_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RESIDUE_CACHE", str(tmp_path))
    code = cached_kernels(Shape(4, 2), "sm_80")
    assert code[:4] == b"\x7fELF"
    monkeypatch.setattr(_gpu_cache, "compile_kernels", None)
    assert cached_kernels(Shape(4, 2), "sm_80") == code


# --- products -------------------------------------------------------------------------------------


def _edges(modulus: int) -> list[int]:
    """Residues whose words make carries run."""
    bits = modulus.bit_length()
    ones, ends = (1 << bits) - 1, range(32, bits, 32)
    words = sum(0xFFFFFFFF << i for i in range(0, bits, 64))
    found = [0, 1, 2, modulus - 1, modulus - 2, modulus >> 1, ones >> 1, words]
    found += [1 << end for end in ends] + [(1 << end) - 1 for end in ends]
    return sorted({x for x in found if x < modulus})


def _moduli(words: int) -> list[int]:
    """Odd moduli that fill so many words: all ones, one bit at each end, and any."""
    bits = 32 * words
    rng = random.Random(words)
    return [(1 << bits) - 1, (1 << (bits - 1)) + 1, rng.getrandbits(bits) | 1 | 1 << (bits - 1)]


def _pairs(modulus: int, count: int) -> list[tuple[int, int]]:
    """Operands for products; among them those of a product of 0, which no factor is."""
    rng, edges = random.Random(count), _edges(modulus)
    pairs = [(rng.choice(edges), rng.choice(edges)) for _ in range(count)]
    if modulus % 3 == 0:
        pairs[0] = (3, modulus // 3)
    return [*pairs, (modulus - 1, modulus - 1)]


def _check_products(backend: GpuBackend, modulus: int, pairs: list[tuple[int, int]]) -> None:
    known = backend.register(modulus)
    xs, ys = (
        to_limbs([mpz(v) for v in column], known.limbs) for column in zip(*pairs, strict=True)
    )
    product = backend.mul(backend.upload(known, xs), backend.upload(known, ys))
    got = [int(v) for v in from_limbs(backend.download(product))]
    assert got == [x * y % modulus for x, y in pairs]


def _groups(*quick: int) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        "threads",
        [pytest.param(g, marks=[] if g in quick else pytest.mark.full) for g in GROUPS],
    )


@_groups(16, 32)  # the conformance suite and the mutants' original have the others
def test_products_of_edges(threads: int) -> None:
    """By groups of each size, on the CPU."""
    backend = emulated_gpu(threads=threads)
    for modulus in _moduli(2 * threads):
        _check_products(backend, modulus, _pairs(modulus, 400))


@_groups(32)
def test_products_as_ptx(threads: int) -> None:
    """What NVRTC makes of the inline assembly and the shuffles gives the same."""
    backend = interpreted_gpu(threads=threads)
    for modulus in _moduli(2 * threads)[: 3 if threads < 16 else 1]:
        _check_products(backend, modulus, _pairs(modulus, 128 // threads))


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("bits", SHAPES)
@pytest.mark.full
def test_products_as_ptx_at_size(bits: int, arch: str) -> None:
    modulus = _moduli(bits // 32)[0]
    _check_products(interpreted_gpu(arch=arch), modulus, _pairs(modulus, 7))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_products(data: st.DataObject) -> None:
    """Any modulus and residues, hypothesis' edges included."""
    bits = data.draw(st.integers(65, 512))
    modulus = data.draw(st.integers(1 << (bits - 1), (1 << bits) - 1)) | 1
    residue = st.integers(0, modulus - 1)
    pairs = data.draw(st.lists(st.tuples(residue, residue), min_size=1, max_size=5))
    _check_products(emulated_gpu(), modulus, pairs)


# --- squares --------------------------------------------------------------------------------------


def _check_squares(backend: GpuBackend, modulus: int, count: int) -> None:
    """Fourth powers, which take two squarings each."""
    known = backend.register(modulus)
    xs = [x for pair in _pairs(modulus, count) for x in pair]
    a = backend.upload(known, to_limbs([mpz(x) for x in xs], known.limbs))
    powers = backend.pow(a, np.array([[4]], np.uint64), 3)
    got = [int(v) for v in from_limbs(backend.download(powers))]
    assert got == [pow(x, 4, modulus) for x in xs]


@pytest.mark.parametrize(
    "bits",
    [
        pytest.param(bits, marks=[] if bits in (768, 1536) else pytest.mark.full)
        for bits in (768, *SHAPES)
    ],
)
def test_squares(bits: int) -> None:
    """Of edges and of any numbers, by groups of each size, on the CPU."""
    for modulus in _moduli(bits // 32):
        _check_squares(emulated_gpu(), modulus, 100)


@pytest.mark.parametrize(
    "bits",
    [
        pytest.param(bits, marks=[] if bits == 768 else pytest.mark.full)
        for bits in (768, 1024, 1536, 2048, 3072, 4096)
    ],
)
def test_squares_as_ptx(bits: int) -> None:
    """With several groups in a warp."""
    _check_squares(interpreted_gpu(), _moduli(bits // 32)[0], 3)


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param(shape, marks=[] if shape.words <= 24 else pytest.mark.full)
        for shape in (Shape(4, 6), *SHAPES.values())
    ],
)
def test_squares_take_fewer_multiply_adds(shape: Shape) -> None:
    """As many fewer as the plans count with, as PTX that was run."""
    runs = executed(shape)
    product, square = runs["mul"], runs["one_square"]
    assert product.multiplies == 4 * shape.words * shape.limbs
    assert square.multiplies == round(product.multiplies * square_cost(shape))


@pytest.mark.full
@pytest.mark.parametrize("arch", ARCHS)
def test_halves_in_squares_are_one_instruction(arch: str) -> None:
    """A turn's, those of the squares of blocks, and a step's for each limb; nearly all."""
    limbs = SHAPES[2048].limbs
    code = 2 * limbs**2 + limbs * (limbs + 1) // 2
    assert code - 2 <= square_multiplies(SHAPES[2048], arch) <= code


# --- every kernel ---------------------------------------------------------------------------------


def _operations(backend: GpuBackend) -> None:
    """Each kernel once or more, with more numbers than groups in a warp, and shares that differ."""
    modulus = int(gmpy2.next_prime(1 << 200))
    known = backend.register(modulus)
    rng = random.Random(5)
    xs = [0, 1, modulus - 1, *(rng.randrange(modulus) for _ in range(8))]
    es = [0, 1, (1 << 34) - 1, *(rng.getrandbits(34) for _ in range(8))]
    a = backend.upload(known, to_limbs([mpz(x) for x in xs], known.limbs))
    e = np.array(es, np.uint64).reshape(-1, 1)

    def down(array: ResidueArray) -> list[int]:
        return [int(v) for v in from_limbs(backend.download(array))]

    powers = [pow(x, k, modulus) for x, k in zip(xs, es, strict=True)]
    assert down(backend.pow(a, e, 34)) == powers
    assert down(backend.pow_var(a, e, 34)) == powers
    base = backend.take(a, np.array([4]))
    assert down(backend.pow_fixed(base, e, 34)) == [pow(xs[4], k, modulus) for k in es]

    index, offsets = np.array([3, 4, 5, 6, 3, 3, 7, 8]), np.array([0, 0, 1, 8, 8])
    long = xs[4] * xs[5] * xs[6] * xs[3] * xs[3] * xs[7] * xs[8]
    assert down(backend.prod(a, index, offsets)) == [1, xs[3], long % modulus, 1]

    exponents = np.random.default_rng(5).integers(-3, 4, (3, 12))
    expected = [
        math.prod(pow(x, int(k), modulus) for x, k in zip(xs[3:6], column, strict=True)) % modulus
        for column in exponents.T
    ]
    bases = backend.take(a, np.arange(3, 6))
    assert down(backend.multi_pow(bases, exponents, 2)) == expected
    assert down(backend.multi_pow_var(bases, exponents, 2)) == expected
    inverses = [pow(x, -1, modulus) for x in xs[3:8]]
    assert down(backend.inverse(backend.take(a, np.arange(3, 8)))) == inverses


@pytest.mark.parametrize(
    "threads",
    [4, 8, 16],
)
@pytest.mark.full
def test_operations_as_ptx(threads: int) -> None:
    """Groups of a warp that have different work, or none, keep together."""
    cupy = FakeCupy()
    _operations(interpreted_gpu(cupy, threads=threads))
    assert {name for name, _ in cupy.launches} == set(kernel_names())


# --- secrets --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operation", "hides"),
    [
        ("square", True),
        pytest.param("mul", True, marks=pytest.mark.full),
        ("pow", True),
        ("pow_var", False),
        ("pow_fixed", True),
        ("multi_pow", True),
        pytest.param("multi_pow_var", False, marks=pytest.mark.full),
        pytest.param("pow_moduli", True, marks=pytest.mark.full),
    ],
)
def test_what_an_observer_sees(operation: str, hides: bool) -> None:
    """Instructions, lanes and addresses are the same for any residues and exponents."""

    def seen(seed: int) -> list[tuple[str, bytes]]:
        cupy, rng = FakeCupy(), random.Random(seed)
        backend = interpreted_gpu(cupy, threads=4)
        bits = 767 if operation == "square" else 199  # the latter's shape has no squares
        primes = [gmpy2.next_prime(rng.getrandbits(bits) | 1 << bits) for _ in range(3)]
        known = backend.register(int(primes[0]))
        x = to_limbs([mpz(rng.randrange(1 << bits)) for _ in range(3)], known.limbs)
        a = backend.upload(known, x)
        e = np.array([[rng.getrandbits(10)] for _ in range(3)], np.uint64)
        short = e.astype(np.int64) - 512
        if operation == "mul":
            backend.mul(a, a)
        elif operation == "square":
            backend.pow(a, e & np.uint64(7), 3)
        elif operation == "pow_fixed":
            backend.pow_fixed(backend.take(a, np.zeros(1, np.int64)), e, 10)
        elif operation == "pow_moduli":
            backend.pow_moduli([Modulus(int(p)) for p in primes], x, e, 10)
        elif operation.startswith("multi"):
            getattr(backend, operation)(a, short, 10)
        else:
            getattr(backend, operation)(a, e, 10)
        return cupy.launches

    assert (seen(1) == seen(2)) is hides


# --- mutants --------------------------------------------------------------------------------------

KERNEL_MUTANTS = {
    "no carry through a lane": ("((g + g + p) ^ p)", "(g + g)"),
    "no last subtraction": ("word keep = 0 - subtract(less, m.n);", "word keep = ~0;"),
    "no reduction": ("m.n.w[j] & (0 - over)", "m.n.w[j] & 0"),
    "carry of a row lost": ("return addc(carry, 0);", "addc(carry, 0);\n  return carry;"),
    "high carry lost": ("high = addc(high, 0);\n  CHECK_AT_MOST(low, 2)",
                        "addc(high, 0);\n  CHECK_AT_MOST(low, 2)"),
    "wrong entry": ("is_equal(digit, d)", "is_equal(digit, d + 1)"),
    "digit not cut": ("return bits & ((1 << window) - 1);", "return bits;"),
    "digit within a word": ("shift + window > 32", "shift + window > 64"),
    "last share": ("there ? ~0 : 0", "~0"),
    "empty product": ("k < end ? a + index[k] * L : one);\n    ROLLED", "a);\n    ROLLED"),
    "chain interrupted": ("r.w[0] = add_cc(x[0], y[1]);", "r.w[0] = add_cc(x[0], y[1]); lane();"
                          " r.w[1] = broadcast(x[0], 0);"),
    "branch on a digit": ("    r = multiply(r, select(table + ((i64)row",
                          "    if (digit) r = multiply(r, select(table + ((i64)row"),
    "address by a digit": ("select(table, 1 << window, digit_of(digits, words, window, 0))",
                           "load_number(table + digit_of(digits, words, window, 0) * L)"),
}  # fmt: skip

SQUARE_MUTANTS = {
    "diagonal twice": ("(0 - (lane() & 1)) | (e ? ~0u : 0u)", "~0u"),
    "pairs once": ("s.w[0] = add_cc(s.w[0], s.w[0]);", "s.w[0] = add_cc(s.w[0], 0);"),
    "block wraps late": ("is_equal(lane() >> 1, e)", "is_equal(lane() >> 1, e + 1)"),
    "carry of a sum lost": ("s.w[1] = add_cc(s.w[1], odd.w[0]);", "s.w[1] = add_cc(s.w[1], 0);"),
    "square in odd lanes": ("word mask = (lane() & 1) - 1;", "word mask = ~0u;"),
    "upper squares misplaced": ("twice_and_square(high, squares, THREADS / 2)",
                                "twice_and_square(high, squares, 0)"),
    "high carry of a step lost": ("high = addc(high, 0);\n  CHECK_AT_MOST(low, 1)",
                                  "addc(high, 0);\n  CHECK_AT_MOST(low, 1)"),
    "flag forgotten": ("add_cc(carry, 0xffffffff);", "add_cc(carry, 0);"),
    "top lane's words lost": ("| (leaves & bottom);\n    }", "| (leaves & 0);\n    }"),
    "carries of the upper half lost": ("return below_r(r, addc(carry, more), m);",
                                       "return below_r(r, addc(carry, 0), m);"),
}  # fmt: skip

LANE_MUTANTS = {
    "borrow lost": ("subc.cc.u32", "sub.cc.u32"),
    "wrong half": ("madc.hi.cc.u32", "madc.lo.cc.u32"),
    "top lane gets something": ("lane() == THREADS - 1 ? 0 : x", "x"),
    "ballot of another group": (" >> (threadIdx.x % 32 / THREADS * THREADS)", ""),
    "word of another group": ("x, source, THREADS)", "x, source)"),
    "number beyond the batch": ("i < count ? i : count - 1", "i"),
    "half of another lane": ("(lane() + up) / 2 + offset", "lane() / 2 + offset"),
    "groups part": ("__any_sync(0xffffffff, x)", "x"),
}

QUICK_MUTANTS = {
    "no carry through a lane",
    "branch on a digit",
    "borrow lost",
    "diagonal twice",
    "flag forgotten",
}


def _mutants(table: dict[str, tuple[str, str]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        ("old", "new"),
        [
            pytest.param(*change, id=name, marks=[] if name in QUICK_MUTANTS else pytest.mark.full)
            for name, change in table.items()
        ],
    )


def _everything(backend: GpuBackend) -> None:
    for modulus in _moduli(8):
        _check_products(backend, modulus, _pairs(modulus, 64))
        _check_squares(backend, modulus << 512 | 1, 3)
    _operations(backend)


@_mutants(KERNEL_MUTANTS)
def test_mutants_of_the_kernels(old: str, new: str) -> None:
    source = kernels_alone()
    assert source.count(old) == 1
    with pytest.raises(AssertionError):
        _everything(emulated_gpu(source=source.replace(old, new), threads=4))


@_mutants(SQUARE_MUTANTS)
def test_mutants_of_the_squares(old: str, new: str) -> None:
    source = kernels_alone()
    assert source.count(old) == 1
    backend = emulated_gpu(source=source.replace(old, new), threads=4)
    with pytest.raises(AssertionError):
        _check_squares(backend, _moduli(24)[0], 50)


@_mutants(LANE_MUTANTS)
def test_mutants_of_the_lanes(old: str, new: str) -> None:
    source = kernel_source()
    assert source.count(old) == 1
    with pytest.raises(AssertionError):
        _everything(interpreted_gpu(source=source.replace(old, new), threads=4))


def test_the_original_lives() -> None:
    _everything(emulated_gpu(threads=4))
