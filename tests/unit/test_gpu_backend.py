"""What only the GPU backend does: devices, memory, erasure, failure. The device is emulated."""

from __future__ import annotations

import contextlib
import gc
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from gmpy2 import mpz

from residue._limbs import from_limbs, to_limbs
from residue.backends import (
    DeviceFallbackWarning,
    Modulus,
    _gpu_device,
    _registry,
    get_backend,
)
from residue.backends._gpu import GpuBackend
from residue.backends._gpu_device import GpuDevice, open_device
from residue.backends._gpus import GpusBackend
from residue.card._memory import DeviceMemoryError
from residue.errors import BackendError, CorruptResult, DeviceError
from residue.paillier import keygen
from residue_sim.gpu import (
    FakeCupy,
    KernelFault,
    emulated_gpu,
    emulated_kernels,
    kernels_alone,
)

P = (1 << 521) - 1
SECRET_WORDS = [0x5EC2E701, 0x5EC2E702, 0x5EC2E703, 0x5EC2E704]
SECRET = sum(word << (32 * i) for i, word in enumerate(SECRET_WORDS))


def _up(backend: GpuBackend, values: list[int], modulus: int = P) -> Any:
    known = backend.register(modulus)
    return backend.upload(known, to_limbs([mpz(v) for v in values], known.limbs))


def _down(backend: GpuBackend, array: Any) -> list[int]:
    return [int(v) for v in from_limbs(backend.download(array))]


# --- opening --------------------------------------------------------------------------------------


def test_without_cupy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(BackendError, match=r"install residue\[gpu\]"):
        open_device()


def _refuse() -> int:
    raise RuntimeError("cudaErrorInsufficientDriver")


def test_without_driver() -> None:
    cupy = FakeCupy()
    cupy.cuda.runtime.getDeviceCount = _refuse
    with pytest.raises(DeviceError, match="GPU 0 cannot be used: cudaErrorInsufficientDriver"):
        GpuDevice(cupy, 0)


def test_without_device() -> None:
    with pytest.raises(DeviceError, match="no GPU 1: CUDA sees 1"):
        GpuDevice(FakeCupy(), 1)


def test_an_old_device() -> None:
    cupy = FakeCupy()
    cupy.cuda.runtime.getDeviceProperties(0)["major"] = 6
    with pytest.raises(DeviceError, match="older than sm_70"):
        GpuDevice(cupy, 0)


@pytest.mark.parametrize("threads", [0, 3, 64])
def test_bad_threads(threads: int) -> None:
    with pytest.raises(BackendError, match="4, 8, 16 or 32"):
        emulated_gpu(threads=threads)


def test_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_registry, "_opened", {})
    monkeypatch.setitem(sys.modules, "cupy", FakeCupy())
    backend = get_backend("gpu")
    assert backend is get_backend("gpu:0")
    facts = backend.describe()
    assert (facts["name"], facts["device"], facts["healthy"]) == ("gpu", "emulated GPU", True)
    with pytest.raises(DeviceError, match="no GPU 7"):
        get_backend("gpu:7")
    with pytest.raises(BackendError, match="no backend is named 'gpu:x'"):
        get_backend("gpu:x")


def test_names_of_several(monkeypatch: pytest.MonkeyPatch) -> None:
    """`gpus` is all of them; each is the one that has a name of its own."""
    monkeypatch.setattr(_registry, "_opened", {})
    monkeypatch.setitem(sys.modules, "cupy", FakeCupy(devices=3))
    every, some = get_backend("gpus"), get_backend("gpus:2,0")
    assert isinstance(every, GpusBackend)
    assert isinstance(some, GpusBackend)
    assert every._gpus == [get_backend(f"gpu:{i}") for i in range(3)]
    assert some._gpus == [get_backend("gpu:2"), get_backend("gpu")]
    facts = some.describe()
    assert (facts["gpus"], facts["multiprocessors"]) == (2, 2)
    assert (facts["gpu_2"], facts["healthy"]) == ("emulated GPU, healthy", True)
    get_backend("gpu:0").close()
    assert (some.describe()["gpu_0"], some.describe()["healthy"]) == (
        "emulated GPU, not healthy", False,
    )  # fmt: skip
    for name, message in (
        ("gpus:1,1", "named once"),
        ("gpus:3", "no GPU 3"),
        ("gpus:x", "'gpu:x'"),
    ):
        with pytest.raises(BackendError, match=message):
            get_backend(name)


