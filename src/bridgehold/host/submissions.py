"""``bridge.submit`` and what follows: a tenant brings a bridge, an operator decides what it asks for.

What was looked at, to the last byte and capability, is what is approved.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import msgspec

from bridgehold import clock, reads
from bridgehold.bridges import bundle, releases
from bridgehold.bridges.bundle import MOST_PACKED
from bridgehold.bridges.releases import CURRENT, Releases
from bridgehold.config.layout import Layout
from bridgehold.error_texts import from_os
from bridgehold.errors import (
    BridgeholdError,
    BusyError,
    CancelledError,
    DeniedError,
    NotFoundError,
    PolicyError,
    UsageError,
)
from bridgehold.host.admin_log import AdminLog
from bridgehold.host.cell.store import quarantine
from bridgehold.host.cell.store.artifacts import SerialChanges
from bridgehold.host.cell.store.quarantine import Quarantine
from bridgehold.host.examination import Examination, demand_free
from bridgehold.host.front.method import Method
from bridgehold.host.front.outgoing import Emit
from bridgehold.host.front.registry import Registry
from bridgehold.host.front.tenants import TenantFiles
from bridgehold.host.startup import LONGEST_FILE, ReleaseChange
from bridgehold.ids import digest_bytes, nearest, parse_name
from bridgehold.policies.changes import Changes, compare
from bridgehold.policies.model import Grant
from bridgehold.policies.tables import LONGEST_TEXT, format_time
from bridgehold.protocol.submissions import (
    ApproveParams,
    RejectParams,
    Release,
    RollbackParams,
    Shown,
    Submission,
    SubmissionParams,
    SubmissionsParams,
    SubmissionState,
    SubmitParams,
)
from bridgehold.protocol.values import Principal

OWNER = "owner"
"""The host's own user: it could write the files by hand, and so may approve what it submitted."""
_SWEEP_SECONDS = 600.0
Write = Callable[[ReleaseChange, bytes | None], Awaitable[None]]


