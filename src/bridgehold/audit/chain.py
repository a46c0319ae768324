"""The chain, pure: what a stored line looks like, what its hash covers, how two lines are tied.

A line is ASCII and ends, byte for byte, with ``,"prev":"P","hash":"H"}`` and a newline. H covers
the bytes before ``,"hash":"`` exactly as they are stored, so that nobody has to re-create JSON to
verify it: ``H = sha256(DOMAIN + instance + LF + P + LF + body)``. `docs/reference/audit.md` is the
same text for people who write their own verifier.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import msgspec

T = TypeVar("T")

VERSION = 1
DOMAIN = b"bridgehold.audit.v1\n"
GENESIS = "0" * 64
"""`prev` of an instance's first line."""
MAX_LINE = 2 * 1024 * 1024
"""Longest line in bytes, newline excluded. A reader believes no longer one."""
MAX_INTEGER = 2**53 - 1

HASH_OPEN = b',"hash":"'
TAIL = len(HASH_OPEN) + 64 + 2
"""Bytes from ``,"hash":"`` to the closing brace."""
PREV_TAIL = len(',"prev":"') + 64 + 1

_HEAD = re.compile(
    rb'\{"v":1,"instance":"(i-[0-9a-z]{12})","seq":([1-9][0-9]{0,15}),"time":"([0-9TZ:.-]{24})",'
    rb'"mono_ns":[0-9]{1,19},"boot":"[0-9a-f-]{36}","kind":"([a-z]+\.[a-z_]+)"'
)
_END = re.compile(rb',"prev":"([0-9a-f]{64})","hash":"([0-9a-f]{64})"\}')
_LINE = re.compile(_HEAD.pattern + b"[ -~]*" + _END.pattern)
_KIND = b'"kind":"'
_PRINTABLE = bytes(range(0x20, 0x7F))


class Head(msgspec.Struct, frozen=True):
    """Where an instance's chain stands: `count` lines, the last of which has hash `head`."""

    instance: str
    count: int
    head: str


class LineFacts(NamedTuple):
    """The envelope of a stored line, read from its bytes."""

    instance: str
    seq: int
    time: str
    kind: str
    prev: str
    hash: str


def start(instance: str) -> bytes:
    """How every line of `instance` begins, up to its sequence number."""
    return f'{{"v":{VERSION},"instance":"{instance}","seq":'.encode("ascii")


def hash_prefix(instance: str) -> bytes:
    """The constant part of what is hashed: the domain and the instance."""
    return DOMAIN + instance.encode("ascii") + b"\n"


def line_hash(prefix: bytes, prev: str, body: bytes) -> str:
    """Hash of the line whose stored bytes before ``,"hash":"`` are `body`."""
    return hashlib.sha256(prefix + prev.encode("ascii") + b"\n" + body).hexdigest()


def seal(prefix: bytes, prev: str, record: bytes) -> tuple[bytes, str]:
    """The line (with newline) and the hash of `record`: a whole JSON object whose last key is `prev`."""
    body = record[:-1]
    digest = line_hash(prefix, prev, body)
    return body + HASH_OPEN + digest.encode("ascii") + b'"}\n', digest


def head_of(line: bytes) -> re.Match[bytes] | None:
    """As `read_line`, in two thirds of the time: the groups are instance, seq, time and kind."""
    head = _HEAD.match(line) if len(line) <= MAX_LINE else None
    if head is None or head.end() > len(line) - TAIL - PREV_TAIL:
        return None
    tail = _END.fullmatch(line, len(line) - TAIL - PREV_TAIL)
    return head if tail is not None and not line.translate(None, _PRINTABLE) else None


def read_line(line: bytes) -> LineFacts | None:
    """The envelope of `line` (no newline), or None if it is not a line of ours. Checks no hash."""
    if len(line) > MAX_LINE:
        return None
    found = _LINE.fullmatch(line)
    if found is None:
        return None
    instance, seq, time, kind, prev, digest = (part.decode("ascii") for part in found.groups())
    return LineFacts(instance, int(seq), time, kind, prev, digest)


def decode(decoder: msgspec.json.Decoder[T], line: bytes) -> T | None:
    """What `decoder` makes of a stored line, or None: a line is hostile, in form and in measure.

    Numbers of any length, nesting of any depth and bytes of any kind are no line of ours.
    """
    try:
        return decoder.decode(line)
    except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError):
        return None


def own_part(line: bytes) -> bytes:
    """What is the event's own: from its kind on, without the chain's part at its end."""
    return line[line.find(_KIND) : -(TAIL + PREV_TAIL)]


def is_intact(line: bytes, facts: LineFacts) -> bool:
    """Whether `line`'s own hash fits its bytes and the instance and predecessor that it names."""
    return line_hash(hash_prefix(facts.instance), facts.prev, line[:-TAIL]) == facts.hash


reference: Callable[[str, int], str] = "{}.{}".format
"""Of an instance and a number: ``INSTANCE.SEQ``, what `bridgehold why` takes."""


def parse_reference(text: str) -> tuple[str, int] | None:
    """The two halves of a reference, or None."""
    found = re.fullmatch(r"(i-[0-9a-z]{12})\.([1-9][0-9]{0,15})", text)
    return (found[1], int(found[2])) if found else None
