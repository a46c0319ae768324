"""A real launcher process, as root or as an ordinary user, and what tests do with it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import socket
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from bridgehold.sandbox.launcher.control import LauncherClient
from bridgehold.sandbox.launcher.given import LauncherConfig
from bridgehold.sandbox.values import ExitReport, Launched, Mount, Resources, SandboxSpec

T = TypeVar("T")
MIB = 1 << 20
USER = "bhtest"
PYTHON = Path(sys.executable).resolve()
KINDS = ["root", "user"] if os.getuid() == 0 else ["self"]
_HIERARCHIES = ("memory", "pids", "cpu", "cpuacct", "freezer")


@dataclass
class Machine:
    """One launcher process. `folder` holds its builds, its uids and a home of mode 0700."""

    kind: str
    folder: Path
    config: LauncherConfig
    process: subprocess.Popen[bytes]
    control: socket.socket

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def builds(self) -> Path:
        return self.folder / "builds"

    @property
    def owner(self) -> int:
        return self.folder.stat().st_uid

    def drive(self, act: Callable[[LauncherClient], Awaitable[T]], seconds: float = 60) -> T:
        """Run `act` with a client of its own; the launcher outlives it."""

        async def main() -> T:
            client = await LauncherClient.connect(self.control.dup())
            try:
                return await asyncio.wait_for(act(client), seconds)
            finally:
                client.close()

        return asyncio.run(main())

    def python(self, code: str, **changes: Any) -> tuple[str, ExitReport]:
        """Run `code` in a sandbox of its own; what it printed (log included), and how it ended."""

        async def act(client: LauncherClient) -> tuple[str, ExitReport]:
            return await run_inside(client, python_spec(code, **changes))

        return self.drive(act)


async def run_inside(client: LauncherClient, spec: SandboxSpec) -> tuple[str, ExitReport]:
    launched, ends = await client.launch(spec)
    try:
        out, log = await asyncio.gather(*(asyncio.to_thread(read_all, end) for end in ends[1:3]))
        report = await client.exited(launched.worker)
    finally:
        close(ends)
    return (out + log).decode(errors="replace"), report


async def read_line(end: int) -> str:
    return (await asyncio.to_thread(os.read, end, 4096)).decode()


def read_all(descriptor: int) -> bytes:
    data = b""
    while part := os.read(descriptor, 65536):
        data += part
    return data


def close(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def resources(**changes: int) -> Resources:
    base = {
        "memory_bytes": 192 * MIB,
        "cpu_millis": 2000,
        "processes": 48,
        "open_files": 256,
        "file_size_bytes": 64 * MIB,
    }
    return Resources(**(base | changes))


def system_mounts() -> tuple[Mount, ...]:
    links = [name for name in ("bin", "lib", "lib64") if Path("/", name).is_symlink()]
    binds = [] if PYTHON.is_relative_to("/usr") else [sys.base_prefix]
    return (
        Mount(kind="proc", target="/proc"),
        Mount(kind="dev", target="/dev"),
        Mount(kind="ro_bind", source="/usr", target="/usr"),
        *(Mount(kind="symlink", source=os.readlink(f"/{name}"), target=f"/{name}") for name in links),
        *(Mount(kind="ro_bind", source=path, target=path) for path in binds),
        Mount(kind="file", target="/etc/passwd", content="root:x:0:0::/:/bin/false\n"),
        Mount(kind="tmpfs", target="/scratch", size_bytes=16 * MIB, mode=0o700),
        Mount(kind="tmpfs", target="/tmp", size_bytes=16 * MIB, mode=0o1777),
        Mount(kind="tmpfs", target="/dev/shm", size_bytes=8 * MIB, mode=0o1777),
    )


def python_spec(code: str, *, mounts: tuple[Mount, ...] = (), **changes: Any) -> SandboxSpec:
    limits = changes.pop("limits", {})
    base: dict[str, Any] = {
        "tenant": "local",
        "bridge": "test",
        "argv": (str(PYTHON), "-I", "-S", "-B", "-c", textwrap.dedent(code)),
        "environment": (("HOME", "/scratch"), ("PATH", "/usr/bin:/bin")),
        "mounts": (*system_mounts(), *mounts),
        "resources": resources(**limits),
        "working_directory": "/scratch",
    }
    return SandboxSpec(**(base | changes))


@contextlib.contextmanager
def machine(
    kind: str,
    *,
    inside: int = 0,
    program: tuple[str, ...] = (),
    cgroup: str = "auto",
    journal: socket.socket | None = None,
) -> Iterator[Machine]:
    """A launcher of `kind`: ``root``, ``user`` (another account, from root), ``self``.

    `inside`: a process whose mount namespace it is to begin in. `program`: what is run in its place.
    `cgroup`: as its configuration says it; "auto": a sub-tree that belongs to the account. `journal`: its end
    of a channel to one, closed here; without it nothing is recorded.
    """
    with contextlib.ExitStack() as stack:
        entry = account() if kind == "user" else pwd.getpwuid(os.getuid())
        place = stack.enter_context(tempfile.TemporaryDirectory(prefix="bh-launcher-"))
        folder = Path(place)
        folder.chmod(0o755)
        for name, mode in (("builds", 0o711), ("uids", 0o700), ("home", 0o700)):
            (folder / name).mkdir()
            (folder / name).chmod(mode)
            os.chown(folder / name, entry.pw_uid, entry.pw_gid)
        os.chown(folder, entry.pw_uid, entry.pw_gid)
        if kind == "user" and cgroup == "auto":
            cgroup = stack.enter_context(delegated(entry))
        config = LauncherConfig(
            unrecorded=journal is None,
            read_roots=(str(folder / "home"), sys.base_prefix),
            build_root=str(folder / "builds"),
            uid_folder=str(folder / "uids"),
            uid_first=0x79000000 + 1000 * (os.getpid() % 10_000),  # nobody else's
            uid_count=1000,
            reserve_bytes=256 * MIB,
            cgroup=cgroup,
        )
        process, control = start(
            config, entry if kind == "user" else None, inside=inside, program=program, journal=journal
        )
        made = Machine(kind=kind, folder=folder, config=config, process=process, control=control)
        try:
            yield made
        finally:
            made.control.close()
            try:
                made.process.wait(30)
            except subprocess.TimeoutExpired:
                made.process.kill()
                made.process.wait()


def start(
    config: LauncherConfig,
    entry: pwd.struct_passwd | None = None,
    *,
    inside: int = 0,
    program: tuple[str, ...] = (),
    journal: socket.socket | None = None,
) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """The launcher as the supervisor starts it: control socket and configuration by descriptor."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    identity: dict[str, Any] = (
        {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []} if entry else {}
    )
    with tempfile.TemporaryFile() as file:
        file.write(msgspec.json.encode(config))
        file.seek(0)
        argv = [sys.executable, *(program or ("-m", "bridgehold.sandbox.launcher.main"))]
        argv += ["--fd-control", str(theirs.fileno()), "--fd-config", str(file.fileno())]
        given = [theirs.fileno(), file.fileno()]
        if journal is not None:
            argv += ["--fd-journal", str(journal.fileno())]
            given.append(journal.fileno())
        if inside:
            who = ["-S", str(entry.pw_uid), "-G", str(entry.pw_gid)] if entry else []
            argv = ["nsenter", f"--mount=/proc/{inside}/ns/mnt", *who, "--", *argv]
            identity = {}
        process = subprocess.Popen(argv, pass_fds=given, stdin=subprocess.DEVNULL, cwd="/", **identity)
    theirs.close()
    if journal is not None:
        journal.close()
    return process, ours


