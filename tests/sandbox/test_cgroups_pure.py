"""The parts of the control groups that are values or plain files: paths, choice, read-back, sweeping."""

from __future__ import annotations

import os
from pathlib import Path
from threading import Thread

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridgehold.errors import UnsupportedError, UsageError
from bridgehold.sandbox.cgroups import delegation, files, owned, places, remedy, v1, v2
from waiting import until

HYBRID = """\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
"""
CONTAINER = "35 31 0:32 /docker/abc /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"


def test_hierarchies_are_found_by_their_controllers_not_by_their_folders() -> None:
    found = places.hierarchies(HYBRID, "v1")
    assert [(h.mount.name, "cpuacct" in h.controllers) for h in found] == [
        ("cpu,cpuacct", True),
        ("memory", False),
        ("systemd", False),
    ]
    assert [h.mount for h in places.hierarchies(HYBRID, "v2")] == [Path("/sys/fs/cgroup/unified")]
    assert places.hierarchies("no such line\n\n1 2 3 - cgroup\n", "v1") == []


def test_a_container_that_sees_a_part_of_the_hierarchy_finds_its_own_folder() -> None:
    (memory,) = places.hierarchies(CONTAINER, "v1")
    assert memory.folder("/docker/abc") == Path("/sys/fs/cgroup/memory")
    assert memory.folder("/docker/abc/x") == Path("/sys/fs/cgroup/memory/x")
    assert memory.folder("/docker/abcdef") is None
    assert memory.folder("/") is None
    assert memory.name(Path("/sys/fs/cgroup/memory/x")) == "/docker/abc/x"
    assert v1.candidates(memory, "/elsewhere", "", 1000) == [
        Path("/sys/fs/cgroup/memory/for-bridgehold-1000"),
        Path("/sys/fs/cgroup/memory"),
    ]


@given(st.lists(st.text("abc-.", min_size=1).filter(lambda t: t not in (".", "..")), max_size=5))
def test_a_folder_and_the_name_that_proc_shows_for_it_are_one_another_s_inverse(parts: list[str]) -> None:
    hierarchy = places.Hierarchy(mount=Path("/sys/fs/cgroup"), root="/", controllers=frozenset())
    path = "/" + "/".join(parts)
    folder = hierarchy.folder(path)
    assert folder is not None
    assert hierarchy.name(folder) == path


def test_own_cgroups_reads_both_versions() -> None:
    text = "4:memory:/a\n2:cpu,cpuacct:/b\n9:name=systemd:/\n0::/user.slice/x:y\n"
    found = places.own_cgroups(text)
    assert (found["memory"], found["cpuacct"], found[""]) == ("/a", "/b", "/user.slice/x:y")


def test_below_our_own_cgroup_comes_before_the_root_so_that_the_operator_s_limits_hold() -> None:
    memory = places.Hierarchy(mount=Path("/m"), root="/", controllers=frozenset({"memory"}))
    own, given = Path("/m/system.slice/x"), Path("/m/for-bridgehold-7")
    assert v1.candidates(memory, "/system.slice/x", "", 7) == [own, given, Path("/m")]
    assert v1.candidates(memory, "/system.slice/x", "/given", 7) == [Path("/m/given")]
    assert v1.candidates(memory, "/", "", 7) == [Path("/m"), given]


def test_without_a_cgroup_one_command_is_told_that_works_there() -> None:
    def mounted(*controllers: str) -> tuple[places.Hierarchy, ...]:
        return tuple(
            places.Hierarchy(mount=Path("/c", name), root="/", controllers=frozenset(name.split(",")))
            for name in controllers
        )

    v1_mounts = mounted("memory", "pids", "cpu,cpuacct")
    told = remedy.remedy(remedy.Seen(uid=1000, v1=v1_mounts, v2=Path("/c/unified"), manager=True))
    folders = [f"/c/{name}/for-bridgehold-1000" for name in ("cpu,cpuacct", "memory", "pids")]
    assert f"sudo sh -c 'for d in {' '.join(folders)}; do mkdir -p $d && chown -R 1000 $d; done'" in told
    scope = "systemd-run --user --scope --quiet -p Delegate=yes bridgehold …"
    assert scope in remedy.remedy(remedy.Seen(uid=1000, v2=Path("/c"), manager=True))
    told = remedy.remedy(remedy.Seen(uid=1000, v2=Path("/c")))
    assert "echo $$ > /c/for-bridgehold-1000/cgroup.procs" in told
    for seen in (
        remedy.Seen(uid=0, container=True),
        remedy.Seen(uid=1000, container=True, v1=v1_mounts, v2=Path("/c")),
    ):
        assert "--cgroupns=private" in remedy.remedy(seen)
    assert "Mount cgroup2" in remedy.remedy(remedy.Seen(uid=0, v1=v1_mounts))
    assert "on a machine with" in remedy.remedy(remedy.Seen(uid=1000, v1=mounted("memory")))


