"""Large answers of the host, as they come: of each a window is here, and whoever doesn't read stops its own.

A request has its connection to the host alone, so what isn't read of it waits in the process that answers,
which counts it there by whose it is.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from typing import NamedTuple

import msgspec

from bridgehold.client.connection import Connection
from bridgehold.errors import HostUnavailableError, LimitError
from bridgehold.host.shares.fair import Share
from bridgehold.protocol.frames import read_frame

WINDOW = 128 * 1024
"""Bytes of an answer that are read at once, and past which it flows; twice as many are read ahead."""
HELD = 4 * WINDOW
"""Bytes that one flow takes here at the most, those that its caller's socket was given included."""
_MOST_WHOLE = 16 << 20
"""Of what is read before it is looked at: an event, or an answer that the face itself needs."""
_FIRST = 64
_RESULT = re.compile(rb'\{"id":([0-9]{1,16}),"result":')


class Begun(NamedTuple):
    """A large result, by the first bytes of its frame."""

    request: int
    skip: int
    """Bytes of the frame before the result's JSON; one is after it."""


def begun(first: bytes) -> Begun | None:
    """What a frame begins that is too large to be read whole (pure). None: no result."""
    found = _RESULT.match(first)
    return Begun(int(found[1]), found.end()) if found else None


class Flow:
    """The JSON of one result, for who reads it once: all of its `size` bytes, or an error midway."""

    def __init__(self, reader: asyncio.StreamReader, first: bytes, size: int) -> None:
        self._reader, self._first = reader, first
        self.size = size
        self.over = asyncio.Event()
        """Set once all of it was read."""

    async def pieces(self) -> AsyncIterator[bytes]:
        """Raises `HostUnavailableError` where the host, or the tenant's cell, ends in the middle of it."""
        left = self.size + 1 - len(self._first)  # and the brace that ends the frame
        yield self._first
        while left:
            try:
                piece = await self._reader.read(min(left, WINDOW))
            except OSError:
                piece = b""
            left -= len(piece)
            if not piece or (not left and piece[-1:] != b"}"):
                raise HostUnavailableError("the host went away in the middle of an answer")
            yield piece if left else piece[:-1]
        self.over.set()


class FlowConnection(Connection):
    """Large answers that are asked for as JSON are a `Flow`: nothing follows before that was read."""

    ahead = WINDOW
    _flow: Flow | None = None

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.at_ease = asyncio.Event()
        """Cleared while nothing more is to be read, as its caller has not read what came."""
        self.at_ease.set()
        super().__init__(reader, writer)

    @property
    def over(self) -> bool:
        """Nothing new is to be asked here; not while an answer flows, either."""
        return super().over or self._flow is not None

    async def _frame(self, beside: list[bytes]) -> bytes | None:
        while True:
            await self.at_ease.wait()
            try:
                return await read_frame(self._reader, room=_demand_small, small=WINDOW)
            except _LargeFrame as large:
                if (body := await self._large(large.size)) is not None:
                    return body

    async def _large(self, size: int) -> bytes | None:
        """A frame that is read whole all the same, or None: it has flowed."""
        try:
            first = await self._reader.readexactly(_FIRST)
            result = begun(first)
            if result is not None and result.request in self._raw:
                await self._let_flow(result, first, size)
                return None
            if size > _MOST_WHOLE:
                raise LimitError(f"the host answers with {size} bytes; {_MOST_WHOLE} are read here")
            return first + await self._reader.readexactly(size - _FIRST)
        except (OSError, EOFError) as error:
            raise HostUnavailableError("the connection ended inside a frame") from error

    async def _let_flow(self, result: Begun, first: bytes, size: int) -> None:
        self._flow = Flow(self._reader, first[result.skip :], size - result.skip - 1)
        future = self._waiting.get(result.request)
        if future is not None and not future.done():
            future.set_result((self._flow, "", b""))
            await self._flow.over.wait()
        else:
            async for _ in self._flow.pieces():
                pass
        self._flow = None


async def whole(result: Flow | msgspec.Raw, share: Share) -> msgspec.Raw:
    """All of a result, counted in `share` while it comes. Raises `LimitError` where there is no room."""
    if not isinstance(result, Flow):
        return result
    if not share.take(result.size):
        raise LimitError(f"the caller has too many bytes under way to keep an answer of {result.size}")
    try:
        return msgspec.Raw(b"".join([piece async for piece in result.pieces()]))
    finally:
        share.give_back()


class _LargeFrame(Exception):  # noqa: N818 - no error: it says that the rest is read otherwise
    def __init__(self, size: int) -> None:
        self.size = size


async def _demand_small(size: int) -> None:
    """Before a byte of a large frame is read."""
    raise _LargeFrame(size)
