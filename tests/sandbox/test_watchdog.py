"""The watchdog and the session without a cgroup: what it sees, when it says stop, what it leaves."""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import time
from collections.abc import Callable, Iterator

import psutil
import pytest

from bridgehold.errors import UnsupportedError
from bridgehold.sandbox.cgroups import none, open_parent
from bridgehold.sandbox.values import Resources, Usage
from waiting import until

MIB = 1 << 20
SMALL = Resources(
    memory_bytes=96 * MIB, cpu_millis=1000, processes=10, open_files=64, file_size_bytes=64 * MIB
)


@pytest.fixture
def leaf() -> Iterator[none.Leaf]:
    parent = open_parent("none", reserve_bytes=64 * MIB, instance="t-none")
    made = parent.create("w-one", SMALL, tenant="local")
    assert isinstance(made, none.Leaf)
    yield made
    made.kill()
    _reap()
    parent.close()


def child(leaf: none.Leaf, act: Callable[[], object]) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            leaf.enter()
            act()
        finally:
            os._exit(1)
    return pid


def over(leaf: none.Leaf) -> bool:
    """As its launcher has it looked at."""
    leaf.meet()
    leaf.sample()
    return leaf.over()


def used(leaf: none.Leaf) -> Usage:
    over(leaf)
    return leaf.usage()


def _reap() -> None:
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            if os.waitpid(-1, os.WNOHANG) == (0, 0):
                time.sleep(0.005)
        except ChildProcessError:
            return


def wait_until(true: Callable[[], bool], seconds: float = 60.0) -> bool:
    return until(true, seconds)


