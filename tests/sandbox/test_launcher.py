"""The launcher as a process: ends, crashes, crowds, and requests that must not wait for each other."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import msgspec
import pytest

from bridgehold.errors import BusyError, DependencyError, HostUnavailableError, NotFoundError, UsageError
from bridgehold.sandbox.launcher import requests
from bridgehold.sandbox.launcher.control import LauncherClient
from bridgehold.sandbox.values import Launched
from sandbox.launcher_support import (
    KINDS,
    MIB,
    Machine,
    account,
    close,
    kernel_uid,
    machine,
    python_spec,
    read_line,
    run_inside,
    start,
)
from waiting import eventually, until

WAIT = "import time; print('up', flush=True); time.sleep(120)"


async def up(client: LauncherClient, code: str = WAIT, **changes: object) -> tuple[Launched, list[int]]:
    launched, ends = await client.launch(python_spec(code, **changes))
    assert await read_line(ends[1]) == "up\n"
    return launched, ends


def alive(uid: int) -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if entry.stat().st_uid == uid:
                    found.append((entry / "comm").read_text().strip())
    return found


def gone(uid: int) -> bool:
    return until(lambda: not alive(uid))


DAEMONS = """
import os, signal, time
for number in range(1, 32):
    if number not in (9, 17, 19): signal.signal(number, signal.SIG_IGN)
for _ in range(10):
    if os.fork() == 0:
        os.setsid()
        if os.fork(): os._exit(0)
        time.sleep(120)
