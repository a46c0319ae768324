"""Why something happened or was refused: the event, the rule that decided, where it stands, what
would change it, and everything tied to it. Values; `bridgehold why` prints them.
"""

from __future__ import annotations

import msgspec

from bridgehold.audit import chain
from bridgehold.audit.entries import Entry
from bridgehold.audit.events import INTENT_KINDS, OUTCOME_KINDS
from bridgehold.audit.index import Index
from bridgehold.errors import NotFoundError

_SESSION_KINDS = (
    "session.opened",
    "session.closed",
    "worker.attested",
    "worker.refused",
    "worker.exited",
    "zygote.ended",
    "protocol.violation",
)


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
    related: tuple[Entry, ...]
    """Intent, outcome, egress and the session's own events, oldest first; without `event`."""


def story(index: Index, name: str) -> Story:
    """The story of an event (``INSTANCE.SEQ``) or of a command (``c-…``). Raises `NotFoundError`."""
    event = _event(index, name)
    related = _related(index, event)
    decider = _decider(event, related)
    grant = _grant(index, (event, *related))
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
        related=tuple(sorted(related, key=lambda e: (e.time, e.seq))),
    )


def _event(index: Index, name: str) -> Entry:
    found = index.get(name) if chain.parse_reference(name) else None
    if found is None and name.startswith("c-"):
        of_command = index.of_command(name)
        outcomes = [e for e in of_command if e.kind in ("command.outcome", "command.refused")]
        found = next(iter(outcomes or of_command), None)
    if found is None:
        raise NotFoundError(
            f"no event {name[:80]!r} in this audit",
            hint="`bridgehold audit tail` shows references; a reference is INSTANCE.SEQ.",
        )
    return found


def _related(index: Index, event: Entry) -> list[Entry]:
    found: dict[str, Entry] = {}
    candidates: list[Entry | None] = []
    if event.command:
        candidates += index.of_command(event.command)
    if intent := event.text("intent"):
        candidates.append(index.get(intent))
    if event.kind in INTENT_KINDS:
        candidates.append(index.linked(event.ref))
    if event.session:
        candidates += index.of_session(event.session, _SESSION_KINDS)
    for entry in candidates:
        if entry is not None and entry.ref != event.ref:
            found[entry.ref] = entry
    return list(found.values())


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


def _grant(index: Index, entries: tuple[Entry, ...]) -> Entry | None:
    for entry in entries:
        if digest := entry.text("grant"):
            return index.linked(digest, "grant.resolved")
    return None


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
    ("rate", "Slow down, or raise this rate in the bridge's policy and the tenant's ceiling."),
    ("arguments", "Correct the arguments: the bridge's manifest holds their schema."),
    ("principals", "Add the tenant (or `operator = true`) to this principal's section of config.toml."),
    ("secrets", "Grant the secret in the policy's secrets section, bound to its provider."),
    ("hub", "docs/how-to/models.md names the remedy for each of a hub's rules."),
    ("keeper.redirect", "If the place is the hub's own, name it in this provider's `hosts` in config.toml."),
    ("network", "Grant the endpoint in the policy's network section."),
    ("endpoints", "Grant the method and path for this endpoint in the policy's network section."),
    ("limits", "Raise this limit in the bridge's policy and the tenant's ceiling."),
)
_WITHOUT_RULE = {
    "worker.refused": "Run `bridgehold doctor`.",
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
        return f"Grant {event.text('host')!r} in the network section of the bridge's policy{at}."
    if event.kind == "tool.refused" and rule in ("", "default-deny"):
        return f"Add {event.text('tool')!r} to tools.allow of the bridge's policy{at}."
    if event.kind.endswith(".refused"):
        for prefix, text in _BY_RULE:
            if rule == prefix or rule.startswith((f"{prefix}.", f"{prefix}[")):
                return text.removesuffix(".") + f"{at}."
        return _WITHOUT_RULE.get(event.kind, f"See rule {rule}{at}.")
    return _BY_CODE.get(code, "")
