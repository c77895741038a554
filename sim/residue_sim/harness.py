"""The one function through which every bench is built and run: cocotb on Verilator."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from cocotb_tools.runner import get_runner

from residue_sim._verilator import (
    CXX,
    VerilatorError,
    cached_build,
    content_key,
    drop_objects,
    find_verilator,
)
from residue_sim.coverage import CoverageFolder
from residue_sim.manifest import hw_root, sources_for

__all__ = ["bench_parameter", "bench_seed", "run_bench"]

_BUILD_ARGUMENTS = ("--assert", "--x-assign", "unique", "--x-initial", "unique", "-O3")
# Small models run briefly: compile them fast. Most of the time goes into verilated.h, which is
# precompiled once; the compiler ignores it where flags differ.
_OPTIMISE = "-O1"
_MAKE_FLAGS = (
    r"OPT_FAST={optimise}\ -I{precompiled}\ -include\ verilated.h VK_PCH_I_FAST= "
    "OPT_SLOW=-O0 OPT_GLOBAL=-O2"
)
_HEADER_FLAGS = (
    *(_OPTIMISE, "-std=gnu++20", "-DVERILATOR=1"),
    *(f"-DVM_{name}=0" for name in ("SC", "TIMING", "TRACE")),
    *(f"-DVM_TRACE_{name}=0" for name in ("FST", "VCD", "SAIF")),
)


def bench_seed() -> int:
    """Seed of this run's random stimuli: `$RESIDUE_SEED`, else 1."""
    return int(os.environ.get("RESIDUE_SEED", "1"))


def bench_parameter(name: str) -> int:
    """Inside the simulation: the value that `run_bench` gave to a parameter of the top."""
    return int(os.environ[f"PARAM_{name}"])


def run_bench(
    toplevel: str,
    test_file: str | Path,
    *,
    parameters: Mapping[str, int] | None = None,
    tests: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    defines: Sequence[str] = (),
    models: Sequence[Path] = (),
    waves: bool = False,
) -> None:
    """Build `toplevel` (cached by content) and run the cocotb tests of a Python file on it.

    Args:
        toplevel: a module of hw/sources.yaml.
        test_file: the file with the `@cocotb.test` coroutines, usually `__file__`.
        parameters: values of the top's parameters; the coroutines ask `bench_parameter` for them.
        tests: names of the coroutines to run; all if empty.
        environment: further environment variables for the coroutines.
        defines: preprocessor symbols.
        models: RTL of primitives that stand outside hw/.
        waves: write a waveform beside the build.

    Raises:
        AssertionError: a coroutine failed; its log is on standard output.
        VerilatorError: it does not build, or there is no Verilator.
    """
    parameters = dict(parameters or {})
    sources = [*_waivers(), *models, *sources_for(toplevel)]
    build_arguments = [*_BUILD_ARGUMENTS, *(f"-D{name}" for name in defines)]
    coverage = CoverageFolder.from_environment()
    if coverage:
        sources += coverage.bins(sources)
        build_arguments += coverage.BUILD_ARGUMENTS
    runner = get_runner("verilator")

    def build(folder: Path) -> None:
        make_flags = _MAKE_FLAGS.format(
            optimise=_OPTIMISE, precompiled=_precompiled_header(coverage is not None)
        )
        with _environment({**find_verilator().environment, "MAKEFLAGS": make_flags}):
            runner.build(
                sources=sources,
                hdl_toplevel=toplevel,
                parameters=parameters,
                build_args=build_arguments,
                build_dir=folder,
                timescale=("1ns", "1ps"),
                waves=waves,
            )
        drop_objects(folder)

    key = content_key(
        sources, sorted(parameters.items()), build_arguments, _MAKE_FLAGS, waves, sys.version
    )
    try:
        folder = cached_build(f"bench-{toplevel}", key, build)
    except RuntimeError as error:
        raise VerilatorError(f"{toplevel} does not build; the log is above") from error

    seed = bench_seed()
    print(f"{toplevel}: {parameters} seed {seed} (RESIDUE_SEED)")
    extra = {f"PARAM_{name}": str(value) for name, value in parameters.items()}
    extra |= environment or {}
    test_file = Path(test_file).resolve()
    with tempfile.TemporaryDirectory() as scratch, _import_path(test_file.parent):
        try:
            runner.test(
                hdl_toplevel=toplevel,
                hdl_toplevel_lang="verilog",
                test_module=test_file.stem,
                testcase=list(tests) or None,
                build_dir=folder,
                test_dir=folder if waves else scratch,
                results_xml=str(Path(scratch) / "results.xml"),
                seed=seed,
                extra_env={**extra, "COCOTB_LOG_LEVEL": "WARNING", "COCOTB_ANSI_OUTPUT": "0"},
                waves=waves,
            )
        except (RuntimeError, SystemExit) as error:  # RuntimeError: an RTL assertion stopped it
            raise AssertionError(f"{toplevel}: a bench failed, seed {seed}") from error
        if coverage:
            coverage.keep(Path(folder if waves else scratch), toplevel)


def _precompiled_header(coverage: bool) -> Path:
    """A folder that stands in for verilated.h on the include path."""
    include = find_verilator().root / "include"
    flags = [
        *_HEADER_FLAGS,
        f"-DVM_COVERAGE={coverage:d}",
        f"-I{include}",
        f"-I{include / 'vltstd'}",
        "-x",
        "c++-header",
    ]

    def build(folder: Path) -> None:
        header = folder / "verilated.h"
        header.symlink_to(include / header.name)
        subprocess.run(  # noqa: S603
            [CXX, *flags, str(header), "-o", f"{header}.gch"], check=True
        )

    return cached_build("verilated-header", content_key([include / "verilated.h"], flags), build)


def _waivers() -> list[Path]:
    return sorted((hw_root() / "lint").glob("*.vlt"))


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    saved = dict(os.environ)
    os.environ.clear()
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(saved)


@contextlib.contextmanager
def _import_path(folder: Path) -> Iterator[None]:
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
