"""Chaos: a bridge's commands on a private host while things go wrong, and whether each ended as it must.

Provider faults are the simulator's. Host faults are real: a frozen worker, a killed sandbox, a drained
session, a deadline, a caller that goes away, a memory cap of the policy. Only the private host is touched.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import msgspec

from bridgehold.audit.verify import verify_audit
from bridgehold.bridges.kit.faults import FAULTS, Faults
from bridgehold.bridges.kit.provider import Behaviour
from bridgehold.errors import BridgeholdError, SessionEndedError, UnsupportedError
from bridgehold.host.faces.client import Client
from bridgehold.host.faces.session import ClientSession
from bridgehold.host.faces.testing.exercise import Command, commands_of
from bridgehold.host.faces.testing.outcomes import TYPED, Outcome, Tally, judged
from bridgehold.host.faces.testing.playground import Playground, hosted, playground
from bridgehold.host.faces.testing.remains import Remains, freeze, squeeze
from bridgehold.host.layout import Layout
from bridgehold.ids import LOCAL_TENANT

SMALL_TENANT = "chaos-small"
SMALL_MEMORY = 16 * 1024 * 1024
"""The cap of a bridge that says nothing of its needs: the least that a policy can give."""
GRACE_MS = 6_000
"""Beyond its deadline a command may take so long: the policy's grace, and the end of a sandbox."""
_MEMORY = "little memory"
_HEALTH = Command("common:health", {})
_FATAL = frozenset({"timeout", "crash", "memory", "limit", "session_ended", "stuck", "protocol"})
"""After these the session may be gone: what is left is tried in another."""
_LEFT_SECONDS = 10.0

Say = Callable[[str], None]


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What goes wrong, in which order. The same seed makes the same plan."""

    seed: int
    provider: tuple[tuple[str, Faults], ...]
    host: tuple[tuple[str, int], ...]
    """(fault, milliseconds after which it strikes)."""


def plan(seed: int, deadline_ms: int, *, provider: bool) -> Plan:
    """Every fault once, and all provider faults mixed (pure)."""
    chance = random.Random(seed)  # noqa: S311 - the same at every run is what it is for
    spike = round(deadline_ms * chance.uniform(0.2, 1.2))
    faults = [
        (kind, Faults(seed=seed, share=1.0, kinds=(kind,), spike_ms=spike, drip_ms=5)) for kind in FAULTS
    ]
    chance.shuffle(faults)
    mixed = ("mixed", Faults(seed=seed, share=0.4, spike_ms=spike, drip_ms=5))
    host = [(name, chance.randrange(20, 120)) for name in _HOST_FAULTS]
    chance.shuffle(host)
    return Plan(seed=seed, provider=(*faults, mixed) if provider else (), host=tuple(host))


async def chaos(
    bridge: str,
    *,
    seed: int = 0,
    deadline_ms: int = 5_000,
    commands: Sequence[Command] = (),
    layout: Layout | None = None,
    say: Say = lambda _: None,
) -> AsyncIterator[Outcome]:
    """Every fault of the plan in turn, then the audit and what is left. `commands`: not the manifest's."""
    async with contextlib.AsyncExitStack() as stack:
        ground = await stack.enter_async_context(
            playground(bridge, layout, tenants=(LOCAL_TENANT, SMALL_TENANT))
        )
        _squeeze(ground)
        async with hosted(ground) as (client, private):
            remains = Remains(private.pid)
            run = _Run(client, ground, remains, tuple(commands) or commands_of(ground.manifest), deadline_ms)
            say("without a fault")
            yield await run.calm()
            made = plan(seed, deadline_ms, provider=bool(ground.manifest.providers))
            for name, faults in made.provider:
                say(f"the provider: {name}")
                yield await run.provider(name, faults)
            for name, after_ms in made.host:
                say(f"the host: {name}")
                yield await run.host(name, after_ms)
            yield await run.sessions()
            remains.look()
        for outcome in await asyncio.to_thread(_after, ground, remains):
            yield outcome


def _squeeze(ground: Playground) -> None:
    """A tenant whose memory is what the bridge says it needs, or too little."""
    needs = ground.manifest.needs.limits.get("memory_bytes", SMALL_MEMORY)
    ground.layout.tenants.mkdir(exist_ok=True)
    file = ground.layout.tenants / f"{SMALL_TENANT}.toml"
    file.write_text(f'[limits]\nmemory = "{needs // 1024}KiB"\n', encoding="utf-8")


