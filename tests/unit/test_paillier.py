"""Keys and ciphertext arrays on the CPU. Tests that stand for a line of "What must never be wrong"
carry its number."""

from __future__ import annotations

import inspect
import os
import pickle
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import gmpy2
import numpy as np
import pytest

import residue
from residue._limbs import from_limbs
from residue.backends import _squares
from residue.backends._cpu import CpuArray, CpuBackend
from residue.backends._cpu_native import NativeBackend, open_cpu
from residue.errors import (
    BackendError,
    CorruptResult,
    EncodingError,
    EncodingOverflow,
    InsecureKeyWarning,
    InvalidCiphertext,
    InvalidKey,
    KeyMismatch,
)
from residue.paillier import (
    CiphertextArray,
    PackedArray,
    Packer,
    PrivateKey,
    PublicKey,
    concatenate,
    keygen,
)
from residue.paillier import _random as random_module

Keys = tuple[PublicKey, PrivateKey]


@pytest.fixture(scope="module")
def cpu() -> CpuBackend:
    return CpuBackend(workers=1)


@pytest.fixture(scope="module")
def keys(cpu: CpuBackend) -> Keys:
    return keygen(1024, insecure_allow_1024=True, device=cpu)


@pytest.fixture(scope="module")
def others(cpu: CpuBackend) -> Keys:
    return keygen(1024, insecure_allow_1024=True, device=cpu)


def raw(c: CiphertextArray) -> list[int]:
    return [int(v) for v in from_limbs(c.to_limbs())]


rng = np.random.default_rng(5)
X = rng.normal(size=(3, 4))
I = rng.integers(-(10**9), 10**9, (3, 4))  # noqa: E741


# --- keys ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [1024, 1152, 2048])
def test_key_generation_follows_djn(bits: int) -> None:
    pk, sk = keygen(bits, insecure_allow_1024=bits < 2048, device="cpu")
    p, q = sk.primes
    assert pk.n == p * q
    assert pk.n.bit_length() == bits
    assert p.bit_length() == q.bit_length() == bits // 2
    assert p % 4 == q % 4 == 3
    assert gmpy2.gcd(p - 1, q - 1) == 2
    assert pk.h_s is not None
    # h_s is an n-th residue, and its h has Jacobi symbol 1 as -y**2 has for such primes
    assert gmpy2.powmod(pk.h_s, (p - 1) * (q - 1), pk.nsquare) == 1
    assert gmpy2.jacobi(pk.h_s % pk.n, pk.n) == 1
    assert sk.decrypt(pk.encrypt(-7)) == -7


@pytest.mark.parametrize("bits", [0, 512, 1024, 2000, 2049, 16384])
def test_key_sizes_that_are_refused(bits: int) -> None:
    with pytest.raises(InvalidKey, match=str(bits)):
        keygen(bits)


def test_line4_public_key_is_checked(keys: Keys) -> None:
    pk, _ = keys
    with pytest.raises(InvalidKey, match="even"):
        PublicKey(pk.n + 1)
    with pytest.raises(InvalidKey, match="512 bits"):
        PublicKey((1 << 511) + 1)
    for h_s in (0, 1, pk.n, pk.n + 1, pk.nsquare + 2):
        with pytest.raises(InvalidKey, match="h_s"):
            PublicKey(pk.n, h_s)


def test_line4_private_key_is_checked(keys: Keys) -> None:
    pk, sk = keys
    p, q = sk.primes
    with pytest.raises(InvalidKey, match=r"p \* q"):
        PrivateKey(pk, p, q + 2)
    with pytest.raises(InvalidKey, match="equal length"):
        PrivateKey(PublicKey(p * 3 * (1 << 520 | 1)), p, 3 * (1 << 520 | 1))
    composite = (p - 2) // 3 * 3
    composite += composite % 2 == 0 and 3
    with pytest.raises(InvalidKey, match="not prime"):
        PrivateKey(PublicKey(composite * q), composite, q)
    with pytest.raises(InvalidKey, match="different"):
        PrivateKey(PublicKey(p * p), p, p)


def test_keys_are_equal_when_n_is(keys: Keys, others: Keys) -> None:
    pk, _ = keys
    assert pk == PublicKey(pk.n)
    assert hash(pk) == hash(PublicKey(pk.n))
    assert pk != others[0]
    assert len({pk, others[0], pk.to("cpu")}) == 2


