"""Control groups, by the hostile act: what a session in one can't do, and what is left of it after.

Each test runs twice: as whoever runs the tests (`auto`: v2 where it is delegated, then v1), and as
an ordinary user to whom root has given a sub-tree of the same kind. All is done in forked children.
"""

from __future__ import annotations

import contextlib
import errno
import json
import mmap
import os
import re
import select
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bridgehold.errors import BridgeholdError, UnsupportedError
from bridgehold.ids import random_id
from bridgehold.sandbox import syscalls
from bridgehold.sandbox.cgroups import CgroupParent, SessionCgroup, files, open_parent, places, v1
from bridgehold.sandbox.values import Resources
from waiting import until

MIB = 1 << 20
ORDINARY_UID = 0x7A00_0001
SMALL = Resources(
    memory_bytes=64 * MIB, cpu_millis=1000, processes=20, open_files=64, file_size_bytes=64 * MIB
)


class Place:
    """Where a test's session cgroups live, and as whom."""

    def __init__(self, choice: str, uid: int, enter: Callable[[], None]) -> None:
        self.choice = choice
        self._uid = uid
        self._enter = enter

    def run(self, act: Callable[[CgroupParent], Any]) -> Any:
        """What `act` returns (JSON), in a child of the right uid, with a parent that is closed after."""

        def inside() -> Any:
            parent = self.open()
            try:
                return act(parent)
            finally:
                parent.close()

        return self.call(inside)

    def open(self) -> CgroupParent:
        return open_parent(self.choice, reserve_bytes=64 * MIB, instance=random_id("t", 8))

    def call(self, act: Callable[[], Any]) -> Any:
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                self.become()
                report = {"value": act()}
            except BaseException:
                report = {"failure": traceback.format_exc()}
            os.write(write, json.dumps(report).encode())
            os._exit(0)
        os.close(write)
        with os.fdopen(read, "rb") as file:
            text = file.read()
        os.waitpid(pid, 0)
        report = json.loads(text)
        assert "failure" not in report, report["failure"]
        return report["value"]

    def become(self) -> None:
        self._enter()
        if self._uid != os.getuid():
            os.setgroups([])
            os.setresgid(self._uid, self._uid, self._uid)
            os.setresuid(self._uid, self._uid, self._uid)


@pytest.fixture(params=["own", "ordinary"])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    if request.param == "own":
        yield Place("auto", os.getuid(), lambda: None)
        return
    if os.getuid() != 0:
        pytest.skip("only root can give an ordinary user a sub-tree; this user's own run is the other half")
    with delegated() as (choice, enter):
        yield Place(choice, ORDINARY_UID, enter)


@contextlib.contextmanager
def delegated() -> Iterator[tuple[str, Callable[[], None]]]:
    """A sub-tree that root gives away: the choice that names it, and how a child of root gets into it."""
    probe = open_parent("auto", reserve_bytes=64 * MIB, instance=random_id("t", 8))
    version = probe.version
    mountinfo = Path("/proc/self/mountinfo").read_text()
    name = random_id("delegated", 8)
    if version == "v1":
        mounted = {n: h for h in places.hierarchies(mountinfo, "v1") for n in h.controllers}
        tops = list(dict.fromkeys(mounted[controller].mount / name for controller in v1.CONTROLLERS))
        choice = f"v1:/{name}"
    else:
        tops = [Path(probe._folder).parent / name]  # type: ignore[attr-defined]  # the v2 parent's own
        choice = f"v2:{tops[0]}"
    probe.close()
    try:
        for top in tops:
            top.mkdir()
            for path in (top, *top.glob("cgroup.*")):
                os.chown(path, ORDINARY_UID, ORDINARY_UID)
        yield choice, lambda: enter(tops)
    finally:
        for top in tops:
            for folder, _, _ in os.walk(top, topdown=False):
                assert files.remove(Path(folder), 5.0), f"{folder} is left"


def enter(tops: list[Path]) -> None:
    """Into the sub-tree; on v2 into the leaf for hosts once an earlier host has divided it."""
    for top in tops:
        host = top / "host"
        files.write((host if host.exists() else top) / "cgroup.procs", "0")


