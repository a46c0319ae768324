"""What attestation saw of a sandbox's mounts stays true, and what is read-only can't be written by any kind of file.

A test mounts as root does on a machine whose ``/`` is shared, as systemd makes it: in a mount namespace
of its own, in which the launcher runs too.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bridgehold.errors import BridgeholdError, ReplacedError, UnsupportedError
from bridgehold.sandbox.launch.mounts import parse_mounts, shown_at
from bridgehold.sandbox.launcher.control import LauncherClient
from bridgehold.sandbox.spec import with_folders
from bridgehold.sandbox.values import Mount, SandboxSpec
from sandbox.fork_support import Guest, Nursery
from sandbox.launcher_support import KINDS, Machine, machine

BELOW_USR = "/usr/local"
DEVICE = "/dev/zero"
SEEN = f"""
    import os
    lines = open('/proc/self/mountinfo').read().splitlines()
    value = [
        sorted(line.split()[4] for line in lines),
        [name for place in ({BELOW_USR!r}, '/data', '/data/sub') for name in (os.listdir(place) if os.path.isdir(place) else ())],
        len(open({DEVICE!r}, 'rb').read(3)),
    ]
"""


class Shared:
    """A mount namespace whose mounts are all shared, with nothing that flows out of it."""

    def __init__(self) -> None:
        script = "mount --make-rprivate / && mount --make-rshared / && echo up && exec sleep 600"
        self._process = subprocess.Popen(["unshare", "-m", "sh", "-c", script], stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"up\n"
        self.pid = self._process.pid

    def run(self, *argv: str) -> None:
        subprocess.run(["nsenter", f"--mount=/proc/{self.pid}/ns/mnt", "--", *argv], check=True)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture(scope="module", params=KINDS)
def shared(request: pytest.FixtureRequest) -> Iterator[tuple[Machine, Shared]]:
    if os.getuid() != 0:
        pytest.fail(
            "only root can mount as root does; run by an ordinary user, this file is left out by name"
        )
    space = Shared()
    try:
        with machine(request.param, inside=space.pid) as made:
            yield made, space
    finally:
        space.close()


def granted(nursery: Nursery, name: str) -> tuple[Path, Mount]:
    """A folder below the machine's home, open to all, and the grant of it."""
    folder = nursery.machine.home / name
    folder.mkdir()
    (folder / "sub").mkdir()
    for path in (folder, folder / "sub"):
        path.chmod(0o777)
    return folder, Mount(kind="ro_bind", source=str(folder), target="/data")


def with_grant(nursery: Nursery, mount: Mount, start: str) -> SandboxSpec:
    return nursery.spec(mounts=(*nursery.spec().mounts, mount), start=start)


async def cold(nursery: Nursery, client: LauncherClient, mount: Mount) -> Guest:
    guest = Guest(*await client.launch(with_grant(nursery, mount, "cold")), client)
    await guest.send({"type": "boot", "bridge": "test", "entry": "forkbridge:Test", "worker_id": "w"})
    assert (await guest.receive()).get("type") == "ready"
    await guest.attest()
    await guest.call("common:open", session={"id": "s", "name": "s", "tenant": "local"})
    return guest


def test_a_mount_of_the_machines_shows_in_no_running_sandbox_and_costs_none(
    shared: tuple[Machine, Shared],
) -> None:  # ABUSE 52
    box, space = shared
    nursery = Nursery(box)
    folder, mount = granted(nursery, "mounted-later")

    async def act(client: LauncherClient) -> None:
        zygote = await nursery.zygote(client, mounts=(*nursery.spec().mounts, mount))
        own = (*nursery.spec().mounts, mount)
        guests = [await cold(nursery, client, mount), await nursery.fork(client, zygote, mounts=own)]
        before = [await guest.python(SEEN) for guest in guests]
        places = (BELOW_USR, str(folder / "sub"), str(folder))
        for place in places:
            space.run("mount", "-t", "tmpfs", "-o", "mode=0777", "late", place)
            space.run("touch", f"{place}/late")
        space.run("mount", "--bind", "/etc/hostname", DEVICE)
        space.run("mount", "-t", "tmpfs", "over", "/proc/sys/fs")
        for guest, seen in zip(guests, before, strict=True):
            assert await guest.python(SEEN) == seen
            await guest.attest()
        with pytest.raises(ReplacedError):  # under the name of the grant lies something else now
            await client.fork(zygote.launched.worker, nursery.spec(mounts=own))
        space.run("umount", str(folder))
        next_fork = await nursery.fork(
            client, zygote, mounts=own
        )  # whose proof is that of its zygote's mounts
        assert await next_fork.python(SEEN) == before[1]
        space.run("mount", "-t", "tmpfs", "-o", "mode=0777", "late", str(folder))
        space.run("touch", f"{folder}/late")
        # A sandbox that begins later has what was mounted, and proves it: read-only, without devices.
        later = await cold(nursery, client, mount)
        mounts, names, zeros = await later.python(SEEN)
        assert {BELOW_USR, "/data"} <= set(mounts)
        assert names.count("late") == 2
        assert zeros == 3
        with pytest.raises(AssertionError, match="Read-only"):
            await later.python(f"open('{BELOW_USR}/late', 'w')")
        space.run("umount", DEVICE)
        for place in reversed(places):
            space.run("umount", place)
        space.run("umount", "/proc/sys/fs")
        assert (await later.python(SEEN))[:2] == [mounts, names]  # nor does what was proved go away
        for guest in (*guests, next_fork, later):
            await guest.attest()
            await guest.end()
        await zygote.end()

    box.drive(act)


