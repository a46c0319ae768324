from __future__ import annotations

import asyncio
import errno
import time
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridgehold import error_texts
from bridgehold.audit.client import JournalClient
from bridgehold.audit.events import GrantResolved
from bridgehold.bridges.frames import FaultFrame
from bridgehold.config.layout import find_layout
from bridgehold.config.load import Config
from bridgehold.config.sections import BridgeSection
from bridgehold.error_info import Output
from bridgehold.error_texts import harmless
from bridgehold.errors import (
    CrashError,
    DependencyError,
    MemoryLimitError,
    NotFoundError,
    PolicyError,
    SuspendedError,
)
from bridgehold.host.cell.workers.translate import exit_error, fault_error
from bridgehold.host.front import registry
from bridgehold.host.shares import logs
from bridgehold.host.shares.fair import FrameBudget, Shares
from bridgehold.host.shares.logs import STREAMS, CommandOutput, OutputPiece, SessionLog, Stream
from bridgehold.policies.buckets import TokenBucket
from bridgehold.policies.explain import explain
from bridgehold.policies.model import Limits, Machine
from bridgehold.sandbox.attest.view import plan_view
from bridgehold.sandbox.values import ExitReport, Usage


@given(st.lists(st.binary(max_size=300), max_size=50), st.integers(1, 500))
def test_a_log_never_holds_more_than_its_limit_and_counts_what_it_cut(parts: list[bytes], limit: int) -> None:
    log = SessionLog(limit)
    for part in parts:
        log.write(part)
    whole = b"".join(parts)
    assert log.dropped == max(0, len(whole) - limit)
    assert len(log) == min(limit, len(whole))


def test_a_log_shows_control_characters_and_says_what_was_cut() -> None:
    log = SessionLog(6)
    log.write(b"0123456789\x1b[2J\n")
    text = log.text()
    assert "bytes cut" in text
    assert "\x1b" not in text


@given(st.text(max_size=200))
def test_what_is_harmless_is_spelled_out_as_python_spells_it(text: str) -> None:
    plain = "".join(c if c in "\n\t" or c.isprintable() else repr(c)[1:-1] for c in text)
    assert harmless(text) == plain
    assert harmless("\x1b\r\u202e\ud800\n\tü") == "\\x1b\\r\\u202e\\ud800\n\tü"


@given(st.text(max_size=200), st.integers(1, 250), st.integers(1, 600))
def test_the_end_of_a_log_is_that_of_its_whole_text(text: str, newest: int, limit: int) -> None:
    log = SessionLog(limit)
    log.write(text.encode("utf-8", "backslashreplace"))
    assert log.text(newest) == log.text()[-newest:]


def test_the_end_of_a_long_log_is_told_without_looking_at_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []

    def counting(text: str) -> str:
        looked.append(len(text))
        return harmless(text)

    monkeypatch.setattr(logs, "harmless", counting)
    log = SessionLog(1 << 20)
    log.write(b"\x1b" * (1 << 20))
    assert log.text(600) == ("\\x1b" * 150)
    assert sum(looked) <= 4 * 600


@pytest.mark.parametrize(
    ("number", "remedy"),
    [(errno.ENOSPC, "Make room"), (errno.EDQUOT, "quota"), (errno.EROFS, "writable"), (errno.EACCES, "mine")],
)
def test_a_full_or_read_only_disk_has_its_own_remedy_whatever_was_written(number: int, remedy: str) -> None:
    assert remedy in error_texts.mending(OSError(number, "no"), "mine")


def test_a_guest_that_writes_every_character_costs_no_lasting_memory() -> None:
    text = "".join(map(chr, range(0x110000)))
    assert len(harmless(text)) > len(text)
    assert len(error_texts._HARMLESS) <= error_texts._MOST_ESCAPES


def test_a_log_keeps_no_more_than_its_rate_and_marks_what_it_left_out_in_its_place() -> None:
    log = SessionLog(10_000, rate=100)
    log.write(b"a" * 1000)
    assert log.text() == "a" * 400 + "[… 600 bytes cut]\n"


