"""The fork start on its main path: one session, many at once, and what the launcher keeps of them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from bridgehold.errors import BridgeholdError, DeniedError, ZygoteError
from bridgehold.sandbox.launcher.control import LauncherClient
from sandbox.fork_support import Guest, Nursery
from sandbox.launcher_support import Machine, resources
from waiting import eventually


def test_a_fork_serves_in_namespaces_a_cgroup_and_a_uid_of_its_own(box: Machine) -> None:
    nursery = Nursery(box, framework="value = 41")

    async def act(client: LauncherClient) -> None:
        zygote = await nursery.zygote(client)
        worker = await nursery.fork(client, zygote)
        assert await worker.python("value = framework.value + 1") == 42
        proof = await worker.attest()
        assert proof.pid != zygote.launched.pid
        assert proof.uid not in (0, zygote.launched.uid)
        assert worker.launched.zygote == zygote.launched.worker
        assert set(worker.launched.phases_us) >= {"cgroup", "shell", "listener", "fork", "move", "join"}
        pids = await worker.python(
            "import os; value = sorted(int(n) for n in os.listdir('/proc') if n.isdigit())"
        )
        assert pids == [1, 2]  # its init, and itself
        report = await client.kill(worker.launched.worker)
        assert report.cause == "killed"
        worker.close()
        await zygote.end()

    box.drive(act)


def test_many_at_once_are_each_proved(box: Machine) -> None:
    """LimitsRequest for together and attested at once, while each one's first process may still be leaving."""
    nursery = Nursery(box)

    async def act(client: LauncherClient) -> None:
        zygote = await nursery.zygote(client)

        async def one() -> tuple[Guest, int]:
            guest = Guest(*await client.fork(zygote.launched.worker, nursery.spec()), client)
            return guest, (await guest.attest()).uid

        forked = await asyncio.gather(*(one() for _ in range(24)))
        assert len({uid for _, uid in forked}) == 24
        for guest, _ in forked:
            await guest.end()
        await zygote.end()

    box.drive(act)


def test_the_next_one_is_made_ahead_and_taken(box: Machine) -> None:
    nursery = Nursery(box)

    async def act(client: LauncherClient) -> None:
        zygote = await nursery.zygote(client)
        before = {pid for pid in descendants(box.process.pid) if command(pid) == "cat"}  # on their way out
        first = await nursery.fork(client, zygote)

        async def begun(count: int) -> set[int]:
            """Theirs, and that of the one made ahead."""

            def inits() -> set[int]:
                return {pid for pid in descendants(box.process.pid) if command(pid) == "cat"} - before

            await eventually(lambda: len(inits()) >= count)
            return inits()

        inits = await begun(2)
        second = await nursery.fork(client, zygote)
        assert second.launched.pid in inits
        inits = await begun(3)
        other = await nursery.fork(
            client, zygote, resources=resources(processes=20)
        )  # not what was made ahead
        assert other.launched.pid not in inits
        for guest in (first, second, other):
            await guest.end()
        await zygote.end()
        cats = lambda: {pid for pid in descendants(box.process.pid) if command(pid) == "cat"}  # noqa: E731
        await eventually(lambda: not cats() - before)

    box.drive(act)


def test_a_fork_sees_what_its_zygote_was_made_for_and_nothing_else(box: Machine) -> None:
    """The launcher does not trust the host that asks."""

    async def act(client: LauncherClient) -> None:
        nursery = Nursery(box)
        zygote = await nursery.zygote(client)
        spec = nursery.spec()
        for wrong in (
            nursery.spec(tenant="other"),
            nursery.spec(gateway_port=9999),
            nursery.spec(mounts=spec.mounts[:-1]),
            nursery.spec(kind="probe"),
            nursery.spec(weakenings=("pth",)),
        ):
            with pytest.raises(DeniedError):
                await client.fork(zygote.launched.worker, wrong)
        with pytest.raises(ZygoteError):
            await client.fork("w-of-nobody", spec)
        guest = await nursery.fork(client, zygote)
        with pytest.raises(BridgeholdError):
            await client.fork(guest.launched.worker, spec)
        await guest.end()
        await zygote.end()

    box.drive(act)


def test_the_end_of_a_zygote_is_the_end_of_its_sessions(box: Machine) -> None:
    async def act(client: LauncherClient) -> None:
        nursery = Nursery(box)
        zygote = await nursery.zygote(client)
        guests = [await nursery.fork(client, zygote) for _ in range(3)]
        await client.kill(zygote.launched.worker)
        for guest in guests:
            assert (await client.exited(guest.launched.worker)).cause == "zygote"
            guest.close()
        zygote.close()

    box.drive(act)


def descendants(pid: int) -> list[int]:
    try:
        found = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):  # it has ended since it was listed
        return []
    return found + [below for child in found for below in descendants(child)]


def command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""