if os.fork() == 0: os.kill(os.getpid(), signal.SIGSTOP)
print('up', flush=True)
time.sleep(120)
"""


@pytest.mark.hostile
@pytest.mark.parametrize("kind", KINDS)
def test_sigkill_of_the_launcher_leaves_nothing_and_the_next_one_sweeps(kind: str) -> None:
    with machine(kind) as box:

        async def act(client: LauncherClient) -> tuple[list[int], str]:
            held = [await up(client, DAEMONS) for _ in range(3)]
            uids = [kernel_uid(launched) for launched, _ in held]
            assert all(len(alive(uid)) >= 13 for uid in uids)
            cgroup = (await client.attest(held[0][0].worker)).cgroup
            box.process.kill()
            box.process.wait()
            for _, ends in held:
                close(ends)
            return uids, cgroup

        uids, cgroup = box.drive(act)
        assert all(gone(uid) for uid in uids)
        parent = Path(cgroup).parent.parent
        again, control = start(box.config, account() if kind == "user" else None)
        second = Machine(kind, box.folder, box.config, again, control)
        second.drive(lambda client: client.machine())
        until(lambda: not parent.exists())  # another host's launcher may be sweeping it
        control.close()
        assert again.wait(30) == 0


@pytest.mark.hostile
@pytest.mark.parametrize("kind", KINDS)
def test_eof_on_the_control_socket_ends_everything_in_order(kind: str) -> None:
    with machine(kind) as box:

        async def act(client: LauncherClient) -> tuple[list[int], str]:
            held = [await up(client, DAEMONS) for _ in range(2)]
            cgroup = (await client.attest(held[0][0].worker)).cgroup
            uids = [kernel_uid(launched) for launched, _ in held]
            for _, ends in held:
                close(ends)
            return uids, cgroup

        uids, cgroup = box.drive(act)
        assert all(alive(uid) for uid in uids)
        box.control.close()
        assert box.process.wait(30) == 0
        assert all(alive(uid) == [] for uid in uids)
        assert not Path(cgroup).exists()
        assert not Path(cgroup).parent.parent.exists()


@pytest.mark.hostile
def test_a_request_that_is_none_ends_the_launcher_and_all_with_it() -> None:
    with machine(KINDS[0]) as box:

        async def act(client: LauncherClient) -> int:
            launched, ends = await up(client)
            close(ends)
            return kernel_uid(launched)

        uid = box.drive(act)
        box.control.send(b'{"type":"launch","id":1,"spec":{"argv":"no"}}')
        assert box.process.wait(30) == 0
        assert gone(uid)


@pytest.mark.hostile
def test_daemons_orphans_and_the_stopped_end_with_the_kill(box: Machine) -> None:
    async def act(client: LauncherClient) -> None:
        launched, ends = await up(client, DAEMONS)
        uid = kernel_uid(launched)
        assert len(alive(uid)) >= 13
        report = await client.kill(launched.worker)
        assert alive(uid) == []
        assert report.cause == "killed"
        assert await client.kill(launched.worker) == report
        assert await client.exited(launched.worker) == report
        close(ends)

    box.drive(act)


@pytest.mark.hostile
def test_the_first_process_ends_and_takes_its_daemons_along(box: Machine) -> None:
    async def act(client: LauncherClient) -> None:
        code = DAEMONS.removesuffix("time.sleep(120)\n") + "os._exit(7)"
        launched, ends = await client.launch(python_spec(code))
        report = await client.exited(launched.worker)
        assert (report.cause, report.status) == ("exited", 7)
        close(ends)

    box.drive(act)


@pytest.mark.parametrize(
    ("code", "cause", "status"),
    [
        ("pass", "exited", 0),
        ("import sys; sys.exit(3)", "exited", 3),
        ("import os; os.abort()", "signal", 6),
        ("import ctypes; ctypes.string_at(0)", "signal", 11),
        ("import os; os.kill(os.getpid(), 9)", "signal", 9),
    ],
)
def test_the_cause_of_an_end_is_the_kernels(box: Machine, code: str, cause: str, status: int) -> None:
    out, report = box.python(code)
    assert (report.cause, report.status) == (cause, status), out


@pytest.mark.hostile
def test_memory_is_named_and_the_sibling_lives(box: Machine) -> None:
    bomb = """
    import os
    pid = os.fork()  # a child's death is the session's: the cap is for their sum
    held = []
    while pid == 0: held.append(bytearray(4 << 20))
    os.waitpid(pid, 0)
    import time; time.sleep(60)
    """

    async def act(client: LauncherClient) -> None:
        sibling, ends = await up(client)
        out, report = await run_inside(client, python_spec(bomb, limits={"memory_bytes": 96 * MIB}))
        assert report.cause == "memory", out
        assert report.usage.oom_kills >= 1
        assert report.usage.memory_peak_bytes <= 97 * MIB
        assert (await client.usage(sibling.worker)).oom_kills == 0
        assert (await client.kill(sibling.worker)).cause == "killed"
        close(ends)

    box.drive(act)


def test_launches_at_once_each_get_their_own(box: Machine) -> None:
    async def act(client: LauncherClient) -> None:
        async def one(number: int) -> None:
            out, report = await run_inside(client, python_spec(f"print({number})"))
            assert out == f"{number}\n"
            assert report.status == 0

        await asyncio.gather(*(one(number) for number in range(24)))

    box.drive(act)


def test_a_caller_that_goes_away_leaves_no_worker(box: Machine) -> None:
    async def act(client: LauncherClient) -> None:
        tasks = [asyncio.create_task(client.launch(python_spec(WAIT))) for _ in range(6)]
        for index, task in enumerate(tasks):
            await asyncio.sleep(0.001 * index)
            task.cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        for answer in done:
            if isinstance(answer, tuple):
                await client.kill(answer[0].worker)
                close(answer[1])
        # All of the machine's memory is free again: nothing is still promised to anybody.
        most = (await client.machine()).memory_bytes
        whole = python_spec("pass", limits={"memory_bytes": most // 4096 * 4096})

        async def free() -> tuple[Launched, list[int]] | None:  # for as long as their end takes
            with contextlib.suppress(BusyError):
                return await client.launch(whole)
            return None

        launched, ends = await eventually(free) or pytest.fail("never")
        await client.exited(launched.worker)
        close(ends)

    before = set(os.listdir("/proc/self/fd"))
    box.drive(act)
    assert set(os.listdir("/proc/self/fd")) == before


def test_a_request_too_large_is_refused_before_it_is_sent(box: Machine) -> None:
    async def act(client: LauncherClient) -> None:
        with pytest.raises(UsageError):
            await client.launch(python_spec("x" * 200_000))
        with pytest.raises(NotFoundError):
            await client.kill("w-nobody")
        await client.machine()

    box.drive(act)


def test_a_lost_launcher_fails_what_waits() -> None:
    with machine(KINDS[-1]) as box:

        async def act(client: LauncherClient) -> None:
            launched, ends = await up(client)
            waiting = asyncio.create_task(client.exited(launched.worker))
            await asyncio.sleep(0)
            box.process.kill()
            with pytest.raises(HostUnavailableError):
                await waiting
            with pytest.raises(HostUnavailableError):
                await client.machine()
            close(ends)

        box.drive(act)


def test_a_host_that_does_not_read_holds_up_nobodys_end() -> None:
    """Answers queue; the exit of a worker is still seen, and EOF still ends all."""
    with machine(KINDS[0]) as box:
        box.control.setblocking(False)
        sent = 0
        with contextlib.suppress(BlockingIOError):
            for sent in range(100_000):
                box.control.send(msgspec.json.encode(requests.MachineRequest(sent + 1)))
        assert sent > 100
        box.control.close()
        assert box.process.wait(30) == 0


INSTALL = """
import os
import subprocess
import sys
import textwrap
os.makedirs("/env/lib/pkg")
open("/env/lib/pkg/a.py", "w").write("a = 1\\n")
open("/env/lib/pkg/run", "w").write("x"); os.chmod("/env/lib/pkg/run", 0o777)
os.mkdir("/env/bin"); os.symlink("/usr/bin/python3", "/env/bin/python"); os.symlink("python", "/env/bin/python3")
"""


def lay_down(box: Machine, name: str, code: str) -> str:
    """A build folder as `code` leaves it, which is ours and runs as the host's user."""
    build = box.builds / name
    build.mkdir()
    os.chown(build, box.owner, box.owner)
    code = textwrap.dedent(code).replace("/env", str(build))
    identity = {"user": box.owner, "group": box.owner, "extra_groups": []} if os.getuid() == 0 else {}
    subprocess.run([sys.executable, "-I", "-c", code], check=True, cwd="/", timeout=30, **identity)
    return str(build)


