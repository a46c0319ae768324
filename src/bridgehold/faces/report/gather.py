"""A report out of an audit's events, in one pass and bounded memory: counts, each with an event."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from bridgehold.audit.entries import Entry
from bridgehold.audit.reading.fields import FIELDS, FRAMEWORK
from bridgehold.audit.reading.linear import Hit
from bridgehold.audit.reading.syntax import AnyOf, Compare, Expression, both, equal
from bridgehold.audit.usage import Usage, Used, told_again
from bridgehold.audit.verdicts import Report, Sealing
from bridgehold.faces.report.sections import MOST_ROWS, Section
from bridgehold.policies.changes import Changes, compare
from bridgehold.policies.model import Grant
from bridgehold.policies.posture import POWERS, posture

_MOST = 10_000
"""Different things counted in one table; what comes after them is counted together."""
_OTHERS = "(others)"
_KINDS = (
    "host", "grant.resolved", "environment", "config.reloaded", "session", "worker.started", "worker.refused",
    "worker.exited", "command.outcome", "command.refused", "tool.outcome", "tool.refused", "egress",
    "artifact.changed", "protocol.violation", "principal.refused", "request.refused", "secret.changed",
    "policy.loaded", "admin", "events.folded", "anchor.signed", "channel.ended",
)  # fmt: skip
_REACHED = ("egress.outcome", "egress.ended", "tool.outcome")
LIMIT_CODES = ("timeout", "memory", "limit", "budget", "busy", "shortage")
"""Codes of commands that met a bound."""
_UNBOUNDED = "(not bounded)"
_SIGNS = (("+", "gained"), ("-", "lost"))


class Scope(msgspec.Struct, frozen=True, kw_only=True):
    """What a report is of; empty fields don't narrow. Times as the audit writes them, or a beginning."""

    tenant: str = ""
    framework: str = ""
    since: str = ""
    until: str = ""


def wanted(scope: Scope) -> Expression:
    """What has to be read for it: grants before its time too, for what holds in it."""
    parts: list[Expression] = [AnyOf(tuple(equal("kind", kind) for kind in _KINDS))]
    if scope.tenant:
        parts.append(AnyOf((equal("tenant", scope.tenant), equal("tenant", ""))))
    if scope.framework:
        parts.append(AnyOf((equal(FRAMEWORK, scope.framework), equal(FRAMEWORK, ""))))
    if scope.until:
        parts.append(Compare(FIELDS["time"], "<", scope.until))
    return both(*parts)


def wanted_kinds() -> tuple[str, ...]:
    """Kinds, or first halves of kinds, that say something to a report."""
    return _KINDS


class _Count:
    """How often something happened, when first and last, and an event that shows it."""

    __slots__ = ("event", "first", "last", "number")

    def __init__(self, entry: Entry) -> None:
        self.number, self.first, self.last, self.event = 0, entry.time, entry.time, entry.ref

    def add(self, entry: Entry) -> None:
        self.number += 1
        self.last, self.event = entry.time, entry.ref


class _Counts:
    """By what it was."""

    def __init__(self) -> None:
        self._of: dict[tuple[str, ...], _Count] = {}

    def add(self, entry: Entry, *key: str) -> None:
        if key not in self._of and len(self._of) >= _MOST:
            key = (_OTHERS,) * len(key)
        self._of.setdefault(key, _Count(entry)).add(entry)

    def rows(self) -> list[tuple[str, ...]]:
        """The most frequent first."""
        ordered = sorted(self._of.items(), key=lambda one: (-one[1].number, one[0]))
        return [(*key, str(one.number), one.first, one.last, one.event) for key, one in ordered]


def _section(
    name: str, title: str, columns: tuple[str, ...], rows: Sequence[tuple[str, ...]], note: str = ""
) -> Section:
    shown = tuple(rows[:MOST_ROWS])
    return Section(
        name=name, title=title, columns=columns, rows=shown, note=note, left_out=len(rows) - len(shown)
    )


