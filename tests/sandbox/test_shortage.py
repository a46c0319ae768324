"""A machine that is short of something, at each step of each start: typed, and nobody else's trouble. (ABUSE 50)"""

from __future__ import annotations

import asyncio
import contextlib
import mmap
import os
import resource
import socket
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from bridgehold.errors import LimitError, ShortageError, ZygoteError
from bridgehold.sandbox.launcher import room
from bridgehold.sandbox.launcher.control import LauncherClient
from bridgehold.sandbox.limits import shortage
from sandbox import faulty_launcher
from sandbox.fork_support import Guest, Nursery
from sandbox.launcher_support import KINDS, Machine, machine, python_spec, read_line
from waiting import eventually

STARTS = ["cold", "fork", "zygote"]
MOST_STEPS = 600
WHOLE = 3
"""So many starts in a row that met no fault: there are no more steps."""
KINDS_OF_STEPS, FAILED_STARTS = 3, 10
"""In each quarter, at the least: most see thirty of a dozen kinds, and of a zygote's own few sixteen of four."""
Beginning = Callable[[], Awaitable[Guest]]


class Kernel:
    """The page by which a step of the launcher's is made to fail."""

    def __init__(self, path: Path) -> None:
        path.write_bytes(bytes(faulty_launcher.PAGE))
        path.chmod(0o666)
        with path.open("r+b") as file:
            self._page = mmap.mmap(file.fileno(), faulty_launcher.PAGE)

    def fail(self, step: int) -> int:
        """From now on, the `step`th is to fail; the one that was to before."""
        before = int(faulty_launcher.HEAD.unpack_from(self._page)[0])
        faulty_launcher.HEAD.pack_into(self._page, 0, step, 0, 0, b"")
        return before

    def rest(self) -> None:
        """No step fails any more; what failed so far is kept."""
        _, made, count, name = faulty_launcher.HEAD.unpack_from(self._page)
        faulty_launcher.HEAD.pack_into(self._page, 0, 0, made, count, name)

    def failed(self) -> str:
        """The name of the step that failed since; empty: none did."""
        _, _, count, name = faulty_launcher.HEAD.unpack_from(self._page)
        return name.rstrip(b"\0").decode() if count else ""


@pytest.fixture(scope="module", params=KINDS)
def short(request: pytest.FixtureRequest) -> Iterator[tuple[Machine, Kernel]]:
    with tempfile.TemporaryDirectory(prefix="bh-short-") as place:
        Path(place).chmod(0o755)
        page = Path(place, "page")
        kernel = Kernel(page)
        with machine(request.param, program=(str(faulty_launcher.__file__), str(page))) as made:
            yield made, kernel


@pytest.fixture(scope="module")
def bare() -> Iterator[Machine]:
    """Of one kind: another account's limits are not this one's to set, where root lacks a capability."""
    with machine(KINDS[0]) as made:
        yield made


class Scene:
    """A zygote with a session, and another tenant's: what no start's failure may touch."""

    def __init__(self, box: Machine, client: LauncherClient, kernel: Kernel | None = None) -> None:
        self.box, self.client = box, client
        self.kernel = kernel
        self.own = Nursery(box)
        self.other = Nursery(box, tenant="other")

    async def open(self) -> None:
        self.zygotes = [await nursery.zygote(self.client) for nursery in (self.own, self.other)]
        self.guests = [
            await nursery.fork(self.client, zygote)
            for nursery, zygote in zip((self.own, self.other), self.zygotes, strict=True)
        ]
        await asyncio.sleep(0.1)  # for the spare that is made ahead

    def begin(self, start: str) -> Beginning:
        async def cold() -> Guest:
            code = "import time; print('up', flush=True); time.sleep(60)"
            guest = Guest(*await self.client.launch(python_spec(code, gateway_port=8080)), self.client)
            await read_line(guest.ends[1])
            return guest

        async def fork() -> Guest:
            spec = self.own.spec()
            return Guest(*await self.client.fork(self.zygotes[0].launched.worker, spec), self.client)

        async def zygote() -> Guest:
            """Up to its proof, as a cold start; what is its own begins there."""
            if self.kernel is None:
                return await self.own.zygote(self.client, attest=False)
            step = self.kernel.fail(0)
            guest = await self.own.zygote(self.client, attest=False)
            self.kernel.fail(step)
            return guest

        return {"cold": cold, "fork": fork, "zygote": zygote}[start]

    async def all_is_well(self) -> None:
        for number, guest in enumerate(self.guests):
            assert await guest.python(f"value = {number}") == number
        for zygote in self.zygotes:  # what a failed fork has left is cleared away
            await eventually(partial(self._is_alone, zygote))

    async def _is_alone(self, zygote: Guest) -> bool:
        return (await self.client.usage(zygote.launched.worker)).processes == 3

    async def close(self) -> None:
        for guest in (*self.guests, *self.zygotes):
            await guest.end()


