"""One host with its HTTP face for all of these tests; its bounds are small, so that they can be reached."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace

import pytest

from hostile.stage import stage
from http_face.http_support import CONFIG, HttpStage, prepare, url_of


@pytest.fixture(scope="session")
def face() -> Iterator[HttpStage]:
    with stage("root" if os.getuid() == 0 else "self", "fork", CONFIG) as ready:
        yield HttpStage(stage=ready, bridge=prepare(ready), url=url_of(ready.layout))
        log = (ready.layout.config.parent / "host.log").read_text()
        assert "Traceback" not in log, log
        assert "bridgehold http" not in log, "no defect was met"
        assert "never retrieved" not in log, log


@pytest.fixture(scope="session")
def cold(face: HttpStage) -> HttpStage:
    """The same host, with a bridge whose sandboxes start cold."""
    return replace(face, bridge=prepare(face.stage, "cold"))


@pytest.fixture(params=["fork", "cold"])
def each_start(face: HttpStage, request: pytest.FixtureRequest) -> HttpStage:
    """What is told of a command, in both starts."""
    found: HttpStage = face if request.param == "fork" else request.getfixturevalue("cold")
    return found
