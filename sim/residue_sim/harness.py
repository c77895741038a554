"""The one function through which every bench is built and run: cocotb on Verilator."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = ["bench_parameter", "bench_seed", "run_bench"]


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
    visible: Sequence[str] = (),
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
        visible: what coroutines look at below the top's own signals and all memories (``mem_q``),
            as ``module.signal``, each with wildcards. What is invisible is built in half the time.
        waves: write a waveform beside the build.

    Raises:
        AssertionError: a coroutine failed; its log is on standard output.
        VerilatorError: it does not build, or there is no Verilator.
    """
    # Not in the coroutines' process, which would take half as long again to start.
    from residue_sim._bench import build_bench

    parameters, seed = dict(parameters or {}), bench_seed()
    bench = build_bench(toplevel, parameters, defines, models, visible, waves=waves)
    print(f"{toplevel}: {parameters} seed {seed} (RESIDUE_SEED)")
    values = {f"PARAM_{name}": str(value) for name, value in parameters.items()}
    bench.run(Path(test_file).resolve(), tests, seed, {**values, **(environment or {})})