class _Run:
    """One bridge's commands on the private host."""

    def __init__(
        self,
        client: Client,
        ground: Playground,
        remains: Remains,
        commands: tuple[Command, ...],
        deadline_ms: int,
    ) -> None:
        self._client = client
        self._ground = ground
        self._remains = remains
        self._commands = commands
        self._deadline_ms = deadline_ms
        self._patience_s = (deadline_ms + GRACE_MS) / 1000
        self._probe = _HEALTH

    async def calm(self) -> Outcome:
        """Everything as it should be: what succeeds now is what faults are tried on."""
        tally = Tally()
        worked = await self._exercise(tally)
        self._probe = next((one for one in self._commands if one.operation in worked), _HEALTH)
        outcome = tally.outcome("none", detail=f"{len(worked)} of {len(self._commands)} commands succeed")
        if worked or outcome.status == "FAIL":
            return outcome
        return msgspec.structs.replace(
            outcome, status="CAUTION", detail="no command succeeds: give some with --command"
        )

    async def provider(self, name: str, faults: Faults) -> Outcome:
        provider = self._ground.provider
        provider.behave(Behaviour(faults=faults))
        met = len(provider.log)
        tally = Tally()
        try:
            await self._exercise(tally)
        finally:
            provider.behave(Behaviour())
        struck = sum(1 for request in list(provider.log)[met:] if request.fault)
        outcome = tally.outcome(f"provider {name}", detail=f"{struck} requests struck")
        if outcome.status == "PASS" and not struck and name != "mixed":
            return msgspec.structs.replace(
                outcome, status="CAUTION", detail="no request reached the provider"
            )
        return await self._still_serves(outcome)

    async def host(self, name: str, after_ms: int) -> Outcome:
        act, may = _HOST_FAULTS[name]
        tally = Tally()
        try:
            await act(self, tally, after_ms / 1000)
        except UnsupportedError as error:
            return Outcome(fault=name, status="CAUTION", detail=error.message)
        detail = ""
        if name == _MEMORY:
            detail = "ended by its cap" if tally.ended["memory"] else "worked within its cap"
        return await self._still_serves(tally.outcome(name, may=may, detail=detail))

    async def sessions(self) -> Outcome:
        """None may be left."""
        left = [one.id for one in await self._client.sessions() if one.name != "anonymous"]
        return Outcome(
            fault="sessions left", status="FAIL" if left else "PASS", detail=", ".join(left) or "none"
        )

    async def _exercise(self, tally: Tally) -> set[str]:
        """Every command in one session; another one, where it ended. Those that succeeded."""
        worked: set[str] = set()
        waiting = list(self._commands)
        while waiting and await tally.opens(self._with_session(tally, waiting, worked)):
            pass
        return worked

    async def _with_session(self, tally: Tally, waiting: list[Command], worked: set[str]) -> None:
        async with self._client.session(self._ground.manifest.name) as session:
            await asyncio.to_thread(self._remains.look)
            while waiting:
                command = waiting.pop(0)
                code = await tally.of(self._run(session, command), self._patience_s)
                if code == "ok":
                    worked.add(command.operation)
                if code in _FATAL:
                    return

    def _run(self, session: ClientSession, command: Command) -> Awaitable[object]:
        return session.run(command.operation, command.arguments, deadline_ms=self._deadline_ms)

    async def _still_serves(self, outcome: Outcome) -> Outcome:
        """A fault that ended well, but after which nobody is served, did not end well."""
        tally = Tally()
        await tally.opens(self._served(tally))
        if tally.ended == {"ok": 1}:
            return outcome
        found = f"afterwards a new session ends as {', '.join(tally.ended)}"
        return msgspec.structs.replace(
            outcome, status="FAIL", detail=f"{outcome.detail}; {found}".lstrip("; ")
        )

    async def _served(self, tally: Tally) -> None:
        async with self._client.session(self._ground.manifest.name) as session:
            await tally.of(session.run("common:ping"), self._patience_s)

    async def _frozen_call(self, tally: Tally, act: Callable[[ClientSession], Awaitable[object]]) -> None:
        """A command to a worker that can't answer, and what is done meanwhile."""
        async with self._client.session(self._ground.manifest.name) as session:
            await asyncio.to_thread(freeze, await self._pid(session))
            call = asyncio.ensure_future(tally.of(self._run(session, self._probe), self._patience_s))
            try:
                await act(session)
                await call
            finally:
                call.cancel()

    @contextlib.asynccontextmanager
    async def _slow(self) -> AsyncIterator[None]:
        """The provider takes its time, so that a command that asks it is in flight."""
        self._ground.provider.behave(Behaviour(latency_ms=2 * self._deadline_ms))
        try:
            yield
        finally:
            self._ground.provider.behave(Behaviour())

    async def frozen(self, tally: Tally, _: float) -> None:
        await self._frozen_call(tally, lambda _: asyncio.sleep(0))

    async def killed(self, tally: Tally, after_s: float) -> None:
        async def kill(session: ClientSession) -> None:
            await asyncio.sleep(after_s)
            await self._client.request("session.kill", {"session": session.id, "reason": "chaos"})

        await self._frozen_call(tally, kill)

    async def drained(self, tally: Tally, after_s: float) -> None:
        async def drain(_: ClientSession) -> None:
            await asyncio.sleep(after_s)
            await self._client.request("drain", {"bridge": self._ground.manifest.name, "seconds": after_s})

        await self._frozen_call(tally, drain)

    async def deadline(self, tally: Tally, after_s: float) -> None:
        """In the middle of a provider's answer, where there is one."""
        async with self._slow(), self._client.session(self._ground.manifest.name) as session:
            command, arguments = self._probe
            deadline_ms = round(after_s * 1000) if self._ground.manifest.providers else 1
            await tally.of(session.run(command, arguments, deadline_ms=deadline_ms), self._patience_s)

    async def caller_gone(self, tally: Tally, after_s: float) -> None:
        """Its request is cancelled; the session may live, and is told apart from one that doesn't."""
        async with self._slow(), self._client.session(self._ground.manifest.name) as session:
            call = asyncio.ensure_future(self._run(session, self._probe))
            await asyncio.sleep(after_s)
            call.cancel()
            with contextlib.suppress(asyncio.CancelledError, BridgeholdError):
                await call
            await tally.of(session.run("common:ping"), self._patience_s)

    async def memory(self, tally: Tally, _: float) -> None:
        """The policy's cap, as a tenant of little memory has it; then one at what is used already."""

        async def run() -> None:
            async with self._client.session(self._ground.manifest.name, tenant=SMALL_TENANT) as session:
                pid = await self._pid(session)
                for command in self._commands:
                    await tally.of(self._run(session, command), self._patience_s)
                await asyncio.to_thread(squeeze, pid)
                for command in self._commands:
                    await tally.of(self._run(session, command), self._patience_s)

        await tally.opens(run())

    async def _pid(self, session: ClientSession) -> int:
        """The worker's, on this machine."""
        found = [one.pid for one in await self._client.sessions() if one.id == session.id]
        await asyncio.to_thread(self._remains.look)
        if not found:
            raise SessionEndedError("the session ended before anything was done to it")
        return found[0]


