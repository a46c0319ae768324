"""Attestation: every single difference is seen, and a worker with one dies."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bridgehold.errors import AttestationError, BusyError, NotFoundError
from bridgehold.sandbox import procfs
from bridgehold.sandbox.attest.observe import (
    NAMESPACES,
    Expected,
    MountExpected,
    Observed,
    compare,
    expected_mounts,
    observe_all,
    parse_limits,
)
from bridgehold.sandbox.launch.mounts import Identity, MountSeen, parse_mounts, unescape
from bridgehold.sandbox.launcher.control import LauncherClient
from bridgehold.sandbox.limits.rlimits import rlimits, shown_rlimits
from sandbox.launcher_support import (
    MIB,
    Machine,
    close,
    kernel_uid,
    of_uid,
    python_spec,
    read_line,
    resources,
    sandboxed,
)
from waiting import until

OWN = dict.fromkeys(NAMESPACES, 1)
INSIDE = {name: 100 + index for index, name in enumerate(NAMESPACES)}
ENV = Identity("254:0", "/envs/abc", sealed=True)
RO, RW = ("nodev", "nosuid", "ro"), ("nodev", "nosuid", "rw")
MOUNTS = {
    "/": MountSeen(options=RO, kind="tmpfs", identity=Identity("0:40", "/newroot")),
    "/env": MountSeen(options=RO, kind="ext4", identity=ENV),
    "/scratch": MountSeen(options=RW, kind="tmpfs", identity=Identity("0:44", "/")),
    "/dev/null": MountSeen(options=("nosuid", "rw"), kind="devtmpfs", identity=Identity("0:6", "/null")),
}
EXPECTED = Expected(
    uid=5000,
    gid=5000,
    net=INSIDE["net"],
    monitor=10,
    init=11,
    init_start=900,
    parent=11,
    own_namespaces=OWN,
    rlimits={"Max open files": 64},
    mounts={
        "/": MountExpected(writable=False, kind="tmpfs"),
        "/env": MountExpected(writable=False, identity=ENV),
        "/scratch": MountExpected(writable=True, kind="tmpfs", identity=Identity("0:44", "/")),
    },
)


def process(pid: int, parent: int, **changes: Any) -> Observed:
    base: dict[str, Any] = {
        "pid": pid,
        "start_time": 889 + pid,
        "parent": parent,
        "uids": (5000,) * 4,
        "gids": (5000,) * 4,
        "groups": (),
        "capabilities": ("0" * 16,) * 5,
        "no_new_privs": True,
        "seccomp_mode": 2,
        "namespaces": INSIDE,
        "mounts": MOUNTS,
        "in_cgroup": True,
        "rlimits": {"Max open files": 64},
    }
    return Observed(**(base | changes))


MONITOR = process(
    10, 1, seccomp_mode=0, namespaces=OWN, mounts={}, capabilities=("0" * 16,) * 3 + ("f" * 16, "0" * 16)
)
INIT = process(11, 10)
GUEST = process(12, 11)


def with_mount(target: str, **changes: Any) -> dict[str, MountSeen]:
    seen = MOUNTS.get(target, MOUNTS["/env"])
    return MOUNTS | {target: msgspec.structs.replace(seen, **changes)}


def test_a_sound_worker_is_green() -> None:
    assert compare(EXPECTED, [MONITOR, INIT, GUEST]) == ()


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "real uid": ({"uids": (0, 5000, 5000, 5000)}, "uids"),
    "saved uid": ({"uids": (5000, 5000, 0, 5000)}, "uids"),
    "file-system gid": ({"gids": (5000, 5000, 5000, 0)}, "gids"),
    "a group of root's": ({"groups": (0,)}, "groups"),
    **{
        f"capability set {index}": (
            {"capabilities": tuple("0" * 15 + ("1" if i == index else "0") for i in range(5))},
            "capabilities",
        )
        for index in range(5)
    },
    "no_new_privs": ({"no_new_privs": False}, "no_new_privs"),
    "no filter": ({"seccomp_mode": 0}, "seccomp"),
    **{f"the launcher's {n} namespace": ({"namespaces": INSIDE | {n: 1}}, n) for n in NAMESPACES},
    **{f"another {n} namespace": ({"namespaces": INSIDE | {n: 7}}, n) for n in NAMESPACES},
    "a limit that was raised": ({"rlimits": {"Max open files": 65}}, "max open files"),
    "a limit that was lifted": ({"rlimits": {}}, "unlimited"),
    "outside the cgroup": ({"in_cgroup": False}, "cgroup"),
    "a writable environment": ({"mounts": with_mount("/env", options=RW)}, "/env is writable"),
    "a writable root": ({"mounts": with_mount("/", options=RW)}, "/ is writable"),
    "setuid files": ({"mounts": with_mount("/env", options=("nodev", "ro"))}, "nosuid"),
    "device files": ({"mounts": with_mount("/scratch", options=("nosuid", "rw"))}, "nodev"),
    "an /env that can be written through": (
        {"mounts": with_mount("/env", identity=Identity("254:0", "/envs/abc"))},
        "staged",
    ),
    "an /env that follows the machine's": ({"mounts": with_mount("/env", follows=True)}, "follows"),
    "another folder at /env": ({"mounts": with_mount("/env", identity=Identity("254:0", "/x"))}, "staged"),
    "another disk at /env": ({"mounts": with_mount("/env", identity=Identity("8:1", "/envs/abc"))}, "staged"),
    "the disk as scratch": ({"mounts": with_mount("/scratch", kind="ext4")}, "not tmpfs"),
    "a mount too many": ({"mounts": with_mount("/host")}, "/host"),
    "a disk as device": ({"mounts": with_mount("/dev/null", kind="ext4")}, "/dev/null"),
    "a device too many": ({"mounts": with_mount("/dev/sda")}, "/dev/sda"),
    "a part of /proc uncovered for writing": ({"mounts": with_mount("/proc/sys", options=RW)}, "/proc/sys"),
    "a mount too few": ({"mounts": {t: m for t, m in MOUNTS.items() if t != "/env"}}, "no mount at /env"),
}


@pytest.mark.parametrize("what", FAULTS)
@pytest.mark.parametrize("who", ["guest", "a later process", "init"])
def test_each_difference_is_seen_in_each_process(what: str, who: str) -> None:
    changes, word = FAULTS[what]
    seen = {
        "guest": [MONITOR, INIT, process(12, 11, **changes)],
        "a later process": [MONITOR, INIT, GUEST, process(13, 12, **changes)],
        "init": [MONITOR, process(11, 10, **changes), GUEST],
    }[who]
    differences = compare(EXPECTED, seen)
    assert any(word in difference for difference in differences), differences


def test_the_monitor_is_judged_by_what_it_can_be() -> None:
    for changes in ({"uids": (0,) * 4}, {"capabilities": ("0" * 15 + "1",) * 5}, {"no_new_privs": False}):
        monitor = msgspec.structs.replace(MONITOR, **changes)
        assert compare(EXPECTED, [monitor, INIT, GUEST])


FORKED = msgspec.structs.replace(
    EXPECTED, monitor=0, parent=9, zygote_namespaces=dict.fromkeys(NAMESPACES, 50)
)


def test_a_fork_is_its_zygotes_inits_child() -> None:
    init, worker = process(11, 8), process(12, 9)
    assert compare(FORKED, [init, worker]) == ()
    assert "no worker process" in compare(FORKED, [init, process(12, 11)])[0]


@pytest.mark.parametrize("name", NAMESPACES)
def test_a_fork_that_stayed_in_a_namespace_of_its_zygote(name: str) -> None:
    worker = process(12, 9, namespaces=INSIDE | {name: 50})
    assert any("with its zygote" in d for d in compare(FORKED, [process(11, 8), worker]))


def test_a_zygote_is_alone_and_has_one_thread() -> None:
    zygote = msgspec.structs.replace(EXPECTED, only=3)
    assert compare(zygote, [MONITOR, INIT, GUEST]) == ()
    assert "4 processes, not 3" in compare(zygote, [MONITOR, INIT, GUEST, process(13, 12)])
    assert any("2 threads" in d for d in compare(zygote, [MONITOR, INIT, process(12, 11, threads=2)]))


def test_limits_as_the_kernel_prints_them() -> None:
    shown = parse_limits(Path("/proc/self/limits").read_text())
    assert shown["Max open files"] == resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    assert set(shown_rlimits(rlimits(resources(), as_limit=True))) <= {*shown, *unlimited()}


def unlimited() -> set[str]:
    lines = Path("/proc/self/limits").read_text().splitlines()[1:]
    return {line[:26].strip() for line in lines if line[26:].split()[1] == "unlimited"}


def test_processes_that_come_and_go_are_refused() -> None:
    """A chain in which each forks the next and ends is never seen, and so never green."""
    numbers = iter(range(1 << 30, (1 << 30) + 1000))
    seen, differences = observe_all(lambda: {next(numbers)}, OUTSIDE, most=64)
    assert seen == []
    assert "come and go" in differences[0]


def test_a_process_that_ended_is_no_difference() -> None:
    seen, differences = observe_all(lambda: {os.getpid(), 1 << 30}, OUTSIDE, most=64)
    assert [process.pid for process in seen] == [os.getpid()]
    assert differences == ()


def test_a_process_that_ends_while_it_is_looked_at_is_no_difference() -> None:
    """v1 says of one that is ending that it is in the topmost cgroup."""
    child = subprocess.Popen(["sleep", "60"])

    class Ends:
        def holds(self, pid: int) -> bool:
            os.kill(pid, signal.SIGKILL)
            until(lambda: procfs.stat(pid)[0] == "Z")
            return False

    ends: Any = Ends()
    seen, differences = observe_all(lambda: {child.pid}, ends, most=64)
    child.wait()
    assert (seen, differences) == ([], ())


def test_a_process_whose_first_thread_alone_has_ended_is_not_passed_over() -> None:
    code = "import ctypes, threading, time; threading.Thread(target=time.sleep, args=(60,)).start(); "
    code += "ctypes.CDLL(None).pthread_exit(0)"
    child = subprocess.Popen([sys.executable, "-c", code])
    until(lambda: procfs.stat(child.pid)[0] == "Z")
    seen, differences = observe_all(lambda: {child.pid}, OUTSIDE, most=64)
    child.kill()
    child.wait()
    assert seen == []
    assert "come and go" in differences[0]


MANY_THREADS = """
import threading, time
threading.stack_size(65536)
for _ in range(600):
    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
