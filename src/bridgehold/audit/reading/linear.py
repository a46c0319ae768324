"""Whether one event fits a question (pure). Each answer of the index passes this, and is measured by it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from bridgehold.audit.chain import own_part
from bridgehold.audit.entries import Entry, parse_entry
from bridgehold.audit.query import stored
from bridgehold.audit.reading.fields import value_of
from bridgehold.audit.reading.syntax import ORDER, All, AnyOf, Compare, Expression, Not, Text, folded
from bridgehold.audit.segments import instance_folders, read_lines

NAMES_BRIDGE = ("worker.started", "session.opened")
"""What says whose a session is."""


class Hit(NamedTuple):
    """An event and where it stands: `entry.place` is ``file:line``, `offset` the line's first byte there."""

    entry: Entry
    framework: str
    """The bridge of the event, or of its session; empty where it has none."""
    offset: int
    line: bytes
    """As stored, without its newline."""


def matches(expression: Expression, hit: Hit) -> bool:
    """Whether `hit` fits."""
    match expression:
        case All(parts):
            return all(matches(one, hit) for one in parts)
        case AnyOf(parts):
            return any(matches(one, hit) for one in parts)
        case Not(part):
            return not matches(part, hit)
        case Text(needle):
            return needle_of(needle) in own_part(hit.line).lower()
        case Compare():
            return _compares(expression, hit)


def needle_of(text: str) -> bytes:
    """How a text is found in a stored line that is folded."""
    return stored(text).encode("ascii").lower()


def _compares(wanted: Compare, hit: Hit) -> bool:
    value = value_of(hit.entry, wanted.field, hit.framework)
    if wanted.field.type == "kind":
        return value == wanted.value or str(value).startswith(f"{wanted.value}.")
    several = value if isinstance(value, tuple) else (value,)
    if wanted.operator == "=":
        return wanted.value in several
    if wanted.operator == "~":
        needle = folded(str(wanted.value))
        return any(needle in folded(str(one)) for one in several)
    return value is not None and not isinstance(value, tuple) and ORDER[wanted.operator](value, wanted.value)


def every_hit(audit: Path) -> Iterator[Hit]:
    """Every readable event, oldest first, line by line. Raises `AuditError` where a file can't be read."""
    frameworks: dict[tuple[str, str], str] = {}
    for folder in instance_folders(audit):
        for segment in folder.segments():
            name, number = f"{folder.path.name}/{segment.path.name}", 1
            for begin, lines, _ in read_lines(segment.path):
                offset = begin
                for line in lines:
                    entry = parse_entry(line, f"{name}:{number}")
                    if entry is not None:
                        yield Hit(entry, framework_of(entry, frameworks), offset, line)
                    number, offset = number + 1, offset + len(line) + 1


def framework_of(entry: Entry, frameworks: dict[tuple[str, str], str]) -> str:
    """The bridge that an event names, or its session's; `frameworks` has those of each tenant's sessions."""
    own = entry.text("bridge")
    if entry.kind in NAMES_BRIDGE and entry.session:
        frameworks[entry.tenant, entry.session] = own
    return own or frameworks.get((entry.tenant, entry.session), "")
