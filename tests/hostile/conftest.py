"""The hosts of the suite: root's and an ordinary user's (or, run by one, its own), in both starts."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from hostile.stage import KINDS_OF_HOSTS, Stage, stage

KINDS = KINDS_OF_HOSTS
ALL = [(kind, start) for kind in KINDS for start in ("cold", "fork")]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Each kind of host with each start; a module that names its `WAYS` has these alone."""
    if "host" in metafunc.fixturenames and not hasattr(metafunc.module, "host"):
        ways = getattr(metafunc.module, "WAYS", ALL)
        metafunc.parametrize("host", ways, indirect=True, scope="session", ids="-".join)


@pytest.fixture(scope="session")
def host(request: pytest.FixtureRequest) -> Iterator[Stage]:
    if os.environ.get("CI") and os.getuid() != 0:
        pytest.fail("in CI the hostile suite is run by root, who starts a host of each kind")
    kind, start = request.param
    with stage(kind, start) as ready:
        yield ready
        proofs = ready.events("worker.attested")
        assert all(bool(proof["zygote"]) == (start == "fork") for proof in proofs)
        assert ready.events("start.fell_back") == []