print("up", flush=True)
time.sleep(60)
"""


def test_threads_without_end_are_refused_unread(box: Machine) -> None:
    async def act(client: LauncherClient) -> None:
        spec = python_spec(MANY_THREADS, limits={"processes": 700, "memory_bytes": 512 * MIB})
        many, ends = await client.launch(spec)
        assert await read_line(ends[1]) == "up\n"
        with pytest.raises(AttestationError, match="threads"):
            await client.attest(many.worker)
        close(ends)

    box.drive(act)


class Outside:
    """A cgroup that holds nobody."""

    def holds(self, _: int) -> bool:
        return False


OUTSIDE: Any = Outside()


def test_no_worker_another_init_or_no_init() -> None:
    assert "no worker process" in compare(EXPECTED, [MONITOR, INIT])[0]
    assert compare(EXPECTED, [MONITOR, process(11, 10, start_time=901), GUEST])
    assert compare(EXPECTED, [MONITOR, GUEST])


def test_mountinfo_is_read_as_the_kernel_writes_it() -> None:
    text = (
        r"36 35 98:0 /a\040b /mnt\040x rw,nosuid shared:1 master:2 - ext4 /dev/root rw,errors=continue"
        "\n37 35 0:5 / /mnt\\040x ro - tmpfs tmpfs rw\n"
    )
    seen = parse_mounts(text)
    assert seen == {
        "/mnt x": MountSeen(options=("ro",), kind="tmpfs", identity=Identity("0:5", "/"), number=37)
    }
    for name in ("a\x0cb", "a\u2028b", "a\x85b", "a\x1c"):  # line feeds alone are escaped
        assert set(
            parse_mounts(f"1 0 8:1 /{name} /{name} ro - ext4 d rw\n2 1 0:9 / /y rw - tmpfs t rw\n")
        ) == {
            f"/{name}",
            "/y",
        }
    text = "1 0 8:1 /a /x ro,idmapped - ext4 d rw\n2 1 0:9 /b\\040c /y rw master:3 - tmpfs t rw\n"
    seen = parse_mounts(text)
    assert seen["/x"].identity == Identity("8:1", "/a", sealed=True)
    assert not seen["/x"].follows
    assert seen["/y"].identity == Identity("0:9", "/b c")
    assert seen["/y"].follows
    assert unescape(r"a\040b\011c\134d") == "a b\tc\\d"


def test_expected_mounts_take_their_identity_from_the_stage() -> None:
    spec = python_spec("")
    wanted = expected_mounts(spec, {"/usr": ENV})
    assert wanted["/usr"] == MountExpected(writable=False, identity=ENV)
    below = expected_mounts(spec, {"/usr": ENV, "/usr/local": ENV})["/usr/local"]
    assert below == MountExpected(writable=False, identity=ENV)  # it was there when /usr was staged
    assert wanted["/scratch"].writable
    assert not wanted["/dev"].writable
    assert "/bin" not in wanted  # a link is no mount


WAIT = "import time; print('up', flush=True); time.sleep(60)"


def test_what_was_proved_is_proved_again_in_a_twentieth_of_the_loop(box: Machine) -> None:
    """Who asks for it all the time holds up nobody else's requests, and gets each answer that it waits for."""

    async def act(client: LauncherClient) -> None:
        launched, ends = await client.launch(python_spec(WAIT))
        await read_line(ends[1])
        proof = await client.attest(launched.worker)
        assert await client.attest(launched.worker) == proof
        asked = [client.attest(launched.worker) for _ in range(6)]
        found = await asyncio.gather(*asked, return_exceptions=True)
        busy = [one for one in found if isinstance(one, BusyError)]
        assert busy
        assert all(one == proof for one in found if one not in busy)
        assert len(busy) < 6
        assert await client.attest(launched.worker) == proof
        await client.kill(launched.worker)

    box.drive(act)


