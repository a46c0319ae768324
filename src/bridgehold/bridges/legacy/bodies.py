"""One body of the wire, JSON or msgpack, as a value whose size was bounded before it was made.

The two formats tell themselves apart: a msgpack object begins with a byte of 128 or more, JSON never
does. What is not needed is skipped and not built (`msgspec.Raw`), so that a hostile body costs its
length and no more. NaN, infinities and halves of surrogate pairs are no JSON, but Python writes them:
the copy that is read here has null and U+FFFD in their places, while the bytes go on as they came.
"""

from __future__ import annotations

import re
from typing import Literal, TypeVar

import msgspec

from bridgehold.bridges import strict
from bridgehold.errors import ProtocolError

Format = Literal["json", "msgpack"]
FORMATS: tuple[Format, ...] = ("json", "msgpack")
MAX_DEPTH = 128
MAX_REPAIRS = 300_000
"""NaN, infinities and escapes by number, of a text that is no JSON for them: a third of a second at most."""
MAX_VALUES = strict.MAX_VALUES

T = TypeVar("T")
_REPAIRS = (b"NaN", b"Infinity", b"\\u")
_HALF = (
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F][0-9a-fA-F]{2})"
    rb"|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F][0-9a-fA-F]{2}"
)
_ODD = re.compile(rb"NaN|Infinity|" + _HALF)
_TOKENS = re.compile(  # what begins differently can't be tried twice: no quantifier here backtracks far
    rb'(?P<fine>(?:[^"NI-]+|-(?!I)|"(?:[^"\\]++|(?!\\u)\\.)*+"){1,1000})'
    rb'|(?P<null>-?Infinity|NaN)|"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)',
    re.DOTALL,
)
_ESCAPES = re.compile(rb"(?P<half>" + _HALF + rb")|\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u....|.)", re.DOTALL)
_NOT_CONTAINERS = bytes(set(range(256)) - {*range(0x80, 0xA0), 0xDC, 0xDD, 0xDE, 0xDF})


def format_of(body: bytes) -> Format:
    """Which of the two a body is written in."""
    return "msgpack" if body[:1] >= b"\x80" else "json"


def decode(body: bytes, kind: type[T]) -> T:
    """`body` as a `kind`, unknown fields skipped. Raises `ProtocolError` that says what is wrong."""
    written_in = format_of(body)
    try:
        if written_in == "msgpack":
            return msgspec.msgpack.decode(body, type=kind)
        if not body.isascii():
            body.decode("utf-8")  # what is skipped is not looked at otherwise
        try:
            return msgspec.json.decode(body, type=kind)
        except msgspec.ValidationError:
            raise
        except msgspec.DecodeError:
            if not is_odd(body):
                raise
            if sum(map(body.count, _REPAIRS)) > MAX_REPAIRS:
                raise ProtocolError(f"more than {MAX_REPAIRS} places of what only Python reads") from None
            return msgspec.json.decode(plain_json(body), type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise ProtocolError(f"not a {written_in} frame: {_reason(error)}") from None


def decode_values(raw: bytes, written_in: Format) -> object:
    """The value of a part that `decode` left raw, its depth and number of values bounded first.

    Raises `ProtocolError`.
    """
    try:
        if written_in == "json":
            return strict.loads(raw, max_depth=MAX_DEPTH)
        if len(raw.translate(None, _NOT_CONTAINERS)) > MAX_VALUES:
            raise ProtocolError(f"more than {MAX_VALUES} values")
        return _checked(msgspec.msgpack.decode(raw, strict=False), 0)
    except (strict.StrictError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"not {written_in} that is taken: {_reason(error)}") from None


def encode(value: object, written_in: Format) -> bytes:
    """A body of our own making."""
    return msgspec.json.encode(value) if written_in == "json" else msgspec.msgpack.encode(value)


def is_odd(body: bytes) -> bool:
    """Whether it may be JSON that only Python writes: reading its copy takes some ten times as long."""
    return _ODD.search(body) is not None


def plain_json(body: bytes) -> bytes:
    """`body` with null for NaN and infinities, and U+FFFD for halves of surrogate pairs (linear)."""
    return _TOKENS.sub(_plain_token, body)


def _plain_token(match: re.Match[bytes]) -> bytes:
    if match["fine"] is not None:
        return match[0]
    if match["null"] is not None:
        return b"null"
    return _ESCAPES.sub(_plain_escape, match[0]) if _ODD.search(match[0]) else match[0]


def _plain_escape(match: re.Match[bytes]) -> bytes:
    return rb"\ufffd" if match["half"] is not None else match[0]


def _checked(value: object, depth: int) -> object:
    """What msgpack can say and JSON can't: bytes that are text become it, all else is refused."""
    if depth > MAX_DEPTH:
        raise ProtocolError(f"nested deeper than {MAX_DEPTH}")
    if isinstance(value, dict):
        return {_key(key): _checked(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list):
        return [_checked(item, depth + 1) for item in value]
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            return value
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise ProtocolError(f"a msgpack value of type {type(value).__name__}")


def _key(key: object) -> str:
    if isinstance(key, bytes):
        key = key.decode("utf-8", "replace")
    return key if isinstance(key, str) else str(key)[:100]


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "nested too deep"
    return str(error)[:200]
