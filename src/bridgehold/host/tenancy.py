"""``tenant.*``: what operators do to tenants while the host runs."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable

import msgspec

from bridgehold import clock
from bridgehold.audit.client import JournalClient
from bridgehold.bridges.catalogue import Entry
from bridgehold.config.settings import Settings
from bridgehold.errors import AuditError, BridgeholdError, NotFoundError, PolicyError, UsageError
from bridgehold.host.admin_log import AdminLog
from bridgehold.host.front.ceiling_events import CeilingEvents
from bridgehold.host.front.method import Method
from bridgehold.host.front.outgoing import Emit
from bridgehold.host.front.tenants import TenantFiles, TokenFiles
from bridgehold.host.revocation import AtRest, Ending, Revocation, milliseconds
from bridgehold.host.token_admin import info_of
from bridgehold.ids import LOCAL_TENANT, nearest, parse_name
from bridgehold.keeper.client import KeeperClient
from bridgehold.keeper.spending import Used
from bridgehold.policies.model import Ceilings
from bridgehold.policies.tables import LONGEST_TEXT, format_time
from bridgehold.policies.tenants import State, Tenant, amount, limited, shown
from bridgehold.protocol.frames import NoParams
from bridgehold.protocol.tenants import (
    CreateTenantParams,
    LimitParams,
    NameParams,
    Part,
    Removed,
    RemoveParams,
    Revoked,
    StateParams,
    TenantInfo,
)
from bridgehold.protocol.values import Principal

_FILE_BY_HAND = (
    "It is refused until this host restarts, and all of it is ended. Before that revoke it again, or write "
    '`state = "revoked"` under [tenant] of its file by hand.'
)
_SUSPENDED_BY_HAND = (
    "It is refused until this host restarts. Before that suspend it again, or write "
    '`state = "suspended"` under [tenant] of its file by hand.'
)
_TELL_AGAIN_SECONDS, _TELL_AT_LEAST_SECONDS = 0.25, 30.0


class Tenancy:
    """The handlers. One per host."""

    def __init__(
        self,
        files: TenantFiles,
        tokens: TokenFiles,
        sessions: Callable[[], Iterable[str]],
        settings: Settings,
        used: Callable[[str], Used],
        ending: Ending,
        at_rest: AtRest,
        keeper: KeeperClient,
        journal: JournalClient,
        log: AdminLog,
        entries: Callable[[], list[Entry]],
        look_up_again: Callable[[], Awaitable[None]],
        ceilings: CeilingEvents,
    ) -> None:
        """`sessions`: of each that is open, whose it is. `used`: what a tenant has used of its ceilings.
        `entries`: of the catalogue. `look_up_again`: who is connected may be somebody else now, or nobody.
        """
        self._files = files
        self._tokens = tokens
        self._revocation = Revocation(tokens, ending, at_rest, keeper, look_up_again)
        self._sessions = sessions
        self._settings = settings
        self._used = used
        self._at_rest = at_rest
        self._journal = journal
        self.log = log
        self._entries = entries
        self._ceilings = ceilings
        self._tellings = 0

    def table(self) -> dict[str, Method]:
        """The methods by name."""
        return {
            "tenant.create": Method(CreateTenantParams, self.create, operator=True),
            "tenant.list": Method(NoParams, self.list_tenants, operator=True),
            "tenant.show": Method(NameParams, self.show, operator=True),
            "tenant.limit": Method(LimitParams, self.limit, operator=True),
            "tenant.suspend": Method(StateParams, self.suspend, operator=True),
            "tenant.resume": Method(StateParams, self.resume, operator=True),
            "tenant.revoke": Method(StateParams, self.revoke, operator=True),
            "tenant.remove": Method(RemoveParams, self.remove, operator=True),
        }

    async def tell_journal(self) -> None:
        """Each tenant's ceiling, as the files have it now: at the start, and when they may have changed.

        What can't be read refuses its tenants meanwhile, and is looked at again until it can.
        """
        self._tellings += 1
        turn, pause = self._tellings, _TELL_AGAIN_SECONDS
        while turn == self._tellings and not await self._told_journal():
            await asyncio.sleep(pause)
            pause = min(2 * pause, _TELL_AT_LEAST_SECONDS)

    async def _told_journal(self) -> bool:
        """Whether all of it could be read."""
        try:
            names = self._files.names()
        except PolicyError:
            return False
        whole, known = True, dict[str, Ceilings]()
        try:
            known = await self._ceilings.known()
        except AuditError:
            whole = False
        for name in dict.fromkeys((*names, *known)):
            try:
                tenant = self._files.of(name)
                await self._journal.bound(name, tenant.limits.journal or 0)
                await self._ceilings.found(tenant, self._files.readings(name))
            except BridgeholdError:
                whole = False
        return whole

    async def _bounded(self, tenant: Tenant) -> Tenant:
        await self._journal.bound(tenant.name, tenant.limits.journal or 0)
        await self._ceilings.changed(tenant, self._files.readings(tenant.name))
        return tenant

    async def create(self, principal: Principal, params: CreateTenantParams, _emit: Emit) -> TenantInfo:
        """Raises `UsageError` where there is one already. A ceiling's file that was there stays as it is."""
        name = parse_name(params.name, "tenant")

        def edit(tenant: Tenant) -> Tenant:
            if tenant.declared:
                raise UsageError(f"there is a tenant {name!r} already", where=tenant.source)
            made = msgspec.structs.replace(tenant, limits=limited(tenant.limits, params.limits))
            return _signed(made, principal)

        async def act() -> TenantInfo:
            return self._info(await self._bounded(await self._files.change(name, edit)))

        return await self.log.audited(principal, "tenant.create", name, params.limits, act)

    async def list_tenants(self, _principal: Principal, _params: NoParams, _emit: Emit) -> list[TenantInfo]:
        """All tenants, with state and use."""
        return [self._shown(name) for name in self._known()]

    async def show(self, _principal: Principal, params: NameParams, _emit: Emit) -> TenantInfo:
        """One tenant. Raises `NotFoundError`."""
        return self._shown(self._require(params.name))

    async def limit(self, principal: Principal, params: LimitParams, _emit: Emit) -> TenantInfo:
        """What is left out stays as it is."""
        name = self._require(params.name)

        def edit(tenant: Tenant) -> Tenant:
            limits = limited(tenant.limits, params.limits)
            return _signed(msgspec.structs.replace(tenant, limits=limits), principal)

        async def act() -> TenantInfo:
            return self._info(await self._bounded(await self._files.change(name, edit)))

        return await self.log.audited(principal, "tenant.limit", name, params.limits, act)

    async def suspend(self, principal: Principal, params: StateParams, _emit: Emit) -> TenantInfo:
        """Nothing begins from here on: no session, command, provider's call. What runs may end as it ends.

        Raises why its file could not be made to say so; it holds all the same, until this host ends.
        """
        return await self._set(principal, "tenant.suspend", params, "suspended")

    async def resume(self, principal: Principal, params: StateParams, _emit: Emit) -> TenantInfo:
        """Let a suspended tenant ask again."""
        return await self._set(principal, "tenant.resume", params, "active")

    async def revoke(self, principal: Principal, params: StateParams, _emit: Emit) -> Revoked:
        """For good: refused from here on, then sessions, warm processes, tokens and keys end.

        Raises why its file could not be made to say so; all of it is done then, until this host ends.
        """
        name = self._require(params.name)
        _one_line(params.reason)

        def edit(tenant: Tenant) -> Tenant:
            return _in_state(tenant, "revoked", params.reason, principal)

        async def act() -> Revoked:
            begun = time.monotonic()
            fault: BridgeholdError | None = None
            parts: dict[str, Part] = {}
            try:
                await self._files.change(name, edit)
            except BridgeholdError as error:
                # What its file can't be made to say holds here, and what runs ends all the same.
                await self._files.hold(name, edit(Tenant(name=name)))
                error.hint = _FILE_BY_HAND
                fault = error
            try:
                parts = await self._revocation.end(name, f"by {principal.name}: the tenant was revoked")
            except BridgeholdError as error:
                fault = fault or error
            if fault is not None:
                raise fault
            return Revoked(name=name, ms=milliseconds(begun), parts=parts)

        return await self.log.audited(principal, "tenant.revoke", name, {"reason": params.reason}, act)

    async def remove(self, principal: Principal, params: RemoveParams, _emit: Emit) -> Removed:
        """Once it is revoked; its ceiling stays. Raises `UsageError` where the configuration names it."""
        name = parse_name(params.name, "tenant")
        if not self._files.said(name).declared:
            raise self._unknown(name)
        owners = [one for one, section in self._settings.now.principals.items() if name in section.tenants]
        if owners:
            raise UsageError(
                f"{', '.join(owners)} may still act for {name}",
                where="config.toml",
                hint="Take it out of `[principals.NAME] tenants`, and `bridgehold reload`.",
            )

        async def act() -> Removed:
            if self._files.said(name).state != "revoked":
                hint = f"`bridgehold tenant revoke {name}`."
                raise UsageError(f"tenant {name} is not revoked", hint=hint)
            if left := [token for token in self._tokens.names() if self._speaks_for(token, name)]:
                raise UsageError(
                    f"{', '.join(f'token {token}' for token in left)} may still act for {name}",
                    hint=f"`bridgehold token revoke {left[0]}`: whoever is created anew is somebody else.",
                )
            await self._revocation.end_keys(name)
            await self._at_rest.proposals(name)
            self._at_rest.ends(name)
            await self._files.remove(name)
            await self._ceilings.changed(Tenant(name=name), self._files.readings(name))
            return await self._left(name, gone=params.artifacts)

        details = {"artifacts": "removed" if params.artifacts else "kept"}
        return await self.log.audited(principal, "tenant.remove", name, details, act)

    def _speaks_for(self, token: str, tenant: str) -> bool:
        """Whether its file says so, also of one that makes nobody as long as this host runs."""
        with contextlib.suppress(BridgeholdError):
            return tenant in self._tokens.of(token).scope.tenants
        return False

    async def _left(self, name: str, *, gone: bool) -> Removed:
        """What lies on the disk of a tenant that was removed; its artifacts are `gone`, or stay."""
        count, size = await self._at_rest.artifacts(name, gone)
        bridges = sorted({entry.name for entry in self._entries() if entry.tenant == name})
        return Removed(
            name=name,
            artifacts=count,
            artifact_bytes=size,
            artifacts_removed=gone,
            bridges=tuple(bridges),
        )

    async def _set(self, principal: Principal, action: str, params: StateParams, state: State) -> TenantInfo:
        name = self._require(params.name)

        async def act() -> TenantInfo:
            def edit(tenant: Tenant) -> Tenant:
                return _in_state(tenant, state, params.reason, principal)

            try:
                return self._info(await self._files.change(name, edit))
            except UsageError:
                raise
            except BridgeholdError as error:
                if state == "suspended":
                    known = Tenant(name=name)
                    with contextlib.suppress(PolicyError):
                        known = self._files.said(name)
                    await self._files.hold(name, edit(known))
                    error.hint = _SUSPENDED_BY_HAND
                raise

        return await self.log.audited(principal, action, name, {"reason": params.reason}, act)

    def _known(self) -> tuple[str, ...]:
        """Everybody of whom a file, the configuration, a token or a session says something, and `local`."""
        found = set(self._files.names())
        for section in self._settings.now.principals.values():
            found.update(section.tenants)
        for name in self._tokens.names():
            found.update(info_of(self._tokens, name).tenants)
        found.update(self._sessions())
        return tuple(sorted({*found, LOCAL_TENANT} - {"*"}))

    def demand(self, name: str) -> None:
        """Raise unless there is such a tenant, and it is active."""
        self._files.of(self._require(name)).demand()

    def _require(self, name: str) -> str:
        """`name`, if there is such a tenant. Raises `UsageError`, `NotFoundError`."""
        if parse_name(name, "tenant") not in self._known():
            raise self._unknown(name)
        return name

    def _unknown(self, name: str) -> NotFoundError:
        return NotFoundError(
            f"there is no tenant {name!r}{nearest(name, self._known())}",
            hint=f"`bridgehold tenant create {name}` makes it.",
        )

    def _shown(self, name: str) -> TenantInfo:
        """Who is refused beside a file that is broken is shown as that, with both reasons."""
        held = ""
        try:
            tenant = self._files.said(name)
            held = "" if tenant.state == "active" else f"; {tenant.decision.reason}"
            self._files.check(name)
            return self._info(self._files.of(name))
        except PolicyError as error:
            info = TenantInfo(name=name, state="broken", reason=f"{error.message}{held}", declared=True)
            return msgspec.structs.replace(info, sessions=self._open(name), tokens=self._tokens_of(name))

    def _info(self, tenant: Tenant) -> TenantInfo:
        return TenantInfo(
            name=tenant.name,
            state=tenant.state,
            reason=tenant.reason,
            by=tenant.by,
            at=tenant.at,
            declared=tenant.declared,
            limits=shown(tenant.limits),
            raised=self._ceilings.raised(tenant.name),
            used={
                key: amount(key, value)
                for key, value in msgspec.structs.asdict(self._used(tenant.name)).items()
            },
            sessions=self._open(tenant.name),
            tokens=self._tokens_of(tenant.name),
        )

    def _open(self, tenant: str) -> int:
        return Counter(self._sessions())[tenant]

    def _tokens_of(self, tenant: str) -> tuple[str, ...]:
        return tuple(name for name in self._tokens.names() if tenant in info_of(self._tokens, name).tenants)


def _in_state(tenant: Tenant, state: State, reason: str, principal: Principal) -> Tenant:
    if tenant.state == "revoked" and state != "revoked":
        raise UsageError(
            f"{tenant.name} is revoked, for good",
            hint=f"`bridgehold tenant remove {tenant.name}`, then create it anew.",
        )
    _one_line(reason)
    return _signed(msgspec.structs.replace(tenant, state=state, reason=reason), principal)


def _one_line(reason: str) -> None:
    if not reason.isprintable() or len(reason) > LONGEST_TEXT:
        raise UsageError(f"the reason is one line of plain text, of at most {LONGEST_TEXT} characters")


def _signed(tenant: Tenant, principal: Principal) -> Tenant:
    return msgspec.structs.replace(tenant, by=principal.name, at=_now(), declared=True)


def _now() -> str:
    return format_time(clock.now())
