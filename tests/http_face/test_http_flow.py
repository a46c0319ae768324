"""Large answers as they come: against a host that cuts them short, lies about them, or sends what nobody asked."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable

import msgspec
import pytest

from bridgehold.errors import BridgeholdError, HostUnavailableError, LimitError
from bridgehold.faces.http.flow import WINDOW, Flow, FlowConnection, begun, whole
from bridgehold.host.shares.fair import Shares

LARGE = b'{"x":"' + b"y" * (3 * WINDOW) + b'"}'


def frame(body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + body


def result(number: int, value: bytes) -> bytes:
    return frame(b'{"id":%d,"result":%b}' % (number, value))


def talking(act: Callable[[FlowConnection, asyncio.StreamWriter], Awaitable[None]]) -> None:
    """`act` with a connection, and the host's end of it."""

    async def run() -> None:
        ours, theirs = socket.socketpair()
        for end in (ours, theirs):
            end.setblocking(False)
        connection = FlowConnection(*(await asyncio.open_unix_connection(sock=ours, limit=WINDOW)))
        _, host = await asyncio.open_unix_connection(sock=theirs)
        try:
            await asyncio.wait_for(act(connection, host), 30)
        finally:
            host.close()
            await connection.aclose()

    asyncio.run(run())


def test_a_result_flows_and_what_follows_comes_after_it() -> None:
    async def act(connection: FlowConnection, host: asyncio.StreamWriter) -> None:
        first = asyncio.ensure_future(connection.request("run", b"{}", None, raw=True))
        second = asyncio.ensure_future(connection.request("run", b"{}", None, raw=True))
        host.write(result(1, LARGE) + result(2, b"7"))
        flow = await first
        assert isinstance(flow, Flow)
        assert (flow.size, connection.over) == (len(LARGE), True)
        assert not second.done(), "it is behind what nobody has read"
        pieces = [piece async for piece in flow.pieces()]
        assert b"".join(pieces) == LARGE
        assert max(map(len, pieces)) <= WINDOW
        assert bytes(await second) == b"7"
        assert not connection.over
        value = asyncio.ensure_future(connection.request("ask", b"{}", None))
        host.write(result(3, LARGE))
        assert await value == msgspec.json.decode(LARGE)

    talking(act)


@pytest.mark.parametrize("sent", [result(1, LARGE)[:-9], result(1, LARGE)[:-1] + b"x"], ids=["cut", "other"])
def test_a_result_that_ends_midway_is_no_result(sent: bytes) -> None:
    async def act(connection: FlowConnection, host: asyncio.StreamWriter) -> None:
        asked = asyncio.ensure_future(connection.request("run", b"{}", None, raw=True))
        host.write(sent)
        host.write_eof()
        share = Shares(1 << 30).of("acme")
        with pytest.raises(HostUnavailableError, match="in the middle"):
            await whole(await asked, share)
        assert share.amount == 0
        assert connection.over

    talking(act)


def test_a_result_of_who_has_left_is_read_past_and_one_that_finds_no_room_is_not_read() -> None:
    async def act(connection: FlowConnection, host: asyncio.StreamWriter) -> None:
        left = asyncio.ensure_future(connection.request("run", b"{}", None, raw=True))
        stays = asyncio.ensure_future(connection.request("run", b"{}", None, raw=True))
        await asyncio.sleep(0)
        left.cancel()
        host.write(result(1, LARGE) + result(2, LARGE))
        with pytest.raises(LimitError, match="too many bytes"):
            await whole(await stays, Shares(WINDOW).of("acme"))
        assert connection.over, "nothing can be asked behind it"

    talking(act)


@pytest.mark.parametrize("kind", ["event", "error", "result"])
def test_what_is_too_large_to_be_read_whole_is_not(kind: str) -> None:
    async def act(connection: FlowConnection, host: asyncio.StreamWriter) -> None:
        asked = asyncio.ensure_future(connection.request("ask", b"{}", lambda _: None))
        await asyncio.sleep(0)
        host.write(struct.pack(">I", 40 << 20) + b'{"id":1,"%b":"' % kind.encode() + b"y" * 200)
        with pytest.raises(BridgeholdError, match="are read here"):
            await asked

    talking(act)


def test_only_a_results_beginning_is_one() -> None:
    found = begun(b'{"id":12,"result":{"value"' + bytes(40))
    assert found is not None
    assert (found.request, found.skip) == (12, 18)
    for other in (
        b'{"id":12,"event":1',
        b'{"id": 12,"result":',
        b'{"id":-1,"result":',
        b'{"result":1,"id":1}',
    ):
        assert begun(other) is None