def test_a_real_worker_is_green_and_the_facts_are_its_own(box: Machine) -> None:
    async def act(client: LauncherClient) -> None:
        launched, ends = await client.launch(python_spec(WAIT, gateway_port=8080))
        await read_line(ends[1])
        proof = await client.attest(launched.worker)
        again = await client.attest(launched.worker)
        second, other = await client.launch(python_spec(WAIT, gateway_port=8080))
        await read_line(other[1])
        sibling = await client.attest(second.worker)
        assert proof == again
        assert proof.differences == ()
        assert proof.seccomp_mode == 2
        assert proof.no_new_privs
        assert set(proof.capabilities) <= {"0", "/"}
        for name in NAMESPACES:
            assert proof.namespaces[name] != Path(f"/proc/self/ns/{name}").stat().st_ino
            assert proof.namespaces[name] != sibling.namespaces[name]
        assert proof.mounts_digest == sibling.mounts_digest
        assert launched.spec_digest == second.spec_digest
        assert proof.uid != sibling.uid
        for worker, descriptors in ((launched, ends), (second, other)):
            await client.kill(worker.worker)
            close(descriptors)
        with pytest.raises(NotFoundError):
            await client.attest(launched.worker)

    box.drive(act)


@pytest.mark.hostile
@pytest.mark.skipif(os.getuid() != 0, reason="only root can put a foreign process into the cgroup")
def test_a_foreign_process_in_the_cgroup_turns_it_red_and_ends_it(box: Machine) -> None:
    intruder = subprocess.Popen(["sleep", "60"], user=box.owner)

    def enter(cgroup: str) -> None:
        """In every hierarchy, as an honest member would be."""
        tail = cgroup.split("/sys/fs/cgroup/", 1)[1]
        hierarchy, _, path = tail.partition("/")
        folders = {Path(cgroup)}
        if hierarchy == "memory":
            session = Path(path).name
            folders |= {
                folder for folder in Path("/sys/fs/cgroup").glob(f"*/**/{session}") if folder.is_dir()
            }
        for folder in folders:
            (folder / "cgroup.procs").write_text(str(intruder.pid))

    async def act(client: LauncherClient) -> None:
        launched, ends = await client.launch(python_spec(WAIT))
        await read_line(ends[1])
        proof = await client.attest(launched.worker)
        uid = kernel_uid(launched)
        enter(proof.cgroup)
        with pytest.raises(AttestationError) as caught:
            await client.attest(launched.worker)
        assert f"pid {intruder.pid}" in caught.value.message
        report = await client.exited(launched.worker)
        assert report.cause == "killed"
        assert of_uid(uid) == []
        close(ends)

    try:
        box.drive(act)
        assert intruder.wait(30) == -9  # whatever sat in the cgroup ended with it
    finally:
        intruder.kill()


