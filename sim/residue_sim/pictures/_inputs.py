"""What data was measured from."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

__all__ = ["code"]


def code(files: Iterable[Path]) -> list[str]:
    """Names and texts of SystemVerilog or C++ files without comments and spacing."""
    comments = re.compile(r"//.*?$|/\*.*?\*/", re.MULTILINE | re.DOTALL)
    return [f"{path.name} {' '.join(comments.sub('', path.read_text()).split())}" for path in files]
