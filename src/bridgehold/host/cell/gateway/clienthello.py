"""The server name in a TLS ClientHello (pure), from bytes that a guest chose: bounded, and strict."""

from __future__ import annotations

BOUND = 16 * 1024
_HANDSHAKE = 0x16
_CLIENT_HELLO = 1
_SERVER_NAME = 0


class NotTls(Exception):  # noqa: N818 - a finding, not a fault
    """The bytes are no ClientHello that can be read in one way."""


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, count: int) -> bytes:
        part = self._data[self._at : self._at + count]
        if len(part) != count:
            raise NotTls("a length points past the end")
        self._at += count
        return part

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def vector(self, size: int) -> bytes:
        return self.take(self.number(size))

    @property
    def left(self) -> int:
        return len(self._data) - self._at


def server_name(data: bytes) -> str | None:
    """The one server name, ``""`` if the hello has none, or None while bytes are missing.

    Raises `NotTls` for anything else: another protocol, two names, a length that lies, more than
    16 KiB.
    """
    message = _handshake(data)
    if message is None:
        return None
    reader = _Reader(message)
    reader.take(2 + 32)
    for size in (1, 2, 1):  # session id, cipher suites, compression methods
        reader.vector(size)
    if not reader.left:
        return ""
    extensions = _Reader(reader.vector(2))
    if reader.left:
        raise NotTls("bytes after the extensions")
    names = []
    while extensions.left:
        kind = extensions.number(2)
        body = extensions.vector(2)
        if kind == _SERVER_NAME:
            names.append(body)
    if len(names) > 1:
        raise NotTls("two server_name extensions")
    return _host_name(names[0]) if names else ""


def _handshake(data: bytes) -> bytes | None:
    """The ClientHello's body out of one or more records; None while bytes are missing."""
    found = b""
    at = 0
    while True:
        if len(data) > BOUND:
            raise NotTls(f"no ClientHello within {BOUND} bytes")
        if data[at : at + 1] and data[at] != _HANDSHAKE:
            raise NotTls("not a TLS handshake")
        if data[at + 1 : at + 2] and data[at + 1] != 3:
            raise NotTls("not a TLS version")
        if len(data) < at + 5:
            return None
        length = int.from_bytes(data[at + 3 : at + 5], "big")
        if not 0 < length <= BOUND:
            raise NotTls("a record's length is out of bounds")
        found += data[at + 5 : at + 5 + length]
        if found and found[0] != _CLIENT_HELLO:
            raise NotTls("not a ClientHello")
        if len(found) >= 4:
            needed = int.from_bytes(found[1:4], "big")
            if needed > BOUND:
                raise NotTls("a ClientHello that is too long")
            if len(found) >= 4 + needed:
                return found[4 : 4 + needed]
        at += 5 + length
        if at >= len(data):
            return None


def _host_name(body: bytes) -> str:
    outer = _Reader(body)
    entries = _Reader(outer.vector(2))
    if outer.left:
        raise NotTls("bytes after the server names")
    kind = entries.number(1)
    name = entries.vector(2)
    if entries.left or kind != 0:
        raise NotTls("not exactly one host name")
    try:
        text = name.decode("ascii")
    except UnicodeDecodeError:
        raise NotTls("a server name that is not ASCII") from None
    if not text:
        raise NotTls("an empty server name")
    return text