@pytest.mark.hostile
def test_a_crowd_before_attestation_is_refused(box: Machine) -> None:
    crowd = """
    import os, time
    for _ in range(80):
        if os.fork() == 0: time.sleep(60)
    print('up', flush=True); time.sleep(60)
    """

    async def act(client: LauncherClient) -> None:
        launched, ends = await client.launch(python_spec(crowd, limits={"processes": 200}))
        await read_line(ends[1])
        with pytest.raises(AttestationError, match="processes before attestation"):
            await client.attest(launched.worker)
        await client.exited(launched.worker)
        assert sandboxed_after(launched) == []
        close(ends)

    box.drive(act)


def sandboxed_after(launched: Any) -> list[int]:
    return [] if not Path(f"/proc/{launched.pid}").exists() else sandboxed(launched)


ENDS = {
    "by its own address space": """
        import resource
        resource.setrlimit(resource.RLIMIT_AS, (64 << 20, 64 << 20))
        print("up", flush=True)
        bytearray(1 << 30)
    """,
    "by a signal of its own": """
        import os
        print("up", flush=True)
        os.kill(os.getpid(), 11)
    """,
    "with many threads": """
        import os, threading, time
        threading.stack_size(65536)
        for _ in range(20):
            threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
        print("up", flush=True)
        os._exit(3)
    """,
    "with children that end one by one": """
        import os
        for _ in range(8):
            if not os.fork():
                os._exit(0)
        print("up", flush=True)
        os._exit(3)
    """,
}


