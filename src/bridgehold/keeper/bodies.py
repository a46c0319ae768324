"""The body of a request, as the host sends it after its head."""

from __future__ import annotations

from collections.abc import AsyncIterator

from bridgehold.errors import ProtocolError
from bridgehold.keeper.channel import Stream
from bridgehold.keeper.protocol import DATA, END

SMALL = 256 * 1024
"""Up to here a body is sent to the provider in one piece with the head."""


async def receive_body(stream: Stream, expected: int) -> AsyncIterator[bytes]:
    """The request's body from the host: exactly `expected` bytes. Raises `ProtocolError` otherwise."""
    left = expected
    while left:
        frame = await stream.receive()
        if frame.kind == END:
            break
        if frame.kind != DATA or len(frame.payload) > left:
            break
        left -= len(frame.payload)
        yield frame.payload
    if left:
        raise ProtocolError("the body of a request is not as long as its head says")