_Act = Callable[[_Run, Tally, float], Awaitable[None]]
_HOST_FAULTS: dict[str, tuple[_Act, frozenset[str]]] = {
    "worker frozen": (_Run.frozen, frozenset({"timeout"})),
    "sandbox killed": (_Run.killed, frozenset({"session_ended"})),
    "session drained": (_Run.drained, frozenset({"session_ended"})),
    "deadline": (_Run.deadline, frozenset({"timeout"})),
    "caller gone": (_Run.caller_gone, TYPED),
    _MEMORY: (_Run.memory, TYPED - {"policy", "denied"}),
}


def _after(ground: Playground, remains: Remains) -> list[Outcome]:
    """The host has ended: what is left of it, and whether its audit can be trusted."""
    processes, cgroups = remains.left(_LEFT_SECONDS)
    had = remains.seen
    report = verify_audit(ground.layout.audit)
    unfinished = ", ".join(report.completeness.unfinished[:5])
    return [
        judged("processes left", processes, f"none of {had[0]}"),
        judged("cgroups left", cgroups, f"none of {had[1]}"),
        judged(
            "audit", [one.reason for one in report.integrity.findings[:3]], f"{report.events} events verified"
        ),
        judged("every command's outcome", [unfinished] if not report.completeness.ok else [], "is there"),
    ]
