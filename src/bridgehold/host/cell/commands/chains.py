"""Commands that run with tools, and the commands that those tools run: who waits for whom, and no circle."""

from __future__ import annotations

import msgspec

from bridgehold.errors import BusyError
from bridgehold.host.cell.commands.command_log import Plan

_MOST_NESTED = 8


class Chain(msgspec.Struct, frozen=True):
    """A running command that has tools: for whom, and the sessions whose commands wait for it."""

    tenant: str
    sessions: tuple[str, ...] = ()


class Chains(dict[str, Chain]):
    """All of a host, by the command's id."""

    def parent(self, plan: Plan, session: str) -> tuple[str, tuple[str, ...]]:
        """The command whose tool runs `plan` (empty where that is only said), and the sessions that wait.

        Raises `BusyError` where it could never end.
        """
        known = self.waiting(plan)
        if known is None:
            return "", ()
        if session in known.sessions:
            raise BusyError(
                f"session {session} waits for the very tool that asks it",
                hint="A tool may use another session, never the one that called it.",
            )
        if len(known.sessions) >= _MOST_NESTED:
            raise BusyError(f"tools that run commands nest {_MOST_NESTED} deep at most")
        return plan.request.parent, known.sessions

    def waiting(self, plan: Plan) -> Chain | None:
        """The command that `plan` says it is for, where that runs with tools and may be seen."""
        known = self.get(plan.request.parent)
        return known if known is not None and plan.principal.may_act_for(known.tenant) else None
