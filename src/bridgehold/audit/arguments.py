"""Keys in a caller's arguments: found under every usual name and in every place, and taken out (pure)."""

from __future__ import annotations

import binascii
import contextlib
import re

import msgspec

from bridgehold.audit.encodings import SHORTEST
from bridgehold.audit.redact import (
    LOGINS,
    LONGEST_NAME,
    LOUD,
    MASK,
    NO_LETTERS,
    SAYS,
    is_key_name,
    is_shape,
    is_token_name,
    looks_random,
    looks_secret,
    preview,
)
from bridgehold.errors import UsageError
from bridgehold.ids import Digest, digest_bytes

CONTENTS = "base64"
"""The argument that holds a file's bytes, of an operation whose manifest says ``contents = true``."""
_DEEPEST = 128
_MOST_VALUES = 16
"""Different keys of one request that are looked for in its other texts; with more, nothing of it is shown."""
_SHOWN_WHOLE, _SHOWN_DEEP = 4_096, 32
"""Bytes of arguments, and levels, within which `preview` surely cuts nothing."""
_LONGEST = 8 * 1024
"""Of a key; a longer text is looked for none."""
_PLACEHOLDER = re.compile(r"sk-bh-[A-Za-z0-9_-]{1,200}")
_SCHEME = re.compile(r"(?:bearer|basic|token|apikey) +", re.IGNORECASE)
_ORDINARY = frozenset(
    ["token", "tokens", "secret", "secrets", "credential", "credentials", "cookie", "cookies"]
)
"""Names of keys that are words as well: what stands there must look like one."""
_SURE, _MAYBE = 8, 16
_GONE = object()
_Path = tuple[str, ...]
_NAMING = ("name", "key", "header", "field", "k", "n", "var", "variable", "env", "param", "parameter")
_VALUES = ("value", "values", "v", "val")
_FLAG = re.compile(r"--?[A-Za-z][A-Za-z0-9_.-]{1,63}")
_ASSIGNED = re.compile(r"(?:--?)?([A-Za-z][A-Za-z0-9_.-]{1,63})(?:=|:[ ]?)(.+)", re.DOTALL)
_WITH_HEADER = ("-H", "--header")
_NOT_ITSELF = ("$", "%", "<", "{", "@")
"""What begins so is where the value comes from, or where it goes, and not the value."""


class Arguments(msgspec.Struct, frozen=True, kw_only=True):
    """`kept` has every inline key replaced; `keys` holds (path, value) of what was taken out."""

    kept: dict[str, object]
    keys: tuple[tuple[tuple[str, ...], str], ...] = ()
    quiet: bool = False
    """Nothing in them is a key, or looks like one or the name of one (`is_quiet`)."""
    contents: str | None = None
    """A file's bytes, sent on as `CONTENTS` beside `kept`: not looked through for keys, and never shown."""

    @property
    def sent(self) -> dict[str, object]:
        """What goes on to the guest: `kept`, and a file's bytes."""
        return self.kept if self.contents is None else {**self.kept, CONTENTS: self.contents}

    def __repr__(self) -> str:
        return f"Arguments({len(self.kept)} kept, {len(self.keys)} inline keys)"


def split_keys(arguments: dict[str, object]) -> Arguments:
    """What is a key in `arguments`, and all that is not (pure).

    A key stands under a name of keys, alone, in a list or in a table; beside such a name in a pair, or with
    it in a list of arguments or variables; or under any name, where its own form says so. What stands within
    a longer text stays there: taken out, the text is another. `UsageError` where they nest deeper than is
    looked at.
    """
    if is_quiet(arguments):
        return Arguments(kept=arguments, quiet=True)
    search = _Search()
    kept = search.walk(arguments, (), least=0)
    assert isinstance(kept, dict)  # noqa: S101 - a dict walks to a dict
    return Arguments(kept=kept, keys=tuple(search.found))


def split_contents(arguments: dict[str, object]) -> Arguments:
    """As `split_keys`, of an operation that takes a file's bytes: these stay as they are."""
    rest, contents = without_contents(arguments)
    split = split_keys(rest)
    return split if contents is None else msgspec.structs.replace(split, contents=contents)


