"""The journal's wire: length-prefixed frames over a stream socket between two of our processes.

Request: 4-byte big-endian length of the rest, 1 byte operation, 8 byte id, payload (an event as
JSON, or an anchor's text). Answer: 4-byte length, a JSON list of `Answer`, many per frame.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from bridgehold.errors import AuditError, BridgeholdError, BudgetError

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_EVENT = 256 * 1024
"""Longest event in bytes as a client sends it; escaping makes at most six bytes of one."""

BREACH = "breach"
"""Code of the answer to what a channel may not write; the channel ends with it."""
APPEND, APPEND_BUFFERED, HEAD, ANCHOR, QUOTA = range(1, 6)
HEADER = struct.Struct(">IBQ")
BODY = HEADER.size - 4
MAX_FRAME = MAX_EVENT + BODY
MAX_ANSWERS = 64 * 1024 * 1024
_HINTS = {
    "full": "Free space on the audit's disk; the journal goes on by itself.",
    "failed": "The audit's disk failed a write. Check it, then restart the host: a new instance begins.",
    "breach": "This is a defect of the caller, or somebody else writes in its place: its channel has ended.",
    "invalid": "This is a defect of the caller: events hold text and integers, in bounded size.",
}


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


_ANSWERS = msgspec.json.Decoder(list[Answer])


def request(operation: int, identity: int, payload: bytes = b"") -> bytes:
    """One request frame. Raises `AuditError` past `MAX_EVENT`."""
    if len(payload) > MAX_EVENT:
        raise AuditError(f"an event has {len(payload)} bytes; the journal takes {MAX_EVENT}")
    return HEADER.pack(len(payload) + BODY, operation, identity) + payload


def take_requests(buffer: bytearray, most: int, most_bytes: int = MAX_FRAME * 64) -> Iterator[Request]:
    """Take complete requests off the front of `buffer`: up to `most`, and none past `most_bytes` but the
    first. Raises `AuditError` on nonsense.
    """
    offset = 0
    view = bytes(buffer)
    try:
        for _ in range(most):
            if len(view) - offset < 4:
                return
            length = int.from_bytes(view[offset : offset + 4], "big")
            if not BODY <= length <= MAX_FRAME:
                raise AuditError(f"a frame of {length} bytes reached the journal")
            end = offset + 4 + length
            if len(view) < end or (offset and end > most_bytes):
                return
            _, operation, identity = HEADER.unpack_from(view, offset)
            yield Request(operation, identity, view[offset + HEADER.size : end])
            offset = end
    finally:
        del buffer[:offset]


def is_whole(buffer: bytearray) -> bool:
    """Whether `buffer` begins with a complete request, or with nonsense."""
    if len(buffer) < 4:
        return False
    length = int.from_bytes(buffer[:4], "big")
    return not BODY <= length <= MAX_FRAME or len(buffer) >= 4 + length


def answers(items: list[Answer]) -> bytes:
    """The bytes of `items`: their length (4 bytes, big-endian), and their JSON."""
    payload = msgspec.json.encode(items)
    return len(payload).to_bytes(4, "big") + payload


def refusal(answer: Answer) -> BridgeholdError | None:
    """What an answer refuses, as the error of whoever asked (pure)."""
    if answer.code == "budget":
        return BudgetError(answer.message, hint="Raise audit_tenant_quota, or restart to begin an instance.")
    if answer.code:
        return AuditError(answer.message, hint=_HINTS.get(answer.code, ""), where=f"journal:{answer.code}")
    return None


def take_answers(buffer: bytearray) -> list[Answer]:
    """Take every complete answer off the front of `buffer`. Raises `AuditError` on nonsense."""
    found: list[Answer] = []
    while len(buffer) >= 4:
        length = int.from_bytes(buffer[:4], "big")
        if length > MAX_ANSWERS:
            raise AuditError(f"the journal sent a frame of {length} bytes")
        if len(buffer) < 4 + length:
            break
        try:
            found += _ANSWERS.decode(bytes(buffer[4 : 4 + length]))
        except msgspec.DecodeError as error:
            raise AuditError(f"the journal sent nonsense: {error}") from error
        del buffer[: 4 + length]
    return found
