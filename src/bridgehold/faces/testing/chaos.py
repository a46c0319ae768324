"""Chaos: a bridge's commands on a private host while things go wrong, and whether each ended as it must.

Provider faults are the simulator's. Host faults are real: a frozen worker, a killed sandbox, a drained
session, a deadline, a caller that goes away, a memory cap of the policy. Only the private host is touched.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence

import msgspec

from bridgehold import writes
from bridgehold.audit.verify import verify_audit
from bridgehold.bridges.kit.faults import FAULTS, Faults
from bridgehold.bridges.kit.provider import Behaviour
from bridgehold.config.layout import Layout
from bridgehold.errors import BridgeholdError, UnsupportedError, UsageError
from bridgehold.faces.testing.exercise import Command, commands_of
from bridgehold.faces.testing.host_faults import FATAL, FIRST_MS, HOST_FAULTS, SMALL_TENANT, Target
from bridgehold.faces.testing.outcomes import Outcome, Tally, judged
from bridgehold.faces.testing.playground import Playground, hosted, playground
from bridgehold.faces.testing.remains import Remains
from bridgehold.ids import LOCAL_TENANT

SMALL_MEMORY = 16 * 1024 * 1024
"""The cap of a bridge that says nothing of its needs: the least that a policy can give."""
_MIXED = 3
"""How often all commands are run with faults by chance."""
_MOST_SECONDS = 300.0
_LEFT_SECONDS = 10.0

NAMES = (*FAULTS, "mixed", *HOST_FAULTS)
"""Every fault: of the provider, then of the host."""

Report = Callable[[str], None]


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What goes wrong, in which order. The same seed makes the same plan."""

    seed: int
    provider: tuple[tuple[str, Faults], ...]
    host: tuple[tuple[str, int], ...]
    """(fault, milliseconds after which it strikes)."""


def plan(seed: int, deadline_ms: int, *, provider: bool, only: Collection[str] = ()) -> Plan:
    """Every fault once, and all provider faults mixed; or `only` those. `UsageError` for an unknown one."""
    if unknown := sorted(set(only) - set(NAMES)):
        raise UsageError(f"no such fault: {', '.join(unknown)}", hint=f"There are: {', '.join(NAMES)}.")
    chance = random.Random(seed)  # noqa: S311 - the same at every run is what it is for
    spike = round(deadline_ms * chance.uniform(0.2, 1.2))
    faults = [
        (kind, Faults(seed=seed, share=1.0, kinds=(kind,), spike_ms=spike, drip_ms=5)) for kind in FAULTS
    ]
    chance.shuffle(faults)
    mixed = ("mixed", Faults(seed=seed, share=0.4, spike_ms=spike, drip_ms=5))
    host = [(name, chance.randrange(20, 120)) for name in HOST_FAULTS]
    chance.shuffle(host)
    wanted = set(only or NAMES)
    return Plan(
        seed=seed,
        provider=tuple(one for one in (*faults, mixed) if provider and one[0] in wanted),
        host=tuple(one for one in host if one[0] in wanted),
    )


async def chaos(
    bridge: str,
    *,
    seed: int = 0,
    deadline_ms: int = 5_000,
    commands: Sequence[Command] = (),
    only: Collection[str] = (),
    layout: Layout | None = None,
    keep: str = "",
    say: Report = lambda _: None,
) -> AsyncIterator[Outcome]:
    """Every fault of the plan in turn, then the audit and what is left. `commands`: not the manifest's.

    `keep`: a new folder, in which the private host's audit stays.
    """
    async with contextlib.AsyncExitStack() as stack:
        ground = await stack.enter_async_context(
            playground(bridge, layout, tenants=(LOCAL_TENANT, SMALL_TENANT), keep=keep)
        )
        made = plan(seed, deadline_ms, provider=bool(ground.manifest.providers), only=only)
        _squeeze(ground)
        async with hosted(ground) as (client, private):
            remains = Remains(private.pid)
            run = _Run(
                Target(
                    client=client,
                    bridge=bridge,
                    asks_provider=False,
                    provider=ground.provider,
                    remains=remains,
                    deadline_ms=deadline_ms,
                    commands=tuple(commands) or commands_of(ground.manifest),
                )
            )
            say("without a fault")
            yield await _bounded("none", run.calm())
            for name, faults in made.provider:
                say(f"the provider: {name}")
                yield await _bounded(f"provider {name}", run.provider(name, faults))
            for name, after_ms in made.host:
                say(f"the host: {name}")
                yield await _bounded(name, run.host(name, after_ms))
            yield await _bounded("sessions left", run.sessions())
            remains.look()
        for outcome in await asyncio.to_thread(_after, ground, remains):
            yield outcome


