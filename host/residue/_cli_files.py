"""Number and ciphertext files of the command line."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from residue._files import write_file
from residue.errors import EncodingError, InvalidCiphertext, ResidueError
from residue.paillier import PrivateKey, Scheme, concatenate, load_public_key
from residue.paillier._encoding import Encoded, encode

__all__ = ["decrypt_file", "encrypt_file", "format_text", "read_numbers", "write_numbers"]

_CHUNK = 256


def encrypt_file(
    source: Path,
    target: Path,
    key: Path,
    *,
    scheme: str | None,
    precision: float | None,
    device: str,
    progress: Callable[[str, int, int], None],
) -> dict[str, Any]:
    """Encrypt the numbers of a file; facts for the report."""
    pk = load_public_key(key, device=device)
    numbers = read_numbers(source)
    encoded = encode(numbers, precision=precision)
    flat = encoded.mantissas.ravel()
    parts = []
    for start in range(0, max(1, flat.size), _CHUNK):
        progress("encrypting", start, flat.size)
        part = Encoded(flat[start : start + _CHUNK], encoded.exponent, encoded.bound)
        parts.append(pk.encrypt_encoded(part, cast("Scheme | None", scheme)))
    c = concatenate(parts).reshape(numbers.shape)
    write_file(target, c.to_bytes(), mode=0o644, error=ResidueError)
    return {
        "target": str(target),
        "shape": list(c.shape),
        "exponent": c.exponent,
        "fingerprint": pk.fingerprint.hex(),
        "device": c.backend.name,
    }


def decrypt_file(
    source: Path, key: PrivateKey, *, progress: Callable[[str, int, int], None]
) -> NDArray[Any]:
    """The numbers of a ciphertext file."""
    try:
        data = source.read_bytes()
    except OSError as error:
        raise InvalidCiphertext(f"cannot read {source}: {error.strerror}") from error
    c = key.public_key.ciphertexts_from_bytes(data)
    flat = c.ravel()
    parts = []
    for start in range(0, max(1, flat.size), _CHUNK):
        progress("decrypting", start, flat.size)
        parts.append(key.decrypt(flat[start : start + _CHUNK]))
    numbers: NDArray[Any] = np.concatenate(parts).reshape(c.shape)
    return numbers


def read_numbers(path: Path) -> NDArray[Any]:
    """An array of a .npy file, or the table of a .csv or whitespace-separated text file.

    Text of integers alone gives integers of any size; a table of one column is a vector.

    Raises:
        EncodingError: unreadable, not numbers, missing values or rows of different lengths.
    """
    try:
        if path.suffix == ".npy":
            array: NDArray[Any] = np.load(path, allow_pickle=False)
            return array
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise EncodingError(f"cannot read numbers from {path}: {error}") from error
    if path.suffix == ".csv":
        rows = [row for row in csv.reader(io.StringIO(text)) if row]
    else:
        rows = [line.split() for line in text.splitlines() if line.strip()]
    if not rows:
        raise EncodingError(f"{path} holds no numbers")
    for number, row in enumerate(rows, 1):
        if len(row) != len(rows[0]):
            raise EncodingError(f"{path}, row {number}: {len(row)} values, not {len(rows[0])}")
        if not all(cell.strip() for cell in row):
            raise EncodingError(f"{path}, row {number}: a value is missing")
    array = np.array(_parse(rows, path))
    return array[:, 0] if array.shape[1] == 1 else array


def _parse(rows: list[list[str]], path: Path) -> list[list[int]] | list[list[float]]:
    try:
        return [[int(cell) for cell in row] for row in rows]
    except ValueError:
        try:
            return [[float(cell) for cell in row] for row in rows]
        except ValueError as error:
            raise EncodingError(f"{path} holds something that is not a number") from error


def write_numbers(path: Path, numbers: NDArray[Any]) -> None:
    """Write .npy, .csv or whitespace-separated text, mode 0600, whole or not at all."""
    if path.suffix == ".npy":
        buffer = io.BytesIO()
        np.save(buffer, numbers, allow_pickle=False)
        data = buffer.getvalue()
    else:
        data = format_text(numbers, "," if path.suffix == ".csv" else " ").encode()
    write_file(path, data, mode=0o600, error=ResidueError)


def format_text(numbers: NDArray[Any], separator: str) -> str:
    """Rows of numbers, each written so that reading it gives the same number."""
    table = numbers.reshape(-1, 1) if numbers.ndim < 2 else numbers.reshape(len(numbers), -1)
    return "".join(separator.join(repr(v) for v in row) + "\n" for row in table.tolist())
