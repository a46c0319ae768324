"""Results to what the wire carries: bounded, finite, with a message that says where it isn't."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Set
from enum import Enum
from typing import Any

from bridgehold_sdk.errors import NotPlain

MAX_DEPTH = 60
"""Containers inside one another in a result; the wire's own bound lies a little above."""
MAX_VALUES = 900_000

_PARTS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9, "ps": 10**12, "fs": 10**15, "as": 10**18}
_TIMES = {"m": 60, "h": 3_600, "D": 86_400, "W": 604_800}
"""numpy's units of duration: how many are a second; how many seconds they are. Years are neither."""
_MIN_INTEGER = -(2**63)
_MAX_INTEGER = 2**64 - 1
_TEXT = (("pathlib", "PurePath"), ("uuid", "UUID"), ("decimal", "Decimal"))
"""By name: a value of such a type can only be there if its module was imported, so we need not."""


def to_plain(value: object) -> Any:
    """`value` as None, bool, int, float, str, list and dict.

    Tuples and sets become lists (sets sorted where they can be), dataclasses and pydantic models
    become objects, enums their value, paths, UUIDs and decimals text, numpy's scalars and arrays
    Python's. Dates and times become ISO 8601 text to their last digit, durations seconds, whichever
    library they are of. NaN, NaT, infinities, bytes, integers beyond 64 bits, durations that a float
    of seconds can't tell from others, halves of surrogate pairs, and anything else raise `NotPlain` with the
    place and the remedy.
    """
    return _Converter().convert(value, "result", 0)


def clean_text(text: str) -> str:
    """`text` as it is shown: lone surrogates spelled out, because UTF-8 has none; never a subclass."""
    text = str.__str__(text)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode("utf-8")
    return text


class _Converter:
    def __init__(self) -> None:
        self._left = MAX_VALUES

    def convert(self, value: Any, where: str, depth: int) -> Any:
        self._left -= 1
        if self._left < 0:
            raise NotPlain(f"the result holds more than {MAX_VALUES} values; return less, or stream it")
        if value is None or value is True or value is False:
            return value
        kind = type(value)
        if kind is str:
            return value if value.isascii() else _sent(value, where)
        if kind is int:
            return _integer(value, where)
        if kind is float:
            return _finite(value, where)
        if depth > MAX_DEPTH:
            raise NotPlain(f"{where[:200]}: nested deeper than {MAX_DEPTH}, or refers to itself")
        return self._compound(value, where, depth)

    def _compound(self, value: Any, where: str, depth: int) -> Any:  # noqa: PLR0911 - one for each kind
        if isinstance(value, Mapping):
            return self._object(value, where, depth)
        if isinstance(value, (list, tuple)):
            return self._list(value, where, depth)
        if isinstance(value, Set):
            return self._list(_ordered(value), where, depth)
        if isinstance(value, Enum):
            return self.convert(value.value, where, depth + 1)
        if isinstance(value, (str, int, float)):
            return self.convert(_base(value), where, depth + 1)
        if isinstance(value, (bytes, bytearray, memoryview)):
            raise NotPlain(f"{where}: bytes can't cross the wire; return base64 text")
        if isinstance(value, type):
            raise _not_plain(value, where)
        if hasattr(value, "__dataclass_fields__"):
            import dataclasses  # there already, or there were no such value

            fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
            return self._object(fields, where, depth)
        if _is_text(value):
            return _sent(str(value), where)
        return self._foreign(value, where, depth)

    def _foreign(self, value: Any, where: str, depth: int) -> Any:
        """By shape: numpy's scalars and arrays, durations, dates, pydantic's models."""
        dimensions = getattr(value, "ndim", None)
        kind = getattr(getattr(value, "dtype", None), "kind", "")
        if kind in ("m", "M"):  # told by itself, or by its cells: as Python's own they would lose their unit
            if dimensions:
                return self._list(list(value), where, depth)
            scalar = value[()]
            return _seconds(scalar, where) if kind == "m" else _moment(scalar, str(scalar), where)
        if kind or dimensions is not None:
            size = getattr(value, "size", None)
            if dimensions and isinstance(size, int) and size > self._left:  # before there is a list of it
                raise NotPlain(f"{where}: an array of {size} values; return less, or stream it")
            native = getattr(value, "item" if dimensions == 0 else "tolist", None)
            plain = native() if callable(native) else value
            if type(plain) is not type(value):  # numpy's widest numbers are their own
                return self.convert(plain, where, depth + 1)
        if callable(getattr(value, "total_seconds", None)):
            return _seconds(getattr(value, "asm8", value), where)
        if callable(getattr(value, "isoformat", None)):
            return _moment(value, value.isoformat(), where)
        if callable(getattr(value, "model_dump", None)):
            return self.convert(value.model_dump(), where, depth + 1)
        raise _not_plain(value, where)

    def _list(self, values: Iterable[Any], where: str, depth: int) -> list[Any]:
        return [self.convert(item, f"{where}[{index}]", depth + 1) for index, item in enumerate(values)]

    def _object(self, value: Mapping[Any, Any], where: str, depth: int) -> dict[str, Any]:
        plain: dict[str, Any] = {}
        for key, item in value.items():
            name = _key(key, where)
            if name in plain:
                raise NotPlain(f"{where}: two keys are both spelled {name!r}")
            plain[name] = self.convert(item, f"{where}.{name}", depth + 1)
        return plain


