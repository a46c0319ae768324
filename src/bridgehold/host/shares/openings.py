"""What the front opens for a cell, which may open little itself: one datagram asks, one answers.

It is the tenant's own file, a way out of the machine that its grant allows, and a process of a tool of the
operator's. The front judges each by what it knows itself, whatever the cell has decided before it asks.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import select
import socket
import threading
from typing import Annotated, Any

import msgspec

from bridgehold import handed
from bridgehold.error_info import ErrorInfo
from bridgehold.errors import BridgeholdError, CellEndedError, InternalError, from_info

_MOST = 64 * 1024
"""Bytes of an answer; a file comes as a descriptor."""
MOST_DESCRIPTORS = 3
_SECONDS = 10.0
"""For the tenant's file, which whoever asks waits for."""


class AskRules(msgspec.Struct, frozen=True, kw_only=True, tag="rules"):
    """The tenant's own file and what was signed of it, as the front has them now."""

    id: int


class AskBridges(msgspec.Struct, frozen=True, kw_only=True, tag="bridges"):
    """The tenant's own bridges, as the front has them now."""

    id: int
    anew: bool
    """The front is to look now."""
    known: str
    """The digest of what it answered last: of the same nothing is said again."""


class AskLookup(msgspec.Struct, frozen=True, kw_only=True, tag="lookup"):
    """Addresses of a host that the bridge's grant lets be reached."""

    id: int
    bridge: str
    host: str
    port: int


class AskDial(msgspec.Struct, frozen=True, kw_only=True, tag="dial"):
    """A connection to one of the addresses that a lookup has given for this host and port."""

    id: int
    bridge: str
    host: str
    port: int
    address: str


class AskConnect(msgspec.Struct, frozen=True, kw_only=True, tag="connect"):
    """Have the socket beside it, of a sandbox's own network, connected to a port of its loopback."""

    id: int
    port: Annotated[int, msgspec.Meta(ge=1, le=65_535)]


class AskTool(msgspec.Struct, frozen=True, kw_only=True, tag="tool"):
    """A process of the operator's tool: its input, its answers, and what tells of its end."""

    id: int
    tool: str


class EndTool(msgspec.Struct, frozen=True, kw_only=True, tag="end_tool"):
    """Kill the process that the question `tool` began. Not answered."""

    id: int
    tool: int


class AskStatus(msgspec.Struct, frozen=True, kw_only=True, tag="status"):
    """The exit status of the process that the question `tool` began, once it has one."""

    id: int
    tool: int


Ask = AskRules | AskBridges | AskLookup | AskDial | AskConnect | AskTool | EndTool | AskStatus


class OwnBridge(msgspec.Struct, frozen=True, kw_only=True):
    """A bridge that is the tenant's alone: where it lies, and the text of its manifest, or what is wrong."""

    name: str
    folder: str
    text: str = ""
    release: str = ""
    fault: str = ""


