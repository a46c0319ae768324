"""What is looked for in the texts of a thousand events at once, as the index keeps them (pure)."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterable
from typing import NamedTuple

from bridgehold.audit.chain import MAX_INTEGER
from bridgehold.audit.reading.syntax import ORDER, Operator

_memmem = ctypes.CDLL(None).memmem
"""The C library's own search takes a third of the time of `bytes.find`, and the texts are hundreds of MiB."""
_memmem.argtypes = (ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_size_t)
_memmem.restype = ctypes.c_void_p


class Needle(NamedTuple):
    """As a parameter it stands for a blob with a byte for each event of a text: 1 where it stands."""

    data: bytes
    """Stands wherever the needle does."""
    pattern: bytes
    """Of the needle; with `operator` its group is a number. Empty: the data."""
    sure: bytes = b""
    """The quoted key: only lines count that have no second one, and nothing within something."""
    operator: Operator | None = None
    value: int = 0


_REST = rb"[^\n]*"
"""To the line's end: one finding is enough."""
_CHARACTERS = rb'(?:[^"\\\n]|\\[^u\n]|\\u[0-9a-f]{4})*?'
"""Whole ones: what stands behind them is no part of an escape."""


def anywhere(data: bytes) -> Needle:
    """These bytes, wherever they stand."""
    return Needle(data, b"")


def behind(name: str, data: bytes, *, sure: bool) -> Needle:
    """These bytes behind this key, and not behind the end of its value.

    It ends at the value's closing quote, so that no line is gone over twice, however many keys it has.
    """
    key = _quoted(name)
    if sure:
        return Needle(data, re.escape(key) + b':"' + _CHARACTERS + re.escape(data) + _REST, key)
    return Needle(data, re.escape(key) + rb' *: *"?(?:[^"\\\n]|\\.)*?' + re.escape(data) + _REST)


def filled(name: str, *, sure: bool) -> Needle:
    """A value that is more than an empty text."""
    key = _quoted(name)
    pattern = b':"[^"]' if sure else b' *: *(?!"")[^ ]'
    return Needle(key, re.escape(key) + pattern + _REST, key if sure else b"")


def flagged(name: str, value: int, *, sure: bool) -> Needle:
    """A flag that is so."""
    key, said = _quoted(name), b"true" if value else b"false"
    between = b":" if sure else b" *: *"
    return Needle(key, re.escape(key) + between + said + _REST, key if sure else b"")


def measured(name: str, operator: Operator, value: int, *, sure: bool) -> Needle:
    """A whole number that compares so."""
    key = _quoted(name)
    if sure:
        pattern = re.escape(key) + rb":(-?[1-9][0-9]{0,15}|0)(?![0-9.e])" + _REST
        return Needle(key, pattern, key, operator, value)
    return Needle(key, re.escape(key) + rb" *: *(-?[0-9]{1,16})(?![0-9.e])", b"", operator, value)


def _quoted(name: str) -> bytes:
    return b'"%s"' % name.encode("ascii")


def may_have(text: bytes, needle: Needle) -> bool:
    """Whether its bytes stand anywhere in `text`."""
    return _memmem(text, len(text), needle.data, len(needle.data)) is not None


def lines_with(text: bytes, count: int, needle: Needle) -> bytes:
    """A byte for each of the `count` lines of `text`, as `Needle` says. Not `sure`: no fewer than fit."""
    found = bytearray(count)
    if not may_have(text, needle):
        return bytes(found)
    if not needle.pattern:
        return bytes([needle.data in one for one in text.split(b"\n")])
    line = at = 0
    for hit in _hits(text, needle):
        line += text.count(b"\n", at, hit.start())
        at = hit.start()
        found[line] = 1
    return bytes(found)


def _hits(text: bytes, needle: Needle) -> Iterable[re.Match[bytes]]:
    found: Iterable[re.Match[bytes]] = re.finditer(needle.pattern, text)
    if needle.sure:
        found = hits = list(found)  # one of a line, whose every key was counted
        if len(hits) != text.count(needle.sure) or b'{"' in text:
            found = [hit for hit in hits if _alone(text, hit, needle.sure)]
    if needle.operator is None:
        return found
    holds, wanted = ORDER[needle.operator], needle.value
    return (hit for hit in found if abs(number := int(hit[1])) <= MAX_INTEGER and holds(number, wanted))


def _alone(text: bytes, hit: re.Match[bytes], key: bytes) -> bool:
    """Whether a line has no other key of this name, and nothing that stands within something."""
    begin = text.rfind(b"\n", 0, hit.start()) + 1
    end = text.find(b"\n", hit.start())
    line = text[begin : end if end >= 0 else None]
    return line.count(key) == 1 and b'{"' not in line
