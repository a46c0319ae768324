"""What an audit adds up to: a fold that goes on where it stopped, as far as the index has come."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping

import msgspec

from bridgehold.audit.entries import Entry
from bridgehold.audit.reading.desk import Desk
from bridgehold.audit.reading.language import parse
from bridgehold.audit.reading.linear import Hit
from bridgehold.audit.reading.syntax import EVERYTHING, AnyOf, Expression, equal
from bridgehold.audit.usage import Used
from bridgehold.faces.report.gather import LIMIT_CODES, Gathering, Scope, texts, wanted_kinds
from bridgehold.faces.report.sections import Section
from bridgehold.faces.review import plots, reach
from bridgehold.faces.review.question import REFUSALS, REFUSED
from bridgehold.policies.model import Grant

_MOST_SESSIONS = 10_000
_MOST_HOURS = 200_000
_MOST_FILES = 2_000
_MOST_NAMES = 10_000
_LOOK = 1_000
_EVERY_S = 0.5


class Session(msgspec.Struct, kw_only=True):
    """One session, as its events tell of it."""

    id: str
    name: str
    tenant: str
    framework: str
    principal: str
    start: str
    grant: str
    opened: str
    opened_ref: str
    closed: str = ""
    closed_ref: str = ""
    reason: str = ""
    code: str = ""
    commands: int = 0
    cpu_us: int = 0
    memory_peak_bytes: int = 0
    memory_limit: int = 0


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """The sums at one moment; nothing in it changes any more."""

    complete: bool = False
    """False: more is being read."""
    events: int = 0
    first: str = ""
    last: str = ""
    counts: Mapping[str, int] = {}
    """Events by kind."""
    requests: int = 0
    """Sent out, by whoever sent them."""
    activity: plots.Activity = plots.activity({})
    sections: Mapping[str, Section] = {}
    matrix: tuple[reach.Row, ...] = ()
    budgets: tuple[Budget, ...] = ()
    keys: Mapping[tuple[str, str, str], reach.Use] = {}
    """Uses of a key by tenant, framework and provider."""
    commands: Mapping[tuple[str, str], tuple[int, int, int]] = {}
    """Ended commands, those that failed, and processor time in µs, by tenant and framework."""
    sessions: tuple[Session, ...] = ()
    """The newest first."""
    tenants: tuple[str, ...] = ()
    frameworks: tuple[str, ...] = ()
    loaded: Mapping[str, str] = {}
    """Files of policies, by name: the digest with which each took effect last."""

    def number(self, *kinds: str) -> int:
        """Events of these kinds."""
        return sum(self.counts.get(kind, 0) for kind in kinds)

    @property
    def refusals(self) -> int:
        """Of every kind."""
        return self.number(*REFUSED)


class Budget(msgspec.Struct, frozen=True, kw_only=True):
    """What one framework spent at one provider, and of how much."""

    tenant: str
    framework: str
    provider: str
    requests: int
    failed: int
    tokens: int
    requests_bound: int | None
    tokens_bound: int | None
    estimated: int


class Ledger:
    """Reads what is new each time, by an index. One thread."""

    def __init__(self) -> None:
        self._identity, self._through, self._sums = b"", 0, _Sums()

    def read(self, desk: Desk, publish: Callable[[Snapshot], None]) -> None:
        """Take what is new, and publish sums on the way and at the end. Raises `AuditError`.

        An index that was made anew, and a reading that failed, begin at the beginning.
        """
        if desk.identity != self._identity:
            self._through, self._sums = 0, _Sums()
        newest = desk.newest
        if newest <= self._through:
            return
        rows, self._identity = (self._through, newest), b""
        self._sums.tally(desk, rows)
        looked = time.monotonic()
        for number, hit in enumerate(desk.every(_WANTED, rows)):
            self._sums.add(hit)
            if number % _LOOK == 0 and time.monotonic() - looked > _EVERY_S:
                publish(self._sums.snapshot(complete=False))
                looked = time.monotonic()
        self._identity, self._through = desk.identity, newest
        publish(self._sums.snapshot(complete=True))


class _Sums:
    """Of everything that was read."""

    def __init__(self) -> None:
        self._gathering, self._uses = Gathering(Scope()), reach.Uses()
        self._kinds: dict[str, int] = {}
        self._hours: dict[str, tuple[int, int]] = {}
        self._commands: dict[tuple[str, str], tuple[int, int, int]] = {}
        self._operations: dict[tuple[str, str, str], int] = {}
        self._sessions: OrderedDict[tuple[str, str], Session] = OrderedDict()
        self._tenants: set[str] = set()
        self._frameworks: set[str] = set()
        self._loaded: dict[str, str] = {}
        self._first = self._last = ""
        self._events = 0

    def tally(self, desk: Desk, rows: tuple[int, int]) -> None:
        """Count the rows behind the first of `rows`, up to the second."""
        for one in desk.tally(EVERYTHING, ("hour", "kind"), rows=rows):
            hour, kind = one.key
            self._kinds[kind] = self._kinds.get(kind, 0) + one.number
            self._events += one.number
            if hour in self._hours or len(self._hours) < _MOST_HOURS:
                total, bad = self._hours.get(hour, (0, 0))
                bad += one.number if kind in REFUSED else 0
                self._hours[hour] = (total + one.number, bad)
        for one in desk.tally(
            equal("kind", "command.outcome"), ("tenant", "framework", "code"), ("cpu_us",), rows=rows
        ):
            tenant, framework, code = one.key
            self._named(tenant, framework)
            ended, failed, cpu = self._commands.get((tenant, framework), (0, 0, 0))
            failed += one.number if code else 0
            self._commands[tenant, framework] = (ended + one.number, failed, cpu + one.sums[0])
        for one in desk.tally(
            equal("kind", "command.intent"), ("tenant", "framework", "operation"), rows=rows
        ):
            key = (one.key[0], one.key[1], one.key[2])
            self._operations[key] = self._operations.get(key, 0) + one.number
        if not self._first:
            self._first = next((hit.entry.time for hit in desk.every(EVERYTHING)), "")
        self._last = next((hit.entry.time for hit in desk.select(EVERYTHING, limit=1)), self._last)

    def add(self, hit: Hit) -> None:
        """Take one more, younger than all before."""
        entry = hit.entry
        self._named(entry.tenant, hit.framework)
        self._gathering.add(hit, used=entry.kind != "command.outcome")
        self._uses.add(hit)
        if entry.kind == "session.opened":
            self._open(entry)
        elif (
            entry.kind == "session.closed"
            and (session := self._sessions.get((entry.tenant, entry.session))) is not None
        ):
            session.closed, session.closed_ref = entry.time, entry.ref
            session.reason, session.code = entry.text("reason"), entry.text("code")
            session.commands, session.cpu_us = _count(entry, "commands"), _count(entry, "cpu_us")
            session.memory_peak_bytes = _count(entry, "memory_peak_bytes")
        elif entry.kind == "policy.loaded":
            for text in texts(entry, "files"):
                file, _, digest = text.rpartition(" ")
                if file in self._loaded or len(self._loaded) < _MOST_FILES:
                    self._loaded[file] = digest

    def _named(self, tenant: str, framework: str) -> None:
        for name, known in ((tenant, self._tenants), (framework, self._frameworks)):
            if name and len(known) < _MOST_NAMES:
                known.add(name)

    def _open(self, entry: Entry) -> None:
        grant = self._gathering.grants.get((entry.tenant, entry.text("bridge")))
        self._sessions[entry.tenant, entry.session] = Session(
            id=entry.session, name=entry.text("name"), tenant=entry.tenant, framework=entry.text("bridge"),
            principal=entry.principal, start=entry.text("start"), grant=entry.text("grant"),
            opened=entry.time, opened_ref=entry.ref,
            memory_limit=grant.limits.memory_bytes if grant is not None else 0,
        )  # fmt: skip
        if len(self._sessions) > _MOST_SESSIONS:
            self._sessions.popitem(last=False)

    def _used(self) -> list[Used]:
        """With the commands that the index counted."""
        rows = {(one.tenant, one.bridge, one.provider, one.model): one for one in self._gathering.used()}
        for (tenant, framework), (ended, failed, cpu) in self._commands.items():
            none = Used(tenant=tenant, bridge=framework)
            row = rows.setdefault((tenant, framework, "", ""), none)
            row.commands, row.failed, row.cpu_us = ended, row.failed + failed, cpu
        return [rows[key] for key in sorted(rows)]

    def snapshot(self, *, complete: bool) -> Snapshot:
        """The sums as they stand."""
        grants, used = self._gathering.grants, self._used()
        sections = (*self._gathering.answers(), self._gathering.spent(used))
        return Snapshot(
            complete=complete,
            events=self._events,
            first=self._first,
            last=self._last,
            counts=dict(self._kinds),
            requests=sum(one.requests for one in used),
            activity=plots.activity(self._hours),
            sections={one.name: one for one in sections},
            matrix=reach.matrix(grants, self._uses, self._operations),
            budgets=tuple(budgets(used, grants)),
            keys={
                (tenant, framework, name): use
                for (tenant, framework, power, name), use in self._uses.of.items()
                if power == "providers"
            },
            commands=dict(self._commands),
            sessions=tuple(msgspec.structs.replace(one) for one in reversed(self._sessions.values())),
            tenants=tuple(sorted(self._tenants)),
            frameworks=tuple(sorted(self._frameworks)),
            loaded=dict(self._loaded),
        )


def _count(entry: Entry, name: str) -> int:
    """Nobody has used less than nothing, whatever a cell writes."""
    return max(0, entry.number(name))


def _wanted() -> Expression:
    """What is read line by line; ended commands are counted by the index, but for those that met a limit."""
    kinds = [equal("kind", kind) for kind in wanted_kinds() if kind != "command.outcome"]
    return AnyOf(
        (*kinds, parse(f"kind = command.outcome and code in ({', '.join(LIMIT_CODES)})"), parse(REFUSALS))
    )


_WANTED = _wanted()


def budgets(used: list[Used], grants: Mapping[tuple[str, str], Grant]) -> list[Budget]:
    """By tenant, framework and provider, the models together."""
    found: dict[tuple[str, str, str], list[int]] = {}
    for one in used:
        if one.provider:
            sums = found.setdefault((one.tenant, one.bridge, one.provider), [0, 0, 0, 0])
            for at, number in enumerate((one.requests, one.failed, one.charged, one.estimated)):
                sums[at] += number
    return [
        Budget(
            tenant=tenant, framework=framework, provider=provider,
            requests=sums[0], failed=sums[1], tokens=sums[2], estimated=sums[3],
            requests_bound=rate.provider_requests_total if rate is not None else None,
            tokens_bound=rate.provider_tokens_total if rate is not None else None,
        )
        for (tenant, framework, provider), sums in sorted(found.items())
        for grant in (grants.get((tenant, framework)),)
        for rate in (grant.rate if grant is not None else None,)
    ]  # fmt: skip