def take(count: int) -> None:
    area = mmap.mmap(-1, count, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for at in range(0, count, 4096):
        area[at] = 1
    time.sleep(60)


def test_nobody_is_held_who_did_not_enter(leaf: none.Leaf) -> None:
    assert not leaf.holds(os.getpid())
    assert leaf.processes() == []
    pid = child(leaf, lambda: time.sleep(60))
    assert wait_until(lambda: leaf.holds(pid))
    assert not leaf.holds(os.getpid())
    assert not leaf.holds(1)


def test_a_session_within_its_caps_is_left_alone(leaf: none.Leaf) -> None:
    pid = child(leaf, lambda: take(20 * MIB))
    assert wait_until(lambda: used(leaf).memory_bytes > 20 * MIB)
    assert not any(over(leaf) for _ in range(10))
    assert leaf.holds(pid)


def test_a_memory_bomb_is_over_and_reported_as_memory(leaf: none.Leaf) -> None:  # ABUSE 2
    pid = child(leaf, lambda: take(300 * MIB))
    assert wait_until(lambda: over(leaf))
    leaf.kill()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    usage = leaf.usage()
    assert usage.oom_kills == 1
    assert usage.pids_denied == 0
    assert usage.memory_peak_bytes > SMALL.memory_bytes
    assert usage.cpu_us > 0


def test_children_are_added_up_and_what_forks_share_is_counted_once(leaf: none.Leaf) -> None:  # ABUSE 3
    def share() -> None:
        area = mmap.mmap(-1, 40 * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        for at in range(0, 40 * MIB, 4096):
            area[at] = 1
        for _ in range(4):
            if os.fork() == 0:
                _touch(area)
                time.sleep(60)
        time.sleep(60)

    child(leaf, share)
    assert wait_until(lambda: used(leaf).processes == 5)
    # the naive sum would have killed an honest session
    until(lambda: sum(psutil.Process(pid).memory_info().rss for pid in leaf.processes()) > SMALL.memory_bytes)
    assert not over(leaf)

    def own() -> None:
        for _ in range(2):
            if os.fork() == 0:
                take(60 * MIB)
        time.sleep(60)

    second = none.Leaf("w-two", SMALL)
    child(second, own)
    try:
        assert wait_until(lambda: over(second))
    finally:
        second.kill()
        second.remove()


def _touch(area: mmap.mmap) -> int:
    return sum(area[at] for at in range(0, len(area), 4096))


def test_a_memory_file_that_nobody_maps_is_counted(leaf: none.Leaf) -> None:  # ABUSE 4
    def bomb() -> None:
        descriptor = os.memfd_create("bomb")
        for _ in range(150):
            os.write(descriptor, b"x" * MIB)
        time.sleep(60)

    child(leaf, bomb)
    assert wait_until(lambda: over(leaf))
    assert used(leaf).oom_kills == 1


def test_a_fork_bomb_is_over_by_its_number_and_nothing_is_left(leaf: none.Leaf) -> None:  # ABUSE 1
    def bomb() -> None:
        for _ in range(60):
            with contextlib.suppress(OSError):
                if os.fork() == 0:
                    time.sleep(60)
        time.sleep(60)

    child(leaf, bomb)
    assert wait_until(lambda: over(leaf))
    known = leaf.processes()
    assert len(known) > SMALL.processes
    usage = leaf.usage()
    assert (usage.oom_kills, usage.pids_denied) == (0, 1)
    leaf.kill()
    _reap()
    assert wait_until(lambda: leaf.processes() == [])
    assert not any(_alive(pid) for pid in known)


def _alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_kill_catches_a_session_that_forks_all_the_time(leaf: none.Leaf) -> None:
    def runner() -> None:
        for _ in range(400):
            with contextlib.suppress(OSError):
                if os.fork() == 0:
                    time.sleep(30)
                    os._exit(0)
            time.sleep(0.01)
        time.sleep(60)

    child(leaf, runner)
    assert wait_until(lambda: len(leaf.processes()) > 5)
    leaf.kill()
    assert wait_until(lambda: leaf.processes() == [])


def test_an_orphan_that_was_seen_once_is_still_killed(leaf: none.Leaf) -> None:  # ABUSE 10
    read, write = os.pipe()

    def orphaning() -> None:
        if os.fork() == 0:
            os.setsid()
            time.sleep(120)
        os.read(read, 1)
        os._exit(0)

    parent = child(leaf, orphaning)
    assert wait_until(lambda: len(leaf.processes()) == 2)
    os.write(write, b"x")
    os.close(read)
    os.close(write)
    os.waitpid(parent, 0)
    (orphan,) = leaf.processes()
    assert psutil.Process(orphan).ppid() != parent
    leaf.kill()
    assert wait_until(lambda: not _alive(orphan))


def test_a_recycled_number_is_not_taken_for_the_session(leaf: none.Leaf) -> None:
    pid = child(leaf, lambda: time.sleep(60))
    assert wait_until(lambda: leaf.holds(pid))
    leaf._watchdog.tree.known[pid] -= 1  # as if an earlier process of this number had been meant
    assert leaf.processes() == []
    leaf.kill()
    assert _alive(pid)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def test_two_entries_are_refused_because_one_of_them_is_not_ours(leaf: none.Leaf) -> None:
    leaf.enter()
    leaf.enter()
    with pytest.raises(UnsupportedError, match="more than one"):
        leaf.processes()
    leaf._watchdog.tree.known.clear()


def test_remove_and_close_can_be_called_again(leaf: none.Leaf) -> None:
    leaf.remove()
    leaf.remove()
    assert leaf.processes() == []
    assert leaf.oom_fd() is None


def test_a_session_that_can_not_be_looked_at_hides_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(none, "_LATE_SECONDS", 0.5)
    parent = open_parent("none", reserve_bytes=64 * MIB, instance="t-none")
    assert isinstance(parent, none.Parent)
    stuck, seen = (parent.create(name, SMALL, tenant="local") for name in ("w-stuck", "w-seen"))
    monkeypatch.setattr(stuck, "sample", signal.pause)
    child(seen, lambda: take(150 * MIB))
    try:

        def looked() -> bool:
            parent.look()
            return seen.over()

        assert wait_until(looked)
        assert not stuck.over()
        assert seen.usage().oom_kills == 1
    finally:
        parent.close()
        _reap()