def child(session: SessionCgroup, act: Callable[[], None]) -> int:
    """A child that enters and acts."""
    pid = os.fork()
    if pid == 0:
        try:
            session.enter()
            act()
            os._exit(0)
        except MemoryError:
            os._exit(77)
        except OSError as error:
            os._exit(error.errno or 76)
        except BaseException:
            os._exit(75)
    return pid


def ended(pid: int) -> int:
    """The signal that ended it (negative), or its status."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def wait_until(true: Callable[[], bool], seconds: float = 60.0) -> bool:
    return until(true, seconds)


def take(count: int) -> mmap.mmap:
    """`count` bytes of private memory, touched."""
    area = mmap.mmap(-1, count, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for at in range(0, count, 4096):
        area[at] = 1
    return area


def finish(*sessions: SessionCgroup) -> None:
    for session in sessions:
        session.lift()
        session.kill()
    with contextlib.suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)
    for session in sessions:
        session.remove()


def test_a_limit_that_a_session_gets_is_in_the_kernel_and_a_child_is_in_every_controller(
    place: Place,
) -> None:
    def act(parent: CgroupParent) -> Any:
        session = parent.create("w-one", SMALL, tenant="local")
        pid = child(session, lambda: time.sleep(30))
        joined = wait_until(lambda: session.holds(pid))
        seen = (joined, session.processes() == [pid], session.holds(os.getpid()), session.usage().processes)
        finish(session)
        return [*seen, Path(session.path).exists()]

    assert place.run(act) == [True, True, False, 1, False]


def test_a_fork_bomb_stops_at_the_cap_and_a_sibling_still_forks(place: Place) -> None:  # ABUSE 1
    def bomb() -> None:
        for _ in range(500):
            with contextlib.suppress(BlockingIOError):
                if os.fork() == 0:
                    time.sleep(60)
        time.sleep(60)

    def act(parent: CgroupParent) -> Any:
        session, sibling = (
            parent.create("w-bomb", SMALL, tenant="local"),
            parent.create("w-sibling", SMALL, tenant="local"),
        )
        child(session, bomb)
        denied = wait_until(lambda: session.usage().pids_denied > 100)
        count = len(session.processes())
        innocent = child(sibling, lambda: os._exit(ended(os.fork() or os._exit(7))))
        status = ended(innocent)
        session.lift()
        session.kill()
        gone = wait_until(lambda: _reap() and not session.processes())
        session.remove()
        sibling.remove()
        return [denied, count, status, gone]

    assert place.run(act) == [True, SMALL.processes, 7, True]


def _reap() -> bool:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    return True


def test_a_memory_bomb_dies_within_its_cap_and_the_kernel_says_so(place: Place) -> None:  # ABUSE 2
    def act(parent: CgroupParent) -> Any:
        session, sibling = (
            parent.create("w-bomb", SMALL, tenant="local"),
            parent.create("w-sibling", SMALL, tenant="local"),
        )
        innocent = child(sibling, lambda: time.sleep(60))
        descriptor = session.oom_fd()
        before = select.select([descriptor], [], [], 0)[0]
        status = ended(child(session, lambda: _keep(take(512 * MIB))))
        woken = select.select([descriptor], [], [], 5)[0]
        assert descriptor is not None
        os.read(descriptor, 4096)
        usage = session.usage()
        os.kill(innocent, 0)
        result = [before, status, woken == [descriptor], usage.oom_kills, usage.memory_peak_bytes]
        result += [sibling.usage().oom_kills, usage.cpu_us > 0]
        finish(session, sibling)
        return result

    before, status, woken, kills, peak, sibling_kills, cpu = place.run(act)
    assert (before, status, woken, sibling_kills, cpu) == ([], -signal.SIGKILL, True, 0, True)
    assert kills >= 1
    assert SMALL.memory_bytes // 2 < peak <= SMALL.memory_bytes


def _keep(area: mmap.mmap) -> None:
    time.sleep(60)
    area.close()


def test_two_children_under_one_cap_are_added_up(place: Place) -> None:  # ABUSE 3
    def act(parent: CgroupParent) -> Any:
        session = parent.create("w-two", SMALL, tenant="local")
        first = child(session, lambda: _keep(take(40 * MIB)))
        held = wait_until(lambda: session.usage().memory_bytes >= 40 * MIB)
        alone = session.usage().oom_kills
        child(session, lambda: _keep(take(40 * MIB)))
        killed = wait_until(lambda: session.usage().oom_kills > 0)
        del first
        finish(session)
        return [held, alone, killed]

    assert place.run(act) == [True, 0, True]


def test_memory_files_and_locked_and_shared_memory_are_charged(place: Place) -> None:  # ABUSE 4
    def memory_file() -> None:
        descriptor = os.memfd_create("bomb")
        for _ in range(512):
            os.write(descriptor, b"x" * MIB)

    def shared() -> None:
        area = mmap.mmap(-1, 512 * MIB, flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)
        for at in range(0, 512 * MIB, 4096):
            area[at] = 1

    def act(parent: CgroupParent) -> Any:
        found = []
        for name, bomb in (("memfd", memory_file), ("shared", shared)):
            session = parent.create(f"w-{name}", SMALL, tenant="local")
            status = ended(child(session, bomb))
            usage = session.usage()
            found.append([status, usage.oom_kills >= 1, usage.memory_peak_bytes <= SMALL.memory_bytes])
            finish(session)
        return found

    assert place.run(act) == [[-signal.SIGKILL, True, True]] * 2


def test_a_spinning_session_gets_its_quota_of_cpu_and_no_more(place: Place) -> None:  # ABUSE 8
    def spin() -> None:
        while True:
            pass

    def act(parent: CgroupParent) -> Any:
        session = parent.create("w-spin", msgspec.structs.replace(SMALL, cpu_millis=20), tenant="local")
        child(session, spin)
        started = time.monotonic()
        throttled = wait_until(lambda: session.usage().throttled_us > 200_000)
        wall, used = time.monotonic() - started, session.usage().cpu_us
        session.lift()
        before = session.usage()
        free = wait_until(lambda: session.usage().cpu_us > before.cpu_us + 100_000)
        held_up = session.usage().throttled_us - before.throttled_us
        finish(session)
        return [throttled, used / (wall * 1e6), free, held_up]

    throttled, share, free, held_up = place.run(act)
    assert throttled
    assert share < 0.5
    assert (free, held_up) == (True, 0)  # five periods' quota, and none was waited for


def test_a_hundred_processes_under_a_tiny_quota_are_gone_after_lift_and_kill(
    place: Place,
) -> None:  # ABUSE 46
    many = msgspec.structs.replace(SMALL, processes=110, cpu_millis=100, memory_bytes=256 * MIB)

    def crowd() -> None:
        for _ in range(100):
            if os.fork() == 0:
                time.sleep(120)
        time.sleep(120)

    def act(parent: CgroupParent) -> Any:
        session = parent.create("w-crowd", many, tenant="local")
        child(session, crowd)
        full = wait_until(lambda: session.usage().processes > 100)
        session.lift()
        session.kill()
        empty = wait_until(lambda: _reap() and not session.processes())
        session.remove()
        return [full, empty, Path(session.path).exists()]

    assert place.run(act) == [True, True, False]


def test_a_kill_is_not_outrun_by_a_session_that_forks_and_dies_all_the_time(place: Place) -> None:
    def runner() -> None:
        while True:
            with contextlib.suppress(OSError):
                if os.fork() != 0:
                    os._exit(0)

    def act(parent: CgroupParent) -> Any:
        session = parent.create("w-runner", SMALL, tenant="local")
        for _ in range(5):
            child(session, runner)
        running = wait_until(lambda: _reap() and len(session.processes()) >= 5)
        session.lift()
        # A fork that was half done when its parent was killed is there only after that: who ends a session
        # kills again as long as anybody is left, and there are no more than those.
        empty = wait_until(lambda: _reap() and not (session.kill() or session.processes()))
        session.remove()
        return [running, empty, Path(session.path).exists()]

    assert place.run(act) == [True, True, False]


def test_a_daemon_that_left_its_session_and_parent_is_still_held_and_killed(place: Place) -> None:  # ABUSE 10
    def daemon() -> None:
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                time.sleep(60)
            os._exit(0)

    def act(parent: CgroupParent) -> Any:
        session = parent.create("w-daemon", SMALL, tenant="local")
        assert ended(child(session, daemon)) == 0
        left = wait_until(lambda: len(session.processes()) == 1)
        held = session.holds(session.processes()[0])
        session.kill()
        empty = wait_until(lambda: _reap() and not session.processes())
        session.remove()
        return [left, held, empty]

    assert place.run(act) == [True, True, True]


def test_what_a_killed_owner_left_is_swept_and_what_a_living_one_has_is_not(place: Place) -> None:  # ABUSE 36
    def apart() -> None:
        os.setsid()
        time.sleep(120)

    def owner(ready: int) -> None:
        """Makes a session with a sleeper of another process group, then is killed where it stands."""
        place.become()
        session = place.open().create("w-orphan", SMALL, tenant="local")
        pid = child(session, apart)
        wait_until(lambda: session.holds(pid))
        os.write(ready, f"{pid} {session.path}".encode())
        time.sleep(120)

    def start() -> tuple[int, int, str]:
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                owner(write)
            finally:
                os._exit(1)
        os.close(write)
        orphan, path = os.read(read, 4096).decode().split(" ", 1)
        os.close(read)
        return pid, int(orphan), path

    dead, orphan, left = start()
    alive, held, kept = start()
    try:
        os.kill(dead, signal.SIGKILL)
        os.waitpid(dead, 0)
        os.kill(orphan, 0)
        swept: list[str] = []

        def cleared(path: Path) -> bool:
            """What dies slowly is the next one's to remove; another launcher of the machine's may have been first."""
            swept.extend(place.run(lambda parent: parent.sweep()))
            return not path.exists()

        until(lambda: cleared(Path(left)))
        assert Path(kept).parent.parent.name not in swept
        assert wait_until(lambda: not Path(f"/proc/{orphan}").exists() or _zombie(orphan))
        os.kill(held, 0)
        assert Path(kept).exists()
    finally:
        os.kill(alive, signal.SIGKILL)
        os.waitpid(alive, 0)
        until(lambda: cleared(Path(kept).parent.parent))
    assert wait_until(lambda: not Path(f"/proc/{held}").exists() or _zombie(held))


def test_who_cannot_see_the_living_takes_nobody_for_dead(place: Place) -> None:
    """A machine that is short of descriptors shows a part of the hierarchies: what isn't seen may well live."""

    def act() -> list[Any]:
        living = place.open()
        session = living.create("w-living", SMALL, tenant="local")
        sweeper, scandir = place.open(), os.scandir

        def short(folder: Any) -> Any:
            if Path(folder) in hidden:
                raise OSError(errno.EMFILE, "Too many open files", str(folder))
            return scandir(folder)

        mounts = [one.mount for kind in ("v1", "v2") for one in places.hierarchies(mountinfo(), kind)]
        own = Path(session.path).parent.parent
        hidden = {own.parent}
        try:
            os.scandir = short  # type: ignore[assignment]  # what the machine refuses
            swept = sweeper.sweep()
            os.scandir = scandir
            left = [mount for mount in mounts for _ in mount.rglob(own.name)]
            return [own.name in swept, len(left) > 0, session.usage().oom_kills]
        finally:
            os.scandir = scandir
            sweeper.close()
            session.remove()
            living.close()

    def mountinfo() -> str:
        return Path("/proc/self/mountinfo").read_text()

    assert place.call(act) == [False, True, 0]


