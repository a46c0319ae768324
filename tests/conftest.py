"""The whole suite's order."""

from __future__ import annotations

from pathlib import Path

import pytest

_FIRST = Path(__file__).parent / "sandbox"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The sandbox room first: its acts are forks of this process, whose size and descriptors count."""
    items.sort(key=lambda item: _FIRST not in item.path.parents)