# --- round trips --------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["djn", "classic"])
@pytest.mark.parametrize("x", [X, I, X[0], 2.5, -3, np.zeros((0, 2)), [[True, False]]])
def test_encrypt_and_decrypt(keys: Keys, scheme: Any, x: Any) -> None:
    pk, sk = keys
    for key in (pk, sk):
        c = key.encrypt(x, scheme=scheme)
        decrypted = sk.decrypt(c)
        assert np.shape(decrypted) == np.shape(x) == c.shape
        np.testing.assert_allclose(decrypted, x, rtol=0, atol=2.0**-53)
        assert c.fresh


def test_decrypted_dtypes(keys: Keys) -> None:
    pk, sk = keys
    c = pk.encrypt(I)
    assert sk.decrypt(c).dtype == np.int64
    assert sk.decrypt(c, dtype=np.float64).dtype == np.float64
    assert sk.decrypt(c, dtype=object).tolist() == I.tolist()
    big = pk.encrypt([2**500, -(2**500)])
    with pytest.raises(EncodingOverflow, match="dtype=object"):
        sk.decrypt(big)
    assert sk.decrypt(big, dtype=object).tolist() == [2**500, -(2**500)]


def test_the_whole_signed_range(keys: Keys) -> None:
    pk, sk = keys
    most = pk.max_mantissa
    assert sk.decrypt(pk.encrypt([most, -most, 0]), dtype=object).tolist() == [most, -most, 0]
    for beyond in (most + 1, -most - 1):
        with pytest.raises(EncodingOverflow):
            pk.encrypt(beyond)
        with pytest.raises(EncodingOverflow):
            sk.encrypt(beyond, scheme="classic")


def test_unknown_scheme_and_missing_base(keys: Keys) -> None:
    pk, _ = keys
    with pytest.raises(InvalidKey, match="unknown scheme"):
        pk.encrypt(1, scheme="fast")  # type: ignore[arg-type]
    plain = PublicKey(pk.n, device=pk.backend)
    with pytest.raises(InvalidKey, match="no h_s"):
        plain.encrypt(1, scheme="djn")
    assert keys[1].decrypt(plain.encrypt(1)) == 1


# --- arithmetic ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "compute",
    [
        lambda c, x: c + x,
        lambda c, x: x + c,
        lambda c, x: c - x,
        lambda c, x: x - c,
        lambda c, x: c + c,
        lambda c, x: c - c[0],
        lambda c, x: c[:, :1] + c[0],
        lambda c, x: -c,
        lambda c, x: c + 1.25,
        lambda c, x: c - 3,
        lambda c, x: 1 - c,
        lambda c, x: c * x,
        lambda c, x: x * c,
        lambda c, x: c * -2,
        lambda c, x: c * 0,
        lambda c, x: c * x[0] + c,
        lambda c, x: c[0] * x,
        lambda c, x: c * 0.5 - x,
        lambda c, x: c.sum(),
        lambda c, x: c.sum(axis=0),
        lambda c, x: c.sum(axis=-1),
        lambda c, x: c @ x.T,
        lambda c, x: x.T @ c,
        lambda c, x: c @ x[0],
        lambda c, x: x[:, 0] @ c,
        lambda c, x: c[0] @ x.T,
        lambda c, x: x @ c[0],
        lambda c, x: c[1] @ x[2],
        lambda c, x: x[2] @ c[1],
        lambda c, x: (c @ x.T) @ x + c * 2 - x,
        lambda c, x: c.T,
        lambda c, x: c.reshape(2, 6),
        lambda c, x: c.reshape((6, -1)),
        lambda c, x: c.ravel()[3:9:2],
        lambda c, x: c[..., 1],
        lambda c, x: c[None, 2, ::-1],
        lambda c, x: c[np.array([2, 0, 0])],
        lambda c, x: c[x[:, 0] > 0],
    ],
)
@pytest.mark.parametrize("x", [X, I, I.astype(np.uint8)], ids=["float", "int", "uint8"])
def test_ciphertexts_compute_as_numpy_does(keys: Keys, compute: Any, x: Any) -> None:
    pk, sk = keys
    exact = x if x.dtype.kind == "f" else x.astype(object)
    plain = compute(_numpy_like(exact), exact)
    result = compute(pk.encrypt(x), x)
    decrypted = sk.decrypt(result, dtype=object if x.dtype.kind in "iu" else None)
    if isinstance(decrypted, np.ndarray):
        assert decrypted.shape == np.shape(plain)
    np.testing.assert_allclose(
        np.asarray(decrypted, dtype=float), np.asarray(plain, dtype=float), rtol=1e-12, atol=1e-12
    )
    assert np.abs(np.asarray(plain, dtype=float)).max() <= result.bound * 16.0**result.exponent + 1