def _zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_closing_the_parent_ends_what_was_forgotten(place: Place) -> None:
    def act() -> Any:
        parent = place.open()
        session = parent.create("w-forgotten", SMALL, tenant="local")
        pid = child(session, lambda: time.sleep(60))
        wait_until(lambda: session.holds(pid))
        parent.close()
        return [ended(pid), Path(session.path).parent.parent.exists()]

    assert place.call(act) == [-signal.SIGKILL, False]


def test_sessions_together_stay_below_what_the_parent_keeps_back(place: Place) -> None:
    """The reserve: two sessions well inside their own caps can't pass their parent's together."""

    def act(parent: CgroupParent) -> Any:
        large = msgspec.structs.replace(SMALL, memory_bytes=200 * MIB)
        first, second = (
            parent.create("w-one", large, tenant="local"),
            parent.create("w-two", large, tenant="local"),
        )
        folder = Path(first.path).parent.parent
        on_v1 = parent.version == "v1"
        files.limit(folder / ("memory.limit_in_bytes" if on_v1 else "memory.max"), 80 * MIB)
        child(first, lambda: _keep(take(50 * MIB)))
        alone = wait_until(lambda: first.usage().memory_bytes >= 50 * MIB)
        child(second, lambda: _keep(take(50 * MIB)))
        killed = wait_until(lambda: first.usage().oom_kills + second.usage().oom_kills > 0)
        whole = files.number(folder / ("memory.usage_in_bytes" if on_v1 else "memory.current"))
        finish(first, second)
        return [alone, killed, whole <= 80 * MIB]

    assert place.run(act) == [True, True, True]


