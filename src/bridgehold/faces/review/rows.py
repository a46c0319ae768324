"""Events as lines of a timeline (pure)."""

from __future__ import annotations

from typing import Literal

import msgspec

from bridgehold.audit.entries import Entry
from bridgehold.audit.reading.linear import Hit
from bridgehold.audit.telling import sentence
from bridgehold.faces.review.question import REFUSED

Tone = Literal["refused", "failed", "well", "change", "plain"]
_CHANGES = ("policy", "config", "grant", "environment", "admin", "secret")


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One event, as it stands in a list."""

    ref: str
    day: str
    time: str
    kind: str
    tone: Tone
    sentence: str
    tenant: str
    framework: str
    place: str
    """``file:line``."""


def row_of(entry: Entry, framework: str = "") -> Row:
    """The line of one event."""
    return Row(
        ref=entry.ref,
        day=entry.time[:10],
        time=entry.time[11:23],
        kind=entry.kind,
        tone=tone_of(entry),
        sentence=sentence(entry),
        tenant=entry.tenant,
        framework=framework or entry.text("bridge"),
        place=entry.place,
    )


def row_of_hit(hit: Hit) -> Row:
    """The line of one that was found."""
    return row_of(hit.entry, hit.framework)


def tone_of(entry: Entry) -> Tone:
    """What kind of news it is: words say the same, so that nobody needs the colour."""
    family, _, what = entry.kind.partition(".")
    if entry.kind in REFUSED:
        return "refused"
    ended = entry.kind == "session.closed" and entry.text("code") == "session_ended"  # as somebody wished
    if (entry.text("code") and not ended) or entry.kind in ("host.degraded", "channel.ended"):
        return "failed"
    if what in ("outcome", "ended") and family in ("command", "egress", "tool"):
        return "well"
    return "change" if family in _CHANGES else "plain"
