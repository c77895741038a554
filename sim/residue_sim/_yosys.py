"""Yosys, the wheel's, in a process of its own."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

__all__ = ["YosysError", "run_yosys", "yosys_share", "yosys_version"]

_CALL = """
from pyosys import libyosys
libyosys.run_pass("script script.ys", libyosys.Design())
"""


class YosysError(Exception):
    """Yosys failed; the message is the end of its log."""


def yosys_version() -> str:
    """Of the wheel: part of the key of everything that is made with it."""
    return importlib.metadata.version("pyosys")


def yosys_share(name: str) -> str:
    """The text of a file that comes with Yosys: a library of cells."""
    found = importlib.util.find_spec("pyosys")
    assert found is not None
    assert found.origin is not None
    return (Path(found.origin).parent / "share" / name).read_text()


def run_yosys(
    script: Sequence[str], folder: Path, result: Path, *, seconds: float | None = None
) -> None:
    """Run commands in `folder`, where files are read and written; the log goes to ``yosys.log``.

    Raises:
        YosysError: one failed, `result` was not written, or time ran out.
    """
    (folder / "script.ys").write_text("\n".join(script) + "\n")
    log = folder / "yosys.log"
    with log.open("wb") as output:
        try:
            done = subprocess.run(  # noqa: S603
                [sys.executable, "-c", _CALL],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=seconds,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise YosysError(f"Yosys did not end in {seconds:.0f} s") from error
    if done.returncode or not result.is_file():
        raise YosysError(f"Yosys failed:\n{log.read_text(errors='replace')[-3000:]}")
