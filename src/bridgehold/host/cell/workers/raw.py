"""What reads a foreign script's output, in frames of its own wire or as it comes."""

from __future__ import annotations

from typing import Protocol


class RawReader(Protocol):
    """What reads a foreign script's bytes: into frames of its own wire, or as they come."""

    frames: int

    @property
    def buffered(self) -> int:
        """Bytes that are read and belong to no whole frame yet."""

    def feed(self, data: bytes) -> list[bytes]:
        """The whole frames that `data` completes. Raises `ProtocolError`."""


class PlainBytes:
    """A `RawReader` of output that has no frames."""

    def __init__(self) -> None:
        self.frames = 0
        self.buffered = 0

    def feed(self, data: bytes) -> list[bytes]:
        """`data` itself, as one piece."""
        self.frames += 1
        return [data]
