"""Proposals on the disk: one record each, in the host's own folder. Its methods block."""

from __future__ import annotations

import re
import shutil

import msgspec

from bridgehold import writes
from bridgehold.errors import BudgetError, NotFoundError
from bridgehold.host.cell.store.records import Records
from bridgehold.policies.tables import parse_time
from bridgehold.protocol.proposals import Proposal

KEPT_SECONDS = 14 * 86_400
"""How long a proposal waits for somebody."""
MOST_WAITING = 50
"""Of one tenant."""
MOST_RECORDS = 200
"""Of one tenant: of those that are over the oldest are forgotten first; one whose rule holds never is."""


class ProposalStore(Records[Proposal]):
    """All tenants' proposals below one folder."""

    _kind = Proposal
    _id = re.compile(r"p-[0-9a-z]{12}")
    _longest = 64 * 1024

    def add(self, one: Proposal) -> None:
        """Raises `BudgetError` where too many of the tenant's wait."""
        known = self.of(one.tenant)
        if sum(other.state == "waiting" for other in known) >= MOST_WAITING:
            raise BudgetError(
                f"{MOST_WAITING} proposals of {one.tenant} wait already",
                hint="`bridgehold proposals list` shows them: an operator approves or rejects them.",
            )
        decided = [other for other in known if other.state in ("rejected", "expired")]
        for other in decided[: max(0, len(known) - MOST_RECORDS + 1)]:
            self._path(other).unlink(missing_ok=True)
        self.write(one)

    def write(self, one: Proposal) -> None:
        """The record as it is now, durably."""
        writes.make_folder(self._of(one.tenant), mode=0o700)
        super().write(one)

    def forget(self, tenant: str) -> None:
        """Everything of a tenant's."""
        shutil.rmtree(self._of(tenant), ignore_errors=True)

    def _nothing(self, name: str) -> NotFoundError:
        return nothing(name)

    def _as_of(self, now: float, one: Proposal) -> Proposal:
        return as_of(now, one)


def as_of(now: float, one: Proposal) -> Proposal:
    """The proposal itself, unless it has waited too long or its rule has ended (pure)."""
    if one.state == "waiting" and parse_time(one.until) <= now:
        return msgspec.structs.replace(one, state="expired", decided_reason="nobody decided in time")
    if one.state == "approved" and parse_time(one.expires) <= now:
        return msgspec.structs.replace(one, state="expired")
    return one


def nothing(name: str) -> NotFoundError:
    """The same, whether it never was or is another tenant's."""
    return NotFoundError(
        f"there is no proposal {name[:40]!r} here", hint="`bridgehold proposals list` lists them."
    )
