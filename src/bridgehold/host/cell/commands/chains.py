"""Commands that run with tools, and the commands that those tools run: who waits for whom, and no circle.

And commands that bring a file's next part: each waits for its session's turn behind those that came before.
"""

from __future__ import annotations

import asyncio

import msgspec

from bridgehold.errors import BusyError
from bridgehold.host.cell.commands.command_log import Plan, facts_aside
from bridgehold.protocol.frames import CommandRequest

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


class Arrival:
    """One of these. It is over once it waits for its turn, or never will, and so are those before it."""

    def __init__(self, before: asyncio.Future[None] | None) -> None:
        self._before = before
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def in_order(self, contents: bytes | str | None) -> str:
        """The audit's word on its bytes, once all before it are over; the turn is to be asked for at once."""
        facts = await facts_aside(contents) if contents is not None else ""
        if self._before is not None:
            await asyncio.wait({self._before})
        self.leave()
        return facts

    def leave(self, _before: object = None) -> None:
        """It waits for nothing any more; who comes behind it still does, for those before."""
        if self._before is not None and not self._before.done():
            self._before.add_done_callback(self.leave)
        elif not self.over.done():
            self._before = None
            self.over.set_result(None)


class Arrivals(dict[tuple[str, ...], Arrival]):
    """The last of them that isn't over, by whose it is and its session's name."""

    def of(self, who: str, request: CommandRequest) -> Arrival:
        """What has just come."""
        whose = who, request.tenant, request.operation.partition(":")[0], request.session
        last = self.get(whose)
        self[whose] = mine = Arrival(last.over if last is not None else None)

        def forget(_over: object) -> None:
            if self.get(whose) is mine:
                del self[whose]

        mine.over.add_done_callback(forget)
        return mine
