"""Secrets that are set or removed, in the audit: whoever does it, with a host running or not.

The keeper's index is looked at from time to time and compared with what the audit tells already, so that
what changed while no host ran is told by the next one.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

from bridgehold.audit.client import JournalClient
from bridgehold.audit.entries import Entry
from bridgehold.audit.events import SecretChanged
from bridgehold.audit.read import read_kind
from bridgehold.errors import BridgeholdError, BudgetError
from bridgehold.keeper.index import Reference

_LOOK_SECONDS = 2.0
Known = dict[tuple[str, str], int]
"""(tenant, name) → the version that the audit tells of."""


class _Keeper(Protocol):
    async def references(self) -> list[Reference]: ...


class SecretEvents:
    """Of one host."""

    def __init__(self, keeper: _Keeper, journal: JournalClient) -> None:
        self._keeper = keeper
        self._journal = journal
        self._known: Known = {}

    async def run(self, audit: Path) -> None:
        """Until cancelled. `audit`: what is told already."""
        self._known = await asyncio.to_thread(lambda: fold(read_kind(audit, "secret.changed")))
        while True:
            with contextlib.suppress(
                BridgeholdError
            ):  # an index or a disk out of order, a busy keeper: later
                await self.look()
            await asyncio.sleep(_LOOK_SECONDS)

    async def look(self) -> None:
        """Compare once, and write what is new."""
        for event, known in changes(self._known, await self._keeper.references()):
            try:
                await self._journal.append(event)
            except BudgetError:  # its tenant's share is used up: it is tried again with the next instance
                continue
            self._known = known


def fold(entries: Iterable[Entry]) -> Known:
    """What the audit tells of (pure)."""
    known: Known = {}
    for entry in entries:
        key = (entry.tenant, entry.text("name"))
        if entry.text("action") == "set":
            known[key] = entry.number("version")
        elif entry.text("action") == "remove":
            known.pop(key, None)
    return known


def changes(known: Known, now: Sequence[Reference]) -> list[tuple[SecretChanged, Known]]:
    """What to write, each with what is known once it is written (pure)."""
    found: list[tuple[SecretChanged, Known]] = []
    after = dict(known)
    there = {(one.tenant, one.name): one for one in now}
    for tenant, name in known.keys() - there.keys():
        after = {key: version for key, version in after.items() if key != (tenant, name)}
        found.append((SecretChanged(tenant=tenant, name=name, action="remove"), after))
    for key, one in there.items():
        if known.get(key) != one.version:
            after = {**after, key: one.version}
            event = SecretChanged(
                tenant=one.tenant, name=one.name, action="set", store=one.store, version=one.version
            )
            found.append((event, after))
    return found
