"""What a sandbox can't touch, tried from inside real ones."""

from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path

import pytest

from bridgehold.sandbox.launcher.control import LauncherClient
from bridgehold.sandbox.values import Mount
from sandbox.launcher_support import (
    MIB,
    Machine,
    close,
    kernel_uid,
    python_spec,
    read_all,
    read_line,
    run_inside,
)

pytestmark = pytest.mark.hostile


def shared_folder(box: Machine, name: str) -> Path:
    """A folder in the home of mode 0700, readable itself, owned by whom the launcher runs for."""
    folder = box.home / name
    folder.mkdir(exist_ok=True)
    folder.chmod(0o755)
    os.chown(folder, box.owner, box.owner)
    return folder


def test_a_source_in_a_closed_home_is_readable_and_nothing_beside_it(box: Machine) -> None:
    folder = shared_folder(box, "bridge")
    (folder / "code.py").write_text("print('from the bridge')\n")
    (folder / "code.py").chmod(0o644)
    (box.home / "diary").write_text("secret")
    assert box.home.stat().st_mode & 0o777 == 0o700
    out, report = box.python(
        f"""
        import os
        exec(open("/bridge/code.py").read())
        for path in ({str(box.home)!r}, {str(box.home / "diary")!r}, "/bridge/../diary", "/mnt", "/root", "/home"):
            try:
                print(path, "SEEN", os.listdir(path) if os.path.isdir(path) else open(path).read())
            except OSError as error:
                print(path, error.errno)
        """,
        mounts=(Mount(kind="ro_bind", source=str(folder), target="/bridge"),),
    )
    assert "from the bridge" in out, out
    assert "SEEN" not in out
    assert report.status == 0


def test_a_file_of_roots_in_a_bound_folder_stays_closed(box: Machine) -> None:
    folder = shared_folder(box, "mixed")
    for name, mode in (("closed", 0o600), ("group", 0o640)):
        (folder / name).write_text("secret")
        os.chown(folder / name, box.owner, 0 if os.getuid() == 0 else -1)
        (folder / name).chmod(mode)
    out, _ = box.python(
        """
        for name in ("closed", "group"):
            try:
                print("READ", open("/bridge/" + name).read())
            except PermissionError:
                print("refused")
        """,
        mounts=(Mount(kind="ro_bind", source=str(folder), target="/bridge"),),
    )
    assert out.split() == ["refused", "refused"]


def test_every_session_has_a_kernel_uid_of_its_own(box: Machine) -> None:
    async def act(client: LauncherClient) -> None:
        held = [await client.launch(python_spec("import time; time.sleep(60)")) for _ in range(3)]
        uids = {kernel_uid(launched) for launched, _ in held}
        assert len(uids) == 3
        assert not uids & {0, os.getuid(), box.owner}
        for launched, ends in held:
            await client.kill(launched.worker)
            close(ends)

    box.drive(act)


def test_no_capability_and_no_way_to_one(box: Machine) -> None:
    out, _ = box.python(
        """
        import os, subprocess
        for line in open("/proc/self/status"):
            if line[:3] in ("Cap", "NoN"): print(line.strip())
        for name, act in (("setuid", lambda: os.setuid(0)), ("chown", lambda: os.chown("/scratch", 0, 0)),
                          ("mknod", lambda: os.mknod("/scratch/d", 0o20666, os.makedev(1, 3))),
                          ("nice", lambda: os.nice(-5))):
            try:
                act(); print(name, "DONE")
            except OSError as error:
                print(name, "refused")
        for path in ("/usr/bin/su", "/usr/bin/mount", "/usr/bin/newuidmap"):
            if os.path.exists(path):
                print(subprocess.run(["/usr/bin/python3", "-c", "import os; print('euid', os.geteuid() == 0)"],
                      capture_output=True, text=True).stdout.strip())
        print(open("/proc/sys/user/max_user_namespaces").read() if 0 else "end")
        """
    )
    caps = [line.split()[1] for line in out.splitlines() if line.startswith("Cap")]
    assert caps == ["0" * 16] * 5
    assert "NoNewPrivs:\t1" in out
    assert "DONE" not in out
    assert "euid True" not in out


def test_what_is_read_only_stays_so(box: Machine) -> None:
    folder = shared_folder(box, "env")
    (folder / "file").write_text("x")
    (folder / "file").chmod(0o666)
    folder.chmod(0o777)
    out, _ = box.python(
        """
        import errno
        for path in ("/x", "/dev/x", "/dev/null2", "/env/x", "/env/file", "/usr/x", "/etc/x", "/etc/passwd", "/proc/sys/kernel/hostname"):
            try:
                open(path, "a").close(); print(path, "WRITTEN")
            except OSError as error:
                print(path, errno.errorcode[error.errno])
        for path in ("/scratch/x", "/tmp/x", "/dev/shm/x", "/dev/null"):
            open(path, "w").write("y")
        print("own places work")
        """,
        mounts=(Mount(kind="ro_bind", source=str(folder), target="/env"),),
    )
    assert "WRITTEN" not in out, out
    assert "own places work" in out, out
    assert sorted(entry.name for entry in folder.iterdir()) == ["file"]


