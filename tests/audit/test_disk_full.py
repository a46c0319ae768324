"""A full disk: before a command it does not run, after it its end is still written; nothing is torn.

The full disk is a real one: a tmpfs of 2 MiB in a mount namespace of the test's own.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import resource
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from audit_support import Filler, connected, intent, lines_of, segment_files

from bridgehold.audit.beginning import JournalConfig
from bridgehold.audit.events import HostStopped
from bridgehold.audit.journal import Journal
from bridgehold.audit.verify import verify_audit
from bridgehold.audit.writer import Limits, Refused, Written
from bridgehold.errors import AuditError

SUPPORT = str(Path(__file__).parent)


def on_a_small_disk(folder: Path, body: str, size: str = "2m") -> dict[str, object]:
    """Run `body` (a coroutine's lines, with `audit` and `out`) where `audit` is a disk of `size`."""
    script = f"""
import asyncio, json, os, sys, time
from pathlib import Path
from audit_support import LiveJournal, connected, intent, outcome
from bridgehold.audit.journal import JournalConfig
from bridgehold.audit.events import HostDegraded, HostStopped
from bridgehold.audit.verify import verify_audit
from bridgehold.errors import AuditError
audit, out = Path(sys.argv[1]), {{}}
def start(**changes):
    return LiveJournal(JournalConfig(folder=str(audit), reserve_bytes=131072, **changes))
async def until_full(client, make):
    done = []
    while True:
        try:
            done.append((await client.append(make(len(done)))).ref)
        except AuditError as error:
            return done, error.where
async def act():
{textwrap.indent(textwrap.dedent(body), "    ")}
asyncio.run(act())
print(json.dumps(out))
"""
    namespace = ["unshare", "--mount"] if os.getuid() == 0 else ["unshare", "--map-root-user", "--mount"]
    command = f'mount -t tmpfs -o size={size} none "$1" && exec "$2" -c "$3" "$1"'
    done = subprocess.run(
        [*namespace, "sh", "-c", command, "sh", str(folder), sys.executable, script],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": SUPPORT},
        check=False,
    )
    if "Operation not permitted" in done.stderr and "unshare" in done.stderr and not os.environ.get("CI"):
        pytest.skip("no mount namespaces here")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


def test_full_before_the_command_it_does_not_run_and_full_after_it_its_end_is_written(audit: Path) -> None:
    found = on_a_small_disk(
        audit,
        """
        async with connected(start()) as client:
            began, why = await until_full(client, lambda n: intent(arguments_preview="x" * 8000))
            out["why"] = why
            out["began"] = len(began)
            out["ends"] = [(await client.append(outcome(ref))).ref for ref in began[-20:]]
            await client.append(HostDegraded(reason="audit full"))
            try:
                await client.append(intent())
                out["small"] = "written"
            except AuditError as error:
                out["small"] = error.where
            report = verify_audit(audit)
            out["sound"] = report.ok
            out["in flight"] = report.completeness.in_flight_count
        """,
    )
    assert found["why"] == "journal:full"
    assert int(str(found["began"])) > 100
    assert len(found["ends"]) == 20  # type: ignore[arg-type]  # a list from JSON
    assert found["small"] == "journal:full"
    assert found["sound"] is True
    assert found["in flight"] == int(str(found["began"])) - 20


def test_when_space_comes_back_the_journal_goes_on_by_itself(audit: Path) -> None:
    found = on_a_small_disk(
        audit,
        """
        ballast = audit / "ballast"
        ballast.write_bytes(b"x" * 1_000_000)
        async with connected(start()) as client:
            began, _ = await until_full(client, lambda n: intent(arguments_preview="x" * 8000))
            ballast.unlink()
            deadline = time.monotonic() + 20
            out["again"] = False
            while time.monotonic() < deadline and not out["again"]:
                try:
                    await client.append(intent())
                    out["again"] = True
                except AuditError:
                    await asyncio.sleep(0.1)
            out["sound"] = verify_audit(audit).ok
        """,
    )
    assert found == {"again": True, "sound": True}


def test_when_even_the_reserve_is_used_up_everything_is_refused_and_nothing_is_torn(audit: Path) -> None:
    found = on_a_small_disk(
        audit,
        """
        journal = start()
        async with connected(journal) as client:
            began, _ = await until_full(client, lambda n: intent(arguments_preview="x" * 8000))
            ended, why = await until_full(
                client, lambda n: outcome(began[n % len(began)], reason="y" * 3000)
            )
            out["ended"], out["why"] = len(ended), why
            report = verify_audit(audit)
            out["sound"], out["events"] = report.integrity.ok, report.events
            out["expected"] = 1 + len(began) + len(ended)
        out["exit"] = journal.end()
        second = start()
        out["second exit"] = second.process.wait(30)
        out["said"] = second.errors()
        out["folders"] = len(list(audit.glob("0*")))
        """,
    )
    assert int(str(found["ended"])) > 10
    assert found["why"] == "journal:full"
    assert found["sound"] is True
    assert found["events"] == found["expected"]
    assert found["exit"] == 0
    assert found["second exit"] == AuditError.exit_status
    assert found["folders"] == 1
    assert "full" in str(found["said"]) or "No space" in str(found["said"])


def test_short_writes_at_the_file_size_limit_leave_no_half_line(
    live: Callable[..., object], audit: Path
) -> None:
    """The hard limit: a soft one is lifted at the start, and so is no full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, before[1]))
    try:
        journal: Any = live(reserve_bytes=8192)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

    async def act() -> None:
        async with connected(journal) as client:
            for _ in range(10):
                await client.append(intent(arguments_preview="x" * 1500))
            resource.prlimit(journal.process.pid, resource.RLIMIT_FSIZE, (100_001, 100_001))
            written, refused = 0, 0
            for _ in range(100):
                group = [client.append(intent(arguments_preview="x" * 1500)) for _ in range(7)]
                for result in await asyncio.gather(*group, return_exceptions=True):
                    written += not isinstance(result, AuditError)
                    refused += isinstance(result, AuditError)
            assert refused > 0
            assert len(lines_of(segment_files(audit)[0])) == 11 + written
            assert segment_files(audit)[0].read_bytes().endswith(b"}\n")

    asyncio.run(act())
    assert verify_audit(audit).integrity.ok


def test_the_first_failed_sync_closes_the_segment_for_good(audit: Path) -> None:
    broken = [False]

    def sync(descriptor: int) -> None:
        if broken[0]:
            broken[0] = False  # the kernel reports it once; a later sync would lie
            raise OSError(errno.EIO, "Input/output error")
        os.fdatasync(descriptor)

    journal = Journal(JournalConfig(folder=str(audit), reserve_bytes=65_536), sync=sync)
    writer = journal.writer
    assert isinstance(writer.write([HostStopped(reason="good")])[0], Written)
    assert writer.sync()
    broken[0] = True
    writer.write([HostStopped(reason="lost")])
    assert not writer.sync()
    size = segment_files(audit)[0].stat().st_size
    for _ in range(3):
        result = writer.write([HostStopped(reason="later")])[0]
        assert isinstance(result, Refused)
        assert result.code == "failed"
        assert not writer.sync()
    assert segment_files(audit)[0].stat().st_size == size


def test_a_durable_event_whose_sync_fails_is_refused_to_its_caller(audit: Path) -> None:
    from bridgehold.audit.client import encode
    from bridgehold.records import wire

    calls = [0]

    def sync(descriptor: int) -> None:
        calls[0] += 1
        if calls[0] > 1:
            raise OSError(errno.EIO, "Input/output error")
        os.fdatasync(descriptor)

    journal = Journal(JournalConfig(folder=str(audit), reserve_bytes=65_536), sync=sync)
    answers = journal.answer([wire.Request(wire.APPEND, n, encode(intent())) for n in range(3)])
    assert [answer.code for answer in answers] == ["failed"] * 3
    assert [answer.id for answer in answers] == [0, 1, 2]


def test_a_sync_that_fails_where_a_segment_ends_closes_the_writer_too(audit: Path) -> None:
    """For want of room as for any other cause: what was buffered is lost, and nobody knows of what."""
    failing = [0]

    def sync(descriptor: int) -> None:
        if failing[0]:
            raise OSError(failing[0], os.strerror(failing[0]))
        os.fdatasync(descriptor)

    config = JournalConfig(folder=str(audit), reserve_bytes=65_536, limits=Limits(segment_bytes=2_000))
    writer = Journal(config, sync=sync).writer
    assert isinstance(writer.write([HostStopped(reason="x" * 2_000)])[0], Written)
    failing[0] = errno.ENOSPC
    refused = writer.write([HostStopped(reason="later")])[0]
    failing[0] = 0
    assert isinstance(refused, Refused)
    assert refused.code == "failed"
    assert not writer.sync()
    assert len(segment_files(audit)) == 1


@pytest.mark.parametrize("act", ["removed", "replaced", "its folder moved", "another folder in its place"])
def test_what_nobody_would_find_is_refused_and_no_command_runs(audit: Path, act: str) -> None:
    from bridgehold.audit.client import encode
    from bridgehold.records import wire

    journal = Journal(JournalConfig(folder=str(audit), reserve_bytes=65_536))
    [file] = segment_files(audit)
    if act in ("removed", "replaced"):
        file.unlink()
    else:
        file.parent.rename(audit / "moved")
    if act == "another folder in its place":
        file.parent.mkdir()
    if act in ("replaced", "another folder in its place"):
        file.write_bytes(b"")
    for number in range(2):
        [answer] = journal.answer([wire.Request(wire.APPEND, number, encode(intent()))])
        assert answer.code == "failed"
        assert "not at its place" in answer.message


def test_the_reserve_is_a_plain_file_of_one_name_or_nothing_is_begun(audit: Path) -> None:
    """It is cut to nothing where the disk is full: so would be what was put in its place."""
    other = audit.parent / "other"
    other.write_text("kept")
    for put in (lambda: os.link(other, audit / ".reserve"), lambda: os.mkfifo(audit / ".reserve")):
        put()
        with pytest.raises(AuditError) as caught:
            Journal(JournalConfig(folder=str(audit), reserve_bytes=65_536))
        assert caught.value.where == str(audit / ".reserve")
        (audit / ".reserve").unlink()
    assert other.read_text() == "kept"


def test_rotation_by_time(audit: Path, filler: Callable[..., Filler]) -> None:
    writer = filler(limits=Limits(segment_seconds=0))
    writer.pairs(2)
    writer.close()
    assert len(segment_files(audit)) > 2
    assert verify_audit(audit).ok


def test_an_unwritable_folder_is_a_typed_error(tmp_path: Path) -> None:
    with pytest.raises(AuditError):
        Journal(JournalConfig(folder=str(tmp_path / "absent")))
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(AuditError):
        Journal(JournalConfig(folder=str(file)))
