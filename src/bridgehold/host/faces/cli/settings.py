"""`bridgehold config | reload`: what the configuration says, and having a running host read it again."""

from __future__ import annotations

import asyncio
import os
from typing import Annotated

import msgspec
import typer

from bridgehold.host.config_view import said
from bridgehold.host.faces.cli.render import out, print_json, table
from bridgehold.host.faces.client import connect
from bridgehold.host.layout import find_layout
from bridgehold.host.reload import Reload


def config(
    everything: Annotated[bool, typer.Option("--all", help="Defaults too.")] = False,
    json_output: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check the configuration, and show what it says and who said it. Every fault is named at once."""
    layout = find_layout(os.environ, os.getuid())
    found = [one for one in said(layout.config_file, os.environ) if everything or one.by != "default"]
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

    No session is dropped.
    """
    found = asyncio.run(_reload())
    if json_output:
        print_json(found)
        return
    for key in found.applied:
        out.print(f"taken over  {key}", soft_wrap=True)
    for key in found.waiting:
        out.print(f"[yellow]waits for a restart[/]  {key}", soft_wrap=True)
    if not found.applied and not found.waiting:
        out.print("nothing has changed")


async def _reload() -> Reload:
    async with connect() as client:
        return msgspec.convert(await client.request("reload", {}), type=Reload)
