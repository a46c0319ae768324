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

_MIN_INTEGER = -(2**63)
_MAX_INTEGER = 2**64 - 1
_TEXT = (("pathlib", "PurePath"), ("uuid", "UUID"), ("decimal", "Decimal"))
"""By name: a value of such a type can only be there if its module was imported, so we need not."""


def to_plain(value: object) -> Any:
    """`value` as None, bool, int, float, str, list and dict.

    Tuples and sets become lists (sets sorted where they can be), dataclasses and pydantic models
    become objects, enums their value, dates ISO 8601, paths, UUIDs and decimals text, numpy's
    scalars and arrays Python's. NaN, infinities, bytes, integers beyond 64 bits and anything else
    raise `NotPlain` with the place and the remedy.
    """
    return _Converter().convert(value, "result", 0)


def clean_text(text: str) -> str:
    """`text` with lone surrogates spelled out, because UTF-8 has none."""
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
            return clean_text(value)
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
            return clean_text(str(value))
        return self._foreign(value, where, depth)

    def _foreign(self, value: Any, where: str, depth: int) -> Any:
        """By shape: dates, durations, pydantic's models, numpy's scalars and arrays."""
        for method in ("isoformat", "total_seconds", "model_dump"):
            if callable(getattr(value, method, None)):
                return self.convert(getattr(value, method)(), where, depth + 1)
        if hasattr(value, "dtype") or hasattr(value, "ndim"):
            native = getattr(value, "item" if getattr(value, "ndim", None) == 0 else "tolist", None)
            if callable(native):
                return self.convert(native(), where, depth + 1)
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
        return clean_text(str(key))
    if isinstance(key, Enum):
        return _key(key.value, where)
    if isinstance(key, (int, float)) and not isinstance(key, bool):
        return str(key)
    item = getattr(key, "item", None)
    if callable(item) and getattr(key, "ndim", None) == 0:
        return _key(item(), where)
    raise NotPlain(f"{where}: a key of type {type(key).__name__}; keys are text")


def _integer(value: int, where: str) -> int:
    if not _MIN_INTEGER <= value <= _MAX_INTEGER:
        raise NotPlain(f"{where}: an integer beyond 64 bits; return it as text")
    return value


def _finite(value: float, where: str) -> float:
    if not math.isfinite(value):
        raise NotPlain(f"{where}: {value} is no JSON; return None or text instead")
    return value


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