def _numpy_like(x: Any) -> Any:
    return x.copy()


def test_integer_arithmetic_is_exact(keys: Keys) -> None:
    pk, sk = keys
    W = rng.integers(-(2**62) + 1, 2**62, (4, 2))
    expected = I.astype(object) @ W.astype(object)
    assert (sk.decrypt(pk.encrypt(I) @ W, dtype=object) == expected).all()
    k = rng.integers(-(2**63) + 1, 2**63 - 1, (3, 4))
    expected = I.astype(object) * k.astype(object)
    for constant_time in (False, True):
        product = pk.encrypt(I).multiply(k, constant_time=constant_time)
        assert (sk.decrypt(product, dtype=object) == expected).all()


def test_multipliers_beyond_62_bits(keys: Keys) -> None:
    pk, sk = keys
    c = pk.encrypt([1, 2])
    assert sk.decrypt(c * 2**100, dtype=object).tolist() == [2**100, 2**101]
    with pytest.raises(EncodingOverflow, match="62 bits"):
        c @ np.array([2**62, 1])
    with pytest.raises(EncodingOverflow, match="62 bits"):
        c.matmul(np.array([1e9, 1.0]), exponent=-13)
    W = np.array([1e9 + 0.125, -0.25])  # coarser by itself
    assert sk.decrypt(c @ W) == pytest.approx(1e9 + 0.125 - 0.5, rel=1e-15)


def test_exponents_are_aligned_without_loss(keys: Keys) -> None:
    pk, sk = keys
    a, b = pk.encrypt(X, exponent=-5), pk.encrypt(I)
    assert (a + b).exponent == (b - a).exponent == -5
    np.testing.assert_allclose(sk.decrypt(a + b), X + I, rtol=1e-6)
    assert sk.decrypt(b.at_exponent(-7)).tolist() == I.tolist()
    with pytest.raises(EncodingError, match="digits would be lost"):
        a.at_exponent(0)


def test_shapes_that_do_not_match(keys: Keys) -> None:
    pk, _ = keys
    c = pk.encrypt(I)
    with pytest.raises(EncodingError, match="do not match"):
        c @ I
    with pytest.raises(EncodingError, match="one- and two-dimensional"):
        c @ np.ones((4, 1, 1))
    with pytest.raises(EncodingError, match="empty"):
        c @ np.ones((4, 0))
    with pytest.raises(ValueError, match="broadcast"):
        c + np.ones(5)
    with pytest.raises(ValueError, match="reshape"):
        c.reshape(5)
    with pytest.raises(EncodingError, match="two ciphertexts"):
        c * c
    with pytest.raises(EncodingError, match="two ciphertexts"):
        c @ c.T


def test_what_ciphertexts_refuse_to_be(keys: Keys) -> None:
    pk, _ = keys
    c = pk.encrypt(I)
    assert len(c) == 3
    assert [row.shape for row in c] == [(4,)] * 3
    assert c.size == 12
    with pytest.raises(TypeError, match="scalar"):
        len(pk.encrypt(1))
    with pytest.raises(TypeError, match="compared"):
        assert c == c
    with pytest.raises(TypeError, match="truth"):
        bool(c)
    with pytest.raises(TypeError, match="hash"):
        hash(c)