class Opened(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The answer to the question `id`."""

    id: int
    error: ErrorInfo | None = None
    tenants: int = 0
    """How many there are, with this one."""
    there: tuple[bool, ...] = ()
    """Whether there is a tenant's file, and a review of it: a descriptor for each."""
    digest: str = ""
    """Of the tenant's own bridges, which come as `OwnBridge`s in the one descriptor, where they differ."""
    addresses: tuple[str, ...] = ()
    status: int = 0


class Openings:
    """The cell's end. Its methods raise the front's refusals, and `CellEndedError` where that is gone."""

    def __init__(self, sock: socket.socket) -> None:
        """On the thread of the loop that goes on to run."""
        sock.setblocking(False)
        self._socket = sock
        self._thread = threading.get_ident()
        self._lock = threading.Lock()
        self._last = 0
        self._waiting: dict[int, concurrent.futures.Future[tuple[Opened, list[int]]]] = {}
        self._lost = False
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(sock, self._take)

    def rules(self) -> tuple[str | None, str | None, int]:
        """The tenant's own file and its review, None where there is none, and how many tenants there are.

        Waits for it, on whichever thread.
        """
        opened, descriptors = self._ask_now(AskRules(id=self._number()))
        found = iter([_text(one) for one in _exactly(sum(opened.there), descriptors)])
        own, review = (next(found) if there else None for there in opened.there or (False, False))
        return own, review, opened.tenants

    def bridges(self, known: str, anew: bool) -> tuple[str, list[OwnBridge]]:
        """The tenant's own bridges and their digest; none of them where that is `known`. Waits as `rules`."""
        opened, descriptors = self._ask_now(AskBridges(id=self._number(), anew=anew, known=known))
        if opened.digest == known:
            return known, []
        with os.fdopen(_exactly(1, descriptors)[0], "rb") as file:
            return opened.digest, msgspec.json.decode(file.read(), type=list[OwnBridge])

    def _ask_now(self, ask: Ask) -> tuple[Opened, list[int]]:
        future = self._begin(ask)
        if threading.get_ident() == self._thread:
            poller = select.poll()
            poller.register(self._socket, select.POLLIN)
            while not future.done():
                if not poller.poll(_SECONDS * 1000):
                    raise _gone()
                self._take()
        try:
            return future.result(_SECONDS)
        except TimeoutError:
            raise _gone() from None

    async def lookup(self, bridge: str, host: str, port: int) -> list[str]:
        """Addresses of `host`, which the grant of `bridge` lets be reached."""
        ask = AskLookup(id=self._number(), bridge=bridge, host=host, port=port)
        return list((await self._ask(ask))[0].addresses)

    async def dial(self, bridge: str, host: str, address: str, port: int) -> socket.socket:
        """A connection to `address`, which `lookup` gave. Raises `OSError` where nothing answers there."""
        ask = AskDial(id=self._number(), bridge=bridge, host=host, port=port, address=address)
        opened, descriptors = await self._ask(ask)
        if opened.status:
            raise OSError(opened.status, os.strerror(opened.status))
        (descriptor,) = _exactly(1, descriptors)
        return socket.socket(fileno=descriptor)

    async def connect(self, sock: socket.socket, port: int) -> None:
        """`sock` to a port of its own network's loopback. Raises `OSError` where nothing answers there."""
        opened, _ = await self._ask(AskConnect(id=self._number(), port=port), sock)
        if opened.status:
            raise OSError(opened.status, os.strerror(opened.status))

    async def tool(self, name: str) -> tuple[int, list[int]]:
        """A process of the tool's: its number here; its input, its answers, and a pidfd."""
        number = self._number()
        _, descriptors = await self._ask(AskTool(id=number, tool=name))
        return number, _exactly(3, descriptors)

    def end_tool(self, number: int) -> None:
        """Kill it, if it runs."""
        self._send(EndTool(id=self._number(), tool=number))

    async def tool_status(self, number: int) -> int:
        """Its exit status, once it has ended; as `Popen`'s."""
        return (await self._ask(AskStatus(id=self._number(), tool=number)))[0].status

    def _number(self) -> int:
        with self._lock:
            self._last += 1
            return self._last

    async def _ask(self, ask: Ask, *beside: socket.socket) -> tuple[Opened, list[int]]:
        return await asyncio.wrap_future(self._begin(ask, *beside))

    def _begin(self, ask: Ask, *beside: socket.socket) -> concurrent.futures.Future[tuple[Opened, list[int]]]:
        future: concurrent.futures.Future[tuple[Opened, list[int]]] = concurrent.futures.Future()
        self._waiting[ask.id] = future
        if not self._send(ask, *beside):
            self._waiting.pop(ask.id, None)
            future.set_exception(_gone())
        return future

    def _send(self, ask: Ask, *beside: socket.socket) -> bool:
        if self._lost:
            return False
        try:
            with self._lock:
                while True:
                    try:
                        given = [one.fileno() for one in beside]
                        socket.send_fds(self._socket, [msgspec.json.encode(ask)], given)
                        return True
                    except BlockingIOError:
                        select.select([], [self._socket], [], _SECONDS)
        except OSError:
            return False

    def _take(self) -> None:
        """One answer, to whoever waits for it."""
        try:
            data, given, _ = handed.receive(self._socket, _MOST, MOST_DESCRIPTORS)
        except BlockingIOError:
            return
        except OSError:
            data, given = b"", []
        if not data:
            self._lose()
            return
        opened = msgspec.json.decode(data, type=Opened)
        future = self._waiting.pop(opened.id, None)
        if future is None or not future.set_running_or_notify_cancel():
            for descriptor in given:  # whoever asked is gone
                os.close(descriptor)
        elif opened.error is not None:
            future.set_exception(from_info(opened.error))
        else:
            future.set_result((opened, given))

    def _lose(self) -> None:
        self._lost = True
        self._loop.remove_reader(self._socket)
        for future in self._waiting.values():
            if future.set_running_or_notify_cancel():
                future.set_exception(_gone())
        self._waiting.clear()


def _exactly(count: int, descriptors: list[int]) -> list[int]:
    if len(descriptors) != count:
        for descriptor in descriptors:
            os.close(descriptor)
        raise InternalError("the front opened something else than it was asked for")
    return descriptors


def _text(descriptor: int) -> str:
    with os.fdopen(descriptor, "rb") as file:
        return file.read().decode()


def _gone() -> BridgeholdError:
    return CellEndedError("the front answers this cell no more")


def answer(sock: socket.socket, opened: Opened, descriptors: list[int] | None = None) -> None:
    """Of the front: send it, and close `descriptors`. Raises `OSError`, also where the cell doesn't read."""
    given: list[Any] = descriptors or []
    try:
        socket.send_fds(sock, [msgspec.json.encode(opened)], given)
    finally:
        for descriptor in given:
            os.close(descriptor)
