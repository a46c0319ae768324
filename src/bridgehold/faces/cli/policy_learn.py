"""`bridgehold policy learn`: a policy drafted out of an audit, for a person to read and sign."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from bridgehold import writes
from bridgehold.audit.query import TIMES, parse_time
from bridgehold.audit.read import read_all
from bridgehold.errors import UsageError
from bridgehold.faces.cli.audit import audit_folder
from bridgehold.faces.cli.options import ForTenant, Json
from bridgehold.faces.cli.policy import offline_registry
from bridgehold.faces.render import print_json
from bridgehold.faces.screen import err
from bridgehold.host.acts import acts_of, hosts_of
from bridgehold.ids import LOCAL_TENANT, parse_name
from bridgehold.policies.learn import learn as draft


def learn(
    bridge: Annotated[str, typer.Argument(help="The bridge.")],
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
    config = offline_registry().config
    entries = (one for one in read_all(audit_folder(audit)) if session in ("", one.session))
    acts = acts_of(entries, hosts_of(config), since=parse_time(since))
    private = [name for name, entry in config.providers.items() if entry.private]
    found = draft(bridge, tenant, acts, private)
    if json_output:
        print_json(found)
        return
    if output is None:
        sys.stdout.write(found.text)  # as it is: a line that is broken is another file
    elif output.exists():
        raise UsageError("there is such a file already", where=str(output), hint="Name a new one.")
    else:
        writes.replace(output, found.text)
    events = sum(map(len, found.lines.values()))
    err.say(f"{len(found.lines)} lines by {events} events; {sum(map(len, found.left_out.values()))} left out")
