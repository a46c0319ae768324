"""For tests of bridges and of what uses them; loaded by pytest itself wherever Bridgehold is installed.

``@pytest.mark.bridge("name")`` says which bridge. `bridge` is a session of it in a sandbox,
`simulated_provider` the provider that a bridge marked with ``provider=True`` meets. `recorded_bridge` and
`recorded_host` replay what ``--bridgehold-record`` recorded: they need no sandbox. The host is the one that
runs on the user's layout, or a private one for the test run; with ``provider=True`` one of its own.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from bridgehold import Client, SyncClient
    from bridgehold.bridges.kit.provider import Provider
    from bridgehold.client.sync import SyncSession

    Opener = contextlib.AbstractAsyncContextManager[Client]

_RECORD = "bridgehold_record"
_FAILED = pytest.StashKey[bool]()
_REMEDY = 'say which bridge: @pytest.mark.bridge("name")'


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--bridgehold-record``."""
    parser.getgroup("bridgehold").addoption(
        "--bridgehold-record",
        action="store_true",
        dest=_RECORD,
        help="run recorded_bridge and recorded_host for real, and write their transcripts anew",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers `bridge` and `transcript`."""
    bridge = "bridge(name, tenant='local', tools=(), provider=False): which bridge the fixtures open; with "
    config.addinivalue_line("markers", bridge + "`provider`, where a provider is played on this machine")
    transcript = "transcript(file, order='strict'): where the recorded fixtures keep what was said"
    config.addinivalue_line("markers", transcript)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """So that fixtures know at their end whether the test went well."""
    report = yield
    item.stash[_FAILED] = item.stash.get(_FAILED, False) or report.failed
    return report


class Grounds:
    """Private hosts with a simulated provider, one for each bridge, as long as the test run."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._open: dict[str, tuple[SyncClient, Provider]] = {}

    def of(self, bridge: str, tenant: str) -> tuple[SyncClient, Provider]:
        """Its client and its provider."""
        found = self._open.get(f"{bridge}/{tenant}")
        if found is None:
            found = self._open[f"{bridge}/{tenant}"] = self._start(bridge, tenant)
        return found

    def close(self) -> None:
        """End every host that a test has opened."""
        self._stack.close()

    def _start(self, bridge: str, tenant: str) -> tuple[SyncClient, Provider]:
        from bridgehold import SyncClient
        from bridgehold.faces.testing.playground import hosted, playground

        opened: list[Provider] = []

        @contextlib.asynccontextmanager
        async def opener() -> AsyncIterator[Client]:
            async with playground(bridge, tenants=(tenant,)) as ground, hosted(ground) as (client, _):
                opened.append(ground.provider)
                yield client

        return self._stack.enter_context(SyncClient.of(opener())), opened[0]


@pytest.fixture(scope="session")
def bridgehold_host() -> Iterator[SyncClient]:
    """A client of the running host, or of a private one."""
    from bridgehold import SyncClient

    with SyncClient.open() as client:
        yield client


@pytest.fixture(scope="session")
def bridgehold_grounds() -> Iterator[Grounds]:
    """Where bridges that are marked with ``provider=True`` run."""
    grounds = Grounds()
    try:
        yield grounds
    finally:
        grounds.close()


@pytest.fixture
def bridge(request: pytest.FixtureRequest) -> Iterator[SyncSession]:
    """A session of the bridge that the test's mark names, in a sandbox that nobody has used."""
    name, how = _marked(request)
    with _host(request).session(name, tenant=how["tenant"], tools=how["tools"]) as session:
        yield session


@pytest.fixture
def simulated_provider(request: pytest.FixtureRequest) -> Iterator[Provider]:
    """The provider that the bridge meets, with an empty log; as it was made again after the test."""
    from bridgehold.bridges.kit.behaviour import Behaviour

    name, how = _marked(request)
    if not how["provider"]:
        pytest.fail(f'the bridge meets no simulated provider: @pytest.mark.bridge("{name}", provider=True)')
    grounds: Grounds = request.getfixturevalue("bridgehold_grounds")
    provider = grounds.of(name, how["tenant"])[1]
    provider.log.clear()
    try:
        yield provider
    finally:
        provider.behave(Behaviour())


@pytest.fixture
def recorded_host(request: pytest.FixtureRequest) -> Iterator[SyncClient]:
    """A client that replays the test's transcript, or with ``--bridgehold-record`` records it for real."""
    from bridgehold import SyncClient
    from bridgehold.faces.testing.fake import FakeHost

    file, order = _transcript(request)
    if request.config.getoption(_RECORD):
        from bridgehold.faces.testing.recorder import record

        yield from _recorded(request, _host(request).through(lambda client: record(client, file)))
        return
    if not file.exists():
        pytest.fail(f"nothing was recorded for this test: {file}; run pytest with --bridgehold-record")
    yield from _recorded(request, SyncClient.of(FakeHost(file, order=order)))


@pytest.fixture
def recorded_client(request: pytest.FixtureRequest) -> Callable[[], Opener]:
    """As `recorded_host`, for code with an event loop: ``async with recorded_client() as host``."""
    from bridgehold.faces.testing.fake import FakeHost

    file, order = _transcript(request)
    if request.config.getoption(_RECORD):
        return lambda: _recording(request, file)
    return lambda: FakeHost(file, order=order)


@contextlib.asynccontextmanager
async def _recording(request: pytest.FixtureRequest, file: Path) -> AsyncIterator[Client]:
    from bridgehold.client.client import Host
    from bridgehold.faces.testing.playground import hosted, playground
    from bridgehold.faces.testing.recorder import record

    async with contextlib.AsyncExitStack() as stack:
        mark = request.node.get_closest_marker("bridge")
        if mark is not None and mark.kwargs.get("provider"):
            name, how = _marked(request)
            ground = await stack.enter_async_context(playground(name, tenants=(how["tenant"],)))
            client, _ = await stack.enter_async_context(hosted(ground))
        else:
            client = await stack.enter_async_context(Host.open())
        yield await stack.enter_async_context(record(client, file))


@pytest.fixture
def recorded_bridge(request: pytest.FixtureRequest, recorded_host: SyncClient) -> Iterator[SyncSession]:
    """As `bridge`, replayed from the test's transcript, or recorded."""
    name, how = _marked(request)
    with recorded_host.session(name, tenant=how["tenant"], tools=how["tools"]) as session:
        yield session


def _recorded(
    request: pytest.FixtureRequest, manager: contextlib.AbstractContextManager[SyncClient]
) -> Iterator[SyncClient]:
    """A test that failed neither leaves a transcript nor is told what it did not call."""
    yield manager.__enter__()
    if request.node.stash.get(_FAILED, False):
        error = RuntimeError("the test failed")
        manager.__exit__(RuntimeError, error, None)
    else:
        manager.__exit__(None, None, None)


def _marked(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    mark = request.node.get_closest_marker("bridge")
    if mark is None or not mark.args:
        pytest.fail(_REMEDY)
    return mark.args[0], {"tenant": "local", "tools": (), "provider": False, **mark.kwargs}


def _host(request: pytest.FixtureRequest) -> SyncClient:
    mark = request.node.get_closest_marker("bridge")
    if mark is not None and mark.kwargs.get("provider"):
        name, how = _marked(request)
        grounds: Grounds = request.getfixturevalue("bridgehold_grounds")
        return grounds.of(name, how["tenant"])[0]
    host: SyncClient = request.getfixturevalue("bridgehold_host")
    return host


def _transcript(request: pytest.FixtureRequest) -> tuple[Path, Any]:
    """(file, order): what the mark says, or one named after the test, below ``transcripts`` beside it."""
    folder = request.path.parent / "transcripts"
    name = "".join(c if c.isalnum() or c in "-_" else "-" for c in request.node.name)
    mark = request.node.get_closest_marker("transcript")
    file = mark.args[0] if mark is not None and mark.args else f"{request.path.stem}/{name}.jsonl"
    return folder / file, mark.kwargs.get("order", "strict") if mark is not None else "strict"
