"""Looks at the audit that tenants ask for: one at a time, and no asker waits behind all that another one asked."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from bridgehold.errors import NotFoundError
from bridgehold.host import proposals
from bridgehold.host.proposal_store import ProposalStore
from bridgehold.host.proposals import Proposals
from bridgehold.protocol.proposals import ProposeParams
from bridgehold.protocol.values import Principal


def test_one_look_at_a_time_and_each_asker_has_its_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    at_once = threading.Semaphore(1)
    begun, go = threading.Event(), threading.Event()

    def slow(_audit: Path, name: str) -> Any:
        assert at_once.acquire(blocking=False), "two look at once"
        begun.set()
        go.wait(60)
        order.append(name)
        at_once.release()
        raise NotFoundError("no such event")

    monkeypatch.setattr(proposals, "story", slow)
    unused: Any = None
    kept = ProposalStore(tmp_path)
    of = Proposals(unused, unused, kept, tmp_path, unused, unused, lambda _signature, _text: False)

    def ask(who: str, number: int) -> asyncio.Task[Any]:
        principal = Principal(name=who, tenants=(who,), operator=False)
        return asyncio.create_task(of.make(principal, ProposeParams(event=f"c-{who}-{number}"), unused))

    async def all_of_them() -> list[Any]:
        asked = [ask("loud", number) for number in range(4)]
        await asyncio.to_thread(begun.wait, 60)
        asked.append(ask("quiet", 0))
        await asyncio.sleep(0)
        go.set()
        return await asyncio.gather(*asked, return_exceptions=True)

    found = asyncio.run(all_of_them())
    assert {type(one) for one in found} == {NotFoundError}
    assert order.index("c-quiet-0") <= 2

    async def who_leaves() -> None:
        begun.clear()
        go.clear()
        order.clear()
        asked = [ask("gone", number) for number in range(9)]
        await asyncio.to_thread(begun.wait, 60)
        for one in asked:
            one.cancel()
        await asyncio.wait(asked)
        go.set()
        with pytest.raises(NotFoundError):
            await ask("gone", 9)

    asyncio.run(who_leaves())
    assert order == ["c-gone-0", "c-gone-9"], "nothing is looked up for who has left before its turn"
