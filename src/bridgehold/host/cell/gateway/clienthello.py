"""The server name in a TLS ClientHello (pure), from bytes that a guest chose: bounded, and strict.

Each byte is looked at once, however few come at a time and however small their records are.
"""

from __future__ import annotations

BOUND = 16 * 1024
_RECORD_HEADER = 5
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


class ClientHello:
    """A ClientHello on its way: feed it what comes."""

    def __init__(self) -> None:
        self._size = 0
        self._header = bytearray()
        """Of the record that begins, while it is not whole."""
        self._left = 0
        """Bytes of the record under way that are still to come."""
        self._found = bytearray()
        """The handshake message, out of one or more records."""

    def feed(self, data: bytes) -> str | None:
        """The one server name, ``""`` if the hello has none, or None while bytes are missing.

        What comes behind the hello is not looked at. Raises `NotTls` for anything else: another protocol,
        two names, a length that lies, more than 16 KiB.
        """
        at = 0
        while at < len(data):
            if self._size > BOUND:
                raise NotTls(f"no ClientHello within {BOUND} bytes")
            if self._left:
                part = data[at : at + self._left]
                self._found += part
                self._left -= len(part)
                if (message := self._message()) is not None:
                    return _name_in(message)
            else:
                part = data[at : at + _RECORD_HEADER - len(self._header)]
                self._header += part
                self._begin_record()
            at += len(part)
            self._size += len(part)
        return None

    def _begin_record(self) -> None:
        header = self._header
        if header[0] != _HANDSHAKE:
            raise NotTls("not a TLS handshake")
        if len(header) > 1 and header[1] != 3:
            raise NotTls("not a TLS version")
        if len(header) == _RECORD_HEADER:
            self._left = int.from_bytes(header[3:], "big")
            if not 0 < self._left <= BOUND:
                raise NotTls("a record's length is out of bounds")
            header.clear()

    def _message(self) -> bytes | None:
        found = self._found
        if found[0] != _CLIENT_HELLO:
            raise NotTls("not a ClientHello")
        needed = int.from_bytes(found[1:4], "big") if len(found) >= 4 else 0
        if needed > BOUND:
            raise NotTls("a ClientHello that is too long")
        return bytes(found[4 : 4 + needed]) if len(found) >= 4 + needed else None


def _name_in(message: bytes) -> str:
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
