"""One body of the wire, JSON or msgpack, as a value whose size was bounded before it was made.

The two formats tell themselves apart: a msgpack object begins with a byte of 128 or more, JSON never
does. What is not needed is skipped and not built (`msgspec.Raw`), so that a hostile body costs its
length and no more. NaN, infinities and halves of surrogate pairs are no JSON, but Python writes them:
the copy that is read here has null and U+FFFD in their places, while the bytes go on as they came.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Generator
from typing import Any, Literal, TypeVar

import msgspec

from bridgehold import strict, strict_turns
from bridgehold.errors import ProtocolError
from bridgehold.steps import finished

Format = Literal["json", "msgpack"]
FORMATS: tuple[Format, ...] = ("json", "msgpack")
MAX_DEPTH = 128
MAX_REPAIRS = 300_000
"""NaN, infinities and escapes by number, of a text that is no JSON for them: a third of a second at most."""
MAX_VALUES = strict.MAX_VALUES
TURN = 500
"""Values of msgpack, each looked at by itself, after which others run: a millisecond or less."""
_SCANS, _SCANNED, _MOST_CONTAINERS = 16, 65_536, 250_000
_MAPS = frozenset((*range(0x80, 0x90), 0xDE, 0xDF))
_BYTES = frozenset((0xC4, 0xC5, 0xC6))
_CONTAINERS = _MAPS | {*range(0x90, 0xA0), 0xDC, 0xDD}
_PLAIN_MAP: Any = dict[str, bool | int | float | str | None]
_PLAIN_LIST: Any = list[bool | int | float | str | None]
"""What is the same in JSON: a container that holds nothing else is read at once."""

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
    return finished(whole_steps(body))


def whole_steps(body: bytes) -> Generator[None, None, dict[str, object]]:
    """As `decode_whole`, in turns: of msgpack each `TURN` values, of JSON a piece."""
    written_in = format_of(body)
    value: object
    if written_in == "msgpack":
        value = yield from _Packed(len(body)).value(body, 0)
    else:
        try:
            value = yield from strict_turns.steps(body, max_depth=MAX_DEPTH)
        except strict.StrictError as error:
            value = yield from _odd_steps(body, error)
    if not isinstance(value, dict):
        raise ProtocolError(f"not a {written_in} frame: no object")
    return value


def _odd_steps(body: bytes, error: strict.StrictError) -> Generator[None, None, object]:
    """The value of a text that was refused, if it is one that Python writes."""
    if sum(map(body.count, _REPAIRS)) > MAX_REPAIRS:
        raise _too_odd()
    plain: list[bytes] = []
    for piece in (yield from strict_turns.pieces(body)):
        plain.append(plain_json(body[piece.start : piece.end]))
        yield
    repaired = b"".join(plain)
    try:
        if repaired != body:
            return (yield from strict_turns.steps(repaired, max_depth=MAX_DEPTH))
    except strict.StrictError as other:
        error = other
    raise _not_taken(error)


def decode_values(raw: bytes, written_in: Format) -> object:
    """The value of a part that `decode` left raw, its depth and number of values bounded first.

    Raises `ProtocolError`.
    """
    if written_in == "msgpack":
        return finished(_Packed(len(raw)).value(raw, 0))
    try:
        return strict.loads(raw, max_depth=MAX_DEPTH)
    except strict.StrictError as error:
        raise _not_taken(error) from None


def decode_text(raw: bytes, written_in: Format) -> str:
    """The same of a part that should be text; empty where it is something else, of which nothing is made."""
    try:
        if written_in == "json":
            return msgspec.json.decode(raw, type=str)
        return _unpacked(raw, bytes).decode() if raw[0] in _BYTES else _unpacked(raw, str)
    except (msgspec.MsgspecError, ProtocolError, UnicodeDecodeError, RecursionError):
        return ""


def encode(value: object, written_in: Format) -> bytes:
    """A body of our own making."""
    return msgspec.json.encode(value) if written_in == "json" else msgspec.msgpack.encode(value)


def is_odd(body: bytes) -> bool:
    """Whether it may be JSON that only Python writes: reading its copy takes some ten times as long."""
    return _ODD.search(body) is not None


def _repaired(body: bytes) -> bytes:
    if sum(map(body.count, _REPAIRS)) > MAX_REPAIRS:
        raise _too_odd()
    return plain_json(body)


def _too_odd() -> ProtocolError:
    return ProtocolError(f"more than {MAX_REPAIRS} places of what only Python reads")


def _not_taken(error: strict.StrictError) -> ProtocolError:
    return ProtocolError(f"not json that is taken: {_reason(error)}")


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


class _Packed:
    """One walk over msgpack, container by container: each is counted before anything is made of it."""

    def __init__(self, size: int) -> None:
        self._bytes = _SCANS * size + _SCANNED
        """What may be read: each level reads what is below it once more."""
        self._values, self._containers = MAX_VALUES, _MOST_CONTAINERS
        self._turn = TURN

    def value(self, raw: bytes | msgspec.Raw, depth: int) -> Generator[None, None, object]:
        """What `raw` is. Raises `ProtocolError`, also where a map has the same key twice."""
        view = memoryview(raw)
        if view[0] not in _CONTAINERS:
            return _scalar(raw)
        if depth > MAX_DEPTH:
            raise ProtocolError(f"nested deeper than {MAX_DEPTH}")
        count = _count(view)
        self._bytes -= len(view)
        self._containers -= 1
        self._values -= count
        if self._values < 0:
            raise ProtocolError(f"more than {MAX_VALUES} values")
        if min(self._bytes, self._containers) < 0:
            raise ProtocolError(f"nested too deep for its size, or more than {_MOST_CONTAINERS} objects")
        if view[0] in _MAPS:
            return (yield from self._map(raw, count, depth))
        return (yield from self._list(raw, depth))

    def _map(
        self, raw: bytes | msgspec.Raw, count: int, depth: int
    ) -> Generator[None, None, dict[str, object]]:
        with contextlib.suppress(msgspec.ValidationError):
            plain: dict[str, object] = _unpacked(raw, _PLAIN_MAP)
            if len(plain) != count:
                raise _twice()
            return plain
        parts = _unpacked(raw, dict[Any, msgspec.Raw])
        if len(parts) != count:
            raise _twice()
        made: dict[str, object] = {}
        for key, part in parts.items():
            if self._over():
                yield
            name = _key(key)
            if name in made:  # to a reader that takes bytes, or numbers, for text
                raise _twice()
            made[name] = yield from self.value(part, depth + 1)
        if not (depth or all(isinstance(key, str) for key in parts)):
            raise ProtocolError("not msgpack that is taken: a key of the frame is no text")
        return made

    def _list(self, raw: bytes | msgspec.Raw, depth: int) -> Generator[None, None, list[object]]:
        with contextlib.suppress(msgspec.ValidationError):
            plain: list[object] = _unpacked(raw, _PLAIN_LIST)
            return plain
        made: list[object] = []
        for part in _unpacked(raw, list[msgspec.Raw]):
            if self._over():
                yield
            made.append((yield from self.value(part, depth + 1)))
        return made

    def _over(self) -> bool:
        """Whether others are to have their turn now."""
        self._turn = TURN if self._turn <= 0 else self._turn - 1
        return not self._turn


def _unpacked(raw: bytes | msgspec.Raw, kind: type[T]) -> T:
    """Raises `msgspec.ValidationError` where it is of another kind, `ProtocolError` where it is broken."""
    try:
        return msgspec.msgpack.decode(raw, type=kind, strict=False)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, TypeError) as error:
        if isinstance(error, msgspec.ValidationError) and kind is not Any:
            raise
        raise ProtocolError(f"not msgpack that is taken: {_reason(error)}") from None


def _scalar(raw: bytes | msgspec.Raw) -> object:
    """What msgpack can say and JSON can't: bytes that are text become it, all else is refused."""
    value = _unpacked(raw, Any)
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            return value
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise ProtocolError(f"a msgpack value of type {type(value).__name__}")


def _twice() -> ProtocolError:
    return ProtocolError("not msgpack that is taken: a map has the same key twice")


def _count(header: memoryview) -> int:
    """How many items or keys a msgpack list or map says it has."""
    first = header[0]
    if first < 0xDC:
        return first & 0x0F
    return int.from_bytes(header[1 : 3 if first in (0xDC, 0xDE) else 5], "big")


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