def test_a_full_tmpfs_and_a_million_files_end_in_enospc(box: Machine) -> None:
    out, report = box.python(
        """
        import errno, os
        for folder in ("/scratch", "/tmp", "/dev/shm"):
            made = 0
            try:
                for made in range(1_000_000):
                    os.mknod(f"{folder}/{made}")
            except OSError as error:
                print(folder, made, errno.errorcode[error.errno])
            for n in range(made): os.unlink(f"{folder}/{n}")
            written = 0
            try:
                with open(folder + "/fill", "wb", buffering=0) as file:
                    while True: written += file.write(b"x" * 65536)
            except OSError as error:
                print(folder, written, errno.errorcode[error.errno])
            os.unlink(folder + "/fill")
        """,
        limits={"memory_bytes": 256 * MIB},
    )
    rows = [line.split() for line in out.splitlines()]
    assert [row[2] for row in rows] == ["ENOSPC"] * 6, (out, report)
    assert all(int(row[1]) <= 5000 for row in rows[::2])
    assert all(int(row[1]) <= 16 * MIB for row in rows[1::2])


def test_other_processes_and_sockets_of_the_machine_are_not_there(box: Machine) -> None:
    probe = subprocess.Popen(["sleep", "60"], env={"MARK": "of-the-host"})
    try:
        out, _ = box.python(
            f"""
            import os, socket
            print(sorted(p for p in os.listdir("/proc") if p.isdigit()))
            for act in (lambda: os.kill({probe.pid}, 9), lambda: os.kill(-1, 0) or os.kill(1, 0)):
                try: act()
                except OSError as error: print(type(error).__name__)
            print(os.path.exists("/sys/fs/cgroup"), os.path.exists("/run"), os.path.exists("/var"))
            print([line.split()[-1] for line in open("/proc/net/unix")][1:])
            print(socket.if_nameindex() if 0 else open("/proc/net/dev").read().count(":"))
            for address in (("192.0.2.1", 80), ("169.254.169.254", 80), ("127.0.0.1", 9)):
                try:
                    socket.create_connection(address, timeout=2); print("CONNECTED")
                except OSError as error: print(address[0], error.errno)
            """
        )
        assert probe.poll() is None
    finally:
        probe.kill()
        probe.wait()
    lines = out.splitlines()
    assert lines[0] == "['1', '2']"
    assert lines[1] == "ProcessLookupError"
    assert "False False False" in out
    assert "[]" in out
    assert "CONNECTED" not in out
    assert "192.0.2.1 101" in out  # ENETUNREACH


def test_the_guest_reaches_the_gateway_and_never_holds_its_listener(box: Machine) -> None:
    code = """
    import os, socket, sys
    kinds = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}")]
    kinds += [os.readlink(f"/proc/1/fd/{fd}") for fd in os.listdir("/proc/1/fd")]
    print("sockets", sum(k.startswith("socket") for k in kinds), sorted({k.split(":")[0] for k in kinds}))
    try:
        socket.create_server(("127.0.0.1", 8080)); print("TAKEN")
    except OSError as error: print("bind", error.errno)
    with socket.create_connection(("127.0.0.1", 8080), timeout=5) as s:
        s.sendall(b"hello"); print("reply", s.recv(10))
    sys.stdout.flush()
    """

    async def act(client: LauncherClient) -> None:
        launched, ends = await client.launch(python_spec(code, gateway_port=8080))
        assert len(ends) == launched.descriptors == 4
        import socket

        with socket.socket(fileno=ends[3]) as listener:
            assert listener.getsockname() == ("127.0.0.1", 8080)
            listener.settimeout(5)
            connection, peer = await asyncio.to_thread(listener.accept)
            assert peer[0] == "127.0.0.1"
            connection.settimeout(5)
            assert await asyncio.to_thread(connection.recv, 10) == b"hello"
            connection.sendall(b"world")
            out = (await asyncio.to_thread(read_all, ends[1])).decode()
            connection.close()
        await client.exited(launched.worker)
        close(ends[:3])
        assert "sockets 0 " in out
        assert "bind 98" in out
        assert "reply b'world'" in out

    box.drive(act)


def test_two_sandboxes_with_one_port_are_apart(box: Machine) -> None:
    """Each has its own loopback: a server of one is not there for the other."""

    async def act(client: LauncherClient) -> None:
        server = "import socket, time; s = socket.create_server(('127.0.0.1', 9090)); print('up', flush=True); time.sleep(60)"
        launched, ends = await client.launch(python_spec(server))
        assert await read_line(ends[1]) == "up\n"
        out, _ = await run_inside(
            client,
            python_spec(
                """
                import socket
                try:
                    socket.create_connection(("127.0.0.1", 9090), timeout=2); print("CONNECTED")
                except ConnectionRefusedError:
                    print("refused")
                """
            ),
        )
        await client.kill(launched.worker)
        close(ends)
        assert out == "refused\n"

    box.drive(act)


def test_nothing_of_the_start_is_in_argv_or_environment(box: Machine) -> None:
    """The environment goes by descriptor: bubblewrap's own argv, which all may read, shows none of it."""

    async def act(client: LauncherClient) -> None:
        spec = python_spec(
            "import time; print(1, flush=True); time.sleep(60)", environment=(("TOKEN", "sk-very-secret"),)
        )
        launched, ends = await client.launch(spec)
        await read_line(ends[1])
        shown = b""
        for process in Path("/proc").iterdir():
            if process.name.isdigit():
                try:
                    shown += (process / "cmdline").read_bytes()
                except OSError:
                    continue
        await client.kill(launched.worker)
        close(ends)
        assert b"bwrap\0--args" in shown
        assert b"sk-very-secret" not in shown

    box.drive(act)


def test_only_three_descriptors_reach_the_guest(box: Machine) -> None:
    out, _ = box.python("import os; print(sorted(map(int, os.listdir('/proc/self/fd'))))")
    assert out == "[0, 1, 2, 3]\n"  # 3 is the listing's own
