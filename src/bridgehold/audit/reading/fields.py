"""What can be asked about: every field of every event with its type, as `events` declares them (pure)."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator
from typing import Literal

import msgspec

from bridgehold.audit.chain import MAX_INTEGER, reference
from bridgehold.audit.entries import Entry
from bridgehold.audit.events import event_types, kind_of

Type = Literal["kind", "event", "time", "text", "name", "number", "flag", "list"]
Value = str | int | tuple[str, ...] | None
"""What an event has in a field. None: it has no such number or flag; a name that is missing is empty."""
TIES = ("tenant", "principal", "session", "command")
FRAMEWORK = "framework"
DROPPED = "dropped"
"""Of an event without its body: ``by seal``."""


class Field(msgspec.Struct, frozen=True):
    """One word that a question may use."""

    name: str
    type: Type
    kinds: tuple[str, ...] = ()
    """Of the events that have it; empty: all."""
    unit: str = ""
    """``ms``, ``us`` or ``bytes``, of a number."""


def _type(annotation: object) -> Type | None:
    origin = typing.get_origin(annotation)
    if origin in (types.UnionType, typing.Union):
        found = {_type(one) for one in typing.get_args(annotation)} - {None}
        return found.pop() if len(found) == 1 else None
    if origin is tuple:
        return "list" if typing.get_args(annotation)[0] is str else None
    kinds: dict[object, Type] = {str: "name", int: "number", bool: "flag"}
    return kinds.get(annotation)


def _declared() -> Iterator[Field]:
    """A field that is a number in one event and a name in another is a name."""
    kinds: dict[str, list[str]] = {}
    found: dict[str, set[Type]] = {}
    for event in event_types():
        hints = typing.get_type_hints(event)
        for name in event.__struct_fields__:
            if name not in TIES and (kind := _type(hints[name])) is not None:
                kinds.setdefault(name, []).append(kind_of(event))
                found.setdefault(name, set()).add(kind)
    for name, types_ in found.items():
        kind = types_.pop() if len(types_) == 1 else "name"
        unit = next((one for one in ("ms", "us", "bytes") if name == one or name.endswith(f"_{one}")), "")
        yield Field(name, kind, tuple(kinds[name]), unit if kind == "number" else "")


FIELDS: dict[str, Field] = {
    one.name: one
    for one in (
        Field("kind", "kind"),
        Field("event", "event"),
        Field("time", "time"),
        Field("text", "text"),
        Field(FRAMEWORK, "name"),
        Field(DROPPED, "name"),
        *(Field(name, "name") for name in TIES),
        *_declared(),
    )
}
"""By name. `framework` is the bridge of the event, or of the session that it belongs to."""
KINDS = tuple(kind_of(one) for one in event_types())


def value_of(entry: Entry, field: Field, framework: str) -> Value:
    """What `entry` has in `field`; what is of another type than declared, it hasn't."""
    name = field.name
    if name in ("tenant", "principal", "session", "command", "time", "kind"):
        return str(getattr(entry, name))
    if name == FRAMEWORK:
        return framework
    if name == "event":
        return reference(entry.instance, entry.seq)
    return typed(entry.fields.get(name), field.type)


def typed(value: object, kind: Type) -> Value:
    """A stored value as one of this type."""
    if kind == "list":
        return tuple(one for one in value if isinstance(one, str)) if isinstance(value, list) else ()
    if kind == "flag":
        return int(value) if isinstance(value, bool) else None
    whole = value if isinstance(value, int) and not isinstance(value, bool) else None
    whole = whole if whole is not None and abs(whole) <= MAX_INTEGER else None
    if kind == "number":
        return whole
    return value if isinstance(value, str) else "" if whole is None else str(whole)
