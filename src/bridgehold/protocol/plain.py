"""A caller's values as JSON has them: converted where nothing is lost, or refused with place and remedy.

The encoder proper would write null for NaN, base64 for bytes, and whatever it finds for a subclass; so what
it is given is looked at first (`to_plain`). Arguments, a tool's results and resources' arguments all pass
here. JSON that a caller has written itself is read by the same rules (`loads`): over the socket, HTTP,
standard input and the command line a value arrives as it was sent, or is refused in the same words.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
import uuid
from collections.abc import Iterable, Iterator, Mapping, Set
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import Any

import msgspec

from bridgehold import strict
from bridgehold.errors import BridgeholdError, UsageError

MAX_DEPTH = strict.CALLERS_DEPTH
MIN_INTEGER, MAX_INTEGER = -(2**63), 2**64 - 1
_AS_IT_IS = (bool, type(None))
LOOKED_AT = 32 * 1024
"""Bytes of JSON in which a fault is looked for value by value, which takes some fifty times as long."""
_STEPS, _MOST_PARTS = 6, 20_000
"""Containers opened on the way to so small a part, and how much one may hold: as long as they have
little, each takes about as long as reading it did.
"""
_LONGEST_DIGITS = 40
_HINTS = {"json": "Send JSON: RFC 8259, and nothing beside it.", "utf8": "Send UTF-8."}
_OWN_KEYS = "Give each a text of its own."


def to_plain(value: Any, where: str, depth: int = 0) -> Any:  # noqa: PLR0911 - one for each kind
    """None, bool, int, float, str, list and dict of `value`.

    Tuples and sets become lists, subclasses their base, enums their value, dataclasses and msgspec's and
    pydantic's models objects, paths, UUIDs and decimals text, dates and times ISO 8601, numpy's scalars and
    arrays Python's. Raises `UsageError` for the rest.
    """
    kind = type(value)
    if kind in _AS_IT_IS:
        return value
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
    try:
        return strict.loads(data, max_depth=MAX_DEPTH + above)
    except strict.StrictError as error:
        raise _explained(data, error, below, name) from None


def _explained(data: bytes, error: strict.StrictError, below: str, name: str) -> UsageError:
    if error.reason not in ("utf8", "values") and not below:
        data, name, error = _narrowed(data, error, name)
    if len(data) <= LOOKED_AT:
        try:
            found = json.loads(data, object_pairs_hook=_Pairs, parse_int=_read_integer)
            to_plain(found, name) if name else _look_below(found, below)
        except UsageError as placed:
            return placed
        except (ValueError, RecursionError):
            pass  # no JSON, whoever reads it
    hint = f"Nest at most {MAX_DEPTH} deep, keep integers within 64 bits and keys unique."
    said = f"{name[:200]}: {error}" if name and error.reason not in ("json", "utf8") else str(error)
    return UsageError(said[:500], where=name[:200], hint=_HINTS.get(error.reason, hint))


def _narrowed(data: bytes, error: strict.StrictError, name: str) -> tuple[bytes, str, strict.StrictError]:
    """A part of `data` that has the fault too, its place, and what is wrong with it by itself."""
    for step in range(1, _STEPS + 1):
        if len(data) <= LOOKED_AT:
            break
        keys, parts = _parts(data)
        found = _first_wrong(parts, MAX_DEPTH - step) if 0 < len(parts) <= _MOST_PARTS else None
        if found is None:
            break
        index, error = found
        key = f".{keys[index]}" if keys else f"[{index}]"
        data, name = bytes(parts[index]), f"{name}{key}".removeprefix(".")
    return data, name, error


def _parts(data: bytes) -> tuple[list[str], list[msgspec.Raw]]:
    """What is directly inside of an object, by key, or of an array, without; nothing of what is neither."""
    try:
        if data.lstrip()[:1] == b"[":
            return [], msgspec.json.decode(data, type=list[msgspec.Raw])
        members = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return [], []
    return list(members), list(members.values())


def _first_wrong(parts: list[msgspec.Raw], depth: int) -> tuple[int, strict.StrictError] | None:
    """The first that strict JSON doesn't take, found by halves; None where each by itself is fine."""
    low, high = 0, len(parts)
    error = _wrong(parts, depth)
    while error is not None and high - low > 1:
        middle = (low + high) // 2
        wrong = _wrong(parts[low:middle], depth)
        low, high = (low, middle) if wrong is not None else (middle, high)
        error = wrong or _wrong(parts[low:high], depth)
    return None if error is None else (low, error)


def _wrong(parts: list[msgspec.Raw], depth: int) -> strict.StrictError | None:
    try:
        strict.loads(b"[%b]" % b",".join(map(bytes, parts)), max_depth=depth + 1)
    except strict.StrictError as error:
        return error
    return None


def _look_below(value: object, below: str) -> None:
    """Raises the `UsageError` of what can't be sent, its place told from the member `below` on."""
    if not isinstance(value, Mapping):
        return
    seen: set[str] = set()
    for key, item in value.items():
        if key in seen:
            raise _refusal("the request", f"two keys are both spelled {key[:80]!r}", _OWN_KEYS)
        seen.add(key)
        if key == below:
            _look_below(item, "")
        else:
            to_plain(item, _key(key, "the request"))


class _Pairs(Mapping[str, Any]):
    """An object with every pair that was written, so that a key which stands twice can be told."""

    def __init__(self, pairs: Iterable[tuple[str, Any]]) -> None:
        self._pairs = list(pairs)

    def items(self) -> Any:
        return self._pairs

    def __iter__(self) -> Iterator[str]:
        return (key for key, _ in self._pairs)

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, key: str) -> Any:
        return dict(self._pairs)[key]


def _read_integer(digits: str) -> int:
    return int(digits[:_LONGEST_DIGITS])  # beyond 64 bits whatever follows


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
    raise _refusal(where, f"a {name} can't be sent", "Send text, numbers, lists or a dict.")


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