_OF = ("tenant", "framework")
_COUNTED = {
    "reached": ("What did it reach?", (*_OF, "what", "how it ended")),
    "refused": ("What was it refused, and why?", (*_OF, "kind", "what", "rule", "where", "reason")),
    "key-events": ("What happened to keys?", ("tenant", "key", "what", "by")),
    "limits": ("Which limits were hit?", (*_OF, "limit")),
    "weakenings": ("Which barriers were given up?", (*_OF, "weakening", "where")),
    "host": ("What happened to the host?", ("what", "why")),
}


def _counted(name: str, counts: _Counts, note: str = "") -> Section:
    title, columns = _COUNTED[name]
    return _section(name, title, (*columns, "times", "first", "last", "event"), counts.rows(), note)


class Gathering:
    """Takes every hit of `wanted`, oldest first, and makes the sections."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._grants: dict[tuple[str, str], Grant] = {}
        self._granted: list[tuple[str, ...]] = []
        self._changes: list[tuple[str, ...]] = []
        self._usage = Usage(tenant=scope.tenant, since=scope.since, until=scope.until)
        self._refused, self._reached, self._limits = _Counts(), _Counts(), _Counts()
        self._weakened, self._keys, self._host = _Counts(), _Counts(), _Counts()

    def gather(self, hits: Iterable[Hit], report: Report) -> tuple[Section, ...]:
        """Every section of `hits`, in the order of the questions."""
        for hit in hits:
            self.add(hit)
        return (trust(report), *self.answers())

    def add(self, hit: Hit, *, used: bool = True) -> None:
        """Take one more, younger than all before. Not `used`: what it used is counted elsewhere."""
        entry, framework = hit.entry, hit.framework
        if entry.kind == "grant.resolved":
            self._grant(entry)
        elif entry.time >= self._scope.since:
            self._one(entry, framework)
        if used:
            self._usage.add(entry)

    @property
    def grants(self) -> Mapping[tuple[str, str], Grant]:
        """What was granted last, by tenant and bridge."""
        return self._grants

    def used(self) -> list[Used]:
        """What was spent, by tenant, bridge, provider and model."""
        bridge = self._scope.framework
        return [one for one in self._usage.rows() if bridge in ("", one.bridge)]

    def answers(self) -> tuple[Section, ...]:
        """Every section of what was taken, in the order of the questions; `trust` stands before them."""
        return (
            self._may_reach(),
            _counted("reached", self._reached),
            _counted("refused", self._refused),
            self._who_holds(),
            _counted("key-events", self._keys, "names only; a key's value is in no audit"),
            self.spent(self.used()),
            _counted("limits", self._limits),
            _counted("weakenings", self._weakened),
            self._changed(),
            _counted("host", self._host),
        )

    def _one(self, entry: Entry, framework: str) -> None:
        family, _, what = entry.kind.partition(".")
        if what == "refused" or entry.kind in ("protocol.violation", "egress.stopped"):
            self._refused.add(entry, *_refusal(entry, framework))
        elif entry.kind in _REACHED and not told_again(entry):
            ended = entry.text("code") or f"{entry.number('status') or 'ok'}"
            self._reached.add(entry, entry.tenant, framework, _reached(entry), ended)
        elif entry.kind == "artifact.changed":
            self._reached.add(entry, entry.tenant, framework, "artifacts", entry.text("action"))
        elif entry.kind == "secret.changed":
            by = entry.principal or "the keeper's folder"
            self._keys.add(entry, entry.tenant, entry.text("name"), entry.text("action"), by)
            self._change(entry, f"key {entry.text('name')}", entry.text("action"))
        elif entry.kind in ("command.outcome", "session.closed") and entry.text("code") in LIMIT_CODES:
            self._limits.add(entry, entry.tenant, framework, entry.text("code"))
        elif entry.kind in ("worker.started", "host.started"):
            self._weakenings(entry, framework)
        elif family in ("policy", "config", "admin", "environment"):
            self._configured(entry)
        if family in ("host", "channel", "anchor"):
            why = entry.text("reason") or entry.text("version") or entry.text("key") or entry.text("recorder")
            self._host.add(entry, entry.kind, why)

    def _weakenings(self, entry: Entry, framework: str) -> None:
        for name in texts(entry, "weakenings"):
            where = "a sandbox" if entry.kind == "worker.started" else "the whole host"
            self._weakened.add(entry, entry.tenant, framework, name, where)

    def _grant(self, entry: Entry) -> None:
        """What holds from here on, against what held before."""
        grant = read_grant(entry)
        if grant is None or self._scope.framework not in ("", grant.bridge):
            return
        key = (grant.tenant, grant.bridge)
        before = self._grants.get(key)
        if key not in self._grants and len(self._grants) >= _MOST:
            return
        self._grants[key] = grant
        if entry.time >= self._scope.since and (before is None or before.digest != grant.digest):
            what = f"grant of {grant.bridge}, policy {grant.policy}"
            self._change(entry, what, said(compare(before, grant)) if before is not None else "first seen")

    def _configured(self, entry: Entry) -> None:
        if entry.kind == "policy.loaded":
            signed = [f"{sign} {one}" for sign, name in _SIGNS for one in texts(entry, name)]
            self._change(entry, f"policy {entry.text('name')}", "; ".join([*signed, *texts(entry, "files")]))
        elif entry.kind == "config.reloaded":
            applied, waiting = (", ".join(texts(entry, name)) for name in ("applied", "waiting"))
            self._change(entry, "configuration", f"applied: {applied}; waiting: {waiting}")
        elif entry.kind == "admin.outcome":
            done = "done" if entry.fields.get("ok") is True else f"failed: {entry.text('reason')}"
            self._change(entry, f"{entry.text('action')} {entry.text('subject')}", done)
        elif entry.kind == "environment.built":
            self._change(entry, f"environment of {entry.text('bridge')}", f"built: {entry.text('digest')}")

    def _change(self, entry: Entry, what: str, how: str) -> None:
        if len(self._changes) < _MOST:
            by = entry.principal or "(an operator's file)"
            self._changes.append((entry.time, entry.tenant, what, how, by, entry.ref))

    def _changed(self) -> Section:
        columns = ("time", "tenant", "what", "how", "by", "event")
        note = "files are changed by whoever may write them; approvals of bridges name their principal"
        return _section("changes", "What changed, and by whom?", columns, self._changes[::-1], note)

    def _may_reach(self) -> Section:
        rows = []
        for key in sorted(self._grants):
            row = posture(self._grants[key])
            powers = (", ".join(row.powers[power]) or "-" for power in POWERS)
            rows.append((row.tenant, row.bridge, row.policy, *powers, row.gravest or "-", row.digest))
        columns = ("tenant", "framework", "policy", *POWERS, "gravest", "grant")
        return _section("reach", "What may each framework reach?", columns, rows, "as granted last")

    def _who_holds(self) -> Section:
        ways = {"env": "inside the sandbox"}
        rows = [
            (grant.tenant, one.name, grant.bridge, one.provider, ways.get(one.how, "put in at the gateway"))
            for _, grant in sorted(self._grants.items())
            for one in grant.secrets
        ]
        columns = ("tenant", "key", "framework", "provider", "how")
        return _section("keys", "Who holds which key?", columns, rows)

    def spent(self, used: list[Used]) -> Section:
        """What was spent, of which budget, by these rows."""
        rows = []
        for one in used:
            grant = self._grants.get((one.tenant, one.bridge))
            budget = _budget(grant) if one.provider and grant is not None else ""
            numbers = (one.sessions, one.commands, one.requests, one.failed, one.charged)
            rows.append((one.tenant, one.bridge, one.provider, one.model, *map(str, numbers), budget))
        columns = (
            *_OF,
            "provider",
            "model",
            "sessions",
            "commands",
            "requests",
            "failed",
            "tokens",
            "budget",
        )
        return _section("spent", "What was spent, of which budget?", columns, rows)


def _budget(grant: Grant) -> str:
    rates = ((name, getattr(grant.rate, name)) for name in grant.rate.__struct_fields__ if "provider" in name)
    return ", ".join(f"{name} {value}" for name, value in rates if value is not None) or _UNBOUNDED


def read_grant(entry: Entry) -> Grant | None:
    """The grant that an event holds, or None where it is none that this version can read."""
    body = entry.fields.get("grant")
    if not isinstance(body, dict):
        return None
    try:
        return msgspec.convert({**body, "sources": {}, "overruled": {}}, Grant)
    except (msgspec.ValidationError, ValueError, TypeError):
        return None


def said(changes: Changes) -> str:
    """Capabilities gained and lost, in one line."""
    parts = [f"+ {one.key} {one.value}" for one in changes.gained]
    parts += [f"- {one.key} {one.value}" for one in changes.lost]
    return "; ".join(parts) or "the same capabilities"


def texts(entry: Entry, name: str) -> list[str]:
    """The texts of a list, whatever else stands in it."""
    value = entry.fields.get(name)
    return [one for one in value if isinstance(one, str)] if isinstance(value, list) else []


def _reached(entry: Entry) -> str:
    if entry.kind == "tool.outcome":
        return f"tool {entry.text('tool')}"
    return f"{entry.text('method')} {entry.text('host')}{entry.text('path')}"


def _refusal(entry: Entry, framework: str) -> tuple[str, ...]:
    what = entry.text("operation") or entry.text("tool") or entry.text("method")
    if entry.kind in ("egress.refused", "egress.stopped"):
        what = f"{entry.text('method')} {entry.text('host')}{entry.text('path')}"
    elif entry.kind == "request.refused":
        what = f"{entry.text('method')} {entry.text('named')}"
    rule = entry.text("rule") or entry.text("code")
    where = entry.text("source") or entry.text("where")
    return entry.tenant, framework, entry.kind, what.strip(), rule, where, entry.text("reason")


def _signed(report: Report) -> list[tuple[str, str, str]]:
    """What was sealed, which bodies went and which keys were changed, each by whom."""
    sealing, rows = report.sealing, []
    if sealing != Sealing():
        signed = f"{sealing.segments} segments; signature {sealing.signature or 'none'}"
        rows.append(("sealing", "sound" if sealing.ok else "BROKEN", signed))
    for seal in sealing.seals:
        if seal.dropped:
            what = f"bodies of {seal.dropped} events, by {seal.by} at {seal.time}"
            rows.append(("dropped by seal", seal.place, what))
    for one in report.anchoring.rotations:
        how = ", the old one LOST" if one.lost else ""
        rows.append(("key changed", f"{one.old} → {one.new}", f"by {one.by} at {one.time}{how}"))
    return rows


def trust(report: Report) -> Section:
    """The verdicts, and each finding."""
    integrity, completeness, anchoring = report.integrity, report.completeness, report.anchoring
    broken, open_ = f"BROKEN in {integrity.count} places", f"{completeness.unfinished_count} unfinished"
    anchored = f"to {anchoring.anchored_to or 'nothing'}; signature {anchoring.signature or 'none'}"
    rows = [
        ("integrity", "sound" if integrity.ok else broken, f"{report.events} events"),
        ("completeness", "whole" if completeness.ok else "NOT WHOLE", open_),
        ("anchoring", anchoring.status, anchored),
    ]
    rows += _signed(report)
    rows += [(one.kind, one.place, one.reason) for one in report.findings]
    return _section("trust", "Can this log be trusted?", ("verdict", "says", "of"), rows)
