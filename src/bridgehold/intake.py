"""How the host hands a cell's channel to another process: one descriptor in a datagram, and whose it is.

A process that serves cells holds one end of a pair of datagram sockets, its *intake*; the host alone holds
the other. What comes in belongs to the tenant that the host says, for as long as it is open.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import Callable

import msgspec

from bridgehold import handed
from bridgehold.errors import HostUnavailableError

_MOST = 4_096
_PAUSE_SECONDS = 0.001
"""Where many wait there: they are taken one after the other, and little else is done with them."""


class Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What comes beside the descriptor."""

    tenant: str


def receive(intake: socket.socket) -> tuple[str, socket.socket] | None:
    """Whose the next channel is, and the channel; None where nothing sound came.

    Raises `BlockingIOError` where nothing came yet, `EOFError` where the host is gone.
    """
    data, given, _ = handed.receive(intake, _MOST, 1)
    if not data and not given:
        raise EOFError
    tenant = ""
    with contextlib.suppress(msgspec.MsgspecError, ValueError, RecursionError):
        tenant = msgspec.json.decode(data, type=Entry).tenant
    if given and tenant:
        return tenant, socket.socket(fileno=given[0])
    for descriptor in given:
        os.close(descriptor)
    sys.stderr.write("bridgehold: something else than a channel came in at an intake\n")
    return None


async def hand_in(intake: socket.socket, tenant: str, channel: socket.socket) -> None:
    """Hand `channel` (closed here) to the process behind `intake`, as a cell's of `tenant`.

    Raises `HostUnavailableError` where that process is gone.
    """
    data = msgspec.json.encode(Entry(tenant=tenant))
    with channel:
        while True:
            try:
                socket.send_fds(intake, [data], [channel.fileno()])
                return
            except BlockingIOError:
                await asyncio.sleep(_PAUSE_SECONDS)
            except OSError as error:
                raise HostUnavailableError(
                    f"no channel can be opened: {error.strerror}", retry="no"
                ) from error


class Intake:
    """The receiving end in an asyncio process: each channel goes to `enter`."""

    def __init__(self, sock: socket.socket, enter: Callable[[str, socket.socket], None]) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._enter = enter

    def open(self) -> None:
        """From now on, until the host is gone."""
        asyncio.get_running_loop().add_reader(self._socket, self._ready)

    def _ready(self) -> None:
        try:
            entry = receive(self._socket)
        except BlockingIOError:
            return
        except (EOFError, OSError):
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            return
        if entry is not None:
            self._enter(*entry)
