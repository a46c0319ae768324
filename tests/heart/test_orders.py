"""From (tenant, bridge) to a start's order: what is asked on the way, and what is told when it fails."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bridgehold.audit.events import SecretChanged
from bridgehold.config.load import Config
from bridgehold.config.sections import BridgeSection
from bridgehold.config.settings import Settings
from bridgehold.errors import BridgeholdError, CrashError, DependencyError, SecretError
from bridgehold.host.front.boots import StartOrder, boot_frame
from bridgehold.host.front.orders import Orders
from bridgehold.host.shares.cell_wire import AskOrder
from bridgehold.policies.model import Grant, SecretGrant
from doubles import clock
from doubles.house import DoubleRegistry
from doubles.journal import DoubleJournal
from doubles.steps import Steps

KEY = SecretGrant(name="key", how="env", variable="KEY")


def ask_of(session: str) -> AskOrder:
    return AskOrder(bridge="first", session=session, session_name="one", principal="caller")


class Around:
    """Registry, environments and secrets, as an order asks them."""

    def __init__(self, steps: Steps, *, lacks: tuple[str, ...] = (), demands: tuple[str, ...] = ()) -> None:
        self._registry = DoubleRegistry("fork", 1)
        self._steps = steps
        self._lacks = lacks
        self._demands = demands

    def manifest(self, bridge: str, tenant: str) -> Any:
        return self._registry.manifest(bridge, tenant)

    async def grant(self, tenant: str, bridge: str) -> Grant:
        await self._steps.take("grant")
        return msgspec.structs.replace(await self._registry.grant(tenant, bridge), secrets=(KEY,))

    async def ensure(self, *_: object, grant: Grant) -> Any:
        await self._steps.take(f"environment of {grant.bridge}")
        return type(
            "Built", (), {"path": Path("/environment"), "digest": "sha256:1", "python_prefix": "/usr"}
        )

    async def unmet(self, *_: object) -> list[str]:
        await self._steps.take("unmet")
        return list(self._demands)

    async def missing(self, _tenant: str, names: tuple[str, ...]) -> tuple[str, ...]:
        await self._steps.take("missing")
        return tuple(name for name in names if name in self._lacks)

    async def reveal(self, _tenant: str, name: str) -> str:
        await self._steps.take("reveal")
        if name in self._lacks:
            raise SecretError(f"no secret {name!r}")
        return "the value"


def orders_of(around: Around, journal: DoubleJournal, **config: Any) -> Orders:
    parts: Any = around
    sink: Any = journal
    return Orders(parts, parts, parts, Settings(msgspec.convert(config, Config)), sink)


def made(session: str = "s-1", **config: Any) -> tuple[StartOrder, DoubleJournal]:
    async def make() -> tuple[StartOrder, DoubleJournal]:
        journal = DoubleJournal(Steps())
        orders = orders_of(Around(Steps()), journal, **config)
        return await orders.make("acme", ask_of(session)), journal

    return clock.run(make())


def test_a_key_for_the_environment_is_in_the_boot_frame_alone_and_told_for_a_session_alone() -> None:
    order, journal = made()
    assert boot_frame(order, {}).environment == {"KEY": "the value"}
    assert b"the value" not in msgspec.json.encode(order.spec)
    (told,) = journal.of(SecretChanged)
    assert (told.session, told.principal, told.name, told.action) == ("s-1", "caller", "key", "revealed")
    assert list(made(session="")[1].of(SecretChanged)) == []


def test_forks_that_are_switched_off_for_a_tenant_are_cold_starts() -> None:
    assert made()[0].spec.start == "fork"
    order, _ = made(features={"fork": ["umbra"]})
    assert (order.spec.start, order.grant.sandbox.start) == ("cold", "cold")


def test_every_demand_that_is_not_met_is_named_at_once() -> None:
    async def act() -> None:
        around = Around(Steps(), lacks=("key",), demands=("Python 4 is wanted",))
        sections = {"first": {"required_secrets": ["key"]}}
        orders = orders_of(around, DoubleJournal(Steps()), bridges=sections)
        with pytest.raises(DependencyError, match="Python 4 is wanted; acme has no secret 'key'"):
            await orders.make("acme", ask_of("s-1"))

    clock.run(act())


def test_a_secret_that_is_not_there_names_its_bridge() -> None:
    async def act() -> None:
        orders = orders_of(Around(Steps(), lacks=("key",)), DoubleJournal(Steps()))
        with pytest.raises(SecretError, match="first needs the secret 'key'"):
            await orders.make("acme", ask_of("s-1"))

    clock.run(act())


@pytest.mark.parametrize("cancel", [False, True])
def test_a_fault_at_any_await_is_the_callers_and_reveals_nothing_untold(*, cancel: bool) -> None:
    async def once(at: int) -> bool:
        steps = Steps()
        journal = DoubleJournal(steps)
        orders = orders_of(Around(steps), journal)
        making = asyncio.ensure_future(orders.make("acme", ask_of("s-1")))

        def act(_name: str) -> None:
            if not cancel:
                raise CrashError("refused")
            making.cancel()

        steps.plan(at, act)
        await asyncio.wait({making})
        if not steps.reached:
            assert len(list(journal.of(SecretChanged))) == 1
        elif cancel:
            assert making.cancelled()
        else:
            assert isinstance(making.exception(), BridgeholdError)
        return steps.reached

    at = 1
    while clock.run(once(at)):
        at += 1
    assert at == 8


def test_what_is_narrowed_while_an_environment_is_built_holds_for_the_session_that_waited_for_it() -> None:
    class Narrowed(Around):
        built = 0

        async def grant(self, tenant: str, bridge: str) -> Grant:
            read = ("/data",) if self.built == 0 else ()
            return msgspec.structs.replace(await super().grant(tenant, bridge), read=read)

        async def ensure(self, *given: object, grant: Grant) -> Any:
            self.built += 1
            return await super().ensure(*given, grant=grant)

    async def act() -> None:
        around = Narrowed(Steps())
        order = await orders_of(around, DoubleJournal(Steps())).make("acme", ask_of("s-1"))
        assert around.built == 2
        assert order.grant.read == ()
        assert "/data/0" not in str(order.spec.mounts)

    clock.run(act())


def test_what_a_reload_takes_from_a_bridge_while_its_environment_is_built_is_not_started_with() -> None:
    before, after = (
        Config(bridges={"first": BridgeSection(environment={"WAY": way})}) for way in ("before", "after")
    )
    settings = Settings(before)

    class Reloaded(Around):
        async def ensure(self, *given: object, grant: Grant) -> Any:
            settings.now = after
            return await super().ensure(*given, grant=grant)

    async def act() -> None:
        parts: Any = Reloaded(Steps())
        sink: Any = DoubleJournal(Steps())
        order = await Orders(parts, parts, parts, settings, sink).make("acme", ask_of("s-1"))
        assert dict(order.spec.environment)["WAY"] == "after"

    clock.run(act())
