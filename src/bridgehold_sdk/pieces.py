"""What programs read and write, as answers and results carry it."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

from bridgehold_sdk.errors import InvalidInput
from bridgehold_sdk.plain import clean_text

KEPT_BYTES = 128 * 1024
"""Of each stream in a result: the first and the last half."""


class Kept:
    """The first and the last half of what is added, up to `limit` bytes; the middle is counted and cut."""

    def __init__(self, limit: int = KEPT_BYTES) -> None:
        self._half = limit // 2
        self._head, self._tail = bytearray(), bytearray()
        self.cut = 0

    def add(self, data: bytes) -> None:
        """Keep it, or a part."""
        room = self._half - len(self._head)
        if room > 0:
            self._head += data[:room]
            data = data[room:]
        self._tail += data
        extra = len(self._tail) - self._half
        if extra > self._half:
            self.cut += extra
            del self._tail[:extra]

    def text(self) -> str:
        """What is kept, with a mark in the place of what is not."""
        extra = len(self._tail) - self._half
        if extra > 0:
            self.cut += extra
            del self._tail[:extra]
        if not self.cut:
            return shown(bytes(self._head + self._tail))
        return f"{shown(bytes(self._head))}\n… {self.cut} bytes cut …\n{shown(bytes(self._tail))}"


def shown(data: bytes) -> str:
    """As text; what is none is spelled out."""
    return data.decode("utf-8", "backslashreplace")


def piece_of(data: bytes) -> dict[str, str]:
    """Bytes as a piece carries them: text where they are, base64 otherwise."""
    try:
        return {"text": data.decode("utf-8")}
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data).decode("ascii")}


def bytes_of(said: Mapping[str, Any]) -> bytes:
    """The opposite. `InvalidInput` for base64 that is none."""
    text = said.get("text")
    if isinstance(text, str):
        return clean_text(text).encode("utf-8")
    try:
        return base64.b64decode(str(said.get("base64") or ""), validate=True)
    except (binascii.Error, ValueError):
        raise InvalidInput("no base64") from None
