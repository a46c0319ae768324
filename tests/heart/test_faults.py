"""A fault at each await of an open, a claim, a command and a close: nothing is left, and its caller knows why."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from bridgehold.errors import AuditError, BridgeholdError, CrashError, ShortageError
from doubles import clock
from doubles.house import House, descriptors
from doubles.steps import Act

FOREVER, SETTLED, LATE = 100_000.0, 10.0, 120.0
NEEDED = ("CommandIntent written", "CommandOutcome", "SessionClosed")
"""What the journal has to write, and in time: where it doesn't, the host ends."""


class Scene:
    """A host, what happened in it before, and what a caller does."""

    def __init__(
        self, act: Callable[[House], Awaitable[object]], before: tuple[str, ...] = (), **given: Any
    ) -> None:
        """`before`: sessions that are open then."""
        self.act = act
        self.before = before
        self.given = given


async def life(house: House) -> object:
    session = await house.open()
    await house.command()
    await house.command(operation="first:make")
    return await session.close("asked")


async def drained(house: House) -> object:
    session = await house.open()
    return await session.drain("asked", 1.0)


SCENES = {
    "cold": Scene(life, start="cold"),
    "forked": Scene(life),
    "claimed": Scene(life, ("before",), pool=1),
    "drained": Scene(drained, start="cold"),
}


class Fault:
    """What happens at one step of a scene, with its house and its caller at hand."""

    def __init__(self, house: House, caller: asyncio.Task[object]) -> None:
        self.house = house
        self.caller = caller
        self.stopping: asyncio.Task[None] | None = None

    def refuse(self, name: str, error: Exception) -> None:
        """The journal refuses in its own way: before it wrote, or too late."""
        if name.endswith("written"):
            raise AuditError("late", retry="later")
        raise AuditError("full", where="journal:full") if name.startswith("journal") else error

    def typed(self, name: str) -> None:
        self.refuse(name, CrashError("refused"))

    def short(self, name: str) -> None:
        self.refuse(name, ShortageError("the machine is short of something"))

    def defect(self, name: str) -> None:
        self.refuse(name, RuntimeError("a defect"))

    def late(self, _name: str) -> float:
        return LATE

    def cancelled(self, _name: str) -> None:
        self.caller.cancel()

    def cancelled_again(self, _name: str) -> None:
        for turns in range(6):
            asyncio.get_running_loop().call_later(turns * 0.001, self.caller.cancel)

    def killed(self, _name: str) -> None:
        for worker in self.house.launcher.workers():
            self.house.launcher.end(worker, "memory", 9)

    def zygotes_killed(self, _name: str) -> None:
        for zygote in self.house.launcher.zygotes():
            self.house.launcher.end(zygote, "signal", 9)

    def stopped(self, _name: str) -> None:
        self.stopping = asyncio.ensure_future(self.house.stop())


FAULTS = [name for name in vars(Fault) if not name.startswith("_") and name != "refuse"]


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("scene", SCENES)
def test_a_fault_at_any_await_leaves_nothing(scene: str, fault: str) -> None:
    at = 1
    while clock.run(played(SCENES[scene], fault, at)):
        at += 1
    assert at > 10


async def played(scene: Scene, fault: str, at: int) -> bool:
    """The scene with the fault at its `at`-th step; whether it has so many."""
    base = descriptors()
    house = House(**scene.given)
    for name in scene.before:
        await house.open(name)
    await house.settle(SETTLED)
    caller = asyncio.ensure_future(_acting(scene, house))
    what = Fault(house, caller)
    act: Act = getattr(what, fault)
    house.steps.plan(at, act)
    await asyncio.wait({caller}, timeout=FOREVER)
    await house.settle(SETTLED + LATE)
    step = f"{fault} at step {at}, {house.steps.names[at - 1]}" if house.steps.reached else ""
    house.steps.plan(0, act)
    assert caller.done(), f"{step}: its caller waits for ever"
    if not caller.cancelled() and (error := caller.exception()) is not None:
        assert isinstance(error, BridgeholdError) or fault == "defect", f"{step}: untyped: {error!r}"
    assert not house.degraded or any(one in step for one in NEEDED), f"{step}: {house.degraded}"
    if what.stopping is None:
        house.check(step)
        await house.command("after")  # there is room, and all of it works
        await house.settle(SETTLED)
        house.check(step)
    else:
        await what.stopping
    await house.stop()
    house.check_empty(step)
    assert descriptors() <= base, f"{step}: descriptors are left"
    return bool(step)


async def _acting(scene: Scene, house: House) -> object:
    return await scene.act(house)
