"""`bridgehold audit tail | query | verify | export` and `bridgehold why`: reading, without host or key."""

from __future__ import annotations

import heapq
import json
import os
import re
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from bridgehold.audit import anchors as anchor_files
from bridgehold.audit import rotations as rotation_files
from bridgehold.audit.entries import Entry, printable, printable_json
from bridgehold.audit.export import export_ocsf
from bridgehold.audit.query import TIMES, Query, parse_kind, parse_span, sessions_named
from bridgehold.audit.query import query as find
from bridgehold.audit.read import follow, read_all
from bridgehold.audit.read import tail as read_tail
from bridgehold.audit.reading.desk import Desk
from bridgehold.audit.reading.language import narrowed, parse
from bridgehold.audit.reading.shelf import cache_folder
from bridgehold.audit.reading.syntax import Expression, both
from bridgehold.audit.segments import found_in
from bridgehold.audit.telling import tell
from bridgehold.audit.verify import render_report, verify_audit
from bridgehold.config.layout import default_layout
from bridgehold.errors import AuditError
from bridgehold.faces.cli.options import Json
from bridgehold.faces.layout import dim
from bridgehold.faces.render import print_json, print_json_line, print_traceback, short, table
from bridgehold.faces.screen import err, out
from bridgehold.ids import is_name, nearest

Folder = Annotated[
    Path | None,
    typer.Option("--audit", help="The audit's folder, such as a copy; this host's own if left out."),
]
Anchors = Annotated[
    list[Path] | None, typer.Option("--anchors", help="Anchors kept elsewhere: a file or folder.")
]
Keys = Annotated[list[Path] | None, typer.Option("--key", help="A public key that may sign anchors.")]
_MOST_ROWS = 30
_TOLD = 50_000
"""Events: an index that takes as many is told of."""
_ID = re.compile(r"s-[0-9a-z]{16}")
_DIGEST = re.compile(r"(sha256:[0-9a-f]{8})[0-9a-f]{56}")
_ASKED = ("kind", "tenant", "session", "command", "since", "until", "text")


def tail(
    audit: Folder = None,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="How many events.")] = 20,
    following: Annotated[bool, typer.Option("--follow", "-f", help="Go on with new events.")] = False,
    json_output: Json = False,
) -> None:
    """The newest events."""
    folder = audit_folder(audit)
    entries = follow(folder, last=lines) if following else read_tail(folder, lines)
    for entry in entries:
        print_entry(entry, as_json=json_output)


