"""The launcher's own word in the audit: each start before it runs, what was seen, each end; and who can't touch it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from audit.audit_support import LiveJournal, lines_of, segment_files
from bridgehold.audit.beginning import JournalConfig
from bridgehold.audit.client import JournalClient
from bridgehold.audit.events import CommandOutcome, Event, HostStopped
from bridgehold.audit.verify import verify_audit
from bridgehold.audit.writer import Limits
from bridgehold.errors import AuditError, BridgeholdError, BudgetError
from bridgehold.records.workers import WorkerAttested, WorkerExited
from bridgehold.sandbox.launcher.control import LauncherClient
from bridgehold.sandbox.values import StartNote
from sandbox.fork_support import Nursery
from sandbox.launcher_support import KINDS, PYTHON, Machine, close, machine, python_spec, read_line
from waiting import eventually, until

NOTE = StartNote(session="s-0123456789abcdef", environment="sha256:e")
PATIENT = "print('begun', flush=True); import time; time.sleep(60)"
MARK = f"not_let_run_{os.getpid()}"
HELD = f"{MARK} = 1; {PATIENT}"


class Recorded:
    """A launcher that records in a real journal, and that journal."""

    def __init__(self, box: Machine, journal: LiveJournal, audit: Path) -> None:
        self.box = box
        self.journal = journal
        self.audit = audit

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for file in segment_files(self.audit) for line in lines_of(file)]

    def events(self, kind: str, **wanted: object) -> list[dict[str, Any]]:
        return [one for one in self.lines() if one["kind"] == kind and wanted.items() <= one.items()]

    def closed(self) -> None:
        """Both have ended in order."""
        self.box.control.close()
        assert self.box.process.wait(30) == 0
        assert self.journal.end() == 0
        report = verify_audit(self.audit)
        assert report.integrity.ok, report.first_bad


@pytest.fixture(params=KINDS)
def recorded(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Recorded]:
    audit = tmp_path / "audit"
    audit.mkdir()
    config = JournalConfig(folder=str(audit), reserve_bytes=65_536, limits=Limits(tenant_quota_bytes=100_000))
    journal = LiveJournal(config, others=("launcher",))
    try:
        with machine(request.param, journal=journal.others["launcher"]) as box:
            yield Recorded(box, journal, audit)
    finally:
        with contextlib.suppress(ProcessLookupError):
            journal.process.send_signal(signal.SIGCONT)
        journal.kill()
        journal.socket.close()
        assert journal.process.stderr is not None
        journal.process.stderr.close()


def guests() -> list[int]:
    """Interpreters that run the marked code; bubblewrap, which has it among its arguments, is none."""
    found = []
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            words = (folder / "cmdline").read_bytes().split(b"\0")
            if words[0].endswith(os.fsencode(PYTHON.name)) and any(MARK.encode() in word for word in words):
                found.append(int(folder.name))
    return found


async def a_tenant_without_room_starts_nothing(client: LauncherClient, host: JournalClient) -> None:
    await host.bound("full", 100)
    first, ends = await client.launch(python_spec("pass", tenant="full"))
    await client.exited(first.worker)
    with pytest.raises(BudgetError):
        await client.launch(python_spec(HELD, tenant="full"))
    assert not guests()
    other, other_ends = await client.launch(python_spec("pass", tenant="other"))
    await client.exited(other.worker)
    close([*ends, *other_ends])


async def a_host_that_is_taken_over_writes_nothing(
    recorded: Recorded, host: JournalClient, worker: str
) -> None:
    """Of the launcher's: neither an end that was none, nor a proof, nor an outcome of a start."""
    (started,) = recorded.events("worker.started", worker=worker)
    reference = f"{started['instance']}.{started['seq']}"
    own: dict[str, Any] = {"tenant": "local", "session": NOTE.session, "command": "c-forged"}
    forged: tuple[Event, ...] = (
        CommandOutcome(intent=reference, transport_ok=True, application_ok=True, **own),
        WorkerExited(
            worker=worker, intent=reference, cause="exited", status=0, cpu_us=0,
            memory_peak_bytes=0, oom_kills=0, emptied_ms=0, **own,
        ),
        WorkerAttested(
            worker=worker, spec="", pid=1, uid=1, environment="", capabilities="",
            no_new_privs=True, seccomp_mode=2, namespaces={}, cgroup="", mounts="", **own,
        ),
    )  # fmt: skip
    for event in forged:
        with pytest.raises(AuditError):
            await host.append(event)
    await asyncio.wait_for(host.gone.wait(), 30)
    with pytest.raises(AuditError, match="gone"):
        await host.append(HostStopped(reason="as if nothing had been"))


