"""Placeholders: which one came, in which slot, and is it this session's for this provider (pure)."""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Mapping
from typing import Literal

import msgspec

from bridgehold.keeper.slots import AUTH_HEADERS, AUTH_QUERY

PREFIX = "sk-bh-"
_SLOTS = AUTH_HEADERS - {"cookie", "openai-organization", "openai-project", "x-goog-user-project"}


class Presented(msgspec.Struct, frozen=True, kw_only=True):
    """What the guest presented, judged. `credential` is set for ``own_key`` only."""

    verdict: Literal["ok", "missing", "own_key", "foreign", "unknown", "mixed"]
    credential: str = ""

    def __repr__(self) -> str:
        return f"Presented({self.verdict})"


def presented(
    provider: str,
    placeholders: Mapping[str, str],
    headers: Iterable[tuple[str, str]],
    query: Iterable[tuple[str, str]],
) -> Presented:
    """Judge every slot. ``ok``: all hold this provider's placeholder. ``foreign``: one of another
    provider of this session; ``unknown``: one of no provider of this session (another tenant's, or
    of a session that has ended); ``own_key``: a key that is no placeholder; ``mixed``: several.
    """
    found = _values(headers, query)
    if not found:
        return Presented(verdict="missing")
    if len(set(found)) > 1:
        return Presented(verdict="mixed")
    value = found[0]
    matches = {name for name, own in placeholders.items() if _same(own, value)}
    if provider in matches:
        return Presented(verdict="ok")
    if matches:
        return Presented(verdict="foreign")
    if value.startswith(PREFIX):
        return Presented(verdict="unknown")
    return Presented(verdict="own_key", credential=value)


def holds_placeholder(texts: Iterable[str]) -> bool:
    """Whether a placeholder (anybody's) stands in any of `texts`."""
    return any(PREFIX in text for text in texts)


def _values(headers: Iterable[tuple[str, str]], query: Iterable[tuple[str, str]]) -> list[str]:
    found = []
    for name, value in headers:
        if name.lower() in _SLOTS:
            scheme, _, rest = value.strip().partition(" ")
            bare = (
                rest.strip()
                if scheme.lower() in ("bearer", "basic", "key", "token") and rest
                else value.strip()
            )
            if bare:
                found.append(bare)
    found += [value for name, value in query if name.lower() in AUTH_QUERY and value]
    return found


def _same(own: str, value: str) -> bool:
    """In constant time, so that a guest can't feel its way to a sibling's placeholder."""
    return hmac.compare_digest(own.encode(), value.encode("utf-8", "replace"))
