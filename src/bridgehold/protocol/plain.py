"""A caller's values as JSON has them: converted where nothing is lost, or refused with place and remedy.

The encoder proper would write null for NaN, base64 for bytes, and whatever it finds for a subclass; so what
it is given is looked at first (`to_plain`). Arguments, a tool's results and resources' arguments all pass
here. JSON that a caller has written itself is read by the same rules (`loads`): over the socket, HTTP,
standard input and the command line a value arrives as it was sent, or is refused in the same words.
"""

from __future__ import annotations

import dataclasses
import datetime
import math
import uuid
from collections.abc import Generator, Iterable, Mapping, Set
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import Any

import msgspec

from bridgehold import strict, strict_turns
from bridgehold.errors import BridgeholdError, UsageError
from bridgehold.protocol import places, places_turns
from bridgehold.protocol.places import MAX_INTEGER, MIN_INTEGER
from bridgehold.steps import finished

MAX_DEPTH = strict.CALLERS_DEPTH
_AS_IT_IS = (bool, type(None))
_HINTS = {"json": "Send JSON: RFC 8259, and nothing beside it.", "utf8": "Send UTF-8."}
_BOUNDS = f"Nest at most {MAX_DEPTH} deep, keep integers within 64 bits and keys unique."
_OWN_KEYS = "Give each a text of its own."
_KINDS = "Send text, numbers, lists or a dict."


def to_plain(value: Any, where: str, depth: int = 0) -> Any:
    """None, bool, int, float, str, list and dict of `value`.

    Tuples and sets become lists, subclasses their base, enums their value, dataclasses and msgspec's and
    pydantic's models objects, paths, UUIDs and decimals text, dates and times ISO 8601, numpy's scalars and
    arrays Python's. Raises `UsageError` for the rest, and for what raises while it is read.
    """
    if type(value) in _AS_IT_IS:
        return value
    try:
        return _plain(value, where, depth)
    except (BridgeholdError, MemoryError):
        raise
    except Exception as error:
        raise unreadable(value, where, error) from error


def unreadable(value: Any, where: str, error: Exception) -> UsageError:
    """Of a value whose own methods raise `error`."""
    name = f"{type(value).__module__}.{type(value).__qualname__}"
    return _refusal(where, f"a {name} can't be read: {error_text(error, 200)}", _KINDS)


def _plain(value: Any, where: str, depth: int) -> Any:  # noqa: PLR0911 - one for each kind
    if isinstance(value, Enum):
        return to_plain(value.value, where, depth)
    if isinstance(value, str):
        return _text(value, where)
    if isinstance(value, int):
        return _integer(int(value), where)
    if isinstance(value, float):
        return _float(float(value), where)
    if depth >= MAX_DEPTH:
        raise _refusal(where, f"nested deeper than {MAX_DEPTH}, or refers to itself", "Send it flatter.")
    if isinstance(value, (list, tuple)):
        return _list(value, where, depth)
    if isinstance(value, Mapping):
        return _object(value, where, depth)
    if isinstance(value, Set):
        return _list(_ordered(value), where, depth)
    if isinstance(value, (bytes, bytearray, memoryview)):
        raise _refusal(where, "bytes", "Send base64 text, or `put` them and send the artifact's digest.")
    if isinstance(value, (PurePath, uuid.UUID, Decimal)):
        return _text(str(value), where)
    return _other(value, where, depth)


def loads(data: bytes, *, above: int = 0, below: str = "", name: str = "") -> object:
    """The value of JSON that a caller wrote. `UsageError` where it can't arrive as it was sent.

    `above`: containers around those that `MAX_DEPTH` counts. Where a fault lies is told from the member
    `below` on, or else as a part of `name`.
    """
    return finished(loads_steps(data, above=above, below=below, name=name))


def loads_steps(
    data: bytes, *, above: int = 0, below: str = "", name: str = ""
) -> Generator[None, None, object]:
    """As `loads`, in turns."""
    depth = MAX_DEPTH + above
    try:
        return (yield from strict_turns.steps(data, max_depth=depth))
    except strict.StrictError as error:
        refused = error
    try:
        place, said, hint = yield from _found(data, refused, depth)
    except (ValueError, RecursionError):  # no JSON, whoever reads it
        place, said, hint = None, str(refused), _HINTS.get(refused.reason, _BOUNDS)
    if place is None:
        where = name if refused.reason not in ("json", "utf8") else ""
    elif below and place.steps[:1] != (below,):
        where = place.below("the request")
    else:
        where = (places.Place(place.steps[1:], of_key=place.of_key) if below else place).below(name)
    raise UsageError((f"{where[:200]}: {said}" if where else said)[:500], where=where[:200], hint=hint)


