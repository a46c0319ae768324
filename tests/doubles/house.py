"""The heart of a host, whole and real, between doubles of what stands around it."""

from __future__ import annotations

import asyncio
import functools
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec

from bridgehold.bridges.manifest import Manifest, Operation, Resource
from bridgehold.config.load import Config
from bridgehold.config.settings import PoolLimits, Settings, ZygoteLimits
from bridgehold.host.cell.commands.dispatch import Dispatch
from bridgehold.host.cell.commands.inline_keys import KeyKeeper
from bridgehold.host.cell.commands.recovery import Recovery
from bridgehold.host.cell.commands.resources import Resources
from bridgehold.host.cell.sessions.session import Session, SessionKey
from bridgehold.host.cell.sessions.sessions import Sessions
from bridgehold.host.cell.tools.offers import Offers
from bridgehold.host.cell.workers.forks import ForkStart
from bridgehold.host.cell.workers.live import Services
from bridgehold.host.cell.workers.pool import WarmPool
from bridgehold.host.cell.workers.zygotes import Zygotes
from bridgehold.host.front.boots import StartOrder
from bridgehold.host.shares.cell_wire import AskOrder
from bridgehold.host.shares.fair import FrameBudget, Shares
from bridgehold.host.shares.observe import Metrics
from bridgehold.host.shares.refusals import Refusals
from bridgehold.ids import digest_bytes
from bridgehold.policies.buckets import CommandRates
from bridgehold.policies.model import MIB, Grant, Limits, Machine, Rate, Rules, SandboxRules
from bridgehold.protocol.frames import CommandRequest
from bridgehold.protocol.values import Principal, Reply
from bridgehold.sandbox.spec import Paths, worker_spec
from bridgehold.sandbox.values import SandboxSpec
from doubles.guest import Behaviour, obedient
from doubles.journal import DoubleJournal
from doubles.launcher import DoubleLauncher
from doubles.steps import Steps

OPERATIONS = ("make", "act")
CALLER = Principal(name="caller", tenants=("acme", "umbra"))
METRICS = Metrics()
"""One for all: figures of hosts that are long gone disturb nobody."""
_PATHS = Paths(
    environment="/env",
    bridge="/bridge",
    inner="/inner",
    sdk="/sdk",
    python_prefix="/usr",
    usr_links=(),
    etc=(),
)


@functools.cache
def granted(
    tenant: str, bridge: str, start: str, concurrency: int, generation: int
) -> tuple[Grant, SandboxSpec]:
    """A grant and its sandbox; `generation`: of the policy, another one is another grant."""
    grant = grant_of(tenant, bridge, start=start, concurrency=concurrency, generation=generation)
    return grant, worker_spec(grant, _PATHS, gateway_port=0, start=grant.sandbox.start)


def grant_of(tenant: str, bridge: str, *, start: str, concurrency: int, generation: int) -> Grant:
    """Of a policy that allows everything."""
    made = Grant(
        tenant=tenant,
        bridge=bridge,
        bridge_version="1.0",
        policy=f"policy-{generation}",
        limits=Limits(),
        endpoints=(),
        connects=(),
        secrets=(),
        operations=Rules(allow=("*",)),
        tools=Rules(),
        resources=Rules(allow=("*",)),
        read=(),
        rate=Rate(concurrency=concurrency),
        inline_keys="pass",
        sandbox=SandboxRules(start=start),  # type: ignore[arg-type]
        weakenings=(),
        machine=Machine(cgroup="v2", uids="range"),
        sources={},
    )
    return msgspec.structs.replace(made, digest=digest_bytes(msgspec.json.encode(made)))


@functools.cache
def manifest_of(bridge: str) -> Manifest:
    operations = {
        "make": Operation(name="make", summary="", effect="create", resource="thing", id_field="id"),
        "act": Operation(name="act", summary="", effect="run"),
    }
    return Manifest(
        name=bridge,
        version="1.0",
        entry="module:Class",
        operations=operations,
        resources={"thing": Resource(name="thing", recovery="replay")},
        folder=Path("/bridge"),
        digest=bridge,
    )


class DoubleRegistry:
    """What may run, as two numbers and a word."""

    default_bridge = "first"

    def __init__(self, start: str, concurrency: int) -> None:
        self.start = start
        self.concurrency = concurrency
        self.generation = 0
        """Of policies: one more, and what was granted before is another grant."""

    def manifest(self, bridge: str, _tenant: str) -> Manifest:
        return manifest_of(bridge)

    async def grant(self, tenant: str, bridge: str) -> Grant:
        return self.stands(tenant, bridge)[0]

    async def granted(self, tenant: str, bridge: str) -> Any:
        return SimpleNamespace(
            manifest=manifest_of(bridge), grant=self.stands(tenant, bridge)[0], decisions={}
        )

    def stands(self, tenant: str, bridge: str) -> tuple[Grant, SandboxSpec]:
        return granted(tenant, bridge, self.start, self.concurrency, self.generation)


class _NoKeys:
    async def put_session_secret(self, *_: object, **__: object) -> None:
        raise AssertionError("no key is put in")