def test_gathered_sums(keys: Keys) -> None:
    pk, sk = keys
    c = pk.encrypt(I)
    index = np.array([11, 0, 0, 5, 3, 2, 1])
    sums = c.gather_sum(index, np.array([0, 3, 3, 4, 7, 7]))
    flat = I.ravel()
    expected = [flat[11] + 2 * flat[0], 0, flat[5], flat[1:4].sum(), 0]
    assert sk.decrypt(sums).tolist() == expected
    assert sums.bound == 3 * c.bound
    assert c.gather_sum(index[:0], np.array([0])).shape == (0,)
    assert sk.decrypt(c.gather_sum(index[:0], np.array([0, 0]))).tolist() == [0]
    for wrong, offsets in ((12, [0, 1]), (-1, [0, 1]), (0, [0, 2]), (0, [1, 1])):
        with pytest.raises(BackendError):
            c.gather_sum(np.array([wrong]), np.array(offsets))
    large = pk.encrypt([pk.max_mantissa // 2])
    large.gather_sum(np.zeros(2, np.int64), np.array([0, 1, 2]))
    with pytest.raises(EncodingOverflow):
        large.gather_sum(np.zeros(3, np.int64), np.array([0, 3]))


def test_moving_between_backends(keys: Keys) -> None:
    pk, sk = keys
    c = pk.encrypt(I)
    elsewhere = c.to(CpuBackend(workers=1))
    assert elsewhere.backend is not c.backend
    assert raw(elsewhere) == raw(c)
    with pytest.raises(BackendError, match="move one"):
        c + elsewhere
    assert sk.to(elsewhere.backend).decrypt(elsewhere).tolist() == I.tolist()


def test_concatenate(keys: Keys, others: Keys) -> None:
    pk, sk = keys
    a, b = pk.encrypt(I), pk.encrypt(X[:1])
    joined = concatenate([a, b])
    assert joined.shape == (4, 4)
    np.testing.assert_allclose(sk.decrypt(joined), np.vstack([I, X[:1]]))
    parts = [pk.encrypt([1]), pk.encrypt([2])]
    whole = concatenate(parts)
    assert whole.fresh
    assert not parts[0].fresh
    for first, second in ((slice(3), slice(3)), (slice(2), slice(1, 3))):
        c = pk.encrypt(I)
        assert not concatenate([c[first], c[second]]).fresh
    with pytest.raises(ValueError, match="nothing"):
        concatenate([])
    with pytest.raises(ValueError, match="cannot be joined"):
        concatenate([a, a[0]])
    with pytest.raises(KeyMismatch):
        concatenate([a, others[0].encrypt(I)])


# --- line 1: fresh randomness -------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["djn", "classic"])
def test_line1_equal_plaintexts_have_different_ciphertexts(keys: Keys, scheme: Any) -> None:
    pk, sk = keys
    for key in (pk, sk):
        values = raw(key.encrypt(np.ones(20), scheme=scheme)) + raw(key.encrypt(1.0, scheme=scheme))
        assert len(set(values)) == 21
        assert all((c - 1) % pk.n for c in values)


def _sent(pk: PublicKey, c: CiphertextArray) -> list[int]:
    return raw(pk.ciphertexts_from_bytes(c.to_bytes()))


@pytest.mark.parametrize(
    "derive",
    [
        lambda c: c + 1,
        lambda c: c * 3,
        lambda c: c * 0,
        lambda c: -c,
        lambda c: c - c,
        lambda c: c.sum(axis=0),
        lambda c: c @ np.eye(4, dtype=int),
        lambda c: c[[0, 0, 1]],
        lambda c: c.gather_sum(np.array([0, 1, 2, 3]), np.array([0, 1, 1, 4])),
        lambda c: c.at_exponent(-2),
        lambda c: c[0].reshape(2, 2) + c[1, 0],
    ],
)
def test_line1_what_is_computed_leaves_rerandomised(keys: Keys, derive: Any) -> None:
    pk, sk = keys
    c = pk.encrypt(I)
    d = derive(c)
    assert not d.fresh
    sent = _sent(pk, d)
    assert not set(sent) & set(raw(d))
    assert len(set(sent)) == len(sent)
    assert all((v - 1) % pk.n for v in sent)
    again = pk.ciphertexts_from_bytes(d.to_bytes())
    assert (sk.decrypt(again) == sk.decrypt(d)).all()


def test_line1_fresh_ciphertexts_leave_as_they_are_once(keys: Keys) -> None:
    pk, _ = keys
    c = pk.encrypt(I)
    view = c.reshape(12)[2:5]
    assert c.fresh
    assert view.fresh
    assert _sent(pk, c) == raw(c)
    assert not c.fresh
    assert not view.fresh  # a shuffled or repeated message would be recognised
    assert not set(_sent(pk, view)) & set(raw(c))
    assert not set(_sent(pk, c)) & set(raw(c))


def test_line1_received_ciphertexts_are_forwarded_rerandomised(keys: Keys) -> None:
    pk, sk = keys
    received = pk.ciphertexts_from_bytes(pk.encrypt(I).to_bytes())
    assert not received.fresh
    assert not set(_sent(pk, received)) & set(raw(received))
    fresh = received.rerandomize()
    assert fresh.fresh
    assert sk.decrypt(fresh).tolist() == I.tolist()


# --- line 2: randomness -------------------------------------------------------------------------


def test_line2_no_seed_parameter() -> None:
    for function in (keygen, PublicKey.encrypt, PrivateKey.encrypt, CiphertextArray.rerandomize):
        names = set(inspect.signature(function).parameters)
        assert not names & {"seed", "rng", "random", "random_state", "r"}


def test_line2_forked_processes_draw_different_randomness(keys: Keys) -> None:
    pk, _ = keys

    def draw() -> bytes:
        return pk.encrypt(1).to_limbs().tobytes()

    draw()
    seen = set()
    for _ in range(3):
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            os.write(writer, draw())
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader, "rb") as pipe:
            seen.add(pipe.read())
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert len(seen | {draw()}) == 4


def test_line2_random_numbers_use_their_whole_range() -> None:
    limbs = random_module.random_limbs(500, 100)
    assert limbs.shape == (500, 2)
    values = [int(v) for v in from_limbs(limbs)]
    assert max(values) < 1 << 100
    ored = 0
    for v in values:
        ored |= v
    assert ored == (1 << 100) - 1
    assert len(set(values)) == 500
    assert random_module.random_limbs(0, 100).shape == (0, 2)


# --- line 3: constant time ----------------------------------------------------------------------


def test_line3_secret_powers_are_constant_time(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither decryption nor classic encryption touches GMP's variable-time powers."""
    pk, sk = keys
    monkeypatch.setattr(gmpy2, "powmod", None)
    monkeypatch.setattr(gmpy2, "powmod_base_list", None)
    monkeypatch.setattr(gmpy2, "powmod_exp_list", None)
    assert sk.decrypt(pk.encrypt(5, scheme="classic")) == 5
    assert sk.decrypt(sk.encrypt(5, scheme="classic")) == 5
    assert sk.decrypt(pk.encrypt(I).multiply(I, constant_time=True)).tolist() == (I * I).tolist()


# --- line 4: keys never mix ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "mix",
    [
        lambda a, b, sk: a + b,
        lambda a, b, sk: a - b,
        lambda a, b, sk: sk.decrypt(b),
        lambda a, b, sk: a.public_key.ciphertexts_from_bytes(b.to_bytes()),
    ],
)
def test_line4_ciphertexts_of_different_keys_never_mix(keys: Keys, others: Keys, mix: Any) -> None:
    with pytest.raises(KeyMismatch):
        mix(keys[0].encrypt(I), others[0].encrypt(I), keys[1])


def _damaged(data: bytes, offset: int, replacement: bytes) -> bytes:
    return data[:offset] + replacement + data[offset + len(replacement) :]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d, pk: b"", "too few"),
        (lambda d, pk: d[:63], "too few"),
        (lambda d, pk: d[:70], "truncated"),
        (lambda d, pk: d[:-1], "announces"),
        (lambda d, pk: d + b"\0", "announces"),
        (lambda d, pk: _damaged(d, 0, b"PK"), "not a ciphertext"),
        (lambda d, pk: _damaged(d, 8, b"\2\0"), "format 2 is unknown"),
        (lambda d, pk: _damaged(d, 12, b"\x40\0\0\0"), "inconsistent"),
        (lambda d, pk: _damaged(d, 52, b"\xff\xff\0\0"), "bound exceeds"),
        (lambda d, pk: _damaged(d, 56, b"\1\0\0\0"), "inconsistent"),
        (lambda d, pk: _damaged(d, 64, b"\xff" * 8), "announces"),
        (lambda d, pk: _damaged(d, 72, bytes(256)), r"outside \(0, n"),
        (lambda d, pk: _damaged(d, 72, b"\xff" * 256), r"outside \(0, n"),
        (lambda d, pk: _damaged(d, 72, pk.nsquare.to_bytes(256, "little")), r"outside \(0, n"),
        (lambda d, pk: _damaged(d, 72, pk.n.to_bytes(256, "little")), "not coprime"),
    ],
)
def test_line4_loaded_ciphertexts_are_checked(keys: Keys, damage: Any, message: str) -> None:
    pk, _ = keys
    with pytest.raises(InvalidCiphertext, match=message):
        pk.ciphertexts_from_bytes(damage(pk.encrypt([1, 2]).to_bytes(), pk))