@pytest.mark.parametrize("kind", ["proc", "sysfs"])
def test_what_holds_no_files_is_not_bound_with_a_grant(shared: tuple[Machine, Shared], kind: str) -> None:
    box, space = shared
    nursery = Nursery(box)
    folder, mount = granted(nursery, f"with-{kind}")
    space.run("mount", "-t", kind, "x", str(folder / "sub"))

    async def act(client: LauncherClient) -> None:
        with pytest.raises(UnsupportedError, match=f"a {kind} is mounted below"):
            await cold(nursery, client, mount)

    box.drive(act)
    space.run("umount", str(folder / "sub"))


WRITES = """
    import os, socket
    value = {}
    def attempt(name, act):
        try:
            act()
            value[name] = 'done'
        except OSError as error:
            value[name] = error.strerror
    def connect(kind, way):
        def act():
            end = socket.socket(socket.AF_UNIX, kind)
            if way == 'send':
                end.sendto(b'x', '/data/datagram')
            else:
                end.connect('/data/' + ('stream' if kind == socket.SOCK_STREAM else 'datagram'))
        return act
    for name in ('fifo', 'sub/fifo'):
        for mode in (os.O_WRONLY, os.O_RDWR):
            attempt((name, mode), lambda: os.open('/data/' + name, mode | os.O_NONBLOCK))
    attempt('truncate', lambda: os.open('/data/fifo', os.O_RDONLY | os.O_NONBLOCK | os.O_TRUNC))
    attempt('by /proc', lambda: os.open(
        f"/proc/self/fd/{os.open('/data/fifo', os.O_RDONLY | os.O_NONBLOCK)}", os.O_WRONLY | os.O_NONBLOCK))
    attempt('stream', connect(socket.SOCK_STREAM, ''))
    attempt('datagram', connect(socket.SOCK_DGRAM, ''))
    attempt('sent', connect(socket.SOCK_DGRAM, 'send'))
    attempt('chmod', lambda: os.chmod('/data/fifo', 0o600))
    attempt('touch', lambda: os.utime('/data/fifo'))
    value = {str(name): said for name, said in value.items()}
"""


