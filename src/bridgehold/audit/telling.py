"""The story of an event in sentences, in the order in which things happened (pure)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from bridgehold.audit.entries import Entry
from bridgehold.audit.why import Story


def tell(story: Story) -> tuple[tuple[Entry, str], ...]:
    """Each event of the story with its sentence, the oldest first; the one asked about is among them."""
    events = sorted((story.event, *story.related), key=lambda event: (event.time, event.seq))
    decided = {event.ref: story.source for event in events if event.text("rule") == story.rule}
    return tuple((event, sentence(event, decided.get(event.ref, ""))) for event in events)


def sentence(event: Entry, source: str = "") -> str:
    """One event by itself. `source`: where the rule that it names is written."""
    if event.text("dropped"):
        what = event.text("operation") or event.text("bridge") or event.text("provider")
        return f"{event.kind}{f' of {what}' if what else ''}: what it said was dropped by seal."
    make = _SENTENCES.get(event.kind)
    return f"{make(event, source) if make is not None else _other(event)}."


def _other(event: Entry) -> str:
    reason = event.text("reason") or event.text("cause") or event.text("action")
    return f"{event.kind}{f': {reason}' if reason else ''}"


def _who(event: Entry) -> str:
    return event.principal or "The host"


def _by(event: Entry, source: str) -> str:
    """The rule that allowed or refused, and where it is written."""
    rule = event.text("rule")
    return f" by {rule}{f' ({source})' if source else ''}" if rule else ""


def _because(event: Entry, name: str = "reason") -> str:
    return f": {event.text(name)}" if event.text(name) else ""


def _opened(event: Entry, _: str) -> str:
    recovers = event.text("recovers")
    again = f", in place of {recovers}" if recovers else ""
    whose = f"{event.text('bridge')} for tenant {event.tenant}"
    kept = event.fields.get("kept_back")
    outside = f"; outside stayed {', '.join(map(str, kept))}" if isinstance(kept, list) and kept else ""
    asked = event.fields.get("asked")
    less = (
        f", with limits of its own ({', '.join(map(str, asked))})"
        if isinstance(asked, dict) and asked
        else ""
    )
    start = event.text("start")
    return f"Session {event.session} of {whose} was opened, by a {start} start{again}{less}{outside}"


def _extended(event: Entry, _: str) -> str:
    life, idle = event.number("session_ms") // 1000, event.number("idle_ms") // 1000
    return f"The session was given more time: {life} s from its beginning on, {idle} s without a command"


def _closed(event: Entry, _: str) -> str:
    return f"The session ended after {event.number('commands')} commands{_because(event)}"


def _started(event: Entry, _: str) -> str:
    what = f"forked from {event.text('zygote')}" if event.text("zygote") else "begun from nothing"
    return f"The launcher started {event.text('worker')}, {what}, as uid {event.number('uid')}"


def _attested(event: Entry, _: str) -> str:
    return f"Its sandbox was attested from outside: uid {event.number('uid')}, every barrier as its spec says"


def _sandbox_refused(event: Entry, _: str) -> str:
    found = event.fields.get("differences")
    what = ", ".join(map(str, found)) if isinstance(found, list) else ""
    return f"Its sandbox was refused, for it is not what its spec says{f': {what}' if what else ''}"


def _exited(event: Entry, _: str) -> str:
    killed = event.number("oom_kills")
    memory = f"; the kernel killed {killed} of its processes for want of memory" if killed else ""
    return f"Its worker ended: {event.text('cause')}, status {event.number('status')}{memory}"


def _command_intent(event: Entry, source: str) -> str:
    asked = f"{_who(event)} asked for {event.text('operation')} for tenant {event.tenant}"
    return f"{asked}; it was allowed{_by(event, source)}"


def _command_refused(event: Entry, source: str) -> str:
    asked = f"{_who(event)} asked for {event.text('operation')} for tenant {event.tenant}"
    return f"{asked}; it was refused{_by(event, source)}{_because(event)}"


def _command_outcome(event: Entry, _: str) -> str:
    if not event.text("code"):
        return f"The command succeeded after {event.number('ms')} ms"
    return f"The command ended with {event.text('code')} after {event.number('ms')} ms{_because(event)}"


def _request(event: Entry) -> str:
    to = f" of {event.text('provider')}" if event.text("provider") else ""
    return f"{event.text('method')} {event.text('host')}{event.text('path')}{to}"


def _egress_intent(event: Entry, source: str) -> str:
    return f"The bridge asked for {_request(event)}; it was allowed{_by(event, source)}"


def _egress_refused(event: Entry, source: str) -> str:
    return f"The bridge asked for {_request(event)}; it was refused{_by(event, source)}{_because(event)}"


def _egress_outcome(event: Entry, _: str) -> str:
    if event.text("code") and not event.number("status"):
        return f"The request ended with {event.text('code')} after {event.number('ms')} ms"
    return f"{event.text('host')} answered {event.number('status')} after {event.number('ms')} ms"


def _egress_sent(event: Entry, source: str) -> str:
    return f"The keeper was asked to send {_request(event)}; it is allowed{_by(event, source)}"


def _egress_ended(event: Entry, source: str) -> str:
    if event.fields.get("unsent") is True:
        return f"Nothing of it was sent{f': {code}' if (code := event.text('code')) else ''}"
    return _egress_outcome(event, source)


def _egress_stopped(event: Entry, source: str) -> str:
    asked = f"The keeper was asked to send {_request(event)}"
    return f"{asked}; it was refused{_by(event, source)}{_because(event)}"


def _tool_intent(event: Entry, source: str) -> str:
    return f"The bridge called the tool {event.text('tool')}; it was allowed{_by(event, source)}"


def _tool_refused(event: Entry, source: str) -> str:
    called = f"The bridge called the tool {event.text('tool')}"
    return f"{called}; it was refused{_by(event, source)}{_because(event)}"


def _tool_outcome(event: Entry, _: str) -> str:
    how = "answered" if event.fields.get("ok") else f"failed with {event.text('code')}"
    return f"The tool {event.text('tool')} {how} after {event.number('ms')} ms{_because(event)}"


def _violation(event: Entry, _: str) -> str:
    return f"The bridge broke the wire{_because(event)}"


def _method_refused(event: Entry, _: str) -> str:
    return f"{_who(event)} asked for {event.text('method')}; it was refused{_because(event)}"


def _host_started(event: Entry, _: str) -> str:
    given_up = _list(event, "weakenings")
    return f"The host {event.text('version')} began{f', without {given_up}' if given_up else ''}"


def _host_stopped(event: Entry, _: str) -> str:
    return f"The host ended in order{_because(event)}"


def _granted(event: Entry, _: str) -> str:
    grant = event.fields.get("grant")
    facts = grant if isinstance(grant, dict) else {}
    bridge, policy = facts.get("bridge", "A bridge"), facts.get("policy", "a policy")
    return f"{bridge} was granted {policy} for tenant {event.tenant}"


def _policy_loaded(event: Entry, _: str) -> str:
    files = _list(event, "files", lambda text: text.partition(" sha256:")[0])
    took = f"Policy {event.text('name')} took effect for tenant {event.tenant}"
    changed = "".join(
        f"; {what}: {several}" for what in ("gained", "lost") if (several := _list(event, what))
    )
    return f"{took}{f', from {files}' if files else ''}{changed}"


def _reloaded(event: Entry, _: str) -> str:
    applied, waiting = _list(event, "applied"), _list(event, "waiting")
    later = f"; {waiting} waits for a restart" if waiting else ""
    return f"The configuration was read again: {applied or 'nothing'} changed{later}"


def _secret(event: Entry, _: str) -> str:
    by = f" by {event.principal}" if event.principal else ""
    return f"Key {event.text('name')} of tenant {event.tenant}: {event.text('action')}{by}"


def _admin_intent(event: Entry, _: str) -> str:
    return f"{_who(event)} asks for {event.text('action')} of {event.text('subject')}"


def _admin_outcome(event: Entry, _: str) -> str:
    how = "done" if event.fields.get("ok") is True else f"failed with {event.text('code')}{_because(event)}"
    return f"{event.text('action')} of {event.text('subject')} by {_who(event)}: {how}"


def _built(event: Entry, _: str) -> str:
    what = f"{event.number('files')} files, after {event.number('ms')} ms"
    return f"The environment of {event.text('bridge')} was built: {what}"


def _anchored(event: Entry, _: str) -> str:
    return f"The keeper signed the chain up to event {event.number('count')}, with key {event.text('key')}"


def _peer_refused(event: Entry, _: str) -> str:
    return f"A peer with uid {event.number('uid')} was rejected{_because(event)}"


def _opened_journal(event: Entry, _: str) -> str:
    before = event.text("previous")
    return f"The journal began{f', in place of {before}' if before else ', the first of its folder'}"


def _kept(event: Entry, _: str) -> str:
    return f"An artifact of tenant {event.tenant}: {event.text('action') or 'read'}, {event.text('name')}"


def _queried(event: Entry, _: str) -> str:
    told = f"refused with {event.text('code')}" if event.text("code") else f"{event.number('count')} events"
    return f"{event.principal} asked the audit {event.text('question') or 'for all'}: {told}"


def _folded(event: Entry, _: str) -> str:
    folded = event.fields.get("folded")
    counts = folded.items() if isinstance(folded, dict) else ()
    return f"Past their rate, and only counted: {', '.join(f'{count} {kind}' for kind, count in counts)}"


def _list(event: Entry, name: str, shown: Callable[[str], str] = str) -> str:
    value = event.fields.get(name)
    return ", ".join(shown(str(one)) for one in value) if isinstance(value, list) else ""


def _key_rotated(entry: Entry, who: str) -> str:
    lost = ", without the old one, which was lost" if entry.fields.get("old_lost") else ""
    return f"{entry.text('by')} had another key sign anchors: {entry.text('old')} → {entry.text('new')}{lost}"


def _sealed(entry: Entry, who: str) -> str:
    dropped = entry.number("bodies")
    rest = f", and dropped the bodies of {dropped} events" if dropped else ""
    return f"{entry.text('by')} sealed segment {entry.number('segment')} of {entry.text('of')}{rest}"


def _environment_refused(event: Entry, _: str) -> str:
    return f"The environment of {event.text('bridge')} was refused{_because(event)}"


def _scanned(event: Entry, _: str) -> str:
    blocked = f"; it is blocked{_because(event, 'blocked')}" if event.text("blocked") else ""
    found = f"{event.number('packages')} packages, {event.number('count')} advisories that hit"
    whose = event.text("bridge") or "no bridge"
    return f"{_who(event)} had the environment of {whose} scanned: {found}{blocked}"


def _removed(event: Entry, _: str) -> str:
    return f"{event.number('count')} folders of environments that nothing uses were removed"


def _zygote_started(event: Entry, _: str) -> str:
    ms = event.number("ms")
    return f"A warm process of {event.text('bridge')} stands after {ms} ms: sessions are forked from it"


def _zygote_ended(event: Entry, _: str) -> str:
    forks = event.number("forks")
    return f"The warm process of {event.text('bridge')} ended after {forks} forks{_because(event)}"


def _fell_back(event: Entry, _: str) -> str:
    return f"Sessions of {event.text('bridge')} start cold, though they may be forked{_because(event)}"


def _cell_ended(event: Entry, _: str) -> str:
    many = event.number("sessions")
    return f"The process of tenant {event.tenant} ended, with {many} sessions{_because(event)}"


_SENTENCES: Mapping[str, Callable[[Entry, str], str]] = {
    "session.opened": _opened,
    "session.extended": _extended,
    "session.closed": _closed,
    "worker.started": _started,
    "worker.attested": _attested,
    "worker.refused": _sandbox_refused,
    "worker.exited": _exited,
    "zygote.attested": _attested,
    "zygote.started": _zygote_started,
    "zygote.ended": _zygote_ended,
    "start.fell_back": _fell_back,
    "cell.started": lambda event, _: f"A process of its own serves tenant {event.tenant}",
    "cell.ended": _cell_ended,
    "command.intent": _command_intent,
    "command.refused": _command_refused,
    "command.outcome": _command_outcome,
    "egress.intent": _egress_intent,
    "egress.refused": _egress_refused,
    "egress.outcome": _egress_outcome,
    "egress.sent": _egress_sent,
    "egress.ended": _egress_ended,
    "egress.stopped": _egress_stopped,
    "tool.intent": _tool_intent,
    "tool.refused": _tool_refused,
    "tool.outcome": _tool_outcome,
    "protocol.violation": _violation,
    "request.refused": _method_refused,
    "principal.refused": _peer_refused,
    "host.started": _host_started,
    "host.stopped": _host_stopped,
    "host.degraded": lambda event, _: f"The host can't do all that it should{_because(event)}",
    "grant.resolved": _granted,
    "policy.loaded": _policy_loaded,
    "config.reloaded": _reloaded,
    "secret.changed": _secret,
    "admin.intent": _admin_intent,
    "admin.outcome": _admin_outcome,
    "environment.built": _built,
    "environment.refused": _environment_refused,
    "environment.scanned": _scanned,
    "environment.removed": _removed,
    "anchor.signed": _anchored,
    "anchor.key_rotated": _key_rotated,
    "segment.sealed": _sealed,
    "journal.opened": _opened_journal,
    "journal.closed": lambda event, _: f"The journal ended in order{_because(event)}",
    "segment.rotated": lambda event, _: (
        f"The journal went on in another file, after {event.number('previous_count')} events"
    ),
    "channel.ended": lambda event, _: (
        f"Who wrote as {event.text('recorder')} writes no more{_because(event)}"
    ),
    "artifact.changed": _kept,
    "artifact.read": _kept,
    "audit.queried": _queried,
    "events.folded": _folded,
}
