"""Has the keeper sign the state of the audit from time to time."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import UTC, datetime
from pathlib import Path

from bridgehold import writes
from bridgehold.audit.anchors import anchor_at, anchor_text, attach, key_line
from bridgehold.audit.client import JournalClient
from bridgehold.errors import BridgeholdError
from bridgehold.keeper.client import KeeperClient
from bridgehold.keeper.protocol import SigningKey


class Anchoring:
    """One host's anchors: the journal keeps them, the keeper signs them."""

    def __init__(self, journal: JournalClient, keeper: KeeperClient) -> None:
        self._journal = journal
        self._keeper = keeper
        self._anchored = 0

    async def publish_key(self, path: Path, key: SigningKey = "anchor") -> bytes:
        """Lay a public key beside the anchors, for who checks signatures here and on other machines."""
        raw = await self._keeper.public_key(key)
        line = key_line(raw)
        known = await asyncio.to_thread(lambda: path.read_text(encoding="ascii") if path.exists() else "")
        if known != line:
            await asyncio.to_thread(writes.replace, path, line)
        return raw

    async def run(self, every_s: float) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(every_s)
            with contextlib.suppress(BridgeholdError):
                await self.once()

    async def once(self) -> None:
        """Anchor the head, unless only the last anchor came since."""
        head = await self._journal.head()
        if head.count <= self._anchored + 1:
            return
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        anchor = anchor_at(head, time=now, public_key=await self._keeper.public_key())
        await self._journal.anchor(attach(anchor, await self._keeper.sign(anchor_text(anchor))))
        self._anchored = head.count