@contextlib.contextmanager
def written_to(folder: Path) -> Iterator[None]:
    """FIFOs with a reader and sockets with an owner, open to everybody; nothing comes out of them."""
    with contextlib.ExitStack() as stack:
        ends = []
        for path in (folder / "fifo", folder / "sub" / "fifo"):
            os.mkfifo(path)
            path.chmod(0o666)
            ends.append(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
            stack.callback(os.close, ends[-1])
        for name, kind in (("stream", socket.SOCK_STREAM), ("datagram", socket.SOCK_DGRAM)):
            end = stack.enter_context(socket.socket(socket.AF_UNIX, kind))
            end.bind(str(folder / name))
            (folder / name).chmod(0o777)
            end.setblocking(False)
            if kind == socket.SOCK_STREAM:
                end.listen()
            stack.callback((folder / name).unlink)
        yield
        with contextlib.suppress(BlockingIOError):
            assert [os.read(end, 10) for end in ends] == [b"", b""]
        with pytest.raises(BlockingIOError):
            end.recv(10)
    for path in (folder / "fifo", folder / "sub" / "fifo"):
        path.unlink()


@pytest.mark.parametrize("start", ["cold", "fork"])
def test_a_fifo_or_socket_of_a_read_grant_is_not_written_to(box: Machine, start: str) -> None:  # ABUSE 53
    """Where the launcher can't have the kernel refuse it (an ordinary user's), the sandbox doesn't start."""
    nursery = Nursery(box)
    folder, mount = granted(nursery, f"special-{start}")

    async def begin(client: LauncherClient) -> list[Guest]:
        if start == "cold":
            return [await cold(nursery, client, mount)]
        own = (*nursery.spec().mounts, mount)
        zygote = await nursery.zygote(client, mounts=own)
        return [await nursery.fork(client, zygote, mounts=own), zygote]

    async def act(client: LauncherClient) -> None:
        guests: list[Guest] = []
        if box.kind == "root":
            guests = await begin(client)
        with written_to(folder):  # later than the start; and before the next one's
            if box.kind == "root":
                guests += await begin(client)
                for guest in (guests[0], guests[len(guests) // 2]):
                    answers = await guest.python(WRITES)
                    assert set(answers.values()) <= {"Permission denied", "Read-only file system"}, answers
                    assert len(answers) == 11
            else:
                with pytest.raises(UnsupportedError, match="a FIFO or a socket") as caught:
                    await begin(client)
                assert str(folder) in caught.value.message
        if box.kind != "root":
            (folder / "sub").chmod(0o711)  # what lies in it can be named, and not found
            with pytest.raises(UnsupportedError, match="can't be looked through"):
                await begin(client)
            (folder / "sub").chmod(0o700)  # and here it can't be named either
            guests = await begin(client)
        for guest in guests:
            with contextlib.suppress(BridgeholdError):
                await guest.end()

    box.drive(act)


@pytest.fixture(scope="module", params=KINDS)
def plain(request: pytest.FixtureRequest) -> Iterator[Machine]:
    with machine(request.param) as made:
        yield made


def test_what_its_owner_replaces_ends_nothing_that_stands(plain: Machine) -> None:
    """A file renamed over, one deleted, a folder deployed anew: as a package's installation and a deployment do."""
    nursery = Nursery(plain)
    folder, _ = granted(nursery, "deployed")
    home = plain.home
    for name in ("cache", "bundle"):
        (home / name).write_text("old")
    (folder / "release").write_text("old")
    grants = {"/data/0": home / "cache", "/data/1": folder, "/data/2": home / "bundle"}
    more = [Mount(kind="ro_bind", source=str(path), target=target) for target, path in grants.items()]
    own = with_folders((*nursery.spec().mounts, *more))
    seen = "value = [open(f'/data/{name}').read() for name in ('0', '1/release', '2')]"

    async def act(client: LauncherClient) -> None:
        zygote = await nursery.zygote(client, mounts=own)
        standing = [await nursery.fork(client, zygote, mounts=own) for _ in range(2)]
        apart = Guest(*await client.launch(nursery.spec(mounts=own, start="cold")), client)
        await apart.send({"type": "boot", "bridge": "test", "entry": "forkbridge:Test", "worker_id": "w"})
        await apart.receive()
        proof = await standing[0].attest()
        half = Guest(*await client.fork(zygote.launched.worker, nursery.spec(mounts=own)), client)
        await client.current(half.launched.worker)
        for name in ("cache", "bundle"):
            (home / "new").write_text("new")
            os.replace(home / "new", home / name)
        folder.rename(home / "deployed.old")
        folder.mkdir()
        (folder / "release").write_text("new")
        for guest in (half, apart):  # proved only now, of what was replaced meanwhile
            await guest.attest()
        assert (await standing[0].attest()).mounts_digest == proof.mounts_digest
        await apart.call("common:open", session={"id": "s", "name": "s", "tenant": "local"})
        for guest in (*standing, apart):
            assert await guest.python(seen) == ["old", "old", "old"]
            with pytest.raises(ReplacedError) as caught:
                await client.current(guest.launched.worker)
            assert caught.value.where == str(home / "cache")
        with pytest.raises(ReplacedError):
            await client.fork(zygote.launched.worker, nursery.spec(mounts=own))
        fresh = await nursery.zygote(client, mounts=own)
        later = await nursery.fork(client, fresh, mounts=own)
        assert await later.python(seen) == ["new", "new", "new"]
        (home / "bundle").unlink()
        with pytest.raises(ReplacedError):
            await client.fork(fresh.launched.worker, nursery.spec(mounts=own))
        for guest in (*standing, apart, later, half):
            await guest.attest()
        for guest in (half, *standing, apart, later, fresh, zygote):
            await guest.end()

    plain.drive(act)


def test_what_is_not_what_was_staged_is_no_renamed_one(plain: Machine) -> None:
    """A name of mountinfo is forgiven for the very file alone, in the very mount."""
    nursery = Nursery(plain)
    folder, mount = granted(nursery, "looked-at")

    async def act(client: LauncherClient) -> None:
        guest = await cold(nursery, client, mount)
        pid = (await guest.attest()).pid
        seen = parse_mounts(Path(f"/proc/{pid}/mountinfo").read_text())["/data"]
        known = folder.stat()
        own = (known.st_dev, known.st_ino)
        assert shown_at(pid, "/data", seen.number) == own
        assert shown_at(pid, "/data", seen.number + 1) is None
        assert shown_at(pid, "/data/sub", seen.number) != own
        assert shown_at(pid, "/data/none", seen.number) is None
        await guest.python("import os; os.symlink('/data', '/tmp/link'); os.symlink('/etc', '/tmp/away')")
        assert shown_at(pid, "/tmp/link", seen.number) is None
        assert shown_at(pid, "/tmp/away", seen.number) is None
        await guest.end()

    plain.drive(act)
