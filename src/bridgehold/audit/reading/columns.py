"""What the index keeps of each event, and how a stored line becomes a row (pure).

A name is kept as a number that stands for it, made with a key of this index alone: so nobody can write two
names that look alike to it. Missing names are 0, missing numbers and flags NULL.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Mapping
from typing import Annotated

import msgspec

from bridgehold.audit import chain
from bridgehold.audit.entries import parse_entry
from bridgehold.audit.reading.fields import FIELDS, typed
from bridgehold.audit.reading.linear import NAMES_BRIDGE

NAMES = (
    "tenant", "principal", "session", "operation", "rule", "code", "reason", "provider", "host", "method",
    "path", "model", "tool", "action",
)  # fmt: skip
"""Fields that hold names, few different ones: each name is kept once, and its number in the row."""
NUMBERED = ("command", "intent")
"""Nearly each is another name: a number that others may share is kept, and the line has the name."""
NUMBERS = (
    "ms", "cpu_us", "memory_peak_bytes", "deadline_ms", "arguments_bytes", "result_bytes", "status",
    "request_bytes", "response_bytes", "input_tokens", "output_tokens", "charged", "application_ok", "ok",
    "background",
)  # fmt: skip
"""Numbers and flags."""
ROW = (
    "id", "offset", "line", "odd", "seq", "time", "kind", "framework",
    *NAMES, *NUMBERED, *NUMBERS,
)  # fmt: skip
"""The columns in their order. `odd`: it may be spelled as the writer wouldn't."""
_PLAIN = ("bridge", *NAMES, *NUMBERED, *NUMBERS)
_TENANT, _SESSION = _PLAIN.index("tenant"), _PLAIN.index("session")
_NUMBERED, _NUMBERS = _PLAIN.index(NUMBERED[0]), _PLAIN.index(NUMBERS[0])
_WHOLE = Annotated[int, msgspec.Meta(ge=-chain.MAX_INTEGER, le=chain.MAX_INTEGER)]
_DECODER = msgspec.json.Decoder(
    msgspec.defstruct(
        "_Plain",
        [
            *((name, str, "") for name in _PLAIN[:_NUMBERS]),
            *((name, (bool if FIELDS[name].type == "flag" else _WHOLE) | None, None) for name in NUMBERS),
        ],
        frozen=True,
        gc=False,
    )
)
_as_tuple = msgspec.structs.astuple


def number_of(key: bytes, text: str) -> int:
    """What stands for a name in the index of this key; 0 stands for none."""
    if not text:
        return 0
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8"), digest_size=8, key=key).digest(), "big") >> 1


def shared_number(text: str) -> int:
    """A number that two names may share; 0 stands for none."""
    return zlib.crc32(text.encode("utf-8")) if text else 0


def values(line: bytes) -> tuple[object, ...] | None:
    """Of a line, each of its type, in the order of `_PLAIN`; None where it is no event."""
    found = chain.decode(_DECODER, line)
    if found is not None:
        return _as_tuple(found)
    entry = parse_entry(line, "")
    if entry is None:
        return None
    ties = ("tenant", "principal", "session", "command")
    own = {"bridge": entry.text("bridge"), **{name: getattr(entry, name) for name in ties}}
    return tuple(
        own[name] if name in own else typed(entry.fields.get(name), FIELDS[name].type) for name in _PLAIN
    )


def row(
    id_: int,
    offset: int,
    number: int,
    line: bytes,
    frameworks: Callable[[str, str, str, str], str],
    names: Mapping[str, int],
    several: Mapping[tuple[object, ...], tuple[int, ...]],
) -> tuple[object, ...] | None:
    """The row of a stored line, or None where it is no event.

    `frameworks`: of a kind, a tenant, its session and a bridge. `names`: numbers by name; `several`: by all
    of `NAMES`, as most lines have them from one before. Both keep those that they miss.
    """
    match = chain.head_of(line)
    found = values(line) if match is not None else None
    if match is None or found is None:
        return None
    _, seq, time, kind = match.groups()
    name = kind.decode("ascii")
    if name in NAMES_BRIDGE and parse_entry(line, "") is None:  # it would name the bridge of other events
        return None
    framework = frameworks(name, found[_TENANT], found[_SESSION], found[0])  # type: ignore[arg-type]  # names, by their place
    command, intent = found[_NUMBERED:_NUMBERS]
    return (
        id_, offset, number, b"\\" in line and (b"\\u00" in line or b"\\/" in line),
        int(seq), time.decode("ascii"), names[name], names[framework], *several[found[1:_NUMBERED]],
        shared_number(command) if command else 0,  # type: ignore[arg-type]  # names, by their place
        shared_number(intent) if intent else 0,  # type: ignore[arg-type]  # names, by their place
        *found[_NUMBERS:],
    )  # fmt: skip
