"""Submitted bridges until somebody decides: a record and one file of bytes each, in the host's own folder.

Its methods block: call them from a thread, one change of a tenant's at a time.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import msgspec

from bridgehold import clock, reads, writes
from bridgehold.bridges import bundle, laid
from bridgehold.bridges.bundle import Bundle
from bridgehold.bridges.manifest import Manifest
from bridgehold.bridges.manifest_file import parse_manifest
from bridgehold.errors import BudgetError, ManifestError, NotFoundError, UsageError
from bridgehold.host.cell.store.records import Records
from bridgehold.ids import random_id
from bridgehold.policies.tables import format_time, parse_time
from bridgehold.policies.units import format_size
from bridgehold.protocol.submissions import Submission

KEPT_SECONDS = 14 * 86_400
"""How long a submission waits for somebody."""
MOST_WAITING = 8
"""Of one tenant, unless its ceiling `submissions` says less."""
MOST_RECORDS = 50
"""Of one tenant: of those that were decided the oldest are forgotten first."""
_BYTES, _TREE = ".bundle", ".tree"
_OPEN = ("checking", "waiting")
_LATE = "nobody decided in time"


class Quarantine(Records[Submission]):
    """All tenants' submissions below one folder."""

    _kind = Submission
    _id = re.compile(r"sub-[0-9a-z]{16}")
    _longest = 256 * 1024

    def demand_room(self, tenant: str, most: int | None, most_bytes: int | None, size: int) -> None:
        """Raise `BudgetError` where one more of `size` bytes is too much."""
        waiting = [one for one in self.of(tenant) if one.state in _OPEN]
        most = MOST_WAITING if most is None else min(most, MOST_WAITING)
        if len(waiting) >= most:
            raise BudgetError(
                f"{len(waiting)} submissions of {tenant} wait already",
                hint=f"At most {most} do: an operator approves or rejects them.",
            )
        if most_bytes is not None and sum(one.bytes for one in waiting) + size > most_bytes:
            raise BudgetError(
                f"what {tenant} submits would take more than {format_size(most_bytes)}",
                hint="An operator approves or rejects what waits, or raises `submitted`.",
            )

    def keep(self, record: Submission, found: Bundle) -> None:
        """Its bytes, then its record."""
        writes.make_folder(self._of(record.tenant), mode=0o700)
        writes.replace(self._path(record, _BYTES), bundle.encode(found), mode=0o600)
        self.write(record)

    def write(self, one: Submission) -> None:
        """The record as it is now; of one that is over the bytes go, but for one that was approved."""
        super().write(one)
        if one.state not in _OPEN:
            self._path(one, _BYTES).unlink(missing_ok=True)

    def bundle(self, record: Submission) -> Bundle:
        """Its files, if they still are what the record says. Raises `UsageError` otherwise."""
        data = reads.read_bytes(self._path(record, _BYTES), NotFoundError, most=2 * bundle.MOST_PACKED)
        found = bundle.decode(data)
        if bundle.digest(found) != record.digest:
            raise UsageError(f"the bytes of {record.id} are not those that were checked")
        return found

    def environments(self, tenant: str) -> dict[str, int]:
        """Digests and bytes of what was built for those that wait."""
        waiting = [one for one in self.of(tenant) if one.state in _OPEN and one.environment]
        return {one.environment: one.environment_bytes for one in waiting}

    def expire(self, tenant: str, now: float) -> list[Submission]:
        """What of the tenant's has waited too long is over, and given; what was decided long ago goes."""
        records = self._kept(tenant)
        decided = [one for one in records if one.state not in _OPEN]
        for one in decided[: max(0, len(records) - MOST_RECORDS)]:
            self._path(one).unlink(missing_ok=True)
        over = [late for one in records if (late := self._as_of(now, one)) is not one]
        for one in over:
            self.write(one)
        return over

    def recover(self) -> None:
        """At a host's start: what an earlier one was checking has failed, and what it laid down goes."""
        for left in self._folder.glob(".*") if self._folder.is_dir() else ():
            shutil.rmtree(left, ignore_errors=True)
        for tenant in self.tenants():
            folder = self._of(tenant)
            for tree in folder.glob(f"*{_TREE}"):
                shutil.rmtree(tree, ignore_errors=True)
            for one in self.of(tenant):
                if one.state == "checking":
                    self.write(
                        msgspec.structs.replace(one, state="failed", reason="the host ended meanwhile")
                    )
            known = {one.id for one in self.of(tenant)}
            for path in folder.glob(f"*{_BYTES}"):
                if path.stem not in known:
                    path.unlink(missing_ok=True)

    def lay(self, record: Submission, found: Bundle) -> Path:
        """Its files in a new folder, for a sandbox to see."""
        folder = self._path(record, _TREE)
        try:
            laid.lay_down(folder, found)
        except BaseException:
            self.clear(record)
            raise
        return folder

    def clear(self, record: Submission) -> None:
        """What was laid down of it goes."""
        shutil.rmtree(self._path(record, _TREE), ignore_errors=True)

    def forget(self, tenant: str) -> int:
        """Everything of a tenant's; how many there were."""
        count = len(self.of(tenant))
        shutil.rmtree(self._of(tenant), ignore_errors=True)
        return count

    def _nothing(self, name: str) -> NotFoundError:
        return nothing(name)

    def _as_of(self, now: float, one: Submission) -> Submission:
        """One that waits too long has expired."""
        if one.state == "waiting" and parse_time(one.expires) <= now:
            return msgspec.structs.replace(one, state="expired", reason=_LATE)
        return one


def new_record(tenant: str, found: Bundle, name: str, version: str, by: str) -> Submission:
    """Of a bundle that is about to be checked."""
    now = clock.now()
    return Submission(
        id=random_id("sub"),
        tenant=tenant,
        bridge=name,
        version=version,
        digest=bundle.digest(found),
        state="checking",
        by=by,
        at=format_time(now),
        expires=format_time(now + KEPT_SECONDS),
        files=len(found.files),
        bytes=found.size,
    )


def manifest_of(found: Bundle, folder: Path = Path("/bridge")) -> Manifest:
    """What its ``bridge.toml`` says, as of a bridge in `folder`. Blocks. Raises `ManifestError`."""
    data = found.get("bridge.toml")
    if data is None:
        raise ManifestError("there is no bridge.toml at the top of it", where="the archive")
    return parse_manifest(reads.decode(data, ManifestError, "bridge.toml"), folder)


def nothing(name: str) -> NotFoundError:
    """The same, whether it never was or is another tenant's."""
    return NotFoundError(
        f"there is no submission {name[:40]!r} here", hint="`bridgehold bridge submissions` lists them."
    )