def test_line4_a_multiple_of_one_prime_is_not_a_ciphertext(keys: Keys) -> None:
    pk, sk = keys
    data = _damaged(pk.encrypt([1, 2]).to_bytes(), 72, sk.primes[0].to_bytes(256, "little"))
    with pytest.raises(InvalidCiphertext, match="not coprime"):
        pk.ciphertexts_from_bytes(data)


# --- line 5: overflow ---------------------------------------------------------------------------


def test_line5_every_operation_that_could_overflow_is_refused(keys: Keys) -> None:
    pk, sk = keys
    half = pk.max_mantissa // 2 + 1
    c = pk.encrypt([half, half])
    operations: list[Callable[[], CiphertextArray]] = [
        lambda: c + c,
        lambda: c - c,
        lambda: c + half,
        lambda: half - c,
        lambda: c * 2,
        lambda: c @ np.array([1, 1]),
        lambda: c.sum(),
        lambda: c.at_exponent(-1),
    ]
    for compute in operations:
        with pytest.raises(EncodingOverflow):
            compute()
    assert sk.decrypt(c + (half - 3), dtype=object).tolist() == [2 * half - 3] * 2


def test_line5_an_overflow_behind_the_bounds_back_is_noticed(keys: Keys) -> None:
    pk, sk = keys
    c = pk.encrypt(pk.max_mantissa)
    doubled = CiphertextArray(pk, pk.backend.mul(c.residues, c.residues), (), 0, 1)
    with pytest.raises(EncodingOverflow, match="signed range"):
        sk.decrypt(doubled)


