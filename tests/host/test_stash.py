"""Bodies that come in parts before the request that takes them: joined to it, counted, and given back."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec
import pytest

from bridgehold.client.connection import Connection as Client
from bridgehold.errors import BridgeholdError, BusyError, UsageError
from bridgehold.host.front.callers import CallerLimits, Callers
from bridgehold.host.front.connection import Connection
from bridgehold.host.front.method import Method
from bridgehold.host.front.outgoing import Emit
from bridgehold.host.shares.fair import Shares
from bridgehold.protocol.bodies import joined, split
from bridgehold.protocol.parts import FROM_BODY, Moved
from bridgehold.protocol.values import Principal
from waiting import eventually

LARGE = json.dumps({"x": list(range(20_000))}).encode()


class Asked(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    operation: str = ""
    arguments: dict[str, object] = {}
    tenant: str | None = None


async def echo(_principal: Principal, asked: Asked, _emit: Emit) -> object:
    return asked


class Noting(Shares):
    """Knows the most that was taken."""

    peak = 0

    def take(self, who: str, amount: int, *, owed: bool = False) -> bool:
        taken = super().take(who, amount, owed=owed)
        self.peak = max(self.peak, self.taken)
        return taken


class Server:
    """As much of a cell's entrance as a connection asks for."""

    tokens_only = leaving = False
    takes_bodies = True
    entrances = None

    def __init__(self) -> None:
        self.callers = Callers(CallerLimits(caller_bytes=4 << 20, frame_s=0.2))
        self.callers.waiting = self.waiting = Noting(4 << 20)
        self.over = asyncio.Event()
        self.methods = {name: Method(Asked, act, decides=True) for name, act in self.acts.items()}

    @property
    def acts(self) -> dict[str, Callable[[Principal, Asked, Emit], Awaitable[object]]]:
        return {"echo": echo, "stay": lambda *_: self.over.wait()}

    def known(self, _uid: int) -> Principal:
        return Principal(name="p", tenants=("t",), operator=True)


@contextlib.asynccontextmanager
async def connected(server: Server, *, last: bool = True) -> AsyncIterator[Client]:
    ours, theirs = socket.socketpair()
    for end in (ours, theirs):
        end.setblocking(False)
    serving = asyncio.ensure_future(
        Connection(server, *(await asyncio.open_unix_connection(sock=ours))).serve()  # type: ignore[arg-type]
    )
    client = Client(*(await asyncio.open_unix_connection(sock=theirs)))
    client._takes_parts = True  # as `body.begin` says
    try:
        yield client
    finally:
        await client.aclose()
        await asyncio.wait_for(serving, 30)
        await eventually(lambda: not (last and server.callers.bytes.taken))


async def put(client: Client, body: bytes, member: str = "arguments", size: int = 50_000) -> Any:
    assert await client.request("body.begin", b"{}", None) == {"taken": True}
    for start in range(0, len(body), size):
        await client.request("body.put", b"{}", None, Moved("data", body[start : start + size]))
    return await client.request("body.look", json.dumps({"member": member}).encode(), None)


def acting(act: Callable[[Client, Server], Awaitable[None]]) -> None:
    async def run() -> None:
        server = Server()
        async with connected(server) as client:
            await act(client, server)

    asyncio.run(run())


def test_a_member_of_what_came_in_parts_is_the_requests() -> None:
    async def act(client: Client, server: Server) -> None:
        looked = await put(client, b'{"operation": "a:b", "arguments": ' + LARGE + b"}")
        assert looked == {"beside": '{"operation": "a:b", "arguments": 0}', "kept": True}
        held = server.callers.bytes.held_by("p")
        assert len(LARGE) <= held < 2 * len(LARGE)
        given = await client.request("echo", b'{"operation":"a:b"}', None, Moved(FROM_BODY))
        assert given["arguments"] == json.loads(LARGE)
        assert given["operation"] == "a:b"
        await eventually(lambda: not server.callers.bytes.taken)
        with pytest.raises(UsageError, match=r"no body\.look"):
            await client.request("echo", b"{}", None, Moved(FROM_BODY))

    acting(act)


