"""Has the keeper sign the state of the audit from time to time, and publishes the key that signs."""

from __future__ import annotations

import asyncio
import contextlib
import time
from datetime import UTC, datetime
from pathlib import Path

from bridgehold.audit.anchors import PUBLIC_KEY, anchor_at, anchor_text, attach, key_id, key_line, parse_key
from bridgehold.audit.chain import Head
from bridgehold.audit.client import JournalClient
from bridgehold.audit.rotations import (
    LOST,
    Rotation,
    SignedRotation,
    attach_loss,
    load,
    new_text,
    parse,
    way,
)
from bridgehold.errors import AuditError, BridgeholdError
from bridgehold.host.front.sealings import Sealings
from bridgehold.keeper.client import KeeperClient

_LOOK_SECONDS = 5.0
"""Between looks at the key, which an operator may have changed."""


class Anchoring:
    """One host's anchors: the journal keeps them, the keeper signs them."""

    def __init__(self, journal: JournalClient, keeper: KeeperClient, folder: Path, audit: Path) -> None:
        """`folder`: where the journal keeps them; `audit`: what they are of."""
        self._sealings = Sealings(journal, audit)
        self._journal = journal
        self._keeper = keeper
        self._folder = folder
        self._anchored = 0
        self._published = b""

    async def look(self) -> None:
        """Have the journal publish the key that signs now, after the records that lead to it.

        Where none do, the published key is lost, and the one that signs now says so. Whatever breaks off is
        done again by the next look: the key is published last.
        """
        await self._sealings.look()  # first: a seal counts that was told of before its key was changed
        now = await self._keeper.anchor_key()
        if now.public == self._published:
            return
        known = await asyncio.to_thread(_read_key, self._folder / PUBLIC_KEY)
        if known not in (b"", now.public):
            for record in await self._records(known, now.public, list(map(parse, now.records))):
                await self._journal.rotated(record)
        if known != now.public:
            await self._journal.publish_key(key_line(now.public))
        self._published = now.public

    async def _records(self, old: bytes, new: bytes, kept: list[SignedRotation]) -> list[SignedRotation]:
        stored = [one for _, one in await asyncio.to_thread(load, self._folder) if one is not None]
        found = way([*kept, *stored], key_id(old), key_id(new))
        if found is not None:
            return found
        head = await self._journal.head()
        lost = Rotation(old=old, new=new, head=head, time=_now(), by="host")
        return [attach_loss(lost, await self._keeper.sign(new_text(lost, LOST)))]

    async def run(self, every_s: float) -> None:
        """Until cancelled."""
        signed = time.monotonic()
        while True:
            await asyncio.sleep(min(_LOOK_SECONDS, every_s))
            with contextlib.suppress(BridgeholdError):
                await self.look()
                if time.monotonic() - signed >= every_s:
                    await self.once()
                    signed = time.monotonic()

    async def once(self) -> None:
        """Anchor the head, unless only the last anchor came since."""
        head: Head = await self._journal.head()
        if head.count <= self._anchored + 1:
            return
        key = await self._keeper.anchor_key()
        anchor = anchor_at(head, time=_now(), public_key=key.public)
        await self._journal.anchor(attach(anchor, await self._keeper.sign(anchor_text(anchor))))
        self._anchored = head.count


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _read_key(path: Path) -> bytes:
    """The published key; empty where there is none, or what lies there is none."""
    try:
        found = parse_key(path.read_text(encoding="ascii"), str(path))
    except (FileNotFoundError, UnicodeDecodeError, AuditError):
        return b""
    return next(iter(found.values()))
