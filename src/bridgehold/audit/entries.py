"""Stored lines as values for readers. Reading never proves anything: `verify` does.

A copied log is hostile to its reader too: lines are bounded, only envelopes of ours are believed,
and `printable` makes any text safe for a terminal.
"""

from __future__ import annotations

import json

import msgspec

from bridgehold.audit import chain
from bridgehold.error_texts import Escapes


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One stored event. `fields` holds what is the event's own; `place` is ``file:line``."""

    ref: str
    instance: str
    seq: int
    time: str
    kind: str
    place: str
    tenant: str = ""
    principal: str = ""
    session: str = ""
    command: str = ""
    fields: dict[str, object] = {}

    def text(self, name: str) -> str:
        """The field `name` as text; empty where it is missing or no text."""
        value = self.fields.get(name, "")
        return value if isinstance(value, str) else ""

    def number(self, name: str) -> int:
        """The field `name` as an integer; 0 where it is missing or none."""
        value = self.fields.get(name, 0)
        return value if isinstance(value, int) else 0


_ENVELOPE = frozenset({"v", "instance", "seq", "time", "mono_ns", "boot", "kind", "prev", "hash"})
_DATA = msgspec.json.Decoder(dict[str, object])
_TIES = ("tenant", "principal", "session", "command")


def parse_entry(line: bytes, place: str) -> Entry | None:
    """The entry in `line` (no newline), or None if it is not one of ours."""
    facts = chain.read_line(line)
    if facts is None:
        return None
    data = chain.decode(_DATA, line)
    if data is None:
        return None
    ties = {name: _text(data.pop(name, "")) for name in _TIES}
    return Entry(
        ref=chain.reference(facts.instance, facts.seq),
        instance=facts.instance,
        seq=facts.seq,
        time=facts.time,
        kind=facts.kind,
        place=place,
        tenant=ties["tenant"],
        principal=ties["principal"],
        session=ties["session"],
        command=ties["command"],
        fields={key: value for key, value in data.items() if key not in _ENVELOPE},
    )


def _unicode(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


_TEXT = Escapes(_unicode)
_JSON = Escapes(lambda character: json.dumps(character)[1:-1], keep="\n")


def printable(text: str) -> str:
    """`text` with everything that a terminal could act on written as an escape."""
    return text.translate(_TEXT)


def printable_json(document: bytes) -> bytes:
    """The same document, with JSON's own escapes for what a terminal could act on: controls, directions."""
    return document.decode("utf-8").translate(_JSON).encode("utf-8")


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
