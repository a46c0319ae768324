"""Why something happened or was refused: the event, the rule that decided, where it stands, what
would change it, and everything tied to it. Values; `bridgehold why` prints them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import msgspec

from bridgehold.audit import chain, scan
from bridgehold.audit.entries import Entry, parse_entry
from bridgehold.audit.events import INTENT_KINDS, OUTCOME_KINDS
from bridgehold.audit.query import Tie
from bridgehold.audit.segments import Segment, instance_folders
from bridgehold.errors import NotFoundError
from bridgehold.ids import is_name

_SESSION_KINDS = (
    "session.opened",
    "session.closed",
    "worker.started",
    "worker.attested",
    "worker.refused",
    "worker.exited",
    "zygote.ended",
    "protocol.violation",
)


_MOST_RELATED, _MOST_BYTES = 500, 8 * 1024 * 1024
"""Of one search; more is not shown either."""


class Story(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to ``why EVENT``."""

    event: Entry
    sentence: str
    """What happened, in one sentence."""
    rule: str
    """Dotted key of the rule that decided; empty where none did."""
    reason: str
    source: str
    """``file:line`` of the rule; empty where the audit doesn't know it."""
    remedy: str
    grant: Entry | None
    """The event that holds the whole resolved grant."""
    traceback: str
    """Of the guest's code, where that failed: its own words."""
    related: tuple[Entry, ...]
    """Intent, outcome, egress and the session's own events, oldest first; without `event`."""


Lines = Callable[[Path, Tie, bool], Iterator[scan.Line]]
"""Lines of a segment in which a tie stands, from its begin or, if so, from its end: a few more do no harm."""


def read_lines(path: Path, tie: Tie, newest_first: bool) -> Iterator[scan.Line]:
    """By the bytes, without an index."""
    return scan.lines(path, tie.needle, newest_first=newest_first)


def story(audit: Path, name: str, lines: Lines = read_lines) -> Story:
    """The story of an event (``INSTANCE.SEQ``) or of a command (``c-…``). Raises `NotFoundError`.

    Read from the segments around the event, and no further than its command and its session reach. `lines`
    may know where they are: the answer is the same.
    """
    finder = _Finder(audit, lines)
    event, at = finder.event(name)
    related = finder.related(event, at)
    decider = _decider(event, related)
    grant = finder.grant(at, (event, *related))
    rule = decider.text("rule")
    outcome = next((e for e in (event, *related) if e.kind in OUTCOME_KINDS and _same(e, event)), None)
    code = event.text("code") or (outcome.text("code") if outcome is not None else "")
    source = decider.text("source") or _source(grant, rule)
    failed = outcome.text("reason") if outcome is not None else ""
    return Story(
        event=event,
        sentence=_sentence(event, outcome),
        rule=rule,
        reason=event.text("reason") or failed or decider.text("reason"),
        source=source,
        remedy=remedy(event, rule, code, source),
        grant=grant,
        traceback=outcome.text("traceback") if outcome is not None else "",
        related=tuple(sorted(related, key=lambda e: (e.time, e.seq))),
    )


class _At(msgspec.Struct, frozen=True):
    """The segments of an event's instance, and which of them it stands in."""

    segments: list[Segment]
    index: int

    def back(self) -> Iterator[Segment]:
        yield from reversed(self.segments[: self.index + 1])

    def on(self) -> Iterator[Segment]:
        yield from self.segments[self.index :]