async def attempt(begin: Beginning, proved: Callable[[], None] = lambda: None) -> bool:
    """One start to its proof, and its end; whether it came to that. What fails is a shortage."""
    guest = None
    try:
        guest = await begin()
        await guest.attest()
        proved()
    except ShortageError as error:
        assert error.retry == "later"
        return False
    finally:
        if guest is not None:
            await end(guest)
    return True


def told_ends(client: LauncherClient) -> list[str]:
    """What the launcher has said of each worker's end."""
    return [str(known.result()) for known in client._exits.values() if known.done()]


async def end(guest: Guest) -> None:
    try:
        await guest.client.kill(guest.launched.worker)
    finally:
        guest.close()


@pytest.mark.parametrize("half", [0, 1])
@pytest.mark.parametrize("start", STARTS)
def test_a_step_that_fails_is_a_shortage_and_ends_nothing_else(
    short: tuple[Machine, Kernel], start: str, half: int
) -> None:
    """Each step of a start and of its end, in the launcher and in its helpers, fails once, as the kernel has it.

    (The launchers of two kinds take turns.)
    """
    box, kernel = short

    async def act(client: LauncherClient) -> None:
        scene = Scene(box, client, kernel)
        await scene.open()
        begin = scene.begin(start)
        failed: dict[str, int] = {}
        whole = 0
        for step in range(1 + half + 2 * KINDS.index(box.kind), MOST_STEPS, 2 * len(KINDS)):
            kernel.fail(step)
            try:
                came = await attempt(begin, kernel.rest if start == "zygote" else lambda: None)
            except ZygoteError as error:
                pytest.fail(f"{error} at step {step}, {kernel.failed()}: {told_ends(client)}, {failed}")
            name = kernel.failed()
            kernel.fail(0)
            whole = whole + 1 if came and not name else 0
            if whole == WHOLE:
                break
            if not name:
                continue  # or what was made ahead had met the fault of the round before
            failed[name] = failed.get(name, 0) + (not came)
            if len(failed) % 4 == 0:
                await scene.all_is_well()
        else:
            pytest.fail(f"more than {MOST_STEPS} steps: {failed}")
        await scene.all_is_well()
        assert len(failed) >= KINDS_OF_STEPS, failed
        assert sum(failed.values()) >= FAILED_STARTS, failed  # what the loop does over ends nothing
        assert await attempt(begin)
        await scene.close()

    box.drive(act, 120)


def test_a_launcher_that_can_wait_for_nothing_asks_its_host_all_the_same(
    short: tuple[Machine, Kernel],
) -> None:
    box, kernel = short

    async def act(client: LauncherClient) -> None:
        scene = Scene(box, client, kernel)
        await scene.open()
        try:
            for failing in (faulty_launcher.MUTE, faulty_launcher.DEAF):
                kernel.fail(failing)
                for guest in scene.guests:
                    assert (await client.usage(guest.launched.worker)).processes
            for start in STARTS:
                assert await attempt(scene.begin(start), lambda: kernel.fail(faulty_launcher.DEAF))
        finally:
            kernel.fail(0)
        await scene.all_is_well()
        await scene.close()

    box.drive(act, 60)


