"""`bridgehold tenant …` and `bridgehold token …`: whose things there are, and who may ask for them."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import typer

from bridgehold.client.client import Client
from bridgehold.errors import UsageError
from bridgehold.faces.cli.asking import ask, using
from bridgehold.faces.cli.known import check_bridge, check_operation
from bridgehold.faces.cli.options import Json
from bridgehold.faces.layout import dim, number
from bridgehold.faces.render import print_json, table
from bridgehold.faces.screen import err, out
from bridgehold.policies.tenants import KEYS
from bridgehold.policies.units import format_ms, format_size, parse_days
from bridgehold.protocol.tenants import NewToken, Removed, Revoked, TenantInfo, TokenInfo

Name = Annotated[str, typer.Argument(help="The tenant's name.")]
TokenName = Annotated[str, typer.Argument(help="The token's name.")]
Reason = Annotated[str, typer.Option(help="Why; its callers are told.")]
Limits = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...",
        help=f"Ceilings, KEY=none takes one away: {', '.join(key.path for key in KEYS)}.",
    ),
]


def create(name: Name, limits: Limits = None, json_output: Json = False) -> None:
    """Make a tenant. A ceiling that it has in tenants/NAME.toml stays."""
    _one(ask("tenant.create", {"name": name, "limits": _limits(limits)}), json_output=json_output)


def list_tenants(json_output: Json = False) -> None:
    """Every tenant, also one that the configuration alone names."""
    found = msgspec.convert(ask("tenant.list", {}), type=list[TenantInfo])
    if json_output:
        print_json(found)
        return
    rows = [(one.name, one.state, str(one.sessions), ", ".join(one.tokens), one.reason) for one in found]
    table(("tenant", "state", number("sessions"), "tokens", "reason"), rows, empty="there is no tenant")


def show(name: Name, json_output: Json = False) -> None:
    """One tenant: state, ceilings, who changed it last."""
    _one(ask("tenant.show", {"name": name}), json_output=json_output)


def limit(name: Name, limits: Limits = None, json_output: Json = False) -> None:
    """Set ceilings, or take some away; they hold from the next command on."""
    wanted = _limits(limits)
    if not wanted:
        raise UsageError("no ceiling was named", hint=f"KEY=VALUE, of {', '.join(key.path for key in KEYS)}.")
    _one(ask("tenant.limit", {"name": name, "limits": wanted}), json_output=json_output)


def suspend(name: Name, reason: Reason = "", json_output: Json = False) -> None:
    """Let nothing more begin for it; what runs ends as it ends."""
    _one(ask("tenant.suspend", {"name": name, "reason": reason}), json_output=json_output)


def resume(name: Name, reason: Reason = "", json_output: Json = False) -> None:
    """Let a suspended tenant go on."""
    _one(ask("tenant.resume", {"name": name, "reason": reason}), json_output=json_output)


def revoke(name: Name, reason: Reason = "", json_output: Json = False) -> None:
    """End its sessions, warm processes, tokens and keys, for good, and say how long each took."""
    done = msgspec.convert(ask("tenant.revoke", {"name": name, "reason": reason}), type=Revoked)
    if json_output:
        print_json(done)
        return
    rows = [(part, str(one.ended), format_ms(one.ms)) for part, one in done.parts.items()]
    table(("part", number("ended"), number("took")), rows)
    out.say(f"{done.name} is revoked, in {format_ms(done.ms)}")


def remove(
    name: Name,
    artifacts: Annotated[bool, typer.Option("--artifacts", help="Its artifacts go, too.")] = False,
    json_output: Json = False,
) -> None:
    """Remove a revoked tenant. A ceiling in tenants/NAME.toml stays; what it did stays in the audit.

    Artifacts and bridges of its own that stay are named: who is created anew under that name has them.
    """
    done = msgspec.convert(ask("tenant.remove", {"name": name, "artifacts": artifacts}), type=Removed)
    if json_output:
        print_json(done)
        return
    count = f"{done.artifacts} artifacts, {format_size(done.artifact_bytes)}"
    out.say(f"removed {name}{f', with {count}' if done.artifacts_removed else ''}")
    if done.artifacts and not done.artifacts_removed:
        err.say(f"{count} stay, in the state's folder artifacts/{name}")
    if done.bridges:
        err.say(f"bridges of its own stay, in tenants/{name}/bridges: {', '.join(done.bridges)}")


def create_token(
    name: TokenName,
    tenants: Annotated[list[str], typer.Option("--tenant", help="For this tenant; may be repeated.")],
    bridges: Annotated[
        list[str] | None, typer.Option("--bridge", help="With this bridge alone; may be repeated.")
    ] = None,
    operations: Annotated[
        list[str] | None,
        typer.Option("--operation", help="This pattern of bridge:operation alone; may be repeated."),
    ] = None,
    read_only: Annotated[bool, typer.Option("--read-only", help="It looks, and runs nothing.")] = False,
    no_logs: Annotated[
        bool, typer.Option("--no-logs", help="It reads nothing of what sessions write.")
    ] = False,
    expires: Annotated[str, typer.Option(help="After this time it is worth nothing: 12h, 30d.")] = "",
    json_output: Json = False,
) -> None:
    """Make a token and print it, once: it is kept nowhere. No token made so is an operator's."""
    asked = {
        "name": name,
        "tenants": tenants,
        "bridges": bridges or [],
        "operations": operations or [],
        "read_only": read_only,
        "logs": not no_logs,
        "expires_s": _seconds(expires),
    }
    _new(using(lambda client: _create_token(client, asked)), json_output=json_output)