def test_a_session_can_not_be_made_twice_or_named_out_of_its_parent(place: Place) -> None:
    def act(parent: CgroupParent) -> Any:
        first = parent.create("w-one", SMALL, tenant="local")
        found = []
        for name in ("w-one", "../w-out", "a/b", "", ".."):
            try:
                parent.create(name, SMALL, tenant="local")
                found.append("made")
            except BridgeholdError as error:
                found.append(error.code)
        # A session of the same name is another's: the failed creation must not have removed it.
        return [found, Path(first.path).exists()]

    assert place.run(act) == [["unsupported", "usage", "usage", "usage", "usage"], True]


def test_a_choice_that_does_not_exist_is_refused_with_its_remedy() -> None:
    for choice in ("v1:/no-such-cgroup", "v3", "v1:relative", "auto:/x"):
        with pytest.raises(UnsupportedError) as caught:
            open_parent(choice, reserve_bytes=MIB, instance="t-none")
        assert caught.value.hint


def test_a_network_of_ones_own_has_no_count_of_the_machines_and_a_parent_all_the_same() -> None:
    """As in any container: what TCP may have is told in the machine's own network alone."""

    def act() -> Any:
        syscalls.unshare(syscalls.CLONE_NEWNET)
        parent = open_parent("auto", reserve_bytes=64 * MIB, instance=random_id("t", 8))
        try:
            parent.create("one", SMALL, tenant="t").remove()
            return Path(v1._TCP_MEM).exists(), parent.version
        finally:
            parent.close()

    if os.getuid() != 0:
        pytest.skip("needs root to have a network of its own and the machine's cgroups")
    told, version = Place("auto", 0, lambda: None).call(act)
    assert version in ("v1", "v2")
    assert not told


