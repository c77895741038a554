"""How a bench is built and started; `run_bench` of `residue_sim.harness` is its public face."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cocotb_tools.runner import Verilator

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

__all__ = ["Bench", "build_bench"]

_BUILD_ARGUMENTS = ("--assert", "--x-assign", "unique", "--x-initial", "unique", "-O3")
# Small models run briefly: compile them fast. Most of the time goes into verilated.h, which is
# precompiled once; it is named by its path, as cocotb's main comes with folders before these flags.
_OPTIMISE = "-O1"
_MAKE_FLAGS = (
    r"OPT_FAST={optimise}\ -include\ {precompiled} VK_PCH_I_FAST= OPT_SLOW=-O0 OPT_GLOBAL=-O2"
)
_HEADER_FLAGS = (
    *(_OPTIMISE, "-std=gnu++20", "-DVERILATOR=1"),
    *(f"-DVM_{name}=0" for name in ("SC", "TIMING", "TRACE")),
    *(f"-DVM_TRACE_{name}=0" for name in ("FST", "VCD", "SAIF")),
)


@dataclass(frozen=True)
class Bench:
    """A bench that is built: its top, where it lies, whether it writes waves and coverage."""

    toplevel: str
    folder: Path
    waves: bool
    coverage: CoverageFolder | None

    def run(
        self, test_file: Path, tests: Sequence[str], seed: int, environment: Mapping[str, str]
    ) -> None:
        """Run coroutines of a file, all if none is named.

        Raises:
            AssertionError: one failed; its log is on standard output.
        """
        environment = {
            **environment,
            "COCOTB_LOG_LEVEL": "WARNING",
            "COCOTB_ANSI_OUTPUT": "0",
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # cocotb uses pytest's assertions alone
        }
        with tempfile.TemporaryDirectory() as scratch, _import_path(test_file.parent):
            here = self.folder if self.waves else Path(scratch)
            try:
                _Runner().test(
                    hdl_toplevel=self.toplevel,
                    hdl_toplevel_lang="verilog",
                    test_module=test_file.stem,
                    testcase=list(tests) or None,
                    build_dir=self.folder,
                    test_dir=here,
                    results_xml=str(Path(scratch) / "results.xml"),
                    seed=seed,
                    extra_env=environment,
                    waves=self.waves,
                )
            except (RuntimeError, SystemExit) as error:  # RuntimeError: an RTL assertion stopped it
                raise AssertionError(f"{self.toplevel}: a bench failed, seed {seed}") from error
            if self.coverage:
                self.coverage.keep(here, self.toplevel)


def build_bench(
    toplevel: str,
    parameters: Mapping[str, int],
    defines: Sequence[str],
    models: Sequence[Path],
    visible: Sequence[str],
    *,
    waves: bool,
) -> Bench:
    """Build a bench, cached by content; the arguments are those of `run_bench`.

    Raises:
        VerilatorError: it does not build, or there is no Verilator.
    """
    sources = [*_waivers(), *models, *sources_for(toplevel)]
    build_arguments = [*_BUILD_ARGUMENTS, *(f"-D{name}" for name in defines)]
    coverage = CoverageFolder.from_environment()
    if coverage:
        sources += coverage.bins(sources)
        build_arguments += coverage.BUILD_ARGUMENTS
    shown = "\n".join(["`verilator_config", *map(_public, ["*.mem_q", *visible]), ""])

    def build(folder: Path) -> None:
        waiver = folder / "visible.vlt"
        waiver.write_text(shown)
        make_flags = _MAKE_FLAGS.format(
            optimise=_OPTIMISE, precompiled=_precompiled_header(coverage is not None)
        )
        with _environment({**find_verilator().environment, "MAKEFLAGS": make_flags}):
            _Runner().build(
                sources=[waiver, *sources],
                hdl_toplevel=toplevel,
                parameters=parameters,
                build_args=build_arguments,
                build_dir=folder,
                timescale=("1ns", "1ps"),
                waves=waves,
            )
        drop_objects(folder)

    key = content_key(
        sources, sorted(parameters.items()), build_arguments, _MAKE_FLAGS, shown, waves, sys.version
    )
    try:
        folder = cached_build(f"bench-{toplevel}", key, build)
    except RuntimeError as error:
        raise VerilatorError(f"{toplevel} does not build; the log is above") from error
    return Bench(toplevel, folder, waves, coverage)


class _Runner(Verilator):
    """cocotb's runner for Verilator, which makes every signal of every module visible, without."""

    def _build_command(self) -> list[list[str]]:
        verilator, *make = super()._build_command()
        everything = verilator.index("--public-flat-rw")
        return [
            [*verilator[:everything], "--public-depth", "1", *verilator[everything + 1 :]],
            *make,
        ]


def _public(name: str) -> str:
    module, signal = name.split(".")
    return f'public_flat_rw -module "{module}" -var "{signal}"'


def _precompiled_header(coverage: bool) -> Path:
    """What stands in for verilated.h."""
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

    key = content_key([include / "verilated.h"], flags)
    return cached_build("verilated-header", key, build) / "verilated.h"


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
