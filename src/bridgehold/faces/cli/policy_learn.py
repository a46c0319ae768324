"""`bridgehold policy learn`: a policy drafted out of an audit, for a person to read and sign."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from bridgehold import writes
from bridgehold.audit.entries import Entry
from bridgehold.audit.query import TIMES, parse_time
from bridgehold.audit.read import read_all
from bridgehold.errors import NotFoundError, UsageError
from bridgehold.faces.cli.audit import audit_folder
from bridgehold.faces.cli.known import slip_for, typed_bridge
from bridgehold.faces.cli.options import ForTenant, Json
from bridgehold.faces.cli.policy import offline_registry
from bridgehold.faces.render import print_json
from bridgehold.faces.screen import err
from bridgehold.host.acts import acts_of, hosts_of
from bridgehold.ids import LOCAL_TENANT, nearest, parse_name
from bridgehold.policies.learn import learn as draft


def learn(
    bridge: Annotated[str, typer.Argument(help="The bridge.", callback=typed_bridge)],
    tenant: ForTenant = LOCAL_TENANT,
    session: Annotated[str, typer.Option(help="Out of this session alone, by its id.")] = "",
    since: Annotated[str, typer.Option(help=f"From this time on: {TIMES}. UTC.")] = "",
    audit: Annotated[
        Path | None, typer.Option("--audit", help="The audit's folder; this host's own if left out.")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", help="Write it there, a new file.")] = None,
    json_output: Json = False,
) -> None:
    """Draft the least that allows what was seen, each line with the events that speak for it.

    Never secrets, tunnels, private addresses, devices, folders or weakenings. Whatever ran may have been
    hostile: a draft is worth nothing until a person signs it (`policy approve --for 30d`).
    """
    parse_name(bridge, "bridge")
    registry = offline_registry()
    config, opened = registry.config, dict[str, Entry]()
    entries = _noted(read_all(audit_folder(audit)), session, opened)
    acts = acts_of(entries, hosts_of(config), since=parse_time(since))
    private = [name for name, entry in config.providers.items() if entry.private]
    found = draft(bridge, tenant, acts, private)
    nothing = not (found.lines or found.left_out)
    if nothing:
        own = {entry.name for entry in registry.entries() if entry.tenant in ("", tenant)}
        _check_names(bridge, tenant, session, opened, own)
    if json_output:
        print_json(found)
        return
    if output is None:
        sys.stdout.write(found.text)  # as it is: a line that is broken is another file
    elif output.exists():
        raise UsageError("there is such a file already", where=str(output), hint="Name a new one.")
    else:
        writes.replace(output, found.text)
    if nothing:
        of = f" in session {session}" if session else f" since {since}" if since else ""
        err.say(f"{bridge} of {tenant} was let do nothing{of}: the draft allows nothing")
        return
    events = sum(map(len, found.lines.values()))
    err.say(f"{len(found.lines)} lines by {events} events; {sum(map(len, found.left_out.values()))} left out")


def _noted(entries: Iterable[Entry], session: str, opened: dict[str, Entry]) -> Iterator[Entry]:
    """Those of `session`, if one is named; the sessions of all go into `opened`."""
    for one in entries:
        if one.kind == "session.opened":
            opened[one.session] = one
        if session in ("", one.session):
            yield one


def _check_names(bridge: str, tenant: str, session: str, opened: dict[str, Entry], own: set[str]) -> None:
    """Nothing was found by them: raises `NotFoundError` where that is because one is misspelt.

    `opened`: the sessions of the audit, by id; `own`: the bridges that there are now.
    """
    bridges = own | {one.text("bridge") for one in opened.values()}
    if bridge not in bridges:
        raise NotFoundError(
            f"there is no bridge {bridge!r}, here or in this audit{nearest(bridge, bridges)}",
            hint="`bridgehold bridge list` shows them.",
        )
    if near := slip_for(tenant, {LOCAL_TENANT, *(one.tenant for one in opened.values())}):
        raise NotFoundError(
            f"there is no tenant {tenant!r} in this audit{near}", hint="Look how it is spelt."
        )
    if session and session not in opened:
        called = next((id_ for id_, one in opened.items() if one.text("name") == session), "")
        raise NotFoundError(
            f"there is no session {session[:80]!r} in this audit{nearest(session, opened)}",
            hint=f"That is its name; its id is {called}."
            if called
            else "`bridgehold audit query 'kind = session.opened'` shows them.",
        )
    if session and (of := (opened[session].text("bridge"), opened[session].tenant)) != (bridge, tenant):
        raise NotFoundError(
            f"session {session} is one of {of[0]} of {of[1]}, not of {bridge} of {tenant}",
            hint=f"`bridgehold policy learn {of[0]} --tenant {of[1]} --session {session}`",
        )
