"""How a forked worker ended: told by a kernel from Linux 6.15 on, and seen by its zygote's init before."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator

import pytest

from bridgehold.sandbox.launcher.control import LauncherClient
from sandbox import older_launcher
from sandbox.fork_support import Guest, Nursery
from sandbox.launcher_support import KINDS, Machine, machine


@pytest.fixture(scope="module", params=[(kind, older) for kind in KINDS for older in (False, True)])
def ends(request: pytest.FixtureRequest) -> Iterator[Machine]:
    """A launcher on this kernel, and one on which nobody tells how another's child ended."""
    kind, older = request.param
    with machine(kind, program=(str(older_launcher.__file__),) if older else ()) as made:
        yield made


ENDS = {
    "import os; os._exit(7)": ("exited", 7),
    "import sys; sys.stderr.close(); import os; os._exit(0)": ("exited", 0),
    "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)": ("signal", 11),
    "import os; os.abort()": ("signal", 6),
    "import os, threading; threading.Thread(target=os._exit, args=(9,)).start(); import time; time.sleep(60)": (
        "exited",
        9,
    ),
    "kept = [bytearray(1 << 20) for _ in range(1000)]": ("memory", 9),
}


def test_how_a_fork_ended_is_always_known(ends: Machine) -> None:
    """By itself, by a signal or for its memory, all of them in the same moment, beside siblings that go on."""

    async def ended(client: LauncherClient, guest: Guest, code: str) -> tuple[str, int]:
        with pytest.raises(EOFError):
            await guest.python(code)
        report = await client.exited(guest.launched.worker)
        guest.close()
        return report.cause, report.status

    async def act(client: LauncherClient) -> None:
        nursery = Nursery(ends)
        zygote = await nursery.zygote(client)
        stays = await nursery.fork(client, zygote)
        guests = [await nursery.fork(client, zygote) for _ in ENDS]
        found = await asyncio.gather(
            *(ended(client, guest, code) for guest, code in zip(guests, ENDS, strict=True))
        )
        assert found == list(ENDS.values())
        orphans = """
            import os, time
            for _ in range(20):
                if not os.fork():
                    if not os.fork():
                        os._exit(3)
                    os._exit(4)
                os.wait()
            value = os.getpid()
        """
        assert await stays.python(orphans) == 2
        again = await nursery.fork(client, zygote)
        assert await ended(client, again, "import os; os._exit(21)") == ("exited", 21)
        assert (await client.kill(stays.launched.worker)).cause == "killed"
        stays.close()
        last = await nursery.fork(client, zygote)
        await zygote.end()
        assert (await client.exited(last.launched.worker)).cause == "zygote"
        last.close()
        another = await nursery.zygote(client)
        last = await nursery.fork(client, another)
        os.kill(
            another.launched.pid, signal.SIGKILL
        )  # the init, which the kernel ends after all in its namespace
        assert (await client.exited(last.launched.worker)).cause == "zygote"
        last.close()
        another.close()

    ends.drive(act)


LOUD = """
import os, signal
def shout():
    for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGCHLD, signal.SIGRTMAX) * 2_000:
        os.kill(1, number)
os.register_at_fork(after_in_child=shout)
"""


def test_a_fork_that_signals_its_zygotes_init_hides_no_end(ends: Machine) -> None:
    """Each signal is a stop where the init is traced, and thousands are none of the launcher's time."""

    async def act(client: LauncherClient) -> None:
        nursery = Nursery(ends, framework=LOUD)
        zygote = await nursery.zygote(client)
        for status in (5, 6):
            guest = await nursery.fork(client, zygote)
            with pytest.raises(EOFError):
                await guest.python(f"import os; os._exit({status})")
            report = await client.exited(guest.launched.worker)
            assert (report.cause, report.status) == ("exited", status)
            guest.close()
        await zygote.end()

    ends.drive(act)