def is_quiet(arguments: object) -> bool:
    """Whether it is plain JSON in which nothing stands that could be a key, or the name of one.

    One look, as most arguments are so: `preview` then shows them as they are. What stands in a list, or
    under a key of `_NAMING`, may be a name however long it is.
    """
    left, depth = [arguments], 0
    while left and depth <= _SHOWN_DEEP:
        names: list[object] = []
        below: list[object] = []
        for value in left:
            if isinstance(value, dict):
                names += value.keys()
                below += value.values()
                names += [
                    item
                    for key, item in value.items()
                    if isinstance(item, str) and (len(item) <= LONGEST_NAME or str(key).lower() in _NAMING)
                ]
            elif isinstance(value, (list, tuple)):
                below += value
                names += [item for item in value if isinstance(item, str)]
            elif isinstance(value, str):
                if LOUD.search(value) or value in LOGINS:
                    return False
            elif value is not None and not isinstance(value, (int, float)):
                return False
        for name in names:
            if (
                not isinstance(name, str)
                or SAYS.search(NO_LETTERS.sub("", name.lower()))
                or LOUD.search(name)
            ):
                return False
        left, depth = below, depth + 1
    return not left


class _Search:
    """One walk over arguments. `found` holds (path, value) of each key."""

    def __init__(self) -> None:
        self.found: list[tuple[_Path, str]] = []
        self._depth = 0

    def walk(self, value: object, path: _Path, *, least: int) -> object:
        """`value` without keys; `_GONE` where it is one itself. `least`: as `_least`, of a name above it."""
        if isinstance(value, (str, bytes)):  # bytes: of a foreign script's wire
            text = value if isinstance(value, str) else value.decode("latin-1")
            if not _is_key(text, path[-1], least=least):
                return value
            self.found.append((path, _SCHEME.sub("", text.strip(), count=1)))
            return _GONE
        if not isinstance(value, (dict, list)):
            return value
        self._depth += 1
        if self._depth > _DEEPEST:
            raise UsageError(f"arguments nest deeper than {_DEEPEST}")
        kept = self._table(value, path, least) if isinstance(value, dict) else self._list(value, path, least)
        self._depth -= 1
        return kept

    def _list(self, value: list[object], path: _Path, least: int) -> list[object]:
        match value:
            case [str(name), str(text)] if below := _least(name):
                kept = self.walk(text, (*path, name), least=below)
                return [name] if kept is _GONE else value
        left: list[object] = []
        for item in value:
            before = left[-1] if left and isinstance(left[-1], str) else ""
            flag = before if _FLAG.fullmatch(before) else ""
            if isinstance(item, str) and len(item) <= _LONGEST:
                said = _ASSIGNED.fullmatch(item)
                if self._is_argument(flag, item, path):
                    left.pop()  # it would take what comes after it for its value
                    continue
                if said is not None and self._is_argument(said[1], said[2], path):
                    if flag in _WITH_HEADER:
                        left.pop()
                    continue
            walked = self.walk(item, path, least=least)
            if walked is not _GONE:
                left.append(walked)
        return left

    def _is_argument(self, name: str, value: str, path: _Path) -> bool:
        """Whether `value` is a key that an item of a list says of `name`, or the item after a flag."""
        bare = _SCHEME.sub("", value.strip(), count=1)
        if not _least(name) or bare.startswith(_NOT_ITSELF) or _PLACEHOLDER.fullmatch(bare):
            return False
        sure = is_key_name(name) and name.strip("-").lower() not in _ORDINARY
        if not (is_shape(value) or (looks_secret(bare, _SURE) if sure else looks_random(bare))):
            return False
        self.found.append(((*path, name.lstrip("-")), bare))
        return True

    def _table(self, value: dict[str, object], path: _Path, least: int) -> dict[str, object]:
        kept: dict[str, object] = {}
        said = next(
            (
                name
                for one, name in value.items()
                if isinstance(one, str) and one.lower() in _NAMING and isinstance(name, str) and _least(name)
            ),
            "",
        )
        for key, item in value.items():
            if not isinstance(key, str):  # of a foreign script's wire
                kept[key] = self.walk(item, (*path, str(key)), least=least)
                continue
            if is_shape(key[:_LONGEST]):
                self.found.append(((*path, "…"), key.strip()))
                continue
            name = said if said and key.lower() in _VALUES else key
            walked = self.walk(item, (*path, name), least=least or _least(name))
            if walked is not _GONE:
                kept[key] = walked
        return kept