@pytest.mark.parametrize("there", [True, False])
def test_available(monkeypatch: pytest.MonkeyPatch, there: bool) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name == "cupy" or None)
    monkeypatch.setattr(_registry, "_gpu_in_sight", lambda: there)
    assert ("gpu" in _registry.available_backends()) is there


def test_cupy_has_what_is_used() -> None:
    """The names that `FakeCupy` gives, of the real module."""
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
    fake = FakeCupy()
    assert all(hasattr(cupy.cuda, name) for name in vars(fake.cuda))
    assert all(hasattr(cupy.cuda.runtime, name) for name in vars(fake.cuda.runtime))
    used = ("copy_from_host_async", "copy_to_host_async", "copy_from_device_async", "memset_async")
    assert all(hasattr(cupy.cuda.MemoryPointer, name) for name in (*used, "ptr"))
    assert all(hasattr(cupy.cuda.Event, name) for name in ("record", "done", "synchronize"))
    assert all(hasattr(cupy.cuda.Stream, name) for name in ("wait_event", "synchronize"))
    assert hasattr(cupy.RawModule(path="none"), "get_function")
    assert issubclass(cupy.cuda.runtime.CUDARuntimeError, RuntimeError)
    assert issubclass(cupy.cuda.driver.CUDADriverError, RuntimeError)


# --- memory ---------------------------------------------------------------------------------------


def _shows_secrets(cupy: FakeCupy) -> bool:
    """Whether a word of `SECRET` is in any memory, the host's staging included."""
    return any(np.isin(memory.words, SECRET_WORDS).any() for memory in cupy.memories)


def test_clear_secrets_erases() -> None:
    """Operands as they came, exponents, comb tables and moduli; arrays in use stay."""
    cupy = FakeCupy()
    backend = emulated_gpu(cupy)
    a = _up(backend, [3, SECRET])
    secret_modulus = backend.register(SECRET << 256 | 1)
    backend.upload(secret_modulus, to_limbs([mpz(3)], 6))
    e = to_limbs([mpz(SECRET)], 2)
    base = backend.take(a, np.array([0]))
    powers = backend.pow_fixed(base, e, 128)
    also = backend.pow(a, e, 128)
    table = next(iter(base.combs.values()))
    assert np.isin(backend._block(secret_modulus).memory.words, SECRET_WORDS).any()
    assert _shows_secrets(cupy)
    memory = table.memory
    del table
    backend.clear_secrets()
    assert not _shows_secrets(cupy)
    assert not memory.words.any()
    assert _down(backend, powers) == [pow(3, SECRET, P)]
    assert _down(backend, also) == [pow(3, SECRET, P), pow(SECRET, SECRET, P)]
    assert _down(backend, backend.pow_fixed(base, e, 128)) == [pow(3, SECRET, P)]