def test_whose_account_a_uid_is_by_its_map() -> None:
    assert remedy.account("0 1000 1\n1 300000 65536\n", 0) == 1000
    assert remedy.account("0 1000 1\n1 300000 65536\n", 5) == 300004
    assert remedy.account("0 0 4294967295\n", 7) == 7
    assert remedy.account("", 7) == 7


def test_a_limit_that_does_not_read_back_is_refused(tmp_path: Path) -> None:
    good = tmp_path / "pids.max"
    good.write_text("10")
    files.limit(good, 64)
    # /dev/full and /dev/null are files that don't keep what is written, each in its own way
    for path, seen in (("/dev/null", "reads ''"), ("/dev/full", "can't be set")):
        with pytest.raises(UnsupportedError, match=seen):
            files.limit(Path(path), 64)
    with pytest.raises(UnsupportedError, match="can't be set"):
        files.limit(tmp_path / "missing", 1)


def test_numbers_that_are_none_are_zero_and_ceilings_are_the_lowest_of_all_ancestors(tmp_path: Path) -> None:
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "a" / "memory.max").write_text("1000\n")
    (inner / "memory.max").write_text("3000\n")
    assert files.lowest(inner, tmp_path, "memory.max") == 1000
    assert files.lowest(tmp_path, tmp_path, "memory.max") is None
    assert files.number(tmp_path / "memory.max") == 0
    assert files.number(tmp_path / "missing") == 0
    assert files.table(tmp_path / "missing") == {}
    assert files.pids(tmp_path / "missing") == []
    events = tmp_path / "memory.events"
    events.write_text("low 0\noom 3\noom_kill 2\n")
    assert files.table(events) == {"low": 0, "oom": 3, "oom_kill": 2}


def test_names_that_would_leave_the_parent_are_refused() -> None:
    for name in ("", "..", "a/b", "A", ".hidden", "x" * 80, "a\n"):
        with pytest.raises(UsageError):
            owned.leaf_name(name)
        with pytest.raises(UsageError):
            owned.folder_name(name)
    assert owned.folder_name("1234-5678") == "bridgehold-1234-5678.sessions"


def test_the_sweep_takes_only_unlocked_folders_of_our_own_naming(tmp_path: Path) -> None:
    memory, pids = tmp_path / "memory", tmp_path / "pids"
    for name in ("bridgehold-dead.sessions", "bridgehold-live.sessions", "bridgehold-alice", "other"):
        (memory / "slice" / name / "leaf").mkdir(parents=True)
        (pids / name / "leaf").mkdir(parents=True)
    (pids / "bridgehold-half.sessions").mkdir()  # its owner died between two hierarchies
    lock = owned._lock(memory / "slice" / "bridgehold-live.sessions")
    assert lock is not None
    swept = owned.sweep([memory], [memory, pids], "bridgehold-own.sessions")
    os.close(lock)
    assert swept == ["bridgehold-dead.sessions", "bridgehold-half.sessions"]
    assert sorted(p.name for p in pids.iterdir()) == ["bridgehold-alice", "bridgehold-live.sessions", "other"]
    assert (memory / "slice" / "bridgehold-live.sessions" / "leaf").exists()
    assert not (memory / "slice" / "bridgehold-dead.sessions").exists()


