"""Keys in a caller's arguments: found under every usual name and in every place, and taken out (pure).

Arguments may hold a million values, and everybody's loop looks through them: the look is a generator that
stops after `TURN` values, and what is shown is made of as much of them as can be shown at all.
"""

from __future__ import annotations

import binascii
import contextlib
import re
from collections.abc import Generator, Iterable

import msgspec

from bridgehold.audit.argument_search import DEEPEST, LONGEST, NAMING, TEXT, TURN, Search
from bridgehold.audit.encodings import SHORTEST
from bridgehold.audit.key_names import (
    LONGEST_NAME,
    NO_LETTERS,
    SAYS,
)
from bridgehold.audit.key_shapes import MARKS
from bridgehold.audit.key_texts import LOGINS
from bridgehold.audit.preview import MARGIN, digest_of, preview_text
from bridgehold.audit.redact import LOUD, may_fold
from bridgehold.audit.searching import MASK
from bridgehold.errors import LimitError, UsageError
from bridgehold.ids import Digest, digest_bytes
from bridgehold.steps import finished, in_turns

CONTENTS = "base64"
"""The argument that holds a file's bytes, of an operation whose manifest says ``contents = true``."""
_STAND_IN = 4 * 1024
"""Characters in the place of a file's bytes, where these are judged: all alike, and bounded before."""
_MOST_VALUES = 16
"""Different keys of one request that are looked for in its other texts; with more, nothing of it is shown."""
_SHOWN_WHOLE, _SHOWN_DEEP = 4_096, 32
"""Bytes of arguments, and levels, within which `preview` surely cuts nothing."""
_LOWER = bytes(range(256)).lower()
_NO_LETTERS = bytes(one for one in range(256) if not bytes([one]).isalpha())
_ESCAPES = (rb"\\", rb"\"", rb"\n", rb"\r", rb"\t", rb"\b", rb"\f")
_LOGINS = tuple(f'"{one}"'.encode() for one in LOGINS)
_ALL = 1 << 62


class Arguments(msgspec.Struct, frozen=True, kw_only=True):
    """`kept` has every inline key replaced; `keys` holds (path, value) of what was taken out."""

    kept: dict[str, object]
    keys: tuple[tuple[tuple[str, ...], str], ...] = ()
    quiet: bool = False
    """Nothing in them is a key, or looks like one or the name of one (`is_quiet`)."""
    hidden: tuple[str, ...] = ()
    """Keys that stand in `kept` all the same: they go on, and are not shown."""
    contents: bytes | str | None = None
    """A file's bytes, or the base64 of them, sent on as `CONTENTS` beside `kept`: not looked through for
    keys, and never shown."""

    @property
    def sent(self) -> dict[str, object]:
        """What goes on to the guest: `kept`, and a file's bytes."""
        return self.kept if self.contents is None else {**self.kept, CONTENTS: self.contents}

    def __repr__(self) -> str:
        return f"Arguments({len(self.kept)} kept, {len(self.keys)} inline keys)"


def facts_of(contents: bytes | str) -> str:
    """What the audit says of a file's bytes: how many, and their digest; of what is no base64, the text's."""
    data = contents if isinstance(contents, bytes) else _bytes_of(contents)
    if data is None:
        data = str(contents).encode("utf-8", "backslashreplace")
    return f"{len(data)} bytes, {digest_bytes(data)}"


def without_contents(arguments: dict[str, object]) -> tuple[dict[str, object], bytes | str | None]:
    """`arguments` without a file's bytes, and these; None where no base64 stands in their place (pure)."""
    contents = arguments.get(CONTENTS)
    if not isinstance(contents, bytes) and (not isinstance(contents, str) or _bytes_of(contents) is None):
        return arguments, None
    return {name: item for name, item in arguments.items() if name != CONTENTS}, contents


def as_text(arguments: dict[str, object]) -> dict[str, object]:
    """The same as JSON has it: bytes that came beside it are base64 (pure)."""
    contents = arguments.get(CONTENTS)
    if not isinstance(contents, bytes):
        return arguments
    return {**arguments, CONTENTS: binascii.b2a_base64(contents, newline=False).decode("ascii")}


def split_contents(
    arguments: dict[str, object], *, apart: bool
) -> tuple[dict[str, object], bytes | str | None]:
    """As `without_contents` where these go `apart`; as `as_text` where they are an argument as any (pure)."""
    return without_contents(arguments) if apart else (as_text(arguments), None)