async def _create_token(client: Client, asked: dict[str, Any]) -> Any:
    for bridge in asked["bridges"]:
        await check_bridge(client, bridge)
    for pattern in asked["operations"]:
        await check_operation(client, pattern)
    return await client.request("token.create", asked)


def list_tokens(json_output: Json = False) -> None:
    """Tokens by name and scope; never a token."""
    found = msgspec.convert(ask("token.list", {}), type=list[TokenInfo])
    if json_output:
        print_json(found)
        return
    rows = [(one.name, one.state, ", ".join(one.tenants), _scope(one), one.expires, one.by) for one in found]
    columns = ("token", "state", "tenants", "scope", dim("expires"), dim("by"))
    table(columns, rows, empty="no token was made")


def rotate(
    name: TokenName,
    grace: Annotated[str, typer.Option(help="How long the one before is taken as well: 10m.")] = "",
    json_output: Json = False,
) -> None:
    """Give a token another secret, and print it, once."""
    _new(ask("token.rotate", {"name": name, "grace_s": _seconds(grace)}), json_output=json_output)


def revoke_token(name: TokenName, json_output: Json = False) -> None:
    """Make a token worth nothing; its connections end, and what runs on them."""
    ask("token.revoke", {"name": name})
    if json_output:
        print_json({"revoked": name})
    else:
        out.say(f"revoked {name}")


def _one(answer: Any, *, json_output: bool) -> None:
    info = msgspec.convert(answer, type=TenantInfo)
    if json_output:
        print_json(info)
        return
    facts = {"tenant": info.name, "state": info.state, "reason": info.reason, "sessions": info.sessions}
    facts |= {"tokens": ", ".join(info.tokens)}
    used = {**info.used, "sessions": str(info.sessions)}
    facts |= {key: f"{used.get(key, '')} of {most}".removeprefix(" of ") for key, most in info.limits.items()}
    facts |= {"raised by hand": "; ".join(info.raised)}
    facts |= {"changed": f"{info.at} by {info.by}" if info.at else ""}
    for key, value in facts.items():
        if value != "":
            out.say((f"{key:<20} ", "dim"), str(value), under=" " * 21)


def _new(answer: Any, *, json_output: bool) -> None:
    """The token on standard output, alone; what is said of it beside."""
    made = msgspec.convert(answer, type=NewToken)
    if json_output:
        print_json(made)
        return
    until = f", until {made.expires}" if made.expires else ""
    err.say(f"{made.name}: for {', '.join(made.tenants)}{until}; shown once")
    out.say(made.token, whole=True)


def _scope(info: TokenInfo) -> str:
    said = [*info.bridges, *info.operations]
    said += ["read-only"] if info.read_only else []
    said += [] if info.logs else ["no logs"]
    return ", ".join(said) or info.reason


def _limits(said: list[str] | None) -> dict[str, str | None]:
    """Raises `UsageError` for what is not ``KEY=VALUE``."""
    found: dict[str, str | None] = {}
    for one in said or []:
        key, equals, value = one.partition("=")
        if not equals or not value:
            raise UsageError(f"{one[:80]!r} is not KEY=VALUE", hint="Such as sessions=20, or sessions=none.")
        found[key] = None if value == "none" else value
    return found


def _seconds(text: str) -> float:
    """``12h``, ``30d``. Raises `UsageError`."""
    if not text:
        return 0.0
    try:
        return parse_days(text) / 1000
    except ValueError as error:
        raise UsageError(str(error)) from None