@given(
    st.lists(st.tuples(st.sampled_from(STREAMS), st.binary(max_size=200_000), st.booleans()), max_size=12),
    st.integers(2, 200_000),
)
def test_every_byte_of_a_commands_output_is_kept_or_counted_once(
    parts: list[tuple[Stream, bytes, bool]], limit: int
) -> None:
    """In its end, and in the pieces that its caller was shown meanwhile, whenever that one was busy."""
    seen: list[OutputPiece] = []
    busy = [False]

    async def write() -> Output:
        output = CommandOutput(limit, seen.append, lambda: busy[0])
        for stream, data, busy[0] in parts:
            output.write(stream, data.replace(b"\\", b"."))
        return output.finish()

    output = asyncio.run(write())
    for stream, text, cut in (
        ("stdout", output.stdout, output.stdout_cut),
        ("stderr", output.stderr, output.stderr_cut),
    ):
        size = sum(len(data) for name, data, _ in parts if name == stream)
        mark = f"\n… {cut} bytes cut …\n" if cut else ""
        assert mark in text
        assert raw_size(text.replace(mark, "")) + cut == size
        assert cut == max(0, size - limit // 2 * 2)
        pieces = [piece for piece in seen if piece.stream == stream]
        assert sum(raw_size(piece.text) + piece.cut for piece in pieces) == size


def raw_size(text: str) -> int:
    """Bytes that were decoded to `text`: what was no UTF-8 stands as ``\\xNN``, and no other backslash is there."""
    return len(text.encode()) - 3 * text.count("\\")


def test_a_bucket_refills_with_time_and_no_further_than_its_burst() -> None:
    bucket = TokenBucket(rate=10, burst=5)
    assert bucket.try_take(5, now=0.0)
    assert not bucket.try_take(1, now=0.0)
    assert bucket.wait(1, now=0.0) == 0.1
    assert bucket.try_take(5, now=100.0)
    assert not bucket.try_take(1, now=100.0)


def test_a_bucket_in_debt_says_how_long_not_to_read() -> None:
    bucket = TokenBucket(rate=100, burst=10)
    assert bucket.take(60, now=0.0) == 0.5


def test_the_frame_budget_counts_what_each_session_holds_now() -> None:
    budget, one, two = FrameBudget(Shares(100, part=0)), object(), object()
    budget.hold(one, 60)
    budget.hold(two, 30)
    assert not budget.spent
    budget.hold(one, 80)
    assert budget.spent
    budget.hold(two, 0)
    assert not budget.spent


def test_a_tenant_that_spends_its_frames_leaves_another_some() -> None:
    budget = FrameBudget(Shares(100))
    mine, others = budget.of("mine"), budget.of("others")
    mine.hold(object(), 60)
    assert mine.spent
    assert not others.spent
    others.hold(object(), 10)
    assert not others.spent


def report(cause: str, status: int = 0) -> ExitReport:
    return ExitReport(worker="w", cause=cause, status=status, usage=Usage(), emptied_ms=1, uid=1)  # type: ignore[arg-type]


def test_the_kernels_word_decides_the_error() -> None:
    limits = Limits(memory_bytes=64 << 20)
    assert isinstance(exit_error(report("memory"), limits), MemoryLimitError)
    assert "64 MiB" in exit_error(report("memory"), limits).message
    crash = exit_error(report("signal", 11), limits)
    assert isinstance(crash, CrashError)
    assert "SIGSEGV" in crash.message


def test_a_guests_fault_becomes_a_typed_error() -> None:
    def fault(code: str) -> FaultFrame:
        return FaultFrame(id=1, type="T", message="m", code=code)

    assert isinstance(fault_error(fault("missing_module")), DependencyError)
    assert isinstance(fault_error(fault("not_found")), NotFoundError)
    assert fault_error(fault("invented by the guest")).code == "application"


def test_only_closed_ancestors_are_covered_and_only_outermost_paths_kept() -> None:
    modes = {Path("/root"): 0o700, Path("/srv"): 0o755, Path("/"): 0o755, Path("/root/a"): 0o755}
    plan = plan_view([Path("/root/a/src"), Path("/root/a"), Path("/srv/x")], modes)
    assert plan == {Path("/root"): [Path("/root/a")]}


def test_made_up_tenants_leave_a_bounded_number_of_grants(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who may act for any tenant may name any number of them; what is still there is not written twice."""
    monkeypatch.setattr(registry, "_MOST_KEPT", 8)
    layout = find_layout({"BRIDGEHOLD_HOME": str(tmp_path)}, 0)
    written: list[object] = []

    class Journal:
        async def append(self, event: object, *, durable: bool = True) -> None:
            written.append((event, durable))

    found = registry.Registry(
        layout, Config(), Machine(cgroup="v2", uids="range", cpus=2), cast("JournalClient", Journal())
    )

    async def act() -> None:
        for number in range(20):
            grant = await found.grant(f"nobody{number}", "dspy")
            events = len(written)
            assert await found.grant(f"nobody{number}", "dspy") is grant
            assert len(written) == events > number
        assert len(found._grants) == 8
        assert found._in_force is not None
        assert len(found._in_force._last) <= 8

    asyncio.run(act())


@pytest.mark.parametrize("meanwhile", ["reload", "narrowed", "suspended", "restless"])
def test_what_changes_while_a_grant_is_being_written_down_holds_for_that_grant(
    tmp_path: Path, meanwhile: str
) -> None:
    layout = find_layout({"BRIDGEHOLD_HOME": str(tmp_path)}, 0)
    layout.policies.mkdir(parents=True)
    layout.tenants.mkdir(parents=True)
    for name, most in (("loose", 9_999), ("tight", 1)):
        rate = f'extends = "baseline"\n[rate]\ncommands_per_minute = {most}\n'
        (layout.policies / f"{name}.toml").write_text(rate)
    loose, tight = (Config(bridges={"dspy": BridgeSection(policy=name)}) for name in ("loose", "tight"))

    def change() -> None:
        if meanwhile == "narrowed":
            (layout.policies / "loose.toml").write_text((layout.policies / "tight.toml").read_text())
        elif meanwhile == "suspended":
            (layout.tenants / "acme.toml").write_text('[tenant]\nstate = "suspended"\n')
        else:
            found.replace(tight)

    class Journal:
        written = 0

        async def append(self, event: object, *, durable: bool = True) -> None:
            self.written += 1
            if self.written == 1:
                change()
            elif meanwhile == "restless":
                (layout.policies / "tight.toml").write_text(f'extends = "baseline"\n# {self.written}\n')

    journal = Journal()
    found = registry.Registry(
        layout, loose, Machine(cgroup="v2", uids="range", cpus=2), cast("JournalClient", journal)
    )

    async def act() -> None:
        if meanwhile == "suspended":
            with pytest.raises(SuspendedError):
                await found.grant("acme", "dspy")
        elif meanwhile == "restless":
            with pytest.raises(PolicyError, match="faster than it can be written"):
                await found.grant("acme", "dspy")
            assert journal.written <= 16
        else:
            for _ in range(2):
                assert (await found.grant("acme", "dspy")).rate.commands_per_minute == 1

    asyncio.run(act())


def test_what_a_change_gains_and_loses_is_written_down_and_so_is_the_way_back(tmp_path: Path) -> None:
    """Wide, narrow and wide again: each is told against what was in force, and the grant that holds stands last."""
    layout = find_layout({"BRIDGEHOLD_HOME": str(tmp_path)}, 0)
    layout.policies.mkdir(parents=True)
    policy = layout.policies / "dspy.toml"
    wide, narrow = (
        'extends = "dspy"\n',
        'extends = "dspy"\n[network.endpoints.openai]\npaths = ["/chat/completions"]\n',
    )
    written: list[Any] = []

    class Journal:
        async def append(self, event: object, *, durable: bool = True) -> None:
            written.append(event)

    found = registry.Registry(
        layout, Config(), Machine(cgroup="v2", uids="range", cpus=2), cast("JournalClient", Journal())
    )

    async def act(text: str) -> list[Any]:
        policy.write_text(text)
        written.clear()
        grant = await found.grant("acme", "dspy")
        assert not written or written[-1].digest == grant.digest
        return [*written]

    first, same, less, more = (asyncio.run(act(text)) for text in (wide, wide, narrow, wide))
    assert (first[0].gained, first[0].lost, first[0].previous_grant, same) == ((), (), "", [])
    lost = ("network.endpoints.openai POST /responses",)
    assert (less[0].gained, less[0].lost, less[0].previous_grant) == ((), lost, first[1].digest)
    assert (more[0].gained, more[0].lost, more[0].previous_grant) == (lost, (), less[1].digest)
    assert more[1].digest == first[1].digest
    (byte,) = [one for one in asyncio.run(act(f"{wide}# a word\n")) if not isinstance(one, GrantResolved)]
    assert (byte.gained, byte.lost, byte.previous_grant) == ((), (), first[1].digest)
    tools = ", ".join(f'"tool_{number}"' for number in range(99))
    many = asyncio.run(act(f"{wide}[tools]\nallow = [{tools}]\n"))[0]
    assert len(many.gained) == 41
    assert many.gained[-1] == "and 59 more"


def test_a_policy_is_shown_within_the_ceiling_of_who_runs_under_it(tmp_path: Path) -> None:
    """A bridge's own table of the ceiling bounds the policy that it runs under, and no other."""
    layout = find_layout({"BRIDGEHOLD_HOME": str(tmp_path)}, 0)
    for folder in (layout.policies, layout.tenants):
        folder.mkdir(parents=True)
    (layout.policies / "python.toml").write_text('extends = "python"\n[limits]\nmemory = "300MiB"\n')
    ceiling = layout.tenants / "acme.toml"
    ceiling.write_text(
        '[limits]\nmemory = "200MiB"\n[bridges.python.operations]\nallow = ["python:execute"]\n'
    )
    machine = Machine(cgroup="v2", uids="range", cpus=2)

    def shown(name: str, tenant: str, config: Config) -> dict[str, tuple[str, str, str]]:
        policy, readings = registry.Registry(layout, config, machine, journal=None).policy_for(name, tenant)
        own = readings.read("tenant", tenant)
        rows = explain(policy, own.file if own is not None else "")
        return {row.key: (row.value, row.by, row.source) for row in rows}

    rows = shown("python", "acme", Config())
    assert rows["limits.memory"] == ("200 MiB", "ceiling", f"{ceiling}:2")
    assert rows["operations.allow"] == ("python:execute", "ceiling", f"{ceiling}:4")
    assert rows["sandbox.start"][1:] == ("shipped", "shipped:python.toml:9")
    assert rows["limits.processes"][1:] == ("baseline", "shipped:baseline.toml:9")
    assert rows["rate.concurrency"] == ("8", "default", "default")
    local = shown("python", "local", Config())
    assert local["limits.memory"] == ("300 MiB", "policy", f"{layout.policies / 'python.toml'}:3")
    other = Config(bridges={"python": BridgeSection(policy="baseline")})
    assert shown("python", "acme", other)["operations.allow"][1] == "shipped"
    assert shown("python", "acme", other)["limits.memory"][1] == "ceiling"
    with pytest.raises(PolicyError, match="there is no policy"):
        shown("../tenants/acme", "acme", Config())


def test_what_is_back_before_a_reload_ends_is_missed_when_it_goes_again(tmp_path: Path) -> None:
    layout = find_layout({"BRIDGEHOLD_HOME": str(tmp_path)}, 0)
    machine = Machine(cgroup="v2", uids="range", cpus=2)
    ceiling, bridge = layout.tenants / "acme.toml", layout.bridges / "python"

    def put() -> None:
        bridge.mkdir(parents=True)
        (bridge / "bridge.toml").write_text("no manifest")
        ceiling.parent.mkdir(parents=True, exist_ok=True)
        ceiling.write_text("# a ceiling\n")

    def take() -> None:
        ceiling.unlink()
        (bridge / "bridge.toml").unlink()
        bridge.rmdir()

    put()
    found = registry.Registry(layout, Config(), machine, journal=None)

    def look() -> bool:
        """Whether the operator's own bridge is shown; the folder's clock has gone on before."""
        time.sleep(0.06)
        found._bridges.due = 0.0
        return all(not entry.shipped for entry in found.entries() if entry.name == "python")

    assert look()
    take()
    assert look()
    gone = found.gone()
    assert gone == (ceiling, bridge)
    put()
    assert look()
    assert found.files.read("tenant", "acme") is not None
    found.replace(Config(), gone)
    take()
    with pytest.raises(PolicyError, match="was here and is gone"):
        found.files.read("tenant", "acme")
    assert look()
    found.replace(Config(), found.gone())
    assert found.files.read("tenant", "acme") is None
    assert not look()
