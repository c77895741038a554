"""The one function through which every bench is built and run: cocotb on Verilator."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from cocotb_tools.runner import get_runner

from residue_sim._verilator import cached_build, content_key, find_verilator
from residue_sim.manifest import hw_root, sources_for

__all__ = ["bench_seed", "run_bench"]

_BUILD_ARGUMENTS = ("--assert", "--x-assign", "unique", "--x-initial", "unique", "-O3")
# Small models run briefly: compile them fast.
_MAKE_FLAGS = "OPT_FAST=-O1 OPT_SLOW=-O0 OPT_GLOBAL=-O2"


def bench_seed() -> int:
    """Seed of this run's random stimuli: `$RESIDUE_SEED`, else 1."""
    return int(os.environ.get("RESIDUE_SEED", "1"))


def run_bench(
    toplevel: str,
    test_file: str | Path,
    *,
    parameters: Mapping[str, int] | None = None,
    tests: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    waves: bool = False,
) -> None:
    """Build `toplevel` (cached by content) and run the cocotb tests of a Python file on it.

    Args:
        toplevel: a module of hw/sources.yaml.
        test_file: the file with the `@cocotb.test` coroutines, usually `__file__`.
        parameters: values of the top's parameters; the coroutines find them in the environment
            as `PARAM_<name>`.
        tests: names of the coroutines to run; all if empty.
        environment: further environment variables for the coroutines.
        waves: write a waveform beside the build.

    Raises:
        AssertionError: a coroutine failed; its log is on standard output.
        VerilatorError: Verilator could not be found.
    """
    parameters = dict(parameters or {})
    sources = [*_waivers(), *sources_for(toplevel)]
    runner = get_runner("verilator")

    def build(folder: Path) -> None:
        with _environment({**find_verilator().environment, "MAKEFLAGS": _MAKE_FLAGS}):
            runner.build(
                sources=sources,
                hdl_toplevel=toplevel,
                parameters=parameters,
                build_args=list(_BUILD_ARGUMENTS),
                build_dir=folder,
                timescale=("1ns", "1ps"),
                waves=waves,
            )

    key = content_key(
        sources, sorted(parameters.items()), _BUILD_ARGUMENTS, _MAKE_FLAGS, waves, sys.version
    )
    try:
        folder = cached_build(f"bench-{toplevel}", key, build)
    except SystemExit as error:
        raise AssertionError(f"{toplevel} does not build; the log is above") from error

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
        except SystemExit as error:
            raise AssertionError(f"{toplevel}: a bench failed, seed {seed}") from error


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
