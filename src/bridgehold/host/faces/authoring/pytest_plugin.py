"""For tests of bridges: ``@pytest.mark.bridge("name")`` and the fixture `bridge`, a session in a sandbox.

The host is the one that runs on the user's layout, or a private one for the test run; the bridge runs
under its own policy. Loaded by pytest itself wherever Bridgehold is installed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from bridgehold import SyncClient
    from bridgehold.host.faces.sync import SyncSession


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "bridge(name, tenant='local'): which bridge the fixture `bridge` opens"
    )


@pytest.fixture(scope="session")
def bridgehold_host() -> Iterator[SyncClient]:
    """A client of the running host, or of a private one."""
    from bridgehold import SyncClient

    with SyncClient.open() as client:
        yield client


@pytest.fixture
def bridge(request: pytest.FixtureRequest) -> Iterator[SyncSession]:
    """A session of the bridge that the test's mark names, in a sandbox that nobody has used."""
    mark = request.node.get_closest_marker("bridge")
    if mark is None or not mark.args:
        pytest.fail('say which bridge: @pytest.mark.bridge("name")')
    host: SyncClient = request.getfixturevalue("bridgehold_host")
    with host.session(mark.args[0], tenant=mark.kwargs.get("tenant", "local")) as session:
        yield session
