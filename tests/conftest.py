"""Order of the tests."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """First those in which `pynq` itself connects: it gives a board five seconds to answer."""
    items.sort(key=lambda item: item.path.name != "test_pynq_board.py")