def test_an_ordinary_user_without_a_sub_tree_is_refused_and_told_what_to_do() -> None:
    if os.getuid() != 0:
        pytest.skip("needs root to become somebody without a sub-tree")
    bare = Place("auto", ORDINARY_UID, lambda: None)

    def act() -> Any:
        try:
            bare.open().close()
        except UnsupportedError as error:
            return [error.message, error.hint]
        return ["made"]

    message, hint = bare.call(act)
    assert message == "sessions can have no cgroup here"
    command = re.search(r"sudo (sh -c '[^']*')", hint)
    if command is None:  # one that a shell types for itself, on cgroup v2
        assert "Delegate=yes" in hint or "cgroup.procs" in hint
        return
    try:
        subprocess.run(["bash", "-c", command[1]], check=True)
        assert bare.call(act) == ["made"]
    finally:
        for folder in Path("/sys/fs/cgroup").glob(f"*/for-bridgehold-{ORDINARY_UID}"):
            for inner in (*folder.glob("*/*/"), *folder.glob("*/"), folder):
                inner.rmdir()


def test_a_reserve_that_leaves_nothing_is_refused_and_nothing_is_left_behind() -> None:
    before = _left()
    with pytest.raises(UnsupportedError, match="leaves sessions nothing"):
        open_parent("auto", reserve_bytes=1 << 60, instance="t-reserve")
    assert _left() == before


def _left() -> list[str]:
    """By a walk that takes no harm where others' folders go meanwhile."""
    walk = os.walk("/sys/fs/cgroup")
    return [place for place, _, _ in walk if os.path.basename(place).startswith("bridgehold-t-reserve")]


def test_a_process_that_never_entered_is_not_held(place: Place) -> None:
    def act(parent: CgroupParent) -> Any:
        session = parent.create("w-one", SMALL, tenant="local")
        outside = subprocess.Popen([sys.executable, "-I", "-S", "-c", "import time; time.sleep(30)"])
        try:
            return [session.holds(outside.pid), session.processes(), session.holds(2**22 - 3)]
        finally:
            outside.kill()
            outside.wait()

    assert place.run(act) == [False, [], False]
