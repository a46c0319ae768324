"""The cell's entrance: connections of its tenant's own callers, proven by the front and served here."""

from __future__ import annotations

import asyncio
import hmac
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import msgspec

from bridgehold import handed
from bridgehold.errors import UsageError
from bridgehold.host.front.callers import Callers
from bridgehold.host.front.connection import Connection
from bridgehold.host.front.entrances import shown
from bridgehold.host.front.method import Forwarded, Method, Scope
from bridgehold.host.front.outgoing import Emit
from bridgehold.host.shares import cell_wire
from bridgehold.host.shares.link import Link, decoded
from bridgehold.host.shares.refusals import Refusals
from bridgehold.protocol.values import Principal
from bridgehold.tasks import begin_task

_READ_AHEAD = 16 * 1024
_LARGEST = 64 * 1024
_ENDS = 2
"""The connection, and what was read of it."""
_FRONTS = ("ping",)
"""Answered by the front all the same, which knows of all tenants."""


class Entrance:
    """Serves every connection that comes in, until `close`."""

    def __init__(
        self,
        sock: socket.socket,
        link: Link,
        table: Mapping[str, Method],
        callers: Callers,
        refusals: Refusals,
        demand: Callable[[str], None],
        left: Callable[[object], None],
    ) -> None:
        """`table`: the cell's own methods. `demand`: raises where nothing begins for a tenant.

        `left`: told of each connection that is gone.
        """
        sock.setblocking(False)
        self._socket = sock
        self._link = link
        self._left = left
        self.table = table
        self.callers = callers
        self.refusals = refusals
        self.demand = demand
        self.leaving = False
        """Another host takes over: each connection is told so, after its last answer."""
        self._tasks: set[asyncio.Task[None]] = set()
        asyncio.get_running_loop().add_reader(sock, self._take)

    async def close(self) -> None:
        """Take nobody more, and end every connection."""
        asyncio.get_running_loop().remove_reader(self._socket)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def relay(
        self, connection: int, method: str, _principal: Principal, asked: Forwarded, emit: Emit
    ) -> msgspec.Raw:
        """What only the front answers."""
        ask = cell_wire.Relayed(connection=connection, method=method, params=asked.raw)
        return await self._link.ask("relay", ask, _Emitted(emit))

    def _take(self) -> None:
        try:
            said, given, _ = handed.receive(self._socket, _LARGEST, _ENDS)
        except BlockingIOError:
            return
        if not said:  # the front is gone; the link says so too
            asyncio.get_running_loop().remove_reader(self._socket)
            return
        proven: cell_wire.HandedIn = decoded(msgspec.Raw(said), cell_wire.HandedIn)
        if len(given) < _ENDS:  # as many files are open here as may be
            for descriptor in given:
                os.close(descriptor)
            self._link.tell("shut", cell_wire.Left(caller=proven.connection))
            return
        sock, ahead = given
        with os.fdopen(ahead, "rb") as file:
            read = file.read()
        begin_task(self._serve(proven, socket.socket(fileno=sock), read), self._tasks)

    async def _serve(self, handed: cell_wire.HandedIn, sock: socket.socket, ahead: bytes) -> None:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(_READ_AHEAD, loop)
        reader.feed_data(ahead)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        try:
            transport, _ = await loop.connect_accepted_socket(lambda: protocol, sock)
            writer = asyncio.StreamWriter(transport, protocol, reader, loop)
            connection = Connection(_Proven(self, handed), reader, writer)
            try:
                await connection.serve()
            finally:
                self._left(connection)
        finally:
            sock.close()
            self._link.tell("shut", cell_wire.Left(caller=handed.connection))


class _Proven:
    """`ServerContext` of one connection: who it is was proven to the front, and is nobody else."""

    tokens_only = False
    takes_bodies = True
    entrances = None

    def __init__(self, entrance: Entrance, handed: cell_wire.HandedIn) -> None:
        self._entrance = entrance
        self._handed = handed
        self.callers = entrance.callers
        self.refusals = entrance.refusals
        self.methods = _Methods(entrance, handed.connection)

    @property
    def leaving(self) -> bool:
        return self._entrance.leaving

    def known(self, _uid: int) -> Principal:
        return self._handed.principal

    async def principal_of(self, _uid: int, token: str, tenant: str) -> Principal:
        if not hmac.compare_digest(shown(token, tenant), self._handed.shown):
            raise UsageError(
                "`hello` says somebody else, and this connection is its tenant's by now",
                hint="Open another connection.",
            )
        return self._handed.principal

    def identify(self, _uid: int, _token: str) -> Principal:
        return self._handed.principal

    def demand(self, tenant: str | None) -> None:
        if tenant is not None:
            self._entrance.demand(tenant)


class _Methods(Mapping[str, Method]):
    """The cell's own; any other is the front's, which says so where there is none."""

    def __init__(self, entrance: Entrance, connection: int) -> None:
        self._entrance = entrance
        self._connection = connection

    def __getitem__(self, name: str) -> Method:
        own = None if name in _FRONTS else self._entrance.table.get(name)
        if own is not None:
            return own
        return Method(Scope, partial(self._entrance.relay, self._connection, name), reads=True, decides=True)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entrance.table)

    def __len__(self) -> int:
        return len(self._entrance.table)


class _Emitted:
    """The front's events of a request, to its caller."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self.full = emit.full

    def __call__(self, event: msgspec.Raw, /) -> None:
        self._emit(event)
