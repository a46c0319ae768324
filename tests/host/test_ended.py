"""What is kept of sessions that have ended: bounded for each, for a tenant, for all; seen by who may."""

from __future__ import annotations

import asyncio
import gc
import weakref

import pytest

from bridgehold.audit.entries import Entry
from bridgehold.error_info import Output
from bridgehold.errors import CrashError
from bridgehold.faces.http.running import KEPT_BYTES, Running
from bridgehold.host.cell.sessions import ended
from bridgehold.host.cell.sessions.ended import EndedSessions
from bridgehold.host.cell.sessions.session import SessionKey
from bridgehold.host.shares.logs import SessionLog
from bridgehold.host.shares.session_ends import MOST_ENDED, ends_before


def add(over: EndedSessions, tenant: str, number: int, size: int = 0, name: str = "work") -> str:
    log = SessionLog(1 << 20)
    log.write(b"x" * size + b"end")
    over.add(f"s-{number}", SessionKey(tenant, "python", name), CrashError(f"crash {number}"), log)
    return f"s-{number}"


def log_bytes(over: EndedSessions, tenant: str, numbers: range) -> int:
    found = (over.find(lambda one: one == tenant, f"s-{number}") for number in numbers)
    return sum(one.log_bytes for one in found if one is not None)


def test_a_session_is_found_by_id_or_as_the_last_of_its_name_by_who_may_see_it() -> None:
    over = EndedSessions()
    add(over, "acme", 1)
    add(over, "acme", 2)
    add(over, "acme", 2, size=50)  # told twice
    for reference, number in (("s-1", 1), ("s-2", 2), ("work", 2)):
        found = over.find(lambda tenant: tenant == "acme", reference)
        assert found is not None
        assert found.error.message == f"session s-{number} has ended: crash: crash {number}"
        assert over.find(lambda tenant: tenant == "rival", reference) is None
    assert found.log is not None
    assert found.log.text() == "end"
    before = over.before(SessionKey("acme", "python", "work"))
    assert "session s-2 of this name" in ended.anew(before, recovers=False)
    assert "made again" in ended.anew(before, recovers=True)
    assert over.before(SessionKey("acme", "other", "work")) is None
    assert ended.anew(None, recovers=False) == ""


def test_what_is_kept_has_its_bounds_and_the_oldest_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    over = EndedSessions()
    numbers = range(1, 301)
    for number in numbers:
        add(over, "acme", number, size=100_000)
    assert over.find(lambda _: True, "s-44") is None
    oldest, newest = over.find(lambda _: True, "s-45"), over.find(lambda _: True, "s-300")
    assert oldest is not None
    assert oldest.log is None
    assert newest is not None
    assert newest.log is not None
    assert newest.log.text().startswith("[… 34467 bytes cut]")
    assert newest.log_bytes == ended.LOG_BYTES
    assert log_bytes(over, "acme", numbers) == ended.TENANT_LOG_BYTES
    monkeypatch.setattr(ended, "ALL_LOG_BYTES", ended.TENANT_LOG_BYTES + 100_000)
    add(over, "rival", 1000, size=90_000)
    add(over, "rival", 1001, size=90_000)
    kept = log_bytes(over, "rival", range(1000, 1002))
    assert kept == 2 * ended.LOG_BYTES, "who keeps the most makes room"
    assert log_bytes(over, "acme", numbers) + kept <= ended.ALL_LOG_BYTES
    monkeypatch.setattr(ended, "ENDED_SECONDS", -1.0)
    assert over.find(lambda _: True, "s-1001") is None


class Request:
    """What a command brings along."""


def fail(_request: Request, output: Output) -> None:
    error = CrashError("crash")
    error.output = output
    raise error


def test_no_error_that_is_kept_holds_what_its_command_had_in_hand() -> None:
    over = EndedSessions()

    async def run(request: Request) -> Running:
        running = Running("one")

        async def work() -> None:
            try:
                fail(request, Output(stderr="x" * (KEPT_BYTES + 1)))
            except CrashError as error:
                log, key = SessionLog(1 << 20), SessionKey("acme", "python", "work")
                over.add("s-1", key, error, log)
                raise

        with pytest.raises(CrashError):
            await running.result(asyncio.ensure_future(work()))
        running.end()
        assert running.facts()["error"].code == "crash"
        assert not running.facts()["error"].output
        return running

    request = Request()
    left = weakref.ref(request)
    kept = asyncio.run(run(request))
    del request
    gc.collect()
    assert left() is None, (kept, over)
    found = over.find(lambda _: True, "s-1")
    assert found is not None
    assert found.error.message == "session s-1 has ended: crash: crash"
    assert found.error.hint == "Open a new one: what it held is lost."


def told(
    kind: str, session: str, at: str = "2026-01-01T12:00:00.000Z", tenant: str = "acme", **fields: object
) -> Entry:
    return Entry(
        ref="i.1", instance="i", seq=1, time=at, kind=f"session.{kind}", place="", tenant=tenant,
        session=session, fields=fields,
    )  # fmt: skip


def test_how_sessions_of_hosts_before_this_one_ended_is_folded_of_their_audit() -> None:
    names = {"bridge": "python", "name": "work"}
    noon = 1_767_268_800.0
    entries = [
        told("opened", "s-late", "2026-01-01T09:00:00.000Z", **names),
        told("closed", "s-late", "2026-01-01T10:59:00.000Z", reason="idle time", code="session_ended"),
        told("opened", "s-1", **names),
        told("closed", "s-1", tenant="rival", reason="none of its own"),
        told("closed", "s-1", reason="oom", code="memory"),
        told("closed", "s-never", reason="nobody opened it"),
        told("opened", "s-2", **names),
        told("opened", "s-3", bridge="python", name="anonymous"),
        told("opened", "s-4" + "x" * 900, "no time", bridge="b" * 900, name="n" * 900),
    ]
    ends = ends_before(entries, noon + 60)
    assert list(ends) == ["acme"]
    assert [(one.session[:5], one.name[:4], one.why) for one in ends["acme"]] == [
        ("s-1", "work", "memory: oom"),
        ("s-2", "work", "the host that had it is gone"),
        ("s-3", "", "the host that had it is gone"),
        ("s-4xx", "nnnn", "the host that had it is gone"),
    ]
    assert max(len(one.session) for one in ends["acme"]) == 64
    over = EndedSessions()
    over.restore("acme", ends["acme"])
    assert ended.anew(over.before(SessionKey("acme", "python", "anonymous")), recovers=False) == ""
    assert "session s-2 of this name" in ended.anew(
        over.before(SessionKey("acme", "python", "work")), recovers=False
    )
    many = [told("opened", f"s-{number}", **names) for number in range(1_000)]
    assert len(ends_before(many, noon)["acme"]) == MOST_ENDED
