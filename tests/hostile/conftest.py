"""The hosts of the suite: root's and an ordinary user's (or, run by one, its own), in both starts."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from hostile.stage import Stage, stage

KINDS = ["root", "user"] if os.getuid() == 0 else ["self"]
STARTS = ["cold", "fork"]


@pytest.fixture(scope="session", params=[f"{kind}-{start}" for kind in KINDS for start in STARTS])
def host(request: pytest.FixtureRequest) -> Iterator[Stage]:
    if os.environ.get("CI") and os.getuid() != 0:
        pytest.fail("in CI the hostile suite is run by root, who starts a host of each kind")
    kind, start = request.param.split("-")
    with stage(kind, start) as ready:
        yield ready
        proofs = ready.events("worker.attested")
        assert all(bool(proof["zygote"]) == (start == "fork") for proof in proofs)
        assert ready.events("start.fell_back") == []
