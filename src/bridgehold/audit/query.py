"""Events by kind, tenant, session, command, time or text: straight from the segments, newest first.

In bounded memory, and no further back than it takes.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import msgspec

from bridgehold.audit import chain, scan
from bridgehold.audit.entries import Entry
from bridgehold.audit.events import event_types, kind_of
from bridgehold.audit.segments import Segment, instance_folders
from bridgehold.errors import UsageError
from bridgehold.ids import nearest

_MOST = 10_000
_NAMED = 100
"""Sessions of one name that are looked for."""
_REST = "0000-01-01T00:00:00"
"""What a time that is only begun goes on with, after a whole year, month, hour or minute."""
_BEGUN = (4, 7, 13, 16)
TIMES = "2026-11-20, 2026-11-20T10:00, today, yesterday, 90s, 15m, 2h, 3 days ago or 1w"
_AGO = re.compile(
    r"(\d{1,9})\s*(s|secs?|seconds?|m|mins?|minutes?|h|hrs?|hours?|d|days?|w|weeks?)(?:\s+ago)?", re.ASCII
)
_SECONDS = {
    "s": 1, "se": 1, "m": 60, "mi": 60, "h": 3_600, "hr": 3_600, "ho": 3_600, "d": 86_400, "da": 86_400,
    "w": 604_800, "we": 604_800,
}  # fmt: skip
"""By the first two letters of a unit."""


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """What to look for; empty fields don't narrow. Times are RFC 3339 or a beginning of it."""

    kind: str = ""
    """A kind (``egress.refused``) or its first half (``egress``)."""
    tenant: str = ""
    session: str = ""
    command: str = ""
    since: str = ""
    until: str = ""
    text: str = ""
    """A text that must stand in what is the event's own, upper and lower case alike."""
    limit: int = 100
    """The newest so many, at most 10,000; they are given oldest first."""


def parse_time(text: str, now: datetime | None = None) -> str:
    """A time for `Query` from what a person wrote; empty stays empty. Raises `UsageError`.

    Of ``today`` and ``yesterday`` the beginning, in UTC as the audit's own times are; ``2h`` and ``2 hours
    ago`` are counted back from `now`.
    """
    if not text:
        return ""
    now = now or datetime.now(UTC)
    day = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None)
    days = {"now": now.astimezone(UTC).replace(tzinfo=None), "today": day}
    with contextlib.suppress(OverflowError):
        days["yesterday"] = day - timedelta(days=1)
        if (ago := _AGO.fullmatch(text.strip().lower())) is not None:
            days[text.strip().lower()] = days["now"] - timedelta(seconds=int(ago[1]) * _SECONDS[ago[2][:2]])
    if (found := days.get(text.strip().lower())) is not None:
        return found.isoformat(timespec="microseconds")
    for whole in (text, f"{text}{_REST[len(text) :]}" if len(text) in _BEGUN else text):
        with contextlib.suppress(ValueError, OverflowError):
            moment = datetime.fromisoformat(whole)
            moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
            return moment.replace(tzinfo=None).isoformat(timespec="microseconds")
    hint = f"Write {TIMES}, or 2026-11-20T10:00:00+01:00."
    raise UsageError(f"{text[:40]!r} is no time{nearest(text.lower(), ('today', 'yesterday'))}", hint=hint)


def parse_span(since: str, until: str, now: datetime | None = None) -> tuple[str, str]:
    """Both by `parse_time`. Raises `UsageError`, too, where nothing can lie between them."""
    begin, end = parse_time(since, now), parse_time(until, now)
    if begin and end and begin >= end:
        hint = "Give the earlier time first: from --since on, and up to --until."
        raise UsageError(
            f"until {until[:40]!r} is not after since {since[:40]!r}", where="--until", hint=hint
        )
    return begin, end


def sessions_named(audit: Path, name: str) -> list[str]:
    """Ids of the sessions that were opened by this name, among the newest that were."""
    opened = query(audit, Query(kind="session.opened", text=name, limit=_MOST))
    return [entry.session for entry in opened if entry.text("name") == name][-_NAMED:]


def parse_kind(text: str) -> str:
    """A kind of event, or its first half; empty stays empty (pure). Raises `UsageError`."""
    known = [kind_of(one) for one in event_types()]
    if text and not any(f"{kind}.".startswith(f"{text}.") for kind in known):
        near = difflib.get_close_matches(text, {*known, *(kind.partition(".")[0] for kind in known)}, 3)
        hint = f"Is it {' or '.join(near)}?" if near else "docs/reference/events.md lists them."
        raise UsageError(f"there is no kind of event {text[:40]!r}", hint=hint)
    return text