def _squeeze(ground: Playground) -> None:
    """A tenant whose memory is what the bridge says it needs, or too little."""
    needs = ground.manifest.needs.limits.get("memory_bytes", SMALL_MEMORY)
    writes.make_folder(ground.layout.tenants)
    file = ground.layout.tenants / f"{SMALL_TENANT}.toml"
    writes.replace(file, f'[limits]\nmemory = "{needs // 1024}KiB"\n')


class _Run:
    """One bridge's commands on the private host."""

    def __init__(self, target: Target) -> None:
        self._target = target

    async def calm(self) -> Outcome:
        """Everything as it should be: what succeeds now is what faults are tried on."""
        tally = Tally()
        worked, asked = await self._exercise(tally, more_ms=FIRST_MS)
        commands = self._target.commands
        probe = next(iter([*asked, *worked]), None)
        if probe is not None:
            prelude = commands[: commands.index(probe)]
            self._target = dataclasses.replace(
                self._target, prelude=prelude, probe=probe, asks_provider=probe in asked
            )
        outcome = tally.outcome("none", detail=f"{len(worked)} of {len(commands)} commands succeed")
        if worked or outcome.status == "FAIL":
            return outcome
        detail = "no command succeeds: give some with --command"
        return msgspec.structs.replace(outcome, status="CAUTION", detail=detail)

    async def provider(self, name: str, faults: Faults) -> Outcome:
        """All commands, with a provider that has these faults."""
        provider = self._target.provider
        provider.behave(Behaviour(faults=faults))
        met = len(provider.log)
        tally = Tally()
        try:
            for _ in range(_MIXED if faults.share < 1 else 1):
                await self._exercise(tally)
        finally:
            provider.behave(Behaviour())
        struck = sum(1 for request in list(provider.log)[met:] if request.fault)
        outcome = tally.outcome(f"provider {name}", detail=f"{struck} requests struck")
        if outcome.status == "PASS" and not struck and faults.share == 1:
            return msgspec.structs.replace(outcome, status="CAUTION", detail="no request came")
        return outcome

    async def host(self, name: str, after_ms: int) -> Outcome:
        """One host fault, and whether a new session is served after it."""
        act, may = HOST_FAULTS[name]
        tally = Tally()
        try:
            await act(self._target, tally, after_ms / 1000)
        except UnsupportedError as error:
            return Outcome(fault=name, status="CAUTION", detail=error.message)
        except BridgeholdError as error:
            tally.refused(error)
        detail = "ended by its cap" if tally.ended["memory"] else ""
        return await self._still_serves(tally.outcome(name, may=may, detail=detail))

    async def sessions(self) -> Outcome:
        """None may be left."""
        left = [one.id for one in await self._target.client.sessions()]
        return judged("sessions left", left, "none")

    async def _exercise(self, tally: Tally, *, more_ms: int = 0) -> tuple[list[Command], list[Command]]:
        """Every command, in one session as long as it lives: those that succeeded, and of these those that
        asked the provider."""
        worked: list[Command] = []
        asked: list[Command] = []
        waiting = list(self._target.commands)
        log = self._target.provider.log

        async def some() -> None:
            async with self._target.session() as session:
                while waiting:
                    command, before = waiting.pop(0), len(log)
                    code = await self._target.run(session, command, tally, more_ms=more_ms)
                    worked.extend([command] if code == "ok" else [])
                    asked.extend([command] if code == "ok" and len(log) > before else [])
                    if code in FATAL:
                        return

        while waiting and await tally.opens(some()):
            pass
        return worked, asked

    async def _still_serves(self, outcome: Outcome) -> Outcome:
        """A fault that ended well, but after which nobody is served, did not end well."""
        tally = Tally()

        async def ping() -> None:
            async with self._target.session() as session:
                await self._target.run(session, Command("common:ping", {}), tally)

        await tally.opens(ping())
        if tally.ended == {"ok": 1}:
            return outcome
        detail = f"{outcome.detail}; afterwards a new session ends as {', '.join(tally.ended)}".lstrip("; ")
        return msgspec.structs.replace(outcome, status="FAIL", detail=detail)


async def _bounded(name: str, work: Awaitable[Outcome]) -> Outcome:
    """`work`, which must end, and end typed: an error that leaves it is the host's own."""
    try:
        return await asyncio.wait_for(work, _MOST_SECONDS)
    except BridgeholdError as error:
        return Outcome(fault=name, status="FAIL", detail=f"{error.code}: {error.message}"[:300])
    except TimeoutError:
        return Outcome(fault=name, status="FAIL", detail=f"it did not end in {_MOST_SECONDS:g} s")


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
