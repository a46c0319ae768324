"""Callers that go away at any moment, and ones that wait behind another: what each leaves, and is told."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from bridgehold import BridgeholdError, Client
from hostile.stage import PAIRED, Stage
from waiting import eventually, until

pytestmark = pytest.mark.hostile
WAYS = PAIRED

DEAF = """
import time
print("of the first alone", flush=True)
while True:
    try:
        time.sleep(99)
    except BaseException:
        pass
"""


async def given_up(work: asyncio.Task[object], after: float) -> None:
    await asyncio.sleep(after)
    work.cancel()
    with contextlib.suppress(asyncio.CancelledError, BridgeholdError):
        await work


def of(client: Client, bridge: str, session: str, code: str, deadline_ms: int = 0) -> asyncio.Task[object]:
    params = {"operation": f"{bridge}:act", "arguments": {"code": code}, "tenant": "local"}
    more = {"session": session, "deadline_ms": deadline_ms}
    return asyncio.ensure_future(client.request("run", {**params, **more}))


@pytest.mark.parametrize("method", ["session.kill", "session.close"])
def test_an_end_whose_asker_goes_away_is_an_end_all_the_same(host: Stage, method: str) -> None:
    async def act() -> None:
        bridge = host.plain
        async with await Client.connect(host.layout.socket) as client:
            for step in range(5):
                named = {"bridge": bridge, "tenant": "local", "name": "goes"}
                session = (await client.request("session.open", named))["id"]
                work = asyncio.ensure_future(client.request(method, {"session": session}))
                await given_up(work, 0.002 + 0.004 * step)
                with contextlib.suppress(BridgeholdError):  # it had ended, or the cancel came before it began
                    await client.request("session.kill", {"session": session})
                await asyncio.wait_for(client.request("session.open", named), 30)
                ended = [one for one in host.events("session.closed") if one["session"] == session]
                assert len(ended) == 1
                await client.request("session.kill", {"session": "goes"})
            assert all(one["name"] != "goes" for one in await client.request("sessions", {}))

    asyncio.run(act())


def test_every_intent_has_one_outcome_whenever_its_caller_goes_away(host: Stage) -> None:
    async def act() -> None:
        bridge = host.plain
        async with await Client.connect(host.layout.socket) as client:
            await of(client, bridge, "leaves", "result = 1")
            for step in range(80):
                await given_up(of(client, bridge, "leaves", "result = 1"), 0.0003 * step)
            await of(client, bridge, "leaves", "result = 1")

    def open_intents() -> set[object]:
        intents = [one["command"] for one in host.events("command.intent")]
        outcomes = [one["command"] for one in host.events("command.outcome")]
        assert len(set(outcomes)) == len(outcomes)
        return set(intents) - set(outcomes)

    asyncio.run(act())
    until(lambda: not open_intents())


def test_who_waited_for_a_session_that_ends_is_told_nothing_of_whose_command_ended_it(host: Stage) -> None:
    async def act() -> None:
        bridge = host.plain
        async with await Client.connect(host.layout.socket) as client:
            await of(client, bridge, "deaf", "result = 1")
            before = len(host.events("command.intent"))
            first = of(client, bridge, "deaf", DEAF, 700)
            await eventually(lambda: len(host.events("command.intent")) > before)
            waiting = [of(client, bridge, "deaf", "result = 2") for _ in range(2)]
            told = await asyncio.gather(first, *waiting, return_exceptions=True)
        assert all(isinstance(one, BridgeholdError) for one in told)
        errors = [one for one in told if isinstance(one, BridgeholdError)]
        assert errors[0].output.stdout == "of the first alone\n"
        assert [(one.output.stdout, one.event, one.traceback) for one in errors[1:]] == [("", "", "")] * 2
        assert errors[0].event
        assert errors[1].hint == errors[2].hint

    asyncio.run(act())
