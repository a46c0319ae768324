"""One host for these tests, as root or as whoever runs them."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from hostile.stage import Stage, stage


@pytest.fixture(scope="session")
def host() -> Iterator[Stage]:
    with stage("root" if os.getuid() == 0 else "self") as ready:
        yield ready
