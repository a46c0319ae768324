"""Bytes to frames and back: a 4-byte big-endian length, and a body that is left as it is."""

from __future__ import annotations

from bridgehold.errors import ProtocolError

HEADER_BYTES = 4
_SHOWN = 4


class Splitter:
    """Cuts a stream into frames. A length beyond `max_frame` is refused before anything is kept for it."""

    def __init__(self, max_frame: int, whose: str = "") -> None:
        """`whose`: what the bound is, for the error that it leads to."""
        self._max_frame = max_frame
        self._whose = whose
        self._held = bytearray()
        self.frames = 0
        """How many were complete."""

    @property
    def buffered(self) -> int:
        """Bytes of the frame that is not complete yet."""
        return len(self._held)

    def feed(self, data: bytes) -> list[bytes]:
        """The bodies that `data` completes. Raises `ProtocolError`; the stream can't be read on then."""
        self._held += data
        found = []
        start = 0
        while len(self._held) - start >= HEADER_BYTES:
            length = int.from_bytes(self._held[start : start + HEADER_BYTES], "big")
            if length > self._max_frame:
                raise ProtocolError(
                    _too_long(bytes(self._held[start : start + _SHOWN]), length, self._max_frame, self._whose)
                )
            end = start + HEADER_BYTES + length
            if len(self._held) < end:
                break
            found.append(bytes(self._held[start + HEADER_BYTES : end]))
            start = end
        del self._held[:start]
        self.frames += len(found)
        return found

    def finish(self) -> None:
        """The stream ended here. Raises `ProtocolError` where that is inside a frame."""
        if self._held:
            raise ProtocolError(f"the stream ended inside a frame, {len(self._held)} bytes after it began")


def pack(body: bytes) -> bytes:
    """The frame that carries `body`."""
    return len(body).to_bytes(HEADER_BYTES, "big") + body


def _too_long(header: bytes, length: int, most: int, whose: str) -> str:
    """People who see this have mostly written text where a length belongs."""
    text = f"a frame of {length} bytes; at most {most} are taken"
    if all(32 <= byte < 127 or byte in b"\r\n\t" for byte in header):
        return f"{text} (its length reads {header.decode('ascii')!r}: this is text, not a frame)"
    return f"{text}: {whose}" if whose else text