class _Finder:
    """Finds entries of one audit by their ties."""

    def __init__(self, audit: Path, lines: Lines) -> None:
        self._audit, self._lines = audit, lines

    def event(self, name: str) -> tuple[Entry, _At]:
        """The event that is asked about, and where it stands. Raises `NotFoundError`."""
        parsed = chain.parse_reference(name)
        found: tuple[Entry, _At] | None = None
        if parsed is not None:
            found = self._by_reference(*parsed)
        elif name.startswith("c-"):
            found = self._of_command_anywhere(name)
        if found is None:
            hint = "`bridgehold audit tail` shows references; a reference is INSTANCE.SEQ."
            if is_name(name) and not name.startswith("c-"):
                hint += f" If it is a session: `bridgehold audit query --session {name}`."
            raise NotFoundError(f"no event {name[:80]!r} in this audit", hint=hint)
        return found

    def _by_reference(self, instance: str, seq: int) -> tuple[Entry, _At] | None:
        """The segment that should hold it is looked at first: a line's place says its number."""
        tie = Tie("seq", str(seq), instance=instance)
        for folder in instance_folders(self._audit):
            if folder.instance != instance:
                continue
            segments = folder.segments()
            for index in sorted(range(len(segments)), key=lambda i: _distance(segments[i], seq)):
                for line in self._lines(segments[index].path, tie, False):
                    for entry in self._entries([line.place]):
                        if (entry.instance, entry.seq) == (instance, seq):
                            return entry, _At(segments, index)
        return None

    def _of_command_anywhere(self, command: str) -> tuple[Entry, _At] | None:
        """Its outcome or refusal, else the first that is found of it; the newest instances first."""
        tie = Tie("command", command)
        for folder in reversed(instance_folders(self._audit)):
            segments = folder.segments()
            for index in range(len(segments) - 1, -1, -1):
                found = self._tied([segments[index]], tie, back=True, until=("command.intent",))
                if not found:
                    continue
                entries = list(self._entries(found))
                told = [e for e in entries if e.kind in ("command.outcome", "command.refused")]
                if entries:
                    return (told or entries)[-1], _At(segments, index)
        return None

    def related(self, event: Entry, at: _At) -> list[Entry]:
        """Everything tied to it, without itself."""
        places: list[scan.Place] = []
        if event.command:
            tie = Tie("command", event.command)
            places += self._tied(at.back(), tie, back=True, until=("command.intent", "command.refused"))
            places += self._tied(at.on(), tie, until=("command.outcome", "command.refused"))
        if event.kind in INTENT_KINDS:
            places += self._tied(at.on(), Tie("intent", event.ref), until=tuple(OUTCOME_KINDS))
        if event.session:
            tie = Tie("session", event.session, _SESSION_KINDS)
            places += self._tied(at.back(), tie, back=True, until=("session.opened",))
            places += self._tied(at.on(), tie, until=("session.closed",))
        order = {segment.path: number for number, segment in enumerate(at.segments)}
        unique = sorted(set(places), key=lambda place: (order[place.path], place.offset))
        found = {entry.ref: entry for entry in self._entries(unique)}
        intent = chain.parse_reference(event.text("intent"))
        if intent is not None and event.text("intent") not in found:
            named = self._by_reference(*intent)
            if named is not None:
                found[named[0].ref] = named[0]
        found.pop(event.ref, None)
        return list(found.values())

    def _tied(
        self, segments: Iterable[Segment], tie: Tie, *, until: tuple[str, ...], back: bool = False
    ) -> list[scan.Place]:
        """Places of lines with `tie`, at most so many, up to the first of `until`."""
        found: list[scan.Place] = []
        size = 0
        for segment in segments:
            for line in self._lines(segment.path, tie, back):
                entry = parse_entry(line.data, "")
                if entry is None or (tie.kinds and entry.kind not in tie.kinds):
                    continue
                own = {"command": entry.command, "session": entry.session, "intent": entry.text("intent")}
                if own[tie.name] != tie.value:
                    continue
                found.append(line.place)
                size += len(line.data)
                if entry.kind in until or len(found) >= _MOST_RELATED or size > _MOST_BYTES:
                    return found[::-1] if back else found
        return found[::-1] if back else found

    def grant(self, at: _At, entries: tuple[Entry, ...]) -> Entry | None:
        """The event that resolved the grant they rest on: before them, and mostly near the start."""
        digest = next((entry.text("grant") for entry in entries if entry.text("grant")), "")
        if not digest:
            return None
        tie = Tie("digest", digest, ("grant.resolved",))
        for segment in at.segments[: at.index + 1]:
            for line in self._lines(segment.path, tie, False):
                entry = parse_entry(line.data, "")
                if entry is not None and (entry.kind, entry.text("digest")) == ("grant.resolved", digest):
                    return next(self._entries([line.place]), None)
        return None

    def _entries(self, places: Iterable[scan.Place]) -> Iterator[Entry]:
        return scan.entries(self._audit, places)


