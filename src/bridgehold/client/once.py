"""One request after the other to a running host, over a plain socket: for a process that asks once and ends.

`Client` does more (several requests at once, tools, other hosts in the place of one that left) and takes an
event loop for it, which costs as much to import as all else that a short command needs.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import msgspec

from bridgehold.errors import HostUnavailableError, ProtocolError, from_info
from bridgehold.protocol.frames import HEADER, MAX_FRAME, WHOLE_CONNECTION, AnswerFrame, RequestFrame, pack


class Once:
    """A connection with one request under way. Leave its block, and what still runs is cancelled."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._file = connection.makefile("rb")
        self._last = 0

    @classmethod
    def open(cls, path: Path) -> Self:
        """Raises `HostUnavailableError` where nobody listens at `path`."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect(str(path))
        except OSError as error:
            connection.close()
            raise HostUnavailableError(
                f"no host answers: {error.strerror or error}", where=str(path)
            ) from error
        return cls(connection)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._socket.close()

    def request(
        self, method: str, params: dict[str, Any], on_event: Callable[[dict[str, Any]], None] | None = None
    ) -> Any:
        """As `Client.request`. After a `HostLeavingError`, which begins nothing, no other host is tried."""
        self._last += 1
        body = msgspec.Raw(msgspec.json.encode(params))
        try:
            with contextlib.suppress(ConnectionError):  # why it closed the connection is still to be read
                self._socket.sendall(pack(RequestFrame(id=self._last, method=method, params=body)))
            while True:
                answer = self._read()
                if answer.id not in (self._last, WHOLE_CONNECTION):
                    continue
                if answer.error is not None:
                    raise from_info(answer.error)
                if answer.event is msgspec.UNSET:
                    return msgspec.json.decode(answer.result) if answer.result is not msgspec.UNSET else None
                if on_event is not None:
                    on_event(msgspec.json.decode(answer.event))
        except OSError as error:
            raise _lost(f"the host went away: {error.strerror or error}") from error

    def _read(self) -> AnswerFrame:
        (length,) = HEADER.unpack(self._exactly(HEADER.size))
        if length > MAX_FRAME:
            raise ProtocolError(f"a frame of {length} bytes; at most {MAX_FRAME} are taken")
        try:
            return msgspec.json.decode(self._exactly(length), type=AnswerFrame)
        except msgspec.MsgspecError as error:
            raise HostUnavailableError(f"the host sent something unreadable: {error}") from error

    def _exactly(self, count: int) -> bytes:
        data = self._file.read(count)
        if len(data) < count:
            raise _lost("the host closed the connection")
        return data


def _lost(message: str) -> HostUnavailableError:
    return HostUnavailableError(f"{message}; the request may have been begun", retry="same")
