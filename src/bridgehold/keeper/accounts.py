"""What the front says that each session may ask for, and what its tenant has spent. Pure but for the clock.

A cell's word counts for nothing here: sessions, grants and ceilings come over the host's own channel, which
no cell has. It is decided by the rules that the gateway decides by, of `policies`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import urlsplit

import msgspec

from bridgehold import clock, strict, strict_turns
from bridgehold.config.providers import ProviderEntry
from bridgehold.errors import DeniedError, SuspendedError
from bridgehold.keeper.budgets import Budgets, Reservation
from bridgehold.keeper.protocol import AllowSession, AllowTenant, UpstreamRequest
from bridgehold.keeper.shapes import UNBOUND, each_answer, most_tokens, names_bound
from bridgehold.keeper.spending import Prices, Spending
from bridgehold.policies.buckets import TokenBucket
from bridgehold.policies.content import (
    UNREADABLE,
    BodyFacts,
    ParsedRequest,
    body_facts,
)
from bridgehold.policies.decide import decide_egress, secret_of, tool_secret_of
from bridgehold.policies.downloads import decide_download, hub_of, is_commit, parse_hub_item
from bridgehold.policies.model import Decision, Grant, Rate
from bridgehold.policies.tenants import Tenant
from bridgehold.policies.uses import Use
from bridgehold.steps import finished

VERSION = re.compile(r"v[0-9]{1,3}(?:(?:alpha|beta)[0-9]{0,3})?")
_MOST_PARTS = 5_000
"""Of brackets and separators in a body that is looked into on the loop, which all tenants share."""
_LONGEST_MODEL = 100


class Judged(NamedTuple):
    """A request that may go out, but for its budget."""

    rule: str
    how: str
    model: str | None
    tokens: int
    """The most that it may use, by what can be seen of it here."""
    open_ended: int
    """As of `usage.charge`."""
    grant: Grant
    uses: tuple[Use, ...] = ()
    """What of it is billed by use, by what can be seen of it here."""


class _Session(NamedTuple):
    said: AllowSession
    pace: TokenBucket


class Accounts:
    """Of all tenants that have cells."""

    def __init__(self, prices: Prices) -> None:
        self._tenants: dict[str, Tenant] = {}
        self._sessions: dict[str, dict[str, _Session]] = {}
        self.budgets = Budgets(Spending(self._tenant, prices))

    def _tenant(self, name: str) -> Tenant:
        found = self._tenants.get(name)
        if found is None:
            raise SuspendedError(f"the front has told nothing of tenant {name}")
        return found

    def tell(self, said: AllowTenant) -> None:
        """The tenant's ceilings. What was spent before is taken over once: it is counted here since."""
        if said.tenant not in self._tenants:
            self.budgets.restore(said.tenant, said.requests, said.periods)
        self._tenants[said.tenant] = said.rules

    def allow(self, said: AllowSession) -> None:
        """The session may ask for what its grant says, until `end`."""
        rate = said.grant.rate.audit_events_per_second
        held = self._sessions.setdefault(said.tenant, {})
        held[said.session] = _Session(said, TokenBucket(rate, rate * 2))

    def end(self, tenant: str, session: str) -> None:
        """Nothing more goes out for the session; without one, for none of the tenant's."""
        held = self._sessions.get(tenant, {})
        held.pop(session, None)
        if not session or not held:
            self._sessions.pop(tenant, None)

    def knows(self, tenant: str, session: str) -> bool:
        """Whether the session may ask for anything."""
        return session in self._sessions.get(tenant, {})

    def demand(self, tenant: str, session: str) -> AllowSession:
        """What the front has said of the session. Raises `DeniedError`."""
        said = self._of(tenant, session).said
        grant = said.grant.at(clock.now())
        return said if grant is said.grant else msgspec.structs.replace(said, grant=grant)

    def demand_capture(self, tenant: str, session: str, provider: str) -> None:
        """Raise `DeniedError` unless the session may have a key of its own for the provider."""
        grant = self.demand(tenant, session).grant
        if grant.inline_keys != "capture" or not any(one.provider == provider for one in grant.endpoints):
            raise _refused("inline_keys", f"no key of a session's own is granted for {provider[:63]!r}")

    def _of(self, tenant: str, session: str) -> _Session:
        found = self._sessions.get(tenant, {}).get(session)
        if found is None:
            raise _refused("session", f"the front has ordered no session {session[:40]!r}")
        return found

    def pause(self, tenant: str, session: str, events: int) -> float:
        """Seconds until so many more of the session's events may be written."""
        return self._of(tenant, session).pace.take(events, time.monotonic())

    def judge(self, ask: UpstreamRequest, entry: ProviderEntry, body: bytes) -> Judged:
        """Whether the grant allows it. Changes nothing, and may be called on a thread. Raises `DeniedError`;
        where: the rule."""
        said = self.demand(ask.tenant, ask.session)
        if entry.shape == "hub":
            return _download(said.grant, ask, entry)
        value, unreadable = _parsed(body)
        tool = said.tools.get(f"{ask.provider}{ask.path}")
        if tool is not None and ask.how == "tool":
            return self._tool(said.grant, ask, entry, value, names_model=tool)
        return _gateway(said.grant, ask, entry, value, unreadable)

    def _tool(
        self,
        grant: Grant,
        ask: UpstreamRequest,
        entry: ProviderEntry,
        value: dict[str, object] | None,
        *,
        names_model: bool,
    ) -> Judged:
        """As `cell.tools.http` reckons: an operator's endpoint, which the grant's rules of tools allow."""
        secret = tool_secret_of(grant, ask.provider)
        if ask.method != "POST" or secret is None or ask.secret != secret.name:
            raise _refused("secrets", f"no tool has the secret {ask.secret[:64]!r} for {ask.provider}")
        spending = self.budgets.spending
        named = (value or {}).get("model")
        model = named[:_LONGEST_MODEL] if isinstance(named, str) else ""
        model = model if names_model or spending.dearer(ask.provider, model) else ""
        rule = f"tools {ask.provider}{ask.path}"
        facts = body_facts(entry.shape, ParsedRequest(path=ask.path, body=value), ("*",))
        uses = spending.prices.said(entry.shape, ask.provider, each_answer(entry.shape, value, facts.uses))
        if entry.shape == "custom" and not spending.priced(ask.provider):
            return Judged(rule, "tool", model or None, 0, 0, grant, uses)
        tokens = _bound(entry, ask, value, facts)
        open_ended = 0 if names_bound(entry.shape, value) else ask.body_bytes
        return Judged(rule, "tool", model or None, tokens, open_ended, grant, uses)

    def reserve(self, ask: UpstreamRequest, judged: Judged) -> Reservation:
        """Charge the larger of the cell's bound and our own. Raises `BudgetError`, `SuspendedError`."""
        return self.budgets.reserve(
            (ask.tenant, judged.grant.bridge),
            ask.provider,
            _with_slack(judged.grant.rate),
            max(judged.tokens, ask.tokens),
            time.monotonic(),
            judged.model,
            judged.uses,
            ask.fees,
        )


