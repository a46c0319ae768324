"""What is kept of a command that has changed its session: where, and how to do it again."""

from __future__ import annotations

from bridgehold.host.cell.commands.command_log import Plan
from bridgehold.host.cell.commands.replays import CompletedCommand
from bridgehold.host.cell.sessions.session import Session
from bridgehold.protocol.values import ResourceRef


def place_of(plan: Plan, session: Session) -> ResourceRef:
    """Where it ran, as a resource's place: without id and kind."""
    return ResourceRef(
        id="",
        kind="",
        bridge=plan.bridge,
        session=session.id,
        session_name=session.key.name,
        tenant=session.key.tenant,
    )


def completed(
    plan: Plan, arguments: dict[str, object], result: object, *, called_out: bool
) -> CompletedCommand:
    """What it takes to do it again. `called_out`: it may have reached a provider, or a tool."""
    return CompletedCommand(
        command=plan.command,
        bridge=plan.bridge,
        arguments=arguments,
        result=result,
        had_key=bool(plan.arguments.keys),
        called_out=called_out,
    )
