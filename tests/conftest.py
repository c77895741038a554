"""Fixtures that several folders share: other builds of the native kernels."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sysconfig
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pybind11
import pytest

import residue.backends
from residue_sim._verilator import cached_build

SOURCES = Path(residue.backends.__file__).parent / "native"

NativeBuild = Callable[..., Path]


def compile_native(
    name: str, *flags: str, extra: Path | None = None, folder: Path = SOURCES
) -> Path:
    """Build the kernels with these flags: the Python module, or the program around `extra`.

    Args:
        name: of the build.
        flags: of the compiler.
        extra: a C++ file with a main function.
        folder: of the kernels' sources.
    """
    sources = [
        path for path in sorted(folder.glob("*.cpp")) if extra is None or path.stem != "module"
    ]
    headers = sorted(folder.glob("*.hpp"))
    sources += [extra] if extra else []
    output = name if extra else f"{name}{sysconfig.get_config_var('EXT_SUFFIX')}"
    includes = [f"-I{folder}", f"-I{pybind11.get_include()}"]
    includes += [f"-I{sysconfig.get_path('include')}"]
    kind = [] if extra else ["-shared", "-fPIC", "-fvisibility=hidden", f"-DRESIDUE_MODULE={name}"]
    command = ["g++", "-std=c++20", "-w", *includes, *kind, *flags]

    def build(into: Path) -> None:
        objects = []
        for source in sources:
            objects.append(str(into / f"{source.stem}.o"))
            run = subprocess.run(
                [*command, "-c", str(source), "-o", objects[-1]], capture_output=True, text=True
            )
            assert run.returncode == 0, run.stderr
        subprocess.run([*command, *objects, "-o", str(into / output)], check=True)
        for name in objects:
            Path(name).unlink()

    key = [path.read_bytes() for path in sources + headers]
    return cached_build(name, [*key, *command], build) / output


def load_native(path: Path) -> ModuleType:
    """The module of `compile_native`."""
    spec = importlib.util.spec_from_file_location(path.name.partition(".")[0], path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def verifying() -> ModuleType:
    """Kernels on lanes that check every bound, AVX512-IFMA's among them."""
    return load_native(compile_native("native_verifying", "-O1", "-DRESIDUE_VERIFY"))


@pytest.fixture(scope="session")
def emulating() -> ModuleType:
    """Kernels with the AVX-512 intrinsics in plain C++."""
    return load_native(compile_native("native_emulating", "-O1", "-DRESIDUE_EMULATE_AVX512"))


@pytest.fixture(scope="session")
def compiled() -> NativeBuild:
    """`compile_native`, where there is what it needs."""
    if shutil.which("g++") is None:
        pytest.skip("no g++ here")
    return compile_native
