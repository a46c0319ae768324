"""What was approved for a while ends in a session that is open: requests, tunnels, and the keeper's own word."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import msgspec
import pytest
from gateway_support import Stand, connects, make_grant, on_stand, parse
from test_outside import FAST, connect, echo, hello, to_loopback

from bridgehold import clock
from bridgehold.audit.events import EgressOutcome
from bridgehold.keeper.accounts import allowed_part
from bridgehold.policies.content import NO_BODY
from bridgehold.policies.decide import decide_egress
from bridgehold.policies.model import Endpoint, Grant
from waiting import eventually


def until(end: int, now: Grant, then: Grant) -> Grant:
    return msgspec.structs.replace(now, until=end, then=then)


def test_a_request_is_refused_once_its_rule_has_ended(tmp_path: Path) -> None:
    narrow = make_grant(endpoints=(Endpoint(provider="openai", paths=("/responses",)),))
    end = int(time.time()) + 3

    async def act(stand: Stand) -> None:
        assert (await stand.ask()).status == 200

        async def refused() -> bool:
            return (await stand.ask()).status == 403

        await eventually(refused)
        assert clock.now() >= end  # the machine's own may be a moment behind it

    on_stand(tmp_path, act, until(end, make_grant(), narrow), limits=FAST)


def test_a_tunnel_that_is_open_ends_with_its_rule(tmp_path: Path) -> None:
    async def act(stand: Stand) -> None:
        async with echo() as (port, _):
            end = int(time.time()) + 3
            wide = make_grant(connects=connects(("good.example.com", port, True)))
            await stand.open(until(end, wide, make_grant()), limits=FAST, lookup=to_loopback)
            reader, writer = await asyncio.open_connection("127.0.0.1", stand.port)
            writer.write(connect(f"good.example.com:{port}"))
            assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
            greeting = hello("good.example.com")
            writer.write(greeting)
            assert await reader.readexactly(len(greeting)) == greeting
            assert await asyncio.wait_for(reader.read(), 20) == b""
            assert clock.now() >= end  # the machine's own may be a moment behind it
            await eventually(lambda: bool(stand.audit.of(EgressOutcome)))
            assert stand.audit.of(EgressOutcome)[-1].code == "grant.until"
            reply = parse(await stand.raw(connect(f"good.example.com:{port}"), timeout=5))
            assert reply.status == 403

    on_stand(tmp_path, act, limits=FAST)


@pytest.mark.parametrize("part", [lambda grant: grant, allowed_part])
def test_a_grant_is_what_is_left_of_it_at_each_time(part: object) -> None:
    assert callable(part)
    last = make_grant(endpoints=())
    middle = until(200, make_grant(endpoints=(Endpoint(provider="openai", paths=("/responses",)),)), last)
    grant: Grant = part(until(100, make_grant(), middle))

    def allowed(now: float, path: str) -> bool:
        return decide_egress(grant.at(now), "openai", "POST", path, NO_BODY).allowed

    assert [allowed(now, "/embeddings") for now in (99.9, 100.0, 200.0)] == [True, False, False]
    assert [allowed(now, "/responses") for now in (99.9, 100.0, 199.9, 200.0)] == [True, True, True, False]
    assert (
        grant.end_of(lambda one: decide_egress(one, "openai", "POST", "/responses", NO_BODY).allowed) == 200
    )