def judged_as(contents: bytes | str, schema: dict[str, object], most: int) -> str:
    """A file's bytes as `schema` judges them: text, a stand-in for that of bytes. Raises `LimitError` past
    `most` bytes, and past what the schema takes of text."""
    if isinstance(contents, str):
        return contents
    size = 4 * ((len(contents) + 2) // 3)
    properties = schema.get("properties")
    declared = properties.get(CONTENTS) if isinstance(properties, dict) else None
    longest = declared.get("maxLength", size) if isinstance(declared, dict) else size
    if len(contents) > most or (isinstance(longest, int) and size > longest):
        raise LimitError(
            f"{len(contents)} bytes come beside the arguments; {min(most, longest * 3 // 4)} are allowed",
            hint="Send less at once, or raise `limits.request` in the policy.",
            where="arguments",
        )
    return "A" * min(size, _STAND_IN)


def with_contents(arguments: Arguments, contents: bytes | str) -> Arguments:
    """The same, with a file's bytes beside them."""
    return msgspec.structs.replace(arguments, contents=contents)


def judged_with(
    arguments: Arguments, contents: bytes | str, schema: dict[str, object], most: int
) -> tuple[Arguments, dict[str, object]]:
    """As `with_contents`; and what `schema` judges of it. Raises as `judged_as`."""
    judged = {**arguments.kept, CONTENTS: judged_as(contents, schema, most)}
    return with_contents(arguments, contents), judged


def _bytes_of(contents: str) -> bytes | None:
    try:
        return binascii.a2b_base64(contents, strict_mode=True)
    except ValueError:
        return None


def split_keys(arguments: dict[str, object]) -> Arguments:
    """What is a key in `arguments`, and all that is not (pure).

    A key stands under a name of keys, alone, in a list or in a table; beside such a name in a pair, or with
    it in a list of arguments or variables; or under any name, where its own form says so. What stands within
    a longer text stays there: taken out, the text is another. `UsageError` where they nest deeper than is
    looked at.
    """
    return at_once(arguments) or finished(_split_steps(arguments, plain=False))


async def split_in_turns(arguments: dict[str, object], *, plain: bool = True) -> Arguments:
    """As `split_keys`, while the loop goes on with its other work. `plain`: they come from JSON."""
    found = at_once(arguments)
    return found if found is not None else await in_turns(_split_steps(arguments, plain=plain))


def at_once(arguments: dict[str, object]) -> Arguments | None:
    """The answer of `split_keys` where one short look gives it, as it mostly does."""
    return Arguments(kept=arguments, quiet=True) if is_quiet(arguments) else None


def left_in(arguments: dict[str, object], found: Arguments) -> Arguments:
    """`arguments` as they came, which go on so; `found`: what was taken out of them, and is not shown."""
    values = tuple({value for _, value in found.keys})
    return Arguments(kept=arguments, quiet=found.quiet, hidden=values)


def _split_steps(arguments: dict[str, object], *, plain: bool) -> Generator[None, None, Arguments]:
    if plain and is_quiet(arguments) is None and (yield from _quiet_steps(arguments)):
        return Arguments(kept=arguments, quiet=True)
    search = Search()
    kept = yield from search.within(arguments, (), 0)
    assert isinstance(kept, dict)  # noqa: S101 - a dict walks to a dict
    return Arguments(kept=kept, keys=tuple(search.found))


def is_quiet(arguments: object) -> bool | None:  # noqa: PLR0911, PLR0912 - of each command: one call, and no further ones
    """Whether it is plain JSON in which nothing stands that could be a key, or the name of one.

    One look, as most arguments are so: `preview_of` then shows them as they are. What stands in a list, or
    under a key of `NAMING`, may be a name however long it is. None: there is too much for one look.
    """
    left, depth, room = [arguments], 0, TURN
    while left and depth <= _SHOWN_DEEP:
        names: list[object] = []
        below: list[object] = []
        for value in left:
            if isinstance(value, (dict, list, tuple)):
                room -= len(value)
            elif isinstance(value, str):
                room -= len(value) >> TEXT
            if room < 0:
                return None
            if isinstance(value, dict):
                names += value.keys()
                below += value.values()
                names += [
                    item
                    for key, item in value.items()
                    if isinstance(item, str) and (len(item) <= LONGEST_NAME or str(key).lower() in NAMING)
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
            if not isinstance(name, str):
                return False
            room -= len(name) >> TEXT
            if room < 0:
                return None
            if SAYS.search(NO_LETTERS.sub("", name.lower())) or LOUD.search(name):
                return False
        left, depth = below, depth + 1
    return not left


def _quiet_steps(arguments: object) -> Generator[None, None, bool]:
    """As `is_quiet` of plain JSON, by its text: a few searches of all of it, each in C.

    What it calls quiet is so. Letters of neighbours may make a word together, which is looked at then.
    """
    try:
        text = msgspec.json.encode(arguments)
    except (UnicodeEncodeError, TypeError, ValueError, RecursionError):
        return False
    yield
    if may_fold(text):
        return False
    for mark in (*MARKS, *_LOGINS):
        yield
        if mark in text:
            return False
    yield
    for escape in _ESCAPES:  # in pairs first: what is left of backslashes begins an escape
        if b"\\" in text:
            text = text.replace(escape, b"")
            yield
    if b"\\" in text:
        return False
    letters = text.translate(_LOWER, _NO_LETTERS)
    for word in SAYS.pattern.encode().split(b"|"):
        yield
        if word in letters:
            return False
    return True


def without_keys(arguments: dict[str, object], known: Iterable[str] = ()) -> dict[str, object]:
    """`arguments` as the audit may show them, whatever was wrong with them (pure).

    `known`: keys that may stand in their texts.
    """
    try:
        split = split_keys(arguments)
    except UsageError as error:
        return {"…": error.message}
    found, many = _pattern({*known, *(value for _, value in split.keys)})
    if many:
        return {"…": f"{many} keys"}
    return split.kept if found is None else _beginning_of(split.kept, found, [_ALL, _ALL])


def _pattern(keys: set[str]) -> tuple[re.Pattern[str] | None, int]:
    """What finds `keys` in a text; their number, where they are too many to be looked for."""
    values = sorted((value for value in keys if len(value) >= SHORTEST), key=len, reverse=True)
    if len(values) > _MOST_VALUES:
        return None, len(values)
    return re.compile("|".join(map(re.escape, values))) if values else None, 0


def preview_of(arguments: Arguments, cap_bytes: int, facts: str = "") -> tuple[Digest, int, str]:
    """As `preview`: digest and size of all of it, and a text without keys, where they may pass too (pure).

    `facts`: of its contents, where they are known already.
    """
    if arguments.contents is not None:
        kept = {**arguments.kept, CONTENTS: facts or facts_of(arguments.contents)}
        digest, size, text = preview_of(
            msgspec.structs.replace(arguments, kept=kept, contents=None), cap_bytes
        )
        return digest, size + len(arguments.contents), text
    kept = arguments.kept
    if arguments.quiet:
        with contextlib.suppress(UnicodeEncodeError):  # lone surrogates
            encoded = msgspec.json.encode(kept, order="sorted")
            short = len(encoded) <= min(cap_bytes, _SHOWN_WHOLE)
            return (
                digest_bytes(encoded),
                len(encoded),
                encoded.decode() if short else preview_text(kept, cap_bytes),
            )
    digest, size = digest_of(kept)
    known = {*arguments.hidden, *(value for _, value in arguments.keys)}
    found, many = _pattern(known)
    if many:
        return digest, size, preview_text({"…": f"{many} keys"}, cap_bytes)
    most = cap_bytes + MARGIN
    clean = without_keys(_beginning_of(kept, found, [most, 2 * most]), known)
    return digest, size, preview_text(clean, cap_bytes)


def _beginning_of(
    value: dict[str, object], found: re.Pattern[str] | None, room: list[int]
) -> dict[str, object]:
    """As much of `value` as may be shown, without what `found` finds in its texts.

    `room`: characters of all of it, in which each value takes four, and of one text.
    """
    made = _cut(value, found, room, 0)
    assert isinstance(made, dict)  # noqa: S101 - a dict is cut to a dict
    return made


def _cut(value: object, found: re.Pattern[str] | None, room: list[int], depth: int) -> object:
    room[0] -= 4
    if isinstance(value, str):
        text = _beginning(value, found, room[1])
        room[0] -= len(text)
        return text
    if not isinstance(value, (dict, list)):
        return value
    if depth > DEEPEST:
        return "…"
    if isinstance(value, dict):
        shown: dict[object, object] = {}
        for key, item in value.items():
            if room[0] <= 0:
                shown["…"] = "…"
                break
            name = _cut(key, found, room, depth)
            shown[name] = _cut(item, found, room, depth + 1)
        return shown
    items: list[object] = []
    for item in value:
        if room[0] <= 0:
            items.append("…")
            break
        items.append(_cut(item, found, room, depth + 1))
    return items


def _beginning(text: str, found: re.Pattern[str] | None, most: int) -> str:
    """The first `most` characters of `text`; what `found` finds there is looked for in whole, and masked."""
    done, pieces = 0, []
    for key in found.finditer(text[: most + LONGEST]) if found is not None else ():
        if key.start() >= most:
            break
        pieces += [text[done : key.start()], MASK]
        done = key.end()
    return "".join([*pieces, text[done:most], "…" if len(text) > max(most, done) else ""])


def shown(path: tuple[str, ...]) -> str:
    """Where a key stands, for people."""
    return ".".join(one[:80] for one in path)[:200]
