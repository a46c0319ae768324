"""How many questions to the audit wait for one tenant: one process answers all callers of the host."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bridgehold.audit.reading.asked import Answer, FoundEvents
from bridgehold.config.layout import find_layout
from bridgehold.errors import BusyError
from bridgehold.host import audit_questions
from bridgehold.host.audit_questions import AuditQuestions
from bridgehold.protocol.audits import AuditQueryParams
from bridgehold.protocol.values import Principal


class Journal:
    def __init__(self) -> None:
        self.told: list[Any] = []

    async def append(self, event: object) -> None:
        self.told.append(event)


def test_a_tenants_tokens_have_two_questions_under_way_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def act() -> None:
        slow = asyncio.Event()

        async def answered(_: bytes) -> bytes:
            await slow.wait()
            return msgspec.json.encode(Answer(found=FoundEvents(events=(), more=False)))

        monkeypatch.setattr(audit_questions, "_by_a_process", answered)
        layout, journal = find_layout({"BRIDGEHOLD_HOME": str(tmp_path)}, 0), Journal()
        questions: Any = AuditQuestions(layout, journal)  # type: ignore[arg-type]  # all that is asked of it

        def asks(name: str, *tenants: str, operator: bool = False) -> Coroutine[Any, Any, FoundEvents]:
            principal = Principal(name=name, tenants=tenants, operator=operator)
            found: Coroutine[Any, Any, FoundEvents] = questions.query(principal, AuditQueryParams(), print)
            return found

        waiting = [asyncio.create_task(asks(f"token:{number}", "acme")) for number in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(BusyError, match="tenant acme has 2 questions"):
            await asks("token:2", "acme")
        waiting += [
            asyncio.create_task(asks("token:3", "rival")),
            asyncio.create_task(asks("boss", "*", operator=True)),
        ]
        await asyncio.sleep(0)
        slow.set()
        assert [one.more for one in await asyncio.gather(*waiting)] == [False] * 4
        assert not (await asks("token:2", "acme")).more

    asyncio.run(act())


def test_a_question_whose_asker_leaves_is_an_event_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it is answered, and while it waits for its turn."""

    async def act() -> None:
        begun = asyncio.Event()

        async def never(_: bytes) -> bytes:
            begun.set()
            await asyncio.Event().wait()
            return b""

        monkeypatch.setattr(audit_questions, "_by_a_process", never)
        layout, journal = find_layout({"BRIDGEHOLD_HOME": str(tmp_path)}, 0), Journal()
        questions = AuditQuestions(layout, journal)  # type: ignore[arg-type]  # all that is asked of it
        principal = Principal(name="acme", tenants=("acme",))
        asking = [
            asyncio.create_task(questions.query(principal, AuditQueryParams(question=text), print))  # type: ignore[arg-type]  # it tells nothing meanwhile
            for text in ('"whispered"', "kind = worker.started")
        ]
        await begun.wait()
        for one in reversed(asking):
            one.cancel()
            with pytest.raises(asyncio.CancelledError):
                await one
        told = [(one.tenant, one.principal, one.question, one.count, one.code) for one in journal.told]
        assert told == [
            ("acme", "acme", "kind = worker.started", 0, "cancelled"),
            ("acme", "acme", '"…"', 0, "cancelled"),
        ]

    asyncio.run(act())
