"""How many questions to the audit wait for one tenant: one process answers all callers of the host."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bridgehold.audit.events import AuditQueried
from bridgehold.audit.reading.asked import Answer, FoundEvents, Inquiry
from bridgehold.config.layout import find_layout
from bridgehold.errors import BusyError
from bridgehold.host import audit_questions
from bridgehold.host.audit_questions import AuditQuestions
from bridgehold.protocol.audits import AuditQueryParams
from bridgehold.protocol.values import Principal


class Journal:
    def __init__(self) -> None:
        self.codes: list[str] = []

    async def append(self, event: AuditQueried) -> None:
        """Whatever it is."""
        await asyncio.sleep(0)
        self.codes.append(event.code)


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
        slow.clear()
        leaving = [asyncio.create_task(asks("token:2", "acme")) for _ in range(2)]
        await asyncio.sleep(0)
        for one in reversed(leaving):  # the one that waits for its turn first
            one.cancel()
            with pytest.raises(asyncio.CancelledError):
                await one
        assert journal.codes == [""] * 5 + ["cancelled"] * 2, "who leaves before its answer is told of, too"

    asyncio.run(act())


def test_a_question_takes_a_bounded_part_of_the_hosts_memory(tmp_path: Path) -> None:
    """Whatever it is that would take more: the limit is the kernel's, of the process that answers."""
    greedy = (
        "from bridgehold.audit.reading import asked\n"
        "import sys\n"
        "asked.answered = lambda _: bytearray(asked.MEMORY_BYTES)\n"
        "sys.exit(asked.main())"
    )
    asked = Inquiry(audit=str(tmp_path), cache=str(tmp_path), question="", limit=1, most_bytes=1)
    done = subprocess.run(
        [sys.executable, "-P", "-c", greedy],
        input=msgspec.json.encode(asked),
        capture_output=True,
        check=True,
    )
    error = msgspec.json.decode(done.stdout, type=Answer).error
    assert error is not None
    assert (error.code, error.message) == ("usage", "the question takes too much memory")