def account() -> pwd.struct_passwd:
    """The ordinary user of these tests, with a subordinate range; made where it is missing."""
    try:
        entry = pwd.getpwnam(USER)
    except KeyError:
        subprocess.run(["useradd", "--no-create-home", "--user-group", USER], check=True)
        entry = pwd.getpwnam(USER)
    for table in (Path("/etc/subuid"), Path("/etc/subgid")):
        if f"{USER}:" not in table.read_text():
            with table.open("a") as file:
                file.write(f"{USER}:400000:65536\n")
    return entry


@contextlib.contextmanager
def delegated(entry: pwd.struct_passwd) -> Iterator[str]:
    """A cgroup v1 sub-tree that belongs to `entry`, or whatever the launcher finds by itself (v2)."""
    name = f"bridgehold-launcher-test-{os.getpid()}"
    made = []
    for hierarchy in _HIERARCHIES:
        mount = Path("/sys/fs/cgroup", hierarchy)
        if (mount / "cgroup.procs").exists():
            folder = mount / name
            folder.mkdir(exist_ok=True)
            for path in (folder, *folder.iterdir()):
                os.chown(path, entry.pw_uid, entry.pw_gid)
            made.append(folder)
    try:
        yield f"v1:/{name}" if made else "auto"
    finally:
        for folder in made:
            for inner in sorted(folder.glob("**/"), key=lambda path: -len(path.parts)):
                with contextlib.suppress(OSError):
                    inner.rmdir()


def sandboxed(launched: Launched) -> list[int]:
    """Pids on this machine that run under the session's kernel uid."""
    return of_uid(kernel_uid(launched))


def of_uid(uid: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if entry.stat().st_uid == uid:
                    found.append(int(entry.name))
    return found


def kernel_uid(launched: Launched) -> int:
    """The session's uid as this (outer) namespace numbers it, from /proc of its init."""
    status = Path(f"/proc/{launched.pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("Uid:")).split()[1])
