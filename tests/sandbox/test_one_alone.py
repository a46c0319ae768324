"""What goes wrong with one session, whatever it is, ends that one: the launcher and the others go on."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from bridgehold.errors import BridgeholdError
from bridgehold.sandbox.launcher.control import LauncherClient
from sandbox import blind_launcher
from sandbox.fork_support import Nursery
from sandbox.launcher_support import KINDS, Machine, close, machine, python_spec, read_line, run_inside

PARTS = (
    "/status",
    "/stat",
    "/cgroup",
    "/mountinfo",
    "/limits",
    "/task/",
    "cgroup.procs",
    "memory.",
    "cpu",
    "locks",
    "/net/",
)
WAITING = "import os\nprint('up', flush=True)\nos.read(0, 1)"


@pytest.fixture(scope="module", params=KINDS)
def blind(request: pytest.FixtureRequest) -> Iterator[tuple[Machine, Path]]:
    with tempfile.TemporaryDirectory(prefix="bh-blind-") as place:
        Path(place).chmod(0o755)
        told = Path(place, "told")
        told.touch(mode=0o644)
        with machine(request.param, program=(str(blind_launcher.__file__), str(told))) as made:
            made.drive(lambda client: client.machine())
            yield made, told


async def lives(client: LauncherClient) -> None:
    said, report = await asyncio.wait_for(
        run_inside(client, python_spec("print('here')", tenant="other")), 30
    )
    assert (said.strip(), report.cause) == ("here", "exited")


def test_a_start_that_meets_an_error_of_any_read_fails_alone(blind: tuple[Machine, Path]) -> None:
    box, told = blind

    async def run(client: LauncherClient) -> None:
        launched, ends = await client.launch(python_spec(WAITING))
        assert await read_line(ends[1]) == "up\n"
        for part in PARTS:
            told.write_text(part)
            try:
                begun = asyncio.gather(client.launch(python_spec(WAITING)), return_exceptions=True)
                await asyncio.wait([begun], timeout=1)
                await client.machine()
            finally:
                told.write_text("")
            (end,) = await asyncio.wait_for(begun, 60)
            if isinstance(end, BaseException):
                assert isinstance(end, BridgeholdError), part
            else:
                await asyncio.wait_for(client.kill(end[0].worker), 30)
                close(end[1])
        await lives(client)
        assert (await client.usage(launched.worker)).processes > 0
        await client.kill(launched.worker)
        close(ends)

    box.drive(run, 120)


def test_an_end_that_can_not_be_told_waits_and_keeps_nobody(blind: tuple[Machine, Path]) -> None:
    box, told = blind

    async def run(client: LauncherClient) -> None:
        nursery = Nursery(box)
        zygote = await nursery.zygote(client)
        fork = await nursery.fork(client, zygote)
        cold, ends = await client.launch(python_spec(WAITING))
        for worker in (cold.worker, fork.launched.worker):
            told.write_text(worker)
            try:
                killing = asyncio.ensure_future(client.kill(worker))
                await lives(client)
            finally:
                told.write_text("")
            assert (await asyncio.wait_for(killing, 30)).cause in ("killed", "launcher")
        fork.close()
        close(ends)
        other = await nursery.fork(client, zygote)  # its zygote was nobody's to blame
        assert await other.python("value = 3") == 3
        await other.end()
        await zygote.end()

    box.drive(run, 120)