def test_each_start_is_written_before_it_runs_and_each_end_after_it_whoever_has_the_host_s_channel(
    recorded: Recorded,
) -> None:
    nursery = Nursery(recorded.box, framework="")

    async def act(client: LauncherClient) -> tuple[str, str, str]:
        launched, ends = await client.launch(python_spec(PATIENT), NOTE)
        assert (await read_line(ends[1])).startswith("begun")
        (started,) = recorded.events("worker.started", worker=launched.worker)
        assert (started["session"], started["environment"]) == (NOTE.session, "sha256:e")
        assert (started["tenant"], started["spec"]) == ("local", launched.spec_digest)
        assert (started["uid"], started["start"], started["zygote"]) == (launched.uid, "cold", "")
        await client.attest(launched.worker)
        await client.recorded(launched.worker)
        (proof,) = recorded.events("worker.attested", worker=launched.worker)
        assert (proof["session"], proof["seccomp_mode"]) == (NOTE.session, 2)
        host = await JournalClient.connect(recorded.journal.socket)
        await a_tenant_without_room_starts_nothing(client, host)
        await a_host_that_is_taken_over_writes_nothing(recorded, host, launched.worker)
        await host.close()
        close(ends)
        zygote = await nursery.zygote(client)
        await client.recorded(zygote.launched.worker)
        assert recorded.events("zygote.attested", worker=zygote.launched.worker)
        fork = await nursery.fork(client, zygote)
        (forked,) = recorded.events("worker.started", worker=fork.launched.worker)
        assert (forked["start"], forked["zygote"]) == ("fork", zygote.launched.worker)
        await client.kill(launched.worker)
        for guest in (fork, zygote):
            await guest.end()
        return launched.worker, fork.launched.worker, zygote.launched.worker

    names = recorded.box.drive(act)
    recorded.closed()
    assert verify_audit(recorded.audit).ok
    for name in names:
        (started,) = recorded.events("worker.started", worker=name)
        (exited,) = recorded.events("worker.exited", worker=name)
        assert exited["intent"] == f"{started['instance']}.{started['seq']}"
        assert (exited["cause"], exited["by"]) == ("killed", "host")
    told = {one["worker"] for one in recorded.events("worker.started", tenant="local")}
    assert told == set(names), "a spare was told of"
    assert not [line for line in recorded.lines() if line["command"] == "c-forged"]
    assert [one["recorder"] for one in recorded.events("channel.ended")] == ["host"]


def test_nothing_runs_before_its_start_is_written_and_nobody_waits_meanwhile(recorded: Recorded) -> None:
    nursery = Nursery(recorded.box, framework="")

    async def act(client: LauncherClient) -> None:
        running, ends = await client.launch(python_spec("import time; time.sleep(60)"))
        zygote = await nursery.zygote(client)
        await client.recorded(zygote.launched.worker)
        recorded.journal.process.send_signal(signal.SIGSTOP)
        cold = asyncio.ensure_future(client.launch(python_spec(HELD)))
        forked = asyncio.ensure_future(client.fork(zygote.launched.worker, nursery.spec()))
        answered = 0
        while not (cold.done() and forked.done()):  # both stand, for as long as anybody waits for a journal
            assert (await client.usage(running.worker)).cpu_us >= 0
            answered += not (cold.done() or forked.done())
            assert not guests()
            await asyncio.wait({cold, forked}, timeout=0.05)
        assert answered, "nobody was answered meanwhile"
        for start in (cold, forked):
            with pytest.raises(AuditError, match="did not confirm a start"):
                await start
        recorded.journal.process.send_signal(signal.SIGCONT)
        healthy = await nursery.fork(client, zygote)  # which is blamed for nothing
        await healthy.end()
        await client.kill(running.worker)
        close(ends)
        await zygote.end()

    recorded.box.drive(act)
    recorded.closed()
    report = verify_audit(recorded.audit)
    assert report.ok, report.completeness
    assert report.completeness.interrupted_count == 0, "a start that was given up has its end"