@pytest.mark.hostile
@pytest.mark.parametrize("how", ENDS)
def test_who_ends_by_itself_beside_its_proof_is_sound_or_gone_and_never_unsound(
    box: Machine, how: str
) -> None:
    async def act(client: LauncherClient) -> None:
        for _ in range(3):
            launched, ends = await client.launch(python_spec(ENDS[how]))
            assert await read_line(ends[1]) == "up\n"
            with contextlib.suppress(NotFoundError):
                await client.attest(launched.worker)
            report = await client.exited(launched.worker)
            assert report.cause in ("exited", "signal")
            close(ends)

    box.drive(act)


@pytest.mark.hostile
def test_a_first_thread_that_ended_while_others_go_on_is_no_end(box: Machine) -> None:
    """Nobody can look into what its first thread has left: it is refused, and nothing of it stays."""
    code = """
        import ctypes, threading, time
        threading.Thread(target=time.sleep, args=(60,)).start()
        print("up", flush=True)
        ctypes.CDLL(None).pthread_exit(0)
    """

    async def act(client: LauncherClient) -> None:
        launched, ends = await client.launch(python_spec(code))
        assert await read_line(ends[1]) == "up\n"
        until(lambda: [procfs.stat(pid)[0] for pid in procfs.children(launched.pid)] == ["Z"])
        with pytest.raises(AttestationError):
            await client.attest(launched.worker)
        assert (await client.exited(launched.worker)).cause == "killed"
        assert sandboxed_after(launched) == []
        close(ends)

    box.drive(act)


@pytest.mark.hostile
@pytest.mark.skipif(os.getuid() != 0, reason="only root can stop bubblewrap's outer process")
@pytest.mark.parametrize("late", [False, True])
def test_a_worker_that_is_gone_before_bubblewrap_says_so_has_ended(box: Machine, late: bool) -> None:
    """The moment between a guest's end and its monitor's, held open."""

    async def act(client: LauncherClient) -> None:
        code = "import sys; print('up', flush=True); sys.stdin.read(1); sys.exit(3)"
        launched, ends = await client.launch(python_spec(code))
        assert await read_line(ends[1]) == "up\n"
        monitor = int(procfs.stat(launched.pid)[1])
        os.kill(monitor, signal.SIGSTOP)
        os.write(ends[0], b"x")
        until(lambda: procfs.children(launched.pid) == [])
        proof = asyncio.ensure_future(client.attest(launched.worker))
        await client.usage(launched.worker)  # answered after it was asked for the proof
        if not late:
            os.kill(monitor, signal.SIGCONT)
        with pytest.raises(NotFoundError, match="has ended"):
            await proof
        report = await client.exited(launched.worker)
        assert (report.cause, report.status) == (("signal", 9) if late else ("exited", 3))
        close(ends)

    box.drive(act)
