"""The tables of ``config.toml``: what has one form, and how they are read, with every fault named at once."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeGuard, TypeVar, get_args, get_origin

import msgspec
from msgspec import Meta

Size = Annotated[str, Meta(pattern=r"^[0-9]{1,15}(\.[0-9]{1,15})? ?(B|KiB|MiB|GiB|TiB)\Z")]
Uid = Annotated[int, Meta(ge=0, lt=2**32 - 1)]
_NAME = r"[a-z][a-z0-9_-]{0,62}"
Name = Annotated[str, Meta(pattern=rf"^{_NAME}\Z")]
NameOrAll = Annotated[str, Meta(pattern=rf"^({_NAME}|\*)\Z")]
NameOrNone = Annotated[str, Meta(pattern=rf"^({_NAME})?\Z")]
Folder = Annotated[str, Meta(pattern=r"^/")]


class Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table that refuses unknown keys, and never changes.

    What a type can't say is in `checks`, by key, and in ``__post_init__``; both raise `ValueError`.
    """

    forms: ClassVar[Mapping[str, Callable[[Any], Any]]] = {}
    """Of a key that may be written in more than one form: gives the one that its type has."""
    checks: ClassVar[Mapping[str, Callable[[Any], Any]]] = {}


class Fault(msgspec.Struct, frozen=True):
    """What is wrong with one key; never its value."""

    place: tuple[str, ...]
    what: str
    unknown: bool = False
    """There is no such key."""


S = TypeVar("S", bound=Strict)


class FaultsError(ValueError):
    """All that is wrong with a table."""

    def __init__(self, faults: list[Fault]) -> None:
        super().__init__("; ".join(f"{'.'.join(one.place)}: {one.what}" for one in faults))
        self.faults = faults


def read_table(kind: type[S], said: object, place: tuple[str, ...] = ()) -> S:
    """`said`, as TOML has it, as a `kind`. Raises `FaultsError`."""
    if not isinstance(said, dict):
        raise FaultsError([Fault(place, "a table is expected")])
    fields = {field.name: field for field in msgspec.structs.fields(kind)}
    faults = [Fault((*place, name), "unknown key", unknown=True) for name in said if name not in fields]
    found: dict[str, Any] = {}
    for name, field in fields.items():
        try:
            if name in said:
                value = kind.forms.get(name, _same)(said[name])
                found[name] = _read(field.type, value, (*place, name))
                kind.checks.get(name, _same)(found[name])
            elif field.required:
                raise ValueError("is required")  # noqa: TRY301 - one place where a fault is written down
        except FaultsError as error:
            faults += error.faults
        except ValueError as error:
            faults.append(Fault((*place, name), str(error)))
    if not faults:
        try:
            return kind(**found)
        except ValueError as error:
            faults.append(Fault(place, str(error)))
    raise FaultsError(faults)


def is_table(kind: object) -> TypeGuard[type[Strict]]:
    """Whether a key of this type holds a table of its own."""
    return isinstance(kind, type) and issubclass(kind, Strict)


def _same(value: Any) -> Any:
    return value


def _read(kind: Any, said: object, place: tuple[str, ...]) -> object:
    if is_table(kind):
        return read_table(kind, said, place)
    if get_origin(kind) is dict and is_table(get_args(kind)[1]) and isinstance(said, dict):
        names, below = get_args(kind)
        return _read_tables(names, below, said, place)
    try:
        return msgspec.convert(said, kind)
    except msgspec.ValidationError as error:
        text, _, below = str(error).partition(" - at ")
        inner = re.findall(r"\[([0-9]+)\]", below)  # of a list; what is wrong in a mapping has no name there
        raise FaultsError([Fault((*place, *inner), _explain(kind, text))]) from None


def _read_tables(
    names: Any, kind: type[Strict], said: dict[object, object], place: tuple[str, ...]
) -> dict[str, Strict]:
    """Tables by their names, each of one kind."""
    found, faults = {}, []
    for name, table in said.items():
        try:
            found[str(name)] = read_table(kind, table, (*place, str(name)))
            msgspec.convert(name, names)
        except FaultsError as error:
            faults += error.faults
        except msgspec.ValidationError as error:
            faults.append(Fault((*place, str(name)), f"as its name {_explain(names, str(error))}"))
    if faults:
        raise FaultsError(faults)
    return found


_WORDS = {
    "bool": "true or false",
    "int": "a number",
    "float": "a number",
    "str": "a text",
    "array": "a list",
    "object": "a table",
}


def _explain(kind: Any, text: str) -> str:
    """What msgspec says, in our words and without the value."""
    if text.startswith("Invalid enum value"):
        parts = [kind, *get_args(kind)]
        choices = [repr(one) for part in parts if get_origin(part) is Literal for one in get_args(part)]
        return f"one of {', '.join(choices)} is expected"
    if found := re.fullmatch(r"Expected `([a-z| ]+)`(?:, got .*|(.*))", text, re.DOTALL):
        kinds = dict.fromkeys(_WORDS.get(one, one) for one in found[1].split(" | "))
        return f"{' or '.join(kinds)}{found[2] or ''} is expected"
    return text