class House:
    """Sessions, warm pool, zygotes, dispatch and recovery of one host, to be made inside a loop."""

    def __init__(
        self,
        *,
        start: str = "fork",
        pool: int = 0,
        overflow: int = 4,
        concurrency: int = 8,
        bound: int = 32,
        steps: Steps | None = None,
        behaviour: Behaviour = obedient,
    ) -> None:
        self.steps = steps or Steps()
        self.pool = PoolLimits(size=pool, overflow=overflow, checkout_s=10.0)
        self.journal = DoubleJournal(self.steps)
        self.launcher = DoubleLauncher(self.steps, self.journal, behaviour, OPERATIONS)
        self.registry = DoubleRegistry(start, concurrency)
        self.degraded: list[str] = []
        self.services = Services(
            launcher=self.launcher,  # type: ignore[arg-type]
            journal=self.journal,  # type: ignore[arg-type]
            frames=FrameBudget(Shares(64 * MIB, part=0)),
            open_gateway=_no_gateway,
            on_degraded=self.degraded.append,
        )
        limits = ZygoteLimits(
            budget_bytes=MIB, memory_bytes=MIB, max_age_s=1e6, growth=2.0, warm_s=60.0, check_s=1e6
        )
        self.zygotes = Zygotes(self.services, limits)
        self.warm = WarmPool(
            self.services, ForkStart(self.services, self.zygotes), lambda _tenant, _bridge: self.pool
        )
        self.recovery = Recovery(Resources(), METRICS, lambda _tenant, _bridge: True)
        self.sessions = Sessions(
            self.warm,
            self.journal,
            bound=bound,
            tenants=lambda _tenant: 1,
            recovery=self.recovery,
            metrics=METRICS,  # type: ignore[arg-type]
            on_degraded=self.degraded.append,
        )
        self.keys = KeyKeeper(_NoKeys(), self.journal)  # type: ignore[arg-type]
        self.dispatch = Dispatch(
            registry=self.registry,  # type: ignore[arg-type]
            sessions=self.sessions,
            journal=self.journal,  # type: ignore[arg-type]
            keys=self.keys,
            make_order=self.order,
            offers=_no_tools(),
            resources=Resources(),
            recovery=self.recovery,
            metrics=METRICS,
            refused=Refusals(self.journal, METRICS),  # type: ignore[arg-type]
            rates=CommandRates(),
            on_degraded=self.degraded.append,
            redact=_as_it_is,
        )

    async def order(self, tenant: str, ask: AskOrder) -> StartOrder:
        """As `Orders.make`."""
        await self.steps.take("order")
        grant, spec = self.registry.stands(tenant, ask.bridge)
        return StartOrder(
            session=ask.session,
            session_name=ask.session_name,
            manifest=manifest_of(ask.bridge),
            grant=grant,
            spec=spec,
            environment_digest="sha256:0",
            bridge_folder=Path("/bridge"),
        )

    async def open(self, name: str = "one", tenant: str = "acme", bridge: str = "first") -> Session:
        key = SessionKey(tenant, bridge, name)
        return await self.sessions.get_or_open(key, self.maker(key), "caller")

    def maker(self, key: SessionKey) -> Callable[[str], Awaitable[StartOrder]]:
        return lambda session: self.order(key.tenant, key.asks(session, "caller"))

    async def command(self, name: str = "one", operation: str = "first:act", **arguments: object) -> Reply:
        request = CommandRequest(operation=operation, arguments=arguments, tenant="acme", session=name)
        return await self.dispatch.run(CALLER, request)

    async def settle(self, seconds: float = 1_000.0) -> None:
        """Let what was begun come to its end."""
        await asyncio.sleep(seconds)

    async def stop(self) -> None:
        """As the host's process ends."""
        await self.sessions.stop("the host stops")
        await self.warm.stop()
        await self.zygotes.stop()

    def check(self, when: str = "") -> None:
        """What holds whenever nothing is under way. `AssertionError` names what does not, and `when`."""
        live = {session.worker.name for session in self.sessions if session.alive}
        ready = {one.name for pool in self.warm._pools.values() for one in pool.ready}
        ids = {session.id for session in self.sessions if session.alive}
        assert self.launcher.workers() == live | ready, f"{when}: whose worker is it?"
        assert len(list(self.sessions)) == len(ids) == len(self.sessions), f"{when}: whose place is it?"
        assert not list(self.sessions.admission), f"{when}: who was admitted?"
        assert not self.sessions._starting, f"{when}: who starts?"
        assert max([0, *self.warm.counts().values()]) <= self.pool.size, f"{when}: more than the pool holds"
        if self.degraded:  # the journal failed the host, which ends and says so
            return
        assert self.journal.open_workers() == set(self.launcher.places), f"{when}: started, and not exited"
        assert self.journal.open_sessions() == ids, f"{when}: opened, and not closed"
        assert self.journal.open_commands() == set(), f"{when}: an intent without an outcome"
        assert self.journal.open_zygotes() == self.launcher.zygotes(), f"{when}: whose zygote is it?"

    def check_empty(self, when: str = "") -> None:
        """As `check`, after `stop`."""
        self.check(when)
        assert self.launcher.places == {}, f"{when}: what still lives?"


def _no_tools() -> Offers:
    none: Any = None
    return Offers(Settings(Config()), none, none, ((), none))


async def _no_gateway(*_: object) -> object:
    raise AssertionError("no sandbox here has a listener")


async def _as_it_is(_tenant: str, text: str) -> str:
    return text


def descriptors() -> int:
    """Open ones of this process."""
    return len(os.listdir("/proc/self/fd"))