ENTERING = """
import socket, sys
end = socket.socket(fileno=int(sys.argv[1]))
end.send(b'{"type":"enter","id":1}')
end.recv(4096)
print("answered", flush=True)
sys.stdin.read()
"""


async def play_cell(host: LauncherClient, number: int) -> None:
    """A cell that begins, enters its cgroup, and is killed: what can't be opened or entered is typed."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        with contextlib.suppress(ShortageError):
            await host.open_cell(f"c{os.getpid()}-{number}", "acme", theirs)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-S", "-E", "-c", ENTERING, str(ours.fileno())),
            pass_fds=[ours.fileno()],
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
    assert process.stdout is not None
    await process.stdout.readline()
    process.kill()
    await process.wait()


def test_a_cell_that_comes_and_goes_amid_a_shortage_ends_nobody_else(short: tuple[Machine, Kernel]) -> None:
    box, kernel = short

    async def act(client: LauncherClient) -> None:
        code = "import time; print('up', flush=True); time.sleep(60)"
        victim = Guest(*await client.launch(python_spec(code, tenant="victim")), client)
        await read_line(victim.ends[1])
        failed: set[str] = set()
        for step in range(1 + KINDS.index(box.kind), MOST_STEPS, len(KINDS)):
            kernel.fail(step)
            await play_cell(client, step)
            with contextlib.suppress(ShortageError):  # which is heard after the cell's end
                await client.usage(victim.launched.worker)
            name = kernel.failed()
            kernel.fail(0)
            assert (await client.usage(victim.launched.worker)).processes
            if not name:
                break
            failed.add(name)
        assert failed
        await eventually(lambda: not left_of_cells())
        await end(victim)

    box.drive(act, 120)


def left_of_cells() -> list[str]:
    """By a walk that others may change meanwhile: their own folders come and go."""
    found = (folder for _, folders, _ in os.walk("/sys/fs/cgroup") for folder in folders)
    return [folder for folder in found if folder.startswith(f"c{os.getpid()}-")]


@pytest.mark.parametrize("start", ["cold", "fork"])
def test_a_launcher_without_descriptors_ends_nothing(bare: Machine, start: str) -> None:
    """For real: room for none, one, two … more descriptors, until a start finds enough."""
    pid, box = bare.process.pid, bare

    async def act(client: LauncherClient) -> None:
        scene = Scene(box, client)
        await scene.open()
        begin = scene.begin(start)
        usual = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        held = len(os.listdir(f"/proc/{pid}/fd"))

        async def starts(patience: float) -> list[bool]:
            outcomes: list[bool] = []
            for spared in range(40):
                resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit(pid, spared), usual[1]))
                try:
                    trial = asyncio.ensure_future(attempt(begin))
                    await asyncio.wait(
                        [trial], timeout=patience
                    )  # what can't even end for want of them waits
                finally:
                    resource.prlimit(pid, resource.RLIMIT_NOFILE, usual)
                outcomes.append(await trial)
                if len(outcomes) > 5 and all(outcomes[-3:]):
                    break
            return outcomes

        outcomes = await starts(0.3)
        if all(outcomes):  # a busy machine had not come to any step that takes one
            outcomes = await starts(5)
        await scene.all_is_well()
        assert outcomes[-1] and not all(outcomes)  # noqa: PT018 - one statement about them
        await eventually(lambda: len(os.listdir(f"/proc/{pid}/fd")) <= held + 8)  # a spare's, perhaps
        await scene.close()

    box.drive(act, 120)


@pytest.fixture(scope="module")
def few() -> Iterator[Machine]:
    """A launcher that may have no more descriptors than a few sandboxes take."""
    most = room.KEPT + 4 * room.STARTING + 5 * room.RUNNING
    with machine(KINDS[0], program=("-c", FEW.format(most=most), "launcher")) as made:
        yield made


FEW = """
import resource, runpy, sys
resource.setrlimit(resource.RLIMIT_NOFILE, ({most}, {most}))
sys.argv.pop(1)
runpy.run_module("bridgehold.sandbox.launcher.main", run_name="__main__")
"""


def test_the_launcher_s_own_descriptors_are_counted_before_they_are_taken(few: Machine) -> None:
    """Sessions of anybody up to the launcher's own limit: what is beyond is refused, and what runs goes on."""
    pid = few.process.pid
    held: list[Guest] = []

    async def act(client: LauncherClient) -> None:
        scene = Scene(few, client)
        await scene.open()  # two zygotes, and a session of each
        with pytest.raises(ShortageError, match="open files") as caught:
            await many(scene)
        assert caught.value.retry == "later"
        most = resource.prlimit(pid, resource.RLIMIT_NOFILE)[0]
        assert len(os.listdir(f"/proc/{pid}/fd")) < most - room.KEPT // 2
        for guest in held:
            await guest.end()
        await scene.all_is_well()
        await eventually(lambda: started(scene))
        await scene.close()

    async def many(scene: Scene) -> None:
        while len(held) < 20:
            held.append(await scene.begin(("cold", "fork")[len(held) % 2])())

    async def started(scene: Scene) -> bool:
        return await attempt(scene.begin("fork"))

    few.drive(act)


