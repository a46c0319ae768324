"""What the audit shows of arguments, pure: their digest, and a bounded text without secrets."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING

import msgspec

from bridgehold.audit.key_names import (
    LONGEST_NAME,
    WORDS,
    is_key_name,
    is_some_key_name,
    looks_random,
)
from bridgehold.audit.key_texts import LOGINS
from bridgehold.ids import Digest, digest_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable
from bridgehold.audit.redact import Redactor
from bridgehold.audit.searching import MASK

MARGIN = 4096
_MOST_NAMES = 1024
_PARTIAL = 128
_DEPTH = 32


def preview(
    arguments: object, secrets: Iterable[str | bytes] = (), cap_bytes: int = 2000
) -> tuple[Digest, int, str]:
    """(digest of the full arguments, their size in bytes, a redacted JSON text of at most `cap_bytes`).

    The digest is over sorted-key JSON. What doesn't encode (lone surrogates) is escaped first. The
    text is cut at a whole character and a cut is marked with ``…``; it is never read back as JSON.
    """
    return *digest_of(arguments), preview_text(arguments, cap_bytes, secrets)


def digest_of(value: object) -> tuple[Digest, int]:
    """Digest and size of `value` as `preview` gives them."""
    encoded = _encode(value)
    return digest_bytes(encoded), len(encoded)


def preview_text(value: object, cap_bytes: int, secrets: Iterable[str | bytes] = ()) -> str:
    """The text of `preview`. It takes what is shown, however much there is."""
    redactor = Redactor(secrets)
    budget = [cap_bytes + redactor.longest + MARGIN, _MOST_NAMES]
    return cut(_encode(_mask(value, redactor, budget, 0)).decode("utf-8"), cap_bytes)


def cut(text: str, cap_bytes: int) -> str:
    """`text` in at most `cap_bytes` of UTF-8, with ``…`` where something is missing."""
    raw = text.encode("utf-8", "backslashreplace")
    if len(raw) <= cap_bytes:
        return raw.decode("utf-8")
    return raw[: max(0, cap_bytes - 3)].decode("utf-8", "ignore") + "…"


def _encode(value: object) -> bytes:
    try:
        return msgspec.json.encode(value, enc_hook=_describe, order="sorted")
    except (UnicodeEncodeError, TypeError, ValueError, RecursionError):
        plain = json.dumps(value, default=repr, sort_keys=False, skipkeys=True)
        return plain.encode("ascii")


def _describe(value: object) -> object:
    return f"<{type(value).__name__}>"


def _mask(value: object, redactor: Redactor, budget: list[int], depth: int, *, near: bool = False) -> object:
    """A copy that stops growing at `budget` characters, with secrets out of every string and key.

    `near`: a name of keys stands beside it. `budget[1]`: how many texts are asked whether they are one;
    beside all others one may stand.
    """
    budget[0] -= 4
    if isinstance(value, str):
        return MASK if near and looks_random(value[:MARGIN]) else _mask_text(value, redactor, budget)
    if isinstance(value, (bytes, bytearray)):
        return f"<{len(value)} bytes>"
    if not isinstance(value, (dict, list, tuple)):
        return value
    if depth > _DEPTH:
        return "…"
    if isinstance(value, dict):
        return _mask_dict(value, redactor, budget, depth, near=near)
    items: list[object] = []
    near, before = near or _names_keys(value, budget), ""
    for item in value:
        if budget[0] <= 0:
            break
        login = before in LOGINS and isinstance(item, str) and ":" in item
        items.append(MASK if login else _mask(item, redactor, budget, depth + 1, near=near))
        before = item if isinstance(item, str) else ""
    return items


def _names_keys(values: Iterable[object], budget: list[int]) -> bool:
    """Whether one of `values`, or of a list among them, is a name of keys: another may be its value."""
    return any(
        _may_name(one, budget)
        if isinstance(one, str)
        else isinstance(one, list) and any(_may_name(item, budget) for item in one[:64])
        for one in itertools.islice(values, 256)
    )


def _may_name(one: object, budget: list[int]) -> bool:
    if not isinstance(one, str) or len(one) > LONGEST_NAME:
        return False
    budget[1] -= 1
    return budget[1] < 0 or (is_key_name(one) and one.strip("-").lower() not in WORDS)


def _mask_dict(
    value: dict[object, object], redactor: Redactor, budget: list[int], depth: int, *, near: bool
) -> dict[str, object]:
    shown: dict[str, object] = {}
    near = near or _names_keys(value.values(), budget)
    for key, item in value.items():
        if budget[0] <= 0:
            break
        name = _mask_text(str(key), redactor, budget)
        hidden = is_key_name(name) or (
            isinstance(item, str) and is_some_key_name(name) and looks_random(item[:MARGIN])
        )
        shown[name] = MASK if hidden else _mask(item, redactor, budget, depth + 1, near=near)
    return shown


def _mask_text(value: str, redactor: Redactor, budget: list[int]) -> str:
    part = value[: max(0, budget[0])]
    budget[0] -= len(part)
    shown = redactor.text(part)
    if len(part) == len(value):
        return shown
    # The cut may stand inside a secret, and masking earlier ones moves it forward: drop that end.
    return shown[: max(0, len(shown) - redactor.longest - _PARTIAL)] + "…"
