"""`bridgehold top | metrics | profile`, and `bridgehold sessions kill | drain | resume`."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Annotated, Any

import msgspec
import typer

from bridgehold.audit.entries import printable
from bridgehold.audit.pushing.standing import metrics as push_metrics
from bridgehold.client.client import Client, connect
from bridgehold.config.layout import default_layout
from bridgehold.config.load import load_config
from bridgehold.config.pushed import standings
from bridgehold.faces import layout
from bridgehold.faces.cli.asking import ask, using
from bridgehold.faces.cli.known import check_bridge, check_tenant, session_of, typed_tenant
from bridgehold.faces.cli.options import Json
from bridgehold.faces.layout import Column, Line, number
from bridgehold.faces.progress import console, waiting
from bridgehold.faces.render import plain, print_json, print_json_line, table
from bridgehold.faces.screen import err, out
from bridgehold.host.shares.observe import OperationFigures
from bridgehold.policies.units import format_ms, format_size
from bridgehold.protocol.values import SessionInfo

_ROWS = 15
_SESSIONS = (
    *map(Column, ("session", "tenant", "bridge", "state")),
    Column("start", extra=True),
    *map(number, ("commands", "age", "idle", "memory")),
)
_OPERATIONS = (Column("operation"), *map(number, ("commands", "per second", "failed", "p50", "p99", "cpu")))
Session = Annotated[str, typer.Argument(help="Session name or id.")]


def metrics() -> None:
    """Print the host's figures in Prometheus' text format."""
    figures = str(ask("metrics", {})["text"])
    home, now = default_layout(), time.time()
    typer.echo(figures + push_metrics(standings(home, load_config(home.config_file), now), now), nl=False)


def profile(
    session: Session,
    seconds: Annotated[float, typer.Option(min=0.1, max=60, help="How long to look, at most 60.")] = 5.0,
    collapsed: Annotated[
        bool, typer.Option("--collapsed", help="Print stacks for a flame graph: frames, then a count.")
    ] = False,
    json_output: Json = False,
) -> None:
    """Where a session's worker spends its time, by samples of its own stacks, whatever it is doing."""
    with waiting(f"looking at {session} for {seconds:g} s"):
        found = _of_session("session.profile", session, {"seconds": seconds})
    if json_output:
        print_json(found)
    elif collapsed:
        for row in found["stacks"]:
            typer.echo(f"{printable(row['stack'])} {row['samples']}")
    else:
        rows = [(f"{row['share']:.0%}", str(row["samples"]), row["line"]) for row in found["lines"][:_ROWS]]
        table(
            (number("share"), number("samples"), "where"),
            rows,
            title=f"{found['samples']} samples in {found['seconds']:.1f} s",
        )


def kill(session: Session, json_output: Json = False) -> None:
    """End a session at once, whatever it is doing."""
    found = _of_session("session.kill", session, {"reason": "killed by an operator"})
    if json_output:
        print_json(found)
    else:
        out.say(f"ended {found['id']}")


def drain(
    bridge: Annotated[str, typer.Option(help="Of this bridge only.")] = "",
    tenant: Annotated[str, typer.Option(help="Of this tenant only.", callback=typed_tenant)] = "",
    seconds: Annotated[float, typer.Option(help="How long a running command may still take.")] = 30.0,
    json_output: Json = False,
) -> None:
    """End sessions politely: what runs may finish, what is new is refused until `sessions resume`."""
    with waiting("waiting for what runs"):
        params = {"bridge": bridge, "tenant": tenant, "seconds": seconds, "cordon": True}
        found = _of_known("drain", params)
    if json_output:
        print_json(found)
    else:
        out.say(f"{len(found['ended'])} sessions ended")
    whose = f"{f' of {bridge}' if bridge else ''}{f' for {tenant}' if tenant else ''}"
    err.say(f"no new one{whose} is opened until `bridgehold sessions resume`")


def resume(
    bridge: Annotated[str, typer.Option(help="Of this bridge only.")] = "",
    tenant: Annotated[str, typer.Option(help="Of this tenant only.", callback=typed_tenant)] = "",
    json_output: Json = False,
) -> None:
    """Open sessions again where a drain has closed the way."""
    found = _of_known("resume", {"bridge": bridge, "tenant": tenant})
    if json_output:
        print_json(found)
    else:
        out.say(f"{found['resumed']} drained; new sessions are opened again")


def top(
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks.")] = 1.0,
    looks: Annotated[int, typer.Option(help="Stop after so many; 0: at Ctrl-C.")] = 0,
    json_output: Annotated[bool, typer.Option("--json", help="One line of JSON for each look.")] = False,
) -> None:
    """Sessions and operations, live: what is used, how often, how fast."""
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_top(every, looks, json_output))


async def _top(every: float, looks: int, as_json: bool) -> None:
    from rich.live import Live
    from rich.text import Text

    async with connect() as client:
        before: dict[str, OperationFigures] = {}
        done = 0
        with (
            Live(console=console(out), auto_refresh=False)
            if not as_json
            else contextlib.nullcontext() as live
        ):
            while True:
                sessions, figures = await _look(client)
                if live is None:
                    row = {"sessions": sessions, "operations": figures}
                    print_json_line(row)
                else:
                    lines = [*_sessions(sessions), [], *_operations(figures, before, every)]
                    live.update(Text.from_ansi("\n".join(map(out.styled, lines))), refresh=True)
                before = {one.operation: one for one in figures}
                done += 1
                if looks and done >= looks:
                    return
                await asyncio.sleep(every)


async def _look(client: Client) -> tuple[list[SessionInfo], list[OperationFigures]]:
    figures = await client.request("figures", {})
    return await client.sessions(), msgspec.convert(figures, type=list[OperationFigures])


def _sessions(found: list[SessionInfo]) -> list[Line]:
    rows = [
        (
            plain(one.name),
            one.tenant,
            one.bridge,
            one.state,
            one.start,
            str(one.commands),
            format_ms(one.age_ms),
            format_ms(one.idle_ms),
            format_size(one.memory_bytes),
        )
        for one in sorted(found, key=lambda one: -one.memory_bytes)[:_ROWS]
    ]
    return [[(f"{len(found)} sessions", "bold")], *(layout.table(_SESSIONS, rows, out.width) if rows else [])]


def _operations(
    found: list[OperationFigures], before: dict[str, OperationFigures], every: float
) -> list[Line]:
    rows = []
    for one in found[:_ROWS]:
        earlier = before.get(one.operation)
        rate = (one.commands - earlier.commands) / every if earlier else 0.0
        rows.append(
            (
                one.operation,
                str(one.commands),
                f"{rate:.1f}",
                str(one.failed),
                f"{one.p50_ms:.1f} ms",
                f"{one.p99_ms:.1f} ms",
                f"{one.cpu_seconds:.1f} s",
            )
        )
    title: Line = [("operations, by time spent", "bold")]
    return [title, *(layout.table(_OPERATIONS, rows, out.width) if rows else [])]


def _of_known(method: str, params: dict[str, Any]) -> Any:
    """As `ask`; a misspelt name is no way that is closed or opened."""

    async def act(client: Client) -> Any:
        await check_tenant(client, params["tenant"])
        await check_bridge(client, params["bridge"])
        return await client.request(method, params)

    return using(act)


def _of_session(method: str, session: str, params: dict[str, Any]) -> Any:
    async def act(client: Client) -> Any:
        async with session_of(client, session):
            return await client.request(method, {"session": session, **params})

    return using(act)