def test_line5_bounds_travel_with_the_ciphertexts(keys: Keys) -> None:
    pk, _ = keys
    for value in (0, 1, 2**100, pk.max_mantissa):
        c = pk.encrypt(value)
        assert value <= pk.ciphertexts_from_bytes(c.to_bytes()).bound <= pk.max_mantissa


def test_line5_bounds_can_be_public(keys: Keys) -> None:
    """What is announced need not follow from the numbers, and never says that all are 0."""
    pk, sk = keys
    told = {pk.ciphertexts_from_bytes(pk.encrypt([v]).to_bytes()).bound for v in (0, 1, 2**31)}
    assert told == {2**32 - 1}
    for value in (0, 1, 2**70):
        c = pk.encrypt([value]).widened(100)
        assert c.bound == 2**100
        assert c.fresh
        assert sk.decrypt(c, dtype=object).tolist() == [value]
    assert pk.encrypt([2**70]).widened(10).bound == 2**70
    assert pk.encrypt([1]).widened(10_000).bound == pk.max_mantissa
    with pytest.raises(EncodingOverflow):
        pk.encrypt([1]).widened(10_000) + 1


@pytest.mark.parametrize(("bits", "guard_bits"), [(20, 4), (16, 10), (24, 8), (2, 0)])
def test_line5_packed_arrays_that_were_sent_add_up(keys: Keys, bits: int, guard_bits: int) -> None:
    pk, sk = keys
    packer = Packer(pk, bits=bits, guard_bits=guard_bits)
    x = np.array([-(1 << bits - 1), (1 << bits - 1) - 1])
    count = min(packer.most_summands, 300)
    c = pk.ciphertexts_from_bytes(packer.encrypt(x).ciphertexts.to_bytes())
    wide = packer.wrap(c, 2, 1)
    doubled, summands = wide, 1
    while 2 * summands <= count:
        doubled, summands = doubled + doubled, 2 * summands
    assert packer.decrypt(sk, doubled).tolist() == (summands * x).tolist()
    assert summands == (1 << guard_bits if guard_bits < 9 else 256)


