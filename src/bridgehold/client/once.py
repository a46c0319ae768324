"""One request after the other to a running host, over a plain socket: for a process that asks once and ends.

`Client` does more (several requests at once, tools, other hosts in the place of one that left) and takes an
event loop for it, which costs as much to import as all else that a short command needs.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import msgspec

from bridgehold import reads
from bridgehold.errors import ConfigError, HostUnavailableError, ProtocolError, from_info
from bridgehold.protocol.frames import (
    HEADER,
    MAX_FRAME,
    MAX_TOKEN,
    WHOLE_CONNECTION,
    AnswerFrame,
    RequestFrame,
    pack,
)

BEGUN = "Look whether it was, with `bridgehold audit tail`, before it is asked again."
"""The remedy for a request whose answer never came."""
TOKEN_FILE = "BRIDGEHOLD_TOKEN_FILE"  # noqa: S105 - a variable's name


class Once:
    """A connection with one request under way. Leave its block, and what still runs is cancelled."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._file = connection.makefile("rb")
        self._last = 0
        self._sending = threading.Lock()

    @classmethod
    def open(cls, path: Path) -> Self:
        """Raises `HostUnavailableError` where nobody listens at `path`; of tokens as `Client.connect`."""
        token = token_of(os.environ)
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect(str(path))
        except OSError as error:
            connection.close()
            raise HostUnavailableError(
                f"no host answers: {error.strerror or error}", where=str(path)
            ) from error
        made = cls(connection)
        if token:
            made.request("hello", {"token": token})
        return made

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._socket.close()

    def request(
        self, method: str, params: dict[str, Any], on_event: Callable[[dict[str, Any]], None] | None = None
    ) -> Any:
        """As `Client.request`. After a `HostLeavingError`, which begins nothing, no other host is tried."""
        number = self.send(method, params)
        while True:
            answer = self._answer(number)
            if answer.event is msgspec.UNSET:
                return msgspec.json.decode(answer.result) if answer.result is not msgspec.UNSET else None
            if on_event is not None:
                on_event(msgspec.json.decode(answer.event))

    def hold(self, params: dict[str, Any], on_event: Callable[[dict[str, Any]], None]) -> str:
        """The id of a session that ends with this block (`session.hold`); `on_event`: what is told before."""
        return self.held(self.send("session.hold", params), on_event)

    def held(self, number: int, on_event: Callable[[dict[str, Any]], None]) -> str:
        """As `hold`, which was sent before."""
        while True:
            answer = self._answer(number)
            if answer.event is msgspec.UNSET:
                raise _lost("the session ended as it began")
            event = msgspec.json.decode(answer.event)
            if event["type"] == "open":
                return str(event["session"])
            on_event(event)

    def send(self, method: str, params: dict[str, Any]) -> int:
        """Send a request, from any thread, whose answer nobody waits for; its number."""
        body = msgspec.Raw(msgspec.json.encode(params))
        with self._sending:
            self._last += 1
            with contextlib.suppress(ConnectionError):  # why it closed the connection is still to be read
                self._socket.sendall(pack(RequestFrame(id=self._last, method=method, params=body)))
            return self._last

    def _answer(self, number: int) -> AnswerFrame:
        """The next answer, or event, of that request; others' are left out."""
        try:
            while True:
                answer = self._read()
                if answer.id not in (number, WHOLE_CONNECTION):
                    continue
                if answer.error is not None:
                    raise from_info(answer.error)
                return answer
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
    return HostUnavailableError(f"{message}; the request may have been begun", hint=BEGUN, retry="same")


def token_of(environ: Mapping[str, str]) -> str:
    """What the file holds that `environ` names: a token is in no argument and no variable. Empty: none is.

    Raises `ConfigError` for a file that others may read, or that is empty: whoever names one is not to ask
    with what its uid may instead.
    """
    named = environ.get(TOKEN_FILE, "")
    if not named:
        return ""
    path = Path(named)
    text = reads.read_text(path, ConfigError, most=4 * MAX_TOKEN).strip()
    if path.stat().st_mode & 0o077:
        raise ConfigError("others may read this token", where=named, hint=f"chmod 600 {named}")
    if not text:
        raise ConfigError(
            "the file has no token",
            where=named,
            hint=f"`bridgehold token create NAME --tenant TENANT > {named}`, or unset {TOKEN_FILE}.",
        )
    return text
