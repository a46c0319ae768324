"""Starts that are refused, that fail or are given up: nothing is left of them, whatever step they were at."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterator

import pytest

from bridgehold import BridgeholdError, Client
from hostile.stage import POLICY, Stage, stage
from waiting import eventually, until

KIND = "root" if os.getuid() == 0 else "self"
POOL = """
[bridges.hostile1]
pool_size = 2
checkout_timeout_s = 5
"""
ACTS = """
import os, time
def opened(self, session):
    if session.name == "raises":
        raise ValueError("no")
    if session.name == "exits":
        os._exit(3)
    while session.name == "hangs":
        time.sleep(1)
Bridge.open = opened
"""


@pytest.fixture(scope="module", params=["cold", "fork"])
def host(request: pytest.FixtureRequest) -> Iterator[Stage]:
    """Its first bridge has a pool, and one session at most; what its `open` does is in the session's name."""
    with stage(KIND, request.param, POOL) as ready:
        for _ in range(2):
            name = ready.bridge(ACTS)
            text = POLICY.replace("concurrency = 32", "concurrency = 1").replace('"20s"', '"8s"')
            policy = text + f'[sandbox]\nstart = "{request.param}"\n'
            (ready.layout.policies / f"{name}.toml").write_text(policy)
        yield ready


def workers(host: Stage, bridge: str = "") -> set[object]:
    """Those that live: attested or launched, and not gone; of `bridge` alone, where others' pools are filled."""
    ours = {one["worker"] for one in host.events("worker.started") if bridge in ("", one["bridge"])}
    attested = {event["worker"] for event in host.events("worker.attested")}
    return (ours & attested) - {event["worker"] for event in host.events("worker.exited")}


def parked(host: Stage) -> int:
    return sum(one["count"] for one in host.client.request("zygotes")["parked"])


def opened_and_not_closed(host: Stage) -> set[object]:
    closed = {event["session"] for event in host.events("session.closed")}
    return {event["session"] for event in host.events("session.opened")} - closed


@pytest.mark.parametrize("bridge", ["hostile1", "hostile2"])
def test_who_is_refused_for_concurrency_takes_no_sandbox_with_him(host: Stage, bridge: str) -> None:
    with host.session(bridge) as session:
        session.run("common:ping")
        until(lambda: bridge != "hostile1" or parked(host) == 2)
        before = workers(host, bridge)
        for _ in range(3):
            with pytest.raises(BridgeholdError, match="already has 1 sessions") as caught:
                host.client.request("session.open", {"bridge": bridge, "name": "one-more"})
            assert caught.value.code == "busy"
        assert workers(host, bridge) == before
        assert bridge != "hostile1" or parked(host) == 2
    until(lambda: not opened_and_not_closed(host))
    with host.session(bridge) as session:  # what stood ready is still to be had
        session.run("common:ping")


@pytest.mark.parametrize(
    ("fault", "bridge"),
    [(fault, bridge) for fault in ("raises", "exits") for bridge in ("hostile1", "hostile2")]
    + [("hangs", "hostile1")],
)
def test_a_start_that_fails_leaves_no_worker_no_place_and_no_open_event(
    host: Stage, bridge: str, fault: str
) -> None:
    with host.session(bridge) as session:
        session.run("common:ping")
    until(lambda: bridge != "hostile1" or parked(host) == 2)
    with pytest.raises(BridgeholdError):
        host.client.request("session.open", {"bridge": bridge, "name": fault})
    until(lambda: not opened_and_not_closed(host))
    closed = host.events("session.closed")[-1]
    assert "did not start" in str(closed["reason"])
    assert closed["code"]
    until(
        lambda: len(workers(host)) == parked(host),
        30,
        lambda: (workers(host), host.client.request("zygotes")),
    )
    with host.session(bridge) as session:
        session.run("common:ping")
    until(lambda: not opened_and_not_closed(host))


@pytest.mark.parametrize("bridge", ["hostile1", "hostile2"])
def test_a_caller_that_goes_away_within_a_start_leaves_nothing(host: Stage, bridge: str) -> None:
    async def leave() -> None:
        async with await Client.connect(host.layout.socket) as client:
            params = {"bridge": bridge, "name": "hangs"}
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(client.request("session.hold", params), 0.5)

    asyncio.run(leave())
    until(lambda: not opened_and_not_closed(host))
    until(lambda: len(workers(host)) == parked(host))


@pytest.mark.parametrize("start", ["cold", "fork"])
def test_a_host_that_stops_within_a_start_ends_it_and_says_so(start: str) -> None:
    with stage(KIND, start) as ready:
        name = ready.bridge(ACTS)

        async def stop() -> None:
            async with await Client.connect(ready.layout.socket) as client:
                params = {"bridge": name, "name": "hangs"}
                opening = asyncio.create_task(client.request("session.open", params))
                await eventually(lambda: ready.events("worker.attested"))
                await client.request("stop", {})
                with pytest.raises(BridgeholdError):
                    await opening

        asyncio.run(stop())
        until(lambda: bool(ready.events("host.stopped")))
        assert len(ready.events("session.opened")) == 1
        assert not opened_and_not_closed(ready)
        assert not workers(ready)
