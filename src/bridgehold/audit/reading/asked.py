"""One question for somebody else, by a process of its own: ``python -P -m bridgehold.audit.reading.asked``.

The host asks so for its callers: what a question costs is this process's, which may be killed. The question
comes on standard input, as it may hold what arguments of a process must not.
"""

from __future__ import annotations

import contextlib
import os
import resource
import sys
from collections.abc import Collection, Mapping
from pathlib import Path

import msgspec

from bridgehold.audit.entries import Entry
from bridgehold.audit.reading.desk import Desk
from bridgehold.audit.reading.fields import FIELDS, FRAMEWORK
from bridgehold.audit.reading.language import parse
from bridgehold.audit.reading.linear import Hit, matches
from bridgehold.audit.reading.syntax import EVERYTHING, All, AnyOf, Compare, Expression, Not, both, equal
from bridgehold.error_info import ErrorInfo
from bridgehold.errors import AuditError, BridgeholdError, NotFoundError, UsageError

TENANTS_SEE = (
    *("session.opened", "session.extended", "session.closed", "protocol.violation", "audit.queried"),
    *("command.intent", "command.outcome", "command.refused", "request.refused"),
    *("tool.intent", "tool.outcome", "tool.refused"),
    *("egress.intent", "egress.outcome", "egress.refused", "egress.sent", "egress.ended", "egress.stopped"),
    *("artifact.changed", "artifact.read", "secret.changed"),
)
"""Kinds that tell a tenant its own story. All others tell of the machine (pids, uids, mounts, files) as well:
whoever is no operator is shown none of such an event, and no question finds it."""
CPU_SECONDS = 10
"""Of one question, once the index is as new as the disk."""
MEMORY_BYTES = 512 << 20
"""Of one question, and of the index that it brings up to date: what it takes is the host's, whoever asks."""
_NICE = 10
_MOST_INPUT = 4 * 1024 * 1024
"""The host's own words: a principal may act for thousands of tenants."""


NARROW = "Narrow it by time, kind or session: `time >= yesterday and kind = command.refused and …`."


class Scope(msgspec.Struct, frozen=True, kw_only=True):
    """What alone is looked at, for who is no operator."""

    tenants: tuple[str, ...]
    """``*``: all of them, and still nothing that is no tenant's."""
    bridges: tuple[str, ...] = ()
    """Empty: any, and what is of none."""


class Inquiry(msgspec.Struct, frozen=True, kw_only=True):
    """A question, and of what."""

    audit: str
    cache: str
    """The folder of the index, the asker's own."""
    question: str
    limit: int
    most_bytes: int
    """Of the lines that are answered together."""
    before: str = ""
    after: str = ""
    scope: Scope | None = None
    """None: the whole audit."""


class FoundEvents(msgspec.Struct, frozen=True, kw_only=True):
    """Events that fit, oldest first: the newest of them, or those next to where the question goes on."""

    events: tuple[Entry, ...]
    more: bool
    """There are more that fit: older ones than the first, or with `after` younger ones than the last."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """One of the two."""

    found: FoundEvents | None = None
    error: ErrorInfo | None = None


_REMOVED = All((equal("kind", "admin.outcome"), equal("tenant", ""), equal("action", "tenant.remove")))


def removed(desk: Desk, tenants: Collection[str]) -> dict[str, str]:
    """When somebody of these names was removed last: who is created anew under one has another story."""
    return {
        hit.entry.text("subject"): hit.entry.time
        for hit in desk.every(EVERYTHING, scope=_REMOVED)
        if hit.entry.text("subject") in tenants and hit.entry.fields.get("ok") is True
    }


def within(scope: Scope, since: Mapping[str, str] | None = None) -> Expression:
    """Of what events somebody is told who may act for these tenants (pure). `since`: of one, only younger."""
    older = [
        both(equal("tenant", name), Not(Compare(FIELDS["time"], ">", time)))
        for name, time in (since or {}).items()
    ]
    named: Expression = AnyOf(tuple(equal("tenant", one) for one in scope.tenants))
    tenants = both(named, *map(Not, older))
    if "*" in scope.tenants or not scope.tenants:
        tenants = Not(equal("tenant", ""))
    kinds = AnyOf(tuple(equal("kind", kind) for kind in TENANTS_SEE))
    bridges = [AnyOf(tuple(equal(FRAMEWORK, one) for one in scope.bridges))] if scope.bridges else []
    return both(tenants, kinds, *bridges)


def answered(asked: Inquiry) -> FoundEvents:
    """Raises `UsageError` for the question, `NotFoundError` for where it goes on, and `AuditError` where no
    index can be kept."""
    question = parse(asked.question)
    if asked.scope is not None and not asked.scope.tenants:
        return FoundEvents(events=(), more=False)
    with Desk.open(Path(asked.audit), Path(asked.cache)) as desk:
        if not desk.indexed:
            hint = "The host's log says more; the disk may be full."
            raise AuditError("no index of the audit can be kept", hint=hint, retry="later")
        _bound()
        scope = None
        if (own := asked.scope) is not None:
            scope = within(own, removed(desk, own.tenants))
        if beside := asked.before or asked.after:
            _demand(desk, beside, scope)
        hits = desk.select(
            question, limit=asked.limit + 1, before=asked.before, after=asked.after, scope=scope
        )
    kept = _bounded(hits if asked.after else hits[::-1], asked)
    events = tuple(hit.entry for hit in (kept if asked.after else kept[::-1]))
    return FoundEvents(events=events, more=len(kept) < len(hits))


def _demand(desk: Desk, reference: str, scope: Expression | None) -> None:
    """Another's event and one that never was are refused alike."""
    with contextlib.suppress(AuditError):
        if matches(scope or EVERYTHING, desk.find(reference)):
            return
    raise NotFoundError(f"no event {reference[:80]!r} in this audit", hint="A reference is INSTANCE.SEQ.")


def _bounded(hits: list[Hit], asked: Inquiry) -> list[Hit]:
    """The first of them that may be answered together; one, at least."""
    kept, size = list[Hit](), 0
    for hit in hits[: asked.limit]:
        size += len(hit.line)
        if kept and size > asked.most_bytes:
            break
        kept.append(hit)
    return kept


def _bound() -> None:
    """From here on this process has so long, and is killed by the kernel past it."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    most = int(used.ru_utime + used.ru_stime) + 1 + CPU_SECONDS
    resource.setrlimit(resource.RLIMIT_CPU, (most, most))


def main() -> int:
    """Answer what standard input asks, on standard output."""
    os.nice(_NICE)  # callers' commands come first
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    asked = msgspec.json.decode(sys.stdin.buffer.read(_MOST_INPUT), type=Inquiry)
    try:
        answer = Answer(found=answered(asked))
    except BridgeholdError as error:
        answer = Answer(error=error.info())
    except MemoryError:
        answer = Answer(
            error=UsageError("the question takes too much memory", where="question", hint=NARROW).info()
        )
    sys.stdout.buffer.write(msgspec.json.encode(answer))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
