"""Tenants' secrets kept out of what the host writes down, though the host holds none.

The keeper says how each value begins; where a text holds such a beginning, in any plain spelling, the
keeper gives it back without the values (`docs/adr/0010`). What can't be looked at is withheld.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from typing import Protocol

from bridgehold.audit.client import texts_of, with_texts
from bridgehold.audit.encodings import beginnings
from bridgehold.audit.events import Event
from bridgehold.audit.searching import MASK
from bridgehold.errors import BridgeholdError
from bridgehold.keeper.protocol import Marks

_FRESH_SECONDS, _STALE_SECONDS = 1.0, 4.0
"""Marks are asked for again after the first, and waited for after the second: 5 s for any change."""
_PATIENCE_SECONDS = 3.0
"""For the keeper, which may wait for a store; the journal's own deadline is longer."""
_NAMES = frozenset(
    [
        "tenant",
        "principal",
        "session",
        "command",
        "bridge",
        "operation",
        "grant",
        "intent",
        "parent",
        "replays",
        "rule",
        "code",
        "digest",
        "arguments_digest",
        "result_digest",
        "how",
        "provider",
        "method",
        "action",
        "severity",
        "source",
    ]
)
"""Fields that the host fills itself: they stay readable where the rest is withheld."""


class Keeper(Protocol):
    """What redaction asks of the keeper."""

    async def marks(self, tenant: str) -> Marks:
        """See `KeeperClient.marks`."""

    async def redact(self, tenant: str, texts: list[str]) -> list[str]:
        """See `KeeperClient.redact`."""


class _Known:
    """What is known of one tenant's values."""

    def __init__(self, marks: Marks | None) -> None:
        """None: they can't be read."""
        self.at = time.monotonic()
        self.readable = marks is not None
        self._always = marks is not None and marks.always
        self._begins = beginnings([one.encode() for one in marks.begins]) if marks is not None else None
        self.empty = self.readable and not self._always and self._begins is None
        """There is no value that a text could hold."""

    def suspects(self, text: str) -> bool:
        if self._always or self._begins is None:
            return self._always
        return self._begins.search(text.encode("utf-8", "backslashreplace")) is not None


class Redaction:
    """One per host."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper
        self._known: dict[str, _Known] = {}
        self._asking: dict[str, asyncio.Task[_Known]] = {}

    def forget(self, tenant: str) -> None:
        """One of the tenant's values has changed."""
        self._known.pop(tenant, None)
        self._asking.pop(tenant, None)

    def event(self, event: Event) -> Event | Awaitable[Event]:
        """`event` without the tenant's values: at once where nothing in it looks like one."""
        if not event.tenant:
            return event
        known = self._known.get(event.tenant)
        if known is None or time.monotonic() - known.at >= _FRESH_SECONDS:
            known = self._current(event.tenant)
        if known is not None and known.empty:
            return event
        texts = texts_of(event)
        if known is not None and known.readable and not known.suspects("\n".join(texts)):
            return event
        return self._changed(event, texts)

    async def text(self, tenant: str, text: str) -> str:
        """`text` without the tenant's values; `MASK` where that can't be told."""
        found = await self._redacted(tenant, [text])
        return MASK if found is None else found[0]

    async def _changed(self, event: Event, texts: list[str]) -> Event:
        found = await self._redacted(event.tenant, texts)
        if found is None:
            return with_texts(event, lambda text, name: text if name in _NAMES or not text else MASK)
        following = iter(found)
        return event if found == texts else with_texts(event, lambda _text, _name: next(following))

    async def _redacted(self, tenant: str, texts: list[str]) -> list[str] | None:
        """None where it can't be told, in time or at all."""
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                known = self._current(tenant)
                if known is None:
                    known = await asyncio.shield(self._ask(tenant))
                if not known.readable:
                    return None
                if not known.suspects("\n".join(texts)):
                    return texts
                plain = [text.encode("utf-8", "backslashreplace").decode() for text in texts]
                return await self._keeper.redact(tenant, plain)
        except TimeoutError:
            self._known[tenant] = _Known(None)  # the next ones don't wait again for the same
            return None
        except BridgeholdError:
            return None

    def _current(self, tenant: str) -> _Known | None:
        """What is known and not stale; where it is not fresh either, it is asked for meanwhile."""
        known = self._known.get(tenant)
        if known is None or (age := time.monotonic() - known.at) >= _STALE_SECONDS:
            return None
        if age >= _FRESH_SECONDS:
            self._ask(tenant)
        return known

    def _ask(self, tenant: str) -> asyncio.Task[_Known]:
        task = self._asking.get(tenant)
        if task is None:
            task = self._asking[tenant] = asyncio.create_task(self._learn(tenant))
        return task

    async def _learn(self, tenant: str) -> _Known:
        try:
            known = _Known(await self._keeper.marks(tenant))
        except BridgeholdError:
            known = _Known(None)
        if self._asking.get(tenant) is asyncio.current_task():  # else it was forgotten meanwhile
            del self._asking[tenant]
            self._known[tenant] = known
        return known