def _gateway(
    grant: Grant,
    ask: UpstreamRequest,
    entry: ProviderEntry,
    value: dict[str, object] | None,
    unreadable: BodyFacts | None,
) -> Judged:
    if ask.how == "tool":
        raise _refused("tools", f"no tool of the session's is at {ask.provider}{ask.path[:200]}")
    secret = secret_of(grant, ask.provider)
    if ask.how == "pass" and grant.inline_keys != "pass":
        raise _refused("inline_keys", "a key of the guest's own is passed on, which isn't granted")
    if ask.how == "gateway" and (secret is None or ask.secret != secret.name):
        raise _refused("secrets", f"the secret {ask.secret[:64]!r} is not granted for {ask.provider}")
    endpoint = next((item for item in grant.endpoints if item.provider == ask.provider), None)
    granted = () if endpoint is None else ("*",) if endpoint.remote_content else endpoint.fields
    facts, decided = BodyFacts(), list[Decision]()
    for path in _spellings(entry, ask.path):
        asked = ParsedRequest(
            path=path,
            method=ask.method,
            body=value,
            query=ask.query,
            headers=ask.headers,
            host=entry.host,
        )
        facts = unreadable or body_facts(entry.shape, asked, granted)
        decided.append(decide_egress(grant, ask.provider, ask.method, path, facts))
        if decided[-1].allowed:
            break
    decision = decided[-1]
    if not decision.allowed:  # as it is asked for; the other spelling is one that nobody has used
        raise _refused(decided[0].rule, decided[0].reason)
    open_ended = ask.body_bytes if facts.generates and not names_bound(entry.shape, value) else 0
    tokens = _bound(entry, ask, value, facts)
    model, uses = facts.model[:_LONGEST_MODEL], each_answer(entry.shape, value, facts.uses)
    return Judged(decision.rule, ask.how, model, tokens, open_ended, grant, uses)


