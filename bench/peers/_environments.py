"""Environments of libraries whose dependencies are not ours, made by uv from pinned versions."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from bench.peers._client import PeerError

__all__ = ["python_of"]

_HERE = Path(__file__).parent
_INSTALL_SECONDS = 600.0


def python_of(name: str, cache: Path, *, install: bool = True) -> Path:
    """The Python with what ``requirements-NAME.txt`` lists, installed where it is not yet.

    Args:
        name: of the requirements file; it names a folder of `cache` too.
        cache: where environments are kept.
        install: whether one that is missing or outdated is made now, which needs a network.

    Raises:
        PeerError: it is missing and not to be made, or uv failed.
    """
    requirements = _HERE / f"requirements-{name}.txt"
    folder = cache / name
    python, stamp = folder / "bin" / "python", folder / "made-from.txt"
    wanted = f"# {sys.executable} {sys.version}\n{requirements.read_text('utf-8')}"
    if stamp.exists() and stamp.read_text("utf-8") == wanted:
        return python
    if not install:
        raise PeerError(f"not installed: run without --no-install to make {folder.name}")
    uv = shutil.which("uv", path=str(Path(sys.executable).parent)) or shutil.which("uv")
    if uv is None:
        raise PeerError("uv is not installed: make setup")
    folder.parent.mkdir(parents=True, exist_ok=True)
    _uv(uv, "venv", "--clear", "--no-project", "--python", sys.executable, str(folder))
    _uv(uv, "pip", "install", "--python", str(python), "--requirement", str(requirements))
    stamp.write_text(wanted, "utf-8")
    return python


def _uv(*command: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, timeout=_INSTALL_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise PeerError(f"uv took longer than {_INSTALL_SECONDS:.0f} s") from error
    if done.returncode:
        told = done.stderr.decode("ascii", "ignore")  # without the tree uv draws
        raise PeerError(f"uv {command[1]} failed: {' '.join(told.split())[:240]}")
