"""`bridgehold config | reload`: what the configuration says, and having a running host read it again."""

from __future__ import annotations

import os
from typing import Annotated

import msgspec
import typer

from bridgehold.config.effective import effective_settings
from bridgehold.config.layout import find_layout
from bridgehold.config.settings import Reload
from bridgehold.faces.cli.asking import ask
from bridgehold.faces.cli.options import Json
from bridgehold.faces.layout import dim, grouped
from bridgehold.faces.render import print_json, table, tell_unread
from bridgehold.faces.screen import err, out


def config(
    everything: Annotated[bool, typer.Option("--all", help="Defaults too.")] = False,
    json_output: Json = False,
) -> None:
    """Check the configuration, and show what it says and who said it. Every fault is named at once."""
    layout = find_layout(os.environ, os.getuid())
    tell_unread(layout)
    found = [
        one for one in effective_settings(layout.config_file, os.environ) if everything or one.by != "default"
    ]
    if json_output:
        print_json(found)
        return
    if not found:
        out.say(f"{layout.config_file}: nothing but defaults (--all shows them)")
        return
    rows = [(one.key, _shown(one.value), one.by) for one in found]
    table(("key", "value", dim("said by")), grouped(rows), title=str(layout.config_file))


def _shown(value: object) -> str:
    return value if isinstance(value, str) and value else msgspec.json.encode(value).decode()


def reload(json_output: Json = False) -> None:
    """Have the running host take over what has changed in config.toml, and which rules and bridges are gone.

    No session is dropped. Policies, tenants' files and bridges are read by each command, without a reload.
    """
    found = msgspec.convert(ask("reload", {}), type=Reload)
    if json_output:
        print_json(found)
        return
    for key in found.applied:
        out.say(f"taken over  {key}")
    for key in found.waiting:
        out.say(("waits for a restart", "yellow"), f"  {key}")
    for name in found.files:
        out.say(f"holds already  {name}")
    if found.waiting:
        err.say("`bridgehold restart` takes over what waits")
    if not found.applied and not found.waiting and not found.files:
        out.say("nothing has changed, neither in config.toml nor in a policy, a tenant's file or a bridge")
