"""``policy.review`` and ``policy.approve``: a policy, or a tenant's ceiling, is looked at by what it changes,
and signed.

The host signs nothing: who owns the configuration does, and the supervisor looks at that before it writes.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator

import msgspec

from bridgehold import clock
from bridgehold.config.layout import Layout
from bridgehold.config.sections import ReviewSection
from bridgehold.config.settings import Settings
from bridgehold.errors import BridgeholdError, DeniedError, NotFoundError, PolicyError, UsageError
from bridgehold.host.admin_log import AdminLog
from bridgehold.host.front.method import Method
from bridgehold.host.front.outgoing import Emit
from bridgehold.host.front.registry import Registry
from bridgehold.host.startup import FileChange
from bridgehold.ids import LOCAL_TENANT, digest_bytes, nearest
from bridgehold.policies import shipped
from bridgehold.policies.approved import SKEW_S, Verified
from bridgehold.policies.changes import Capability, compare
from bridgehold.policies.files import Kind, Text, is_file_of
from bridgehold.policies.model import Grant, Machine
from bridgehold.policies.reviewed import OF_TENANT, SUFFIX, Review, demand_ceiling, render, state_of
from bridgehold.policies.tables import parse_time
from bridgehold.policies.tenants import compare_limits
from bridgehold.policies.tenants import parse as parse_tenant
from bridgehold.protocol.reviews import (
    ApprovePolicyParams,
    GrantChange,
    PolicyReview,
    ReviewParams,
)
from bridgehold.protocol.values import Principal

_MOST = 200
"""Grants that are looked at for one review."""
Write = Callable[[FileChange], Awaitable[None]]


class Reviews:
    """The handlers. One per host."""

    def __init__(self, look: PolicyLook, log: AdminLog, write: Write, verified: Verified) -> None:
        """`write`: has the supervisor write a file."""
        self._look = look
        self._log = log
        self._write = write
        self._verified = verified
        self._turn = asyncio.Lock()

    def table(self) -> dict[str, Method]:
        """The methods by name."""
        return {
            "policy.review": Method(ReviewParams, self.review, operator=True, reads=True),
            "policy.approve": Method(ApprovePolicyParams, self.approve, operator=True),
        }

    async def review(self, principal: Principal, params: ReviewParams, _emit: Emit) -> PolicyReview:
        """The policy beside what was reviewed of it. Raises `NotFoundError`, `PolicyError`."""
        return (await asyncio.to_thread(self._look.at, params.policy, principal.name))[0]

    async def approve(self, principal: Principal, params: ApprovePolicyParams, _emit: Emit) -> PolicyReview:
        """What was seen is what holds from the next command on.

        Raises `UsageError` where `seen` is not what stands, and `DeniedError` for an unsound signature.
        """
        async with self._turn:
            shown, found, before = await asyncio.to_thread(self._look.at, params.policy, principal.name)
            if shown.seen != params.seen:
                raise UsageError(
                    f"the policy {params.policy} is not as it was seen",
                    hint=f"`bridgehold policy review {params.policy}` shows it as it is now.",
                )
            made = Review(
                digest=found.digest,
                by=principal.name,
                at=params.at,
                expires=params.expires,
                signature=params.signature,
                text=found.text,
            )
            _check_times(made)
            if not made.is_sound(params.policy, self._verified):
                raise DeniedError(
                    f"the review of {params.policy} is not signed by this host's key for approvals",
                    hint="`bridgehold policy approve` signs it, as who owns the configuration (or root).",
                )

            async def act() -> PolicyReview:
                was = before.digest if before is not None else ""
                change = FileChange(kind="review", name=params.policy, text=render(made), was=was)
                await self._write(change)
                return msgspec.structs.replace(
                    shown, state="reviewed", by=made.by, at=made.at, expires=made.expires
                )

            details = {
                "digest": made.digest,
                "expires": made.expires,
                "seen": shown.seen,
                "gained": [f"{where} {one.key} {one.value}" for where, one in _each(shown, "gained")],
                "lost": [f"{where} {one.key} {one.value}" for where, one in _each(shown, "lost")],
                "signature": made.signature,
            }
            return await self._log.audited(principal, "policy.approve", params.policy, details, act)


class PolicyLook:
    """What is reviewed, as files say it. The host's, and one of who signs, which believes no host's."""

    def __init__(
        self,
        layout: Layout,
        settings: Settings,
        machine: Machine,
        registry: Registry,
        verified: Verified | None,
    ) -> None:
        self._layout = layout
        self._settings = settings
        self._machine = machine
        self._registry = registry
        self._verified = verified

    def at(self, name: str, you: str) -> tuple[PolicyReview, Text, Text | None]:
        """As it is shown to `you`; the policy's own file, and the review's.

        Raises `NotFoundError`, `PolicyError`.
        """
        found, text = self._own(name)
        if found is None:
            raise self._missing(name)
        now = clock.now()
        known, state = state_of(name, found, text, self._verified, now)
        if name.startswith(OF_TENANT) and state in {"edited", "never"}:
            with contextlib.suppress(PolicyError):
                demand_ceiling(name[1:], found, text, self._verified, now)
                state = "narrowed" if state == "edited" else state
        changes = tuple(self._changes(name, known))
        if state == "narrowed" and any(one.gained for one in changes):
            state = "edited"
        shown = PolicyReview(
            policy=name,
            file=found.file,
            digest=found.digest,
            state=state,
            required=self._settings.now.review.required,
            by=known.by if known is not None else "",
            at=known.at if known is not None else "",
            expires=known.expires if known is not None else "",
            changes=changes,
        )
        seen = digest_bytes(msgspec.json.encode(shown, order="deterministic"))
        return msgspec.structs.replace(shown, seen=seen, you=you), found, text

    def _own(self, name: str) -> tuple[Text | None, Text | None]:
        """What is reviewed, and its review."""
        kind, stem = _place_of(name)
        if not is_file_of(kind, stem):
            return None, None
        found, review = self._registry.files.own(kind, [stem, f"{stem}{SUFFIX}"])
        return found, review

    def _missing(self, name: str) -> NotFoundError:
        kind, stem = _place_of(name)
        near = nearest(stem, self._registry.files.names(kind))
        if kind == "tenant":
            hint = f"`bridgehold tenant create {stem[:80]}` makes it; without it policies hold as they are."
            return NotFoundError(f"tenants/{stem[:80]}.toml is not there{near}", hint=hint)
        hint = "A policy that comes with the package is reviewed with it: `bridgehold policy show`."
        return NotFoundError(f"policies/{name[:80]}.toml is not there{near}", hint=hint)

    def _changes(self, name: str, known: Review | None) -> Iterator[GrantChange]:
        """Of each grant that differs: against what was reviewed, what comes with the package, or nothing."""
        before, after = self._unbound(), self._unbound()
        kind, stem = _place_of(name)
        text = known.text if known is not None else f'extends = "{name}"\n' if name in shipped.names() else ""
        if kind == "tenant":
            text = text or "# nothing\n"
            yield from _limits_changed(stem, text, after.files.own(kind, [stem])[0])
        if text:
            before.files.put_instead(kind, stem, text)
        tenants = dict.fromkeys((LOCAL_TENANT, *after.files.names("tenant"), *name.split("@")[1:]))
        if kind == "tenant":
            tenants = dict.fromkeys([stem])
        pairs = [
            (tenant, entry.name)
            for entry in after.entries()
            if entry.manifest is not None
            for tenant in ([entry.tenant] if entry.tenant else tenants)
            if kind == "policy" or tenant == stem
        ]
        looked = 0
        for tenant, bridge in pairs:
            if kind == "policy" and not self._rests_on(after, name, bridge, tenant):
                continue
            looked += 1
            if looked > _MOST:  # who signs knows what was not shown
                fault = f"more than {_MOST} bridges of tenants rest on it: from here on nothing is shown"
                yield GrantChange(tenant=tenant, bridge=bridge, fault=fault)
                return
            try:
                new = after.resolve_grant(tenant, after.manifest(bridge, tenant))
            except BridgeholdError as error:
                yield GrantChange(tenant=tenant, bridge=bridge, fault=error.message[:300])
                continue
            changes = compare(self._grant(before, tenant, bridge) if text else None, new)
            if changes.gained or changes.lost:
                yield GrantChange(tenant=tenant, bridge=bridge, gained=changes.gained, lost=changes.lost)

    def _grant(self, registry: Registry, tenant: str, bridge: str) -> Grant | None:
        try:
            return registry.resolve_grant(tenant, registry.manifest(bridge, tenant))
        except BridgeholdError:
            return None

    def _rests_on(self, registry: Registry, name: str, bridge: str, tenant: str) -> bool:
        """Whether the bridge runs under the policy, or under one that extends it."""
        try:
            readings = registry.policy_for(registry.policy_name(bridge, tenant), tenant)[1]
        except BridgeholdError:
            return registry.policy_name(bridge, tenant) == name
        return readings.found.get(("policy", name)) is not None

    def _unbound(self) -> Registry:
        """A registry that demands no review, and writes nothing."""
        config = msgspec.structs.replace(self._settings.now, review=ReviewSection())
        return Registry(self._layout, config, self._machine, journal=None)


def _place_of(name: str) -> tuple[Kind, str]:
    """In which folder it lies, and under which name."""
    return ("tenant", name.removeprefix(OF_TENANT)) if name.startswith(OF_TENANT) else ("policy", name)


def _limits_changed(tenant: str, text: str, found: Text | None) -> Iterator[GrantChange]:
    """Of all of the tenant's bridges together. A fault of the file is told with each bridge."""
    with contextlib.suppress(PolicyError):
        if found is not None:
            before, after = (parse_tenant(tenant, one, found.file).limits for one in (text, found.text))
            changes = compare_limits(before, after)
            if changes.gained or changes.lost:
                yield GrantChange(tenant=tenant, bridge="*", gained=changes.gained, lost=changes.lost)


def _each(shown: PolicyReview, which: str) -> Iterator[tuple[str, Capability]]:
    for change in shown.changes:
        for one in getattr(change, which):
            yield f"{change.tenant}/{change.bridge}", one


def _check_times(made: Review) -> None:
    try:
        begin, end = parse_time(made.at), parse_time(made.expires) if made.expires else 0.0
    except ValueError as error:
        raise UsageError(str(error)) from None
    if abs(begin - clock.now()) > SKEW_S or (end and end <= begin):
        raise UsageError("the review is not of now, or ends before it begins", hint="Are the clocks right?")