def _distance(segment: Segment, seq: int) -> tuple[bool, int]:
    """How far `seq` is behind the segment's first line; those that begin behind it come last."""
    facts = chain.read_line(scan.first_line(segment.path))
    first = facts.seq if facts is not None else 0
    return first > seq, abs(seq - first)


def _decider(event: Entry, related: list[Entry]) -> Entry:
    """The event that carries the rule: itself, its intent, or the command's intent or refusal."""
    if event.text("rule"):
        return event
    intent = event.text("intent")
    named = next((e for e in related if e.ref == intent), None)
    of_command = next(
        (
            e
            for e in related
            if event.command and e.command == event.command and e.kind.startswith("command.")
        ),
        None,
    )
    return next((e for e in (named, of_command) if e is not None and e.text("rule")), event)


def _source(grant: Entry | None, rule: str) -> str:
    """Where the grant says that `rule` was written."""
    body = grant.fields.get("grant") if grant is not None else None
    sources = body.get("sources") if isinstance(body, dict) else None
    source = sources.get(rule) if isinstance(sources, dict) else None
    if isinstance(source, dict):
        file, line = source.get("file", ""), source.get("line", 0)
        return f"{file}:{line}" if line else str(file)
    return source if isinstance(source, str) else ""


def _same(entry: Entry, event: Entry) -> bool:
    return (
        entry.ref == event.ref
        or entry.text("intent") == event.ref
        or (bool(event.command) and entry.command == event.command and entry.kind == "command.outcome")
    )


def _sentence(event: Entry, outcome: Entry | None) -> str:
    who = f"{event.principal or 'the host'} for tenant {event.tenant}" if event.tenant else "the host"
    what = (
        event.text("operation")
        or event.text("tool")
        or f"{event.text('method')} {event.text('host')}{event.text('path')}".strip()
    )
    if event.kind == "command.refused":
        return f"{what} was refused to {who}: {event.text('reason')}"
    if event.kind in ("egress.refused", "tool.refused"):
        return f"{what} was refused: {event.text('reason')}"
    if event.kind in INTENT_KINDS and outcome is None:
        return f"{what} was allowed to {who}; no outcome is written (in flight, or cut off)"
    if event.kind in INTENT_KINDS | OUTCOME_KINDS and outcome is not None:
        ended = "ended well" if not outcome.text("code") else f"ended with {outcome.text('code')}"
        return f"{what or event.kind} {ended} after {outcome.number('ms')} ms"
    reason = event.text("reason") or event.text("cause") or event.text("action")
    return f"{event.kind}{f': {reason}' if reason else ''}"


