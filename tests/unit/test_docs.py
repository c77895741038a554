"""The ``pycon`` blocks of the documentation run as they are written."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^```pycon\n(.*?)^```$", re.DOTALL | re.MULTILINE)
FLAGS = doctest.ELLIPSIS

pages = [
    page
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    if BLOCK.search(page.read_text(encoding="utf-8"))
]


def test_the_quick_start_is_among_them() -> None:
    assert ROOT / "docs" / "quickstart.md" in pages


@pytest.mark.parametrize("page", pages, ids=lambda page: page.name)
def test_page(page: Path) -> None:
    source = "\n".join(BLOCK.findall(page.read_text(encoding="utf-8")))
    example = doctest.DocTestParser().get_doctest(source, {}, page.name, str(page), 0)
    report: list[str] = []
    runner = doctest.DocTestRunner(optionflags=FLAGS)
    results = runner.run(example, out=report.append)
    assert results.attempted
    assert not results.failed, "".join(report)