def query(
    question: Annotated[
        list[str] | None,
        typer.Argument(help="Such as: 'kind = egress.refused and host ~ example'. docs/reference/query.md"),
    ] = None,
    audit: Folder = None,
    kind: Annotated[str, typer.Option(help="A kind, or its first half: egress.refused, egress.")] = "",
    tenant: Annotated[str, typer.Option(help="Only this tenant.")] = "",
    framework: Annotated[str, typer.Option(help="Only this bridge, and its sessions.")] = "",
    session: Annotated[str, typer.Option(help="Only this session: its id, or its name.")] = "",
    command: Annotated[str, typer.Option(help="Only this command's id.")] = "",
    since: Annotated[str, typer.Option(help=f"From this time on: {TIMES}. UTC.")] = "",
    until: Annotated[str, typer.Option(help="Up to this time.")] = "",
    text: Annotated[str, typer.Option(help="A text that stands in the event.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="The newest so many.")] = 100,
    json_output: Json = False,
) -> None:
    """Events that a question fits, the newest last. Options narrow it further."""
    begin, end = parse_span(since, until)
    wanted = Query(
        kind=parse_kind(kind), tenant=tenant, session=session, command=command,
        since=begin, until=end, text=text, limit=limit,
    )  # fmt: skip
    typed, folder = parse(" ".join(question or ())), audit_folder(audit)
    found = []
    for one in sessions_named(folder, session) if _is_name(session) else [session]:
        those = msgspec.structs.replace(wanted, session=one)
        asked = both(typed, narrowed(those, framework))
        found.append(_found(folder, those, asked, typed=bool(question or framework)))
    nothing = True
    for entry in found[0] if len(found) == 1 else _newest(found, limit):
        nothing = False
        print_entry(entry, as_json=json_output)
    if nothing:
        err.say(_nothing(folder, wanted, " ".join(question or ()), framework))


def _is_name(session: str) -> bool:
    return is_name(session) and _ID.fullmatch(session) is None


def _newest(found: list[Iterator[Entry]], limit: int) -> list[Entry]:
    """Of several sessions, in the order of their times; of each, in the audit's own."""
    return list(heapq.merge(*found, key=lambda entry: entry.time))[-limit:]


def _found(folder: Path, wanted: Query, asked: Expression, *, typed: bool) -> Iterator[Entry]:
    """By the index, if there is one or the question needs it; else by the bytes of the lines."""
    with Desk.open(folder, cache_folder(os.environ), build=typed) as desk:
        if desk.indexed or typed:
            if desk.added > _TOLD:
                err.say((f"indexed {desk.added} events", "dim"))
            yield from (hit.entry for hit in desk.select(asked, limit=wanted.limit))
        else:
            yield from find(folder, wanted)


def _nothing(folder: Path, wanted: Query, question: str, framework: str) -> str:
    """That nothing fits, and what may be misspelt: a tenant that no event is of, a session's name."""
    named = {entry.tenant for entry in find(folder, Query(limit=10_000))} - {""}
    near = "" if not wanted.tenant or wanted.tenant in named else nearest(wanted.tenant, named)
    if _is_name(wanted.session):
        opened = {entry.text("name") for entry in find(folder, Query(kind="session.opened", limit=10_000))}
        near = near or nearest(wanted.session, opened - {wanted.session, ""})
    elif (by := re.search(r"\bsession\s*=\s*\"?([\w-]+)", question)) and _is_name(by[1]):
        near = near or f" (events have a session's id: --session {by[1]} finds it by its name)"
    if framework:
        bridges = {entry.text("bridge") for entry in find(folder, Query(kind="session.opened", limit=10_000))}
        near = near or ("" if framework in bridges else nearest(framework, bridges - {""}))
    asked = [f"{name} {value}" for name in _ASKED if (value := getattr(wanted, name))]
    asked += [f"framework {framework}"] if framework else []
    asked = [question, *asked] if question else asked
    return f"no event fits{': ' if asked else ''}{', '.join(asked)}{near}"


def verify(
    audit: Folder = None,
    anchors: Anchors = None,
    keys: Keys = None,
    fresh: Annotated[
        int | None, typer.Option(min=0, help="Seconds that the newest anchor kept elsewhere may be old.")
    ] = None,
    json_output: Json = False,
) -> None:
    """Integrity, completeness and anchoring, each with its own verdict; the first bad line is named."""
    layout = default_layout()
    trusted: dict[str, bytes] = {}
    own_key = layout.anchors / "anchor.pub"
    for path in [*(keys or []), *([own_key] if audit is None and own_key.exists() else [])]:
        trusted |= anchor_files.read_key(path)
    outside = [anchor for path in anchors or [] for anchor in anchor_files.load(path)]
    report = verify_audit(
        audit_folder(audit),
        outside=outside,
        rotations=rotation_files.load(*(anchors or ())),
        beside=layout.anchors if audit is None else None,
        keys=trusted,
        fresh_s=fresh,
    )
    if json_output:
        print_json({"ok": report.ok, **msgspec.to_builtins(report)})
    else:
        for line in render_report(report).splitlines():
            out.say(line, under="    ")
    if not report.ok:
        raise typer.Exit(AuditError.exit_status)


def export(audit: Folder = None) -> None:
    """Every event as OCSF, one JSON line each."""
    for line in export_ocsf(read_all(audit_folder(audit)), version("bridgehold")):
        sys.stdout.buffer.write(printable_json(line.encode("utf-8")) + b"\n")


def why(
    event: Annotated[
        str, typer.Argument(help="An event's reference (INSTANCE.SEQ) or a command's id (c-…).")
    ],
    audit: Folder = None,
    json_output: Json = False,
) -> None:
    """The story of an event: what happened, the rule that decided, where it stands, the remedy."""
    with Desk.as_it_is(audit_folder(audit), cache_folder(os.environ)) as desk:
        found = desk.story(event)
    if json_output:
        print_json(found)
        return
    day = found.event.time[:10]
    out.say((f"{day}, UTC", "dim"))
    for entry, sentence in tell(found):
        asked = entry.ref == found.event.ref
        mark = ("→ ", "bold") if asked else "  "
        when = entry.time[11:23] if entry.time.startswith(day) else entry.time
        out.say(
            mark, (f"{when}  ", "dim"), (printable(short(sentence)), "bold" if asked else ""), under=" " * 16
        )
    out.say()
    facts = [
        ("rule", f"{found.rule}{f' ({found.source})' if found.source else ''}" if found.rule else ""),
        ("remedy", found.remedy),
        ("event", f"{found.event.kind} {found.event.ref}, {found.event.place}"),
        ("grant", found.grant.text("digest") if found.grant else ""),
    ]
    for name, value in facts:
        if value:
            out.say((f"{name:<7}", "bold"), printable(short(value)), under=" " * 7)
    print_traceback(found.traceback, out)
    if found.related:
        out.say()
        rows = [_row(entry)[1:] for entry in found.related[:_MOST_ROWS]]
        cut = [(ref, kind, _DIGEST.sub(r"\1…", what)) for ref, kind, what in rows]
        table((dim("event"), "kind", "what"), cut, title="related")


def audit_folder(given: Path | None) -> Path:
    """The folder given, or that of the default layout. Raises `AuditError` where there is none.

    One that is given holds an audit; this host's own may be about to.
    """
    folder = given or default_layout().audit
    if not folder.is_dir():
        raise AuditError("there is no audit here", where=str(folder), hint="Name the audit's folder.")
    if not os.access(folder, os.R_OK | os.X_OK):
        hint = "Name the folder that holds the instances, and read it as a user who may."
        raise AuditError("can't read the audit's folder: Permission denied", where=str(folder), hint=hint)
    if given is not None:
        found_in(folder)
    return folder


def print_entry(entry: Entry, *, as_json: bool) -> None:
    """Print one event: a line of JSON, or time, reference, kind and what happened."""
    if as_json:
        print_json_line(entry)
        return
    time, ref, kind, what = _row(entry)
    style = "red" if kind.endswith(("refused", "violation", "degraded")) else "cyan"
    out.say((f"{time} {ref} ", "dim"), (f"{kind:<18}", style), f" {what}", under="    ")


def _row(entry: Entry) -> tuple[str, str, str, str]:
    shown = [
        f"{key}={_quoted(value)}"
        for key, value in entry.fields.items()
        if value not in ("", 0, [], {}, False)
        and key not in ("grant", "machine", "namespaces", "capabilities", "traceback")
    ]
    ties = " ".join(part for part in (entry.tenant, entry.session, entry.command) if part)
    return entry.time, entry.ref, entry.kind, printable(f"{ties} {' '.join(shown)}")[:300]


def _quoted(value: object) -> str:
    """A value whose end is seen: none that a guest chose looks like the fields behind it."""
    return str(value) if re.fullmatch(r'[^\s"=]+', str(value)) else json.dumps(value, ensure_ascii=False)