_BY_RULE = (
    ("operations.deny", "Remove the pattern from operations.deny, if this operation should be allowed."),
    (
        "operations",
        "Add the operation to operations.allow of the bridge's policy and of the tenant's ceiling.",
    ),
    ("tools", "Add the tool to tools.allow of the bridge's policy."),
    ("resources", "Add the resource to resources.allow of the bridge's policy."),
    ("tenant.limits", "An operator raises the tenant's ceiling: `bridgehold tenant limit TENANT KEY=…`."),
    ("tenant.state", "`bridgehold tenant show TENANT` says why; an operator lets a suspended one go on."),
    ("providers", "Say in config.toml what it costs: [providers.NAME] price, models, fees."),
    ("rate", "Slow down, or raise this rate in the bridge's policy and the tenant's ceiling."),
    ("arguments", "Correct the arguments: the bridge's manifest holds their schema."),
    ("principals", "Add the tenant (or `operator = true`) to this principal's section of config.toml."),
    ("secrets", "Grant the secret in the policy's secrets section, bound to its provider."),
    ("hub", "docs/how-to/models.md names the remedy for each of a hub's rules."),
    ("keeper.redirect", "If the place is the hub's own, name it in this provider's `hosts` in config.toml."),
    ("fields", "Leave the field out, or take the line that the reason names into the policy."),
    ("network", "Grant the endpoint in the policy's network section."),
    ("endpoints", "Grant the method and path for this endpoint in the policy's network section."),
    ("limits", "Raise this limit in the bridge's policy and the tenant's ceiling."),
)
_WITHOUT_RULE = {
    "worker.refused": "Run `bridgehold doctor`.",
    "environment.refused": "Lock another version of what the reason names, or grant by name what it needs; "
    "then `bridgehold bridge build BRIDGE`.",
    "request.refused": "`bridgehold sessions` lists what this caller may see.",
    "principal.refused": "Add a [principals.NAME] section with this uid or token's digest to config.toml.",
}
_BY_CODE = {
    "timeout": "Give it more time (limits.command, limits.startup) or less work.",
    "memory": "Raise limits.memory in the policy, or make the bridge use less.",
    "limit": "Raise the limit that the reason names in the bridge's policy.",
    "crash": "Read the session's log: `bridgehold logs SESSION`.",
    "application": "The bridge's own code failed: read the error and `bridgehold logs SESSION`.",
    "protocol": "The bridge broke the wire, which is its defect; `bridgehold logs SESSION` may say more.",
    "provider": "The provider failed; try again later.",
    "secret": "Store the key with `bridgehold secrets set`.",
    "busy": "Try again later, or give the host more memory.",
    "shortage": "Try again later; `bridgehold doctor` shows what the machine is short of.",
    "budget": "Raise the budget in the policy, or wait.",
    "session_ended": "Run it again: a new session is opened.",
    "attestation": "Run `bridgehold doctor`: the sandbox was not what its spec says.",
}


def remedy(event: Entry, rule: str, code: str, source: str) -> str:
    """One sentence on what would change the outcome; empty where nothing needs to change."""
    at = f" ({source})" if source else ""
    if event.kind == "request.refused":
        rule = "principals" if event.text("code") == "denied" else ""
    if event.kind == "command.refused" and rule in ("", "default-deny"):
        return f"Add {event.text('operation')!r} to operations.allow of the bridge's policy{at}."
    if event.kind == "egress.refused" and rule in ("", "default-deny"):
        return _granting(event, at)
    if event.kind == "tool.refused" and rule in ("", "default-deny"):
        return f"Add {event.text('tool')!r} to tools.allow of the bridge's policy{at}."
    if event.kind.endswith(".refused"):
        rule = "fields" if rule.endswith((".fields", ".remote_content")) else rule
        for prefix, text in _BY_RULE:
            if rule == prefix or rule.startswith((f"{prefix}.", f"{prefix}[")):
                return text.removesuffix(".") + f"{at}."
        return _WITHOUT_RULE.get(event.kind, f"See rule {rule}{at}." if rule else "")
    return _BY_CODE.get(code, "")


def _granting(event: Entry, at: str) -> str:
    """What grants a request: its provider's path, its provider, or a host that nothing stands before."""
    provider, _, path = event.text("path").removeprefix("/").partition("/")
    both = "and to the bridge's manifest, [[needs.endpoints]], where it isn't there: both have to say it"
    if "; the provider's address ends in /" in event.text("reason"):
        return (
            f"Have the client ask for that version; or grant the path, and the address, of the other one{at}."
        )
    if event.text("reason").endswith("is none of the granted paths"):
        return f"Add {'/' + path!r} to `paths` of [network.endpoints.{provider}] in the policy{at}, {both}."
    if event.text("reason").startswith("no endpoint"):
        return f"Add [network.endpoints.{provider}] to the policy{at}, {both}."
    return f"Grant {event.text('host')!r} in the network section of the bridge's policy{at}."
