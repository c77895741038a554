from __future__ import annotations

import stat
from pathlib import Path

import pytest

from residue.errors import InvalidKey, KeyFileError, WrongPassphrase
from residue.paillier import (
    PrivateKey,
    PublicKey,
    keygen,
    load_private_key,
    load_public_key,
    save_private_key,
    save_public_key,
)
from residue.paillier._keyfile import private_key_from_bytes, private_key_to_bytes

Keys = tuple[PublicKey, PrivateKey]


@pytest.fixture(scope="module")
def keys() -> Keys:
    return keygen(1024, insecure_allow_1024=True, device="cpu")


@pytest.fixture(scope="module")
def stored(keys: Keys) -> bytes:
    return private_key_to_bytes(keys[1], "correct horse")


def test_private_key_round_trip(keys: Keys, tmp_path: Path) -> None:
    pk, sk = keys
    path = tmp_path / "a.key"
    path.write_bytes(b"old")
    save_private_key(path, sk, "päss")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    loaded = load_private_key(path, "päss", device="cpu")
    assert loaded.primes == sk.primes
    assert loaded.public_key == pk
    assert loaded.public_key.h_s == pk.h_s
    assert [p.name for p in tmp_path.iterdir()] == ["a.key"]


def test_public_key_round_trip(keys: Keys, tmp_path: Path) -> None:
    pk, _ = keys
    for key in (pk, PublicKey(pk.n)):
        save_public_key(tmp_path / "a.pub", key)
        loaded = load_public_key(tmp_path / "a.pub", device="cpu")
        assert loaded == key
        assert loaded.h_s == key.h_s


def test_line7_primes_are_not_in_the_file(keys: Keys, stored: bytes) -> None:
    for prime in keys[1].primes:
        assert prime.to_bytes(64, "little")[:16] not in stored
        assert prime.to_bytes(64, "big")[:16] not in stored
    assert private_key_to_bytes(keys[1], "correct horse") != stored


def test_wrong_passphrase(stored: bytes) -> None:
    with pytest.raises(WrongPassphrase) as caught:
        private_key_from_bytes(stored, "wrong horse")
    assert "wrong horse" not in str(caught.value)


def test_empty_passphrase(keys: Keys) -> None:
    with pytest.raises(KeyFileError, match="must not be empty"):
        private_key_to_bytes(keys[1], "")


@pytest.mark.parametrize("length", [0, 7, 47, 48, 100, 447, 463, -1])
def test_truncated_private_key(stored: bytes, length: int) -> None:
    with pytest.raises((KeyFileError, InvalidKey)):
        private_key_from_bytes(stored[:length], "correct horse")


def test_longer_private_key(stored: bytes) -> None:
    with pytest.raises(KeyFileError, match="too long"):
        private_key_from_bytes(stored + b"\0", "correct horse")


@pytest.mark.parametrize(
    ("offset", "message"),
    [(0, "not a private key"), (8, "format"), (10, "scrypt"), (11, "scrypt"), (14, "scrypt")],
)
def test_altered_header(stored: bytes, offset: int, message: str) -> None:
    altered = bytearray(stored)
    altered[offset] ^= 0x40
    with pytest.raises(KeyFileError, match=message):
        private_key_from_bytes(bytes(altered), "correct horse")


@pytest.mark.parametrize("offset", [20, 35, 300, -1])
def test_altered_content_is_noticed(stored: bytes, offset: int) -> None:
    altered = bytearray(stored)
    altered[offset] ^= 1
    with pytest.raises(WrongPassphrase, match="altered"):
        private_key_from_bytes(bytes(altered), "correct horse")


def test_scrypt_cost_is_bounded(stored: bytes) -> None:
    altered = bytearray(stored)
    altered[10] = 40
    with pytest.raises(KeyFileError, match="scrypt"):
        private_key_from_bytes(bytes(altered), "correct horse")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: b"", "too few"),
        (lambda d: d[:-1], "truncated"),
        (lambda d: d + b"\0", "too long"),
        (lambda d: b"X" + d[1:], "not a public key"),
        (lambda d: d[:8] + b"\7" + d[9:], "format 7"),
        (lambda d: d[:12] + b"\1" + d[13:], "a key of 1025 bits|truncated|announces"),
        (lambda d: d[:12] + b"\0\0\1\0" + d[16:], "65536 bits"),
        (lambda d: d[:16] + bytes([d[16] ^ 1]) + d[17:], "even"),
        (lambda d: d[:143] + bytes([d[143] & 0x7F]) + d[144:], "announces"),
    ],
)
def test_damaged_public_key(keys: Keys, damage: object, message: str) -> None:
    assert callable(damage)
    with pytest.raises(InvalidKey, match=message):
        PublicKey.from_bytes(damage(keys[0].to_bytes()))


def test_missing_and_oversized_files(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="No such file"):
        load_private_key(tmp_path / "none", "x")
    with pytest.raises(KeyFileError, match="No such file"):
        load_public_key(tmp_path / "none")
    big = tmp_path / "big"
    big.write_bytes(bytes((1 << 20) + 1))
    with pytest.raises(KeyFileError, match="too large"):
        load_private_key(big, "x")


def test_a_failed_write_leaves_the_old_file(
    keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.key"
    path.write_bytes(b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(KeyFileError, match="No space left"):
        save_private_key(path, keys[1], "x")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.key"]
    with pytest.raises(KeyFileError, match="cannot write"):
        save_public_key(tmp_path / "missing" / "a.pub", keys[0])