def test_without_a_journal_nothing_starts_and_what_runs_is_ended_and_said(recorded: Recorded) -> None:
    async def act(client: LauncherClient) -> None:
        unrecorded: list[str] = []
        client.on_unrecorded = unrecorded.append
        running, ends = await client.launch(python_spec(HELD))
        recorded.journal.kill()
        with pytest.raises(AuditError, match="gone"):
            await client.launch(python_spec(HELD))
        assert (await client.kill(running.worker)).cause == "killed"
        await eventually(lambda: unrecorded)
        assert "worker.exited" in unrecorded[0]
        await eventually(lambda: not guests())
        close(ends)

    recorded.box.drive(act)


def test_starts_of_a_launcher_that_was_killed_are_named_by_the_journal(recorded: Recorded) -> None:
    async def act(client: LauncherClient) -> None:
        _, ends = await client.launch(python_spec(HELD))
        recorded.box.process.kill()
        await eventually(lambda: not guests())
        close(ends)

    recorded.box.drive(act)
    (started,) = recorded.events("worker.started")
    assert recorded.journal.end() == 0
    until(lambda: not guests())
    (ended,) = recorded.events("channel.ended", recorder="launcher")
    assert ended["unfinished"] == [f"{started['instance']}.{started['seq']}"]
    report = verify_audit(recorded.audit)
    assert report.ok, report.completeness
    assert report.completeness.interrupted_count == 1


GONE = {
    "closes its gate": "os.close(gate); os.write(report, b'M')",
    "closes its gate after its word": "os.write(report, b'M'); os.close(gate)",
}
AT_THE_GATE = """
    import ctypes, os, sys, time
    def evil(order, descriptors, parent, means):
        os.read(parent, 1)
        frames_in, frames_out, log, gate, report, output, *others = descriptors
        os.write(report, b'F'); os.read(gate, 1)
        for door in others[7:]:
            os.write(door, b'0')
        {act}
        ctypes.CDLL(None).prctl(15, b'{mark}', 0, 0, 0)
        time.sleep(60)
    sys.modules['bridgehold_inner.fork'].become_worker = evil
"""


def named(name: str) -> bool:
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (folder / "comm").read_text().strip() == name:
                return True
    return False


@pytest.mark.parametrize("act", GONE)
def test_a_fork_that_left_its_gate_before_the_journal_answers_ends_nobody_else(
    recorded: Recorded, act: str
) -> None:
    mark = f"g{os.getpid()}"  # a name has 15 bytes
    framework = AT_THE_GATE.format(act=GONE[act], mark=mark)

    async def run(client: LauncherClient) -> None:
        victim, ends = await client.launch(python_spec("import time; time.sleep(60)", tenant="victim"))
        nursery = Nursery(recorded.box, framework=framework, tenant="evil")
        zygote = await nursery.zygote(client)
        await client.recorded(zygote.launched.worker)
        recorded.journal.process.send_signal(signal.SIGSTOP)
        fork = asyncio.ensure_future(client.fork(zygote.launched.worker, nursery.spec()))
        await eventually(lambda: fork.done() or named(mark))
        for _ in range(3):  # the launcher has heard what it said
            await client.usage(victim.worker)
        recorded.journal.process.send_signal(signal.SIGCONT)
        with pytest.raises(BridgeholdError):
            await fork
        assert (await client.usage(victim.worker)).processes
        await client.kill(victim.worker)
        close(ends)
        zygote.close()

    recorded.box.drive(run)
    recorded.closed()
    assert verify_audit(recorded.audit).ok
