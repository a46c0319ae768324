"""`bridgehold audit report`: a review of an audit, or of a copy, as Markdown, one HTML file or JSON."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from bridgehold import writes
from bridgehold.audit import anchors as anchor_files
from bridgehold.audit import rotations as rotation_files
from bridgehold.audit.query import TIMES, parse_span
from bridgehold.audit.reading.desk import Desk
from bridgehold.audit.reading.fields import FRAMEWORK
from bridgehold.audit.reading.shelf import cache_folder
from bridgehold.audit.reading.syntax import equal
from bridgehold.audit.verify import verify_audit
from bridgehold.config.layout import default_layout
from bridgehold.errors import AuditError
from bridgehold.faces.cli.audit import Anchors, Folder, Keys, audit_folder
from bridgehold.faces.cli.options import Json
from bridgehold.faces.render import print_json
from bridgehold.faces.report.gather import Gathering, Scope, wanted
from bridgehold.faces.report.sections import Document, markdown, page
from bridgehold.faces.screen import err
from bridgehold.ids import nearest

_NAMES = 10_000
"""Sessions whose tenants and bridges a misspelt one is compared with."""


def report(
    audit: Folder = None,
    tenant: Annotated[str, typer.Option(help="Only this tenant.")] = "",
    framework: Annotated[str, typer.Option(help="Only this bridge, and its sessions.")] = "",
    since: Annotated[str, typer.Option(help=f"From this time on: {TIMES}. UTC.")] = "",
    until: Annotated[str, typer.Option(help="Up to this time.")] = "",
    anchors: Anchors = None,
    keys: Keys = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A file; HTML where it ends in .html.")
    ] = None,
    json_output: Json = False,
) -> None:
    """A review: granted, reached, refused, spent, changed, and whether the log holds; exit 50 where not."""
    begin, end = parse_span(since, until)
    scope = Scope(tenant=tenant, framework=framework, since=begin, until=end)
    folder, own = audit_folder(audit), default_layout().anchors / "anchor.pub"
    trusted: dict[str, bytes] = {}
    for path in [*(keys or []), *([own] if audit is None and own.exists() else [])]:
        trusted |= anchor_files.read_key(path)
    verdict = verify_audit(
        folder,
        outside=[anchor for path in anchors or [] for anchor in anchor_files.load(path)],
        rotations=rotation_files.load(*(anchors or ())),
        beside=default_layout().anchors if audit is None else None,
        keys=trusted,
    )
    with Desk.open(folder, cache_folder(os.environ)) as desk:
        sections = Gathering(scope).gather(desk.every(wanted(scope)), verdict)
        unknown = _unknown(desk, scope)
    document = Document(title="Review of an audit", scope=_scope(scope, folder, unknown), sections=sections)
    for what, said in unknown.items():
        err.say(f"{what} {said}")
    if json_output:
        print_json({"ok": verdict.ok, **msgspec.to_builtins(document)})
    else:
        html = output is not None and output.suffix in (".html", ".htm")
        text = page(document) if html else markdown(document)
        if output is not None:
            writes.replace(output, text)
            err.say(f"wrote {output}")
        else:
            sys.stdout.buffer.write(text.encode("utf-8"))
    if not verdict.ok:
        raise typer.Exit(AuditError.exit_status)


def _unknown(desk: Desk, scope: Scope) -> dict[str, str]:
    """By tenant and framework: that no event is of it, and what may be meant. Nothing was found of a slip."""
    found = {}
    for name, what, asked in (("tenant", "tenant", scope.tenant), (FRAMEWORK, "framework", scope.framework)):
        if asked and not desk.select(equal(name, asked), limit=1):
            newest = desk.select(equal("kind", "session.opened"), limit=_NAMES)
            known = {hit.entry.tenant if what == "tenant" else hit.entry.text("bridge") for hit in newest}
            found[what] = f"{asked}: no event is of it{nearest(asked, known - {''})}"
    return found


def _scope(scope: Scope, folder: Path, unknown: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    made = datetime.now(UTC).isoformat(timespec="seconds")
    between = f"{scope.since or 'the beginning'} to {scope.until or 'the end'}"
    return (
        ("audit", str(folder)),
        ("made", made),
        ("time", between),
        ("tenant", unknown.get("tenant", scope.tenant or "all")),
        ("framework", unknown.get("framework", scope.framework or "all")),
    )
