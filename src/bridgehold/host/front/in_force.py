"""What was in force before: each grant that differs is written to the audit, with what it gains and loses.

A way back is a change, too: whoever reads the newest grant of a bridge reads the one that holds.
"""

from __future__ import annotations

import asyncio
from typing import Protocol
from weakref import WeakValueDictionary

import msgspec

from bridgehold.audit.events import Event, GrantResolved, PolicyLoaded
from bridgehold.policies.changes import Changes, compare, named
from bridgehold.policies.files import Readings
from bridgehold.policies.model import Grant
from bridgehold.policies.tenants import compare_limits

Place = tuple[str, str]
"""A tenant, and a bridge or a release of it."""


class Records(Protocol):
    """Where it is written what grants rest on: the journal."""

    async def append(self, event: Event, *, durable: bool = True) -> object:
        """See `JournalClient.append`."""


class InForce:
    """The grants that were written down last, at most so many; of one that was let go nothing is compared."""

    def __init__(self, journal: Records, most: int) -> None:
        self._journal, self._most = journal, most
        self._last: dict[Place, tuple[Grant, str]] = {}
        self._turns: WeakValueDictionary[Place, asyncio.Lock] = WeakValueDictionary()

    async def write_down(self, place: Place, grant: Grant, readings: Readings) -> None:
        """Have it in the audit, unless it and all that it rests on is what was written down last."""
        rests_on = readings.digest()
        turn = self._turns.setdefault(place, asyncio.Lock())
        async with turn:  # two that differ each name the one before
            before, rested_on = self._last.get(place, (None, ""))
            if before is None or (before.digest, rested_on) != (grant.digest, rests_on):
                await self._write(before, grant, readings)
            self._last.pop(place, None)
            self._last[place] = grant, rests_on
            while len(self._last) > self._most:
                del self._last[next(iter(self._last))]

    async def _write(self, before: Grant | None, grant: Grant, readings: Readings) -> None:
        gained, lost = named(_compare(before, grant)) if before is not None else ((), ())
        loaded = PolicyLoaded(
            tenant=grant.tenant,
            name=grant.policy,
            digest=readings.digest(),
            files=readings.sources(),
            bridge=grant.bridge,
            previous_grant=before.digest if before is not None else "",
            gained=gained,
            lost=lost,
            limits=msgspec.to_builtins(grant.ceilings),
        )
        await self._journal.append(loaded, durable=False)
        facts = msgspec.to_builtins(grant)
        del facts["then"]  # it is written when it comes
        facts["sources"] = {key: str(source) for key, source in grant.sources.items()}
        await self._journal.append(GrantResolved(tenant=grant.tenant, digest=grant.digest, grant=facts))


def _compare(before: Grant, after: Grant) -> Changes:
    """With the tenant's own ceilings, which are of all its bridges: whoever has raised one, by hand too."""
    grants, limits = compare(before, after), compare_limits(before.ceilings, after.ceilings)
    return Changes(gained=grants.gained + limits.gained, lost=grants.lost + limits.lost)
