"""The host's unix socket: peer uid or token → principal, then requests, each in a task of its own."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from collections.abc import Callable, Sequence
from typing import Any

from bridgehold.bridges.frames import ChunkFrame, ProgressFrame
from bridgehold.errors import BridgeholdError, DeniedError
from bridgehold.host.front.callers import CallerLimits, Callers
from bridgehold.host.front.connection import Connection
from bridgehold.host.front.entrances import Entrances
from bridgehold.host.front.method import Method
from bridgehold.host.front.principals import Principals
from bridgehold.host.shares.logs import OutputPiece
from bridgehold.host.shares.refusals import Refusals
from bridgehold.protocol.values import Principal

BACKLOG = 1_024
"""Connections that wait to be taken."""
_READ_AHEAD = 16 * 1024
_KEEP_PATH: dict[str, Any] = {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}
"""The socket's file is the supervisor's: it outlives this host where another one follows."""


class SocketServer:
    """Serves `methods` on a listening socket until `close`."""

    takes_bodies = False

    def __init__(
        self,
        listener: socket.socket,
        principals: Principals,
        methods: dict[str, Method],
        refusals: Refusals,
        *,
        callers: Callers | None = None,
        tokens_only: bool = False,
        left: Callable[[object], None] = lambda _: None,
        active: Callable[[str], None] = lambda _: None,
        entrances: Entrances | None = None,
    ) -> None:
        """`callers`: one for all of a host's sockets. `left`: told of each connection that is gone.
        `entrances`: to the cells that have connections of their own.

        `active`: raises where nothing begins for a tenant.

        `tokens_only`: whose process connects says nothing; only a token makes a principal.
        """
        self.tokens_only = tokens_only
        self.leaving = False
        self.entrances = entrances
        self._left = left
        self._active = active
        self.callers = callers or Callers(CallerLimits())
        self._listener = listener
        self._principals = principals
        self.methods = methods
        self.refusals = refusals
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._live: set[Connection] = set()

    async def start(self) -> None:
        """Accept connections."""
        self._server = await asyncio.start_unix_server(
            self._accept, sock=self._listener, backlog=BACKLOG, limit=_READ_AHEAD, **_KEEP_PATH
        )

    def leave(self) -> None:
        """Accept nobody more: who connects from now on waits for the host that comes."""
        self.leaving = True
        if self._server is not None:
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._listener)
            loop.call_soon(self._server.close)  # who was accepted has a connection before that, not after

    @property
    def connections(self) -> frozenset[asyncio.Task[None]]:
        """Those that stand, each until it is over."""
        return frozenset(self._connections)

    async def close(self) -> None:
        """Accept nobody more, and end every connection."""
        if self._server is not None:
            self._server.close()
        for task in list(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._connections.add(task)
            task.add_done_callback(self._connections.discard)
        connection = Connection(self, reader, writer)
        self._live.add(connection)
        try:
            await connection.serve()
        finally:
            self._live.discard(connection)
            self._left(connection)

    async def look_up_again(self) -> None:
        """The principals have changed: who is another one now, or nobody, loses the connection.

        All of them before anything is written of it, which may take long, or fail.
        """
        refused = [connection.look_up_again() for connection in list(self._live)]
        for uid, reason in filter(None, refused):
            with contextlib.suppress(BridgeholdError):  # it has ended, written or not
                await self.refusals.rejected_peer(uid, reason)

    async def principal_of(self, uid: int, token: str, tenant: str) -> Principal:
        """Raises `DeniedError` after writing the refusal."""
        try:
            return self.identify(uid, token).narrowed(tenant)
        except DeniedError as error:
            await self.refusals.rejected_peer(uid, error.message)
            raise

    def identify(self, uid: int, token: str) -> Principal:
        """As `principal_of`; a refusal is its caller's to write."""
        if token or self.tokens_only:
            return self._principals.by_token(token)
        return self._principals.by_uid(uid)

    def known(self, uid: int) -> Principal | None:
        """Whom the peer's uid alone makes; nothing is written where it makes nobody."""
        if self.tokens_only:
            return None
        try:
            return self._principals.by_uid(uid)
        except DeniedError:
            return None

    def demand(self, tenant: str | None) -> None:
        """Raise what a request for `tenant` is refused with while it is suspended."""
        if tenant is not None:
            self._active(tenant)


async def deserted(servers: Sequence[SocketServer]) -> None:
    """Return once nobody is connected."""
    while connections := [one for server in servers for one in server.connections]:
        await asyncio.wait(connections)


def stream_event(frame: ChunkFrame | ProgressFrame | OutputPiece) -> dict[str, object]:
    """A chunk, a progress report or a piece of output, as clients see it."""
    if isinstance(frame, OutputPiece):
        cut = {"cut": frame.cut} if frame.cut else {}
        return {"type": "output", "stream": frame.stream, "text": frame.text, **cut}
    if isinstance(frame, ChunkFrame):
        return {"type": "chunk", "seq": frame.seq, "data": frame.data}
    return {"type": "progress", "done": frame.done, "total": frame.total, "note": frame.note}