def test_line5_packing_refuses_to_exceed_its_budget(keys: Keys, others: Keys) -> None:
    pk, sk = keys
    packer = Packer(pk, bits=16, guard_bits=2, exponent=-1)
    x = rng.integers(-(2**15), 2**15, 130) / 16
    x[:2] = -(2**15) / 16, (2**15 - 1) / 16
    total = packer.encrypt(x)
    assert total.ciphertexts.shape == (-(-130 // packer.slots),)
    assert packer.slots > 50
    for count in (2, 3, 4):
        total = total + packer.encrypt(x)
        assert packer.decrypt(sk, total).tolist() == (count * x).tolist()
    with pytest.raises(EncodingOverflow, match="5 summands"):
        total + packer.encrypt(x)
    with pytest.raises(EncodingOverflow, match="16 bits"):
        packer.encrypt([2**15 / 16])
    with pytest.raises(EncodingOverflow, match="5 summands"):
        packer.wrap(total.ciphertexts, 130, 5)
    with pytest.raises(EncodingError, match="shape"):
        packer.wrap(total.ciphertexts, 500, 4)
    with pytest.raises(EncodingError, match="vector"):
        packer.encrypt(np.ones((2, 2)))
    with pytest.raises(EncodingOverflow, match="slot"):
        Packer(pk, bits=1020, guard_bits=4)
    with pytest.raises(EncodingError, match="different formats"):
        total + Packer(pk, bits=16, guard_bits=3, exponent=-1).encrypt(x)
    with pytest.raises(EncodingOverflow, match="no sum"):
        packer.decrypt(sk, PackedArray(packer, pk.encrypt([-1], exponent=-1), 3, 1))
    assert len(total) == 130
    restored = packer.wrap(pk.ciphertexts_from_bytes(total.ciphertexts.to_bytes()), 130, 4)
    assert packer.decrypt(sk, restored).tolist() == (4 * x).tolist()


# --- line 6: a machine can fail -----------------------------------------------------------------


class Faulty(CpuBackend):
    """A device whose nth power comes out wrong: in one bit, or by a summand."""

    def __init__(self, call: int, element: int, summand: int | None = None) -> None:
        super().__init__(workers=1)
        self.calls, self.call, self.element, self.summand = 0, call, element, summand

    def pow(self, a: Any, exponents: Any, bits: int) -> CpuArray:
        result = super().pow(a, exponents, bits)
        self.calls += 1
        if self.calls == self.call:
            values = list(result._values)
            value = values[self.element]
            faulty = value ^ 1 << 100 if self.summand is None else value + self.summand
            values[self.element] = faulty % result.modulus.value
            result = CpuArray(result.modulus, values)
        return result


@pytest.mark.parametrize("call", [1, 2])
@pytest.mark.parametrize("element", [0, 7])
def test_line6_a_fault_in_either_half_releases_nothing(keys: Keys, call: int, element: int) -> None:
    pk, sk = keys
    c = pk.encrypt(np.arange(8))
    faulty = Faulty(call, element)
    with pytest.raises(CorruptResult, match="nothing was released"):
        sk.to(faulty).decrypt(c.to(faulty))
    with pytest.raises(CorruptResult, match="nothing was released"):
        sk.to(Faulty(call, element)).encrypt(np.arange(8), scheme="classic")


@pytest.mark.parametrize("call", [1, 2])
@pytest.mark.parametrize("element", [0, 7, 8])
def test_line6_a_fault_that_is_a_multiple_of_the_prime_releases_nothing(
    keys: Keys, call: int, element: int
) -> None:
    """Powers stay 1, or s, modulo the prime, as those kept in parts may; 8: of the product."""
    pk, sk = keys
    faulty = Faulty(call, element, sk.primes[call - 1] << 9)
    with pytest.raises(CorruptResult, match="a decryption failed its check; nothing was released"):
        sk.to(faulty).decrypt(pk.encrypt(np.arange(8)).to(faulty))
    faulty = Faulty(call, element, sk.primes[call - 1] << 9)
    with pytest.raises(CorruptResult, match="an encryption failed its check"):
        sk.to(faulty).encrypt(np.arange(8), scheme="classic")


def test_line6_a_fault_in_half_of_a_pair_releases_nothing(
    keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second number of a pair does not show modulo the prime."""
    backend = open_cpu(workers=1)
    if not isinstance(backend, NativeBackend):
        pytest.skip("no native kernels here")
    pk, sk = keys[0].to(backend), keys[1].to(backend)
    bits = sk.primes[0].bit_length()
    digits, _ = backend._native.layout(backend._kernel, bits, True)
    original = NativeBackend.pow

    def faulty(self: NativeBackend, *arguments: Any) -> Any:
        powers = original(self, *arguments)
        powers.rows[3, digits // 2 + 1] ^= np.uint64(1 << 5)
        return powers

    c = pk.encrypt(np.arange(8))
    monkeypatch.setattr(NativeBackend, "pow", faulty)
    with pytest.raises(CorruptResult, match="a decryption failed its check"):
        sk.decrypt(c)


@pytest.mark.parametrize("call", [1, 2, 3, 4])
def test_line6_a_fault_in_a_reduction_releases_nothing(
    keys: Keys, call: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of either half, in either of its two computations."""
    backend = open_cpu(workers=1)
    if not isinstance(backend, NativeBackend):
        pytest.skip("no native kernels here")
    pk, sk = keys[0].to(backend), keys[1].to(backend)
    assert sk.decrypt(pk.encrypt(np.arange(8))).tolist() == list(range(8))
    calls = 0
    original = NativeBackend._sum_of_parts

    def faulty(self: NativeBackend, *arguments: Any) -> Any:
        nonlocal calls
        rows = original(self, *arguments)
        calls += 1
        if calls == call:
            rows[3, 1] ^= np.uint64(1 << 5)
        return rows

    monkeypatch.setattr(NativeBackend, "_sum_of_parts", faulty)
    with pytest.raises(CorruptResult, match="a reduction failed"):
        sk.decrypt(pk.encrypt(np.arange(8)))


def test_line6_a_fault_in_a_division_releases_nothing(
    keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    pk, sk = keys

    def faulty(x: Any, y: Any) -> tuple[Any, Any]:
        quotient, remainder = gmpy2.f_divmod(x, y)
        return quotient, remainder ^ 1 << 100

    c = pk.encrypt(np.arange(8)).to(CpuBackend(workers=1))
    monkeypatch.setattr(_squares, "gmpy2", SimpleNamespace(f_divmod=faulty, isqrt=gmpy2.isqrt))
    with pytest.raises(CorruptResult, match="a reduction failed"):
        sk.to(c.backend).decrypt(c)


@pytest.mark.parametrize("half", [0, 1])
def test_line6_a_fault_in_the_recombination_releases_nothing(keys: Keys, half: int) -> None:
    pk, sk = keys
    other = sk.to(pk.backend)
    weights = list(other._weights)
    weights[half] += 1 << 90
    other._weights = tuple(weights)
    with pytest.raises(CorruptResult, match="a decryption failed its check"):
        other.decrypt(pk.encrypt(np.arange(1, 9)))


def test_line6_a_ciphertext_that_shares_a_factor_releases_nothing(keys: Keys) -> None:
    pk, sk = keys
    limbs = pk.encrypt([1]).to_limbs().copy()
    limbs[0] = np.frombuffer(sk.primes[0].to_bytes(256, "little"), "<u8")
    with pytest.raises(CorruptResult):
        sk.decrypt_mantissas(limbs)


# --- line 7: secrets do not show ----------------------------------------------------------------


def test_line7_nothing_secret_in_representations(keys: Keys) -> None:
    pk, sk = keys
    c = pk.encrypt(123456789)
    packed = Packer(pk, bits=40, guard_bits=2).encrypt([123456789])
    for thing in (pk, sk, c, packed, *sk._halves, pk.modulus):
        text = repr(thing)
        for secret in (*sk.primes, pk.nsquare, *(prime**2 for prime in sk.primes), 123456789):
            assert str(secret) not in text
            assert f"{secret:x}" not in text


def test_line7_keys_and_ciphertexts_are_not_pickled(keys: Keys) -> None:
    pk, sk = keys
    for thing in (pk, sk, pk.encrypt(1)):
        with pytest.raises(TypeError, match="not pickled"):
            pickle.dumps(thing)


# --- the package --------------------------------------------------------------------------------


def test_exported_names() -> None:
    assert set(dir(residue)) >= set(residue.__all__)
    for name in residue.__all__:
        assert getattr(residue, name) is not None
    with pytest.raises(AttributeError):
        residue.nonsense  # noqa: B018


def test_small_keys_are_opt_in_and_warn() -> None:
    with pytest.raises(InvalidKey, match="insecure_allow_1024"):
        keygen(1024, device="cpu")
    with pytest.warns(InsecureKeyWarning, match="1024-bit key is insecure"):
        keygen(1024, insecure_allow_1024=True, device="cpu")
