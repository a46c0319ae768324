"""One HTTP/2 connection of a gRPC worker or its BEAM: the bounds that it says, and the headers that pass."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from typing import Protocol

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import Event
from h2.exceptions import DenialOfServiceError, H2Error
from h2.settings import SettingCodes, Settings

WINDOW = 1 << 20
"""Of one stream, each way."""
_CONNECTION_WINDOW = 1 << 24
"""Of all streams of a connection together: given back at once, since streams bound themselves."""
MOST_STREAMS = 128
_FRAME = 256 * 1024
_MOST_HEADERS = 32 * 1024
"""Of one list as it is read, and of one block of them on the wire, however many frames it comes in."""
_EACH = 160
_SETTINGS = frozenset(map(int, SettingCodes))
_PREFACE, _FRAME_HEAD = 24, 9
_BEGIN_BLOCK, _GO_ON = frozenset({1, 5}), 9
"""Types of frames with headers in them: those that begin a block, and CONTINUATION."""
_UPDATE = _CONNECTION_WINDOW // 16
_TABLE, _MOST_TABLES = 4_096, 16
"""Bytes of the table of headers towards one side, however large it may be there: it is searched from its
begin to its end for each header. How often a side may change its size, which is kept until headers go."""
_HOP = frozenset({"te", "grpc-encoding", "grpc-accept-encoding", "content-length", "accept-encoding"})
"""Said by each side for itself: nothing that passes is compressed, since nobody here reads that."""

Headers = list[tuple[str, str]]


class Link(Protocol):
    """The transport below one of the two connections."""

    @property
    def full(self) -> bool:
        """Whether so much waits to be read at its other end that no message is to follow yet."""

    def write(self, data: bytes) -> None:
        """Send, or queue, `data`."""

    def close(self) -> None:
        """End it, after what is queued."""


class _Blocks:
    """Follows the frames of one side, so that no block of headers is kept or unpacked that is too long."""

    def __init__(self, skip: int) -> None:
        self._skip = skip
        """Bytes before the next frame's head."""
        self._head = b""
        self._size = 0

    def look(self, data: bytes) -> None:
        """Raises `H2Error` at the head of the frame that makes a block too long."""
        at = 0
        while at < len(data):
            if self._skip:
                step = min(self._skip, len(data) - at)
                at, self._skip = at + step, self._skip - step
                continue
            part = data[at : at + _FRAME_HEAD - len(self._head)]
            at, self._head = at + len(part), self._head + part
            if len(self._head) == _FRAME_HEAD:
                self._skip, kind = int.from_bytes(self._head[:3], "big"), self._head[3]
                self._head = b""
                if kind == _GO_ON or kind in _BEGIN_BLOCK:
                    self._size = self._skip + (self._size if kind == _GO_ON else 0)
                    if self._size > _MOST_HEADERS:
                        raise DenialOfServiceError(f"a block of headers has more than {_MOST_HEADERS} bytes")


class _KnownSettings(Settings):
    """Those of the other end that mean anything: h2 keeps every number that it is told, 700 bytes for six."""

    def __setitem__(self, key: SettingCodes | int, value: int) -> None:
        if key in _SETTINGS:
            super().__setitem__(key, value)


class Peer:
    """One of the two connections: bytes in, events; frames, bytes out."""

    def __init__(self, *, client: bool) -> None:
        config = H2Configuration(client_side=client, header_encoding="utf-8")
        self.h2 = H2Connection(config)
        self.h2.local_settings = Settings(
            client=client,
            initial_values={
                SettingCodes.INITIAL_WINDOW_SIZE: WINDOW,
                SettingCodes.MAX_FRAME_SIZE: _FRAME,
                SettingCodes.MAX_CONCURRENT_STREAMS: MOST_STREAMS,
                SettingCodes.MAX_HEADER_LIST_SIZE: _MOST_HEADERS,
                SettingCodes.ENABLE_PUSH: 0,
            },
        )
        self.h2.remote_settings = _KnownSettings(client=not client)
        self.h2.max_inbound_frame_size = _FRAME  # what the settings that go out allow
        self.h2.initiate_connection()
        self.h2.increment_flow_control_window(_CONNECTION_WINDOW)
        self.link: Link | None = None
        self._owed = 0
        """Bytes of the connection's window that aren't given back yet."""
        self._tables = 0
        self._blocks = _Blocks(0 if client else _PREFACE)

    def receive(self, data: bytes) -> list[Event]:
        """What these bytes of its other end say. Raises `H2Error`."""
        self._blocks.look(data)
        return self.h2.receive_data(data)

    def credit(self, size: int) -> None:
        """So many bytes came: the connection's window is given back, in parts."""
        self._owed += size
        if self._owed >= _UPDATE:
            with contextlib.suppress(H2Error):
                self.h2.increment_flow_control_window(self._owed)
            self._owed = 0

    def settle(self, changed: Mapping[SettingCodes | int, object]) -> bool:
        """Its other end has new settings, which it may make so often. The table of headers stays small."""
        if SettingCodes.HEADER_TABLE_SIZE in changed:
            self._tables += 1
            self.h2.encoder.header_table_size = min(self.h2.encoder.header_table_size, _TABLE)
        return self._tables <= _MOST_TABLES

    def flush(self) -> None:
        """Send what is to be sent."""
        if self.link is not None and (data := self.h2.data_to_send()):
            self.link.write(data)


def cost(headers: Headers) -> int:
    """About how many bytes of memory they take: each is two texts and a pair."""
    return sum(len(name) + len(value) + _EACH for name, value in headers)


def plain(headers: Iterable[tuple[str | bytes, str | bytes]] | None) -> Headers:
    """Those of an event, as text."""
    return [(_text(name), _text(value)) for name, value in headers or ()]


def _text(part: str | bytes) -> str:
    return part if isinstance(part, str) else part.decode("utf-8", "replace")


def forwarded(headers: Headers) -> Headers:
    """A request's, as the answering side gets them."""
    found = dict(headers)
    kept = [(name, value) for name, value in headers if not name.startswith(":") and name not in _HOP]
    return [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", found.get(":path", "")),
        (":authority", "localhost"),
        ("te", "trailers"),
        *kept,
    ]


def passed(headers: Headers) -> Headers:
    """An answer's, as the asking side gets them."""
    return [(name, value) for name, value in headers if name not in _HOP]
