"""Key files: private keys under scrypt and AES-GCM, written atomically with mode 0600.

Layout in docs/formats.md. The header is authenticated with the key; wrong passphrases and altered
files cannot be told apart.
"""

from __future__ import annotations

import os
import secrets
import struct
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from residue._files import write_file
from residue.backends._protocol import Backend
from residue.errors import KeyFileError, WrongPassphrase
from residue.paillier._keys import PrivateKey, PublicKey

__all__ = [
    "load_private_key",
    "load_public_key",
    "private_key_from_bytes",
    "private_key_to_bytes",
    "save_private_key",
    "save_public_key",
]

VERSION = 1

_MAGIC = b"RSDUPRIV"
_HEADER = struct.Struct("<8sHBBBBH16s12sI")  # 48 bytes
_LOG2_N, _R, _P = 15, 8, 1  # 32 MiB, a tenth of a second
_LOG2_N_MOST = 20
_FILE_MOST = 1 << 20


def private_key_to_bytes(key: PrivateKey, passphrase: str) -> bytes:
    """The encrypted form.

    Raises:
        KeyFileError: the passphrase is empty.
    """
    if not passphrase:
        raise KeyFileError("a private key is stored under a passphrase; it must not be empty")
    public = key.public_key.to_bytes()
    salt, nonce = secrets.token_bytes(16), secrets.token_bytes(12)
    header = _HEADER.pack(_MAGIC, VERSION, _LOG2_N, _R, _P, 0, 0, salt, nonce, len(public))
    size = -(-key.public_key.bits // 16)
    secret = b"".join(prime.to_bytes(size, "little") for prime in key.primes)
    aead = AESGCM(_derive(passphrase, salt, _LOG2_N, _R, _P))
    return header + public + aead.encrypt(nonce, secret, header + public)


def private_key_from_bytes(
    data: bytes, passphrase: str, *, device: str | Backend = "auto"
) -> PrivateKey:
    """Decrypt and check.

    Raises:
        KeyFileError: truncated, malformed or of another version.
        WrongPassphrase: the passphrase does not open it, or it was altered.
        InvalidKey: what it holds is not a key pair.
    """
    if len(data) < _HEADER.size or data[:8] != _MAGIC:
        raise KeyFileError("this is not a private key file")
    _, version, log2_n, r, p, zero, reserved, salt, nonce, length = _HEADER.unpack_from(data)
    if version != VERSION:
        raise KeyFileError(f"private key format {version} is unknown; expected {VERSION}")
    if not 10 <= log2_n <= _LOG2_N_MOST or r != _R or p != _P or zero or reserved:
        raise KeyFileError("the private key file asks for unsupported scrypt parameters")
    start = _HEADER.size + length
    if len(data) < start + 16:
        raise KeyFileError("the private key file is truncated")
    public = PublicKey.from_bytes(data[_HEADER.size : start], device=device)
    size = -(-public.bits // 16)
    if len(data) != start + 2 * size + 16:
        raise KeyFileError("the private key file is truncated or too long")
    aead = AESGCM(_derive(passphrase, salt, log2_n, r, p))
    try:
        secret = aead.decrypt(nonce, data[start:], data[:start])
    except InvalidTag as error:
        raise WrongPassphrase(
            "the passphrase does not open this private key file, or the file was altered"
        ) from error
    prime_p, prime_q = (int.from_bytes(secret[i : i + size], "little") for i in (0, size))
    return PrivateKey(public, prime_p, prime_q)


def save_private_key(path: str | os.PathLike[str], key: PrivateKey, passphrase: str) -> None:
    """Write an encrypted private key, mode 0600, whole or not at all."""
    write_file(path, private_key_to_bytes(key, passphrase), mode=0o600, error=KeyFileError)


def load_private_key(
    path: str | os.PathLike[str], passphrase: str, *, device: str | Backend = "auto"
) -> PrivateKey:
    """Read what `save_private_key` wrote. Raises as `private_key_from_bytes`."""
    return private_key_from_bytes(_read(path), passphrase, device=device)


def save_public_key(path: str | os.PathLike[str], key: PublicKey) -> None:
    """Write a public key, whole or not at all."""
    write_file(path, key.to_bytes(), mode=0o644, error=KeyFileError)


def load_public_key(path: str | os.PathLike[str], *, device: str | Backend = "auto") -> PublicKey:
    """Read what `save_public_key` wrote.

    Raises:
        KeyFileError: missing or unreadable.
        InvalidKey: malformed.
    """
    return PublicKey.from_bytes(_read(path), device=device)


def _read(path: str | os.PathLike[str]) -> bytes:
    try:
        with Path(path).open("rb") as file:
            data = file.read(_FILE_MOST + 1)
    except OSError as error:
        raise KeyFileError(f"cannot read key file {path}: {error.strerror}") from error
    if len(data) > _FILE_MOST:
        raise KeyFileError(f"{path} is too large for a key file")
    return data


def _derive(passphrase: str, salt: bytes, log2_n: int, r: int, p: int) -> bytes:
    kdf = Scrypt(salt=salt, length=32, n=1 << log2_n, r=r, p=p)
    return kdf.derive(passphrase.encode("utf-8"))
