"""The hosts of the suite: root's and an ordinary user's; or, run by an ordinary user, its own."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from hostile.stage import Stage, stage

KINDS = ["root", "user"] if os.getuid() == 0 else ["self"]


@pytest.fixture(scope="session", params=KINDS)
def host(request: pytest.FixtureRequest) -> Iterator[Stage]:
    if os.environ.get("CI") and os.getuid() != 0:
        pytest.fail("in CI the hostile suite is run by root, who starts a host of each kind")
    with stage(request.param) as ready:
        yield ready
