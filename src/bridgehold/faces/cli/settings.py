"""`bridgehold config | reload`: what the configuration says, and having a running host read it again."""

from __future__ import annotations

import asyncio
import os
from typing import Annotated

import msgspec
import typer
from rich.markup import escape

from bridgehold.client.client import connect
from bridgehold.config.effective import effective_settings
from bridgehold.config.layout import find_layout
from bridgehold.config.settings import Reload
from bridgehold.faces.render import err, out, print_json, table, tell_unread


def config(
    everything: Annotated[bool, typer.Option("--all", help="Defaults too.")] = False,
    json_output: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
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
        out.print(f"{layout.config_file}: nothing but defaults (--all shows them)", soft_wrap=True)
        return
    rows = [(one.key, msgspec.json.encode(one.value).decode(), one.by) for one in found]
    table(str(layout.config_file), ("key", "value", "said by"), rows)


def reload(json_output: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Have the running host take over what has changed in config.toml, and which rules and bridges are gone.

    No session is dropped. Policies, tenants' files and bridges are read by each command, without a reload.
    """
    found = asyncio.run(_reload())
    if json_output:
        print_json(found)
        return
    for key in found.applied:
        out.print(f"taken over  {escape(key)}", soft_wrap=True)
    for key in found.waiting:
        out.print(f"[yellow]waits for a restart[/]  {escape(key)}", soft_wrap=True)
    for name in found.files:
        out.print(f"holds already  {escape(name)}", soft_wrap=True)
    if found.waiting:
        err.print("for a restart: `bridgehold stop`, then `bridgehold serve`", markup=False)
    if not found.applied and not found.waiting and not found.files:
        out.print("nothing has changed, neither in config.toml nor in a policy, a tenant's file or a bridge")


async def _reload() -> Reload:
    async with connect() as client:
        return msgspec.convert(await client.request("reload", {}), type=Reload)
