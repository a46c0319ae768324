"""Connections whose callers are of one tenant: its cell has them, and no byte of them passes the front.

Who a caller is has been proven before. What only the front answers its cell asks for in the caller's name,
which reaches no further than the tenant; and the front ends a connection whose caller is another one now.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import os
import socket
from collections import Counter
from collections.abc import Awaitable, Callable

import msgspec

from bridgehold.errors import BridgeholdError, CellEndedError
from bridgehold.host.front.cell import Cell
from bridgehold.host.front.cells import Cells
from bridgehold.host.front.outgoing import Emit
from bridgehold.host.shares import cell_wire
from bridgehold.protocol.frames import WHOLE_CONNECTION, AnswerFrame, pack
from bridgehold.protocol.values import Principal

Relay = Callable[[str, msgspec.Raw, Emit], Awaitable[object]]
"""(method, parameters, events) → what the front answers the caller of a connection."""


class Handed:
    """A connection that a cell has."""

    def __init__(self, relay: Relay) -> None:
        self.relay = relay
        self.over = asyncio.Event()
        self.lost = False
        """Its cell has ended, and did not say that the connection is over."""

    def lose(self) -> None:
        """Its cell has ended."""
        self.lost = self.lost or not self.over.is_set()
        self.over.set()


class Entrances:
    """To all cells of a front."""

    def __init__(
        self, cells: Cells, begins: Callable[[Principal, str], bool], active: Callable[[str], None]
    ) -> None:
        """`begins`: whether a method that is asked for is worth a cell. `active`: raises where nothing begins
        for a tenant."""
        self._cells = cells
        self._begins = begins
        self._active = active
        self._numbers = itertools.count(1)

    def living(self, principal: Principal) -> Cell | None:
        """The one that is to have what `principal` sends, where it runs already."""
        cell = None if principal.operator else self._cells.now(principal.account)
        return cell if cell is not None and self._may_begin(principal) else None

    async def begun(self, principal: Principal, method: str) -> Cell | None:
        """As `living`; it begins, where `method` needs it. None too where it can't."""
        if principal.operator or not principal.account or not self._begins(principal, method):
            return None
        if not self._may_begin(principal):
            return None
        with contextlib.suppress(BridgeholdError):  # who forwards the request is told so too, and says it
            return await self._cells.of(principal.account)
        return None

    def _may_begin(self, principal: Principal) -> bool:
        """Whether its tenant is active; who forwards, or answers, says why not."""
        try:
            self._active(principal.account)
        except BridgeholdError:
            return False
        return True

    async def hand(self, cell: Cell, proven: Proven, sock: socket.socket, ahead: bytes, relay: Relay) -> None:
        """Give it the connection, with the bytes that were read `ahead`. Returns once that is over."""
        number, handed = next(self._numbers), Handed(relay)
        said = cell_wire.HandedIn(connection=number, principal=proven.principal, shown=proven.shown)
        cell.handed[number] = handed
        cell.principals[proven.principal.name] += 1  # in whose name it may ask
        try:
            if cell.ended.is_set() or not cell.hand(msgspec.json.encode(said), sock, ahead):
                handed.lose()
            await handed.over.wait()
            if handed.lost:
                last = pack(
                    AnswerFrame(
                        id=WHOLE_CONNECTION, error=CellEndedError("the tenant's cell has ended").info()
                    )
                )
                with contextlib.suppress(OSError):
                    sock.send(last, socket.MSG_DONTWAIT)
        finally:
            del cell.handed[number]
            cell.principals -= Counter([proven.principal.name])
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()


class Proven(msgspec.Struct, frozen=True, kw_only=True):
    """Whose a connection is."""

    principal: Principal
    shown: str
    """See `shown`."""


def shown(token: str, tenant: str) -> str:
    """What a cell knows of a `hello`: enough to tell whether another one says the same (pure)."""
    return hashlib.sha256(msgspec.json.encode([token, tenant])).hexdigest()


def let_go(writer: asyncio.StreamWriter) -> socket.socket:
    """The connection as a socket of its own; nothing is read or written through `writer` any more."""
    sock = socket.socket(fileno=os.dup(writer.get_extra_info("socket").fileno()))
    writer.transport.abort()
    return sock
