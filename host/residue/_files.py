"""Files that appear as a whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from residue.errors import ResidueError

__all__ = ["write_file"]


def write_file(
    path: str | os.PathLike[str], data: bytes, *, mode: int, error: type[ResidueError]
) -> None:
    """Write a file by renaming a complete temporary one; raise `error` where that fails."""
    target = Path(path)
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    except OSError as failure:
        raise error(f"cannot write {target}: {failure.strerror}") from failure
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(target)
    except BaseException as failure:
        Path(name).unlink(missing_ok=True)
        if isinstance(failure, OSError):
            raise error(f"cannot write {target}: {failure.strerror}") from failure
        raise
