"""`bridgehold bridge submit | submissions | rollback`: bridges of tenants, and what operators decide."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from bridgehold.errors import UsageError
from bridgehold.faces.cli.asking import ask, confirmed, using
from bridgehold.faces.cli.known import typed_bridge, typed_tenant
from bridgehold.faces.cli.options import Json, OfTenant
from bridgehold.faces.layout import Column, dim, number
from bridgehold.faces.progress import waiting
from bridgehold.faces.render import STATUS_STYLE, print_json, table
from bridgehold.faces.screen import Screen, err, out
from bridgehold.ids import LOCAL_TENANT
from bridgehold.policies.units import format_size
from bridgehold.protocol.submissions import Release, Shown, Submission
from bridgehold.protocol.values import SessionInfo

Name = Annotated[str, typer.Argument(help="The submission, as `bridge submissions` lists it.")]
Whose = Annotated[str, typer.Option("--tenant", help="Whose bridge it is.", callback=typed_tenant)]
_STYLES = {"gains": "yellow", "new": "bold yellow", "loses": "green"}


def submit(
    source: Annotated[Path, typer.Argument(help="The bridge's folder, or a zip of it.", exists=True)],
    tenant: Whose = LOCAL_TENANT,
    json_output: Json = False,
) -> None:
    """Hand in a bridge of a tenant's own: it is checked in a sandbox, and waits for an operator.

    Exit status 1 where something that any bridge must do fails.
    """
    with waiting(f"checking {source.name}"):
        made = using(lambda client: client.submit(source, tenant=tenant))
    if json_output:
        print_json(made)
    else:
        _tried(made, err)
        until = f"waits until {made.expires} for an operator" if made.state == "waiting" else made.reason
        err.say(f"{made.bridge} {made.version}: {until}")
        out.say(made.id)
    if made.state != "waiting":
        raise typer.Exit(1)


def submissions(
    context: typer.Context,
    tenant: OfTenant = "",
    json_output: Json = False,
) -> None:
    """Bridges that were handed in: see, approve, reject."""
    if context.invoked_subcommand is None:
        list_submissions(tenant, json_output)


def list_submissions(
    tenant: OfTenant = "",
    json_output: Json = False,
) -> None:
    """Bridges that were handed in, the newest last."""
    found = msgspec.convert(ask("bridge.submissions", {"tenant": tenant or None}), type=list[Submission])
    if json_output:
        print_json(found)
        return
    rows = [
        (one.id, one.state, one.tenant, f"{one.bridge} {one.version}", format_size(one.bytes), one.by, one.at)
        for one in found
    ]
    columns = ("submission", "state", "tenant", "bridge", number("size"), dim("by"), dim("since"))
    table(columns, rows, empty="nothing was handed in")


def show(submission: Name, json_output: Json = False) -> None:
    """One of them: what it gains and loses beside what its tenant has, and what it isn't given."""
    shown = _shown(submission)
    if json_output:
        print_json(shown)
        return
    _say(shown)


def approve(
    submission: Name,
    seen: Annotated[str, typer.Option(help="As `show --json` said it; what it is now, if left out.")] = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Show it, and don't ask.")] = False,
    json_output: Json = False,
) -> None:
    """Have new sessions begin with it, after it was looked at; sessions that run end as they end."""
    if not seen:
        shown = _shown(submission)
        if shown.state != "waiting":
            raise UsageError(f"{submission} does not wait any more: it is {shown.state}")
        if not json_output:
            _say(shown)
        if not (yes or confirmed("Have new sessions begin with it?")):
            raise typer.Exit(1)
        seen = shown.seen
    _released(ask("bridge.approve", {"submission": submission, "seen": seen}), json_output=json_output)


def reject(
    submission: Name,
    reason: Annotated[str, typer.Option(help="Why; whoever handed it in can read it.")] = "",
    json_output: Json = False,
) -> None:
    """Refuse it; its bytes are gone."""
    done = msgspec.convert(
        ask("bridge.reject", {"submission": submission, "reason": reason}), type=Submission
    )
    if json_output:
        print_json(done)
    else:
        out.say(f"rejected {done.id}")


def rollback(
    bridge: Annotated[str, typer.Argument(help="The bridge.", callback=typed_bridge)],
    tenant: Whose = LOCAL_TENANT,
    json_output: Json = False,
) -> None:
    """Have new sessions begin with the release before the one in use; after the first, with none."""
    _released(ask("bridge.rollback", {"bridge": bridge, "tenant": tenant}), json_output=json_output)


def _released(answer: Any, *, json_output: bool) -> None:
    done = msgspec.convert(answer, type=Release)
    if json_output:
        print_json(done)
        return
    listed = msgspec.convert(ask("sessions", {}), type=list[SessionInfo])
    still = [one for one in listed if (one.bridge, one.tenant) == (done.bridge, done.tenant)]
    now = f"begin with {done.digest}" if done.digest else "don't begin: it has no release in use"
    out.say(f"new sessions of {done.bridge} of {done.tenant} {now}")
    if still:
        out.say(
            f"{len(still)} that run keep what they began with, until they end: "
            f"`bridgehold sessions --end {still[0].id}`"
        )


def _say(shown: Shown) -> None:
    facts = {
        "bridge": f"{shown.bridge} {shown.version}",
        "tenant": shown.tenant,
        "state": shown.state,
        "reason": shown.reason,
        "handed in": f"{shown.at} by {shown.by}",
        "decided": f"{shown.decided_at} by {shown.decided_by}" if shown.decided_by else "",
        "files": f"{shown.files}, {format_size(shown.bytes)}, {shown.packages} packages",
        "digest": shown.digest,
        "replaces": shown.replaces,
        "policy": shown.policy,
    }
    for key, value in facts.items():
        if value:
            out.say((f"{key:<12} ", "dim"), value, under=" " * 13)
    _tried(shown)
    rows = [("new" if one.new else "gains", one.key, one.value) for one in shown.gained]
    rows += [("loses", one.key, one.value) for one in shown.lost]
    rows += [("not given", "", text) for text in shown.withheld]
    if shown.state == "waiting":
        table((Column("", styles=_STYLES), "what", "value"), rows, empty="it gains and loses nothing")


def _tried(one: Submission, to: Screen = out) -> None:
    table(
        (Column("", styles=STATUS_STYLE), "what", "detail"),
        [(tried.status, tried.name, tried.detail) for tried in one.tried],
        empty="nothing was tried",
        to=to,
    )


def _shown(submission: str) -> Shown:
    return msgspec.convert(ask("bridge.submission", {"submission": submission}), type=Shown)