def _download(grant: Grant, ask: UpstreamRequest, entry: ProviderEntry) -> Judged:
    """A revision that moves is asked for by name first, and then by its commit: the cell's word."""
    secret = secret_of(grant, ask.provider)
    if ask.how != "gateway" or ask.secret != (secret.name if secret else "") or (entry.keyed and not secret):
        raise _refused("secrets", f"the secret {ask.secret[:64]!r} is not granted for {ask.provider}")
    wanted, hub = parse_hub_item(ask.path), hub_of(grant, ask.provider)
    decision = decide_download(grant, ask.provider, wanted)
    if hub is not None and wanted.file and is_commit(wanted.revision):
        for pattern in hub.repos or ():
            revision = pattern.rpartition("@")[2]
            if not decision.allowed and not is_commit(revision):
                named = msgspec.structs.replace(wanted, revision=revision)
                decision = decide_download(grant, ask.provider, named)
    if not decision.allowed or ask.method != "GET":
        raise _refused(decision.rule, decision.reason)
    return Judged(decision.rule, "gateway", "", 0, 0, grant)


def _spellings(entry: ProviderEntry, path: str) -> tuple[str, ...]:
    """The path below the base, and with the version that the base ends in, as a policy may say it."""
    last = urlsplit(entry.base_url).path.rstrip("/").rpartition("/")[2]
    return (path, f"/{last}{path}") if VERSION.fullmatch(last) else (path,)


def _parsed(body: bytes) -> tuple[dict[str, object] | None, BodyFacts | None]:
    if not body:
        return None, None
    try:  # what goes out are these very bytes: nothing that the provider could read in another way
        value = finished(strict_turns.steps(body))  # in pieces, between which the loop has its turns
    except strict.StrictError:
        return None, UNREADABLE
    return (value, None) if isinstance(value, dict) else (None, UNREADABLE)


def is_plain(body: bytes) -> bool:
    """Whether it has so few values that it is looked into on the loop."""
    return sum(body.count(mark) for mark in (b"[", b"{", b",", b":")) <= _MOST_PARTS


def _bound(entry: ProviderEntry, ask: UpstreamRequest, value: object, facts: BodyFacts) -> int:
    if value is None and ask.body_bytes:
        return ask.body_bytes + UNBOUND
    return most_tokens(entry.shape, value, ask.body_bytes, facts)


def _with_slack(rate: Rate) -> Rate:
    """What a cell lets go at its pace may come here closer together."""
    most = rate.provider_requests_per_minute
    return msgspec.structs.replace(rate, provider_requests_per_minute=most + max(1, most // 10))


def _refused(rule: str, reason: str) -> DeniedError:
    return DeniedError(reason, where=rule, hint="`bridgehold policy explain` shows what is granted.")


def allowed_part(grant: Grant) -> Grant:
    """Of a grant what the keeper decides by."""
    none = type(grant.operations)()
    return msgspec.structs.replace(
        grant,
        operations=none,
        tools=none,
        resources=none,
        connects=(),
        read=(),
        devices=(),
        withheld=(),
        sources={},
        overruled={},
        weakenings=(),
        endpoints=tuple(msgspec.structs.replace(one, digests=None) for one in grant.endpoints),
        then=None if grant.then is None else allowed_part(grant.then),
    )


def tools_of(places: Mapping[str, tuple[str, str, bool]]) -> dict[str, bool]:
    """By provider and path of each tool: whether its arguments name the model."""
    return {f"{provider}{path}": names for provider, path, names in places.values()}
