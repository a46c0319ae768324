"""What a host does for as long as it runs: trouble of others is tried again, a defect ends the host."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from bridgehold.audit.events import Event
from bridgehold.errors import BusyError
from bridgehold.host.front.secret_events import SecretEvents
from bridgehold.host.lifetime import Lifetime
from bridgehold.host.supervisor_link import SupervisorLink
from bridgehold.keeper.index import Reference
from waiting import eventually


class BusyKeeper:
    """Too busy to answer at first, as with many requests under way."""

    def __init__(self) -> None:
        self.asked = 0

    async def references(self) -> list[Reference]:
        self.asked += 1
        if self.asked == 1:
            raise BusyError("256 requests are at the keeper already")
        return [Reference(tenant="acme", name="key")]


class Told:
    def __init__(self) -> None:
        self.events: list[Event] = []

    async def append(self, event: Event) -> None:
        self.events.append(event)


def test_changed_secrets_are_told_although_the_keeper_was_busy_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bridgehold.host.front.secret_events._LOOK_SECONDS", 0.01)
    told = Told()
    events = SecretEvents(BusyKeeper(), told)  # type: ignore[arg-type]  # two methods of theirs are asked

    async def until_told() -> None:
        run = asyncio.create_task(events.run(tmp_path))
        await eventually(lambda: told.events)
        run.cancel()

    asyncio.run(until_told())
    assert [event.tenant for event in told.events] == ["acme"]


def test_a_defect_in_what_stands_ends_the_host(capsys: pytest.CaptureFixture[str]) -> None:
    async def defective() -> None:
        raise LookupError

    async def stand(ours: socket.socket) -> Lifetime:
        lifetime = Lifetime(SupervisorLink(ours), leaving=False)
        cancelled = lifetime.stand("the warm pool", asyncio.sleep(3_600))
        await asyncio.sleep(0)
        cancelled.cancel()
        await asyncio.wait({cancelled})
        assert not lifetime.stop.is_set()
        await lifetime.stand("anchors", defective())
        assert lifetime.stop.is_set()
        lifetime.degraded("a later reason")
        return lifetime

    gone, other = socket.socketpair()
    with gone:
        other.close()
        SupervisorLink(gone).say_ready()  # whoever ends already ends this process too
    ours, theirs = socket.socketpair()
    with ours, theirs:
        lifetime = asyncio.run(stand(ours))
    assert (lifetime.reason, lifetime.status) == ("degraded: a defect in anchors: LookupError", 70)
    assert "in defective" in capsys.readouterr().err
