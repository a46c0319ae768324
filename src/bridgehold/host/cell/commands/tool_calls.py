"""The tools that one command may call."""

from __future__ import annotations

from bridgehold.host.cell.commands.command_log import Plan
from bridgehold.host.cell.sessions.session import Session
from bridgehold.host.cell.tools.calls import INPUT, ToolCalls, told
from bridgehold.host.cell.tools.records import ToolRecords
from bridgehold.host.cell.tools.values import Offered, ToolContext
from bridgehold.host.shares.observe import Metrics


def tools_of(plan: Plan, session: Session, offered: Offered, metrics: Metrics) -> ToolCalls:
    """Of what is `offered`, what the command is granted; and its own caller's input, where it takes any."""
    context = ToolContext(
        tenant=plan.grant.tenant,
        principal=plan.principal.name,
        session=session.id,
        command=plan.command,
    )
    takes_input = INPUT in offered and plan.operation is not None and plan.operation.input
    any_told = takes_input or plan.grant.tools.allow
    return ToolCalls(
        grant=plan.grant,
        offered=offered,
        facts=told(plan.grant, offered, takes_input=takes_input) if any_told else (),
        takes_input=takes_input,
        records=ToolRecords(context, session.worker.events),
        metrics=metrics,
    )
