"""Launchers of the suite: root's and an ordinary user's; or, run by an ordinary user, its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sandbox.launcher_support import KINDS, Machine, machine


@pytest.fixture(scope="session", params=KINDS)
def box(request: pytest.FixtureRequest) -> Iterator[Machine]:
    """One launcher for many tests. A test that ends its launcher makes its own with `machine`."""
    with machine(request.param) as made:
        yield made