def test_what_comes_out_of_turn_or_twice_is_refused() -> None:
    async def act(client: Client, _server: Server) -> None:
        for method, params, moved in (
            ("body.put", b"{}", Moved("data", b"{}")),
            ("body.look", b"{}", None),
            ("body.begin", b'{"more":1}', None),
            ("body.put", b'{"size":-1}', Moved("data", b"{}")),
        ):
            with pytest.raises(UsageError):
                await client.request(method, params, None, moved)
        for params, said in ((b'{"data":"e30="}', "unknown field `data`"), (b"{}", "beside its frame")):
            await client.request("body.begin", b"{}", None)
            with pytest.raises(UsageError, match=said):
                await client.request("body.put", params, None)
        with pytest.raises(UsageError, match="two keys are both spelled 'id'"):
            await put(client, b'{"id":1,"id":2,"arguments":' + LARGE + b"}")
        await put(client, b'{"arguments":' + LARGE + b"}")
        with pytest.raises(UsageError, match="two keys are both spelled 'arguments'"):
            await client.request("echo", b'{"arguments":{}}', None, Moved(FROM_BODY))
        await put(client, b'{"result":' + LARGE + b"}", "result")
        with pytest.raises(BridgeholdError, match="unknown field `result`"):
            await client.request("echo", b"{}", None, Moved(FROM_BODY))

    acting(act)


def test_a_body_has_room_as_all_that_its_caller_sends_and_one_that_is_left_gives_it_back() -> None:
    async def act(client: Client, server: Server) -> None:
        with pytest.raises(BusyError, match="too many bytes"):
            await put(client, b'{"arguments":{"x":"' + b"x" * (3 << 20) + b'"}}', size=1 << 18)
        await eventually(lambda: not server.callers.bytes.taken)
        await put(client, b'{"arguments":{"x":"' + b"x" * (1 << 20) + b'"}}', size=1 << 18)
        assert server.callers.bytes.taken >= 1 << 20
        await client.request("body.begin", b"{}", None)
        await eventually(lambda: not server.callers.bytes.taken)
        await put(client, b'{"arguments":{"x":"' + b"x" * (1 << 20) + b'"}}', size=1 << 18)

    acting(act)  # which ends the connection, and looks again


def test_requests_that_wait_for_room_are_counted_as_they_came() -> None:
    large = b'{"arguments":{"x":[' + b"1," * 20_000 + b'"' + b"x" * 650_000 + b'"]}}'

    async def act(client: Client, server: Server) -> None:
        stays = asyncio.ensure_future(
            client.request("stay", b'{"arguments":{"x":"' + b"x" * 1_200_000 + b'"}}', None)
        )
        await eventually(lambda: server.callers.bytes.taken > 1_200_000)
        async with contextlib.AsyncExitStack() as stack:
            others = [await stack.enter_async_context(connected(server, last=False)) for _ in range(4)]
            said = await asyncio.gather(
                *(one.request("echo", large, None) for one in others), return_exceptions=True
            )
        assert [type(one) for one in said] == [BusyError] * 4
        assert 650_000 < server.waiting.peak <= 2 << 20, "half of what there is, whoever waits"
        assert server.waiting.taken == 0
        server.over.set()
        assert await stays is True

    acting(act)


@pytest.mark.parametrize("text", [b"[1]", b"{", b"", b'{"a":1} {}', b"7", b"[" * 3_000, b'{"a":"\xff"}'])
def test_what_is_no_object_is_split_nowhere(text: bytes) -> None:
    with pytest.raises(UsageError):
        split(text, "arguments")


def test_what_is_kept_is_the_member_that_was_asked_for_and_nothing_that_looks_like_it() -> None:
    ones = b"[" + b"1," * 20_000 + b"1]"
    for body in (b'{"error":"%b","result":%b}', b'{"more":[%b],"result":%b}'):
        with pytest.raises(UsageError, match="in another member too"):
            split(body % (ones, ones), "result")
    body = b'{"result":%b,"error":"%b"}' % (ones, ones)
    assert split(body, "result") == (b'{"result":0,"error":"%b"}' % ones, ones)
    body = b'{"member":%b}' % ones
    assert split(body, "") == (body, b"")


def test_a_member_is_joined_to_whatever_object_there_is() -> None:
    for params, expected in ((b"{}", b'{"m":1}'), (b' { "a" : 2 } ', b'{"m":1,"a" : 2}')):
        assert joined(params, "m", b"1") == expected
    for params in (b"[]", b"", b"1"):
        with pytest.raises(UsageError):
            joined(params, "m", b"1")
