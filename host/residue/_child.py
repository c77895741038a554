"""Python in a process of its own that cannot outlive its time or its parent's call."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence

__all__ = ["ChildFailed", "run_python"]


class ChildFailed(Exception):
    """The process ended with an error; the message is the last line that it wrote of it."""


def run_python(
    arguments: Sequence[str], seconds: float, environment: Mapping[str, str] | None = None
) -> str:
    """What this interpreter prints when run with `arguments`, in a process group of its own.

    The whole group is killed when the call ends early: when time is up, on Ctrl-C.

    Args:
        arguments: of the interpreter.
        seconds: it may take.
        environment: of the process; None: this one's.

    Raises:
        TimeoutError: it was not done in time.
        ChildFailed: it ended with an error.
    """
    child = subprocess.Popen(  # noqa: S603
        [sys.executable, *arguments],
        env=environment,
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        output, errors = child.communicate(timeout=seconds)
    except BaseException as error:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.communicate()
        if isinstance(error, subprocess.TimeoutExpired):
            raise TimeoutError(f"not done in {seconds:.0f} s") from error
        raise
    if child.returncode:
        last = (errors.strip().splitlines() or ["no message"])[-1]
        raise ChildFailed(last.removeprefix("error: "))
    return output
