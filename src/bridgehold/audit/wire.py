"""The journal's wire: length-prefixed frames over a stream socket between two of our processes.

Request: 4-byte big-endian length of the rest, 1 byte operation, 8 byte id, payload (an event as
JSON, or an anchor's text). Answer: 4-byte length, a JSON list of `Answer`, many per frame.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from bridgehold.audit.chain import MAX_EVENT
from bridgehold.errors import AuditError

if TYPE_CHECKING:
    from collections.abc import Iterator

APPEND, APPEND_BUFFERED, HEAD, ANCHOR, QUOTA = range(1, 6)
HEADER = struct.Struct(">IBQ")
BODY = HEADER.size - 4
MAX_FRAME = MAX_EVENT + BODY
MAX_ANSWERS = 64 * 1024 * 1024


class Request(NamedTuple):
    """One request to the journal: `id` comes back in its answer."""

    operation: int
    id: int
    payload: bytes


class Quota(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Journal bytes that one tenant may have, below those that each has; 0: as many as each."""

    tenant: str
    bytes: int


class Answer(msgspec.Struct, frozen=True, array_like=True):
    """`code` empty: done. `seq` and `hash` are the event's, or count and head."""

    id: int
    seq: int = 0
    hash: str = ""
    code: str = ""
    message: str = ""
    instance: str = ""


def take_requests(buffer: bytearray, most: int) -> Iterator[Request]:
    """Take up to `most` complete requests off the front of `buffer`. Raises `AuditError` on nonsense."""
    offset = 0
    view = bytes(buffer)
    try:
        for _ in range(most):
            if len(view) - offset < 4:
                return
            length = int.from_bytes(view[offset : offset + 4], "big")
            if not BODY <= length <= MAX_FRAME:
                raise AuditError(f"a frame of {length} bytes reached the journal")
            if len(view) - offset < 4 + length:
                return
            _, operation, identity = HEADER.unpack_from(view, offset)
            yield Request(operation, identity, view[offset + HEADER.size : offset + 4 + length])
            offset += 4 + length
    finally:
        del buffer[:offset]


def answers(items: list[Answer]) -> bytes:
    """The bytes of `items`: their length (4 bytes, big-endian), and their JSON."""
    payload = msgspec.json.encode(items)
    return len(payload).to_bytes(4, "big") + payload
