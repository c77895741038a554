"""Compiler launcher for Verilator's makefiles: `python _objcache.py STORE COMPILER ARGS...`.

The run-time files of Verilator and cocotb are the same in every model but take most of a small
model's build. Their objects are kept in STORE, keyed by the command and the source's content; any
other compilation is passed on unchanged.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

__all__: list[str] = []

_SHARED = (
    "verilated.cpp",
    "verilated_dpi.cpp",
    "verilated_fst_c.cpp",
    "verilated_probdist.cpp",
    "verilated_random.cpp",
    "verilated_threads.cpp",
    "verilated_timing.cpp",
    "verilated_vcd_c.cpp",
    "verilated_vpi.cpp",
    "verilator.cpp",  # cocotb's main: depends on the model through Vtop.h alone
)


def main(store: Path, command: list[str]) -> int:
    """Run one compilation, or answer it from `store`."""
    source = next((word for word in command if os.path.basename(word) in _SHARED), None)
    if source is None or "-o" not in command:
        return subprocess.call(command)  # noqa: S603
    output = Path(command[command.index("-o") + 1])
    content = Path(source).read_bytes()
    if source.endswith("verilator.cpp"):
        content += Path("Vtop.h").read_bytes()
    key = hashlib.sha256("\0".join(command).encode() + content).hexdigest()
    kept = store / f"{key}.o"
    if not kept.exists():
        status = subprocess.call(command)  # noqa: S603
        if status:
            return status
        store.mkdir(parents=True, exist_ok=True)
        partial = store / f"{key}.{os.getpid()}"
        shutil.copyfile(output, partial)
        partial.replace(kept)
    else:
        shutil.copyfile(kept, output)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
