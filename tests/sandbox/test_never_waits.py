"""The launcher waits for none of its helpers: another tenant's start goes on beside each that dawdles."""

from __future__ import annotations

import asyncio
import contextlib
import mmap
import os
import tempfile
from collections.abc import Awaitable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bridgehold.sandbox import procfs
from bridgehold.sandbox.launcher.control import LauncherClient
from sandbox import dawdling_launcher
from sandbox.dawdling_launcher import ASIDE, LEAVING, PAGE, SHELL, TEMPLATE
from sandbox.fork_support import Guest, Nursery
from sandbox.launcher_support import KINDS, Machine, close, machine, python_spec, run_inside
from waiting import eventually, until


@pytest.fixture(scope="module", params=KINDS)
def slow(request: pytest.FixtureRequest) -> Iterator[tuple[Machine, mmap.mmap]]:
    with dawdler(request.param) as made:
        yield made


@contextlib.contextmanager
def dawdler(kind: str, cgroup: str = "auto") -> Iterator[tuple[Machine, mmap.mmap]]:
    with tempfile.TemporaryDirectory(prefix="bh-slow-") as place:
        Path(place).chmod(0o755)
        path = Path(place, "page")
        path.write_bytes(bytes(PAGE))
        path.chmod(0o666)
        with path.open("r+b") as file:
            page = mmap.mmap(file.fileno(), PAGE)
        with machine(kind, program=(str(dawdling_launcher.__file__), str(path)), cgroup=cgroup) as made:
            made.drive(lambda client: client.machine())  # it may wait while it is being set up
            yield made, page


async def dawdling(page: mmap.mmap, kind: int) -> None:
    """Until one of the kind does."""
    await eventually(lambda: page[kind])


async def beside(client: LauncherClient, act: Awaitable[Any], page: mmap.mmap, kind: int) -> Any:
    """What `act` comes to, after a helper of it was kept and another tenant's sandbox lived its whole life."""
    page[kind], page[0] = 0, kind
    begun = asyncio.ensure_future(act)
    try:
        await asyncio.wait_for(dawdling(page, kind), 30)
        said, report = await asyncio.wait_for(
            run_inside(client, python_spec("print('here')", tenant="other")), 30
        )
        assert (said.strip(), report.cause) == ("here", "exited")
        assert kind == LEAVING or not begun.done()
    finally:
        page[0] = 0
    return await begun


@pytest.mark.parametrize("kind", [SHELL, LEAVING])
def test_a_fork_whose_helper_dawdles_keeps_nobody_else_waiting(
    slow: tuple[Machine, mmap.mmap], kind: int
) -> None:
    box, page = slow

    async def run(client: LauncherClient) -> None:
        nursery = Nursery(box)
        zygote = await nursery.zygote(client)
        forked = client.fork(zygote.launched.worker, nursery.spec())
        guest = Guest(*await beside(client, forked, page, kind), client)
        await guest.end()
        await zygote.end()
        assert no_zombie(box)

    box.drive(run)


def test_a_fork_that_is_given_up_is_ended_without_a_wait_for_its_helper(
    slow: tuple[Machine, mmap.mmap],
) -> None:
    box, page = slow

    async def run(client: LauncherClient) -> None:
        nursery = Nursery(box)
        zygote = await nursery.zygote(client)
        page[SHELL], page[0] = 0, SHELL
        begun = asyncio.ensure_future(client.fork(zygote.launched.worker, nursery.spec()))
        try:
            await asyncio.wait_for(dawdling(page, SHELL), 30)
            await asyncio.wait_for(client.kill(zygote.launched.worker), 30)
            failure = (await asyncio.gather(begun, return_exceptions=True))[0]
        finally:
            page[0] = 0
        assert getattr(failure, "code", "") == "zygote"
        zygote.close()
        assert no_zombie(box)

    box.drive(run)


def test_a_zygote_whose_mounts_are_taken_slowly_keeps_nobody_else_waiting(
    slow: tuple[Machine, mmap.mmap],
) -> None:
    box, page = slow

    async def run(client: LauncherClient) -> None:
        nursery = Nursery(box)
        zygote = await nursery.zygote(client, attest=False)
        proof = await beside(client, zygote.attest(), page, TEMPLATE)
        assert not proof.differences
        guest = await nursery.fork(client, zygote)  # it can be forked from
        assert await guest.python("value = 3") == 3
        await guest.end()
        await zygote.end()
        doomed = await nursery.zygote(client, attest=False)
        page[TEMPLATE], page[0] = 0, TEMPLATE
        begun = asyncio.ensure_future(doomed.attest())
        try:
            await asyncio.wait_for(dawdling(page, TEMPLATE), 30)
            await asyncio.wait_for(doomed.end(), 30)
            assert isinstance((await asyncio.gather(begun, return_exceptions=True))[0], Exception)
        finally:
            page[0] = 0
        assert no_zombie(box)

    box.drive(run)


def test_a_tree_that_is_sealed_keeps_nobody_waiting_for_who_did_it(slow: tuple[Machine, mmap.mmap]) -> None:
    box, page = slow

    async def run(client: LauncherClient) -> None:
        tree = box.builds / "tree"
        tree.mkdir(mode=0o755)
        os.chown(tree, box.owner, box.owner)
        report = await beside(client, client.seal(str(tree)), page, LEAVING)
        assert report.files == 0
        assert no_zombie(box)

    box.drive(run)


BOMB = """
import os, time
for _ in range(3):
    if os.fork() == 0:
        break
kept = b"x" * (100 << 20)
time.sleep(600)
"""


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_cgroup_a_look_that_takes_long_keeps_nobody_waiting(kind: str) -> None:
    async def run(client: LauncherClient, page: mmap.mmap) -> None:
        page[0] = ASIDE
        launched, ends = await client.launch(python_spec(BOMB))
        try:
            await asyncio.wait_for(dawdling(page, ASIDE), 30)
            said, report = await asyncio.wait_for(run_inside(client, python_spec("print('here')")), 30)
            assert (said.strip(), report.cause) == ("here", "exited")
            await client.usage(launched.worker)
        finally:
            page[0] = 0
        report = await asyncio.wait_for(client.exited(launched.worker), 30)
        assert (report.cause, report.usage.oom_kills) == ("memory", 1)
        close(ends)

    with dawdler(kind, "none") as (box, page):
        box.drive(lambda client: run(client, page), 90)
        assert no_zombie(box)


def no_zombie(box: Machine) -> bool:
    """Whether everything that ended is reaped, in the end."""
    return until(lambda: not any(map(zombie, procfs.children(box.process.pid))))


def zombie(pid: int) -> bool:
    try:
        return procfs.stat(pid)[0] == "Z"
    except OSError:  # it is gone
        return False
