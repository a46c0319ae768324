"""What is granted may lie on a file system that answers slowly or never: nobody else waits for it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from bridgehold.errors import BridgeholdError
from bridgehold.sandbox.launcher.control import LauncherClient
from bridgehold.sandbox.values import Mount
from sandbox import far_files, narrow_launcher
from sandbox.fork_support import Nursery
from sandbox.launcher_support import KINDS, Machine, machine, python_spec, run_inside

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="only root mounts a file system for others")


@pytest.fixture(scope="module", params=KINDS)
def far(request: pytest.FixtureRequest) -> Iterator[tuple[Machine, subprocess.Popen[bytes]]]:
    """A launcher, and the server of what is mounted at ``far`` in its home; at ``auto`` an automounter is."""
    with (
        machine(request.param, program=(str(narrow_launcher.__file__),)) as made,
        contextlib.ExitStack() as stack,
    ):
        made.drive(lambda client: client.machine())  # it has a namespace of its own by then
        servers = []
        for name in ("far", "auto"):
            place = made.home / name
            place.mkdir()
            argv = [sys.executable, str(far_files.__file__), str(made.process.pid), str(place), name]
            server = stack.enter_context(subprocess.Popen(argv, stdout=subprocess.PIPE))
            stack.callback(server.kill)
            assert server.stdout is not None
            assert server.stdout.readline() == b"ready\n"
            servers.append(server)
        server = servers[0]
        yield made, server


async def lives(client: LauncherClient) -> None:
    """Another tenant's sandbox lives its whole life."""
    said, report = await asyncio.wait_for(
        run_inside(client, python_spec("print('here')", tenant="other")), 30
    )
    assert (said.strip(), report.cause) == ("here", "exited")


def test_a_file_system_that_stops_answering_keeps_nobody_else_waiting(
    far: tuple[Machine, subprocess.Popen[bytes]],
) -> None:
    box, server = far
    mount = Mount(kind="ro_bind", source=str(box.home / "far" / "folder"), target="/far")
    spec = python_spec("print(open('/far/hello').read())", mounts=(mount,))
    never = Mount(kind="ro_bind", source=str(box.home / "auto" / "folder"), target="/far")
    """Of an automounter: what the kernel doesn't know already is waited for aside, whoever's it is."""

    async def run(client: LauncherClient) -> None:
        said, _ = await run_inside(client, spec)
        assert said.strip() == far_files.HELLO.decode().strip()
        nursery = Nursery(box)
        mounts = (*nursery.spec().mounts, mount)
        zygote = await nursery.zygote(client, mounts=mounts)
        guest = await nursery.fork(client, zygote, mounts=mounts)
        assert await guest.python("value = open('/far/hello').read()") == far_files.HELLO.decode()
        await guest.end()
        server.send_signal(signal.SIGSTOP)
        try:
            acts = [client.launch(spec), client.launch(python_spec("", mounts=(never,)))]
            acts += [client.fork(zygote.launched.worker, nursery.spec(mounts=mounts))]
            begun = asyncio.gather(*acts, client.current(zygote.launched.worker), return_exceptions=True)
            await lives(client)
            ends = await asyncio.wait_for(begun, 60)
            await lives(client)
        finally:
            server.send_signal(signal.SIGCONT)
        for end in ends:
            assert isinstance(end, BridgeholdError), ends
            assert (end.code, "doesn't answer" in end.message) == ("unsupported", True)
        guest = await nursery.fork(client, zygote, mounts=mounts)
        assert await guest.python("value = open('/far/hello').read()") == far_files.HELLO.decode()
        await guest.end()
        await zygote.end()

    box.drive(run, 120)


def test_what_is_gone_is_told_by_the_child_that_looked(far: tuple[Machine, subprocess.Popen[bytes]]) -> None:
    box, _ = far
    gone = Mount(kind="ro_bind", source=str(box.home / "far" / "nothing"), target="/far")

    async def run(client: LauncherClient) -> None:
        with pytest.raises(BridgeholdError) as caught:
            await client.launch(python_spec("", mounts=(gone,)))
        assert (caught.value.code, "No such file" in caught.value.message) == ("denied", True)

    box.drive(run)
