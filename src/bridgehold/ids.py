"""Names, identifiers and numbers: one place that says what a tenant, a digest or a number looks like."""

from __future__ import annotations

import difflib
import functools
import hashlib
import heapq
import re
import secrets
from collections.abc import Iterable
from typing import NewType

from bridgehold.errors import UsageError

TenantName = NewType("TenantName", str)
BridgeName = NewType("BridgeName", str)
SessionId = NewType("SessionId", str)
CommandId = NewType("CommandId", str)
WorkerId = NewType("WorkerId", str)
Digest = NewType("Digest", str)
"""``sha256:`` and 64 lower-case hexadecimal digits."""

LOCAL_TENANT = TenantName("local")
ANONYMOUS_SESSION = "anonymous"

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_OPERATION = re.compile(r"[a-z][a-z0-9_]{0,62}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_WHOLE = re.compile(r"[0-9]{1,18}")
_DECIMAL = re.compile(r"[0-9]{1,15}(?:\.[0-9]{1,15})?")
_LONGEST_NEAR, _MOST_NEAR, _FINELY, _NEAR = 40, 200, 4, 0.5
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


def parse_name(text: str, what: str = "name") -> str:
    """A tenant, bridge, provider or secret name, or `UsageError`. Lower case, at most 63."""
    if not _NAME.fullmatch(text):
        raise UsageError(
            f"{what} {text[:80]!r} is not a name",
            hint="Names start with a lower-case letter; letters, digits, '-' and '_' follow; at most 63.",
        )
    return text


def is_name(text: str) -> bool:
    """Whether `text` can name a tenant, bridge, provider or session."""
    return _NAME.fullmatch(text) is not None


def is_operation(text: str) -> bool:
    """Whether `text` can name an operation."""
    return _OPERATION.fullmatch(text) is not None


def whole_number(text: str) -> int:
    """Of a text from outside that is digits, at most 18, and nothing else. Raises `ValueError`.

    Python's own readers also take underscores, blanks, every script's digits, and signs.
    """
    if not _WHOLE.fullmatch(text):
        raise ValueError(f"{text[:40]!r} is no whole number in plain digits")
    return int(text)


def decimal_number(text: str) -> float:
    """As `whole_number`; a point with digits behind it may follow. No exponent, and neither inf nor nan."""
    if not _DECIMAL.fullmatch(text):
        raise ValueError(f"{text[:40]!r} is no number in plain digits, such as 0.5")
    return float(text)


@functools.lru_cache(1_024)  # of commands alone, which are short: what is none raises, and is not kept
def parse_command(text: str) -> tuple[str, str]:
    """(bridge, operation) of ``BRIDGE:OPERATION``, or `UsageError`."""
    bridge, _, operation = text.partition(":")
    if not is_name(bridge) or not is_operation(operation):
        raise UsageError(
            f"{text[:80]!r} is not a command", hint="A command is BRIDGE:OPERATION, such as python:execute."
        )
    return bridge, operation


def nearest(word: str, known: Iterable[str], least: float = _NEAR) -> str:
    """`` (nearest: 'memory')``, or nothing where nothing is near, by `least` of 1.

    Both sides may be hostile, and the finest measure takes a second for names that are made for it: only the
    few that a coarse one puts first come to that, and long names to none. At most some 3 ms.
    """
    word = word[:_LONGEST_NEAR]
    measure = difflib.SequenceMatcher(b=word)
    rated: list[tuple[float, str]] = []
    for name in known:
        if name != "*" and len(name) <= _LONGEST_NEAR and abs(len(name) - len(word)) <= len(word):
            measure.set_seq1(name)
            rated.append((measure.quick_ratio(), name))
            if len(rated) == _MOST_NEAR:
                break
    first = (name for rate, name in heapq.nlargest(_FINELY, rated) if rate >= least)
    close = difflib.get_close_matches(word, first, n=1, cutoff=least)
    return f" (nearest: {close[0]!r})" if close else ""


def is_digest(text: str) -> bool:
    """Whether `text` is ``sha256:`` and 64 hexadecimal digits."""
    return _DIGEST.fullmatch(text) is not None


def random_id(prefix: str, length: int = 16) -> str:
    """`prefix` + ``-`` + `length` random characters (5 bits each) that are easy to read aloud."""
    drawn = secrets.randbits(5 * length)
    return f"{prefix}-{''.join(_ALPHABET[drawn >> 5 * i & 31] for i in range(length))}"


def new_session_id() -> SessionId:
    """A random id, ``s-…``."""
    return SessionId(random_id("s"))


def new_command_id() -> CommandId:
    """A random id, ``c-…``."""
    return CommandId(random_id("c"))


def new_worker_id() -> WorkerId:
    """A random id, ``w-…``."""
    return WorkerId(random_id("w"))


def new_instance_id() -> str:
    """A random id of a host instance, ``i-…``."""
    return random_id("i", 12)


def digest_bytes(data: bytes) -> Digest:
    """The SHA-256 of `data` as the code writes digests everywhere."""
    return Digest("sha256:" + hashlib.sha256(data).hexdigest())
