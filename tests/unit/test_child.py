"""Processes with a time limit: what they print, how they fail, that none is left."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from residue._child import ChildFailed, run_python

_PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open(sys.argv[1], "w").write(str(child.pid))
child.wait()
"""


def test_it_returns_what_is_printed_and_fails_with_the_last_line() -> None:
    assert run_python(["-c", "import os; print(os.environ['A'])"], 60, {"A": "b"}) == "b\n"
    code = "import sys; sys.exit('first\\nerror: no room')"
    with pytest.raises(ChildFailed, match=r"^no room$"):
        run_python(["-c", code], 60)
    with pytest.raises(ChildFailed, match="no message"):
        run_python(["-c", "import sys; sys.exit(3)"], 60)


def test_when_time_is_up_its_own_children_end_too(tmp_path: Path) -> None:
    noted = tmp_path / "pid"
    with pytest.raises(TimeoutError, match="not done in 5 s"):
        run_python(["-c", _PARENT, str(noted)], 5)
    grandchild = int(noted.read_text())
    deadline = time.monotonic() + 30
    while _runs(grandchild):
        assert time.monotonic() < deadline, "the child's child still runs"
        time.sleep(0.05)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (ProcessLookupError, FileNotFoundError):
        return False
    return state != "Z"
