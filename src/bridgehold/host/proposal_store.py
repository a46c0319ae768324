"""Proposals on the disk: one record each, in the host's own folder. Its methods block."""

from __future__ import annotations

import contextlib
import re
import time
from pathlib import Path

import msgspec

from bridgehold import reads, writes
from bridgehold.errors import BudgetError, NotFoundError
from bridgehold.ids import is_name, parse_name
from bridgehold.policies.tables import parse_time
from bridgehold.protocol.proposals import Proposal

KEPT_SECONDS = 14 * 86_400
"""How long a proposal waits for somebody."""
MOST_WAITING = 50
"""Of one tenant."""
MOST_RECORDS = 200
"""Of one tenant: of those that are over the oldest are forgotten first; one whose rule holds never is."""
_ID = re.compile(r"p-[0-9a-z]{12}")
_SUFFIX = ".json"
_LONGEST = 64 * 1024


class ProposalStore:
    """All tenants' proposals below one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

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
        writes.replace(self._path(one), msgspec.json.encode(one), mode=0o600)

    def find(self, name: str) -> Proposal:
        """Whosever it is. Raises `NotFoundError`."""
        if _ID.fullmatch(name):
            for folder in self._tenants():
                with contextlib.suppress(NotFoundError):
                    return self._read(folder / f"{name}{_SUFFIX}")
        raise nothing(name)

    def of(self, tenant: str) -> list[Proposal]:
        """The newest last."""
        found, folder = [], self._of(tenant)
        for path in folder.glob(f"*{_SUFFIX}") if folder.is_dir() else ():
            with contextlib.suppress(NotFoundError):
                found.append(self._read(path))
        return sorted(found, key=lambda one: (one.at, one.id))

    def tenants(self) -> tuple[str, ...]:
        """Those for whom anything was asked that is still known."""
        return tuple(folder.name for folder in self._tenants())

    def _tenants(self) -> list[Path]:
        folders = sorted(self._folder.iterdir()) if self._folder.is_dir() else []
        return [one for one in folders if is_name(one.name) and one.is_dir() and not one.is_symlink()]

    def _of(self, tenant: str) -> Path:
        return self._folder / parse_name(tenant, "tenant")

    def _path(self, one: Proposal) -> Path:
        return self._of(one.tenant) / f"{one.id}{_SUFFIX}"

    def _read(self, path: Path) -> Proposal:
        data = reads.read_bytes(path, NotFoundError, most=_LONGEST)
        try:
            found = msgspec.json.decode(data, type=Proposal)
        except (msgspec.MsgspecError, ValueError):
            raise nothing(path.stem) from None
        if (found.tenant, found.id) != (path.parent.name, path.stem):
            raise nothing(path.stem)
        return as_of(time.time(), found)


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
