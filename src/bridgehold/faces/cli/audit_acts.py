"""`bridgehold audit rotate-key | seal | sinks`: what an operator does to the audit, host or no host."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from typing import Annotated

import msgspec
import typer

from bridgehold.audit.anchors import PUBLIC_KEY, key_line, read_key
from bridgehold.audit.entries import printable
from bridgehold.audit.query import TIMES, parse_time
from bridgehold.audit.rotations import NOWHERE, store
from bridgehold.audit.scan import durable_head
from bridgehold.audit.sealing import Wanted
from bridgehold.config.layout import default_layout
from bridgehold.config.load import load_config
from bridgehold.config.pushed import standings
from bridgehold.errors import AuditError, UsageError
from bridgehold.faces.cli.audit import audit_folder
from bridgehold.faces.cli.options import Json
from bridgehold.faces.layout import dim, number
from bridgehold.faces.render import print_json, table
from bridgehold.faces.screen import out


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """What `rotate-key` prints."""

    old: str
    new: str
    public: str
    """The new public key, as one line."""
    lost: bool
    at: str
    """Where the audit stood: the old key counts for nothing behind it."""


def rotate_key(
    lost: Annotated[
        bool, typer.Option("--lost", help="The old key is gone: its successor signs alone, and says so.")
    ] = False,
    json_output: Json = False,
) -> None:
    """Another key signs anchors; old and new sign each other. A running host takes it within 5 s."""
    from bridgehold.keeper.signer import Signer

    layout = default_layout()
    published = layout.anchors / PUBLIC_KEY
    if lost and not published.exists():
        raise UsageError(
            "no key was published that could be lost",
            where=str(published),
            hint="Leave `--lost` away; a host makes its first key itself.",
        )
    signed = Signer(layout.secrets).rotate(
        lambda: (durable_head(layout.audit) if layout.audit.is_dir() else None) or NOWHERE,
        f"uid {os.getuid()}",
        datetime.now(UTC),
        lost=next(iter(read_key(published).values())) if lost else None,
    )
    if layout.anchors.is_dir():  # a host does it, too, and tells of it: until then `verify` knows the key
        store(layout.anchors, signed)
    old, new = signed.ids
    head = signed.rotation.head
    change = Change(
        old=old,
        new=new,
        public=key_line(signed.rotation.new).strip(),
        lost=signed.lost,
        at=f"{head.instance}.{head.count}",
    )
    if json_output:
        print_json(change)
        return
    out.say(f"{old} → {new}, from {change.at} on")
    out.say(f"{change.public}")
    if lost:
        out.say("the old key is lost: give reviewers the new one, they can't tell by themselves", under="  ")
    else:
        out.say(
            f"a running host takes it within 5 s; give reviewers {layout.anchors}: who trusts the old key"
        )
        out.say("trusts the new one by the record there")


def seal(
    before: Annotated[str, typer.Option(help=f"Segments that ended before this time: {TIMES}. UTC.")] = "",
    keep: Annotated[int, typer.Option(min=0, help="All but the newest so many segments.")] = 0,
    drop: Annotated[
        bool, typer.Option("--drop", help="Drop the bodies of tenants' events; their hashes stay.")
    ] = False,
    json_output: Json = False,
) -> None:
    """Close and sign old segments; `verify` says from then on what was dropped, and by whom."""
    from bridgehold.supervisor.retention import seal_now

    if not (before or keep):
        raise UsageError("which segments?", hint="`--before 90d`, `--keep 10`, or both.")
    wanted = Wanted(before=parse_time(before), keep=max(1, keep), drop=drop)
    done = seal_now(default_layout(), audit_folder(None), [wanted], f"uid {os.getuid()}", os.environ)
    if json_output:
        print_json({"sealed": [msgspec.to_builtins(one) for one in done]})
        return
    for one in done:
        what = f", {one.seal.dropped} bodies dropped, {one.freed_bytes} bytes freed" if drop else ""
        out.say(f"{one.place}: seq {one.seal.first} to {one.seal.last}{what}", under="  ")
    if not done:
        out.say("nothing to seal")


def sinks(json_output: Json = False) -> None:
    """Where the audit's events and anchors leave to, what waits, and why it does; exit 50 where one fails."""
    layout = default_layout()
    found = standings(layout, load_config(layout.config_file), time.time())
    if json_output:
        print_json(found)
    else:
        rows = [
            (one.name, one.kind, one.to, str(one.state.sent), str(one.state.waiting), printable(one.fault))
            for one in found
        ]
        head = (dim("sink"), "kind", "to", number("arrived"), number("waiting"), "what is wrong")
        table(head, rows, empty="no [push.NAME] in config.toml: nothing leaves by itself")
    if any(one.fault for one in found):
        raise typer.Exit(AuditError.exit_status)