def _found(
    data: bytes, error: strict.StrictError, depth: int
) -> Generator[None, None, tuple[places.Place | None, str, str]]:
    """(place, what is wrong there, what to do)."""
    place, said = None, str(error)
    if error.reason == "utf8":
        place = yield from places_turns.before(data, error.at)
    elif error.reason == "depth":
        place, said = (yield from places_turns.deeper(data, depth)), f"nested deeper than {MAX_DEPTH}"
    elif error.reason == "duplicate_key":
        if (again := (yield from places_turns.repeated(data))) is not None:
            return again[0], f"two keys are both spelled {again[1][:80]!r}", _OWN_KEYS
    elif error.reason in ("json", "integer") and (wrong := (yield from places_turns.wrong(data))) is not None:
        try:
            to_plain(wrong.value, "")
        except UsageError as refusal:
            return wrong.place, refusal.message.removeprefix(": "), refusal.hint
    return place, said, _HINTS.get(error.reason, _BOUNDS)


def error_text(error: BaseException, most: int = 2_000) -> str:
    """Its type, text and hint, as UTF-8 has them; whatever its text does, there is one."""
    try:
        text = str(error)
    except BaseException:  # noqa: BLE001 - a `__str__` of somebody's own
        text = "(its text can't be had)"
    said = f"{type(error).__name__}: {text}" if text else type(error).__name__
    if isinstance(error, BridgeholdError) and error.hint:
        said += f" ({error.hint})"
    return said[:most].encode("utf-8", "backslashreplace").decode("utf-8")[:most]


def _other(value: Any, where: str, depth: int) -> Any:
    if isinstance(value, msgspec.Struct):
        return to_plain(msgspec.structs.asdict(value), where, depth)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return _object(fields, where, depth)
    if isinstance(value, (datetime.date, datetime.time)) and value == value:  # noqa: PLR0124 - NaT isn't itself
        return value.isoformat()
    if callable(getattr(value, "model_dump", None)) and not isinstance(value, type):
        return to_plain(value.model_dump(), where, depth + 1)
    native = getattr(value, "item" if getattr(value, "ndim", None) == 0 else "tolist", None)
    if getattr(getattr(value, "dtype", None), "kind", "m") not in "mM" and callable(native):
        plain = native()
        if type(plain) is not type(value):
            return to_plain(plain, where, depth + 1)
    name = f"{type(value).__module__}.{type(value).__qualname__}"
    raise _refusal(where, f"a {name} can't be sent", _KINDS)


def _list(values: Iterable[Any], where: str, depth: int) -> list[Any]:
    cells = list(values)
    kinds = set(map(type, cells))
    if kinds == {float} and all(map(math.isfinite, cells)):
        return cells
    if kinds == {int} and min(cells) >= MIN_INTEGER and max(cells) <= MAX_INTEGER:
        return cells
    return [to_plain(item, f"{where}[{index}]", depth + 1) for index, item in enumerate(cells)]


def _object(values: Mapping[Any, Any], where: str, depth: int) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for key, item in values.items():
        name = _key(key, where)
        if name in made:
            raise _refusal(where, f"two keys are both spelled {name!r}", _OWN_KEYS)
        made[name] = to_plain(item, f"{where}.{name}", depth + 1)
    return made


def _key(key: Any, where: str) -> str:
    if isinstance(key, Enum):
        return _key(key.value, where)
    if isinstance(key, str):
        return _text(key, f"a key of {where}")
    if isinstance(key, int) and not isinstance(key, bool):
        return str(int(key))
    raise _refusal(where, f"a key of type {type(key).__name__}", "Keys are text.")


def _text(value: str, where: str) -> str:
    plain = str.__str__(value)
    try:
        plain.encode("utf-8")
    except UnicodeEncodeError as error:
        raise _refusal(
            where,
            f"text with a lone surrogate at character {error.start}, which UTF-8 has none of",
            "Decode it with the encoding that it came in, or send base64 text.",
        ) from None
    return plain


def _integer(value: int, where: str) -> int:
    if not MIN_INTEGER <= value <= MAX_INTEGER:
        raise _refusal(where, "an integer beyond 64 bits", "Send it as text.")
    return value


def _float(value: float, where: str) -> float:
    if not math.isfinite(value):
        raise _refusal(where, f"{value}, which JSON has not", "Send null or text instead.")
    return value


def _ordered(values: Set[Any]) -> list[Any]:
    try:
        return sorted(values)
    except TypeError:
        return list(values)


def _refusal(where: str, what: str, hint: str) -> UsageError:
    return UsageError(f"{where[:200]}: {what}", where=where[:200], hint=hint)
