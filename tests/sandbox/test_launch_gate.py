"""The gate: nothing but the one byte turns the forked child into bubblewrap."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import select
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bridgehold.errors import DeniedError, ShortageError, UnsupportedError
from bridgehold.sandbox.cgroups import SessionCgroup, open_parent
from bridgehold.sandbox.launch.bwrap import Bubblewrap
from bridgehold.sandbox.launch.cold import LaunchPlan, Start
from bridgehold.sandbox.launch.roots import OpenedAside, Roots
from bridgehold.sandbox.launch.seccomp import compile_filter
from bridgehold.sandbox.launch.staging import Staged
from bridgehold.sandbox.limits.rlimits import own_rlimits
from bridgehold.sandbox.limits.shortage import typed
from sandbox.launcher_support import MIB, python_spec, resources
from ways import open_way

UID = 0x78000000 + 900 if os.getuid() == 0 else os.getuid()
NO_STAGE = Staged(folder="", sources={}, identities={})


@pytest.fixture
def cgroup() -> Iterator[SessionCgroup]:
    parent = open_parent("none", reserve_bytes=64 * MIB, instance="gate")
    made = parent.create("w-gate", resources(), tenant="local")
    yield made
    made.kill()
    made.remove()
    parent.close()


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """What a stand-in for bubblewrap touches, should it ever run."""
    open_way(tmp_path)
    place = tmp_path / "marks"
    place.mkdir()
    place.chmod(0o777)
    program = tmp_path / "bwrap"
    program.write_text(f"#!/bin/sh\n: > {place}/ran\n")
    program.chmod(0o755)
    return place / "ran"


def begin(cgroup: SessionCgroup, bwrap: str) -> Start:
    plan = LaunchPlan(
        spec=python_spec("pass"),
        bwrap=Bubblewrap(bwrap),
        uid=UID,
        seccomp=compile_filter(),
        staged=NO_STAGE,
        rlimits=own_rlimits(
            python_spec("pass").resources, as_limit=False, shared_uid=os.getuid() != 0, zygote=False
        ),
    )
    return Start(plan, cgroup)


def ended(start: Start) -> int:
    _, status = os.waitpid(start.running.monitor, 0)
    return os.waitstatus_to_exitcode(status)


def at_the_gate(start: Start) -> None:
    readable, _, _ = select.select([start.waits_for], [], [], 10)
    assert readable


def test_without_the_byte_it_waits_and_never_runs_on(cgroup: SessionCgroup, marker: Path) -> None:
    start = begin(cgroup, str(marker.parents[1] / "bwrap"))
    at_the_gate(start)
    time.sleep(0.2)
    assert os.waitpid(start.running.monitor, os.WNOHANG) == (0, 0)
    assert not marker.exists()
    start.abort()
    assert ended(start) == -signal.SIGKILL
    assert not marker.exists()


@pytest.mark.parametrize("said", [b"", b"X", b"r", b"RR"], ids=["EOF", "another", "lower case", "two"])
def test_eof_or_another_byte_ends_it(cgroup: SessionCgroup, marker: Path, said: bytes) -> None:
    start = begin(cgroup, str(marker.parents[1] / "bwrap"))
    at_the_gate(start)
    if said:
        os.write(start._pipes.release, said)
    start._fds.close(start._pipes.release)
    assert ended(start) == 125
    assert not marker.exists()
    start.abort()


def test_the_byte_lets_it_run_and_what_is_no_bubblewrap_is_refused(
    cgroup: SessionCgroup, marker: Path
) -> None:
    start = begin(cgroup, str(marker.parents[1] / "bwrap"))
    at_the_gate(start)
    assert start.advance() is False
    at_the_gate(start)
    with pytest.raises(UnsupportedError, match="bubblewrap did not start"):
        start.advance()
    start.abort()
    ended(start)
    assert marker.exists()


def test_a_child_that_can_not_enter_its_cgroup_ends(cgroup: SessionCgroup, marker: Path) -> None:
    class Broken:
        path = "broken"

        def enter(self) -> None:
            raise OSError("no")

        def __getattr__(self, name: str) -> object:
            return getattr(cgroup, name)

    start = begin(Broken(), str(marker.parents[1] / "bwrap"))  # type: ignore[arg-type]  # the rest is the real one's
    at_the_gate(start)
    with pytest.raises(UnsupportedError, match="could not enter"):
        start.advance()
    start.abort()
    assert ended(start) in (126, -signal.SIGKILL)  # by itself, or by the abort that comes a moment later
    assert not marker.exists()


def test_a_child_outside_its_cgroup_is_not_released(cgroup: SessionCgroup, marker: Path) -> None:
    class Liar:
        path = "liar"

        def enter(self) -> None:
            """Says that it entered."""

        def holds(self, pid: int) -> bool:
            return False

        def __getattr__(self, name: str) -> object:
            return getattr(cgroup, name)

    start = begin(Liar(), str(marker.parents[1] / "bwrap"))  # type: ignore[arg-type]  # the rest is the real one's
    at_the_gate(start)
    with pytest.raises(UnsupportedError, match="not in its cgroup"):
        start.advance()
    start.abort()
    ended(start)
    assert not marker.exists()


def test_bubblewraps_own_complaint_reaches_the_error(cgroup: SessionCgroup, marker: Path) -> None:
    program = marker.parents[1] / "bwrap"
    program.write_text("#!/bin/sh\nprintf 'bwrap: No permissions to create\\033[2J namespace' >&2\nexit 1\n")
    start = begin(cgroup, str(program))
    at_the_gate(start)
    start.advance()
    at_the_gate(start)
    with pytest.raises(UnsupportedError, match="No permissions to create") as caught:
        start.advance()
    assert "\033" not in caught.value.message
    start.abort()
    ended(start)


def test_a_later_launch_holds_no_gate_of_an_earlier_one_open(cgroup: SessionCgroup, marker: Path) -> None:
    """Else EOF would never come while the second lives."""
    bwrap = str(marker.parents[1] / "bwrap")
    first = begin(cgroup, bwrap)
    at_the_gate(first)
    parent = open_parent("none", reserve_bytes=64 * MIB, instance="gate2")
    other = parent.create("w-other", resources(), tenant="local")
    second = begin(other, bwrap)
    at_the_gate(second)
    first._fds.close(first._pipes.release)
    assert ended(first) == 125
    for start in (first, second):
        start.abort()
    ended(second)
    other.remove()
    parent.close()
    with contextlib.suppress(ProcessLookupError):
        os.kill(second.running.monitor, 0)
    assert not marker.exists()


def test_a_source_that_finds_no_descriptor_free_is_a_shortage() -> None:
    """A child opened it, and the kernel drops what there is no number for."""
    roots = Roots((), "/usr")
    job = OpenedAside(["/usr"], lambda source: os.open(source, os.O_PATH), keep=())
    while (answer := job.advance()) is None:
        assert select.select([job.descriptor], [], [], 10)[0]
    usual = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, usual[1]))
    try:
        opened = job.take(answer)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, usual)
        os.waitpid(job.close(), 0)
    assert opened == {"/usr": -errno.EMFILE}
    spec = python_spec("")
    bind = next(mount for mount in spec.mounts if mount.source == "/usr")
    with roots.at_hand(opened), pytest.raises(DeniedError) as caught:
        roots.open(bind, spec)
    assert isinstance(typed(caught.value), ShortageError)