def _not_plain(value: Any, where: str) -> NotPlain:
    kind = value if isinstance(value, type) else type(value)
    return NotPlain(
        f"{where}: {kind.__module__}.{kind.__qualname__} can't cross the wire; "
        "return text, numbers, lists or a dict"
    )


def _is_text(value: object) -> bool:
    for module, name in _TEXT:
        kind = getattr(sys.modules.get(module), name, None)
        if isinstance(kind, type) and isinstance(value, kind):
            return True
    return False


def _key(key: object, where: str) -> str:
    if isinstance(key, str):
        return _sent(str(key), f"a key of {where}")
    if isinstance(key, Enum):
        return _key(key.value, where)
    if isinstance(key, (int, float)) and not isinstance(key, bool):
        return str(key)
    item = getattr(key, "item", None)
    if callable(item) and getattr(key, "ndim", None) == 0:
        return _key(item(), where)
    raise NotPlain(f"{where}: a key of type {type(key).__name__}; keys are text")


def _sent(text: str, where: str) -> str:
    """A value's own text: what it would have to be spelled with is no longer the value."""
    text = str.__str__(text)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise NotPlain(
            f"{where}: text with a lone surrogate at character {error.start}, which UTF-8 has none of; "
            "decode it with the encoding that it came in, or return base64 text"
        ) from None
    return text


def _integer(value: int, where: str) -> int:
    if not _MIN_INTEGER <= value <= _MAX_INTEGER:
        raise NotPlain(f"{where}: an integer beyond 64 bits; return it as text")
    return value


def _finite(value: float, where: str) -> float:
    if not math.isfinite(value):
        raise NotPlain(f"{where}: {value} is no JSON; return None or text instead")
    return value


def _moment(value: Any, text: str, where: str) -> str:
    """ISO 8601, unless it is no moment: NaT, the one that differs from itself."""
    if value != value:  # noqa: PLR0124 - what NaT is known by
        raise NotPlain(f"{where}: NaT is no JSON; return None instead")
    return text


def _seconds(value: Any, where: str) -> float:
    """A duration's seconds: the float from which its own count of units comes back."""
    if value != value:  # noqa: PLR0124 - what NaT is known by
        raise NotPlain(f"{where}: NaT is no JSON; return None instead")
    if hasattr(value, "dtype"):
        unit = str(value.dtype).partition("[")[2].rstrip("]")  # "ns", "25us"; empty where it has none
        name = unit.lstrip("0123456789")
        ticks = int(value.astype("int64")) * int(unit[: len(unit) - len(name)] or 1)
        if name not in _PARTS and name not in _TIMES:
            raise NotPlain(f"{where}: a duration in {unit or 'no unit'} has no seconds; return it as text")
        times, parts = _TIMES.get(name, 1), _PARTS.get(name, 1)
    else:
        ticks = (value.days * 86_400 + value.seconds) * 10**6 + value.microseconds
        times, parts = 1, 10**6
    seconds = ticks * times / parts
    over, under = seconds.as_integer_ratio()
    if (2 * over * parts + under) // (2 * under) != ticks * times:
        raise NotPlain(f"{where}: no float holds this duration's seconds; return it as text")
    return seconds


def _base(value: Any) -> Any:
    """A subclass of str, int or float (numpy's float64 is one) as the plain type."""
    for kind in (str, int, float):
        if isinstance(value, kind):
            return kind(value)
    return value


def _ordered(values: Any) -> list[Any]:
    try:
        return sorted(values)
    except TypeError:
        return list(values)