def test_sealing_gives_an_owned_read_only_tree_and_a_stable_digest(box: Machine) -> None:
    async def act(client: LauncherClient) -> None:
        one = await client.seal(lay_down(box, "one", INSTALL))
        two = await client.seal(lay_down(box, "two", INSTALL))
        three = await client.seal(lay_down(box, "three", INSTALL.replace("a = 1", "a = 2")))
        assert one.digest == two.digest != three.digest
        assert (one.files, one.bytes) == (7, 7)
        for path in (Path(one.path), *Path(one.path).rglob("*")):
            assert path.lstat().st_uid == box.owner
            assert path.is_symlink() or path.stat().st_mode & 0o222 == 0
        assert Path(one.path, "lib/pkg/run").stat().st_mode & 0o777 == 0o555
        assert Path(one.path, "lib/pkg/a.py").stat().st_mode & 0o777 == 0o444

    box.drive(act)


@pytest.mark.hostile
@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("link", "import os; os.symlink('OUTSIDE/file', '/env/x')"),
        ("linked-folder", "import os; os.symlink('OUTSIDE', '/env/lib')"),
        ("interpreter", "import os; os.mkdir('/env/bin'); os.symlink('/tmp/evil', '/env/bin/python')"),
        ("hard-link", "import os; open('/env/a', 'w'); os.link('/env/a', '/env/b')"),
        ("fifo", "import os; os.mkfifo('/env/fifo')"),
        ("socket", "import os, socket; os.chdir('/env'); socket.socket(socket.AF_UNIX).bind('s')"),
        (
            "deep",
            "import os\nfor _ in range(200): os.mkdir('/env/d') if 0 else os.mkdir('d') if _ else os.chdir('/env'); os.chdir('d') if _ else 0",
        ),
    ],
)
def test_a_tree_with_more_than_files_and_folders_is_refused(
    box: Machine, tmp_path: Path, name: str, code: str
) -> None:
    outside = tmp_path / "file"
    outside.write_text("of the machine's\n")
    before = outside.stat()

    async def act(client: LauncherClient) -> None:
        build = lay_down(box, f"bad-{name}", code.replace("OUTSIDE", str(tmp_path)))
        with pytest.raises(DependencyError):
            await client.seal(build)

    box.drive(act)
    after = outside.stat()
    assert (before.st_uid, before.st_mode, before.st_ctime_ns) == (
        after.st_uid,
        after.st_mode,
        after.st_ctime_ns,
    )


def test_sealing_waits_for_nobody_and_nobody_waits_for_it(box: Machine) -> None:
    """While a large tree is hashed, another session's requests are answered."""
    big = """
    for n in range(60):
        with open(f"/env/{n}", "wb") as file: file.write(bytes(1 << 20) * 2)
    """

    async def act(client: LauncherClient) -> None:
        launched, ends = await up(client)
        build = lay_down(box, "big", big)
        sealing = asyncio.create_task(client.seal(build))
        answered = 0
        while not sealing.done():
            await client.usage(launched.worker)
            answered += 1
        assert (await sealing).bytes == 60 * 2 * MIB
        assert answered >= 3
        await client.kill(launched.worker)
        close(ends)

    box.drive(act)


def test_the_control_socket_is_not_inherited_by_a_sandbox(box: Machine) -> None:
    out, _ = box.python(
        "import os; print([os.readlink(f'/proc/1/fd/{n}') for n in os.listdir('/proc/1/fd')])"
    )
    assert "socket" not in out


def test_launch_phases_are_told(box: Machine) -> None:
    async def act(client: LauncherClient) -> dict[str, int]:
        launched, ends = await client.launch(python_spec("pass", gateway_port=8080))
        await client.exited(launched.worker)
        close(ends)
        return launched.phases_us

    phases = box.drive(act)
    assert set(phases) == {"cgroup", "stage", "fork", "enter", "bwrap", "listener", "record"}
    assert all(value >= 0 for value in phases.values())