class Row(msgspec.Struct, frozen=True):
    """The fields of a line by which it is chosen."""

    time: str
    kind: str
    tenant: str = ""
    session: str = ""
    command: str = ""
    intent: str = ""
    digest: str = ""


ROW = msgspec.json.Decoder(Row)


class _Span(msgspec.Struct, frozen=True):
    """What the line behind a segment says of the times in it."""

    kind: str
    earliest: str = ""
    latest: str = ""


_SPAN = msgspec.json.Decoder(_Span)


def query(audit: Path, wanted: Query) -> Iterator[Entry]:
    """The newest events that fit, oldest first. Raises `AuditError` where a file can't be read."""
    most = max(1, min(wanted.limit, _MOST))
    needle, others = _needles(wanted)
    found: list[scan.Place] = []
    for folder in reversed(instance_folders(audit)):
        segments = folder.segments()
        for at in range(len(segments) - 1, -1, -1):
            if not _may_hold(segments, at, wanted):
                continue
            for line in scan.lines(segments[at].path, needle, newest_first=True, fold=bool(wanted.text)):
                if all(other in line.data for other in others) and _fits(line.data, wanted):
                    found.append(line.place)
                    if len(found) >= most:
                        break
            if len(found) >= most:
                return scan.entries(audit, found[::-1])
    return scan.entries(audit, found[::-1])


def field(name: str, value: str) -> bytes:
    """How ``"name":"value"`` is stored."""
    return f'"{name}":"{stored(value)}"'.encode("ascii")


class Tie(NamedTuple):
    """What a line has to name, and of which kinds it may be: any, if none is given."""

    name: str
    """``seq``, ``command``, ``session``, ``intent`` or ``digest``."""
    value: str
    kinds: tuple[str, ...] = ()
    instance: str = ""
    """With ``seq``."""

    @property
    def needle(self) -> bytes:
        """What stands in each such line."""
        if self.name == "seq":
            return chain.start(self.instance) + f'{self.value},"time":"'.encode("ascii")
        return field(self.name, self.value)


def stored(text: str) -> str:
    """How a text is stored: ASCII, escaped."""
    return json.dumps(text)[1:-1].replace("\x7f", "\\u007f")


def of_kind(kind: str) -> bytes:
    """How a kind, or all kinds of a family, are stored."""
    return field("kind", kind) if "." in kind else field("kind", f"{kind}.")[:-1]


def _needles(wanted: Query) -> tuple[bytes, list[bytes]]:
    """What to look for, and what must stand in the same line: the rarest first."""
    needles = [field(name, value) for name in ("command", "session") if (value := getattr(wanted, name))]
    if wanted.kind:
        needles.append(of_kind(wanted.kind))
    if wanted.tenant:
        needles.append(field("tenant", wanted.tenant))
    if wanted.text:
        return stored(wanted.text).encode("ascii").lower(), needles
    return (needles[0], needles[1:]) if needles else (b"", [])


def _fits(line: bytes, wanted: Query) -> bool:
    row = chain.decode(ROW, line) if chain.read_line(line) is not None else None
    return (
        row is not None
        and (not wanted.kind or row.kind == wanted.kind or row.kind.startswith(f"{wanted.kind}."))
        and wanted.tenant in ("", row.tenant)
        and wanted.session in ("", row.session)
        and wanted.command in ("", row.command)
        and row.time >= wanted.since
        and (not wanted.until or row.time < wanted.until)
        and (not wanted.text or stored(wanted.text).encode("ascii").lower() in chain.own_part(line).lower())
    )


def _may_hold(segments: list[Segment], at: int, wanted: Query) -> bool:
    """Whether a segment's times can fit: the line that ended it says which they are."""
    if not wanted.since and not wanted.until:
        return True
    last = at == len(segments) - 1
    line = scan.last_line(segments[at].path) if last else scan.first_line(segments[at + 1].path)
    facts = chain.read_line(line)
    if last and facts is not None and facts.time >= wanted.since:
        return True
    span = chain.decode(_SPAN, line)
    if span is None or span.kind != ("journal.closed" if last else "segment.rotated") or not span.earliest:
        return True
    return span.latest >= wanted.since and (not wanted.until or span.earliest < wanted.until)
