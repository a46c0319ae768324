"""Protocol buffers as far as a decision needs them: a message's own fields, bounded, each read one way.

A message is read and never written: what passes, passes as it came. A field that may stand once and stands
twice is refused, and so is a group or a number that is longer than it must be: parsers differ in what
they take then, and the decision would be about the other one. Standard library only (pure).
"""

from __future__ import annotations

from collections.abc import Iterator

from bridgehold.errors import ProtocolError

MAX_FIELDS = 10_000
"""Of one message: what is read of it is linear, and shares the loop."""
_VARINT, _I64, _LEN, _I32 = 0, 1, 2, 5
_LONGEST_VARINT = 10
_LAST_FIELD = (1 << 29) - 1

Value = int | memoryview


def fields(data: bytes | memoryview) -> Iterator[tuple[int, Value]]:
    """(number, value) of each field in its order: an integer, or bytes. Raises `ProtocolError`."""
    view = memoryview(data)
    place, end, count = 0, len(view), 0
    while place < end:
        count += 1
        if count > MAX_FIELDS:
            raise ProtocolError(f"a message of more than {MAX_FIELDS} fields")
        tag, place = _varint(view, place)
        number, wire = tag >> 3, tag & 7
        if not 0 < number <= _LAST_FIELD:
            raise ProtocolError(f"a field of the number {number}")
        if wire == _VARINT:
            value, place = _varint(view, place)
            yield number, value
            continue
        if wire == _LEN:
            size, place = _varint(view, place)
        elif wire in (_I64, _I32):
            size = 8 if wire == _I64 else 4
        else:
            raise ProtocolError(f"a field of the wire type {wire}")
        if size > end - place:
            raise ProtocolError("a field that ends beyond its message")
        yield number, view[place : place + size]
        place += size


def singles(data: bytes | memoryview, wanted: frozenset[int]) -> dict[int, Value]:
    """Those of `wanted` that stand there, each of which may stand once. Raises `ProtocolError`."""
    found: dict[int, Value] = {}
    for number, value in fields(data):
        if number in wanted:
            if number in found:
                raise ProtocolError(f"the field {number} stands twice")
            found[number] = value
    return found


def text(value: Value | None, most: int = 1_024) -> str:
    """A field's text; empty where it isn't there. Raises `ProtocolError`."""
    if value is None:
        return ""
    if isinstance(value, int) or len(value) > most:
        raise ProtocolError(f"a text that is none, or longer than {most} bytes")
    try:
        return str(value, "utf-8")
    except UnicodeDecodeError as error:
        raise ProtocolError("a text that is no UTF-8") from error


def entries(data: bytes | memoryview, number: int) -> dict[str, Value]:
    """The map that is the field `number`, by its keys, each of which stands once. Raises `ProtocolError`."""
    found: dict[str, Value] = {}
    for at, value in fields(data):
        if at != number:
            continue
        if isinstance(value, int):
            raise ProtocolError(f"the map {number} has an entry that is none")
        entry = singles(value, frozenset({1, 2}))
        key = text(entry.get(1))
        if key in found:
            raise ProtocolError(f"the map {number} has the key {key[:80]!r} twice")
        found[key] = entry.get(2, memoryview(b""))
    return found


def _varint(view: memoryview, place: int) -> tuple[int, int]:
    """(number, the place behind it)."""
    value = 0
    for index in range(_LONGEST_VARINT):
        if place + index >= len(view):
            raise ProtocolError("a number that ends beyond its message")
        byte = view[place + index]
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            if index and not byte:
                raise ProtocolError("a number that is longer than it must be")
            if value >= 1 << 64:
                break
            return value, place + index + 1
    raise ProtocolError("a number of more than 64 bits")