class _Check:
    """One submission that is being looked at."""

    def __init__(self) -> None:
        self.stop: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Who cancels it ends the look."""
        self.settling = False
        """What came of it is about to be seen: who sees that may hand in the next, and waits for the rest."""
        self.over = asyncio.Event()

    def settle(self) -> None:
        """What came of it is known."""
        self.settling = True


class Submissions:
    """The handlers. One per host."""

    def __init__(
        self,
        layout: Layout,
        registry: Registry,
        tenants: TenantFiles,
        kept: Quarantine,
        examination: Examination,
        log: AdminLog,
        write: Write,
    ) -> None:
        self._layout = layout
        self._registry = registry
        self._tenants = tenants
        self._quarantine = kept
        self._examination = examination
        self._log = log
        self._write = write
        self._turns = SerialChanges()
        self._checking: dict[str, _Check] = {}
        """By tenant, one at a time."""

    def table(self) -> dict[str, Method]:
        """The methods by name."""
        return {
            "bridge.submit": Method(SubmitParams, self.submit, gives=2 * MOST_PACKED),
            "bridge.submissions": Method(SubmissionsParams, self.list, reads=True),
            "bridge.submission": Method(SubmissionParams, self.show, reads=True),
            "bridge.approve": Method(ApproveParams, self.approve, operator=True, gives=2 * MOST_PACKED),
            "bridge.reject": Method(RejectParams, self.reject, operator=True),
            "bridge.rollback": Method(RollbackParams, self.rollback, operator=True),
        }

    async def watch(self) -> None:
        """What an earlier host was checking has failed; what waits too long goes. For ever."""
        await asyncio.to_thread(self._quarantine.recover)
        while True:
            for tenant in await asyncio.to_thread(self._quarantine.tenants):
                with contextlib.suppress(BridgeholdError, OSError):
                    await self._expire(tenant)
            await asyncio.sleep(_SWEEP_SECONDS)

    async def submit(self, principal: Principal, params: SubmitParams, _emit: Emit) -> Submission:
        """Check what the archive holds; then it waits for an operator. Raises why nothing was kept of it."""
        tenant = parse_name(params.tenant, "tenant")
        self._tenants.demand(tenant)
        examination = self._examination
        while (before := self._checking.get(tenant)) is not None:
            if not before.settling:
                raise BusyError(f"another submission of {tenant} is being checked", retry="later")
            await before.over.wait()
            self._tenants.demand(tenant)
        check = self._checking[tenant] = _Check()

        async def act() -> Submission:
            work = asyncio.ensure_future(examination.take(principal, tenant, params.archive, check.settle))
            check.stop.add_done_callback(lambda _: work.cancel())  # or nothing, if it is done
            try:
                return await work
            except asyncio.CancelledError:
                raise CancelledError(f"the tenant {tenant} was revoked meanwhile") from None
            except OSError as error:
                raise from_os(error) from error

        try:
            details = {"archive": params.archive}
            return await self._log.audited(principal, "bridge.submit", tenant, details, act, tenant=tenant)
        finally:
            check.stop.cancel()
            check.over.set()
            del self._checking[tenant]

    async def list(self, principal: Principal, params: SubmissionsParams, _emit: Emit) -> list[Submission]:
        """Those of tenants that the caller may act for, the newest last."""
        wanted = (params.tenant,) if params.tenant else await asyncio.to_thread(self._quarantine.tenants)
        found: list[Submission] = []
        for tenant in wanted:
            if principal.may_act_for(tenant) or principal.operator:
                found += await asyncio.to_thread(self._quarantine.of, tenant)
        return [one for one in found if principal.may_use(one.bridge)]

    async def show(self, principal: Principal, params: SubmissionParams, _emit: Emit) -> Shown:
        """One of them, beside what its tenant has now. Raises `NotFoundError`."""
        return (await self._look(await self._find(principal, params.submission)))[0]

    async def approve(self, principal: Principal, params: ApproveParams, _emit: Emit) -> Release:
        """New sessions begin with it from here on. Raises `UsageError` where `seen` is not what stands."""
        record = await self._find(principal, params.submission)
        if record.by == principal.name and principal.name != OWNER:
            raise DeniedError(
                f"{principal.name} has submitted {record.id} itself", hint="Another operator approves it."
            )

        async def approve() -> Release:
            return await self._approved(principal, record.id, params.seen)

        return await self._turns.take(record.tenant, approve)

    async def reject(self, principal: Principal, params: RejectParams, _emit: Emit) -> Submission:
        """It is over, and its bytes are gone."""
        record = await self._find(principal, params.submission)
        if not params.reason.isprintable() or len(params.reason) > LONGEST_TEXT:
            raise UsageError(f"the reason is one line, of at most {LONGEST_TEXT} characters")

        async def act() -> Submission:
            decided = await self._decided(record, "rejected", principal.name, params.reason)
            await self._let_go(decided)
            return decided

        async def reject() -> Submission:
            _demand_waiting(await asyncio.to_thread(self._quarantine.find, record.id))
            details = {"submission": record.id, "digest": record.digest, "reason": params.reason}
            subject = f"{record.tenant}/{record.bridge}"
            return await self._log.audited(principal, "bridge.reject", subject, details, act)

        return await self._turns.take(record.tenant, reject)

    async def rollback(self, principal: Principal, params: RollbackParams, _emit: Emit) -> Release:
        """New sessions begin with the release before, or, after the first, with none."""
        tenant, bridge = parse_name(params.tenant, "tenant"), parse_name(params.bridge, "bridge")

        async def rollback() -> Release:
            text, before = await self._current(tenant, bridge)
            if not text:
                raise self._none_of(tenant, bridge)
            after = releases.rolled_back(before, by=principal.name, at=format_time(clock.now()))

            async def act() -> Release:
                return await self._change(tenant, bridge, text, before, after, None)

            details = {"from": before.digest, "to": after.digest}
            subject = f"{tenant}/{bridge}"
            return await self._log.audited(principal, "bridge.rollback", subject, details, act)

        return await self._turns.take(tenant, rollback)

    async def end(self, tenant: str, _reason: str) -> int:
        """Everything of a tenant's that waits or is being checked; how many there were."""
        if (check := self._checking.get(tenant)) is not None:
            check.stop.cancel()
            await check.over.wait()

        async def forget() -> int:
            return await asyncio.to_thread(self._quarantine.forget, tenant)

        return await self._turns.take(tenant, forget)

    async def _approved(self, principal: Principal, name: str, seen: str) -> Release:
        record = await asyncio.to_thread(self._quarantine.find, name)
        _demand_waiting(record)
        shown, text, before = await self._look(record)
        if not shown.seen or shown.seen != seen:
            raise UsageError(
                f"{name} is not as it was seen: something of it, or of what its tenant has, changed",
                hint=f"`bridgehold bridge submissions show {name}` shows it as it is now.",
            )
        self._tenants.demand(record.tenant)
        demand_free(self._layout, self._registry, record.tenant, record.bridge)
        found = await asyncio.to_thread(self._quarantine.bundle, record)
        now = format_time(clock.now())
        after = releases.approved(before, record.digest, submission=name, by=principal.name, at=now)

        async def act() -> Release:
            packed = await asyncio.to_thread(bundle.encode, found)
            done = await self._change(record.tenant, record.bridge, text, before, after, packed)
            await self._decided(record, "approved", principal.name, "")
            return done

        details = {
            "submission": name,
            "submitted_by": record.by,
            "digest": record.digest,
            "before": before.digest,
            "version": record.version,
            "seen": seen,
            "gained": [f"{one.key} {one.value}" for one in shown.gained],
            "lost": [f"{one.key} {one.value}" for one in shown.lost],
        }
        subject = f"{record.tenant}/{record.bridge}"
        return await self._log.audited(principal, "bridge.approve", subject, details, act)

    async def _look(self, record: Submission) -> tuple[Shown, str, Releases]:
        """As it is shown now; `current.toml`, and what that says."""
        text, before = await self._current(record.tenant, record.bridge)
        if record.state == "waiting" and before.submission == record.id:  # a host ended between the two
            record = await self._decided(record, "approved", before.by, "")
        shown = Shown(**msgspec.structs.asdict(record))
        if record.state != "waiting":
            return shown, text, before
        found = await asyncio.to_thread(self._quarantine.bundle, record)
        manifest = await asyncio.to_thread(quarantine.manifest_of, found)
        grant = self._registry.resolve_grant(record.tenant, manifest)
        changes, replaces = self._beside(record.tenant, record.bridge, grant)
        shown = msgspec.structs.replace(
            shown,
            replaces=replaces,
            policy=grant.policy,
            gained=changes.gained,
            lost=changes.lost,
            withheld=grant.withheld,
        )
        what = msgspec.json.encode((shown, grant.digest, text), order="deterministic")
        return msgspec.structs.replace(shown, seen=digest_bytes(what)), text, before

    def _beside(self, tenant: str, bridge: str, grant: Grant) -> tuple[Changes, str]:
        """What it gains and loses beside the release in use, and which that is."""
        had: Grant | None = None
        others: list[Grant] = []
        replaces = ""
        for entry in self._registry.entries():
            if entry.tenant not in ("", tenant) or entry.manifest is None:
                continue
            try:
                one = self._registry.resolve_grant(tenant, entry.manifest)
            except BridgeholdError:  # who can't have it has nothing of it
                continue
            if (entry.tenant, entry.name) == (tenant, bridge):
                had, replaces = one, f"{entry.manifest.version} {entry.manifest.release}".strip()
            else:
                others.append(one)
        return compare(had, grant, tuple(others)), replaces

    async def _current(self, tenant: str, bridge: str) -> tuple[str, Releases]:
        file = self._layout.own_bridges(tenant) / bridge / CURRENT
        text = await asyncio.to_thread(reads.read_text, file, PolicyError, most=LONGEST_FILE, or_none=True)
        return text, releases.parse(text, str(file)) if text else Releases()

    def _none_of(self, tenant: str, bridge: str) -> NotFoundError:
        have = {(one.tenant, one.name) for one in self._registry.entries() if one.tenant}
        near = nearest(bridge, sorted(name for whose, name in have if whose == tenant))
        others = sorted(whose for whose, name in have if name == bridge)
        also = f"A bridge of that name is {others[0]}'s: `--tenant {others[0]}`. " if others else ""
        return NotFoundError(
            f"{tenant} has submitted no bridge {bridge!r} that was approved{near}",
            hint=f"{also}`bridgehold bridge list` shows whose bridges come from where.",
        )

    async def _change(
        self, tenant: str, bridge: str, text: str, before: Releases, after: Releases, packed: bytes | None
    ) -> Release:
        was = digest_bytes(text.encode()) if text else ""
        change = ReleaseChange(tenant=tenant, bridge=bridge, text=releases.render(after), was=was)
        await self._write(change, packed)
        self._registry.look_again()
        return Release(tenant=tenant, bridge=bridge, digest=after.digest, before=before.digest)

    async def _decided(self, record: Submission, state: SubmissionState, by: str, reason: str) -> Submission:
        now = format_time(clock.now())
        decided = msgspec.structs.replace(record, state=state, reason=reason, decided_by=by, decided_at=now)
        try:
            await asyncio.to_thread(self._quarantine.write, decided)
        except OSError as error:
            raise from_os(error) from error
        return decided

    async def _find(self, principal: Principal, name: str) -> Submission:
        record = await asyncio.to_thread(self._quarantine.find, name)
        mine = principal.operator or principal.may_act_for(record.tenant)
        if not mine or not principal.may_use(record.bridge):
            raise quarantine.nothing(name)
        return record

    async def _let_go(self, record: Submission) -> None:
        await self._examination.let_go(record)

    async def _expire(self, tenant: str) -> None:
        """One tenant's, between two decisions on its submissions: what was decided does not expire."""

        async def expire() -> list[Submission]:
            return await asyncio.to_thread(self._quarantine.expire, tenant, clock.now())

        for record in await self._turns.take(tenant, expire):
            await self._let_go(record)


def _demand_waiting(record: Submission) -> None:
    if record.state != "waiting":
        raise UsageError(f"{record.id} does not wait any more: it is {record.state}", hint=record.reason)
