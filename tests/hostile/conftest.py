"""The two hosts of the suite: root's, and an ordinary user's."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from hostile.stage import Stage, stage


@pytest.fixture(scope="session", params=["root", "user"])
def host(request: pytest.FixtureRequest) -> Iterator[Stage]:
    if os.getuid() != 0:
        if os.environ.get("CI"):
            pytest.fail("the hostile suite needs root in CI: it starts hosts as root and as an ordinary user")
        if request.param == "root":
            pytest.skip("not root")
    with stage(request.param) as ready:
        yield ready
