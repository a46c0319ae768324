"""What a timeline shows, as a value: the question, what narrows it, and the place in it (pure).

It is a link, and a command: whoever sees a page can type the same, and send it to somebody else.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from datetime import datetime
from urllib.parse import urlencode

import msgspec

from bridgehold.audit.query import Query, parse_kind, parse_span
from bridgehold.audit.reading.language import narrowed, parse
from bridgehold.audit.reading.syntax import Expression, both

REFUSED = (
    "command.refused", "egress.refused", "egress.stopped", "tool.refused", "request.refused",
    "principal.refused", "worker.refused", "environment.refused", "protocol.violation",
)  # fmt: skip
"""Kinds of refusals: what is counted is what a link to them shows."""
REFUSALS = f"kind in ({', '.join(REFUSED)})"
VIEWS: Mapping[str, tuple[str, str]] = {
    "": ("Everything", ""),
    "commands": ("Commands", "kind = command"),
    "requests": ("Requests", "kind = egress"),
    "tools": ("Tools", "kind = tool"),
    "refusals": ("Refusals", REFUSALS),
    "sessions": ("Sessions", "kind in (session, worker, zygote)"),
    "changes": ("Changes", "kind in (policy, config, grant, environment, admin, secret)"),
    "host": ("Host", "kind in (host, journal, segment, anchor, cell, channel)"),
}
"""By name: what a link says, and the question."""
_OPTIONS = ("tenant", "framework", "session", "command", "since", "until")
_LONGEST = 4_096


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """Of a timeline; empty fields don't narrow."""

    q: str = ""
    """In the language of `audit query`."""
    view: str = ""
    """One of `VIEWS`."""
    tenant: str = ""
    framework: str = ""
    session: str = ""
    command: str = ""
    since: str = ""
    until: str = ""
    before: str = ""
    """Older than this event; `after`: younger."""
    after: str = ""

    def expression(self, now: datetime | None = None) -> Expression:
        """What to look for. Raises `UsageError`, which names the column."""
        begin, end = parse_span(self.since, self.until, now)
        wanted = Query(
            kind=parse_kind(""), tenant=self.tenant, session=self.session, command=self.command,
            since=begin, until=end,
        )  # fmt: skip
        return both(parse(self.q, now), parse(self.asked_view, now), narrowed(wanted, self.framework))

    @property
    def asked_view(self) -> str:
        """The view's own question."""
        return VIEWS.get(self.view, ("", ""))[1]

    def command_line(self) -> str:
        """The same, for a terminal."""
        asked = " and ".join(f"({one})" for one in (self.q, self.asked_view) if one.strip())
        if not (self.q.strip() and self.asked_view):
            asked = self.q.strip() or self.asked_view
        options = [f"--{name}={value}" for name in _OPTIONS if (value := getattr(self, name))]
        return shlex.join(["bridgehold", "audit", "query", *([asked] if asked else []), *options])

    def url(self, **changes: str) -> str:
        """Of the page with these changes, at its beginning unless they say where."""
        moved = msgspec.structs.replace(self, before="", after="")
        return _address("/timeline", msgspec.structs.replace(moved, **changes))

    def narrows(self) -> tuple[tuple[str, str], ...]:
        """What is narrowed beside the question and the view: names and values."""
        return tuple((name, value) for name in _OPTIONS if (value := getattr(self, name)))


def read_question(given: Mapping[str, str]) -> Question:
    """Of a link's parameters. What isn't known is nothing, and what is too long is cut."""
    known = {name: given.get(name, "")[:_LONGEST] for name in Question.__struct_fields__}
    known["view"] = known["view"] if known["view"] in VIEWS else ""
    return Question(**known)


def _address(path: str, question: Question) -> str:
    """`path` with what `question` says."""
    said = {name: value for name in question.__struct_fields__ if (value := getattr(question, name))}
    return f"{path}?{urlencode(said)}" if said else path
