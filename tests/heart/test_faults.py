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

FOREVER = 100_000.0
SETTLED = 130.0
Fault = Callable[["House", "asyncio.Task[object]"], Act]


def typed(_house: House, _caller: asyncio.Task[object]) -> Act:
    def act(name: str) -> None:
        raise refusal(name) if name.startswith("journal") else CrashError("refused")

    return act


def short(_house: House, _caller: asyncio.Task[object]) -> Act:
    def act(name: str) -> None:
        raise refusal(name) if name.startswith("journal") else ShortageError("short")

    return act


def defect(_house: House, _caller: asyncio.Task[object]) -> Act:
    def act(name: str) -> None:
        raise refusal(name) if name.startswith("journal") else RuntimeError("a defect")

    return act


def refusal(name: str) -> AuditError:
    """The journal's: before it wrote, or too late."""
    return AuditError("late", retry="later") if name.endswith("written") else AuditError("refused")


def late(_house: House, _caller: asyncio.Task[object]) -> Act:
    return lambda _name: 120.0


def cancelled(_house: House, caller: asyncio.Task[object]) -> Act:
    def act(_name: str) -> None:
        caller.cancel()

    return act


def cancelled_again(_house: House, caller: asyncio.Task[object]) -> Act:
    def act(_name: str) -> None:
        for turns in range(6):
            asyncio.get_running_loop().call_later(turns * 0.001, caller.cancel)

    return act


def killed(house: House, _caller: asyncio.Task[object]) -> Act:
    def act(_name: str) -> None:
        for worker in house.launcher.workers():
            house.launcher.end(worker, "memory", 9)

    return act


def unzygoted(house: House, _caller: asyncio.Task[object]) -> Act:
    def act(_name: str) -> None:
        for zygote in house.launcher.zygotes():
            house.launcher.end(zygote, "signal", 9)

    return act


STOPPING: set[asyncio.Task[None]] = set()


def stopped(house: House, _caller: asyncio.Task[object]) -> Act:
    def act(_name: str) -> None:
        STOPPING.add(asyncio.ensure_future(house.stop()))

    return act


FAULTS: dict[str, Fault] = {
    fault.__name__: fault
    for fault in (typed, short, defect, late, cancelled, cancelled_again, killed, unzygoted, stopped)
}


async def life(house: House) -> object:
    session = await house.open()
    await house.command()
    await house.command(operation="first:make")
    return await session.close("asked")


async def drained(house: House) -> object:
    session = await house.open()
    return await session.drain("asked", 1.0)


async def nothing(_house: House) -> None:
    """A host that was just made."""


async def one_open(house: House) -> None:
    await house.open("before")


Act_ = Callable[[House], Awaitable[object]]
SCENES: dict[str, tuple[dict[str, Any], Act_, Act_]] = {
    "cold": ({"start": "cold"}, nothing, life),
    "forked": ({}, nothing, life),
    "claimed": ({"pool": 1}, one_open, life),
    "drained": ({"start": "cold"}, nothing, drained),
}
"""How a host is made, what has happened in it, and what a caller does."""


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("scene", SCENES)
def test_a_fault_at_any_await_leaves_nothing(scene: str, fault: str) -> None:
    at, problems = 0, []
    reached = True
    while reached:
        at += 1
        try:
            reached = clock.run(once(scene, fault, at))
        except AssertionError as error:
            problems.append(f"{at}: {error}")
            if len(problems) > 12:
                break
    assert not problems, "\n".join(problems)
    assert at > 3
    print(at)


async def once(scene: str, fault: str, at: int) -> bool:
    given, before, act = SCENES[scene]
    STOPPING.clear()
    base = descriptors()
    house = House(**given)
    await before(house)
    await house.settle(SETTLED)

    async def acting() -> object:
        return await act(house)

    caller = asyncio.ensure_future(acting())
    house.steps.plan(at, FAULTS[fault](house, caller))
    await asyncio.wait({caller}, timeout=FOREVER)
    assert caller.done(), f"its caller waits for ever: {house.steps.names[:at]}"
    await house.settle(SETTLED)
    reached, name = house.steps.reached, house.steps.names[at - 1] if house.steps.reached else ""
    try:
        house.steps.plan(0, lambda _name: None)
        if not caller.cancelled() and (error := caller.exception()) is not None and fault != "defect":
            assert isinstance(error, BridgeholdError), f"untyped: {error!r}"
        if STOPPING:
            await asyncio.wait(STOPPING)
        else:
            house.check()
            await house.command("after")
            await house.settle(SETTLED)
            house.check()
        await house.stop()
        await house.settle(SETTLED)
        house.check_empty()
        assert descriptors() == base, "descriptors are left"
    except BaseException as error:
        raise AssertionError(f"after {name}: {type(error).__name__} {error}") from error
    return reached
