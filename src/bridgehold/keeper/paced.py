"""Sockets that give so much in a turn of the loop and no more, however much has come.

What a peer sends in the smallest units (chunks of a byte, heads without an end) costs a hundred times as
much as plain bytes, and all of it would be taken apart before anybody else's turn.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_MOST = 16 * 1024
"""Of one tenant: some ten milliseconds for the costliest bytes, tens of megabytes a second of plain ones."""


class Reads:
    """What may still be read of one tenant's connections in this turn of the loop."""

    def __init__(self) -> None:
        self._left = _MOST

    def room(self) -> int:
        """Raises `BlockingIOError` where all was read: the loop asks again in its next turn."""
        if not self._left:
            raise BlockingIOError
        return self._left

    def spend(self, size: int) -> None:
        """So many bytes were read."""
        if size and self._left == _MOST:
            asyncio.get_running_loop().call_soon(self._renew)
        self._left -= size

    def _renew(self) -> None:
        self._left = _MOST


class PacedSocket(socket.socket):
    """A connection that reads by its tenant's `reads`."""

    reads: Reads

    @classmethod
    def over(cls, sock: socket.socket, reads: Reads) -> PacedSocket:
        """The connection of `sock`, which is not to be used itself any more."""
        made = cls(sock.family, sock.type, sock.proto, fileno=sock.detach())
        made.reads = reads
        return made

    def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
        """As a socket does, within the tenant's room."""
        data = super().recv(min(bufsize, self.reads.room()), flags)
        self.reads.spend(len(data))
        return data

    def recv_into(self, buffer: WriteableBuffer, nbytes: int = 0, flags: int = 0) -> int:
        """As a socket does, within the tenant's room."""
        size = super().recv_into(buffer, min(nbytes or len(memoryview(buffer)), self.reads.room()), flags)
        self.reads.spend(size)
        return size
