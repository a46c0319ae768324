"""What an operator, a machine or a caller does to a session in the middle of a command, for real."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable

from bridgehold.bridges.kit.provider import Behaviour, Provider
from bridgehold.client.client import Client
from bridgehold.client.session import ClientSession
from bridgehold.errors import BridgeholdError, SessionEndedError
from bridgehold.faces.testing.exercise import Command
from bridgehold.faces.testing.outcomes import TYPED, Tally
from bridgehold.faces.testing.remains import Remains, freeze, squeeze
from bridgehold.ids import LOCAL_TENANT

HEALTH = Command("common:health", {})
SMALL_TENANT = "chaos-small"
FIRST_MS = 3_000
"""More for a tenant's first commands: its key is unlocked, a framework warms up."""
FATAL = frozenset({"timeout", "crash", "memory", "limit", "session_ended", "stuck", "protocol"})
"""After these the session may be gone."""
_GRACE_MS = 6_000
"""Beyond its deadline a command may take so long: the policy's grace, and the end of a sandbox."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Target:
    """A bridge on a private host, and the commands that are tried on it."""

    client: Client
    bridge: str
    asks_provider: bool
    provider: Provider
    remains: Remains
    deadline_ms: int
    commands: tuple[Command, ...]
    prelude: tuple[Command, ...] = ()
    """What the probe needs to have been run in its session."""
    probe: Command = HEALTH
    """The command in flight: one that asks the provider, if any does and succeeds."""

    async def run(self, session: ClientSession, command: Command, tally: Tally, *, more_ms: int = 0) -> str:
        """``ok``, an error's code, or ``stuck``."""
        deadline_ms = self.deadline_ms + more_ms
        work = session.run(command.operation, command.arguments, deadline_ms=deadline_ms)
        return await tally.of(work, (deadline_ms + _GRACE_MS) / 1000)

    @contextlib.asynccontextmanager
    async def session(self, *, tenant: str = LOCAL_TENANT) -> AsyncIterator[ClientSession]:
        """A session of its own, whose processes are remembered."""
        async with self.client.session(self.bridge, tenant=tenant) as session:
            await asyncio.to_thread(self.remains.look)
            yield session

    @contextlib.asynccontextmanager
    async def ready(self) -> AsyncIterator[ClientSession]:
        """A session in which the probe can be run."""
        async with self.session() as session:
            for command in self.prelude:
                await self.run(session, command, Tally())
            yield session

    async def pid(self, session: ClientSession) -> int:
        """Its worker's, on this machine."""
        for one in await self.client.sessions():
            if one.id == session.id:
                return one.pid
        raise SessionEndedError("the session ended before anything was done to it")


async def _in_flight(target: Target, tally: Tally, act: Callable[[ClientSession], Awaitable[object]]) -> None:
    """A command to a worker that can't answer, for it is frozen, and what is done meanwhile."""
    async with target.ready() as session:
        await asyncio.to_thread(freeze, await target.pid(session))
        call = asyncio.ensure_future(target.run(session, target.probe, tally))
        try:
            await act(session)
            await call
        finally:
            call.cancel()


async def frozen(target: Target, tally: Tally, _: float) -> None:
    """It never answers: the command runs into its deadline."""
    await _in_flight(target, tally, lambda _: asyncio.sleep(0))


async def killed(target: Target, tally: Tally, after_s: float) -> None:
    """As ``bridgehold sessions kill``."""

    async def kill(session: ClientSession) -> None:
        await asyncio.sleep(after_s)
        await target.client.request("session.kill", {"session": session.id, "reason": "chaos"})

    await _in_flight(target, tally, kill)


async def drained(target: Target, tally: Tally, after_s: float) -> None:
    """As ``bridgehold sessions drain``, whose patience ends before the command does."""

    async def drain(_: ClientSession) -> None:
        await asyncio.sleep(after_s)
        await target.client.request("drain", {"bridge": target.bridge, "seconds": after_s})

    await _in_flight(target, tally, drain)


@contextlib.asynccontextmanager
async def _slow(target: Target) -> AsyncIterator[ClientSession]:
    """A session whose provider takes longer than any command may."""
    async with target.ready() as session:
        target.provider.behave(Behaviour(latency_ms=2 * target.deadline_ms))
        try:
            yield session
        finally:
            target.provider.behave(Behaviour())


async def deadline(target: Target, tally: Tally, after_s: float) -> None:
    """In the middle of a provider's answer, where there is one; at once, where there is none."""
    async with _slow(target) as session:
        deadline_ms = round(after_s * 1000) if target.asks_provider else 1
        await dataclasses.replace(target, deadline_ms=deadline_ms).run(session, target.probe, tally)


async def caller_gone(target: Target, tally: Tally, after_s: float) -> None:
    """Its request is cancelled; what the session says next must still be typed."""
    async with _slow(target) as session:
        call = asyncio.ensure_future(session.run(*target.probe, deadline_ms=target.deadline_ms))
        await asyncio.sleep(after_s)
        call.cancel()
        with contextlib.suppress(asyncio.CancelledError, BridgeholdError):
            await call
        await target.run(session, Command("common:ping", {}), tally)


async def little_memory(target: Target, tally: Tally, _: float) -> None:
    """The policy's cap, as a tenant of little memory has it; then one at what is in use already."""

    async def twice() -> None:
        async with target.session(tenant=SMALL_TENANT) as session:
            pid = await target.pid(session)
            for command in target.commands:
                if await target.run(session, command, tally, more_ms=FIRST_MS) in FATAL:
                    return
            await asyncio.to_thread(squeeze, pid)
            for command in target.commands:
                if await target.run(session, command, tally) in FATAL:
                    return

    await tally.opens(twice())


HostFault = Callable[[Target, Tally, float], Awaitable[None]]
HOST_FAULTS: dict[str, tuple[HostFault, frozenset[str]]] = {
    "worker frozen": (frozen, frozenset({"timeout"})),
    "sandbox killed": (killed, frozenset({"session_ended"})),
    "session drained": (drained, frozenset({"session_ended"})),
    "deadline": (deadline, frozenset({"timeout"})),
    "caller gone": (caller_gone, TYPED),
    "little memory": (little_memory, TYPED - {"policy"}),
}
"""Name → (what is done, the codes that the commands may end with, beside ``ok``)."""