MANY = """
import os, time
for _ in range(40):
    if os.fork() == 0:
        time.sleep(60)
print("up", flush=True)
time.sleep(60)
"""


def test_a_session_of_more_processes_than_the_launcher_has_descriptors_left_ends(bare: Machine) -> None:
    pid = bare.process.pid

    async def act(client: LauncherClient) -> None:
        other = Guest(
            *await client.launch(python_spec("import time; time.sleep(60)", tenant="other")), client
        )
        many = Guest(*await client.launch(python_spec(MANY)), client)
        await read_line(many.ends[1])
        usual = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        assert usual[0] == usual[1], "all that it may have"
        held = len(os.listdir(f"/proc/{pid}/fd"))
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit(pid, 4), usual[1]))
        try:
            await end(many)
            assert (await client.usage(other.launched.worker)).processes == 3
        finally:
            resource.prlimit(pid, resource.RLIMIT_NOFILE, usual)
        assert len(os.listdir(f"/proc/{pid}/fd")) < held
        await end(other)

    bare.drive(act)


def limit(pid: int, room: int) -> int:
    """The limit of open files below which `room` numbers are free."""
    used = {int(name) for name in os.listdir(f"/proc/{pid}/fd")}
    number = 0
    while room or number in used:
        room -= number not in used
        number += 1
    return number


def test_a_limit_of_its_own_is_no_shortage(box: Machine) -> None:
    async def act(client: LauncherClient) -> None:
        with pytest.raises(LimitError, match="a limit of 1 processes"):
            await client.launch(python_spec("pass", limits={"processes": 1}))

    box.drive(act)


def test_a_shortage_is_known_by_its_number_wherever_it_stands() -> None:
    for number in shortage.SHORT_OF:
        error = LimitError("a step failed")
        error.__cause__ = OSError(number, os.strerror(number))
        assert isinstance(shortage.typed(error), ShortageError)
        assert isinstance(
            shortage.decode_failure(shortage.encode_failure(error, "a helper"), "?"), ShortageError
        )
        assert shortage.named(f"bwrap: Creating new namespace failed: {os.strerror(number)}\n") == number
    assert isinstance(shortage.typed(MemoryError()), ShortageError)
    for other in (PermissionError(1, "no"), FileNotFoundError(2, "no"), ValueError("no"), RuntimeError("no")):
        assert not isinstance(shortage.typed(other), ShortageError)
        assert not isinstance(
            shortage.decode_failure(shortage.encode_failure(other, "a helper"), "?"), ShortageError
        )
    assert shortage.named("bwrap: Can't find source path: No such file or directory") == 0
    assert shortage.decode_failure(b"rubbish", "it died").message == "it died"
