"""A JSON object whose large member is read by whom it is for, and the rest by who passes it on.

It comes over a connection in parts before the request that takes that member: `BEGIN`, any number of `PUT`,
`LOOK`, and a request with the part `parts.FROM_BODY`. docs/reference/host-protocol.md has their parameters.
"""

from __future__ import annotations

import functools
from typing import Any, Literal

import msgspec

from bridgehold.errors import UsageError
from bridgehold.protocol.plain import loads
from bridgehold.strict import MAX_DEPTH, too_deep

BEGIN, PUT, LOOK = "body.begin", "body.put", "body.look"
MOST_BESIDE = 1024 * 1024
"""Bytes of an object beside the member that is passed on: many callers share the process that reads them."""
_LARGE = 32 * 1024


def split(data: bytes, name: str) -> tuple[bytes, bytes]:
    """`data` with its member `name` as 0, and that member's JSON; as it is, and nothing, where that is small.

    Pure; ``name`` may be empty. Raises `UsageError` for what is no JSON object, and for much beside it.
    """
    try:
        found = _reader(name).decode(data)
    except msgspec.ValidationError as error:
        raise UsageError(f"the body: {error}"[:500], where="body") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        if len(data) <= MOST_BESIDE:
            loads(data, above=1)  # it says the place, which takes its time
        said = too_deep(MAX_DEPTH) if isinstance(error, RecursionError) else error
        raise UsageError(f"the body: {said}"[:500], where="body", hint="Send JSON: RFC 8259.") from None
    raw = bytes(found.member) if name and len(memoryview(found.member)) > _LARGE else b""
    beside = data.replace(raw, b"0", 1) if raw else data
    if len(beside) > MOST_BESIDE:
        passed = f" beside `{name}`" if name else ""
        raise UsageError(f"the body: {len(beside)} bytes{passed}; {MOST_BESIDE} are taken", where="body")
    value = loads(beside, above=1)  # the same member twice, say
    if raw and isinstance(value, dict) and value[name] != 0:
        raise UsageError(f"the body: the text of `{name}` is in another member too", where="body")
    return beside, raw


def joined(params: bytes, name: str, raw: bytes) -> bytes:
    """The JSON object `params` with one more member (pure). Raises `UsageError` for what is no object."""
    head = params.strip()
    if not (head.startswith(b"{") and head.endswith(b"}")):
        raise UsageError("the parameters are no JSON object")
    rest = head[1:-1].strip()
    return b'{"%s":%b%b%b}' % (name.encode(), raw, b"," if rest else b"", rest)


class LookParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of `body.look`. `member`: the name of what is taken later; empty: nothing is."""

    member: Literal["", "arguments", "result"] = ""


class Begun(msgspec.Struct, frozen=True, kw_only=True):
    """Of `body.begin`."""

    taken: bool
    """Whether parts are taken on this connection: where it is a cell's. Otherwise requests come whole."""


class Looked(msgspec.Struct, frozen=True, kw_only=True):
    """Of `body.look`."""

    beside: str
    """The object, with 0 for the member that is kept."""
    kept: bool


@functools.cache
def _reader(name: str) -> msgspec.json.Decoder[Any]:
    """What reads the member `name`, and makes no value of anything."""
    field = msgspec.field(default=msgspec.Raw(b""), name=name or None)
    return msgspec.json.Decoder(msgspec.defstruct("Body", [("member", msgspec.Raw, field)]))
