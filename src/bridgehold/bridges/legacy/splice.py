"""Texts of a frame replaced where they stand, and no other byte of it (pure).

Nothing is encoded anew but the texts themselves: numbers keep their spelling, NaN and binaries stay. What was
made is read again, and has to say what was meant; otherwise there is no such frame.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import msgspec

from bridgehold.bridges.legacy.bodies import Format, decode_whole, format_of
from bridgehold.errors import ProtocolError

_SHORTEST = 8
"""Of a value in characters: no provider's key is shorter, and many words are."""


def with_other(body: bytes, values: tuple[str, ...], other: str) -> bytes | None:
    """`body` with `other` for each of `values`, wherever they stand in its arguments' texts, names included.

    None where one is too short to be told from other words, is spelled so that it can't be found, or the
    frame would then say something else besides. Raises `ProtocolError` for what is no frame.
    """
    if any(len(value) < _SHORTEST for value in values):
        return None
    found: dict[str, str] = {}
    longest = sorted(values, key=len, reverse=True)

    def replaced(text: str) -> str:
        made = text
        for value in longest:
            made = made.replace(value, other)
        if made != text:
            found[text] = made
        return made

    whole = decode_whole(body)
    meant = {**whole, "args": _each(whole.get("args"), replaced)}
    written_in = format_of(body)
    made = body
    for text in sorted(found, key=len, reverse=True):
        for spelled, anew in _spellings(text, found[text], written_in):
            made = made.replace(spelled, anew)
    try:
        return made if decode_whole(made) == meant else None
    except ProtocolError:
        return None


def _each(value: object, change: Callable[[str], str]) -> object:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {change(key): _each(item, change) for key, item in value.items()}
    if isinstance(value, list):
        return [_each(item, change) for item in value]
    return value


def _spellings(text: str, other: str, written_in: Format) -> list[tuple[bytes, bytes]]:
    """How encoders write `text`, and `other` in the same way."""
    if written_in == "msgpack":
        as_text = (msgspec.msgpack.encode(text), msgspec.msgpack.encode(other))
        return [as_text, (msgspec.msgpack.encode(text.encode()), msgspec.msgpack.encode(other.encode()))]
    found = {}
    for plain in (True, False):
        spelled, anew = json.dumps(text, ensure_ascii=plain), json.dumps(other, ensure_ascii=plain)
        found[spelled] = anew
        found[spelled.replace("/", "\\/")] = anew.replace("/", "\\/")
    return [
        (spelled.encode("utf-8", "replace"), anew.encode("utf-8", "replace"))
        for spelled, anew in found.items()
    ]
