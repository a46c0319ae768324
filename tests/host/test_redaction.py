"""Events without a tenant's values: fresh, at once where nothing looks like one, withheld where it can't be told."""

from __future__ import annotations

import asyncio
import inspect

import pytest

from bridgehold.audit.events import CommandOutcome, Event, HostStopped
from bridgehold.audit.redact import Redactor
from bridgehold.audit.searching import MASK
from bridgehold.errors import SecretError
from bridgehold.host.front import redaction
from bridgehold.host.front.redaction import Redaction
from bridgehold.keeper.protocol import Marks
from waiting import eventually

KEY = "sk-proj-0123456789abcdef"


class Keeper:
    """Answers as the keeper does; `fails` and `slow` are what a store may do."""

    def __init__(self) -> None:
        self.values = [KEY]
        self.asked: list[str] = []
        self.fails = False
        self.slow = asyncio.Event()
        self.slow.set()

    async def marks(self, tenant: str) -> Marks:
        self.asked.append("marks")
        await self.slow.wait()
        if self.fails:
            raise SecretError("the store does not answer")
        long = tuple(value[:4] for value in self.values if len(value) >= 16)
        return Marks(begins=long, always=len(long) < len(self.values))

    async def redact(self, tenant: str, texts: list[str]) -> list[str]:
        self.asked.append("redact")
        return [Redactor(self.values).text(text) for text in texts]


def event(reason: str, tenant: str = "acme") -> CommandOutcome:
    return CommandOutcome(
        tenant=tenant, session="s-1", command="c-1", intent="i.1", transport_ok=True, application_ok=False,
        reason=reason, cpu_us=0, memory_peak_bytes=0, ms=1,
    )  # fmt: skip


async def of(redacting: Redaction, given: Event) -> Event:
    made = redacting.event(given)
    return await made if inspect.isawaitable(made) else made


def test_one_round_trip_for_a_tenant_and_one_for_each_text_that_may_hold_a_value() -> None:
    async def act() -> None:
        keeper = Keeper()
        redacting = Redaction(keeper)
        plain = event("nothing of it")
        assert await of(redacting, plain) is plain
        assert keeper.asked == ["marks"]
        assert redacting.event(plain) is plain, "at once"
        assert await of(redacting, event(f"see {KEY}, {KEY.encode().hex()}")) == event(f"see {MASK}, {MASK}")
        assert await of(redacting, event("sk-p lone \ud800")) == event("sk-p lone \\ud800")
        assert keeper.asked == ["marks", "redact", "redact"]
        assert redacting.event(HostStopped(reason=KEY)) == HostStopped(reason=KEY), "of no tenant"
        assert await redacting.text("acme", f"a log\n{KEY}\n") == f"a log\n{MASK}\n"

    asyncio.run(act())


def test_a_new_value_is_looked_for_when_it_was_told_of_and_after_a_while_anyway(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def act() -> None:
        keeper = Keeper()
        redacting = Redaction(keeper)
        await of(redacting, event("x"))
        keeper.values.append("hunter2-")
        redacting.forget("acme")
        assert await of(redacting, event("see hunter2-")) == event(f"see {MASK}")
        keeper.values.append("another-value-0123456789")
        monkeypatch.setattr(redaction, "_FRESH_SECONDS", 0.0)
        await of(redacting, event("x"))
        await eventually(lambda: keeper.asked.count("marks") >= 3)
        assert await of(redacting, event("see another-value-0123456789")) == event(f"see {MASK}")

    asyncio.run(act())


def test_what_cannot_be_told_is_withheld_and_only_the_first_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    async def act() -> None:
        keeper = Keeper()
        keeper.fails = True
        redacting = Redaction(keeper)
        assert await of(redacting, event("it was so")) == event(MASK)
        assert await redacting.text("acme", "a log") == MASK
        other = Keeper()
        other.slow.clear()
        monkeypatch.setattr(redaction, "_PATIENCE_SECONDS", 0.05)
        waiting = Redaction(other)
        assert await of(waiting, event("it was so")) == event(MASK)
        monkeypatch.setattr(redaction, "_PATIENCE_SECONDS", 60.0)
        assert await of(waiting, event("it was so")) == event(MASK)
        other.slow.set()
        while (await of(waiting, event("it was so"))) != event("it was so"):
            await asyncio.sleep(0)

    asyncio.run(asyncio.wait_for(act(), 30))
