"""Sessions, warm pool, zygotes, reloads and callers that leave, in any order and at any pace.

Each act is begun and left to itself; how long each await of the doubles takes is drawn from a seed. What has to hold
at any time is looked at after each act, what has to hold once all is quiet at the end.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Coroutine
from random import Random
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from bridgehold.config.settings import PoolLimits
from bridgehold.errors import BridgeholdError
from bridgehold.host.cell.sessions.session import Session
from doubles import clock
from doubles.house import House, descriptors
from doubles.steps import Steps

CONCURRENCY, BOUND = 2, 5
NAMES = st.sampled_from(["one", "two", "three"])
TENANTS = st.sampled_from(["acme", "umbra"])
PICKS = st.integers(0, 7)
PACE = st.sampled_from([0.0, 0.002, 0.05, 1.0, 5.0])
"""Seconds until the next act."""


class Lives(RuleBasedStateMachine):
    """Rules begin something; time passes only where a rule lets it."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = contextlib.ExitStack()
        self.loop = self.stack.enter_context(clock.loop())
        self.calls: list[asyncio.Task[object]] = []
        self.house: House

    @initialize(seed=st.integers(0, 2**16), pool=st.integers(0, 2), start=st.sampled_from(["cold", "fork"]))
    def made(self, seed: int, pool: int, start: str) -> None:
        chance = Random(seed)
        self.base = descriptors()

        async def make() -> House:
            steps = Steps(lambda _name: chance.choice((0.0, 0.0, 0.001, 0.03, 0.5)))
            house = House(start=start, pool=pool, concurrency=CONCURRENCY, bound=BOUND, steps=steps)
            self.watch = asyncio.ensure_future(house.warm.watch(house.order, _no_secrets))
            return house

        self.house = self.loop.run_until_complete(make())

    def begin(self, work: Coroutine[Any, Any, object], seconds: float) -> None:
        self.calls.append(self.loop.create_task(work))
        self.wait(seconds)

    def wait(self, seconds: float) -> None:
        self.loop.run_until_complete(asyncio.sleep(seconds))

    def pick(self, number: int) -> Session | None:
        open_ones = list(self.house.sessions)
        return open_ones[number % len(open_ones)] if open_ones else None

    @rule(name=NAMES, tenant=TENANTS, pace=PACE)
    def opens(self, name: str, tenant: str, pace: float) -> None:
        self.begin(self.house.open(name, tenant), pace)

    @rule(name=NAMES, pace=PACE)
    def commands(self, name: str, pace: float) -> None:
        self.begin(self.house.command(name), pace)

    @rule(number=PICKS, way=st.sampled_from(["close", "end", "drain"]), pace=PACE)
    def ends(self, number: int, way: str, pace: float) -> None:
        session = self.pick(number)
        if session is not None:
            self.begin(
                session.drain("asked", 1.0) if way == "drain" else getattr(session, way)("asked"), pace
            )

    @rule(number=PICKS)
    def leaves(self, number: int) -> None:
        if self.calls:
            self.calls[number % len(self.calls)].cancel()

    @rule(number=PICKS, kind=st.sampled_from(["workers", "zygotes"]))
    def dies(self, number: int, kind: str) -> None:
        alive = sorted(getattr(self.house.launcher, kind)())
        if alive:
            self.house.launcher.end(alive[number % len(alive)], "signal", 9)

    @rule(number=PICKS)
    def is_replaced(self, number: int) -> None:
        alive = sorted(self.house.launcher.places)
        if alive:
            self.house.launcher.places[alive[number % len(alive)]].replaced = True

    @precondition(lambda self: self.house.warm.counts())
    @rule(pool=st.integers(0, 2), start=st.sampled_from(["cold", "fork"]))
    def reloads(self, pool: int, start: str) -> None:
        self.house.registry.generation += 1
        self.house.registry.start = start
        self.house.pool = PoolLimits(size=pool, overflow=2, checkout_s=5.0)

    @rule()
    def environment_is_retired(self) -> None:
        async def act() -> None:
            self.house.zygotes.retire("sha256:0", "another one")
            self.house.warm.retire("sha256:0", "another one")

        self.loop.run_until_complete(act())

    @precondition(lambda self: len(list(self.house.sessions)) > 2)
    @rule()
    def idle(self) -> None:
        """Past every session's idle time."""
        self.wait(4_000.0)

    @invariant()
    def nobody_has_more_than_is_allowed(self) -> None:
        sessions = [one for one in self.house.sessions if not one.over]
        admitted = list(self.house.sessions.admission)
        counted = Counter((one.key.tenant, one.key.bridge) for one in sessions)
        counted += Counter((key.tenant, key.bridge) for key in admitted)
        assert all(number <= CONCURRENCY for number in counted.values()), counted
        assert len(sessions) + len(admitted) <= BOUND
        names = [one.worker.name for one in sessions]
        assert len(names) == len(set(names)), "two sessions have one worker"

    @invariant()
    def every_worker_is_somebodys(self) -> None:
        owned = {one.worker.name for one in self.house.sessions}
        pools = list(self.house.warm._pools.values())
        owned |= {one.name for pool in pools for one in pool.ready}
        begun = len(self.house.sessions._opening) + len(self.house.warm._tasks)
        assert len(self.house.launcher.workers() - owned) <= begun

    @invariant()
    def who_asked_is_told_why(self) -> None:
        for call in [call for call in self.calls if call.done()]:
            self.calls.remove(call)
            if not call.cancelled() and (error := call.exception()) is not None:
                assert isinstance(error, BridgeholdError), repr(error)

    def teardown(self) -> None:
        if hasattr(self, "house"):
            try:
                self.loop.run_until_complete(self.come_to_rest())
            finally:
                self.stack.close()
            assert descriptors() <= self.base
        else:
            self.stack.close()

    async def come_to_rest(self) -> None:
        await self.house.settle(200.0)
        waiting = [call for call in self.calls if not call.done()]
        assert not waiting, f"these wait for ever: {waiting}"
        self.who_asked_is_told_why()
        self.house.check()
        await self.house.stop()
        self.house.check_empty()
        self.watch.cancel()
        await asyncio.wait({self.watch})


async def _no_secrets(_tenant: str) -> str:
    return ""


Lives.TestCase.settings = settings(
    max_examples=40,
    stateful_step_count=30,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
TestLives = Lives.TestCase
