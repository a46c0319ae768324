"""What is counted for a request is given back however early it ends: also before its task has taken a step."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import struct
import weakref
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from bridgehold.bridges.schema import problems
from bridgehold.faces.http import commands
from bridgehold.faces.http.running import KEPT_EACH, Commands
from bridgehold.faces.http.sse import EventLog
from bridgehold.host.front.callers import CallerLimits, Callers
from bridgehold.host.front.connection import Connection
from bridgehold.host.shares.fair import Shares
from bridgehold.protocol.values import Principal
from waiting import eventually


class Server:
    """As much of the socket's server as a connection asks for."""

    tokens_only = False
    takes_bodies = False
    leaving = False

    def __init__(self) -> None:
        self.callers = Callers(CallerLimits())
        self.methods: dict[str, Any] = {}

    def known(self, _uid: int) -> Principal:
        return Principal(name="p", tenants=("t",))


def frame(value: object) -> bytes:
    data = msgspec.json.encode(value)
    return struct.pack(">I", len(data)) + data


def test_a_request_and_its_cancel_in_one_write_hold_nothing() -> None:
    async def act() -> None:
        server = Server()
        ours, theirs = socket.socketpair()
        for end in (ours, theirs):
            end.setblocking(False)
        reader, writer = await asyncio.open_unix_connection(sock=ours)
        serving = asyncio.ensure_future(Connection(server, reader, writer).serve())  # type: ignore[arg-type]
        pairs = b"".join(
            frame({"id": n, "method": "run", "params": {}})
            + frame({"id": 1_000 + n, "method": "cancel", "params": {"id": n}})
            for n in range(1, 100)
        )
        await asyncio.get_running_loop().sock_sendall(theirs, pairs)
        theirs.close()
        await asyncio.wait_for(serving, 30)
        await eventually(
            lambda: not server.callers.requests.held_by("p") and (not server.callers.bytes.held_by("p"))
        )

    asyncio.run(act())


def test_answers_of_commands_that_are_over_are_not_kept_beyond_their_bound() -> None:
    class Large(dict[str, object]):
        pass

    async def act() -> None:
        known, alive = Commands(), []

        async def answered() -> Large:
            value = Large(value="x" * 1_000)
            alive.append(weakref.ref(value))
            return value

        for _ in range(3 * KEPT_EACH):
            with known.enter("p", "") as running:
                running.work = asyncio.ensure_future(answered())
                await running.result(running.work)
        del running
        gc.collect()
        assert sum(one() is not None for one in alive) <= 1

    asyncio.run(act())


def test_results_of_resumable_commands_leave_others_their_room() -> None:
    async def act() -> None:
        buffered = Shares(64 << 20)
        logs = []
        for _ in range(40):
            log = EventLog(buffered.of("greedy"))
            log.add("result", {"value": "x" * (8 << 20)})
            log.close()
            logs.append(log)
        assert buffered.taken <= buffered.total
        assert buffered.fits("other", 1 << 20)
        piece, number = await logs[-1].after(0, 1.0)
        assert number == 1
        assert b"event: error" in piece
        assert b'"code":"limit"' in piece
        for log in logs:
            log.forget()
        assert buffered.taken == 0

    asyncio.run(act())


def test_a_resumable_command_that_is_cancelled_before_it_reached_the_host_never_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []

    class Client:
        async def request(self, method: str, *_: object) -> object:
            asked.append(method)
            return {"value": 1}

    class Links:
        @contextlib.asynccontextmanager
        async def of(self, _token: str, _link: object) -> AsyncIterator[Any]:
            await asyncio.sleep(0.05)
            yield SimpleNamespace(client=Client(), spoiled=False)

    async def followed(*_: object) -> None:
        return None

    async def act() -> None:
        monkeypatch.setattr(commands, "_followed", followed)
        buffered = Shares(1 << 28)
        face: Any = SimpleNamespace(
            commands=Commands(),
            links=Links(),
            requests=Shares(100),
            config=SimpleNamespace(requests=64, beat_s=1, read_s=1),
        )
        headers = SimpleNamespace(getall=lambda _name, _none: ["Bearer x"])
        call: Any = SimpleNamespace(
            face=face,
            caller=SimpleNamespace(principal="p", owner="p"),
            share=lambda: buffered.of("p"),
            body_share=buffered.of("p"),
            request=SimpleNamespace(headers=headers),
        )
        call.body_share.take(5_000)
        await commands._begun(call, face.commands.begin("p", "x"), {})
        call.body_share.give_back()  # as its request is over
        assert buffered.held_by("p") >= 5_000, "what it was sent is still here"
        face.commands.find("p", "x").cancel()
        await eventually(lambda: not face.commands.tasks)
        assert asked == []
        assert face.commands.look("p", "x").facts()["state"] == "cancelled"
        assert buffered.held_by("p") < 5_000

    asyncio.run(act())


def test_a_number_of_any_size_meets_its_schema() -> None:
    schema = {"type": "object", "properties": {"n": {"type": "number"}}}
    assert list(problems(schema, {"n": 10**400})) == []
    assert list(problems(schema, {"n": float("inf")}))
