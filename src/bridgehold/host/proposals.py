"""``proposal.*``: a refusal becomes a rule that somebody asks for, and an operator decides.

What was looked at, to the last capability, is what is approved. **The host approves nothing by itself**: who
owns the configuration signs, with a key that the host has not, and the supervisor looks at that first.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from bridgehold import clock
from bridgehold.audit.entries import Entry
from bridgehold.audit.read import removed_at
from bridgehold.audit.why import story
from bridgehold.errors import BridgeholdError, DeniedError, NotFoundError, PolicyError, UsageError
from bridgehold.host.acts import act_of, hosts_of
from bridgehold.host.admin_log import AdminLog
from bridgehold.host.cell.store.artifacts import SerialChanges
from bridgehold.host.front.method import Method
from bridgehold.host.front.outgoing import Emit
from bridgehold.host.front.registry import Registry
from bridgehold.host.front.tenants import TenantFiles
from bridgehold.host.proposal_store import KEPT_SECONDS, ProposalStore, nothing
from bridgehold.host.startup import FileChange
from bridgehold.ids import random_id
from bridgehold.policies.approved import SKEW_S, SUFFIX, Approved, Verified, in_force, read_ended, render
from bridgehold.policies.files import of_tenant
from bridgehold.policies.model import Grant, Policy
from bridgehold.policies.proposals import Smallest, smallest
from bridgehold.policies.simulate import Act
from bridgehold.policies.tables import LONGEST_TEXT, format_time, parse_time
from bridgehold.protocol.proposals import (
    ApproveProposalParams,
    Proposal,
    ProposalParams,
    ProposalsParams,
    ProposeParams,
    RejectProposalParams,
    Risk,
    ShownProposal,
    seen_of,
)
from bridgehold.protocol.values import Principal

Write = Callable[[FileChange], Awaitable[None]]


class Proposals:
    """The handlers. One per host."""

    def __init__(
        self,
        registry: Registry,
        tenants: TenantFiles,
        kept: ProposalStore,
        audit: Path,
        log: AdminLog,
        write: Write,
        verified: Verified,
    ) -> None:
        """`audit`: where refusals are looked up. `write`: has the supervisor write a file."""
        self._registry = registry
        self._tenants = tenants
        self._kept = kept
        self._audit = audit
        self._log = log
        self._write = write
        self._verified = verified
        self._turns = SerialChanges()
        self._looks = SerialChanges()
        self._audit_free = asyncio.Lock()

    def table(self) -> dict[str, Method]:
        """The methods by name."""
        return {
            "proposal.make": Method(ProposeParams, self.make),
            "proposal.list": Method(ProposalsParams, self.list, reads=True),
            "proposal.show": Method(ProposalParams, self.show, reads=True),
            "proposal.approve": Method(ApproveProposalParams, self.approve, operator=True),
            "proposal.reject": Method(RejectProposalParams, self.reject, operator=True),
        }

    async def make(self, principal: Principal, params: ProposeParams, _emit: Emit) -> Proposal:
        """The smallest rule that would have allowed it, for an operator to decide on.

        Raises `NotFoundError` for an event that is none of the caller's, `UsageError` for one that is no
        refusal or is allowed by now, and `DeniedError` where there is no such rule.
        """
        _one_line(params.reason)
        act, refusal = await self._looks.take(
            principal.name, lambda: self._look_up(principal, params.event), unasked=False
        )
        self._tenants.demand(act.tenant)
        found = self._smallest(act, params.weakenings)
        now = clock.now()
        made = Proposal(
            id=random_id("p", 12),
            tenant=act.tenant,
            bridge=act.bridge,
            event=refusal.ref,
            what=f"{act.what} {act.name}",
            refused=f"{refusal.text('rule')}: {refusal.text('reason')}"[:LONGEST_TEXT],
            grants=found.grants,
            gained=found.gained,
            risk=_risk(found),
            weakenings=params.weakenings,
            seconds=params.seconds,
            by=principal.name,
            at=format_time(now),
            until=format_time(now + KEPT_SECONDS),
            reason=params.reason,
        )

        async def act_on() -> Proposal:
            await asyncio.to_thread(self._kept.add, made)
            return made

        async def turn() -> Proposal:
            details = {**_details(made), "reason": params.reason}
            return await self._log.audited(
                principal, "proposal.make", _subject(made), details, act_on, tenant=made.tenant
            )

        return await self._turns.take(made.tenant, turn)

    async def list(self, principal: Principal, params: ProposalsParams, _emit: Emit) -> list[Proposal]:
        """Those of tenants that the caller may act for, the newest last."""
        wanted = (params.tenant,) if params.tenant else await asyncio.to_thread(self._kept.tenants)
        found: list[Proposal] = []
        for tenant in wanted:
            if principal.may_act_for(tenant) or principal.operator:
                found += await asyncio.to_thread(self._kept.of, tenant)
        return [one for one in found if principal.may_use(one.bridge)]

    async def show(self, principal: Principal, params: ProposalParams, _emit: Emit) -> ShownProposal:
        """One of them, as it would change what is granted now. Raises `NotFoundError`."""
        return self._look(await self._find(principal, params.proposal), principal)

    async def approve(self, principal: Principal, params: ApproveProposalParams, _emit: Emit) -> Proposal:
        """It holds from the next command on, also in open sessions, until it expires.

        Raises `DeniedError` for who asked for it and where the signature is not sound, and `UsageError` where
        `seen` is not what stands.
        """
        one = await self._find(principal, params.proposal)
        if one.by == principal.name:
            raise DeniedError(
                f"{principal.name} has asked for {one.id} itself", hint="Another principal approves it."
            )

        async def approve() -> Proposal:
            return await self._approved(principal, one.id, params)

        return await self._turns.take(one.tenant, approve)

    async def reject(self, principal: Principal, params: RejectProposalParams, _emit: Emit) -> Proposal:
        """It is over; a rule that was approved before holds no more."""
        one = await self._find(principal, params.proposal)
        _one_line(params.reason)

        async def reject() -> Proposal:
            now = await asyncio.to_thread(self._kept.find, one.id)
            holds = await asyncio.to_thread(self._holds, now)
            if not holds and now.state != "waiting":
                raise UsageError(f"{one.id} is {now.state} already")

            async def act() -> Proposal:
                if holds:
                    await self._rewrite(now, None)
                return await self._decided(now, principal, state="rejected", decided_reason=params.reason)

            details = {**_details(now), "was": now.state, "reason": params.reason}
            return await self._log.audited(
                principal, "proposal.reject", _subject(now), details, act, tenant=now.tenant
            )

        return await self._turns.take(one.tenant, reject)

    async def end(self, tenant: str) -> None:
        """A tenant is gone: its rules hold no more, and nothing of what it asked for is kept."""

        async def end() -> None:
            for one in await asyncio.to_thread(self._kept.of, tenant):
                if await asyncio.to_thread(self._holds, one):
                    await self._rewrite(one, None)
            await asyncio.to_thread(self._kept.forget, tenant)

        await self._turns.take(tenant, end)

    async def _approved(self, principal: Principal, name: str, params: ApproveProposalParams) -> Proposal:
        shown = self._look(await asyncio.to_thread(self._kept.find, name), principal)
        if not shown.seen or shown.seen != params.seen:
            raise UsageError(
                f"{name} is not as it was seen: {shown.why_not or 'it would change something else now'}",
                hint=f"`bridgehold proposals show {name}` shows it as it is now.",
            )
        rule = rule_of(shown, params.approved, params.expires, params.signature)
        _check_times(shown, rule)
        try:
            signature = base64.b64decode(params.signature, validate=True)
        except (binascii.Error, ValueError):
            signature = b""
        if not self._verified(signature, rule.text(shown.bridge, shown.tenant)):
            raise DeniedError(
                f"the approval of {name} is not signed by this host's key for approvals",
                hint="`bridgehold proposals approve` signs it, as who owns the configuration (or root).",
            )

        async def act() -> Proposal:
            await self._rewrite(shown, rule)
            known = Proposal(**{field: getattr(shown, field) for field in Proposal.__struct_fields__})
            return await self._decided(known, principal, state="approved", expires=rule.expires)

        details = {
            **_details(shown),
            "asked_by": shown.by,
            "seen": shown.seen,
            "expires": rule.expires,
            "signature": rule.signature,
        }
        return await self._log.audited(
            principal, "proposal.approve", _subject(shown), details, act, tenant=shown.tenant
        )

    async def _rewrite(self, one: Proposal, rule: Approved | None) -> None:
        """Have the file of approved rules say `rule` for this proposal, or none, and what ended no more."""
        name = of_tenant(one.bridge, one.tenant)
        known = self._registry.approved(one.bridge, one.tenant)
        (text,) = self._registry.files.own("policy", [f"{name}{SUFFIX}"])
        left = [other for other in in_force(known, clock.now()) if other.id != one.id]
        ended = read_ended(text.text, text.file, clock.now()) if text is not None else {}
        if rule is None:
            ended |= {other.id: other.expires for other in known if other.id == one.id}
        after = render([*left, rule] if rule is not None else left, ended)
        was = text.digest if text is not None else ""
        await self._write(FileChange(kind="approved", name=name, text=after, was=was))

    def _holds(self, one: Proposal) -> bool:
        """Whether the file has its rule, whatever its record says: one of the two may have failed."""
        try:
            return any(rule.id == one.id for rule in self._registry.approved(one.bridge, one.tenant))
        except PolicyError:
            return one.state == "approved"

    async def _decided(self, one: Proposal, principal: Principal, **changes: str) -> Proposal:
        fields = {"decided_by": principal.name, "decided_at": format_time(clock.now()), **changes}
        done: Proposal = msgspec.structs.replace(one, **fields)
        await asyncio.to_thread(self._kept.write, done)
        return done

    async def _find(self, principal: Principal, name: str) -> Proposal:
        one = await asyncio.to_thread(self._kept.find, name)
        mine = principal.may_act_for(one.tenant) or principal.operator
        if not (mine and principal.may_use(one.bridge)):
            raise nothing(name)
        return one

    def _look(self, one: Proposal, principal: Principal) -> ShownProposal:
        shown = ShownProposal(**msgspec.structs.asdict(one), you=principal.name)
        if one.state != "waiting":
            return msgspec.structs.replace(shown, why_not=f"it is {one.state}")
        act = _act_of(one, self._registry)
        try:
            grant = self._resolved(act)(None)
            found = self._smallest(act, one.weakenings)
        except BridgeholdError as error:
            return msgspec.structs.replace(shown, why_not=error.message)
        shown = msgspec.structs.replace(
            shown,
            grants=found.grants,
            gained=found.gained,
            risk=_risk(found),
            policy=grant.policy,
            grant=grant.digest,
        )
        return msgspec.structs.replace(shown, seen=seen_of(shown))

    def _smallest(self, act: Act, weakenings: tuple[str, ...]) -> Smallest:
        return smallest(act, self._resolved(act), weakenings)

    def _resolved(self, act: Act) -> Callable[[Policy | None], Grant]:
        manifest = self._registry.manifest(act.bridge, act.tenant)
        return lambda more: self._registry.resolve_grant(act.tenant, manifest, more)

    async def _look_up(self, principal: Principal, name: str) -> tuple[Act, Entry]:
        """As `_refused`. One look at the audit at a time, by whoever: it may read all of it."""
        async with self._audit_free:
            return await asyncio.to_thread(self._refused, principal, name)

    def _refused(self, principal: Principal, name: str) -> tuple[Act, Entry]:
        """What was refused, to whom. Blocks."""
        none = NotFoundError(
            f"no event {name[:80]!r} in this audit",
            hint="A reference is INSTANCE.SEQ, as errors name it.",
        )
        try:
            told = story(self._audit, name)
        except NotFoundError:
            raise none from None
        entry = told.event
        opened = (one.text("bridge") for one in told.related if one.kind == "session.opened")
        bridge = entry.text("bridge") or next(opened, "")
        mine = principal.may_act_for(entry.tenant) and principal.may_use(bridge)
        if not mine or entry.time <= removed_at(self._audit, entry.tenant):
            raise none  # of another tenant: in no word different from one that isn't there
        act = act_of(entry, hosts_of(self._registry.config))
        if not bridge or act is None or act.allowed:
            raise UsageError(
                f"{entry.ref} ({entry.kind}) is no refusal by the names in a policy",
                hint=f"`bridgehold why {entry.ref}` tells what it is, and the remedy.",
            )
        act = msgspec.structs.replace(act, tenant=entry.tenant, bridge=bridge)
        return _with_kinds(act, self._registry), entry


def rule_of(one: ShownProposal, approved: str, expires: str, signature: str = "") -> Approved:
    """The rule that `one.you` approves (pure)."""
    return Approved(
        id=one.id,
        event=one.event,
        asked_by=one.by,
        approved_by=one.you,
        approved=approved,
        expires=expires,
        seen=one.seen,
        grants=one.grants,
        signature=signature,
    )


def _check_times(one: Proposal, rule: Approved) -> None:
    try:
        begin, end = parse_time(rule.approved), parse_time(rule.expires)
    except ValueError as error:
        raise UsageError(str(error)) from None
    if abs(begin - clock.now()) > SKEW_S or not begin < end <= begin + one.seconds + 1:
        raise UsageError(
            f"{one.id} was asked for {one.seconds} s from its approval on, and that is now",
            hint="Are the clocks right? `bridgehold proposals approve` says both times itself.",
        )


def _act_of(one: Proposal, registry: Registry) -> Act:
    what, _, name = one.what.partition(" ")
    act: Act = msgspec.convert(
        {"what": what, "name": name, "allowed": False, "tenant": one.tenant, "bridge": one.bridge}, type=Act
    )
    return _with_kinds(act, registry)


def _with_kinds(act: Act, registry: Registry) -> Act:
    """With the kind of resource that the operation works on, as its manifest says."""
    if act.what != "operation":
        return act
    manifest = registry.manifest(act.bridge, act.tenant)
    declared = manifest.operations.get(act.name.partition(":")[2])
    kinds = (declared.resource,) if declared is not None and declared.resource else ()
    return msgspec.structs.replace(act, kinds=kinds)


def _risk(found: Smallest) -> tuple[Risk, ...]:
    return tuple(
        Risk(rule=one.rule, severity=one.severity, key=one.key, value=one.value, means=one.means)
        for one in found.risk
    )


def _subject(one: Proposal) -> str:
    return f"{one.tenant}/{one.bridge}"


def _details(one: Proposal) -> dict[str, object]:
    return {
        "proposal": one.id,
        "event": one.event,
        "what": one.what,
        "gained": [f"{each.key} {each.value}" for each in one.gained],
        "risk": [f"{each.severity} {each.rule}" for each in one.risk],
    }


def _one_line(reason: str) -> None:
    if not reason.isprintable():
        raise UsageError("the reason is one line of plain text")
