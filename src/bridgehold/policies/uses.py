"""What a provider may bill beside tokens: by use, of what a grant lets in, and of paths billed so (pure)."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

UNBOUND = 10
"""Calls that a request with a provider's own tool is taken to make, where it names no bound of them."""
SPOKEN = 1_000
"""Characters of text to be spoken that are one use."""
MOST_KINDS = 100
"""Of what may be billed in one request; with more of them it is as good as unread."""
_MOST = 1_000


class Use(msgspec.Struct, frozen=True):
    """One thing in a request that may have a fee."""

    names: tuple[str, ...]
    """As grants and fees name it, the narrowest first."""
    times: int = 1
    """That it may be billed at most."""

    def is_of(self, kind: str) -> bool:
        """Whether an answer's `kind` is this: ``web_search`` is ``tools[].type=web_search_20250305``, too."""
        return self.names[0].removeprefix("tools[].").removeprefix("type=").startswith(kind)


UNJUDGED = Use(("(body)",))
"""A body that a grant lets go unread: it may hold anything."""


def calls(said: object) -> int:
    """Of a tool's table, or of a request: how often a tool may be called. 0: it names no bound."""
    if isinstance(said, bool) or not isinstance(said, int) or said < 1:
        return 0
    return min(said, _MOST)


class Met:
    """What was met in one request, of each name how often."""

    def __init__(self) -> None:
        self.unread = False
        """Whether there may be more of it."""
        self._used: dict[tuple[str, ...], list[int]] = {}

    def add(self, names: tuple[str, ...], bound: int) -> None:
        """As of `Use`; `bound`: the calls that its own table allows, 0 for none."""
        if names in self._used or len(self._used) < MOST_KINDS:
            self._used.setdefault(names, []).append(bound)
        else:
            self.unread = True

    def uses(self, body: dict[str, object] | None) -> tuple[Use, ...]:
        """All of it, with what `body` says of tools together."""
        met = tuple(Use(names, _times(names[-1], bounds, body)) for names, bounds in self._used.items())
        return (*met, UNJUDGED) if self.unread else met


def _times(place: str, own: Sequence[int], body: dict[str, object] | None) -> int:
    """How often what stands so often at `place` may be billed; `own`: the bound in the table of each."""
    if not place.startswith("tools"):
        return len(own)
    together = calls((body or {}).get("max_tool_calls"))
    each = sum(said or UNBOUND for said in own)
    return min(together, each) if together else each
