"""The hosts of the suite: root's and an ordinary user's (or, run by one, its own), each for both starts."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from hostile.stage import KINDS_OF_HOSTS, Stage, stage

KINDS = KINDS_OF_HOSTS
STARTS = ["cold", "fork"]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every kind of host with every start; a module that says `WAYS` has these alone."""
    if "started" not in metafunc.fixturenames:
        return
    if ways := getattr(metafunc.module, "WAYS", None):
        metafunc.parametrize(("started", "host"), ways, indirect=True, scope="session")
    else:
        metafunc.parametrize("started", KINDS, indirect=True, scope="session")
        metafunc.parametrize("host", STARTS, indirect=True, scope="module")


@pytest.fixture(scope="session")
def started(request: pytest.FixtureRequest) -> Iterator[Stage]:
    """A host: what its sessions start as is said by their policies."""
    if os.environ.get("CI") and os.getuid() != 0:
        pytest.fail("in CI the hostile suite is run by root, who starts a host of each kind")
    with stage(request.param) as ready:
        yield ready


@pytest.fixture(scope="module")
def host(request: pytest.FixtureRequest, started: Stage) -> Iterator[Stage]:
    before = {kind: len(started.events(kind)) for kind in ("worker.attested", "start.fell_back")}
    yield started.starting(request.param)
    proofs = started.events("worker.attested")[before["worker.attested"] :]
    assert all(bool(proof["zygote"]) == (request.param == "fork") for proof in proofs)
    assert started.events("start.fell_back")[before["start.fell_back"] :] == []
