"""Refused callers in the audit: one by one within a bucket, counted and folded past it.

Who knocks needs no right to do so, and must not fill the journal.
"""

from __future__ import annotations

import asyncio
import contextlib
import time

from bridgehold.audit.client import JournalClient
from bridgehold.audit.events import EventsFolded, PrincipalRefused
from bridgehold.errors import BridgeholdError
from bridgehold.host.buckets import TokenBucket

_FOLD_SECONDS = 5.0
_PER_SECOND, _BURST = 2.0, 50.0


class Strangers:
    """All refusals of one host."""

    def __init__(self, journal: JournalClient) -> None:
        self._journal = journal
        self._bucket = TokenBucket(_PER_SECOND, _BURST)
        self._folded = 0
        self._telling: asyncio.Task[None] | None = None

    async def refused(self, event: PrincipalRefused) -> None:
        """Write `event`, or count it for one that tells of many."""
        if self._bucket.try_take(1, time.monotonic()):
            await self._journal.append(event)
            return
        self._folded += 1
        if self._telling is None:
            self._telling = asyncio.create_task(self._tell())

    async def _tell(self) -> None:
        await asyncio.sleep(_FOLD_SECONDS)
        folded, self._folded, self._telling = self._folded, 0, None
        with contextlib.suppress(BridgeholdError):
            await self._journal.append(EventsFolded(folded={"principal.refused": folded}))