def test_close_erases() -> None:
    cupy = FakeCupy()
    backend = emulated_gpu(cupy)
    a = _up(backend, [SECRET])
    assert _shows_secrets(cupy)
    backend.close()
    assert not _shows_secrets(cupy)
    assert not a.buffer.memory.words[: a.buffer.size // 4].any()
    for misuse in (a.wait, lambda: backend.mul(a, a), backend.synchronize):
        with pytest.raises(BackendError, match="closed"):
            misuse()
    assert backend.describe()["healthy"] is False
    backend.close()


def test_memory_is_used_again() -> None:
    cupy = FakeCupy()
    backend = emulated_gpu(cupy)
    a = _up(backend, list(range(100)))
    for _ in range(3):
        a = backend.mul(a, a)
    gc.collect()
    before = len(cupy.memories)
    for _ in range(50):
        a = backend.mul(a, a)
    assert len(cupy.memories) == before
    assert _down(backend, a) == [pow(x, 1 << 53, P) for x in range(100)]


def test_no_memory() -> None:
    """What is free makes room for other sizes; then it is an error, and the device goes on."""
    cupy = FakeCupy(memory=1 << 20)
    backend = emulated_gpu(cupy)
    a = _up(backend, [5])
    for length in (1000, 2000, 3000, 1000):
        longer = backend.take(a, np.zeros(length, np.int64))
        assert len(longer) == length
        del longer
    with pytest.raises(DeviceMemoryError, match="GPU 0 has no"):
        backend.take(a, np.zeros(20000, np.int64))
    assert backend.describe()["healthy"] is True
    assert _down(backend, backend.mul(a, a)) == [25]


# --- streams --------------------------------------------------------------------------------------

ORDERS = {
    "at once": (0, 1),
    "late": (),
    "kernels first": (0,),
    "copies first": (1,),
}


def _in_pieces(backend: GpuBackend) -> None:
    """What comes in and goes out in many pieces, memory being used again in between."""
    xs = list(range(2, 90))
    a = _up(backend, xs)
    b = _up(backend, [x + 1 for x in xs])
    c = backend.mul(a, b)
    del a, b
    d = _up(backend, [x + 2 for x in xs])  # into memory that `enter` may not have read yet
    assert _down(backend, c) == [x * (x + 1) for x in xs]
    assert _down(backend, backend.mul(c, d)) == [x * (x + 1) * (x + 2) for x in xs]
    moduli = [Modulus(P - 2 * x) for x in xs]
    bases = to_limbs([mpz(x) for x in xs], 9)
    for e in (np.array([[9]], np.uint64), np.array([[x] for x in xs], np.uint64)):
        powers = backend.pow_moduli(moduli, bases, e, 7)
        each = [int(v) for v in e[:, 0]] * (len(xs) // len(e))
        assert [int(v) for v in from_limbs(powers)] == [
            pow(x, k, m.value) for x, k, m in zip(xs, each, moduli, strict=True)
        ]
    short = backend.multi_pow(c, np.ones((len(xs), 2), np.int64), 1)
    product = 1
    for x in xs:
        product = product * x * (x + 1) % P
    assert _down(backend, short) == [product, product]


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_gpu_device, "_PIECE_BYTES", 800)


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("order", ORDERS)
def test_streams_wait_for_each_other(order: str) -> None:
    """Whichever stream runs first, and however late."""
    cupy = FakeCupy(eager=ORDERS[order])
    backend = emulated_gpu(cupy)
    _in_pieces(backend)
    assert [name for name, _ in cupy.launches].count("enter") > 20
    secret = _up(backend, [SECRET] * 30)
    del secret
    backend.clear_secrets()
    assert not _shows_secrets(cupy)


@pytest.mark.usefixtures("small_pieces")
def test_copies_run_beside_kernels() -> None:
    """All pieces come in though no kernel runs, and two are on their way out at a time."""
    cupy = FakeCupy(eager=(1,))
    backend = emulated_gpu(cupy)
    known = backend.register(P)
    a = backend.upload(known, to_limbs([mpz(SECRET)] * 100, known.limbs))
    landings = [m for m in cupy.memories if np.isin(m.words, SECRET_WORDS).sum() == 400]
    assert not cupy.launches
    assert landings  # the device's; of the host's, each piece has its own
    backend.device._erase_staging()
    staged = [m for m in cupy.memories if 0 < np.isin(m.words, SECRET_WORDS).sum() < 400]
    assert not staged
    a.wait()
    assert {name for name, _ in cupy.launches} == {"enter"}

    cupy = FakeCupy()
    backend = emulated_gpu(cupy)
    values = np.zeros((100, known.limbs), np.uint64)
    block = backend._block(backend.register(P))
    a = _up(backend, [3] * 100)
    with backend.device.active(), backend.device.receiving(values) as receive:
        backend._leave_to(receive, backend._shape(known), a.buffer, block, 0, 0, 22, known.limbs)
        assert [name for name, _ in cupy.launches].count("leave") == 2
        assert not values.any()
    assert (values[:22, 0] == 3).all()


@pytest.mark.usefixtures("small_pieces")
def test_results_that_nobody_takes_are_erased() -> None:
    cupy = FakeCupy(eager=())
    backend = emulated_gpu(cupy)
    known = backend.register(P)
    values = np.zeros((22, known.limbs), np.uint64)

    held: list[Any] = []

    def interrupted() -> None:
        a = _up(backend, [SECRET] * 22)
        shape, block = backend._shape(known), backend._block(known)
        with backend.device.active(), backend.device.receiving(values) as receive:
            backend._leave_to(receive, shape, a.buffer, block, 0, 0, 22, known.limbs)
            held.extend(cupy.memories)  # pinned memory's next holder would see it
            raise InterruptedError

    with contextlib.suppress(InterruptedError):
        interrupted()
    gc.collect()
    backend.clear_secrets()
    assert not values.any()
    assert not _shows_secrets(cupy)


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize(
    ("order", "old", "new"),
    [
        ("kernels first", "self._stream.wait_event(event)", "pass"),
        ("copies first", "self._copies.wait_event(landing.read)", "pass"),
        ("copies first", "self._copies.wait_event(self.record())", "pass"),
        ("late", "event.synchronize()\n            view", "view"),
        ("kernels first", "pinned, buffer, start, count))", "pinned, None, start, count))"),
        ("late", "while staging and staging[0][0].done", "while staging"),
        ("late", "self._staging[stream is self._copies].append((event, pinned, raw.nbytes))", "0"),
    ],
)
def test_streams_that_do_not_wait(
    monkeypatch: pytest.MonkeyPatch, order: str, old: str, new: str
) -> None:
    """Each thing that something waits for is needed."""
    source = Path(_gpu_device.__file__).read_text(encoding="utf-8")
    assert source.count(old) == 1
    mutant: Any = ModuleType("mutant")
    monkeypatch.setitem(sys.modules, "mutant", mutant)
    exec(source.replace(old, new).replace("4 << 20", "800"), mutant.__dict__)
    mutant.Buffer = _gpu_device.Buffer
    cupy = FakeCupy(eager=ORDERS[order])
    device = mutant.GpuDevice(cupy, 0, lambda shape, arch: emulated_kernels(shape))
    with pytest.raises((AssertionError, KernelFault)):
        _in_pieces(GpuBackend(device))


# --- plans ----------------------------------------------------------------------------------------


def test_more_bases_than_tables_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables of a few bases at a time."""
    monkeypatch.setattr("residue.backends._gpu._TABLE_BYTES", 1 << 15)
    cupy = FakeCupy()
    backend = emulated_gpu(cupy)
    xs = list(range(2, 12))
    exponents = np.arange(-20, 20, dtype=np.int64).reshape(10, 4)
    expected = [1, 1, 1, 1]
    for x, row in zip(xs, exponents, strict=True):
        expected = [r * pow(x, int(e), P) % P for r, e in zip(expected, row, strict=True)]
    assert _down(backend, backend.multi_pow(_up(backend, xs), exponents, 5)) == expected
    assert [name for name, _ in cupy.launches].count("straus_sec") > 1


def test_products_are_counted() -> None:
    backend = emulated_gpu()
    a = _up(backend, [3, 4, 5])
    backend.pow(a, np.array([[9]], np.uint64), 4)
    backend.prod(a, np.arange(3), np.array([0, 3]))
    stats = backend.stats()
    assert stats["pow"].elements == 3
    # The first digit is looked up; each further one costs its squarings and a product.
    assert stats["pow"].products % 3 == 0
    assert stats["pow"].products >= 3 * 4
    assert stats["prod"].products == 3


def test_pow_moduli_of_wide_rows() -> None:
    """Rows may have more limbs than the moduli need, even than the kernels read."""
    backend = emulated_gpu()
    bases = to_limbs([mpz(7), mpz(9)], 40)
    e = np.array([[5], [6]], np.uint64)
    small = (1 << 89) - 1
    powers = backend.pow_moduli([Modulus(P), Modulus(small)], bases, e, 3)
    assert [int(v) for v in from_limbs(powers)] == [7**5, 9**6]
    assert powers.shape == (2, 40)


def test_paillier() -> None:
    """What a user sees: encryption, sums, products with plaintexts, decryption."""
    cupy = FakeCupy()
    backend = emulated_gpu(cupy)
    pk, sk = keygen(1024, insecure_allow_1024=True, device=backend)
    values = np.array([[0.5, -1.25, 3.0], [2.0, 0.0, -7.5]])
    W = np.array([[2.0, 0.5], [-1.0, 4.0], [0.25, -3.0]])
    c = pk.encrypt(values)
    assert (sk.decrypt(c @ W + 1) == values @ W + 1).all()
    assert (sk.decrypt(c * 3 - c) == 2 * values).all()
    assert (sk.decrypt(c.sum(axis=0)) == values.sum(axis=0)).all()
    assert {"comb", "straus_sec", "pow_sec", "prod"} <= {name for name, _ in cupy.launches}


# --- failure --------------------------------------------------------------------------------------


class _BrokenStream:
    """CUDA reports what failed wherever it is asked next."""

    def __enter__(self) -> None: ...

    def __exit__(self, *error: object) -> None: ...

    def fail(self, *arguments: object) -> None:
        raise RuntimeError("cudaErrorLaunchFailure: unspecified launch failure")

    synchronize = wait_event = add = fail


def test_a_device_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = emulated_gpu()
    a = _up(backend, [3])
    monkeypatch.setattr(backend.device, "_copies", _BrokenStream())
    with pytest.raises(DeviceError, match="GPU 0 cannot be used: cudaErrorLaunchFailure"):
        backend.download(a)
    assert backend.describe()["healthy"] is False


def test_an_event_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = emulated_gpu()
    a = _up(backend, [3])
    a.wait()
    monkeypatch.setattr("residue_sim.gpu._Event.synchronize", lambda event: _refuse())
    with pytest.raises(DeviceError, match="cudaErrorInsufficientDriver"):
        a.wait()
    assert backend.describe()["healthy"] is False


def test_in_a_forked_process(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = emulated_gpu()
    monkeypatch.setattr("os.getpid", lambda: -1)
    with pytest.raises(BackendError, match="forked"):
        _up(backend, [3])


def test_self_test() -> None:
    emulated_gpu().self_test()
    wrong = kernels_alone().replace("is_equal(digit, d)", "is_equal(digit, d + 1)")
    with pytest.raises(CorruptResult, match="wrong powers"):
        emulated_gpu(source=wrong).self_test()


def test_auto(monkeypatch: pytest.MonkeyPatch) -> None:
    """`auto:gpu` takes the GPU, and the CPU once it fails."""
    device = GpuDevice(FakeCupy(), 0, lambda shape, arch: emulated_kernels(shape))
    monkeypatch.setattr(_registry, "_opened", {})
    monkeypatch.setattr("residue.backends._gpu_device.open_device", lambda ordinal: device)
    auto = get_backend("auto:gpu")
    assert auto.describe()["active"] == "gpu"
    modulus = auto.register(P)
    a = auto.upload(modulus, to_limbs([mpz(3)], modulus.limbs))
    a = auto.mul(a, a)
    monkeypatch.setattr(device, "_copies", _BrokenStream())
    with pytest.warns(DeviceFallbackWarning, match="cudaErrorLaunchFailure"):
        assert from_limbs(auto.download(a)) == [9]
    assert auto.describe()["active"] == "cpu"
    auto.close()
