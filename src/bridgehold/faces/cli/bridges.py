"""`bridgehold bridge list | show | adapter | build | verify | gc`; `authoring` has those for authors."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Annotated, Any

import typer

from bridgehold.bridges.adapters import adapter_source
from bridgehold.client.client import Client, Host
from bridgehold.config.layout import default_layout
from bridgehold.errors import BridgeholdError, EnvironmentBuildError, EnvironmentChangedError
from bridgehold.faces.cli.asking import ask
from bridgehold.faces.cli.known import offline_bridge, typed_bridge, typed_tenant
from bridgehold.faces.cli.options import Json
from bridgehold.faces.cli.policy import offline_registry
from bridgehold.faces.layout import Column, number
from bridgehold.faces.progress import build_progress, show_progress, waiting
from bridgehold.faces.render import print_cold, print_json, table, tell_passed_over
from bridgehold.faces.screen import err, out
from bridgehold.ids import LOCAL_TENANT, parse_name
from bridgehold.policies.units import format_size

Bridge = Annotated[str, typer.Argument(help="The bridge.", callback=typed_bridge)]
Tenant = Annotated[
    str, typer.Option(help="Who sees it: tenants may have bridges of their own.", callback=typed_tenant)
]
_CHANGED = {"CHANGED": "bold red"}


def list_bridges(json_output: Json = False) -> None:
    """Every bridge of this host, and what keeps one from starting."""
    registry = offline_registry()
    found = [registry.describe(entry) for entry in registry.visible(lambda _: True)]
    if json_output:
        print_json(found)
        return
    rows = []
    for entry in found:
        problems = entry["problems"]
        trouble = "; ".join(problems) if isinstance(problems, list) else ""
        where = "shipped" if entry["shipped"] else str(entry["tenant"]) or "own"
        rows.append((str(entry["name"]), str(entry["version"]), where, str(entry["summary"]), trouble))
    table(("bridge", "version", "from", "what it does", "problems"), rows)
    tell_passed_over(default_layout())


def show(bridge: Bridge, tenant: Tenant = LOCAL_TENANT, json_output: Json = False) -> None:
    """A bridge's operations and what it asks for."""
    manifest = offline_bridge(bridge, tenant)
    if json_output:
        print_json(manifest.operations)
        return
    out.say((manifest.name, "bold"), f" {manifest.version} — {manifest.summary}")
    rows = [
        (f"{manifest.name}:{name}", operation.effect, operation.resource, operation.summary)
        for name, operation in manifest.operations.items()
    ]
    table(("operation", "effect", "resource", "what it does"), rows)


def adapter(bridge: Bridge, tenant: Tenant = LOCAL_TENANT) -> None:
    """Print a Python module with the bridge's operations as typed methods."""
    typer.echo(adapter_source(offline_bridge(bridge, tenant)), nl=False)


def build(
    bridge: Bridge,
    tenant: Tenant = LOCAL_TENANT,
    anew: Annotated[
        bool, typer.Option("--anew", help="Although it is there; what is there is set aside.")
    ] = False,
    start: Annotated[
        bool,
        typer.Option(help="Start a session too, and say why where it is no fork though its policy says so."),
    ] = True,
    json_output: Json = False,
) -> None:
    """Build the bridge's environment (found at once where it is built already)."""
    result = asyncio.run(
        build_environment(parse_name(bridge, "bridge"), parse_name(tenant, "tenant"), anew=anew, start=start)
    )
    if json_output:
        print_json(result)
    else:
        out.say(f"{bridge}: {result['packages']} packages")
        out.say(result["digest"])
        for lack in result["lacks"]:
            err.say(f"without {lack}")
        print_cold(result["cold_start"])


async def build_environment(
    bridge: str, tenant: str, *, anew: bool = False, start: bool = False
) -> dict[str, Any]:
    """The environment of a bridge, with a bar on standard error: packages and digest."""
    with build_progress() as bars:
        task = bars.add_task(bridge, total=None, note="")
        async with Host.open() as host:
            result: dict[str, Any] = await host.request(
                "bridge.build",
                {"bridge": bridge, "tenant": tenant, "anew": anew},
                lambda event: show_progress(bars, task, bridge, event),
            )
            result["cold_start"] = await _cold_start(host, bridge, tenant) if start else ""
            return result


async def _cold_start(host: Client, bridge: str, tenant: str) -> str:
    """Why a session of it starts cold, though its policy says fork; empty where there is no reason."""
    with contextlib.suppress(BridgeholdError):
        opened = await host.request("session.open", {"bridge": bridge, "tenant": tenant, "name": ""})
        await host.request("session.close", {"session": opened["id"]})
        return str(opened["cold_start"])
    return ""


def verify(
    bridge: Annotated[
        str, typer.Argument(help="The bridge; every environment, if left out.", callback=typed_bridge)
    ] = "",
    tenant: Annotated[str, typer.Option(help="Whose own bridge it is.", callback=typed_tenant)] = "",
    json_output: Json = False,
) -> None:
    """Read every byte of built environments again; exit status 18 where one is not as it was sealed."""
    with waiting("reading every byte"):
        found = ask("bridge.verify", {"bridge": bridge, "tenant": tenant or None}, host=True)
    if json_output:
        print_json(found)
    else:
        rows = [
            (
                "as sealed" if one["ok"] else "CHANGED",
                ", ".join(one["bridges"]),
                one["digest"][7:19],
                format_size(one["bytes"]),
                one["detail"],
            )
            for one in found
        ]
        table(
            (Column("", styles={"CHANGED": "bold red"}), "bridges", "digest", number("size"), "what changed"),
            rows,
            empty="no environment is built",
        )
    if not all(one["ok"] for one in found):
        raise typer.Exit(EnvironmentChangedError.exit_status)


def collect(json_output: Json = False) -> None:
    """Remove environments that no bridge asks for and no host uses, left-overs of builds, and old wheels."""
    found = ask("bridge.gc", {}, host=True)
    removed, stuck = found["removed"], found["stuck"]
    if json_output:
        print_json(removed)
    else:
        out.say(f"{len(removed)} removed")
    if stuck:
        first = stuck[0]
        raise EnvironmentBuildError(
            f"{len(stuck)} that nobody needs can't be removed: {first['reason']}",
            where=first["path"],
            hint="Remove it by hand, as the user that owns it; then collect again.",
        )