def facts_of(contents: str) -> str:
    """What the audit says of a file's bytes: how many, and their digest; of what is no base64, the text's."""
    data = _bytes_of(contents)
    data = contents.encode("utf-8", "backslashreplace") if data is None else data
    return f"{len(data)} bytes, {digest_bytes(data)}"


def without_contents(arguments: dict[str, object]) -> tuple[dict[str, object], str | None]:
    """`arguments` without a file's bytes, and these; None where no base64 stands in their place (pure)."""
    contents = arguments.get(CONTENTS)
    if not isinstance(contents, str) or _bytes_of(contents) is None:
        return arguments, None
    return {name: item for name, item in arguments.items() if name != CONTENTS}, contents


def _bytes_of(contents: str) -> bytes | None:
    try:
        return binascii.a2b_base64(contents, strict_mode=True)
    except ValueError:
        return None


def without_keys(arguments: dict[str, object]) -> dict[str, object]:
    """`arguments` as the audit may show them, whatever was wrong with them (pure)."""
    try:
        split = split_keys(arguments)
    except UsageError as error:
        return {"…": error.message}
    values = {value for _, value in split.keys if len(value) >= SHORTEST}
    if len(values) > _MOST_VALUES:
        return {"…": f"{len(values)} keys"}
    if not values:
        return split.kept
    found = re.compile("|".join(re.escape(value) for value in sorted(values, key=len, reverse=True)))
    return {name: _replaced(item, found) for name, item in split.kept.items()}


def preview_of(arguments: Arguments, cap_bytes: int) -> tuple[Digest, int, str]:
    """As `preview`: digest and size of all of it, and a text without keys, where they may pass too (pure)."""
    if arguments.contents is not None:
        kept = {**arguments.kept, CONTENTS: facts_of(arguments.contents)}
        digest, size, text = preview_of(
            msgspec.structs.replace(arguments, kept=kept, contents=None), cap_bytes
        )
        return digest, size + len(arguments.contents), text
    if arguments.quiet:
        with contextlib.suppress(UnicodeEncodeError):  # lone surrogates
            encoded = msgspec.json.encode(arguments.kept, order="sorted")
            if len(encoded) <= min(cap_bytes, _SHOWN_WHOLE):
                return digest_bytes(encoded), len(encoded), encoded.decode()
    digest, size, text = preview(arguments.kept, cap_bytes=cap_bytes)
    if arguments.quiet:
        return digest, size, text
    clean = without_keys(arguments.kept)
    return digest, size, text if clean == arguments.kept else preview(clean, cap_bytes=cap_bytes)[2]


def _replaced(kept: object, found: re.Pattern[str]) -> object:
    """`kept` without the values that `found` finds where they stand in a text, too."""
    if isinstance(kept, str):
        return found.sub(MASK, kept)
    if isinstance(kept, dict):
        return {name: _replaced(item, found) for name, item in kept.items()}
    return [_replaced(item, found) for item in kept] if isinstance(kept, list) else kept


def _is_key(value: str, name: str, *, least: int) -> bool:
    if not value or len(value) > _LONGEST or _PLACEHOLDER.fullmatch(value):
        return False
    if is_shape(value):
        return True
    if is_key_name(name) and name.lower() not in _ORDINARY:
        return True
    least = _least(name) or least
    return least > 0 and not is_key_name(value) and looks_secret(value, least)


def _least(name: str) -> int:
    """How long a value under `name` is that could be a key; 0 where none is looked for."""
    return _SURE if is_key_name(name) else _MAYBE if is_token_name(name) else 0


def shown(path: tuple[str, ...]) -> str:
    """Where a key stands, for people."""
    return ".".join(one[:80] for one in path)[:200]
