"""What an operator changes begins once the audit has it: nothing is told to anybody before."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bridgehold.audit.events import AdminIntent, AdminOutcome, ConfigReloaded, Event, Receipt
from bridgehold.config.load import Config
from bridgehold.config.settings import Settings, digest_of_told
from bridgehold.errors import AuditError
from bridgehold.host.admin_log import AdminLog
from bridgehold.host.front.bridge_methods import BridgeMethods
from bridgehold.host.reloading import Reloading
from bridgehold.protocol.frames import NoParams, StopParams
from bridgehold.protocol.values import Principal
from doubles.journal import DoubleJournal
from doubles.steps import Steps

OPERATOR = Principal(name="boss", tenants=("*",), operator=True)


class Full:
    """A journal whose disk is full."""

    async def append(self, _event: Event, *, durable: bool = True) -> Receipt:
        raise AuditError("the audit's disk is full", where="journal:full")


def reloading(journal: Any, file: Path, done: list[object]) -> Reloading:
    read: list[Config] = []

    async def reread() -> str:
        done.append("keeper and launcher")
        return digest_of_told(read[-1])

    registry: Any = SimpleNamespace(rules=dict, gone=tuple, refused=str)
    parts: Any = SimpleNamespace(check=read.append, tell=lambda *_: done.append("host"))
    after = SimpleNamespace()
    return Reloading(
        Settings(Config()), file, {}, registry, parts, journal, AdminLog(journal), reread, lambda: after
    )


def test_a_reload_that_can_not_be_written_is_told_to_nobody(tmp_path: Path) -> None:
    """With a full disk keys went to other places from then on, and no event said so."""

    async def act(journal: Any) -> list[object]:
        done: list[object] = []
        made = reloading(journal, tmp_path / "config.toml", done)
        done.clear()
        try:
            await made.reload(OPERATOR, NoParams(), lambda *_: None)  # type: ignore[arg-type]  # no event comes
        except AuditError:
            done.append("refused")
        return done

    assert asyncio.run(act(Full())) == ["refused"]
    journal = DoubleJournal(Steps())
    assert asyncio.run(act(journal)) == ["keeper and launcher", "host"]
    assert [type(event) for event in journal.events] == [AdminIntent, ConfigReloaded, AdminOutcome]


@pytest.mark.parametrize("again", [False, True])
def test_a_host_is_not_replaced_by_one_that_could_not_begin_its_audit(*, again: bool) -> None:
    asked: list[bool] = []

    async def stop(_reason: str, *, now: bool, again: bool) -> None:
        asked.append(again and not now)

    async def act(journal: Any) -> None:
        none: Any = None
        methods = BridgeMethods(none, none, stop, AdminLog(journal).audited)
        await methods.stop(OPERATOR, StopParams(again=again), none)

    journal = DoubleJournal(Steps())
    asyncio.run(act(journal))
    assert [type(event) for event in journal.events] == ([AdminIntent, AdminOutcome] if again else [])
    if again:
        with pytest.raises(AuditError):
            asyncio.run(act(Full()))
    else:
        asyncio.run(act(Full()))
    assert asked == ([True] if again else [False, False])
