"""One body of the wire, JSON or msgpack, as a value whose size was bounded before it was made.

The two formats tell themselves apart: a msgpack object begins with a byte of 128 or more, JSON never
does. What is not needed is skipped and not built (`msgspec.Raw`), so that a hostile body costs its
length and no more. NaN, infinities and halves of surrogate pairs are no JSON, but Python writes them:
the copy that is read here has null and U+FFFD in their places, while the bytes go on as they came.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Literal, TypeVar

import msgspec

from bridgehold import strict
from bridgehold.errors import ProtocolError

Format = Literal["json", "msgpack"]
FORMATS: tuple[Format, ...] = ("json", "msgpack")
MAX_DEPTH = 128
MAX_REPAIRS = 300_000
"""NaN, infinities and escapes by number, of a text that is no JSON for them: a third of a second at most."""
MAX_VALUES = strict.MAX_VALUES
_KEY_SCANS, _KEY_BYTES, _MOST_MAPS = 16, 65_536, 250_000

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
            return msgspec.json.decode(_repaired(body), type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise ProtocolError(f"not a {written_in} frame: {_reason(error)}") from None


def decode_whole(body: bytes) -> dict[str, object]:
    """All of a caller's frame, in which each key stands once, at any depth.

    Of a key that stands twice, one reader may take the first and another the last: what is decided
    on here has to be what a script reads. Raises `ProtocolError`.
    """
    written_in = format_of(body)
    value: object
    if written_in == "msgpack":
        made = _msgpack_values(body)
        _check_keys(body, made, [_KEY_SCANS * len(body) + _KEY_BYTES, _MOST_MAPS])
        value = _checked(made, 0)
        if isinstance(made, dict) and not all(isinstance(key, str) for key in made):
            raise ProtocolError("not msgpack that is taken: a key of the frame is no text")
    else:
        try:
            value = strict.loads(body, max_depth=MAX_DEPTH)
        except strict.StrictError:
            value = decode_values(_repaired(body) if is_odd(body) else body, written_in)
    if not isinstance(value, dict):
        raise ProtocolError(f"not a {written_in} frame: no object")
    return value


def decode_values(raw: bytes, written_in: Format) -> object:
    """The value of a part that `decode` left raw, its depth and number of values bounded first.

    Raises `ProtocolError`.
    """
    if written_in == "msgpack":
        return _checked(_msgpack_values(raw), 0)
    try:
        return strict.loads(raw, max_depth=MAX_DEPTH)
    except strict.StrictError as error:
        raise ProtocolError(f"not json that is taken: {_reason(error)}") from None


def _msgpack_values(raw: bytes) -> object:
    if len(raw.translate(None, _NOT_CONTAINERS)) > MAX_VALUES:
        raise ProtocolError(f"more than {MAX_VALUES} values")
    try:
        return msgspec.msgpack.decode(raw, strict=False)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, TypeError) as error:
        raise ProtocolError(f"not msgpack that is taken: {_reason(error)}") from None


def encode(value: object, written_in: Format) -> bytes:
    """A body of our own making."""
    return msgspec.json.encode(value) if written_in == "json" else msgspec.msgpack.encode(value)


def is_odd(body: bytes) -> bool:
    """Whether it may be JSON that only Python writes: reading its copy takes some ten times as long."""
    return _ODD.search(body) is not None


def _repaired(body: bytes) -> bytes:
    if sum(map(body.count, _REPAIRS)) > MAX_REPAIRS:
        raise ProtocolError(f"more than {MAX_REPAIRS} places of what only Python reads")
    return plain_json(body)


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


def _check_keys(raw: bytes | msgspec.Raw, value: object, left: list[int]) -> None:
    """Refuse a map of `raw` whose header counts more keys than `value`, made of it, has.

    The work is bounded by `left`, in bytes and in objects: each level reads what is below it once more.
    """
    view = memoryview(raw)
    left[0] -= len(view)
    left[1] -= 1
    if min(left) < 0:
        raise ProtocolError(f"nested too deep for its size, or more than {_MOST_MAPS} objects")
    parts: Iterable[msgspec.Raw] = ()
    items: Iterable[object] = ()
    if isinstance(value, dict):
        if len(value) != _count(view) or _are_one(value):
            raise ProtocolError("not msgpack that is taken: a map has the same key twice")
        items = value.values()
        if any(isinstance(item, (dict, list)) for item in items):
            parts = msgspec.msgpack.decode(raw, type=dict[Any, msgspec.Raw], strict=False).values()
    elif isinstance(value, list):
        items = value
        if any(isinstance(item, (dict, list)) for item in items):
            parts = msgspec.msgpack.decode(raw, type=list[msgspec.Raw])
    for part, item in zip(parts, items, strict=False):
        if isinstance(item, (dict, list)):
            _check_keys(part, item, left)


def _count(header: memoryview) -> int:
    """How many keys a msgpack map says it has."""
    first = header[0]
    if first < 0xDE:
        return first & 0x0F
    return int.from_bytes(header[1 : 3 if first == 0xDE else 5], "big")


def _are_one(value: dict[object, object]) -> bool:
    """Whether two keys are one text to a reader that takes bytes, or numbers, for it."""
    return not all(isinstance(key, str) for key in value) and len({_key(key) for key in value}) < len(value)


def _key(key: object) -> str:
    if isinstance(key, bytes):
        key = key.decode("utf-8", "replace")
    if isinstance(key, bool) or not isinstance(key, (str, int)):
        raise ProtocolError(f"not msgpack that is taken: a key of type {type(key).__name__}")
    return str(key)


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "nested too deep"
    return str(error)[:200]