def test_the_sweep_never_takes_the_sweeper_s_own_folder(tmp_path: Path) -> None:
    (tmp_path / "bridgehold-own.sessions").mkdir()
    assert owned.sweep([tmp_path], [tmp_path], "bridgehold-own.sessions") == []


def test_a_claim_is_one_owner_s_until_it_ends(tmp_path: Path) -> None:
    folder = tmp_path / "bridgehold-x.sessions"
    descriptor = owned.claim(folder)
    assert owned._lock(folder) is None
    with pytest.raises(FileExistsError):
        owned.claim(folder)
    os.close(descriptor)
    again = owned._lock(folder)
    assert again is not None
    os.close(again)


def test_what_a_sweeper_removes_is_what_it_has_locked(tmp_path: Path) -> None:
    """Whoever makes a folder while a sweeper takes it for dead leaves it until the sweeper is done."""
    folder = tmp_path / "bridgehold-x.sessions"
    held: list[int] = []

    def met(path: str | os.PathLike[str], mode: int) -> None:
        tried.append(path)
        real(path, mode)
        held.append(owned._lock(folder))  # by a sweeper, at once

    tried, real = [], os.mkdir
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "mkdir", met)
        claims = Thread(target=lambda: held.append(owned.claim(folder)))
        claims.start()
        until(lambda: len(tried) > 3)  # it comes again, and again
    assert folder.samefile(f"/proc/self/fd/{held[0]}")
    assert owned._clear([folder])
    os.close(held[0])
    claims.join(30)
    assert folder.samefile(f"/proc/self/fd/{held[1]}")
    assert owned.sweep([tmp_path], [tmp_path], "bridgehold-own.sessions") == []
    os.close(held[1])
    assert owned.sweep([tmp_path], [tmp_path], "bridgehold-own.sessions") == ["bridgehold-x.sessions"]


def _tree(root: Path, controllers: str) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    (root / "cgroup.controllers").write_text(controllers)
    (root / "cgroup.subtree_control").write_text("")
    (root / "cgroup.procs").write_text("")
    return root


def test_a_delegated_cgroup_is_known_by_its_owner_and_the_machine_s_root_only_serves_root(
    tmp_path: Path,
) -> None:
    mount = _tree(tmp_path / "cgroup", "cpu memory pids")
    own = _tree(mount / "user.slice" / "shell.scope", "cpu memory pids")
    assert delegation.choose(own, mount, real_root=False) == own
    assert delegation.choose(own, mount, real_root=True) == mount
    host = _tree(own / "host", "")
    assert delegation.choose(host, mount, real_root=False) == own
    # A leaf that happens to be called host, below something that was not given to us
    assert delegation.choose(host, mount, real_root=True) == mount


def test_the_root_of_a_container_is_divided_only_where_it_is_one(tmp_path: Path) -> None:
    mount = _tree(tmp_path / "cgroup", "cpu memory pids")
    (mount / "cgroup.events").write_text("populated 1\n")
    assert delegation.choose(mount, mount, real_root=True) == mount
    own = _tree(mount / "someone", "cpu memory pids")
    with pytest.raises(UnsupportedError, match="not delegated"):
        delegation.choose(own, mount, real_root=True)


def test_a_missing_controller_is_named(tmp_path: Path) -> None:
    base = _tree(tmp_path / "base", "cpuset memory pids")
    with pytest.raises(UnsupportedError, match="has no cpu controller"):
        delegation.divide(base)


def test_a_cgroup_that_can_not_be_emptied_is_refused(tmp_path: Path) -> None:
    base = _tree(tmp_path / "base", "cpu memory pids")
    (base / "cgroup.events").write_text("populated 1\n")
    (base / "cgroup.procs").write_text("4242\n")
    with pytest.raises(UnsupportedError, match=r"can't be emptied into host: pid 4242"):
        delegation.divide(base)


def test_a_named_v2_cgroup_is_relative_to_the_mount_and_can_not_climb() -> None:
    mount = Path("/sys/fs/cgroup")
    assert v2.named("/given", mount) == mount / "given"
    assert v2.named("/sys/fs/cgroup/given", mount) == mount / "given"
    with pytest.raises(UnsupportedError):
        v2.named("/sys/fs/cgroup/../../etc", mount)
