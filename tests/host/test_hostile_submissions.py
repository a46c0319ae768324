"""What a tenant hands in, or is about to: it stalls, outlasts and hides nothing. Nothing here starts a host."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from bridgehold.audit.events import AdminIntent, EnvironmentRefused, Event, Receipt, SessionClosed
from bridgehold.bridges import bundle
from bridgehold.bridges.manifest import Manifest
from bridgehold.bridges.manifest_file import MAX_FILE_BYTES, parse_manifest
from bridgehold.config.layout import Layout, find_layout
from bridgehold.config.load import Config
from bridgehold.errors import (
    BridgeholdError,
    BudgetError,
    BusyError,
    DependencyError,
    ManifestError,
    NotFoundError,
    UsageError,
)
from bridgehold.host.admin_log import AdminLog
from bridgehold.host.cell.store import quarantine
from bridgehold.host.cell.store.quarantine import KEPT_SECONDS, Quarantine, new_record
from bridgehold.host.cell.workers import trial
from bridgehold.host.examination import Examination
from bridgehold.host.front import environments, locking
from bridgehold.host.front.environments import Environments
from bridgehold.host.front.locking import Locking
from bridgehold.host.submissions import Submissions
from bridgehold.ids import digest_bytes
from bridgehold.protocol.submissions import (
    RejectParams,
    Submission,
    SubmissionParams,
    SubmissionsParams,
    SubmitParams,
)
from bridgehold.protocol.values import Principal
from bridgehold.sandbox.envs import resolving
from bridgehold.sandbox.envs.resolving import read_requirements
from envs.envs_kit import make_wheel
from waiting import eventually

MANIFEST = """name = "mine"
version = "1.0.0"
entry = "mine:Mine"
requirements = "requirements.in"
lock = "requirements.lock"
[operations.say]
summary = "Say it"
effect = "read"
"""
BOSS = Principal(name="owner", tenants=("*",), operator=True)
ACME = Principal(name="token:acme", tenants=("acme",))


def refused(act: Callable[[], object]) -> BridgeholdError:
    with pytest.raises(BridgeholdError) as caught:
        act()
    return caught.value


# Its texts.


def test_a_manifest_that_takes_long_to_parse_is_refused_unparsed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Valid, too: 10 MB of comments kept the host's loop, and then its supervisor, for 10 s."""
    monkeypatch.setattr("bridgehold.reads.parse_toml", lambda *_, **__: pytest.fail("it was parsed"))
    for much in ("#\n" * 5_000_000, "#" * (MAX_FILE_BYTES + 1), "é" * (MAX_FILE_BYTES // 2 + 1)):
        error = refused(lambda much=much: parse_manifest(much, Path("/bridge")))  # type: ignore[misc]  # bound
        assert (type(error), error.message) == (ManifestError, f"more than {MAX_FILE_BYTES} bytes")


def test_what_is_handed_in_is_parsed_beside_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = []

    def parse(text: str, _: Path) -> Manifest:
        threads.append(threading.current_thread())
        raise ManifestError(text)

    async def take_out(*_: object) -> bundle.Bundle:
        return found

    found = bundle.bundle([("bridge.toml", b"seen")])
    monkeypatch.setattr(quarantine, "parse_manifest", parse)
    examination: Any = Examination.__new__(Examination)
    examination._bench = SimpleNamespace(take_out=take_out)
    kept: Any = SimpleNamespace(bundle=lambda _: found)
    submissions = made(kept)
    record = msgspec.structs.replace(new_record("acme", found, "mine", "1", "x"), state="waiting")
    kept.find = lambda _: record
    for work in (
        examination.take(ACME, "acme", "x", lambda: None),
        submissions.show(ACME, SubmissionParams(submission=record.id), nothing),
    ):
        with pytest.raises(ManifestError, match="seen"):
            asyncio.run(work)
    assert len(threads) == 2
    assert threading.main_thread() not in threads


def test_requirements_are_counted_while_they_are_read() -> None:
    error = refused(lambda: read_requirements("a\n" * 8_000_000, "r.in"))
    assert error.message == f"more than {256 * 1024} bytes"
    refused(lambda: read_requirements(f"a>{'1' * 5_000},<{'2' * 5_000}\n", "r.in"))
    error = refused(lambda: read_requirements("a\n" * 501 + "-e .\n", "r.in"))
    assert error.message == "more than 500 packages are asked for"
    assert len(read_requirements("a\n# b\n\n" * 500, "r.in")) == 500


def test_what_wheels_ask_for_takes_no_more_memory_than_a_resolver_has(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A hundred wheels of 2 KB, each of which asks for all of them in many ways: 300 MiB, and 2 GiB of 1 MB."""
    monkeypatch.setattr(resolving, "_MEMORY", 200 << 20)
    but = ",".join(f"!=2.{number}" for number in range(60))
    asks = "".join(f"Requires-Dist: p{number}{but}\n" for number in range(120))
    for number in range(120):
        said = f"Metadata-Version: 2.1\nName: p{number}\nVersion: 1.0\n{asks}"
        make_wheel(tmp_path, name=f"p{number}", metadata=said)
    error = refused(
        lambda: resolving.resolve(
            "p0\n", "r.in", "3.11", (tmp_path / "simple").as_uri(), folder=str(tmp_path), environment={}
        )
    )
    assert "memory" in error.message
    assert "fewer packages" in error.hint


@pytest.mark.parametrize(
    "said",
    [
        "memory allocation of 805306368 bytes failed\n",
        "thread 'tokio-rt-worker' (31) panicked: no alternative stack: Cannot allocate memory (os error 12)\n",
    ],
)
def test_wherever_a_resolver_met_its_bound_it_is_told_in_one_way(
    said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolving, "_run", lambda *_: (101, "", said))
    error = refused(lambda: resolving.resolve("p0\n", "r.in", "3.11", environment={}))
    assert error.message.endswith("more memory than 3 GiB")
    assert "fewer packages" in error.hint


def test_locks_being_made_keep_no_thread_of_anybody_elses(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[object] = []
    go_on = threading.Event()

    def slow(
        _self: object, found: bundle.Bundle, _manifest: object, _python: object
    ) -> tuple[bundle.Bundle, int]:
        begun.append(found)
        assert go_on.wait(30)
        return found, 0

    monkeypatch.setattr(Locking, "_locked", slow)
    settings: Any = None

    class Pythons:
        async def python_for(self, _specifier: str, *, where: str) -> None:
            """Whichever: no lock is made here."""

    environments: Any = Pythons()
    manifest = parse_manifest(MANIFEST, Path("/bridge"))
    found = bundle.bundle([])

    async def run() -> None:
        lock = Locking(settings, Path("/nowhere"), environments)
        many = [asyncio.ensure_future(lock.locked(found, manifest)) for _ in range(64)]
        await eventually(lambda: len(begun) == locking._AT_ONCE)
        await asyncio.wait_for(asyncio.to_thread(lambda: None), 30)
        assert len(begun) == locking._AT_ONCE
        for one in many[locking._AT_ONCE :]:
            one.cancel()
        await asyncio.wait(many[locking._AT_ONCE :])
        go_on.set()
        await asyncio.gather(*many[: locking._AT_ONCE])

    asyncio.run(run())
    assert len(begun) == locking._AT_ONCE


# Its files.


@pytest.mark.parametrize(
    "path",
    [
        "__pycache__/mine.cpython-311.pyc",
        "a/__PyCache__/x",
        "mine.pyc",
        "inner/mine.PYO",
        "__pycache__",
        "mine.abi3.so",
    ],
)
def test_nothing_is_taken_that_runs_in_place_of_what_is_read(path: str) -> None:
    """A compiled file whose source is never checked runs in its place; no reader of the source sees it."""
    files = [("bridge.toml", b""), ("mine.py", b""), (path, b"x")]
    assert "in place of the source" in refused(lambda: bundle.bundle(files)).message
    bundle.bundle([("bridge.toml", b""), ("inner/mine.so", b""), ("mine.py", b"")])
    for one, other in (
        ("mine.py", "mine/__init__.py"),
        ("mine.py", "mine/inner/more.py"),
        ("mine.py", "MINE/more.py"),
        ("a/mine.py", "a/mine/__init__.cpython-311-x86_64-linux-gnu.so"),
        ("mine.so", "mine/__init__.py"),
        ("mine.abi3.so", "mine.cpython-311-x86_64-linux-gnu.so"),
    ):
        files = [("bridge.toml", b""), (one, b"a"), (other, b"b")]
        assert "two homes of one module" in refused(lambda files=files: bundle.bundle(files)).message
    for beside in ("mine/data.json", "mine.txt", "minelike/mine.py", "mine/mine.txt", "other/__init__.py"):
        bundle.bundle([("bridge.toml", b""), ("mine.py", b""), (beside, b"")])
    forged = bundle.Bundle(files=tuple(bundle.BundleFile(*one) for one in files))
    assert isinstance(refused(lambda: bundle.decode(bundle.encode(forged))), UsageError)


# What is kept of it.


async def nothing(*_: object) -> None: ...


class Journal:
    """Events in order; `full`: the share of every tenant is used up."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.full = False
        self.before: Callable[[], Awaitable[object]] = nothing

    async def append(self, event: Event, *, durable: bool = True) -> Receipt:
        await self.before()
        if self.full and event.tenant:
            raise BudgetError("used up")
        self.events.append(event)
        return Receipt(ref=f"x.{len(self.events)}", seq=len(self.events), hash="")


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return find_layout({"BRIDGEHOLD_HOME": str(tmp_path / "home")}, 0)


def own(layout: Layout, name: str, lock: str) -> Manifest:
    """As what `acme` has handed in is laid down for its trial."""
    folder = layout.quarantine / "acme" / f"{name}.tree"
    folder.mkdir(parents=True)
    (folder / "requirements.lock").write_text(lock)
    return parse_manifest(MANIFEST, folder)


def test_what_was_read_of_submissions_is_let_go_of(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environments, "_MOST_LOCKS", 3)
    anything: Any = None
    journal: Any = Journal()
    kept = Environments(layout, Config(), anything, journal)
    for number in range(8):
        kept._lock(own(layout, str(number), f"# {number}\n"))
    assert kept._parse.cache_info().currsize == 3
    again = own(layout, "again", "")
    assert kept._lock(again) is kept._lock(again)

    class Refusing:
        def find(self, *_: object, **__: object) -> None: ...

        async def ensure(self, *_: object, **__: object) -> None:
            raise DependencyError("no such wheel")

    builder: Any = Refusing()
    kept._builders._known = dict.fromkeys(kept._builders._known, builder)
    for _ in range(2):
        with pytest.raises(DependencyError):
            asyncio.run(kept.ensure(again, lambda _: None))
    assert kept._listeners == {}
    assert kept._building == {}


def test_what_a_tenants_bridge_causes_is_recorded_as_the_tenants(layout: Layout) -> None:
    anything: Any = None
    journal: Any = Journal()
    kept = Environments(layout, Config(), anything, journal)
    bad = own(layout, "bad", "not a lock\n")
    with pytest.raises(DependencyError) as caught:
        asyncio.run(kept.ensure(bad))
    assert caught.value.event
    assert [(one.tenant, type(one)) for one in journal.events] == [("acme", EnvironmentRefused)]
    journal.full = True
    with pytest.raises(DependencyError) as caught:  # why, whether or not it can be recorded
        asyncio.run(kept.ensure(bad))
    assert not caught.value.event
    assert kept.disk.owner(parse_manifest(MANIFEST, layout.own_bridges("acme") / "mine")) == "acme"
    assert kept.disk.owner(parse_manifest(MANIFEST, Path("/bridges/mine"))) == ""


# Its time.


async def let_go(_: object) -> None:
    """Nothing was built for it."""


def made(kept: Any, journal: Any = None, examination: Any = None) -> Submissions:
    anything: Any = SimpleNamespace(own_bridges=lambda _: Path("/nowhere"))
    tenants: Any = SimpleNamespace(demand=lambda _: None)
    others: Any = None
    examination = examination or SimpleNamespace(let_go=let_go)
    return Submissions(anything, others, tenants, kept, examination, AdminLog(journal), others)


class Clock:
    now = 2e9


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(quarantine, "clock", SimpleNamespace(now=lambda: found.now))
    monkeypatch.setattr("bridgehold.host.cell.store.records.clock", SimpleNamespace(now=lambda: found.now))
    monkeypatch.setattr("bridgehold.host.submissions.clock", SimpleNamespace(now=lambda: found.now))
    return found


class Watched(Quarantine):
    """What was written, and whose records were looked at."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.written: list[tuple[str, str]] = []
        self.looked: list[str] = []

    def write(self, record: Submission) -> None:
        super().write(record)
        self.written.append((record.tenant, record.state))

    def _kept(self, tenant: str) -> list[Submission]:
        self.looked.append(tenant)
        return super()._kept(tenant)

    def waits(self, tenant: str) -> Submission:
        found = bundle.bundle([("bridge.toml", MANIFEST.encode())])
        record = msgspec.structs.replace(
            new_record(tenant, found, "mine", "1.0.0", f"token:{tenant}"), state="waiting"
        )
        self.keep(record, found)
        return record


def test_what_is_being_decided_does_not_expire(tmp_path: Path, clock: Clock) -> None:
    """Nor does the end of a tenant, in between, keep those of others waiting for ever."""
    kept, journal = Watched(tmp_path), Journal()
    record, _, _ = (kept.waits(tenant) for tenant in ("acme", "aaa", "zed"))

    async def run() -> None:
        go_on, begun = asyncio.Event(), asyncio.Event()

        async def hold() -> None:
            begun.set()
            await go_on.wait()

        journal.before = hold
        submissions = made(kept, journal)
        deciding = asyncio.ensure_future(
            submissions.reject(BOSS, RejectParams(submission=record.id, reason="no"), nothing)
        )
        await begun.wait()
        clock.now += KEPT_SECONDS + 1
        watching = asyncio.ensure_future(submissions.watch())
        try:
            await eventually(lambda: ("aaa", "expired") in kept.written)
            ending = asyncio.ensure_future(submissions.end("acme", "gone"))
            go_on.set()
            assert (await deciding).state == "rejected"
            await ending
            await eventually(lambda: ("zed", "expired") in kept.written)
        finally:
            watching.cancel()

    asyncio.run(run())
    assert [state for tenant, state in kept.written if tenant == "acme"] == ["waiting", "rejected"]


def test_who_sees_what_came_of_one_hands_in_the_next() -> None:
    """The first one's outcome is on its way to the audit still: that is waited for, and is no refusal."""
    journal, asked = Journal(), SubmitParams(archive="sha256:x", tenant="acme")

    async def run() -> None:
        begun, known, recorded = asyncio.Event(), asyncio.Event(), asyncio.Event()
        taken: list[str] = []

        async def take(_by: object, tenant: str, _archive: str, settling: Callable[[], None]) -> str:
            taken.append(tenant)
            begun.set()
            await known.wait()
            settling()
            journal.before = recorded.wait
            return str(len(taken))

        submissions = made(None, journal, SimpleNamespace(take=take))
        first = asyncio.ensure_future(submissions.submit(ACME, asked, nothing))
        await begun.wait()
        with pytest.raises(BusyError, match="is being checked"):
            await submissions.submit(ACME, asked, nothing)
        known.set()
        await eventually(lambda: journal.before == recorded.wait)
        later = [asyncio.ensure_future(submissions.submit(ACME, asked, nothing)) for _ in range(2)]
        await asyncio.sleep(0)
        assert not any(one.done() for one in (first, *later))
        known.clear()
        recorded.set()
        assert await first == "1"
        await eventually(lambda: len(taken) == 2)
        await eventually(lambda: sum(one.done() for one in later) == 1)  # the other one came too late
        known.set()
        answers = await asyncio.gather(*later, return_exceptions=True)
        assert sorted(map(str, answers)) == ["2", "another submission of acme is being checked"]

    asyncio.run(run())


def test_who_asks_reads_its_own_and_is_told_what_expired(tmp_path: Path, clock: Clock) -> None:
    kept = Watched(tmp_path)
    for _ in range(3):
        kept.waits("other")
    record = kept.waits("acme")
    submissions = made(kept)

    async def run() -> None:
        show = SubmissionParams(submission=record.id)
        mine = SubmissionsParams(tenant="acme")
        assert [one.state for one in await submissions.list(ACME, mine, nothing)] == ["waiting"]
        clock.now += KEPT_SECONDS + 1
        assert [one.state for one in await submissions.list(ACME, mine, nothing)] == ["expired"]
        assert (await submissions.show(ACME, show, nothing)).state == "expired"
        with pytest.raises(UsageError, match="it is expired"):
            await submissions.reject(BOSS, RejectParams(submission=record.id, reason=""), nothing)
        with pytest.raises(NotFoundError):
            await submissions.show(Principal(name="token:other", tenants=("other",)), show, nothing)

    before = list(kept.written)
    asyncio.run(run())
    assert set(kept.looked) == {"acme"}
    assert kept.written == before, "who looks changes nothing"


def test_a_trial_ends_however_slow_each_of_its_answers_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "_MOST_SECONDS", 0.05)

    class Dawdling:
        async def prepare(self, _: object) -> None:
            await asyncio.Event().wait()

    journal, starter = Journal(), Dawdling()
    services: Any = SimpleNamespace(on_degraded=pytest.fail)
    grant = SimpleNamespace(tenant="acme", bridge="mine", digest="")
    order: Any = SimpleNamespace(grant=grant, session="s-1")
    tried = trial.Trial(services, starter, journal)  # type: ignore[arg-type]  # what it uses of them
    found = asyncio.run(asyncio.wait_for(tried.of(order, "token:acme"), 30))
    assert [(one.name, one.status) for one in found] == [("ends", "FAIL")]
    assert isinstance(journal.events[-1], SessionClosed)


# What of it is on record.


def test_no_list_hides_its_end_from_the_audit() -> None:
    journal: Any = Journal()
    long = [f"host{number}.example.org" for number in range(40)]
    hidden = [*long, "secrets aws"]

    async def audited(gained: list[str]) -> str:
        async def act() -> None: ...

        await AdminLog(journal).audited(BOSS, "bridge.approve", "acme/mine", {"gained": gained}, act)
        intent = next(one for one in reversed(journal.events) if isinstance(one, AdminIntent))
        return intent.details["gained"]

    assert asyncio.run(audited(["a", "b"])) == "a, b"
    said = asyncio.run(audited(hidden))
    assert said.startswith(f"41 in all, {digest_bytes(msgspec.json.encode(hidden))} as JSON: host0.")
    assert said.endswith("secrets aws")
    assert asyncio.run(audited([*long, "secrets gcp"])) != said
    one = asyncio.run(audited(["x" * 100_000, "secrets aws"]))
    assert one.endswith("x…, secrets aws")
    many = asyncio.run(audited([str(number) for number in range(10_000)]))
    assert many.startswith("10000 in all, sha256:")
    assert many.endswith(", …")
    assert len(many) < 7_000


def test_nobody_joins_a_build_in_another_tenants_share(layout: Layout) -> None:
    """Of the same packages: what one tenant's share, or a wheel that it brings, makes of a build is its own."""
    begun: list[str] = []
    go_on = asyncio.Event()

    class Building:
        interpreter: Any = None

        def find(self, *_: object, **__: object) -> None: ...

        async def ensure(self, *_: object, tenant: str, **__: object) -> None:
            begun.append(tenant)
            await go_on.wait()
            raise DependencyError(f"no room for {tenant}")

    async def act() -> list[str]:
        anything: Any = None
        journal: Any = Journal()
        builder: Any = Building()
        kept = Environments(layout, Config(), anything, journal)
        kept._builders._known = dict.fromkeys(kept._builders._known, builder)
        folders = [layout.quarantine / tenant / "one.tree" for tenant in ("evil", "victim")]
        for folder in folders:
            folder.mkdir(parents=True)
            (folder / "requirements.lock").write_text("# the same\n")
        manifests = [parse_manifest(MANIFEST, folder) for folder in folders]
        tasks = [asyncio.ensure_future(kept.ensure(one)) for one in (*manifests, manifests[1])]
        await eventually(lambda: len(begun) == 2)
        go_on.set()
        return [getattr(one, "message", "") for one in await asyncio.gather(*tasks, return_exceptions=True)]

    assert asyncio.run(act()) == ["no room for evil", "no room for victim", "no room for victim"]
    assert begun == ["evil", "victim"]
