"""What all callers together may take of the host, and one connection alone."""

from __future__ import annotations

import asyncio
import socket
import struct

import msgspec

from bridgehold.host.shares.fair import Shares

_CREDENTIALS = struct.Struct("3i")
SMALL = 64 * 1024
"""What a request is counted as at the least, its answer included."""
_OF_DESCRIPTORS = 4
"""Connections get one of so many of the process's descriptors; sessions need the others."""
_PART = 4
"""Of what is held for as long as its caller likes, each may have a quarter of what stays free."""


class CallerLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What all callers together may take of the host, and one connection alone."""

    connections: int = 4_096
    """Of callers that are known: each at most a quarter of those that stay free."""
    unidentified: int = 64
    """Connections that have not said yet who they are, beside those; by uid."""
    presented: int = 256
    """The same on the HTTP face's socket: all are that process's, which bounds its own callers."""
    requests: int = 16_384
    """In flight."""
    caller_bytes: int = 512 << 20
    """Of requests, of answers under way, and of what is not read."""
    unread_bytes: int = 128 << 20
    """Of answers that wait on one connection."""
    unread_events: int = 16 << 20
    """Of a connection's answers, past which no event is added: the connection ends."""
    unknown_s: float = 5
    """How long a connection may be nobody's."""
    frame_s: float = 10
    """From a frame's first byte to its last, and a second more for each MiB; the longest wait for room."""
    unread_s: float = 30
    """In so long all has to be read that waits, or 64 KiB for each second of it."""
    last_s: float = 2
    """What was written last gets so long to be read."""


class Callers:
    """What is shared by all connections of this host, on whatever socket."""

    def __init__(self, limits: CallerLimits, held: Shares | None = None) -> None:
        """`held`: their bytes, where others have a part of the same."""
        self.limits = limits
        self.connections = Shares(limits.connections, part=_PART)
        self.unidentified = Shares(limits.unidentified, part=_PART)
        self.presented = Shares(limits.presented, part=0)
        self.requests = Shares(limits.requests, part=_PART)
        self.bytes = held or Shares(limits.caller_bytes)
        self.waiting = Shares(limits.caller_bytes)
        """Bytes of requests that have come and wait for the room of what they become."""

    async def wait(self, who: str, size: int, length: int) -> bool:
        """Count a request's `size` bytes, `length` of them here already, once there is room; else false."""
        waiting = self.waiting.of(who)
        try:
            return waiting.take(length) and await self.bytes.wait(who, size, self.limits.frame_s)
        finally:
            waiting.give_back()


def limits(connections: int, caller_bytes: int, descriptors: int) -> CallerLimits:
    """Of a host that may open `descriptors` files (pure)."""
    return CallerLimits(
        connections=min(connections, max(8, descriptors // _OF_DESCRIPTORS)), caller_bytes=caller_bytes
    )


def peer_uid(writer: asyncio.StreamWriter) -> int:
    """The kernel uid of the process at the other end, as the kernel says it."""
    peer = writer.get_extra_info("socket")
    raw = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(raw)[1])
