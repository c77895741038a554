"""Machine code of the GPU kernels, kept on disk by what it was made of."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path

from residue._files import write_file
from residue.backends._gpu_build import (
    Shape,
    compile_kernels,
    compiler_options,
    compiler_version,
    kernel_source,
)
from residue.errors import BackendError

__all__ = ["cache_folder", "cached_kernels"]

_MAGIC = b"residue GPU kernels 1\n"


def cache_folder() -> Path:
    """``gpu`` in `$RESIDUE_CACHE`, else in ``residue`` of `$XDG_CACHE_HOME` or ``~/.cache``."""
    named = os.environ.get("RESIDUE_CACHE")
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return (Path(named) if named else Path(home, "residue")) / "gpu"


def cached_kernels(shape: Shape, arch: str) -> bytes:
    """`compile_kernels`, at most once for the same source, compiler, options and architecture.

    A file that is damaged or cannot be read is compiled anew and replaced; a folder that cannot be
    written is done without. Its digest finds damage, not malice: the folder is the user's own.
    """
    path = cache_folder() / f"{_key(shape, arch)}.cubin"
    code = _read(path)
    if code is None:
        code = compile_kernels(shape, arch)
        with suppress(OSError, BackendError):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            data = _MAGIC + hashlib.sha256(code).digest() + code
            write_file(path, data, mode=0o600, error=BackendError)
    return code


def _key(shape: Shape, arch: str) -> str:
    made_of = [kernel_source(), compiler_version(), *compiler_options(shape, arch)]
    return hashlib.sha256("\0".join(made_of).encode()).hexdigest()


def _read(path: Path) -> bytes | None:
    """What was written there; None: nothing, or something else."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    start = len(_MAGIC) + hashlib.sha256().digest_size
    head, code = data[:start], data[start:]
    return code if head == _MAGIC + hashlib.sha256(code).digest() else None
