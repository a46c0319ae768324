"""`bridgehold audit rotate-key`: what an operator does to the audit, with a host running or not."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import Annotated

import msgspec
import typer

from bridgehold.audit.anchors import PUBLIC_KEY, key_line, read_key
from bridgehold.audit.rotations import NOWHERE
from bridgehold.audit.scan import durable_head
from bridgehold.config.layout import default_layout
from bridgehold.errors import UsageError
from bridgehold.faces.cli.audit import Json
from bridgehold.faces.render import print_json
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
