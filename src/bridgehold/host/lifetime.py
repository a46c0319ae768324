"""When a host ends, and why; and what runs for as long as it does."""

from __future__ import annotations

import asyncio
import sys
import traceback
from collections.abc import Awaitable, Callable, Coroutine

from bridgehold.host.startup import DESERTED, USED
from bridgehold.host.supervisor_link import SupervisorLink
from bridgehold.tasks import begin_task

_FAILED = 70
"""The exit status of a host that could not go on."""
_ANSWER_SECONDS = 0.05
"""For whoever asked a host to stop, to have its answer first."""
_LAST_SECONDS = 1.0
"""For the connection of whoever is gone to have ended too."""


class Lifetime:
    """One host's. `stop` is set once it ends, `hurry` once what runs is waited for no longer."""

    def __init__(self, supervisor: SupervisorLink, *, leaving: bool) -> None:
        """`leaving`: what is refused from its end on is taken by the host that comes."""
        self.stop = asyncio.Event()
        self.hurry = asyncio.Event()
        self.leaving = leaving
        self.reason = "asked by a signal"
        self.status = 0
        """The exit status: 0, or 70 where it ends because it could not go on."""
        self._supervisor = supervisor
        self._orphaned = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    def signalled(self) -> None:
        """The first signal lets commands finish, a second one ends them."""
        if self.stop.is_set():
            self.hurry.set()
        self.stop.set()

    def orphaned(self) -> None:
        """Whoever wanted this private host is gone, and it is everybody else's who is connected to it. The
        second time it ends: nobody was, and whoever comes is a next host's."""
        if self._orphaned.is_set() and not self.stop.is_set():
            self.leaving, self.reason = True, "whoever started this private host has ended"
            self.stop.set()
        self._orphaned.set()

    async def outlive(self, deserted: Callable[[], Awaitable[None]]) -> None:
        """Once whoever wanted this host is gone, ask for its end as soon as everybody is: `deserted`."""
        await self._orphaned.wait()
        try:
            async with asyncio.timeout(_LAST_SECONDS):
                await deserted()
        except TimeoutError:
            await self._supervisor.say(USED)
            await deserted()
        await self._supervisor.say(DESERTED)

    def degraded(self, reason: str) -> None:
        """Nothing may run unlogged: the host ends now, also where it ends already. The first reason stays."""
        if self.status == 0:
            self._fail(f"degraded: {reason}")

    async def ask_stop(self, reason: str, *, now: bool, again: bool) -> None:
        """`again`: for another host of the version that is installed. Raises where there can be none."""
        if again:  # whoever asked may go away meanwhile: the supervisor's word is heard all the same
            await asyncio.shield(self.begin(self._ask_for_another()))
        self.reason = reason
        if now:
            self.hurry.set()
        self._stop_soon()

    async def _ask_for_another(self) -> None:
        await self._supervisor.ask_for_another()
        self.leaving = True
        self._stop_soon()

    def _stop_soon(self) -> None:
        asyncio.get_running_loop().call_later(_ANSWER_SECONDS, self.stop.set)

    def begin(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        """Work that comes to its own end."""
        return begin_task(work, self._tasks)

    def need(self, name: str, gone: Awaitable[object]) -> asyncio.Task[None]:
        """Nothing may run unlimited, unlogged or with keys out of reach: a process that is gone ends all."""

        async def watch() -> None:
            await gone
            self._fail(f"the {name} process is gone")

        return self.begin(watch())

    def stand(self, name: str, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        """Work for as long as the host runs, which is not to run without it: its defect ends all."""

        async def watch() -> None:
            try:
                await work
            except Exception as error:  # noqa: BLE001 - the last border of this task
                sys.stderr.write(f"bridgehold: {''.join(traceback.format_tb(error.__traceback__))}")
                self.degraded(f"a defect in {name}: {type(error).__name__}")

        return self.begin(watch())

    async def end(self) -> None:
        """What still runs for as long as the host does, runs no more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _fail(self, reason: str) -> None:
        self.reason, self.status = reason, _FAILED
        self.hurry.set()
        sys.stderr.write(f"bridgehold: {reason}; stopping\n")
        self.stop.set()
