"""`bridgehold sessions` and `bridgehold logs`."""

from __future__ import annotations

from typing import Annotated

import typer

from bridgehold.client.client import Client
from bridgehold.errors import UsageError
from bridgehold.faces.cli.asking import ask, using
from bridgehold.faces.cli.known import check_bridge, check_kind, session_of, typed_tenant
from bridgehold.faces.cli.options import Json
from bridgehold.faces.cli.place import limits
from bridgehold.faces.layout import Column, dim, number
from bridgehold.faces.render import print_json, table
from bridgehold.faces.screen import out
from bridgehold.ids import LOCAL_TENANT, parse_name
from bridgehold.policies.units import format_ms, format_size
from bridgehold.protocol.values import ResourceRef, SessionInfo

_SESSIONS = (
    Column("session"),
    Column("name"),
    Column("tenant"),
    Column("bridge"),
    Column("state"),
    Column("start", extra=True),
    number("commands"),
    number("age"),
    number("memory"),
    number("uid", extra=True),
)
_ZYGOTES = (
    Column("zygote"),
    Column("tenant"),
    Column("bridge"),
    Column("state"),
    number("sessions"),
    number("warm"),
    number("forks", extra=True),
    number("age"),
    number("memory"),
)


def sessions(
    context: typer.Context,
    end: Annotated[str, typer.Option("--end", help="End this session (name or id).")] = "",
    extend: Annotated[
        str, typer.Option("--extend", help="Give this session (name or id) the times of --limit.")
    ] = "",
    limit: Annotated[
        list[str] | None,
        typer.Option(
            "--limit", help="With --extend: session=10m from now on, idle=1m; at most the policy's."
        ),
    ] = None,
    json_output: Json = False,
) -> None:
    """List the sessions you may see, end one, or give one more time."""
    if context.invoked_subcommand is not None:
        return
    if bool(limit) != bool(extend):
        raise UsageError("--extend NAME and --limit session=10m belong together", where="sessions")
    found = using(lambda client: _sessions(client, end, extend, limits(limit)[1]))
    if json_output:
        print_json(found)
        return
    rows = [
        (
            s.id,
            s.name,
            s.tenant,
            s.bridge,
            s.state,
            s.start,
            str(s.commands),
            format_ms(s.age_ms),
            format_size(s.memory_bytes),
            str(s.uid),
        )
        for s in found
    ]
    table(_SESSIONS, rows, empty="no session is open")


async def _sessions(client: Client, end: str, extend: str, more: dict[str, str]) -> list[SessionInfo]:
    if extend:
        async with session_of(client, extend):
            await client.request("session.extend", {"session": extend, "limits": more})
    if end:
        async with session_of(client, end):
            await client.request("session.close", {"session": end})
    return await client.sessions()


def zygotes(json_output: Json = False) -> None:
    """List zygotes, which sessions are forked from, and how many sandboxes stand ready in warm pools."""
    found = ask("zygotes", {})
    if json_output:
        print_json(found)
        return
    waiting = {(place["tenant"], place["bridge"]): place["count"] for place in found["parked"]}
    rows = [
        (
            one["name"],
            one["tenant"],
            one["bridge"],
            one["state"],
            str(one["sessions"]),
            str(waiting.get((one["tenant"], one["bridge"]), 0)),
            str(one["forks"]),
            format_ms(one["age_s"] * 1000),
            format_size(one["memory_bytes"]),
        )
        for one in found["zygotes"]
    ]
    table(_ZYGOTES, rows, empty="no zygote runs")


def resources(
    tenant: Annotated[str, typer.Option(help="Whose.", callback=typed_tenant)] = LOCAL_TENANT,
    bridge: Annotated[str, typer.Option(help="Of this bridge only.")] = "",
    kind: Annotated[str, typer.Option(help="Of this kind only: program, chain, …")] = "",
    json_output: Json = False,
) -> None:
    """List what the tenant's sessions hold: programs, chains, models."""
    parse_name(tenant, "tenant")
    found = using(lambda client: _resources(client, tenant, bridge, kind))
    if json_output:
        print_json(found)
        return
    rows = [(one.id, one.kind, one.bridge, one.session_name, one.session) for one in found]
    empty = f"no session of {tenant} holds any{f' {kind}' if kind else ''}"
    table(("id", "kind", "bridge", "session", dim("its id")), rows, empty=empty)


async def _resources(client: Client, tenant: str, bridge: str, kind: str) -> list[ResourceRef]:
    await check_bridge(client, bridge)
    found = await client.list_resources(tenant=tenant, bridge=bridge, kind=kind)
    if not found:
        await check_kind(client, kind)
    return found


def logs(
    session: Annotated[str, typer.Argument(help="Session name or id.")], json_output: Json = False
) -> None:
    """What the session's bridge wrote to stdout and stderr; cuts are marked."""
    found = using(lambda client: _logs(client, session))
    if json_output:
        print_json({"session": session, "log": found})
    else:
        out.say(found, whole=True, end="")


async def _logs(client: Client, session: str) -> str:
    async with session_of(client, session):
        return await client.logs(session)
